"""What an adapter in closed form promises of its solution."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from coreframe.backend import library_of, to_numpy
from coreframe.errors import CoreframeError
from coreframe.random import stream
from coreframe.testing import checks
from coreframe.testing.adapters.subject import (
    TOLERANCE,
    Subject,
    differences,
    pairs,
)
from coreframe.testing.checks import Promise, difference, explain, promise

SOLVING: list[Promise] = []


@promise(
    SOLVING,
    "solve returns the parameters that init has: names, shapes, and library and dtype of the data.",
    fix="Bring what is computed on the host back: xp.asarray(w, dtype=..., device=...).",
)
def solved(subject: Subject) -> Iterator[str]:
    if not isinstance(subject.solver.rebuilds_index, bool):
        yield f"rebuilds_index is {subject.solver.rebuilds_index!r}, expected True or False"
    wanted = {k: np.shape(p) for k, p in subject.solver.init(stream(0, "c"), subject.width).items()}
    data = pairs(subject.width)
    expected = subject.solver.solve(*data)
    for library, place in subject.places.items():
        queries, documents = (place(x.astype(np.float32)) for x in data)
        try:
            found = subject.solver.solve(queries, documents)
        except Exception as error:
            yield f"{library}: {explain(error)}"
            continue
        if (got := {name: tuple(p.shape) for name, p in found.items()}) != wanted:
            yield f"{library}: solve returns {got}, init {wanted}"
            continue
        for name, p in found.items():
            if (library_of(p), p.dtype) != (library_of(queries), queries.dtype):
                yield f"{library}: {name} is of {library_of(p)} and {p.dtype}"
            if difference(to_numpy(p), expected[name], 1.0) > 2 * TOLERANCE["float32"]:
                yield f"{library}: {name} is another than on NumPy"


@promise(
    SOLVING,
    "solve_blocks gives what solve gives, whatever the height of the blocks.",
    fix="Divide sums by the number of all rows, once all blocks are seen; blocks() begins a new "
    "pass, as often as it is called.",
)
def blocks(subject: Subject) -> Iterator[str]:
    queries, documents = pairs(subject.width)
    expected = subject.solver.solve(queries, documents)
    for height in (1, 4, len(queries)):

        def cut(height: int = height) -> Iterator[tuple[Any, Any]]:
            for i in range(0, len(queries), height):
                yield queries[i : i + height], documents[i : i + height]

        found = subject.solver.solve_blocks(cut)
        yield from differences(f"blocks of {height} rows", found, expected, 1e-6)


@promise(
    SOLVING,
    "Few rows, equal rows, constant and zero columns: solve is finite, or says what it needs.",
    fix="Add a small multiple of the identity before inverting, or raise ArgumentError.",
)
def degenerate(subject: Subject) -> Iterator[str]:
    solver, (q, d) = subject.solver, pairs(subject.width)
    here = np.arange(subject.width) > 0
    for name, given in {
        "one pair": (q[:1], d[:1]),
        "fewer pairs than dimensions": (q[:3], d[:3]),
        "all pairs alike": (q[[0] * 9], d[[0] * 9]),
        "a column of zeros": (q * here, d * here),
        "a constant column": (np.where(here, q, 2.0), np.where(here, d, 2.0)),
        "zeros": (0 * q, 0 * d),
    }.items():
        with checks.recorded_warnings() as caught:
            try:
                found = solver.solve(*given)
            except CoreframeError:
                continue
        for warning in caught:
            yield f"{name}: {warning.message}"
        for key, p in found.items():
            if not np.isfinite(to_numpy(p)).all():
                yield f"{name}: {key} is not finite"
