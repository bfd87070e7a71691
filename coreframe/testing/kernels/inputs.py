"""What the kernels of operations are checked on: seeded inputs, in every layout and dtype."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from coreframe import adapter, blocks, checks, ops, similarity
from coreframe.backend import Array, Backend, library_of, to_numpy
from coreframe.evaluation import retrieval
from coreframe.ops import Op

DTYPES = ("float32", "float64", "float16")
LAYOUTS = ("contiguous", "strided", "transposed", "read-only")
PATTERNS = [(1, 1), (1, 7), (13, 1), (37, 5), (4099, 67)]
"""Shapes: one row, one column, primes, and more than a cache or a thread's turn holds."""


@dataclass(frozen=True)
class Ground:
    """The library that kernels are checked on."""

    backend: Backend

    @cached_property
    def library(self) -> str:
        return library_of(self.backend.asarray(np.zeros(1, np.float32)))

    @cached_property
    def dtypes(self) -> list[str]:
        """The dtypes that the library has."""
        found = []
        for name in DTYPES:
            try:
                x = self.backend.asarray(np.zeros(1, name))
            except TypeError:
                continue
            if to_numpy(x).dtype == name:
                found.append(name)
        return found

    @cached_property
    def layouts(self) -> tuple[str, ...]:
        return LAYOUTS if self.library == "numpy" else LAYOUTS[:-1]

    def lay(self, x: Any, layout: str) -> Array:
        """Bring a NumPy array to the library, in memory of its own, laid out as asked."""
        if layout == "strided" and x.ndim:
            between = np.nan if x.dtype.kind == "f" else 0
            wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), between, x.dtype)
            wide[..., ::2] = x
            return self.backend.asarray(wide)[..., ::2]
        if layout == "transposed" and x.ndim == 2:
            return self.backend.asarray(np.array(x.T, order="C")).T
        placed = self.backend.asarray(np.array(x, order="C"))
        if layout == "read-only":
            placed.flags.writeable = False
        return placed


@dataclass(frozen=True)
class Trial:
    """Something that can be run with a kernel and without: fresh inputs at every run."""

    where: str
    eps: float
    width: int
    """Of the longest sum, on whose square root rounding depends."""
    run: Callable[[], tuple[Mapping[str, Any], list[str]]]
    """Returns the results by name, and the inputs that were written to and may not be."""
    roundings: int = 64
    """A result may differ by so many, times the root of the width, of its norm; by 0.05 at most."""
    floor: float = 0.0
    """A norm that is smaller counts as this."""
    threads: bool = False
    """Whether it is run with other numbers of threads too."""
    together: bool = False
    """Whether it is run with all other kernels too."""


@dataclass(frozen=True)
class Call:
    """One call of an operation: NumPy arrays, and what is no array."""

    where: str
    args: tuple[Any, ...]
    keywords: Mapping[str, Any] = field(default_factory=dict)
    given_up: tuple[int, ...] = ()
    """The places of arguments that a kernel may overwrite."""
    seen: Callable[[Any], Any] | None = None
    """What is compared in place of the result."""


Calls = Callable[[Any], Iterator[Call]]
"""From a dtype to calls."""


def trials(op: Op[..., Any], calls: Calls, ground: Ground) -> Iterator[Trial]:
    """Yield the trials of an operation."""
    for dtype in ground.dtypes:
        for call in calls(np.dtype(dtype)):
            for layout in ground.layouts:
                yield _trial(op, call, ground, dtype, layout)


def _trial(op: Op[..., Any], call: Call, ground: Ground, dtype: str, layout: str) -> Trial:
    arrays = {i: x for i, x in enumerate(call.args) if isinstance(x, np.ndarray)}

    def run() -> tuple[Mapping[str, Any], list[str]]:
        args = list(call.args)
        for i, x in arrays.items():
            kept = layout if i not in call.given_up or layout != "read-only" else "contiguous"
            args[i] = ground.lay(x, kept)
        found = op(*args, **call.keywords)
        found = call.seen(found) if call.seen else found
        parts = found if isinstance(found, tuple) else (found,)
        written = [
            f"argument {i + 1}"
            for i, x in arrays.items()
            if i not in call.given_up and not unchanged(args[i], x)
        ]
        return {f"result {i + 1}": part for i, part in enumerate(parts)}, written

    width = max((max(x.shape, default=1) for x in arrays.values()), default=1)
    where, eps = f"{call.where}, {dtype}, {layout}", float(np.finfo(dtype).eps)
    return Trial(where, eps, width, run, threads=layout == LAYOUTS[0])


def unchanged(x: Array, before: Any) -> bool:
    """Say whether an array holds what it held, bit for bit."""
    return bool(to_numpy(x).tobytes() == before.tobytes())


