"""Cosine embedding loss: similar pairs to cosine 1, dissimilar ones below a margin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from coreframe import checks
from coreframe.backend import Array, Params, device_of, namespace
from coreframe.batch import Batch, similar_pairs
from coreframe.component import Preset
from coreframe.errors import ArgumentError
from coreframe.row_loss import RowLoss
from coreframe.scheduler import Scheduler, plain
from coreframe.similarity import Similarity


@dataclass(frozen=True, kw_only=True)
class CosineEmbedding(RowLoss):
    """Cosine embedding loss: each anchor with the reference of its row, similar or not.

        l_i = 1 - s_i                   where label i is 1, or there are no labels
        l_i = max(0, s_i - margin)      where it is -1, 0 or False;   s = cosine

    Row i goes with row i, whatever the relation; shared and own negatives take no part. Equals
    ``torch.nn.functional.cosine_embedding_loss``.

    Args:
        margin: -1 to 1, the cosine below which a dissimilar pair costs nothing. Default: 0,
            torch's, which asks for a right angle.
        reduction: mean, sum, mean_active or none. Default: torch's.

    Shapes: anchors and references (n, d); labels (n,) of 1 and -1, of 1 and 0, or bool;
    gradients for anchors and references.

    Edges: other labels, and labels that are no integers, are errors (values on a device are
    looked at under COREFRAME_CHECKS=1 only, and count as dissimilar). A zero vector has cosine 0
    and gradient 0. At the margin itself loss and gradient are 0.

    Cost: O(n d) time and memory.

    References: torch.nn.functional.cosine_embedding_loss; the form with a margin is Hadsell et
    al. 2006, eq. 4, with a cosine for the distance and no squares.

    >>> import numpy as np
    >>> a, b = np.eye(2), np.ones((2, 2))
    >>> np.round(CosineEmbedding(reduction="none")(a, b, labels=[1, -1]).value, 3).tolist()
    [0.293, 0.707]
    """

    margin: float | Scheduler = 0.0

    needs: ClassVar[tuple[str, ...]] = ("anchors", "references")

    presets: ClassVar[Mapping[str, Preset]] = {
        "torch": Preset(
            equals="torch.nn.CosineEmbeddingLoss",
            fields={"margin": 0.0},
            arguments={"margin": 0.0, "reduction": "mean"},
            version="torch 2.13.0",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self, "margin", minimum=-1, maximum=1)

    def batch(
        self,
        anchors: Array,
        positives: Array | None = None,
        negatives: Array | None = None,
        *,
        labels: Any = None,
        ids: Any = None,
        weights: Array | None = None,
    ) -> Batch:
        if positives is None or negatives is not None:
            raise ArgumentError(
                "CosineEmbedding is called with anchors, positives and labels=, row by row; "
                "dissimilar pairs have label -1"
            )
        if labels is None:
            return Batch.pairs(anchors, positives, ids=ids, weights=weights)
        return Batch.labelled_pairs(anchors, positives, labels, weights=weights)

    def rows(self, arrays: Params, batch: Batch) -> tuple[Array, Params]:
        a, r = arrays["anchors"], arrays["references"]
        xp, cosine = namespace(anchors=a), Similarity("cosine")
        (u, pull_a), (v, pull_r) = cosine.prepare(a, None), cosine.prepare(r, None)
        s = xp.sum(u * v, axis=1)
        slope = -xp.ones_like(s)
        losses = 1 - s
        if batch.labels is not None:
            similar = similar_pairs("labels", batch.labels, s.shape[0], of="anchors")
            similar = xp.asarray(similar, device=device_of(s))
            over = s - plain(self.margin)
            zero = xp.zeros_like(s)
            active = xp.astype(over > 0, s.dtype)
            losses = xp.where(similar, losses, xp.where(over > 0, over, zero))
            slope = xp.where(similar, slope, active)
        slope = slope[:, None]
        return losses, {"anchors": pull_a(slope * v), "references": pull_r(slope * u)}
