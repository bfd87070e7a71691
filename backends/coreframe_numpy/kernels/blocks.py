"""The loop over blocks of rows: threads, and one block of similarities that is used again.

A block is as tall as the budget allows, since tall products are what BLAS is fast at. Each goes
through three rounds, and the threads share each round:

    strips of columns    block[:, c] = u @ v[c].T
    few rows at a time   row_terms, in the processor's cache; the slopes replace the similarities
    strips of columns    d_v[c] += block[:, c].T @ u;   d_u += block[:, c] @ v[c], in order

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
_STRIPS = 8  # of columns: enough for threads to share, of the widths that BLAS is fast at
_NARROWEST, _WIDEST = 1024, 4096  # columns of a strip
_CACHE = 2**22  # bytes of row_terms' arrays at a time
_IN_PLACE = 2  # of these arrays, in a form of row_terms that overwrites the similarities
_SMALL = 2**22  # multiplications, under which one thread is done sooner than two have started


def block_loop(left: Array, rows: Rows) -> Part:
    """Run all blocks of a call."""
    n, d = left.shape
    if rows.gathered:
        return _gathered(rows)
    if n * d * rows.right.shape[0] <= _SMALL and len(rows.slices) == 1:
        return rows.block(slice(0, n))
    with threads.one_blas_thread():
        return _Loop(rows).run()


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

    @classmethod
    def of(cls, rows: Rows) -> Layout:
        n, m = rows.left.shape[0], rows.right.shape[0]
        k = 0 if rows.own is None else rows.own.shape[1]
        size = rows.left.dtype.itemsize
        height = (rows.budget * 3 // 4) // (m * size)
        height = min(n, _TALLEST, max(_SHORTEST, height))
        arrays = rows.working_arrays if rows.diagonal_terms is None else _IN_PLACE
        row_bytes = size * (arrays * (m + k) + 4 * k * rows.left.shape[1])
        few = max(1, min(height, min(_CACHE, rows.budget // 16) // row_bytes))
        strip = min(_WIDEST, max(_NARROWEST, -(-m // _STRIPS)))
        return cls(height, few, few * max(1, -(-height // 32) // few), strip)


class _Loop:
    """One call: its results, and the memory that its blocks share."""

    def __init__(self, rows: Rows) -> None:
        (n, d), m, dtype = rows.left.shape, rows.right.shape[0], rows.left.dtype
        self.rows, self.layout = rows, Layout.of(rows)
        self.block = np.empty((self.layout.height, m), dtype)
        self.strips = _cut(0, m, self.layout.strip)
        self.losses, self.factor = np.empty(n, dtype), np.empty(n, dtype)
        self.counted = np.empty(n, bool)
        self.sums: dict[str, Any] = {}
        self.left = np.zeros((n, d), dtype) if "left" in rows.wants else None
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

            threads.each(forth, self.strips)
            turns = _cut(part.start, part.stop, layout.turn)
            for found in threads.in_order(self._terms, [(turn, part) for turn in turns]):
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
        factor = self.factor[part]
        weighted = u * factor[:, None]
        right, right_weight = (self.sums.get(name) for name in ("right", "right_weight"))

        def back(columns: slice) -> Any:
            slopes = block[:, columns]
            if right is not None:
                right[columns] += slopes.T @ weighted
            if right_weight is not None:
                right_weight[columns] += slopes.T @ factor
            return None if self.left is None else slopes @ self.rows.right[columns]

        total: Any = None
        for found in threads.in_order(back, self.strips):
            total = found if total is None else np.add(total, found, out=total)
        if self.left is None:
            return
        if self.row_sums is not None:
            total -= self.row_sums[part, None] * u
            total *= 2
        total *= factor[:, None]
        self.left[part] += total


def _cut(start: int, stop: int, step: int) -> list[slice]:
    return [slice(i, min(i + step, stop)) for i in range(start, stop, step)]
