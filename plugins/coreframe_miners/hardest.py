"""The hardest negatives: those most similar to the anchor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe import checks
from coreframe.backend import Array
from coreframe.component import Preset
from coreframe.miner import RankingMiner, Rows
from coreframe.similarity import NAMES


@dataclass(frozen=True, kw_only=True)
class Hardest(RankingMiner):
    """The k negatives that are most similar to the anchor, the most similar first.

        argtop_k over j of s(a_i, r_j),  j a negative of i

    Args:
        k: negatives an anchor, >= 1. Default: 8, few enough that a loss gathers them instead of
            multiplying all.
        similarity: cosine, dot, euclidean or squared_euclidean. Default: cosine, as the losses.
        keep_equal: choose references that equal the anchor or its positive too. Default: False,
            since the hardest of all would be the positive's own copy.

    Shapes: ``mine`` narrows a batch of (n, d) and (m, d) to k negatives a row; ``choose`` gives
    (n, min(k, m)) and ``select`` (n, k) indices, -1 for an empty place.

    Edges: ties go to the lower index. An anchor with fewer than k negatives keeps all it has; a
    batch of one has none. ``rng`` is not used.

    Cost: one matrix product, O(n m d) time, and memory linear in n and m.

    References: Hermans et al. 2017, arXiv 1703.07737, "batch hard"; Xuan et al. 2020, arXiv
    2007.12749.

    >>> import numpy as np
    >>> a, p = np.asarray([[1.0, 0.0]]), np.asarray([[0.9, 0.1]])
    >>> candidates = np.asarray([[0.0, 1.0], [0.9, 0.1], [0.5, 0.5]])
    >>> Hardest().select(a, p, candidates, 2, rng=None).tolist()
    [[2, 0]]
    """

    similarity: str = "cosine"

    presets: ClassVar[Mapping[str, Preset]] = {
        "pytorch-metric-learning": Preset(
            equals="pytorch_metric_learning.miners.BatchHardMiner",
            fields={"k": 1, "similarity": "cosine", "keep_equal": True},
            version="pytorch-metric-learning 2.9.0",
            note="The negatives; positives stay all, where BatchHardMiner keeps the farthest. "
            "Distances of unit vectors order as cosines do.",
        ),
        "oml": Preset(
            equals="oml.miners.inbatch_hard_tri.HardTripletsMiner",
            fields={"k": 1, "similarity": "euclidean", "keep_equal": True},
            version="open-metric-learning 4.0.0",
            note="The negatives; positives stay all, where HardTripletsMiner keeps the farthest.",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.choice(self, "similarity", NAMES)

    def scores(self, rows: Rows) -> Array:
        return rows.similarities
