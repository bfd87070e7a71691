"""The loss of neighbourhood components analysis: some neighbour of the own class is near enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coreframe import checks
from coreframe.backend import Array, namespace
from coreframe.loss import PairwiseLoss
from coreframe.scheduler import Scheduler, plain


@dataclass(frozen=True, kw_only=True)
class NCA(PairwiseLoss):
    """Neighbourhood components analysis: the log of the chance that a soft neighbour is right.

        l_i = logsumexp_{j positive, negative} z_ij - logsumexp_{p positive} z_ip,
        z = s / temperature

    computed as softplus(logsumexp of the negatives - logsumexp of the positives), which keeps value
    and gradient exact on well-separated classes. One near positive is enough, so a class may lie in
    several places, where ``sup_con`` and ``info_nce`` pull all of it together. What
    nearest-neighbour classification asks for; the default of ``coreframe.interop.sklearn``.

    Args:
        temperature: > 0, in units of the similarity. Default: 1, the paper's, on squared distances.
        similarity: Default: squared_euclidean, the paper's.

    Shapes: embeddings (n, d) with labels (n,), or any batch with a relation: references (m, d),
    own negatives (n, k, d); gradients for all of them.

    Edges: an anchor without a positive does not count; without negatives the loss is 0. With one
    positive it is ``info_nce``.

    Cost: three matrix products of n m d, and O((n + m) d) memory beside the budget.

    References: Goldberger et al. 2004, "Neighbourhood components analysis", section 2, the
    objective g, a sum of logarithms.

    >>> import numpy as np
    >>> x = np.array([[0.0], [0.0], [5.0], [0.0]])
    >>> float(NCA()(x, labels=[0, 0, 0, 1]).value)  # (2 log 2 + log 1.5) / 3
    0.597253...
    """

    similarity: str = "squared_euclidean"
    temperature: float | Scheduler = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self, "temperature", above=0)

    def row_terms(
        self, similarities: Array, positive: Array, negative: Array
    ) -> tuple[Array, Array]:
        xp = namespace(similarities=similarities)
        temperature = plain(self.temperature)
        z = similarities / temperature
        log_right, right = _softmax(z, positive, xp)
        log_wrong, wrong = _softmax(z, negative, xp)
        gap = log_wrong - log_right
        some = xp.any(positive, axis=1, keepdims=True) & xp.any(negative, axis=1, keepdims=True)
        zero = xp.zeros_like(gap)
        small = xp.exp(-xp.abs(gap))
        softplus = xp.where(gap > 0, gap, zero) + xp.log1p(small)
        miss = xp.where(gap > 0, xp.ones_like(gap), small) / (1 + small)  # 1 - p(right)
        losses, miss = (xp.where(some, x, zero) for x in (softplus, miss))
        return losses[:, 0], miss * (wrong - right) / temperature


def _softmax(z: Array, used: Array, xp: Any) -> tuple[Array, Array]:
    """Return the logsumexp of the used entries of each row (r, 1), 0 of none, and their shares."""
    some = xp.any(used, axis=1, keepdims=True)
    zero = xp.zeros_like(z[:, :1])
    masked = xp.where(used, z, xp.full_like(zero, -xp.inf))
    top = xp.where(some, xp.max(masked, axis=1, keepdims=True), zero)
    shares = xp.exp(masked - top)
    total = xp.sum(shares, axis=1, keepdims=True)
    total = xp.where(some, total, xp.ones_like(zero))
    return top + xp.log(total), shares / total
