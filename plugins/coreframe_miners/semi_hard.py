"""Semi-hard negatives: harder than the margin asks, and still farther than the positive."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from coreframe import checks
from coreframe.backend import Array, namespace
from coreframe.batch import Batch
from coreframe.component import Preset
from coreframe.miner import RankingMiner, Rows
from coreframe.scheduler import Scheduler, plain, require_resolved
from coreframe.similarity import NAMES

FILLS = ("easier", "hardest", "none")


@dataclass(frozen=True, kw_only=True)
class SemiHard(RankingMiner):
    """The k hardest of the negatives that are less similar than the positive, within a margin.

        s_p - margin < s_ij < s_p,  s_p the least of the similarities of i's positives

    strict at both ends; of these the most similar first. With distances d = -s that is
    d_p < d_ij < d_p + margin, where a triplet loss of that margin is positive and a push does
    not fight the order. What the band leaves empty is filled from the other negatives by the same
    similarity. Those of the band stand in front, and ``count`` says how many there are.

    Args:
        k: negatives an anchor, >= 1. Default: 8, few enough that a loss gathers them instead of
            multiplying all.
        margin: the width of the band, > 0, in units of the similarity. Default: 0.2, of FaceNet
            (there of squared distances of unit vectors) and of pytorch-metric-learning's
            TripletMarginMiner (of distances of unit vectors).
        similarity: cosine, dot, euclidean or squared_euclidean. Default: euclidean, as in the
            triplet loss.
        fill: how places are filled that the band leaves empty. "easier": first those below the
            band, the nearest first, and only then those at least as similar as the positive, the
            least hard first; so no choice is harder than it has to be. "hardest": the most
            similar first, whatever the side. "none": not at all. Default: "easier", since
            negatives inside the positive are what semi-hard mining is to avoid.
        keep_equal: choose references that equal the anchor or its positive too. Default: False.

    Shapes: ``mine`` narrows a batch of (n, d) and (m, d) to k negatives a row; ``choose`` gives
    (n, min(k, m)) and ``select`` (n, k) indices, -1 for an empty place.

    Edges: with several positives the band ends at the farthest. A row without a positive has no
    band, and is filled as if all were easier, the most similar first. Ties go to the lower index;
    a negative exactly at a border of the band is in or out by rounding. ``rng`` is not used.

    Cost: one matrix product, O(n m d) time, and memory linear in n and m.

    References: Schroff et al. 2015, arXiv 1503.03832, section 3.2, equation 4.

    >>> import numpy as np
    >>> a, p = np.asarray([[0.0, 0.0]]), np.asarray([[0.5, 0.0]])
    >>> candidates = np.asarray([[0.3, 0.0], [1.0, 0.0], [0.7, 0.0], [3.0, 0.0]])
    >>> SemiHard(margin=1.0).select(a, p, candidates, 4, rng=None).tolist()
    [[2, 1, 3, 0]]
    """

    margin: float | Scheduler = 0.2
    similarity: str = "euclidean"
    fill: str = "easier"

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            equals="Schroff et al. 2015, arXiv 1503.03832, eq. 4 and section 4",
            fields={"margin": 0.2, "similarity": "squared_euclidean", "fill": "none"},
            note="On unit vectors.",
        ),
        "pytorch-metric-learning": Preset(
            equals="pytorch_metric_learning.miners.TripletMarginMiner",
            fields={"margin": 0.2, "similarity": "euclidean", "fill": "none"},
            arguments={"margin": 0.2},
            version="pytorch-metric-learning 2.9.0",
            note='With type_of_triplets="semihard", on unit vectors, with one positive an '
            "anchor, and k as large as the batch.",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self, "margin", above=0)
        checks.choice(self, "similarity", NAMES)
        checks.choice(self, "fill", FILLS)

    def scores(self, rows: Rows) -> tuple[Array, ...]:
        xp = namespace(similarities=rows.similarities)
        s, band = rows.similarities, self._band(rows)
        none = xp.full_like(s, -math.inf)
        semi_hard = xp.where(band, s, none)
        if self.fill == "none":
            return (semi_hard,)
        if self.fill == "hardest":
            return semi_hard, xp.where(band, none, s)
        farther = s < rows.farthest
        below, inside = xp.where(farther & ~band, s, none), xp.where(farther, none, -s)
        return semi_hard, below, inside

    def count(self, batch: Batch) -> Array:
        """Return how many negatives of each row are semi-hard, (n,) int.

        The first min(k, count) that are chosen in a row are those. For candidates, count the
        places that ``select`` with fill="none" does not leave at -1.
        """
        require_resolved(self)
        xp = namespace(anchors=batch.anchors)
        found: list[Any] = [
            xp.sum(xp.astype(self._band(rows) & rows.negative, xp.int32), axis=1)
            for rows in self._rows(batch, None, None)
        ]
        return xp.concat(found, axis=0)

    def _band(self, rows: Rows) -> Array:
        s = rows.similarities
        return (s < rows.farthest) & (s > rows.farthest - plain(self.margin))
