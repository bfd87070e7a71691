"""All of the batch but the positive, its copies and what looks like it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coreframe import checks
from coreframe.backend import Array, device_of, namespace
from coreframe.batch import Batch
from coreframe.dtypes import widened
from coreframe.duplicates import Duplicates, Partners
from coreframe.errors import ArgumentError
from coreframe.miner import Miner, best, pair_rows
from coreframe.relation import Masked, Relation
from coreframe.scheduler import Scheduler, plain, require_resolved
from coreframe.similarity import NAMES, Similarity

Drop = Callable[[slice, slice], Array]


@dataclass(frozen=True, kw_only=True)
class InBatch(Miner):
    """All negatives of the batch but false ones: copies of the positive, and what is too like it.

        j is kept for i  if  r_j != a_i,  r_j != p_i,  and s(p_i, r_j) <= threshold

    The usual in-batch negatives, with duplicates masked by value where no ids are known.

    Args:
        include_positive: let ``choose`` list the positives too, for who wants the indices of the
            whole batch; a relation that is mined never calls a positive a negative. Default:
            False.
        threshold: references more similar to the positive than this are left out as suspected
            false negatives. Default: None, no threshold.
        similarity: of the threshold and of what is equal: cosine, dot, euclidean or
            squared_euclidean. Default: cosine, as the losses.
        keep_equal: keep references that equal the anchor or its positive. Default: False.

    Shapes: ``mine`` gives a relation of the batch's shape, asked tile by tile; ``choose`` gives
    (n, min(k, m)) and ``select`` (n, k) indices in rising order, -1 for an empty place.

    Edges: with several positives, a reference is left out for being like any of them. Where
    labels or masks say what each pair is, nothing is equal by value, and a threshold is an
    ArgumentError. A batch of one has no negatives. ``rng`` is not used.

    Cost: O((n + m) d) and three comparisons a pair and positive; with a threshold, one more
    matrix product a positive of a row. Memory linear in n and m.

    References: Henderson et al. 2017, arXiv 1705.00652, for in-batch negatives;
    Solatorio 2024, arXiv 2402.16829, for leaving out what a similarity calls a positive.

    >>> import numpy as np
    >>> x = np.asarray([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    >>> InBatch().choose(Batch.pairs(x, x), 3, rng=None).tolist()
    [[1, -1, -1], [0, 2, -1], [1, -1, -1]]
    """

    include_positive: bool = False
    threshold: float | Scheduler | None = None
    similarity: str = "cosine"
    keep_equal: bool = False

    def __post_init__(self) -> None:
        checks.flag(self, "include_positive")
        checks.flag(self, "keep_equal")
        if self.threshold is not None:
            checks.number(self, "threshold")
        checks.choice(self, "similarity", NAMES)

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        drops, before = self._drops(batch, None), batch.relation
        if not drops:
            return before

        def narrowed(rows: slice, cols: slice, xp: Any, device: Any) -> tuple[Array, Array]:
            positive, negative = before.tile(rows, cols, xp, device)
            for drop in drops:
                negative = negative & ~drop(rows, cols)
            return positive, negative

        return Masked(narrowed, before.rows, before.columns)

    def choose(self, batch: Batch, k: int, *, rng: Any) -> Array:
        return self._choose_beside(batch, None, k, rng)

    def _choose_beside(self, batch: Batch, positives: Array | None, k: int, rng: Any) -> Array:
        drops = self._drops(batch, positives)
        xp, device = namespace(anchors=batch.anchors), device_of(batch.anchors)
        m = batch.relation.columns
        place = -xp.arange(m, dtype=xp.float32, device=device)[None, :]
        found = []
        for rows, _, positive, allowed in pair_rows(batch):
            for drop in drops:
                allowed = allowed & ~drop(rows, slice(0, m))
            if self.include_positive:
                allowed = allowed | positive
            found.append(best((xp.broadcast_to(place, allowed.shape),), allowed, min(k, m)))
        return xp.concat(found, axis=0)

    def _drops(self, batch: Batch, positives: Array | None) -> list[Drop]:
        """Return what to leave out, each a function of a tile."""
        require_resolved(self)
        found: list[Drop] = []
        # Where positives are given, select has already left out what equals them.
        if not self.keep_equal and positives is None:
            same = Duplicates.of(batch, self.similarity)
            if same is not None:
                found.append(same.tile)
        if self.threshold is not None:
            found.append(self._suspects(batch, positives))
        return found

    def _suspects(self, batch: Batch, positives: Array | None) -> Drop:
        partners = Partners.of(batch, positives)
        if partners is None or self.threshold is None:
            raise ArgumentError(
                "InBatch.threshold needs pairs or listed positives; labels and masks already say "
                "which references are false negatives"
            )
        kind, threshold, named = Similarity(self.similarity), plain(self.threshold), partners
        xp = namespace(anchors=batch.anchors)
        targets = widened(batch.targets, xp)
        center = kind.center(targets)
        columns, _ = kind.prepare(targets, center)
        pool = columns if positives is None else kind.prepare(widened(positives, xp), center)[0]

        def drop(rows: slice, cols: slice) -> Array:
            v = columns[cols, :]
            shape = (rows.stop - rows.start, cols.stop - cols.start)
            found = xp.zeros(shape, dtype=xp.bool, device=device_of(v))
            for place in range(named.places):
                u, there = named.rows(pool, place, rows)
                left, right = kind.squared_norms(u), kind.squared_norms(v)
                s = kind.finish(
                    u @ xp.matrix_transpose(v),
                    None if left is None else left[:, None],
                    None if right is None else right[None, :],
                )
                found = found | ((s > threshold) & there[:, None])
            return found

        return drop
