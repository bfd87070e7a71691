"""Sums of squared outer products, in blocks that stay in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from coreframe.backend import Array

_ROWS = 256  # two blocks of squares and their product stay in the cache at the usual widths


def squared_product(x: Array, y: Array, /) -> Array:
    """Square some rows at a time, so that no squares of whole arrays are made.

    One matrix product of squares reads memory that was just written; made of whole arrays it
    costs up to three times the product alone. Blocks are added in order, and depend on the
    number of rows only.
    """
    if x.dtype != y.dtype or x.dtype not in (np.float32, np.float64):
        return NotImplemented  # half precision has products of its own
    n, height = len(x), min(_ROWS, len(x))
    left = np.empty((height, x.shape[1]), x.dtype)
    right = np.empty((height, y.shape[1]), x.dtype)
    part = np.empty((x.shape[1], y.shape[1]), x.dtype)
    total: Any = np.zeros_like(part)
    for start in range(0, n, _ROWS):
        rows = slice(start, min(n, start + _ROWS))
        size = rows.stop - rows.start
        a = np.square(x[rows], out=left[:size])
        b = np.square(y[rows], out=right[:size])
        total += np.matmul(a.T, b, out=part)
    return total
