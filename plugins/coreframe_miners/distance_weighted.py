"""Negatives drawn evenly over distances, whatever the dimension."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe import checks
from coreframe.backend import Array, namespace
from coreframe.component import Preset
from coreframe.errors import ArgumentError
from coreframe.miner import RankingMiner, Rows
from coreframe.random import gumbel
from coreframe.scheduler import Scheduler, plain


@dataclass(frozen=True, kw_only=True)
class DistanceWeighted(RankingMiner):
    """The k negatives of an anchor drawn in inverse proportion to the density of distances.

        weight(r) = 1 / q(max(|a - r|, cutoff)),
        q(D) = D^(d - 2) (1 - D^2 / 4)^((d - 3) / 2)

    q is the density of the distance D of two random points of the unit sphere in d dimensions:
    nearly all are at sqrt(2). Drawing by its inverse gives negatives of all distances. Rows are
    scaled to unit length for it. The draw is sequential and without replacement, by Gumbel keys
    that are hashes of two seeds from ``rng`` and of the pair, the same on every backend; ``rng``
    is advanced. The weights equal those of pytorch-metric-learning's DistanceWeightedMiner,
    which draws with replacement, once a positive.

    The larger d, the steeper the weights: above about 100 dimensions the draws are close to the
    hardest negatives beyond the cutoff.

    Args:
        k: negatives an anchor, >= 1. Default: 8, few enough that a loss gathers them instead of
            multiplying all.
        cutoff: distances below it count as it, > 0 and below nonzero_loss_cutoff; it keeps
            noisy, very near negatives from being drawn always. Default: 0.5, of the authors' code.
        nonzero_loss_cutoff: negatives at this distance or beyond have no loss, and are not drawn
            while there are others; at most 2. Default: 1.4, of the authors' code.
        keep_equal: draw references that equal the anchor or its positive (in direction) too.
            Default: False.

    Shapes: ``mine`` narrows a batch of (n, d) and (m, d) to k negatives a row; ``choose`` gives
    (n, min(k, m)) and ``select`` (n, k) indices, -1 for an empty place.

    Edges: what negatives below nonzero_loss_cutoff leave empty is drawn uniformly from those
    beyond. A zero vector is at sqrt(2) from all. Logarithms are used, so that no dimension
    overflows. A batch of one has no negatives.

    Cost: one matrix product, O(n m d) time, and memory linear in n and m.

    References: Wu et al. 2017, arXiv 1706.07567, section 4.

    >>> import numpy as np
    >>> x, rng = np.eye(4), np.random.default_rng(0)
    >>> DistanceWeighted().select(x, x, x, 3, rng=rng).shape
    (4, 3)
    """

    cutoff: float | Scheduler = 0.5
    nonzero_loss_cutoff: float | Scheduler = 1.4

    needs_keys: ClassVar[bool] = True

    presets: ClassVar[Mapping[str, Preset]] = {
        "pytorch-metric-learning": Preset(
            equals="pytorch_metric_learning.miners.DistanceWeightedMiner",
            fields={"cutoff": 0.5, "nonzero_loss_cutoff": 1.4},
            arguments={"cutoff": 0.5, "nonzero_loss_cutoff": 1.4},
            version="pytorch-metric-learning 2.9.0",
            note="The weights of the draw; there one negative is drawn for each positive, with "
            "replacement.",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self, "cutoff", above=0)
        checks.number(self, "nonzero_loss_cutoff", above=0, maximum=2)
        near, far = self.cutoff, self.nonzero_loss_cutoff
        if not isinstance(near, Scheduler) and not isinstance(far, Scheduler) and near >= far:
            raise ArgumentError(
                f"DistanceWeighted.cutoff must be below nonzero_loss_cutoff, got {near} and {far}"
            )

    def scores(self, rows: Rows) -> tuple[Array, Array]:
        xp = namespace(similarities=rows.similarities)
        cosines = rows.similarities
        # |a - r|^2 = 2 - 2 cos on the unit sphere.
        near = cosines > 1 - plain(self.nonzero_loss_cutoff) ** 2 / 2
        drawn = self.log_weights(cosines, rows.width) + gumbel(rows.keys, cosines.dtype)
        none = xp.full_like(cosines, -math.inf)
        beyond = xp.where(near, none, xp.astype(rows.keys, cosines.dtype))
        return xp.where(near, drawn, none), beyond

    def log_weights(self, cosines: Array, width: int) -> Array:
        """Return log 1 / q of unit vectors in ``width`` dimensions, 0 at the cutoff."""
        xp = namespace(cosines=cosines)
        least = plain(self.cutoff)
        nearest, farthest = 1 - least**2 / 2, -1 + float(xp.finfo(cosines.dtype).eps)
        cosines = xp.where(cosines < nearest, cosines, xp.full_like(cosines, nearest))
        cosines = xp.where(cosines > farthest, cosines, xp.full_like(cosines, farthest))
        # log D = log(2 - 2 cos) / 2 and 1 - D^2 / 4 = (1 + cos) / 2.
        ratio, rest = (1 - cosines) / (1 - nearest), (1 + cosines) / (1 + nearest)
        return -0.5 * ((width - 2) * xp.log(ratio) + (width - 3) * xp.log(rest))
