"""Local contrastive loss: the positive nearer than each of the anchor's negatives, by a margin."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from coreframe import checks
from coreframe.backend import Array, Params, namespace
from coreframe.batch import Batch
from coreframe.errors import ArgumentError
from coreframe.loss import LossResult, PairwiseLoss
from coreframe.relation import Listed
from coreframe.scheduler import Scheduler, plain
from coreframe_losses.triplet import all_triplets

OVER_NEGATIVES = ("mean", "sum", "none")


@dataclass(frozen=True, kw_only=True)
class LocalContrastive(PairwiseLoss):
    """Hinge over the negatives of each anchor, those that barely violate included.

        l_ik = max(0, d(a_i, p_i) - d(a_i, n_ik) + margin)
        l_i = mean_k l_ik   or   sum_k l_ik   or each l_ik by itself

    With distances (the default) d = -s. Where an anchor has several positives, the mean over
    them is taken. With over_negatives="mean" this is ``Triplet(mode="all")`` with another
    margin; ``over_negatives`` is apart from ``reduction``, which is over anchors.

    Args:
        margin: >= 0, in units of the distance. Default: 1, that of Weinberger & Saul, and
            the lower end of the range from 1 to 2 that the older Rust library recommends.
        over_negatives: mean (over all negatives of the row, inactive ones included), sum, or
            none. With none each negative is a term of its own: the value is (n, k), needs
            reduction="none", and the gradients are those of its sum. Default: mean, so that the
            number of negatives does not change the scale.
        similarity: Default: euclidean.

    Shapes: anchors and positives (n, d) with negatives (n, d) or (n, k, d); also labels, in-batch
    negatives and any relation. over_negatives="none" takes negatives that are each anchor's own
    or listed, and row-aligned or listed positives.

    Edges: an anchor without negatives has loss 0; one without a positive has none and does not
    count. Empty places of listed negatives are 0 in the (n, k) value, and a negative listed twice
    has two places there (elsewhere it counts once). A term of exactly 0 is not
    active. Coinciding points have distance 0 and no gradient.

    Cost: O(m log m) a row beside the distances; O(n k d) for own negatives, with
    over_negatives="none" a copy of them and of k anchors each.

    References: Weinberger & Saul 2009, "Distance metric learning for large margin nearest
    neighbor classification", eq. 12, of the anchor's own neighbourhood.

    >>> import numpy as np
    >>> a, p = np.zeros((1, 2)), np.array([[0.5, 0]])
    >>> own = np.array([[[1.0, 0], [0, 5], [0, 0.5]]])
    >>> float(LocalContrastive()(a, p, own).value)  # (0.5 + 0 + 1) / 3
    0.5
    >>> LocalContrastive(over_negatives="none", reduction="none")(a, p, own).value.tolist()
    [[0.5, 0.0, 1.0]]
    """

    margin: float | Scheduler = 1.0
    over_negatives: str = "mean"
    similarity: str = "euclidean"

    reads_triplets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self, "margin", minimum=0)
        checks.choice(self, "over_negatives", OVER_NEGATIVES)
        if self.over_negatives == "none" and self.reduction != "none":
            raise ArgumentError(
                "LocalContrastive(over_negatives='none') has a value (n, k), so it needs "
                f"reduction='none', got {self.reduction!r}"
            )

    @property
    def working_arrays(self) -> int:
        return 17  # orders are int64

    def row_terms(
        self, similarities: Array, positive: Array, negative: Array
    ) -> tuple[Array, Array]:
        losses, slopes = all_triplets(similarities, positive, negative, plain(self.margin))
        if self.over_negatives == "mean":
            return losses, slopes
        xp = namespace(similarities=similarities)
        count = xp.sum(xp.astype(negative, losses.dtype), axis=1)
        return losses * count, slopes * count[:, None]

    def value_and_grad(
        self,
        batch: Batch,
        params: Params | None = None,
        *,
        wrt: tuple[str, ...] | None = None,
    ) -> LossResult:
        if self.over_negatives != "none":
            return super().value_and_grad(batch, params, wrt=wrt)
        expanded, k = _one_negative_a_row(batch)
        result = replace(self, over_negatives="sum").value_and_grad(expanded, params, wrt=wrt)
        xp = namespace(anchors=batch.anchors)
        n, d = batch.anchors.shape
        grads = dict(result.grads)
        if "anchors" in grads:
            grads["anchors"] = xp.sum(xp.reshape(grads["anchors"], (n, k, d)), axis=1)
        if "negatives" in grads:
            grads["negatives"] = xp.reshape(grads["negatives"], (n, k, d))
        value = xp.reshape(result.value, (n, k))
        return LossResult(value, grads, result.param_grads, result.parts)


def _one_negative_a_row(batch: Batch) -> tuple[Batch, int]:
    """Return the batch with k rows for each anchor, one for each negative, and k."""
    relation, own = batch.relation, batch.negatives
    listed = relation.negatives if isinstance(relation, Listed) else None
    some = listed is not None and listed.shape[1] > 0
    if listed is None or batch.references is None or (some and own is not None):
        raise ArgumentError(
            "LocalContrastive(over_negatives='none') takes row-aligned triplets, "
            "loss(anchors, positives, negatives), or a Listed relation with negatives between "
            "anchors and references; not in-batch negatives, labels, or own and listed ones at once"
        )
    assert isinstance(relation, Listed)
    xp = namespace(anchors=batch.anchors)
    n, d = batch.anchors.shape
    k = listed.shape[1] if own is None else own.shape[1]
    if not k:
        raise ArgumentError("over_negatives='none' needs at least one negative an anchor, got k=0")

    def repeated(x: Any) -> Any:
        return namespace(x=x).repeat(x, k, axis=0)

    if own is None:
        listed = namespace(x=listed).reshape(listed, (n * k, 1))
    else:
        listed, own = repeated(listed), xp.reshape(own, (n * k, 1, d))
    expanded = Batch(
        anchors=repeated(batch.anchors),
        references=batch.references,
        negatives=own,
        relation=Listed(repeated(relation.positives), listed, relation.columns),
        weights=None if batch.weights is None else repeated(batch.weights),
    )
    return expanded, k
