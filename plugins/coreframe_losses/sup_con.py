"""Supervised contrastive loss: all items of the anchor's class against all others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe import checks
from coreframe.backend import Array, namespace
from coreframe.component import Preset
from coreframe.loss import PairwiseLoss
from coreframe.scheduler import Scheduler, plain


@dataclass(frozen=True, kw_only=True)
class SupCon(PairwiseLoss):
    """Supervised contrastive loss, the form with the sum outside the logarithm.

        l_i = logsumexp_{j positive, negative} z_ij - mean_{p positive} z_ip,   z = s / temperature

    Each difference is taken before the sum, so that large similarities do not cancel. Equals
    pytorch-metric-learning's ``SupConLoss(temperature)`` with a mean over the anchors that have
    a positive.

    Args:
        temperature: > 0. Default: 0.1, that of the paper and of pytorch-metric-learning.

    Shapes: embeddings (n, d) with labels (n,), or any batch with a relation: references (m, d),
    own negatives (n, k, d); gradients for all of them.

    Edges: an anchor without a positive has no loss and does not count; with one positive and no
    negatives the loss is 0, with several it is that of telling them apart. A zero vector has
    cosine 0 and gradient 0.

    Cost: three matrix products of n m d, and O((n + m) d) memory beside the budget.

    References: Khosla et al. 2020, arXiv 2004.11362, eq. 2.

    >>> import numpy as np
    >>> x = np.eye(4, dtype=np.float32)
    >>> float(SupCon(temperature=1.0)(x, labels=[0, 0, 1, 1]).value)  # log 3
    1.0986123...
    """

    temperature: float | Scheduler = 0.1

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            equals="Khosla et al. 2020, arXiv 2004.11362, eq. 2, averaged over anchors",
            fields={"temperature": 0.1, "similarity": "cosine"},
        ),
        "pytorch-metric-learning": Preset(
            equals="pytorch_metric_learning.losses.SupConLoss",
            fields={"temperature": 0.1, "similarity": "cosine", "reduction": "mean_active"},
            arguments={"temperature": 0.1},
            version="pytorch-metric-learning 2.9.0",
            note="Its mean leaves out anchors of loss 0.",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self, "temperature", above=0)

    def row_terms(
        self, similarities: Array, positive: Array, negative: Array
    ) -> tuple[Array, Array]:
        xp = namespace(similarities=similarities)
        used = positive | negative
        temperature = plain(self.temperature)
        z = similarities / temperature
        masked = xp.where(used, z, xp.full_like(z, -xp.inf))
        some = xp.any(used, axis=1, keepdims=True)
        top = xp.where(some, xp.max(masked, axis=1, keepdims=True), xp.zeros_like(z[:, :1]))
        shares = xp.exp(masked - top)
        total = xp.sum(shares, axis=1, keepdims=True)
        total = xp.where(some, total, xp.ones_like(total))
        here = xp.astype(positive, z.dtype)
        count = xp.sum(here, axis=1, keepdims=True)
        here = here / xp.where(count > 0, count, xp.ones_like(count))
        # The mean over positives of (logsumexp - z), each difference taken before the sum.
        log_total = top + xp.log(total)
        losses = xp.sum(here * (log_total - z), axis=1)
        return losses, (shares / total - here) / temperature
