"""The loop over blocks of rows: threads, and one block of similarities that is used again.

A block is as tall as the budget allows, since tall products are what BLAS is fast at. Each goes
through three rounds, and the threads share each round:

    strips of columns    block[:, c] = u @ v[c].T
    few rows at a time   row_terms, in the processor's cache; the slopes replace the similarities
    strips and rows      d_v[c] += block[:, c].T @ u;   d_u[r] = block[r] @ v

Where the products are not large, BLAS shares them among threads of its own, which would otherwise
be in our way: they go on spinning for some time after each product that anybody makes. For large
ones BLAS is held to one thread, and the strips are shared.

Strips and rows are cut by shapes and the budget alone, and each sum has one order, so results are
equal bit for bit at any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from coreframe.backend import Array
from coreframe.blocks import Part, Rows, join
from coreframe_numpy.kernels import threads

_TALLEST = 1024  # rows; a taller block gains nothing
_SHORTEST = 16
_ROWS = 256  # of a product with all columns
_STRIPS = 8  # of columns: enough for threads to share, of the widths that BLAS is fast at
_NARROWEST, _WIDEST = 512, 4096  # columns of a strip
_CACHE = 2**22  # bytes of row_terms' arrays at a time
_IN_PLACE = 2  # of these arrays, in a form of row_terms that overwrites the similarities
_APART = 64  # bytes, a line of the cache
_SMALL = 2**22  # multiplications, under which one thread is done sooner than two have started
_MIDDLE = 2**33  # of them, up to which BLAS shares a product among its threads better than we do
_MANY = 2**22  # similarities, from which threads are worth it between products of BLAS


def block_loop(left: Array, rows: Rows) -> Part:
    """Run all blocks of a call."""
    n, d = left.shape
    if rows.gathered:
        return _gathered(rows)
    if n * d * rows.right.shape[0] <= _SMALL and len(rows.slices) == 1:
        return rows.block(slice(0, n))
    layout = Layout.of(rows)
    if layout.by_blas:
        return _Loop(rows, layout).run()
    with threads.one_blas_thread():
        return _Loop(rows, layout).run()


def _gathered(rows: Rows) -> Part:
    """Run blocks of listed pairs, each by itself."""
    slices = rows.slices
    if len(slices) == 1:
        return rows.block(slices[0])
    with threads.one_blas_thread():
        parts = list(threads.in_order(rows.block, slices, rows.plan.at_once))
    return join(parts, np)


@dataclass(frozen=True)
class Layout:
    """How a call is cut: a function of shapes and of the budget."""

    height: int  # rows of a block
    few: int  # rows that row_terms gets at a time
    turn: int  # rows that a thread takes at a time, a multiple of few
    strip: int  # columns of a product
    by_blas: bool  # whether the products are left to BLAS and its threads

    @classmethod
    def of(cls, rows: Rows) -> Layout:
        (n, d), m = rows.left.shape, rows.right.shape[0]
        k = 0 if rows.own is None else rows.own.shape[1]
        size = rows.left.dtype.itemsize
        height = (rows.budget * 3 // 4) // (m * size)
        height = min(n, _TALLEST, max(_SHORTEST, height))
        arrays = rows.working_arrays if rows.diagonal_terms is None else _IN_PLACE
        row_bytes = size * (arrays * (m + k) + 4 * k * d)
        few = max(1, min(height, min(_CACHE, rows.budget // 16) // row_bytes))
        turn = few * max(1, -(-height // 32) // few)
        by_blas = n * m * d < _MIDDLE
        strip = _WIDEST if by_blas else min(_WIDEST, max(_NARROWEST, -(-m // _STRIPS)))
        return cls(height, few, turn, strip, by_blas)


class _Loop:
    """One call: its results, and the memory that its blocks share."""

    def __init__(self, rows: Rows, layout: Layout) -> None:
        (n, d), m, dtype = rows.left.shape, rows.right.shape[0], rows.left.dtype
        self.rows, self.layout = rows, layout
        self.of_products: Any = _one_by_one if layout.by_blas else threads.each
        self.of_terms: Any = _one_by_one if layout.by_blas and n * m < _MANY else threads.each
        # Rows a power of two apart fall on the same few places of the cache.
        pitch = m + (_APART // dtype.itemsize if m * dtype.itemsize % 1024 == 0 else 0)
        self.block = np.empty((layout.height, pitch), dtype)[:, :m]
        self.strips = _cut(0, m, self.layout.strip)
        self.losses, self.factor = np.empty(n, dtype), np.empty(n, dtype)
        self.counted = np.empty(n, bool)
        self.sums: dict[str, Any] = {}
        self.left = np.empty((n, d), dtype) if "left" in rows.wants else None
        self.own = np.empty_like(rows.own) if "own" in rows.wants else None
        distance = rows.similarity.is_distance
        self.row_sums = np.empty(n, dtype) if distance else None
        if "right" in rows.wants:
            self.sums["right"] = np.zeros((m, d), dtype)
            if distance:
                self.sums["right_weight"] = np.zeros(m, dtype)

    def run(self) -> Part:
        rows, layout = self.rows, self.layout
        for part in _cut(0, rows.left.shape[0], layout.height):
            block, u = self.block[: part.stop - part.start], rows.left[part]

            def forth(columns: slice, block: np.ndarray = block, u: np.ndarray = u) -> None:
                np.matmul(u, rows.right[columns].T, out=block[:, columns])

            self.of_products(forth, self.strips)
            turns = [(turn, part) for turn in _cut(part.start, part.stop, layout.turn)]
            for found in self.of_terms(self._terms, turns):
                for name, x in found.items():
                    self.sums[name] = self.sums[name] + x if name in self.sums else x
            if rows.wants & {"left", "right"}:
                self._back(part, block, u)
        return Part(self.losses, self.counted, self.left, self.own, self.sums)

    def _terms(self, turn_and_part: tuple[slice, slice]) -> dict[str, Any]:
        """Turn similarities into slopes, few rows at a time; return what is added over rows."""
        turn, part = turn_and_part
        sums: dict[str, Any] = {}
        for few in _cut(turn.start, turn.stop, self.layout.few):
            inner = self.block[few.start - part.start : few.stop - part.start]
            found = self.rows.terms(few, inner)
            self.losses[few], self.counted[few] = found.losses, found.counted
            self.factor[few] = found.factor
            if found.slope is not inner:
                inner[...] = found.slope
            if self.row_sums is not None:
                np.add.reduce(inner, axis=1, out=self.row_sums[few])
            if self.left is not None and found.left is not None:
                self.left[few] = found.left
            if self.own is not None:
                self.own[few] = found.own
            for name, x in found.sums.items():
                sums[name] = sums[name] + x if name in sums else x
        return sums

    def _back(self, part: slice, block: np.ndarray, u: np.ndarray) -> None:
        """Add the block's products to the gradients."""
        factor = self.factor[part, None]
        weighted = u * factor
        left = None if self.left is None else self.left[part]
        right, right_weight = (self.sums.get(name) for name in ("right", "right_weight"))

        def to_right(columns: slice) -> None:
            slopes = block[:, columns]
            if right is not None:
                right[columns] += slopes.T @ weighted
            if right_weight is not None:
                right_weight[columns] += slopes.T @ factor[:, 0]

        def to_left(rows: slice) -> None:
            assert left is not None
            found = block[rows] @ self.rows.right
            if self.row_sums is not None:
                found -= self.row_sums[part][rows, None] * u[rows]
                found *= 2
            found *= factor[rows]
            if self.rows.own is not None:
                found += left[rows]
            left[rows] = found

        tasks: list[tuple[Any, slice]] = []
        if left is not None:
            height = len(block) if self.layout.by_blas else _ROWS
            tasks += [(to_left, rows) for rows in _cut(0, len(block), height)]
        if right is not None:
            tasks += [(to_right, columns) for columns in self.strips]
        self.of_products(lambda task: task[0](task[1]), tasks)


def _cut(start: int, stop: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, stop)) for i in range(start, stop, step)]


def _one_by_one(run: Any, parts: Any) -> list[Any]:
    return [run(part) for part in parts]
