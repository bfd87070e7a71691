"""Both directions of InfoNCE at once: four products where two calls take six.

The similarities are computed twice: first for the sums of exponentials of rows and of columns,
then for the slopes of both directions together. All exponentials have one shift, 1 / temperature,
above which no cosine comes; below it they reach down to exp(-2 / temperature), which float32 holds
for temperatures from 1/30, and float64 for those from 1/300.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from coreframe.backend import Array
from coreframe.batch import Batch
from coreframe.blocks import block_loop
from coreframe.loss import LossResult
from coreframe.result import wanted_fields
from coreframe.similarity import Similarity
from coreframe.tiles import prepare, rows_of


def value_and_grad(loss: Any, batch: Batch, wrt: tuple[str, ...] | None) -> Any:
    """Serve as many references as anchors, row i with row i, without weights; leave the rest."""
    n = len(batch.anchors)
    if (
        batch.references is None
        or not batch.relation.diagonal
        or len(batch.references) != n
        or n < 2
        or batch.negatives is not None
        or batch.weights is not None
        or loss.learnable_scale
        or loss.similarity != "cosine"
        or loss.reduction not in ("mean", "sum")
        or 2 / float(loss.temperature) > 600
    ):
        return NotImplemented
    wanted = wanted_fields(batch, wrt)
    (left, pull_left), (right, pull_right), _ = prepare(batch, Similarity("cosine"))
    dtype = left.dtype
    both = _Both(float(loss.temperature), float(loss.margin), n, dtype)
    rows = rows_of(
        loss.row_terms,
        batch,
        Similarity("cosine"),
        prepared=(left, right, None, None),
        memory_budget=loss.memory_budget,
        working_arrays=4,
        diagonal_terms=both.sums,
    )
    totals = block_loop(left, rows)
    weight = 1 / n if loss.reduction == "mean" else 1.0
    forth, back = both.finish(totals.sums["columns"], 0.5 * weight)
    value = 0.5 * weight * (forth.sum() + back.sum())
    wants = {"anchors": "left", "references": "right"}
    grads = {}
    if wanted:
        rows = replace(
            rows, wants=frozenset(wants[name] for name in wanted), diagonal_terms=both.slopes
        )
        totals = block_loop(left, rows)
        for name in wanted:
            grads[name] = (
                pull_left(totals.left) if name == "anchors" else pull_right(totals.sums["right"])
            )
    active = np.asarray(np.count_nonzero(forth) / n, dtype)
    return LossResult(np.asarray(value, dtype), grads, {}, {"active": active})


class _Both:
    """The sums of rows and columns, and from them the slopes."""

    def __init__(self, temperature: float, margin: float, n: int, dtype: Any) -> None:
        self.temperature, self.margin, self.dtype = temperature, margin, dtype
        self.wide = np.float64 if 2 / temperature > 60 else dtype
        self.rows, self.own = np.empty(n, self.wide), np.empty(n, self.wide)

    def _shares(self, cosines: Array, first: int) -> tuple[Array, Array]:
        """Return exp((cosine - 1) / temperature), 0 for the pairs, and the pairs' exponents."""
        i = np.arange(len(cosines))
        z = cosines if self.wide == cosines.dtype else cosines.astype(self.wide)
        z -= 1
        z *= 1 / self.temperature
        own = z[i, i + first]
        np.exp(z, out=z)
        z[i, i + first] = 0
        return z, own

    def sums(self, cosines: Array, first: int) -> Any:
        """Take the sums of some rows, and what they add to those of the columns."""
        shares, own = self._shares(cosines, first)
        part = slice(first, first + len(own))
        self.own[part] = own - self.margin / self.temperature
        np.add.reduce(shares, axis=1, out=self.rows[part])
        return np.zeros(len(own), self.dtype), cosines, {"columns": shares.sum(axis=0)}

    def finish(self, columns: Array, weight: float) -> tuple[Array, Array]:
        """Return the losses of both directions, and keep what their slopes need."""
        found = []
        self.shares_of: list[Any] = []
        self.misses: Any = 0.0
        for total in (self.rows, columns):
            gap = np.log(total) - self.own  # logsumexp over negatives - the positive
            small = np.exp(-np.abs(gap))
            miss = np.where(gap > 0, 1, small) / (1 + small) * (weight / self.temperature)
            found.append((np.maximum(gap, 0) + np.log1p(small)).astype(self.dtype))
            self.shares_of.append(miss / total)
            self.misses = self.misses + miss
        return found[0], found[1]

    def slopes(self, cosines: Array, first: int) -> Any:
        """Return the slopes of some rows, of both directions together."""
        shares, own = self._shares(cosines, first)
        i, part = np.arange(len(own)), slice(first, first + len(own))
        by_row, by_column = self.shares_of
        shares *= by_row[part, None] + by_column
        shares[i, i + first] = -self.misses[part]
        return np.zeros(len(own), self.dtype), shares, {}
