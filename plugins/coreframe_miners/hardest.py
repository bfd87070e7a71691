"""The hardest negatives: those most similar to the anchor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coreframe import checks
from coreframe.backend import Array, namespace
from coreframe.batch import Batch
from coreframe.miner import Miner, similarity_rows, with_negatives
from coreframe.ops import top_k
from coreframe.relation import Relation
from coreframe.scheduler import Scheduler, require_resolved
from coreframe.similarity import NAMES


@dataclass(frozen=True, kw_only=True)
class Hardest(Miner):
    """Keep, for each anchor, the k negatives that are most similar to it.

    Ties go to the lower index. An anchor with fewer than k negatives keeps all it has.

    Args:
        k: negatives an anchor, >= 1.
        similarity: cosine, dot, euclidean or squared_euclidean.

    Costs one matrix product and memory linear in the batch.

    References: Hermans et al. 2017, arXiv 1703.07737; Xuan et al. 2020, arXiv 2007.12749.
    """

    k: int | Scheduler = 8
    similarity: str = "cosine"

    def __post_init__(self) -> None:
        checks.number(self, "k", minimum=1, integer=True)
        checks.choice(self, "similarity", NAMES)

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        require_resolved(self)
        assert isinstance(self.k, int)
        return with_negatives(batch, self.choose(batch, self.k, rng=rng))

    def choose(self, batch: Batch, k: int, *, rng: Any) -> Array:
        xp = namespace(anchors=batch.anchors)
        k = min(k, batch.relation.columns)
        found = []
        for _, similarities, _, negative in similarity_rows(batch, self.similarity):
            low = xp.finfo(similarities.dtype).min
            scores = xp.where(negative, similarities, xp.full_like(similarities, low))
            columns = top_k(scores, k)
            real = xp.take_along_axis(negative, columns, axis=1)
            found.append(xp.where(real, columns, -xp.ones_like(columns)))
        return xp.concat(found, axis=0)
