"""What the kernels of losses share: pairs that are few in a row, as lists instead of masks.

A label has few positives among thousands of columns. Finding them in a mask costs a fifth of a
nanosecond a column, and then they cost nothing, where a masked pass over the block (np.where)
costs five times as much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

_SPARSE = 16  # below one in so many columns, a list of columns is faster than a masked copy


def working_copy(loss: Any, similarities: np.ndarray) -> np.ndarray:
    """Return the similarities to overwrite: themselves, where the engine needs them no more."""
    free = loss.similarity != "euclidean" and not loss.learnable_scale
    flags = similarities.flags
    if free and flags.writeable and flags.c_contiguous:
        return similarities
    return np.array(similarities, order="C")


def leave_out(x: np.ndarray, keep: np.ndarray) -> None:
    """Put -inf into the columns of x that are not kept."""
    out = np.logical_not(keep)
    if np.count_nonzero(out) * _SPARSE > x.size:
        np.copyto(x, -np.inf, where=out)
    else:
        x.reshape(-1)[np.flatnonzero(out)] = -np.inf


def count_rows(mask: np.ndarray) -> np.ndarray:
    """Return how many are true in each row; NumPy counts bytes fast only without an axis."""
    return np.array([np.count_nonzero(row) for row in mask])


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs of a mask (r, m), row by row and in the order of columns."""

    flat: np.ndarray  # (p,), row * m + column
    row: np.ndarray  # (p,)
    count: np.ndarray  # (r,), pairs of each row

    @classmethod
    def of(cls, mask: np.ndarray) -> Pairs:
        r, m = mask.shape
        flat = np.flatnonzero(mask)
        count = np.diff(np.searchsorted(flat, np.arange(r + 1) * m))
        return cls(flat, np.repeat(np.arange(r), count), count)

    def of_matrix(self, x: np.ndarray) -> np.ndarray:
        """Return the entries of x (r, m) that are pairs, (p,)."""
        result: np.ndarray = x.reshape(-1)[self.flat]
        return result

    def sum(self, x: np.ndarray) -> np.ndarray:
        """Add x (p,) by row, (r,)."""
        return np.bincount(self.row, x, len(self.count)).astype(x.dtype)

    def mean(self, x: np.ndarray) -> np.ndarray:
        """Average x (p,) by row, (r,); 0 for rows without a pair."""
        result: np.ndarray = (self.sum(x) / np.maximum(self.count, 1)).astype(x.dtype)
        return result

    def table(self, x: np.ndarray, fill: float) -> np.ndarray:
        """Return x (p,) as (r, the most pairs of a row, at least 1), filled up on the right."""
        result = np.full((len(self.count), max(1, self.count.max(initial=0))), fill, x.dtype)
        starts = np.cumsum(self.count) - self.count
        result[self.row, np.arange(len(x)) - starts[self.row]] = x
        return result

    def places(self, table: np.ndarray) -> np.ndarray:
        """Return which places of such a table are pairs and not filled up, in their order."""
        result: np.ndarray = np.arange(table.shape[1]) < self.count[:, None]
        return result
