"""Contrastive loss of pairs: similar ones together, dissimilar ones a margin apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from coreframe import checks
from coreframe.backend import Array, namespace
from coreframe.batch import Batch
from coreframe.component import Preset
from coreframe.loss import PairwiseLoss
from coreframe.scheduler import Scheduler, plain


@dataclass(frozen=True, kw_only=True)
class Contrastive(PairwiseLoss):
    """Contrastive loss: positives near, negatives at least a margin away, pair by pair.

        l_ij = d_ij^2                        for a positive pair
        l_ij = max(0, margin - d_ij)^2       for a negative pair;   l_i = mean_j l_ij

    d is the distance of the similarity: |u - v| for euclidean, its square for
    squared_euclidean, 1 - s for cosine, and -s for dot. Pairs come from labels, masks or listed
    partners; as an edge list (``Batch.edges``), where the mean is one over edges; and row by row
    (``Contrastive()(anchors, positives, labels=...)``). Twice sentence-transformers'
    ``ContrastiveLoss``, with similarity="cosine" and margin=0.5.

    Args:
        margin: >= 0, the distance from which a negative pair costs nothing. Default: 1, the
            length of a unit vector; with the cosine distance 0.5 is usual.
        similarity: Default: euclidean, Hadsell's.

    Shapes: embeddings (n, d) with labels or edges; anchors (n, d) with references (m, d) and own
    negatives (n, k, d); row by row (n, d), (n, d) and labels (n,) of 1 and 0, 1 and -1, or bool.

    Edges: a row without a pair does not count; one without a positive does. A negative pair at
    one point costs margin^2 and has gradient 0, since it has no direction. At the margin itself
    loss and gradient are 0.

    Cost: three matrix products and memory linear in n; O(e d) for e edges.

    References: Hadsell, Chopra & LeCun 2006, "Dimensionality reduction by learning an invariant
    mapping", eq. 4, without its halves.

    >>> import numpy as np
    >>> x = np.array([[0.0, 0], [3, 4], [0, 0.25]])
    >>> batch = Batch.edges(x, edges=[[0, 1], [0, 2]], similar=[1, 0])
    >>> float(Contrastive().value_and_grad(batch).value)  # (25 + 0.75^2) / 2
    12.78125
    """

    margin: float | Scheduler = 1.0
    similarity: str = "euclidean"

    needs_positive: ClassVar[bool] = False

    presets: ClassVar[Mapping[str, Preset]] = {
        "sentence-transformers": Preset(
            equals="sentence_transformers.losses.ContrastiveLoss",
            fields={"margin": 0.5, "similarity": "cosine"},
            arguments={"margin": 0.5, "size_average": True},
            version="sentence-transformers 6.2.0",
            weight=0.5,
            note="On pairs, row by row, with labels 1 and 0.",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self, "margin", minimum=0)

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
        if positives is not None and labels is not None and negatives is None and ids is None:
            return Batch.labelled_pairs(anchors, positives, labels, weights=weights)
        return super().batch(anchors, positives, negatives, labels=labels, ids=ids, weights=weights)

    def row_terms(
        self, similarities: Array, positive: Array, negative: Array
    ) -> tuple[Array, Array]:
        xp = namespace(similarities=similarities)
        zero = xp.zeros_like(similarities)
        distance = 1 - similarities if self.similarity == "cosine" else -similarities
        short = plain(self.margin) - distance
        short = xp.where(negative & (short > 0), short, zero)
        far = xp.where(positive, distance, zero)
        count = xp.sum(xp.astype(positive | negative, zero.dtype), axis=1, keepdims=True)
        share = 1 / xp.where(count > 0, count, xp.ones_like(count))
        losses = xp.sum(far * far + short * short, axis=1) * share[:, 0]
        return losses, 2 * share * (short - far)
