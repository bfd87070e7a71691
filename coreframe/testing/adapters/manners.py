"""What an adapter promises of libraries, inputs, memory and storage."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from coreframe.adapter import ClosedForm
from coreframe.artefact import Side, TrainedAdapter, load
from coreframe.backend import to_numpy
from coreframe.random import stream
from coreframe.state import load_state, save_state
from coreframe.testing import arrays, checks, host
from coreframe.testing.adapters.subject import (
    NOISY,
    ROWS,
    TOLERANCE,
    Pass,
    Subject,
    differences,
    numbers,
    out,
    pairs,
)
from coreframe.testing.arrays import Place
from coreframe.testing.checks import NotApplicable, Promise, difference, explain, promise, same_bits
from coreframe.testing.growth import peak

MANNERS: list[Promise] = []
WIDE = (20, 80)


@promise(
    MANNERS,
    "All array libraries of this machine give the same results.",
    fix="Use only functions of the array API standard, from xp = namespace(x=x), and give "
    "device=device_of(x) wherever an array is created.",
)
def libraries(subject: Subject) -> Iterator[str]:
    expected = {seed: _everything(subject, seed=seed) for seed in (None, NOISY)}
    for library, place in subject.places.items():
        for dtype, seed in ((np.float64, None), (np.float32, None), (np.float32, NOISY)):
            where = f"{library}, {np.dtype(dtype).name}"
            if np.dtype(dtype).name not in str(place(np.zeros(1, dtype)).dtype):
                continue
            try:
                got = _everything(subject, place, dtype, seed)
            except Exception as error:
                yield f"{where}: {explain(error)}"
                continue
            tolerance = TOLERANCE[np.dtype(dtype).name]
            yield from differences(where, got, expected[seed], tolerance)


def _everything(
    subject: Subject, place: Place = arrays.on_numpy, dtype: Any = np.float64, seed: Any = None
) -> dict[str, Any]:
    """Return, in NumPy, what all methods give on a library."""
    found = subject.run(place=place, dtype=dtype, seed=seed).all
    params = {name: place(np.asarray(p, dtype)) for name, p in subject.start.items()}
    x, dy = numbers(ROWS, subject.width, 1), numbers(ROWS, found["y"].shape[1], 2)
    squares = subject.adapter.squared_gradients(
        params, place(x.astype(dtype)), place(dy.astype(dtype))
    )
    found |= {f"squared_gradients: {name}": to_numpy(g) for name, g in squares.items()}
    w, b = subject.adapter.matrix(params)
    return found | {"W": to_numpy(w)} | ({} if b is None else {"b": to_numpy(b)})


@promise(
    MANNERS,
    "forward and pullback look at no value on the host: no GPU is waited for, and they run under "
    "jax.jit.",
    fix="Replace `if`, float(), .item() and a mask as an index by xp.where; Python decisions may "
    "depend on fields and shapes.",
    needs=("libraries",),
)
def traceable(subject: Subject) -> Iterator[str]:
    if isinstance(subject.adapter, ClosedForm):
        raise NotApplicable("it is computed in closed form")
    yield from host.looks(subject.places, lambda place: lambda: subject.run(place=place))
    if "jax" not in subject.places:
        return
    import jax

    def both(params: Any, x: Any, dy: Any) -> Any:
        y, pullback = subject.adapter.forward(params, x)
        return y, *pullback(dy)

    dy = numbers(ROWS, out(subject.start, subject.adapter), 2)
    given = subject.start, numbers(ROWS, subject.width, 1), dy
    found = Pass(*jax.jit(both)(*jax.tree.map(lambda a: jax.numpy.asarray(a, "float32"), given)))
    yield from differences("under jax.jit", found.all, subject.run().all, TOLERANCE["float32"])


# Good manners -------------------------------------------------------------------------------


@promise(
    MANNERS,
    "Inputs and parameters are not written to; read-only arrays are accepted.",
    fix="Write y = y + b in place of y += b.",
)
def inputs_are_kept(subject: Subject) -> Iterator[str]:
    for library, place, dtype in subject.placed:
        own = np.array if library == "numpy" else place
        params = {name: own(np.array(p, dtype)) for name, p in subject.start.items()}
        x = own(numbers(ROWS, subject.width, 1).astype(dtype))
        dy = own(numbers(ROWS, out(subject.start, subject.adapter), 2).astype(dtype))
        named = {"x": x, "dy": dy, **params}
        before = {name: np.array(to_numpy(a)) for name, a in named.items()}
        _, pullback = subject.adapter.forward(params, x, rng=stream(NOISY, "noise"))
        pullback(dy)
        with contextlib.suppress(Exception):  # which `libraries` explains
            subject.adapter.squared_gradients(params, x, dy)
            subject.adapter.matrix(params)
        for name, a in named.items():
            if not np.array_equal(to_numpy(a), before[name]):
                yield f"{library}: {name} was changed"
    subject.run(place=arrays.read_only)
    if isinstance(subject.adapter, ClosedForm):
        given = pairs(subject.width)
        kept = [x.copy() for x in given]
        subject.adapter.solve(*given)
        for name, x, was in zip(("queries", "documents"), given, kept, strict=True):
            if not np.array_equal(x, was):
                yield f"solve changed its argument {name}"


@promise(
    MANNERS,
    "One row, no row, rows of zeros and long rows are rows as any others: finite, unwarned.",
    fix="Divide by nothing that rows can make 0, and reduce over axis 0 with sum, not with mean.",
    needs=("rows_are_independent",),
)
def edge_cases(subject: Subject) -> Iterator[str]:
    x = numbers(ROWS, subject.width, 1)
    cases = {"one row": x[:1], "no row": x[:0], "zeros": 0 * x, "rows of length 1e15": 1e15 * x}
    for (name, rows), dtype in itertools.product(cases.items(), (np.float64, np.float32)):
        where = f"{name}, {np.dtype(dtype).name}"
        with checks.recorded_warnings() as caught:
            result = subject.run(x=rows, dtype=dtype)
        for warning in caught:
            yield f"{where}: {warning.message}"
        if len(result.y) != len(rows):
            yield f"{where}: y has {len(result.y)} rows"
        for part, value in result.all.items():
            if not np.isfinite(value).all():
                yield f"{where}: {part} is not finite"
            elif name == "no row" and np.any(value):
                yield f"{where}: {part} must be 0"


@promise(
    MANNERS,
    "Memory grows with the rows and their width, and with the square of neither.",
    fix="Make no array of rows by rows, and none of rows by width by width: sum over rows by a "
    "matrix product, transposed(x) @ dy.",
)
def memory(subject: Subject) -> Iterator[str]:
    def took(rows: int, width: int = subject.width) -> int:
        params = subject.params(width)
        x, dy = numbers(rows, width, 1), numbers(rows, out(params, subject.adapter), 2)
        return peak(lambda: subject.run(params, x, dy))

    sizes = (200, 400, 1600, 3200)
    small, middle, large, largest = (took(rows) for rows in sizes)
    early, late = (middle - small) / 200, (largest - large) / 1600
    if late > 2 * early + 1000:
        yield f"at 300 rows a row more takes {early:.0f} bytes, at 2400 rows {late:.0f}"
    narrow, wide = WIDE
    if narrow in subject.widths and wide in subject.widths:
        each = [(took(400, width) - took(200, width)) / 200 for width in WIDE]
        if each[1] > 2 * (wide / narrow) * each[0] + 1000:
            yield (
                f"a row more takes {each[0]:.0f} bytes where rows have {narrow} numbers, and "
                f"{each[1]:.0f} where they have {wide}: an array of rows x width x width"
            )


@promise(
    MANNERS,
    "Parameters can be stored, and what is loaded is the same map.",
    fix="Parameters are arrays by names without spaces, and matrix() (or thin()) all that the map "
    "depends on.",
    needs=("affine",),
)
def stored(subject: Subject) -> Iterator[str]:
    params = {name: np.asarray(p, np.float32) for name, p in subject.start.items()}
    x = numbers(ROWS, subject.width, 1)
    expected = subject.run(params, x).y
    with tempfile.TemporaryDirectory() as folder:
        save_state(f"{folder}/state.safetensors", params, kind="adapter")
        again, _ = load_state(f"{folder}/state.safetensors", kind="adapter", like=params)
        for name, p in params.items():
            if not same_bits(p, again[name]):
                yield f"the state that is loaded has another {name}"
        side = Side.of(subject.adapter, params)
        TrainedAdapter(subject.width, {"query": side}, normalize=False).save(folder)
        gap = difference(load(folder)(x), expected)
    if gap > 1e-5:
        yield f"the artefact that is loaded differs by {gap:.1g} of the largest entry"
