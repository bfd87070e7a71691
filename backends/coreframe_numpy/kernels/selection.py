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
    limit = np.partition(values, m - k, axis=1)[:, m - k, None]
    chosen = values >= limit
    columns = np.empty((n, k), np.int64)
    plain = np.count_nonzero(chosen, axis=1) == k  # no ties across the limit
    columns[plain] = np.nonzero(chosen[plain])[1].reshape(-1, k)
    for row in np.nonzero(~plain)[0]:
        above = np.nonzero(values[row] > limit[row])[0]
        equal = np.nonzero(values[row] == limit[row])[0]
        columns[row] = np.sort(np.concatenate([above, equal[: k - len(above)]]))
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
