"""The interface of miners: which of the pairs of a batch are worth learning from.

``Miner`` is all that the framework asks for. ``RankingMiner`` is the shape of nearly all of them:
score the columns of a block of rows, and keep the best k of each row.
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from coreframe import checks
from coreframe.backend import Array, device_of, namespace
from coreframe.batch import Batch
from coreframe.blocks import Plan
from coreframe.component import Component
from coreframe.dtypes import widened
from coreframe.duplicates import Duplicates
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.ops import top_k
from coreframe.random import fresh_seeds, hash_keys
from coreframe.relation import Aligned, Listed, Masked, Relation
from coreframe.scheduler import Scheduler, plain, require_resolved
from coreframe.similarity import Similarity
from coreframe.tiles import similarity_rows

__all__ = [
    "Miner",
    "RankingMiner",
    "Rows",
    "best",
    "pair_rows",
    "similarity_rows",
    "with_negatives",
]

_ROW_BYTES = 64  # a column, of a row of masks, keys and their temporaries


class Miner(Component, ABC):
    """Narrows the relation of a batch: it may drop pairs, and never invents one.

    Subclasses are frozen, keyword-only dataclasses. The result has fixed shapes, and depends on
    the batch and on ``rng`` alone: the same on every backend. A field ``similarity`` says by
    which measure vectors are equal (without it, cosine), and a field ``keep_equal`` whether those
    that equal the anchor or its positive may be chosen (without it, never).
    """

    @abstractmethod
    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        """Return a sub-relation of ``batch.relation``; rng is a numpy.random.Generator."""

    def choose(self, batch: Batch, k: int, *, rng: Any) -> Array:
        """Return the columns of k negatives a row, (n, min(k, m)) int, -1 for none."""
        raise NotImplementedError(f"{type(self).__name__} cannot choose among candidates")

    def select(
        self, anchors: Array, positives: Array, candidates: Array, k: int, *, rng: Any
    ) -> Array:
        """Return the indices of k negatives an anchor among candidates: (n, k) int, -1 for none.

        anchors and positives (n, d), candidates (m, d), k >= 0. Candidates that equal the anchor
        or its positive (in direction for cosine, else in value, up to rounding) are never chosen,
        unless the miner has ``keep_equal=True``.
        """
        xp = namespace(anchors=anchors, positives=positives, candidates=candidates)
        if positives.shape != anchors.shape:
            raise ArgumentError(
                f"anchors and positives must have one shape, "
                f"got {tuple(anchors.shape)} and {tuple(positives.shape)}"
            )
        if isinstance(k, bool) or not isinstance(k, numbers.Integral):
            raise ArgumentTypeError(f"k must be an integer, got {k!r}")
        if k < 0:
            raise ArgumentError(f"k must be at least 0, got {k}")
        k = int(k)
        anchors, positives, candidates = (
            checks.embeddings(name, x, width=None if x is anchors else anchors.shape[1])
            for name, x in (
                ("anchors", anchors),
                ("positives", positives),
                ("candidates", candidates),
            )
        )
        n, m = anchors.shape[0], candidates.shape[0]
        if k == 0:
            return xp.argsort(anchors[:, :0], axis=1)  # (n, 0), in the dtype of indices
        same: Duplicates | None = None

        def relation(rows: slice, cols: slice, xp: Any, device: Any) -> tuple[Array, Array]:
            shape = (rows.stop - rows.start, cols.stop - cols.start)
            nothing = xp.zeros(shape, dtype=xp.bool, device=device)
            return nothing, ~(nothing if same is None else same.tile(rows, cols))

        batch = Batch(anchors=anchors, references=candidates, relation=Masked(relation, n, m))
        if not getattr(self, "keep_equal", False):
            same = Duplicates.of(batch, measure(self), positives)
        found = self._choose_beside(batch, positives, k, rng)
        if found.shape[1] < k:
            missing = xp.full(
                (n, k - found.shape[1]), -1, dtype=found.dtype, device=device_of(anchors)
            )
            found = xp.concat([found, missing], axis=1)
        return found

    def _choose_beside(self, batch: Batch, positives: Array, k: int, rng: Any) -> Array:
        """Choose, where the positives (n, d) are not among the references."""
        return self.choose(batch, k, rng=rng)


@dataclass(frozen=True, eq=False)
class Rows:
    """One block of r rows and all m columns of a batch, as a ranking miner sees it.

    negative (r, m) bool: what may be chosen. similarities (r, m), a larger one is more alike, and
    farthest (r, 1), the similarity of the row's least similar positive, infinite where it has
    none: both None unless the miner ``needs_similarities``. keys (r, m) float32, uniform in
    [0, 1): None unless it ``needs_keys``. width: d.
    """

    part: slice
    width: int
    negative: Array
    similarities: Any = None
    farthest: Any = None
    keys: Any = None


@dataclass(frozen=True, kw_only=True)
class RankingMiner(Miner):
    """Keeps, for each anchor, the k negatives with the largest scores.

    A subclass writes ``scores`` for one block of rows. Blocks, who may be chosen, the k best,
    ties (to the lower index), empty places (-1), ``mine``, ``choose`` and ``select`` are done
    here. ``needs_similarities = False`` saves a miner that only draws the matrix product, and
    ``needs_keys = True`` gives it random keys.

    A reference that equals the anchor or its positive as a vector, at whatever index, is not
    chosen: in ``select``, and in ``mine`` where the relation is aligned (with ids or without) or
    listed. Labels and masks say of each pair what it is; there, equal vectors of two classes are
    negatives of each other.

    Args:
        k: negatives an anchor in ``mine``, >= 1. Default: 8, few enough that a loss gathers them
            instead of multiplying all.
        keep_equal: choose such equal vectors too. Default: False, since they are false negatives.

    Shapes: ``mine`` gives a relation of the batch's shape, ``choose`` (n, min(k, m)) and
    ``select`` (n, k) indices.

    Edges: an anchor with fewer than k negatives keeps all it has, and -1 fills the rest; in a
    batch of one, or of equal vectors, there are none, and InfoNCE on the result is 0.

    Cost: O((n + m) d) and three comparisons a pair for equal vectors, the k best in O(m) a row,
    one matrix product if similarities are needed; memory linear in n and m.

    References: none; what a subclass scores has its own.

    >>> import numpy as np
    >>> class Easiest(RankingMiner):
    ...     def scores(self, rows):
    ...         return -rows.similarities
    >>> x = np.asarray([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> Easiest().select(x, x, x, 3, rng=None).tolist()
    [[1, 2, -1], [0, 2, -1], [0, 1, -1]]
    """

    k: int | Scheduler = 8
    keep_equal: bool = False

    needs_similarities: ClassVar[bool] = True
    needs_keys: ClassVar[bool] = False

    def __post_init__(self) -> None:
        checks.flag(self, "keep_equal")
        checks.number(self, "k", minimum=1, integer=True)

    @abstractmethod
    def scores(self, rows: Rows) -> Array | tuple[Array, ...]:
        """Return (r, m) scores, the largest wins; -inf leaves a column out.

        Of several arrays, a later one fills the places that the earlier ones leave empty.
        Columns that may not be chosen are left out whatever their score.
        """

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        require_resolved(self)
        return with_negatives(batch, self.choose(batch, int(plain(self.k)), rng=rng))

    def choose(self, batch: Batch, k: int, *, rng: Any) -> Array:
        return self._choose_beside(batch, None, k, rng)

    def _choose_beside(self, batch: Batch, positives: Array | None, k: int, rng: Any) -> Array:
        require_resolved(self)
        xp = namespace(anchors=batch.anchors)
        k = min(k, batch.relation.columns)
        found = []
        for rows in self._rows(batch, positives, rng):
            scores = self.scores(rows)
            tiers = scores if isinstance(scores, tuple) else (scores,)
            found.append(best(tiers, rows.negative, k))
        return xp.concat(found, axis=0)

    def _rows(self, batch: Batch, positives: Array | None, rng: Any) -> Iterator[Rows]:
        """Yield the blocks with all that this miner needs."""
        xp, device = namespace(anchors=batch.anchors), device_of(batch.anchors)
        m, d = batch.relation.columns, batch.anchors.shape[1]
        seeds = fresh_seeds(rng) if self.needs_keys else None
        # Where positives are given, select has already left out what equals them.
        keep = self.keep_equal or positives is not None
        same = None if keep else Duplicates.of(batch, measure(self))
        beside = None
        if positives is not None and self.needs_similarities:
            beside = _row_by_row(batch, positives, measure(self))
        blocks = similarity_rows(batch, measure(self)) if self.needs_similarities else None
        for part, similarities, positive, negative in blocks or pair_rows(batch):
            if same is not None:
                negative = negative & ~same.tile(part, slice(0, m))
            farthest = None
            if beside is not None:
                farthest = beside[part, :]
            elif similarities is not None:
                far = xp.where(positive, similarities, xp.full_like(similarities, math.inf))
                farthest = xp.min(far, axis=1, keepdims=True)
            keys = None if seeds is None else hash_keys(seeds, part, m, xp, device)
            yield Rows(part, d, negative, similarities, farthest, keys)


def best(tiers: tuple[Array, ...], allowed: Array, k: int) -> Array:
    """Return the columns of the k largest scores a row among those allowed, -1 for none.

    Tiers of scores and allowed are (r, m); k <= m. A score of -inf is none, and a later tier is
    used only where the earlier ones leave places.
    """
    xp = namespace(allowed=allowed)
    found = []
    for scores in tiers:
        scores = xp.where(allowed, scores, xp.full_like(scores, -math.inf))
        columns = top_k(scores, k)
        real = xp.take_along_axis(scores, columns, axis=1) > -math.inf
        found.append(xp.where(real, columns, -xp.ones_like(columns)))
    if len(found) == 1:
        return found[0]
    columns = xp.concat(found, axis=1)
    filled_first = xp.argsort(xp.astype(columns < 0, xp.int32), axis=1, stable=True)
    return xp.take_along_axis(columns, filled_first[:, :k], axis=1)


def pair_rows(batch: Batch) -> Iterator[tuple[slice, None, Array, Array]]:
    """Yield (rows, None, positive, negative) block by block: ``similarity_rows`` without them."""
    xp, device = namespace(anchors=batch.anchors), device_of(batch.anchors)
    n, m = batch.relation.rows, batch.relation.columns
    for part in Plan.of(n, _ROW_BYTES * m).slices(n):
        positive, negative = batch.relation.tile(part, slice(0, m), xp, device)
        if batch.references is None:
            row = xp.arange(part.start, part.stop, device=device)[:, None]
            other = row != xp.arange(m, device=device)[None, :]
            positive, negative = positive & other, negative & other
        yield part, None, positive, negative


def measure(miner: Miner) -> str:
    """Return the similarity of a miner: its field of that name, or cosine."""
    return getattr(miner, "similarity", "cosine")


def _row_by_row(batch: Batch, positives: Array, name: str) -> Array:
    """Return the similarity of each anchor and its own positive, (n, 1)."""
    xp, kind = namespace(anchors=batch.anchors), Similarity(name)
    center = kind.center(widened(batch.targets, xp))
    (left, _), (right, _) = (
        kind.prepare(widened(x, xp), center) for x in (batch.anchors, positives)
    )
    if kind.is_distance:
        return kind.finish_differences(left - right)[:, None]
    return xp.sum(left * right, axis=1, keepdims=True)


def with_negatives(batch: Batch, columns: Array) -> Relation:
    """Return the batch's relation with its negatives narrowed to ``columns`` (n, k), -1 = none.

    Positives stay as they are. Where the batch is aligned the result is listed, so that a loss
    gathers the few pairs instead of multiplying all.
    """
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
