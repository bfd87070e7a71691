"""Row terms of triplets without sorting a row: the few positives are the list, the many negatives
are compared with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coreframe.backend import Array
from coreframe_numpy.kernels.pairs import Pairs, count_rows, leave_out, working_copy

_FEW_LEVELS = (
    24  # positives a row up to which semi-hard partners are found by passes over the block
)
_FEW_LIMITS = 6  # and all triplets counted
_CACHED = 2**16  # entries of a block that are worked on at a time, so that memory is used again
_PASSES = 128  # below 256: numbers up to which comparing with each beats a binary search


def row_terms(loss: Any, similarities: Array, positive: Array, negative: Array) -> Any:
    """Serve ``Triplet`` in all modes."""
    if not similarities.size:
        return NotImplemented
    if loss.mode == "semi_hard":
        return _semi_hard(similarities, positive, negative, float(loss.margin))
    pairs = Pairs.of(positive)
    levels = pairs.of_matrix(similarities)
    s = working_copy(loss, similarities)
    leave_out(s, negative)
    if loss.mode == "hardest":
        return _hardest(s, pairs, levels, float(loss.margin))
    return _all(s, pairs, levels, negative, float(loss.margin))


def local_row_terms(loss: Any, similarities: Array, positive: Array, negative: Array) -> Any:
    """Serve ``LocalContrastive``: all triplets, averaged or summed over the negatives."""
    if not similarities.size:
        return NotImplemented
    pairs = Pairs.of(positive)
    levels = pairs.of_matrix(similarities)
    s = working_copy(loss, similarities)
    leave_out(s, negative)
    mean = loss.over_negatives == "mean"
    return _all(s, pairs, levels, negative, float(loss.margin), mean)


def _hardest(s: np.ndarray, pairs: Pairs, levels: np.ndarray, margin: float) -> Any:
    """Take s with -inf where a column is no negative; it becomes the gradient."""
    rows = np.arange(len(s))
    near = s.argmax(axis=1)
    table = pairs.table(levels, np.inf)
    far = table.argmin(axis=1)
    slack = s[rows, near] - table[rows, far] + s.dtype.type(margin)
    active = slack > 0
    s.fill(0)
    s[rows[active], near[active]] = 1
    starts = np.cumsum(pairs.count) - pairs.count
    s.reshape(-1)[pairs.flat[(starts + far)[active]]] = -1
    return np.where(active, slack, 0).astype(s.dtype), s


def _semi_hard(s: np.ndarray, positive: np.ndarray, negative: np.ndarray, margin: float) -> Any:
    pairs = Pairs.of(positive)
    levels = pairs.of_matrix(s)
    work = np.array(s, order="C")
    leave_out(work, negative)
    table = pairs.table(levels, np.inf)
    next_of = _next_by_passes if table.shape[1] <= _FEW_LEVELS else _next_by_search
    near = np.empty(table.shape, np.intp)
    for part in _parts(s):
        near[part] = next_of(work[part], table[part])
    near = near[pairs.places(table)]
    there: Any = negative.any(axis=1)
    lacks = np.zeros(len(s), bool)
    lacks[pairs.row[near < 0]] = True
    lacks &= there
    if lacks.any():  # no negative is farther: the farthest, and the first of equal ones
        farthest = np.zeros(len(s), np.intp)
        farthest[lacks] = np.where(negative[lacks], s[lacks], np.inf).argmin(axis=1)
        near = np.where(near < 0, farthest[pairs.row], near)
    target = pairs.row * s.shape[1] + near
    slack = np.where(there[pairs.row], s.reshape(-1)[target] - levels + s.dtype.type(margin), 0)
    slack = slack.astype(s.dtype)
    active: np.ndarray = slack > 0
    losses = pairs.mean(np.where(active, slack, 0).astype(s.dtype))
    share = (1 / np.maximum(pairs.count, 1)).astype(s.dtype)[pairs.row]
    work.fill(0)
    flat = work.reshape(-1)
    flat[pairs.flat[active]] = -share[active]
    np.add.at(flat, target[active], share[active])  # several positives may share a negative
    return losses, work


def _next_by_passes(work: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Return for each positive (r, p) the column of the next farther negative, or -1.

    Positives are taken from the nearest to the farthest, so that what was too near stays out;
    the places that are filled up, with inf, come first and take nothing out.
    """
    rows = np.arange(len(work))
    near = np.empty(levels.shape, np.intp)
    too_near = np.empty(work.shape, bool)
    for place in np.argsort(-levels, axis=1).T:
        np.greater_equal(work, levels[rows, place][:, None], out=too_near)
        np.copyto(work, -np.inf, where=too_near)
        column = work.argmax(axis=1)
        near[rows, place] = np.where(work[rows, column] > -np.inf, column, -1)
    return near