def given(inputs: Sequence[tuple[Any, ...]]) -> Calls:
    """Return the calls that somebody gives for an operation of his own."""

    def calls(dtype: Any) -> Iterator[Call]:
        for number, args in enumerate(inputs):
            shapes = [str(x.shape) for x in args if isinstance(x, np.ndarray)]
            cast = tuple(
                x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x
                for x in args
            )
            yield Call(f"input {number + 1} {' '.join(shapes)}", cast)

    return calls


# The inputs -----------------------------------------------------------------------------------


def _normal(dtype: Any, *shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def _across(dtype: Any) -> Iterator[Call]:
    for shape in [*PATTERNS, (0, 5), (7, 3, 5)]:
        unit = _normal(np.float64, *shape)
        lengths = np.linalg.norm(unit, axis=-1, keepdims=True)
        inverse = 1 / lengths
        unit = unit * inverse
        if shape[0] > 2:
            unit[2], inverse[2] = 0, 0  # a zero vector
        gradient = np.random.default_rng(1).standard_normal(shape)
        yield Call(f"{shape}", tuple(x.astype(dtype) for x in (gradient, unit, inverse)))


def _all_finite(dtype: Any) -> Iterator[Call]:
    for shape in [*PATTERNS, (0, 5), (7, 3, 5), (11,)]:
        x = _normal(dtype, *shape)
        yield Call(f"{shape}", (x,))
        for what in (np.nan, np.inf, -np.inf, np.finfo(dtype).max, -np.finfo(dtype).max):
            for place in (0, x.size - 1):
                if x.size:
                    spoilt = x.copy()
                    spoilt.reshape(-1)[place] = what
                    yield Call(f"{shape} with {what:.3g} at {place}", (spoilt,))
    both = np.asarray([[np.inf, -np.inf, 1]], dtype)
    yield Call("both infinities", (both,))


def _by_squared_distances(dtype: Any) -> Iterator[Call]:
    for shape in PATTERNS:
        minus = -np.abs(_normal(dtype, *shape)) - dtype.type(0.01)
        minus.reshape(-1)[::3] = 0
        minus.reshape(-1)[::6] = -0.0
        yield Call(
            f"{shape} with coinciding points", (_normal(dtype, *shape[::-1]).T.copy(), minus)
        )


def _keep_rows(dtype: Any) -> Iterator[Call]:
    for shape in PATTERNS:
        x, some = _normal(dtype, *shape), np.arange(shape[0]) % 3 != 1
        yield Call(f"{shape}, some", (x, some))
        yield Call(f"{shape}, all", (x, some | True))
        yield Call(f"{shape}, none", (x, some & False))
        bad = np.where(some[:, None], x, dtype.type(np.nan))
        yield Call(f"{shape}, NaN in rows that are left out", (bad, some))


def _minus_distances(dtype: Any) -> Iterator[Call]:
    for n, m in PATTERNS:
        rng = np.random.default_rng(n)
        u, v = rng.integers(-2, 3, (n, 3)), rng.integers(-2, 3, (m, 3))  # many coincide
        inner, left, right = (x.astype(dtype) for x in (u @ v.T, (u * u).sum(1), (v * v).sum(1)))
        pairs = np.random.default_rng(2).integers(n, size=m)
        for squared in (True, False):
            how: dict[str, Any] = {"keywords": {"squared": squared}, "given_up": (0,)}
            where = f"{(n, m)}, squared={squared}"
            yield Call(where, (inner, left[:, None], right[None, :]), **how)
            listed = inner[pairs, np.arange(m)].copy()
            yield Call(f"{where}, one by one", (listed, left[pairs], right), **how)


def _nearest_documents(dtype: Any) -> Iterator[Call]:
    for name in similarity.NAMES:
        kind = similarity.Similarity(name)
        for n, count, width in [(1, 2, 1), (1, 300, 3), (3, 2, 4), (31, 157, 5), (97, 1504, 7)]:
            # Whole numbers beside their negatives: exact scores, many of them equal.
            some = np.random.default_rng(n).integers(-2, 3, (n + count // 2, width)).astype(dtype)
            ties = some[:n], np.concatenate([some[n:], -some[n:]])
            x = _normal(dtype, n + count, width)
            for what, queries, documents in (("ties", *ties), ("ordinary", x[:n], x[n:])):
                center = np.zeros(width, dtype) if kind.is_distance else None
                exact = what == "ties" and name != "cosine"
                seen = None if exact else _Scores(queries, documents, kind)
                for k in sorted({1, min(10, count), min(count, 300)}):
                    args = (queries, documents, center, k, kind)
                    yield Call(f"{what}, {n} of {count} x {width}, {name}, k={k}", args, seen=seen)
        spoilt = _normal(dtype, 40, 3)
        spoilt[[7, 30]] = np.nan  # such a score counts as the least
        center = np.zeros(3, dtype) if kind.is_distance else None
        yield Call(f"NaN, {name}", (spoilt[20:23], spoilt, center, 40, kind))
        yield Call(f"a query of NaN, {name}", (spoilt[6:8], spoilt[:30:2], center, 5, kind))


@dataclass(frozen=True)
class _Scores:
    """Similarities of the rows that were found: two of nearly one score may change places."""

    queries: Any
    documents: Any
    kind: similarity.Similarity

    def __call__(self, found: Array) -> Any:
        rows = np.asarray(to_numpy(found))
        q, d = self.queries.astype(np.float64)[:, None, :], self.documents.astype(np.float64)[rows]
        if self.kind.is_distance:
            squares = ((q - d) ** 2).sum(axis=-1)
            return rows.dtype.kind, -squares if "squared" in self.kind.name else -np.sqrt(squares)
        scores = (q * d).sum(axis=-1)
        if self.kind.name == "cosine":
            lengths = np.linalg.norm(q, axis=-1) * np.linalg.norm(d, axis=-1)
            scores /= np.where(lengths > 0, lengths, 1)
        return rows.dtype.kind, scores


def _segment_sum(dtype: Any) -> Iterator[Call]:
    for n, d, count in [(1, 1, 1), (37, 5, 7), (0, 3, 4), (5, 3, 0), (997, 13, 101), (4099, 67, 3)]:
        rng = np.random.default_rng(n)
        ids, where = rng.integers(-2, count + 2, n), f"{n} x {d} in {count}"
        for code in (np.int32, np.int64):
            yield Call(f"{where}, {code.__name__}", (_normal(dtype, n, d), ids.astype(code), count))
        yield Call(f"{where}, all outside", (_normal(dtype, n, d), 0 * ids - 1, count))
        yield Call(f"{where}, all in one", (_normal(dtype, n, d), 0 * ids, count))


def _squared_product(dtype: Any) -> Iterator[Call]:
    for n, d, e in [(1, 1, 1), (0, 5, 3), (37, 5, 1), (257, 7, 5), (1031, 13, 17)]:
        yield Call(f"{n} x {d} and {e}", (_normal(dtype, n, d), _normal(dtype, n + 1, e)[1:]))


def _top_k(dtype: Any) -> Iterator[Call]:
    shapes = [(1, 1, 1), (1, 9, 3), (5, 9, 9), (0, 9, 3), (7, 100, 0), (13, 67, 1), (13, 67, 5)]
    for n, m, k in [*shapes, (3, 1009, 10), (37, 4001, 100), (11, 2003, 7)]:
        x, where = _normal(dtype, n, m), f"{k} of {n} x {m}"
        yield Call(where, (x, k))
        yield Call(f"{where}, ties", (np.round(x), k))
        yield Call(f"{where}, all equal", (0 * x, k))
        ends = np.where(x > 1, dtype.type(np.inf), np.where(x < 0, dtype.type(-np.inf), x))
        yield Call(f"{where}, infinities", (ends, k))


def _softplus(dtype: Any) -> Iterator[Call]:
    for shape in [*PATTERNS, (0, 5), (11,)]:
        yield Call(f"{shape}", (9 * _normal(dtype, *shape),))
    for z in (np.linspace(-16, -8, 31), np.linspace(8, 16, 31)):  # each end by its own norm
        yield Call(f"from {z[0]:g} to {z[-1]:g}", (z.astype(dtype),))
    yield Call("the ends", (np.asarray([-np.inf, -1e4, -0.0, 0.0, 1e4, np.inf], dtype),))


def _unit_rows(dtype: Any) -> Iterator[Call]:
    info = np.finfo(dtype)
    for shape in [*PATTERNS, (0, 5), (7, 3, 5)]:
        x = _normal(dtype, *shape)
        yield Call(f"{shape}", (x,))
        zeros = x.copy()
        zeros[::3] = 0
        yield Call(f"{shape} with rows of zeros", (zeros,))
        for size in (float(info.max) / 1024, float(info.smallest_normal) * 1024):
            if x.size > 2**18:
                continue
            row = x.copy()
            row[-1:] = np.sign(x[-1:]) * dtype.type(size)
            yield Call(f"{shape} with a row of {size:.0e}", (row,))


OPERATIONS: dict[str, tuple[Op[..., Any], Calls]] = {
    op.name: (op, calls)
    for op, calls in (
        (similarity.across, _across),
        (checks.all_finite, _all_finite),
        (similarity.by_squared_distances, _by_squared_distances),
        (blocks.keep_rows, _keep_rows),
        (similarity.minus_distances, _minus_distances),
        (retrieval.nearest_documents, _nearest_documents),
        (ops.segment_sum, _segment_sum),
        (ops.softplus, _softplus),
        (adapter.squared_product, _squared_product),
        (ops.top_k, _top_k),
        (similarity.unit_rows, _unit_rows),
    )
}
