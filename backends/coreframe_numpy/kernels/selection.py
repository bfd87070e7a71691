"""Choosing the largest, and adding by group."""

from __future__ import annotations

from typing import Any

import numpy as np

from coreframe.backend import Array

_AT_ONCE = 2**18  # entries: what a core's own cache holds


def top_k(values: Array, k: int, /) -> Array:
    """The k largest of each row, largest first; ties go to the lower index.

    Halving a row again and again by the larger of two entries leaves the maxima of groups. At
    least k entries reach the k-th largest maximum, and hardly more than k where the groups are
    many, so that two cheap passes leave few to choose among. Rows where they are not few, for
    their ties, are partitioned.
    """
    n, m = values.shape
    if values.dtype.kind != "f" or k > m:
        return NotImplemented
    if k == 1:
        return values.argmax(axis=1)[:, None]
    if m < 64 or k == m:
        return np.argsort(-values, axis=1, kind="stable")[:, :k]
    if m < 8 * k:
        return _by_partition(values, k)
    found = np.empty((n, k), np.intp)
    step = max(1, _AT_ONCE // m)
    for start in range(0, n if k else 0, step):
        rows = slice(start, start + step)
        _by_groups(np.ascontiguousarray(values[rows]), k, found[rows])
    return found


def _by_groups(values: Array, k: int, found: Array) -> None:
    """Write the columns of the k largest of each row of C-contiguous values to ``found``."""
    n, m = values.shape
    width, groups = m // 2, values
    while True:
        groups = np.maximum(groups[:, :width], groups[:, width : 2 * width])
        if width < max(64, 8 * k):
            break
        width //= 2
    # Of the negated maxima: see _by_partition.
    np.negative(groups, out=groups)
    groups.partition(k - 1, axis=1)
    limit = -groups[:, k - 1]
    entries = np.flatnonzero(values >= limit[:, None])
    rows, columns = np.divmod(entries, m)
    counts = np.bincount(rows, minlength=n)
    usual = (counts >= k) & (counts <= 4 * k + 64)
    if not usual.all():
        found[~usual] = _by_partition(values[~usual], k)
        kept = usual[rows]
        entries, rows, columns = entries[kept], rows[kept], columns[kept]
        rows = (np.cumsum(usual) - 1)[rows]
        counts = counts[usual]
    if len(counts):
        few, column = padded(counts, rows, values.reshape(-1)[entries], columns)
        order = np.argsort(-few, axis=1, kind="stable")[:, :k]
        found[usual] = np.take_along_axis(column, order, axis=1)


def padded(counts: Array, rows: Array, *lists: Array) -> list[Array]:
    """Lay lists that are sorted by row out as matrices; floats are filled up with -inf."""
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    shape = (len(counts), int(counts.max()))
    out = []
    for x in lists:
        laid = np.full(shape, -np.inf if x.dtype.kind == "f" else 0, x.dtype)
        laid[rows, place] = x
        out.append(laid)
    return out


def _by_partition(values: Array, k: int) -> Array:
    n = len(values)
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
    columns = (np.flatnonzero(chosen) % values.shape[1]).reshape(n, k)
    order = np.argsort(-np.take_along_axis(values, columns, axis=1), axis=1, kind="stable")
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