def _next_by_search(work: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """The same, by the place of each negative among the positives of its row."""
    r, m = work.shape
    order = np.argsort(levels, axis=1)
    table = np.take_along_axis(levels, order, axis=1)
    # The number of positives as far as the negative or farther: it may serve those behind them.
    bins = _bins(_count_below(work, table, np.greater_equal), table.shape[1])
    best = np.full(r * (table.shape[1] + 1), -np.inf, work.dtype)
    with np.errstate(invalid="ignore"):  # which a NaN sets here, and nowhere else
        np.maximum.at(best, bins.reshape(-1), work.reshape(-1))
    is_best = (work == best[bins]) & (work > -np.inf)
    first = np.flatnonzero(is_best)[::-1]  # from the right: the first of equal ones is kept
    column = np.full((r, table.shape[1] + 1), -1)
    column.reshape(-1)[bins.reshape(-1)[first]] = first % m
    # A positive's partner is in its own bin, or in the last one below that has any.
    last = np.where(column >= 0, np.arange(column.shape[1]), 0)
    last = np.maximum.accumulate(last, axis=1)
    near = np.empty_like(order)
    np.put_along_axis(near, order, np.take_along_axis(column, last, axis=1)[:, :-1], axis=1)
    return near


def _all(
    s: np.ndarray,
    pairs: Pairs,
    levels: np.ndarray,
    negative: np.ndarray,
    margin: float,
    mean: bool = True,
) -> Any:
    """Take s with -inf where a column is no negative; it becomes the gradient.

    A negative is active with the positives whose limit, their similarity less the margin, lies
    below it.
    """
    # Filled up with a number that nothing is above, and that can be subtracted from itself.
    limits = pairs.table(levels - s.dtype.type(margin), np.finfo(s.dtype).max)
    terms_of = _terms_by_passes if limits.shape[1] <= _FEW_LIMITS else _terms_by_search
    losses, above = np.empty(len(s), s.dtype), np.empty(limits.shape, s.dtype)
    for part in _parts(s):
        losses[part], above[part] = terms_of(s[part], limits[part])
    terms = pairs.count * (count_rows(negative) if mean else 1)
    scale = (1 / np.maximum(terms, 1)).astype(s.dtype)
    s *= scale[:, None]
    s.reshape(-1)[pairs.flat] = -(above * scale[:, None])[pairs.places(limits)]
    return losses * scale, s


def _terms_by_passes(s: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of each row's terms, and the negatives above each limit; leave in s the
    number of limits below each negative.
    """
    losses, above = np.zeros(len(s), s.dtype), np.empty(limits.shape, s.dtype)
    slack, active = np.empty_like(s), np.empty(s.shape, bool)
    below = np.zeros(s.shape, np.uint8)
    for place in range(limits.shape[1]):
        limit = limits[:, place, None]
        np.maximum(s, limit, out=slack)
        slack -= limit
        losses += slack.sum(axis=1)
        np.greater(slack, 0, out=active)
        below += active.view(np.uint8)
        above[:, place] = count_rows(active)
    np.copyto(s, below)
    return losses, above


def _terms_by_search(s: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same, by the place of each negative among the limits of its row.

    With b limits below it, the terms of a negative are b times what it is above the nearest of
    them, and what that one is above the others: nothing cancels.
    """
    order = np.argsort(limits, axis=1)
    limits = np.take_along_axis(limits, order, axis=1)
    r, w = limits.shape
    below = _count_below(s, limits, np.greater)
    bins = _bins(below, w)
    nearest = np.concatenate([np.zeros((r, 1), s.dtype), limits], axis=1).reshape(-1)
    s -= nearest[bins]
    number = np.bincount(bins.reshape(-1), minlength=r * (w + 1)).reshape(r, w + 1)[:, 1:]
    excess = np.bincount(bins.reshape(-1), s.reshape(-1), r * (w + 1)).reshape(r, w + 1)[:, 1:]
    # In column b - 1, what the nearest of b limits is above the others.
    steps = np.zeros((r, w))
    real = limits[:, 1:] < np.finfo(s.dtype).max
    np.subtract(limits[:, 1:], limits[:, :-1], out=steps[:, 1:], where=real)
    others = np.cumsum(steps * np.arange(w), axis=1)
    losses = np.sum(excess * np.arange(1, w + 1) + number * others, axis=1)
    above = np.empty((r, w), s.dtype)
    np.put_along_axis(above, order, np.cumsum(number[:, ::-1], axis=1)[:, ::-1], axis=1)
    np.copyto(s, below)
    return losses.astype(s.dtype), above


def _count_below(s: np.ndarray, table: np.ndarray, above: np.ufunc) -> np.ndarray:
    """Return for each entry of s (r, m) how many of its row of the table, which rises, it is
    above: ``greater`` or ``greater_equal``.
    """
    if table.shape[1] > _PASSES:
        side: Any = "left" if above is np.greater else "right"
        return np.stack([np.searchsorted(x, y, side) for x, y in zip(table, s, strict=True)])
    result, one = np.zeros(s.shape, np.uint8), np.empty(s.shape, bool)
    for place in range(table.shape[1]):
        above(s, table[:, place, None], out=one)
        result += one.view(np.uint8)
    return result


def _bins(count: np.ndarray, width: int) -> np.ndarray:
    """Number the places between the width entries of each row's table, rows after one another."""
    return count + np.arange(0, len(count) * (width + 1), width + 1)[:, None]


def _parts(s: np.ndarray) -> list[slice]:
    step = max(1, _CACHED // s.shape[1])
    return [slice(i, i + step) for i in range(0, len(s), step)]
