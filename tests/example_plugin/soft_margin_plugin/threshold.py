"""Negatives inside a band of similarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coreframe import checks
from coreframe.backend import Array, namespace
from coreframe.batch import Batch
from coreframe.errors import ArgumentError
from coreframe.miner import Miner, similarity_rows, with_negatives
from coreframe.ops import top_k
from coreframe.relation import Relation
from coreframe.scheduler import Scheduler, plain, require_resolved
from coreframe.similarity import NAMES


@dataclass(frozen=True, kw_only=True)
class Threshold(Miner):
    """Keep, for each anchor, the k hardest negatives with lowest <= similarity <= highest.

    ``highest`` leaves out what is so similar that it is probably a positive nobody labelled;
    ``lowest`` what is too easy to learn from. An anchor with fewer than k such negatives keeps
    all it has; the empty places are -1, so that shapes do not depend on the data.

    Args:
        k: negatives an anchor, >= 1.
        lowest: the least similarity that is kept.
        highest: the largest similarity that is kept, above ``lowest``.
        similarity: cosine, dot, euclidean or squared_euclidean.

    References: Moreira et al. 2024, arXiv 2407.15831, "TopK-Abs".
    """

    k: int | Scheduler = 8
    lowest: float | Scheduler = 0.0
    highest: float | Scheduler = 0.95
    similarity: str = "cosine"

    def __post_init__(self) -> None:
        checks.number(self, "k", minimum=1, integer=True)
        checks.number(self, "lowest")
        checks.number(self, "highest")
        checks.choice(self, "similarity", NAMES)
        scheduled = isinstance(self.lowest, Scheduler) or isinstance(self.highest, Scheduler)
        if not scheduled and plain(self.lowest) >= plain(self.highest):
            raise ArgumentError(
                f"Threshold.lowest must be below highest, got {self.lowest} and {self.highest}"
            )

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        require_resolved(self)
        assert isinstance(self.k, int)
        return with_negatives(batch, self.choose(batch, self.k, rng=rng))

    def choose(self, batch: Batch, k: int, *, rng: Any) -> Array:
        xp = namespace(anchors=batch.anchors)
        lowest, highest = plain(self.lowest), plain(self.highest)
        chosen = []
        for _, similarities, _, negative in similarity_rows(batch, self.similarity):
            kept = negative & (similarities >= lowest) & (similarities <= highest)
            least = xp.full_like(similarities, xp.finfo(similarities.dtype).min)
            columns = top_k(xp.where(kept, similarities, least), min(k, kept.shape[1]))
            real = xp.take_along_axis(kept, columns, axis=1)
            chosen.append(xp.where(real, columns, -xp.ones_like(columns)))
        return xp.concat(chosen, axis=0)
