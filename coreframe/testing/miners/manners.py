"""What a miner promises whatever it chooses: libraries, devices, memory, threads, candidates."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from coreframe import blocks as engine
from coreframe.backend import library_of, to_numpy
from coreframe.batch import Batch
from coreframe.miner import Miner, RankingMiner
from coreframe.random import stream
from coreframe.relation import Aligned
from coreframe.testing import arrays, host
from coreframe.testing.arrays import Place
from coreframe.testing.checks import (
    NotApplicable,
    Promise,
    explain,
    promise,
    recorded_warnings,
)
from coreframe.testing.growth import LINEAR, SIDES, SMALL, peak, size, too_fast
from coreframe.testing.miners.subject import PAIRS, Subject, invented, whole

PROMISES: list[Promise] = []


# Candidates ---------------------------------------------------------------------------------


@promise(
    PROMISES,
    "More negatives may be asked for than there are.",
    fix="Use min(k, columns) and -1 for the places that stay empty.",
    needs=(*PAIRS, "part_of_the_relation", *arrays.edges()),
)
def more_than_there_are(subject: Subject) -> Iterator[str]:
    miner: Any = subject.miner
    if "k" not in [f.name for f in dataclasses.fields(miner)]:
        raise NotApplicable("it has no field k")
    greedy = dataclasses.replace(miner, k=1000)
    for case in [*subject.cases, *subject.usable(arrays.edge_cases())]:
        batch = case.batch()
        yield from invented(case, subject.mine(batch, miner=greedy), batch)


@promise(
    PROMISES,
    "select returns (n, k) indices of candidates, of the library of its inputs, and -1 for none; "
    "never the anchor itself or its positive.",
    fix="Return from choose what coreframe.miner.best gives; select of the base leaves out what "
    "equals the anchor or its positive.",
    needs=(*PAIRS, "libraries"),
)
def candidates(subject: Subject) -> Iterator[str]:
    if type(subject.miner).choose is Miner.choose:
        raise NotApplicable("it does not choose among candidates")
    rng = np.random.default_rng(17)
    x, y, others = (rng.standard_normal((n, arrays.WIDTH)) for n in (4, 4, 6))
    others[0], others[1] = x[0], y[1]  # an anchor's own double, and a positive's
    keeps = getattr(subject.miner, "keep_equal", False)
    for library, place in subject.places.items():
        given = [place(np.asarray(array, np.float32)) for array in (x, y, others)]

        def call(x: Any) -> Any:
            return subject.miner.select(x[0], x[1], x[2], 9, rng=stream(5, "check"))

        columns = arrays.traced(library, call, given)
        found = to_numpy(columns)
        if found.shape != (4, 9):
            yield f"{library}: of 6 candidates k=9 gives shape {found.shape}, expected (4, 9)"
        elif found.max(initial=-1) > 5 or found.min(initial=0) < -1:
            yield f"{library}: an index is neither a candidate nor -1"
        elif any(len(set(row[row >= 0])) < (row >= 0).sum() for row in found):
            yield f"{library}: a candidate is chosen twice for one anchor"
        elif not keeps and 0 in found[0]:
            yield f"{library}: the anchor itself is chosen"
        elif not keeps and 1 in found[1]:
            yield f"{library}: the anchor's positive is chosen"
        if library_of(columns) != library_of(given[0]):
            yield f"{library}: the result is of {library_of(columns)}"


# Libraries and devices ----------------------------------------------------------------------


@promise(
    PROMISES,
    "All array libraries of this machine give the same pairs.",
    fix="Use only functions of the array API standard, from xp = namespace(...); draw with "
    "coreframe.random.hash_keys, or on the host from rng.",
    needs=(*PAIRS, "deterministic"),
)
def libraries(subject: Subject) -> Iterator[str]:
    tied = [
        (case, library, place)
        for case in subject.usable([arrays.tied_case()])
        for library, place in subject.places.items()
    ]
    for case, library, place in [*subject.placed, *tied]:
        try:
            got = subject.masks(case, place, seed=4, library=library)
        except Exception as error:
            yield f"{case.name}, {library}: {explain(error)}"
            continue
        if not np.array_equal(got, subject.masks(case, seed=4)):
            yield f"{case.name}, {library}: other pairs than on NumPy"


@promise(
    PROMISES,
    "It computes on the device of its inputs, and mixes none with another.",
    fix="Give device=device_of(x) wherever an array is created: xp.zeros, xp.arange, xp.asarray "
    "of a list or a NumPy array; xp.zeros_like(x) needs none.",
    needs=(*PAIRS, "libraries"),
)
def devices(subject: Subject) -> Iterator[str]:
    places = arrays.devices_of(subject.places)
    for case in subject.cases:
        expected = subject.masks(case, seed=4)
        for name, place in places.items():
            try:
                got = subject.masks(case, place, seed=4)
            except Exception as error:
                yield f"{case.name}, {name}: {explain(error)}"
                continue
            if not np.array_equal(got, expected):
                yield f"{case.name}, {name}: other pairs than on NumPy"


@promise(
    PROMISES,
    "scores looks at no value on the host: no GPU is waited for, and it runs under jax.jit.",
    fix="Replace `if`, float(), .item() and a mask as an index by xp.where; Python decisions may "
    "depend on fields and shapes.",
    needs=(*PAIRS, "libraries", "devices"),
)
def traceable(subject: Subject) -> Iterator[str]:
    if not isinstance(subject.miner, RankingMiner):
        raise NotApplicable("it is no RankingMiner")
    if host.STRICT not in subject.places:
        raise NotApplicable(f"{host.STRICT}, which shows it, is not installed")

    def mined(place: Place) -> Callable[[], Any]:
        batches = [case.batch(place) for case in subject.cases]
        return lambda: [subject.mine(batch) for batch in batches]

    yield from host.looks(subject.places, mined)


@promise(
    PROMISES,
    "float16, float32 and float64 are taken.",
    fix="Create arrays with dtype=x.dtype, and let coreframe.miner.similarity_rows widen float16.",
    needs=(*PAIRS, "part_of_the_relation"),
)
def dtypes(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        for dtype in (np.float16, np.float32, np.float64):
            batch = case.batch(dtype=dtype)
            yield from invented(case, subject.mine(batch), batch)


# Inputs -------------------------------------------------------------------------------------


@promise(
    PROMISES,
    "Inputs are not written to; read-only arrays are accepted.",
    fix="Write x = x + y in place of x += y, and xp.where in place of assignments to a mask.",
    needs=("usable", "accepts"),
)
def inputs_are_kept(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        for library in ("numpy", "torch"):  # what can be written to
            if library not in subject.places:
                continue
            batch = case.batch(subject.places[library])
            before = {name: np.array(to_numpy(getattr(batch, name))) for name in case.floats}
            whole(subject.mine(batch), batch)
            for name, x in before.items():
                if not np.array_equal(to_numpy(getattr(batch, name)), x):
                    yield f"{case.name}, {library}: {name} was changed"
        try:
            subject.mine(case.batch(arrays.read_only))
        except Exception as error:
            yield f"{case.name}, read-only arrays: {explain(error)}"


@promise(
    PROMISES,
    "An array whose values have changed is looked at anew.",
    fix="Keep nothing by id(array): the same memory soon holds other numbers, here and on a GPU.",
    needs=(*PAIRS, "inputs_are_kept"),
)
def looks_anew(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        batch = case.batch()
        whole(subject.mine(batch), batch)
        other = {name: np.flip(case.floats[name], 0) for name in case.embeddings}
        for name, x in other.items():
            getattr(batch, name)[...] = x
        got = whole(subject.mine(batch), batch)
        subject.remembered.forget()
        fresh = case.batch(**other)
        if not np.array_equal(got, whole(subject.mine(fresh), fresh)):
            yield f"{case.name}: with other values in the same arrays the pairs are the old ones"


@promise(
    PROMISES,
    "No warning is raised, edge cases included.",
    fix="Guard the operation before it happens, not its result.",
    needs=(*PAIRS, "warning_filters"),
)
def no_warnings(subject: Subject) -> Iterator[str]:
    for case in [*subject.cases, *subject.usable(arrays.edge_cases())]:
        with recorded_warnings() as caught:
            subject.masks(case)
        for warning in caught:
            yield f"{case.name}: {warning.message}"


# Threads and memory -------------------------------------------------------------------------


@promise(
    PROMISES,
    "The pairs do not depend on the height of the blocks.",
    fix="Reduce over axis=1 only: the scores of a row follow from that row, wherever a block ends. "
    "Draws are rows.keys (`needs_keys = True`), or come from rng before the blocks.",
    needs=(*PAIRS, "deterministic"),
)
def blocks(subject: Subject) -> Iterator[str]:
    for case in subject.usable([arrays.tall_case(), arrays.tall_pairs()]):
        expected = subject.masks(case, seed=6)
        with _blocks_of_least_height():
            found = subject.masks(case, seed=6)
        if not np.array_equal(found, expected):
            yield f"{case.name}: in lower blocks of rows other pairs are chosen"


@contextlib.contextmanager
def _blocks_of_least_height() -> Iterator[None]:
    before = engine.HOST_BUDGET
    engine.HOST_BUDGET = 1
    try:
        yield
    finally:
        engine.HOST_BUDGET = before


@promise(
    PROMISES,
    "1, 2 and 3 threads give the same pairs.",
    fix="Write to nothing that two blocks share, and draw before blocks are shared out.",
    needs=(*PAIRS, "thread_safe"),
)
def threads(subject: Subject) -> Iterator[str]:
    for case in subject.usable([arrays.tall_case(90), arrays.tall_pairs(90)]):
        found = []
        for count in ("1", "2", "3"):
            os.environ["COREFRAME_THREADS"] = count  # the kit brings it back
            found.append(subject.masks(case))
        for number, other in zip((2, 3), found[1:], strict=True):
            if not np.array_equal(other, found[0]):
                yield f"{case.name}: with {number} threads the pairs are others than with 1"


@promise(
    PROMISES,
    "Memory grows with the pairs of rows at most, and never with rows x rows x width.",
    fix="Walk the blocks of coreframe.miner.similarity_rows; do not broadcast (n, 1, d) against "
    "(1, m, d), and in scores build nothing larger than (r, m).",
    needs=PAIRS,
)
def memory(subject: Subject) -> Iterator[str]:
    for make in (arrays.tall_pairs, arrays.tall_case):
        case = make()
        if not subject.usable([case]):
            continue

        def call(rows: int, width: int, make: Any = make) -> Callable[[], Any]:
            batch = make(rows, width).batch()
            return lambda: subject.mine(batch)

        for problem in too_fast(call, linear=False):
            yield f"{case.name}: {problem}"
    few, many = SIDES
    if subject.usable([arrays.tall_pairs()]):
        batches = [_beside(few, n) for n in SIDES]
        small, large = (peak(functools.partial(subject.mine, batch)) for batch in batches)
        if large > SMALL and large > LINEAR * small:
            yield (
                f"with {few} references {few} anchors take {size(small)}, with {many} "
                f"{size(large)}: {large / small:.1f} times as much, allowed are {LINEAR:.1f}"
            )


def _beside(anchors: int, references: int) -> Batch:
    """Return a batch of so many anchors, and of as many references or more."""
    case = arrays.tall_pairs(references)
    return Batch(
        anchors=case.floats["anchors"][:anchors],
        references=case.floats["references"],
        relation=Aligned(anchors, references),
    )
