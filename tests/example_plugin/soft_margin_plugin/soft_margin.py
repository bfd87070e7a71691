"""Soft-margin loss: a logistic loss on every pair."""

from __future__ import annotations

from dataclasses import dataclass

from coreframe import checks
from coreframe.backend import Array, namespace
from coreframe.loss import PairwiseLoss
from coreframe.ops import softplus
from coreframe.scheduler import Scheduler, plain


@dataclass(frozen=True, kw_only=True)
class SoftMargin(PairwiseLoss):
    """Logistic loss on each pair, positives and negatives balanced.

        l_i = mean_{p positive} softplus(-scale s_ip) + mean_{j negative} softplus(scale s_ij)

    with softplus(z) = log(1 + exp z). An anchor without a positive has no loss; one without
    negatives keeps the first term.

    Args:
        scale: > 0; how sharply a pair on the wrong side of 0 is punished.

    References: Yi et al. 2014, arXiv 1407.4979, with a margin of 0. Each mean equals
    torch's ``SoftMarginLoss`` on ``scale * s``.

    >>> import numpy as np
    >>> x = np.eye(2)
    >>> float(SoftMargin(scale=1.0)(x, x).value)  # log(1 + 1 / e) + log 2
    1.0064088...
    """

    scale: float | Scheduler = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self, "scale", above=0)

    def row_terms(
        self, similarities: Array, positive: Array, negative: Array
    ) -> tuple[Array, Array]:
        xp = namespace(similarities=similarities)
        losses: Array = 0.0
        grads: Array = 0.0
        for mask, scale in ((positive, -plain(self.scale)), (negative, plain(self.scale))):
            share = xp.astype(mask, similarities.dtype)
            count = xp.sum(share, axis=1, keepdims=True)
            share = share / xp.where(count > 0, count, xp.ones_like(count))
            value, slope = softplus(scale * similarities)
            losses = losses + xp.sum(share * value, axis=1)
            grads = grads + scale * share * slope
        return losses, grads
