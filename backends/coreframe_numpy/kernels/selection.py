"""Choosing the largest, and adding by group."""

from __future__ import annotations

from typing import Any

import numpy as np

from coreframe.backend import Array


def top_k(values: Array, k: int, /) -> Array:
    """The k largest of each row by partition, then sorted; ties go to the lower index."""
    n, m = values.shape
    if k >= m or m < 64 or k == 0:
        return NotImplemented
    # Of the negated values, since partition is slow where the pivot repeats: miners fill up with
    # -inf, which then lies on the far side.
    falling = -values
    falling.partition(k - 1, axis=1)
    limit = -falling[:, k - 1, None]
    chosen = values >= limit
    tied = np.nonzero(np.count_nonzero(chosen, axis=1) > k)[0]
    if len(tied):  # of the entries that equal the limit, the first fill what is left
        here, least = values[tied], limit[tied]
        above, equal = here > least, here == least
        left = k - np.count_nonzero(above, axis=1, keepdims=True)
        chosen[tied] = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= left))
    columns = np.nonzero(chosen)[1].reshape(n, k)
    order = np.argsort(-np.take_along_axis(values, columns, axis=1), axis=1, stable=True)
    return np.take_along_axis(columns, order, axis=1)


def segment_sum(values: Array, segments: Array, count: int, /) -> Array:
    """Sort by segment, then add each run of equal segments."""
    result: Any = np.zeros((count, values.shape[1]), values.dtype)
    order = np.argsort(segments, kind="stable")
    keys = segments[order]
    inside = slice(*np.searchsorted(keys, [0, count]))
    keys = keys[inside]
    if keys.size:
        starts = np.nonzero(np.diff(keys, prepend=keys[0] - 1))[0]
        result[keys[starts]] = np.add.reduceat(values[order[inside]], starts, axis=0)
    return result
