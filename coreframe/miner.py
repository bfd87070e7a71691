"""The interface of miners: which of the pairs of a batch are worth learning from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from coreframe.backend import Array, device_of, namespace
from coreframe.batch import Batch
from coreframe.errors import ArgumentError
from coreframe.relation import Listed, Masked, Relation
from coreframe.similarity import Similarity
from coreframe.tiles import similarity_rows

__all__ = ["Miner", "similarity_rows"]

_ROUNDING = 2e-6  # of a cosine in float32, at any width


class Miner(ABC):
    """Narrows the relation of a batch: it may drop pairs, and never invents one.

    Subclasses are frozen, keyword-only dataclasses. The result has fixed shapes, and depends on
    the batch and on ``rng`` alone: the same on every backend.
    """

    @abstractmethod
    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        """Return a sub-relation of ``batch.relation``; rng is a numpy.random.Generator."""

    def select(
        self, anchors: Array, positives: Array, candidates: Array, k: int, *, rng: Any
    ) -> Array:
        """Return the indices of k negatives an anchor among candidates: (n, k) int, -1 for none.

        anchors and positives (n, d), candidates (m, d). Candidates that equal the anchor or its
        positive (up to length and rounding) are never chosen.
        """
        xp = namespace(anchors=anchors, positives=positives, candidates=candidates)
        n, m = anchors.shape[0], candidates.shape[0]
        if positives.shape != anchors.shape:
            raise ArgumentError(
                f"anchors and positives must have one shape, "
                f"got {tuple(anchors.shape)} and {tuple(positives.shape)}"
            )
        if k < 1:
            raise ArgumentError(f"k must be at least 1, got {k}")
        dtype = xp.float32 if xp.finfo(anchors.dtype).bits < 32 else anchors.dtype
        units = [
            Similarity("cosine").prepare(xp.astype(x, dtype), None)[0]
            for x in (anchors, positives, candidates)
        ]

        def relation(rows: slice, cols: slice, xp: Any, device: Any) -> tuple[Array, Array]:
            targets = xp.matrix_transpose(units[2][cols, :])
            same = [unit[rows, :] @ targets >= 1 - _ROUNDING for unit in units[:2]]
            allowed = ~(same[0] | same[1])
            return xp.zeros_like(allowed), allowed

        batch = Batch(anchors=anchors, references=candidates, relation=Masked(relation, n, m))
        found = self.choose(batch, k, rng=rng)
        if found.shape[1] < k:
            missing = xp.full(
                (n, k - found.shape[1]), -1, dtype=found.dtype, device=device_of(anchors)
            )
            found = xp.concat([found, missing], axis=1)
        return found

    def choose(self, batch: Batch, k: int, *, rng: Any) -> Array:
        """Return the columns of k negatives a row, (n, min(k, m)) int, -1 for none."""
        raise NotImplementedError(f"{type(self).__name__} cannot choose among candidates")


def with_negatives(batch: Batch, columns: Array) -> Relation:
    """Return the batch's relation with its negatives narrowed to ``columns`` (n, k), -1 = none.

    Positives stay as they are. Where the batch is aligned the result is listed, so that a loss
    gathers the few pairs instead of multiplying all.
    """
    from coreframe.relation import Aligned

    xp = namespace(columns=columns)
    device = device_of(columns)
    n, m = batch.relation.rows, batch.relation.columns
    if isinstance(batch.relation, Aligned):
        own = xp.arange(n, dtype=columns.dtype, device=device)[:, None]
        return Listed(xp.where(own < m, own, -xp.ones_like(own)), columns, m)
    listed = Listed(xp.zeros((n, 0), dtype=columns.dtype, device=device), columns, m)
    before = batch.relation

    def narrowed(rows: slice, cols: slice, xp: Any, device: Any) -> tuple[Array, Array]:
        positive, negative = before.tile(rows, cols, xp, device)
        return positive, negative & listed.tile(rows, cols, xp, device)[1]

    return Masked(narrowed, n, m)
