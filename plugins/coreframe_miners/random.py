"""Random negatives, drawn anew each step and the same on every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coreframe import checks
from coreframe.backend import Array, device_of, namespace
from coreframe.batch import Batch
from coreframe.miner import Miner, with_negatives
from coreframe.ops import top_k
from coreframe.random import fresh_seeds, hash_keys
from coreframe.relation import Relation
from coreframe.scheduler import Scheduler, require_resolved
from coreframe.tiles import Plan


@dataclass(frozen=True, kw_only=True)
class Random(Miner):
    """Keep, for each anchor, k of its negatives, drawn uniformly without replacement.

    Each (anchor, reference) pair gets a random key, an integer hash of two seeds from ``rng``
    and of the pair, computed on the device; the k largest keys win. An anchor with fewer than k
    negatives keeps all it has.

    Args:
        k: negatives an anchor, >= 1.
    """

    k: int | Scheduler = 8

    def __post_init__(self) -> None:
        checks.number(self, "k", minimum=1, integer=True)

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        require_resolved(self)
        assert isinstance(self.k, int)
        return with_negatives(batch, self.choose(batch, self.k, rng=rng))

    def choose(self, batch: Batch, k: int, *, rng: Any) -> Array:
        xp, device = namespace(anchors=batch.anchors), device_of(batch.anchors)
        n, m = batch.relation.rows, batch.relation.columns
        k, seeds = min(k, m), fresh_seeds(rng)
        found = []
        for rows in Plan.of(n, 64 * m).slices(n):
            _, negative = batch.relation.tile(rows, slice(0, m), xp, device)
            if batch.references is None:
                row = xp.arange(rows.start, rows.stop, device=device)[:, None]
                negative = negative & (row != xp.arange(m, device=device)[None, :])
            keys = hash_keys(seeds, rows, m, xp, device)
            columns = top_k(xp.where(negative, keys, -xp.ones_like(keys)), k)
            real = xp.take_along_axis(negative, columns, axis=1)
            found.append(xp.where(real, columns, -xp.ones_like(columns)))
        return xp.concat(found, axis=0)
