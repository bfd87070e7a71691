"""InfoNCE: pick the positive out of all candidates by softmax."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from coreframe import checks
from coreframe.backend import Array, Params, namespace
from coreframe.batch import Batch
from coreframe.component import Preset
from coreframe.compose import Symmetric
from coreframe.loss import LossResult, PairwiseLoss
from coreframe.scheduler import Scheduler, plain, require_resolved


@dataclass(frozen=True, kw_only=True)
class InfoNCE(PairwiseLoss):
    """InfoNCE, also called NT-Xent, multiple-negatives ranking loss or in-batch softmax.

    For anchor i with positive p and z = (s - margin [on the positive]) / temperature:

        l_ip = -log(exp z_ip / (exp z_ip + sum_{j negative} exp z_ij)),   l_i = mean_p l_ip

    computed as softplus(logsumexp_negatives - z_ip), which keeps value and gradient exact on
    well-separated pairs, where the usual softmax loses them in float32. Negatives are the other
    anchors' positives, shared ones and each anchor's own; without the first with
    ``Batch.with_negatives(..., in_batch=False)``. Equals torch's
    ``cross_entropy(normalize(a) @ normalize(p).T / temperature, arange(n))``.

    Args:
        temperature: > 0, with no lower clamp; the loss of an opposite pair is 2 / temperature.
            Default: 0.07, where CLIP's learned one starts.
        margin: >= 0, taken from the positive only (additive-margin softmax). Default: 0, none.
        symmetric: the mean of both directions, anchors to references and back, as in CLIP.
            References without a positive anchor, and own negatives, take no part in the second.
            Default: one direction, van den Oord's.

    Shapes: anchors (n, d); references (m, d), the positives and shared negatives behind them; own
    negatives (n, k, d), s and k may be 0; gradients for all three. One anchor with K negatives
    is n = 1 and shared negatives (K, d).

    Edges: an anchor without negatives has loss and gradient 0; one without a positive does not
    count. A zero vector has cosine 0 to all and gradient 0. Positives of an equal id are no
    negatives of each other. Several positives of an anchor are averaged. No rows are an error.

    Cost: three matrix products of n m d, twice that when symmetric, and O((n + m) d) memory beside
    the budget; O(n k d) for own negatives.

    References: van den Oord et al. 2018, arXiv 1807.03748, eq. 4; Chen et al. 2020, arXiv
    2002.05709, eq. 1; margin: Wang et al. 2018, arXiv 1801.05599; both directions: Radford et al.
    2021, arXiv 2103.00020, figure 3.

    >>> import numpy as np
    >>> a = np.eye(3, dtype=np.float32)
    >>> float(InfoNCE(temperature=1.0)(a, a).value)  # log(1 + 2 / e)
    0.551444...
    """

    temperature: float | Scheduler = 0.07
    margin: float | Scheduler = 0.0
    symmetric: bool = False

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            equals="van den Oord et al. 2018, arXiv 1807.03748, eq. 4",
            fields={"temperature": 1.0, "similarity": "dot"},
            note="The matrix W of the log-bilinear score is the adapter's.",
        ),
        "clip": Preset(
            equals="Radford et al. 2021, arXiv 2103.00020, figure 3",
            fields={"temperature": 0.07, "similarity": "cosine", "symmetric": True},
            note="Where the learned temperature starts; learnable_scale=True learns it from there.",
        ),
        "moco": Preset(
            equals="He et al. 2020, arXiv 1911.05722, eq. 1 and section 3.3",
            fields={"temperature": 0.07, "similarity": "cosine"},
            note="With the queue as shared negatives: Batch.with_negatives(queries, keys, "
            "shared=queue, in_batch=False).",
        ),
        "sentence-transformers": Preset(
            equals="sentence_transformers.losses.MultipleNegativesRankingLoss",
            fields={"temperature": 0.05, "similarity": "cosine"},
            arguments={
                "scale": 20.0,
                "similarity_fct": "cos_sim",
                "directions": ("query_to_doc",),
                "hardness_mode": None,
            },
            version="sentence-transformers 6.2.0",
            note="With further columns as shared negatives, as there.",
        ),
        "pytorch-metric-learning": Preset(
            equals="pytorch_metric_learning.losses.NTXentLoss",
            fields={"temperature": 0.07, "similarity": "cosine"},
            arguments={"temperature": 0.07},
            version="pytorch-metric-learning 2.9.0",
            note="On embeddings with labels, where all classes have as many rows in the batch; "
            "else it averages over pairs there, and here over anchors.",
        ),
        "open_clip": Preset(
            equals="open_clip.ClipLoss",
            fields={"temperature": 0.07, "similarity": "cosine", "symmetric": True},
            version="open_clip_torch 3.3.0",
            note="At the logit_scale that open_clip's models start with, log(1 / 0.07).",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.flag(self, "symmetric")
        checks.number(self, "temperature", above=0)
        checks.number(self, "margin", minimum=0)

    def row_terms(
        self, similarities: Array, positive: Array, negative: Array
    ) -> tuple[Array, Array]:
        xp = namespace(similarities=similarities)
        temperature, margin = plain(self.temperature), plain(self.margin)
        z = similarities / temperature
        if margin:
            z = z - xp.astype(positive, z.dtype) * (margin / temperature)
        # Blocks are as tall as the arrays alive at once allow: constants are one column wide, and
        # what is needed no more is let go.
        zero, one, none = (xp.full_like(z[:, :1], x) for x in (0.0, 1.0, -xp.inf))
        some = xp.any(negative, axis=1, keepdims=True)
        masked = xp.where(negative, z, none)
        top = xp.where(some, xp.max(masked, axis=1, keepdims=True), zero)
        shares = xp.exp(masked - top)
        del masked
        total = xp.sum(shares, axis=1, keepdims=True)
        total = xp.where(some, total, one)
        log_total = top + xp.log(total)
        # gap = logsumexp over negatives - z of the positive
        gap = xp.where(positive & some, log_total - z, none)
        del z
        count = xp.sum(xp.astype(positive, gap.dtype), axis=1, keepdims=True)
        count = xp.where(count > 0, count, one)
        small = xp.exp(-xp.abs(gap))
        softplus = xp.where(gap > 0, gap, zero) + xp.log1p(small)
        losses = xp.sum(xp.where(positive, softplus, zero), axis=1) / count[:, 0]
        del softplus
        miss = xp.where(gap > 0, one, small) / (1 + small)  # 1 - p(positive)
        del gap, small
        miss = xp.where(positive, miss, zero) / count
        spread = xp.sum(miss, axis=1, keepdims=True) / total
        return losses, (shares * spread - miss) / temperature

    def value_and_grad(
        self,
        batch: Batch,
        params: Params | None = None,
        *,
        wrt: tuple[str, ...] | None = None,
    ) -> LossResult:
        if self.symmetric:
            require_resolved(self)
            if (result := self.at_once(batch, wrt)) is not None:
                return result
            return Symmetric(loss=replace(self, symmetric=False)).value_and_grad(
                batch, params, wrt=wrt
            )
        return super().value_and_grad(batch, params, wrt=wrt)
