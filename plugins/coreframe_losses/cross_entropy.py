"""Cross entropy of logits and class numbers, with label smoothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from coreframe import checks
from coreframe.backend import Array, Params, device_of, is_array, namespace
from coreframe.batch import Batch
from coreframe.component import Preset
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.relation import SameLabel
from coreframe.row_loss import RowLoss
from coreframe.scheduler import Scheduler, plain


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(RowLoss):
    """Cross entropy of the softmax of logits, where the anchors are the logits.

        l_i = (1 - s) (-log p_iy) + s mean_{c present} (-log p_ic),   p_i = softmax(z_i)

    with s the smoothing and y the class of row i. Computed from the shifted logits with log1p,
    so that value and gradient stay exact where the class is nearly certain. Equals
    ``torch.nn.functional.cross_entropy(logits, labels, label_smoothing=s)``.

    Args:
        label_smoothing: s, 0 to 1; the target is s / C on every class and 1 - s more on its own.
            Default: 0, torch's.
        reduction: mean, sum, mean_active or none. Default: torch's.

    Shapes: anchors (n, C), the logits; labels (n,) integers from 0 to C - 1; gradient (n, C).

    Edges: a class whose logit is -inf (or at or below half of its dtype's least number, -32752
    in float16) is masked: p = 0, gradient 0, and it takes no part in the smoothing, where
    torch's loss is infinite. A masked class as label, a label out of range and labels that are
    no integers are errors. On a device, values are looked at under COREFRAME_CHECKS=1 only;
    otherwise the loss of such a row is inf there. No rows are an error.

    Cost: O(n C) time and memory.

    References: Bridle 1990; label smoothing: Szegedy et al. 2016, arXiv 1512.00567, section 7.

    >>> import numpy as np
    >>> float(CrossEntropy()(np.array([[1000.0, 0, -1000]]), labels=[1]).value)
    1000.0
    >>> float(CrossEntropy(label_smoothing=0.1)(np.zeros((1, 4)), labels=[2]).value)  # log 4
    1.386294...
    """

    label_smoothing: float | Scheduler = 0.0

    needs: ClassVar[tuple[str, ...]] = ("anchors", "labels")

    presets: ClassVar[Mapping[str, Preset]] = {
        "torch": Preset(
            equals="torch.nn.CrossEntropyLoss",
            fields={"label_smoothing": 0.0},
            arguments={"label_smoothing": 0.0, "reduction": "mean"},
            version="torch 2.13.0",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self, "label_smoothing", minimum=0, maximum=1)

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
        if positives is not None or negatives is not None or labels is None:
            raise ArgumentError("CrossEntropy is called with logits and labels=, and nothing else")
        xp = namespace(logits=anchors)
        if xp.isdtype(anchors.dtype, "real floating"):  # a Batch holds finite numbers only
            least = xp.full_like(anchors, float(xp.finfo(anchors.dtype).min))
            anchors = xp.where(anchors == -xp.inf, least, anchors)
        anchors = checks.embeddings("logits", anchors)
        labels = _class_numbers(labels)
        checks.vector("labels", labels, anchors.shape[0], of="logits")
        return Batch(
            anchors=anchors, relation=SameLabel(labels), labels=labels, weights=weights, ids=ids
        )

    def rows(self, arrays: Params, batch: Batch) -> tuple[Array, Params]:
        given, z = batch.anchors, arrays["anchors"]
        xp = namespace(logits=z)
        device = device_of(z)
        n, classes = z.shape
        if batch.labels is None:
            raise ArgumentError("CrossEntropy needs labels (n,): the class number of each row")
        labels = _class_numbers(batch.labels)
        _check_range(labels, n, classes)
        column = xp.arange(classes, device=device)
        labels = xp.astype(xp.asarray(labels, device=device), column.dtype)
        own = labels[:, None] == column[None, :]
        present = given > float(xp.finfo(given.dtype).min) / 2
        known = xp.any(own & present, axis=1)
        if checks.visible(given) and not bool(xp.all(known)):
            bad = int(xp.argmin(xp.astype(known, xp.int32)))
            raise ArgumentError(
                f"labels name class {int(labels[bad])} in row {bad}, whose logit is -inf; "
                "leave the row out or give it another label"
            )
        # Masked classes are left out before any arithmetic, so that nothing overflows.
        zero = xp.zeros_like(z)
        low = xp.min(xp.where(present, z, zero), axis=1, keepdims=True)
        z = xp.where(present, z, low)
        z = z - xp.max(z, axis=1, keepdims=True)
        shares = xp.where(present, xp.exp(z), zero)
        z_own = xp.sum(xp.where(own, z, zero), axis=1)
        share_own = xp.sum(xp.where(own, shares, zero), axis=1)
        rest = xp.sum(xp.where(own, zero, shares), axis=1)  # of all other classes
        # Exact where the own class is the largest; rest + share_own is at least 1 in a sound row.
        log_total = xp.log1p(rest + xp.where(known, share_own - 1, xp.zeros_like(rest)))
        total = (rest + share_own)[:, None]
        total = xp.where(total > 0, total, xp.ones_like(total))
        here = xp.astype(present, z.dtype)
        count = xp.sum(here, axis=1)
        count = xp.where(count > 0, count, xp.ones_like(count))
        s = plain(self.label_smoothing)
        mean = xp.sum(here * z, axis=1) / count
        losses = (1 - s) * (log_total - z_own) + s * (log_total - mean)
        losses = xp.where(known, losses, xp.full_like(losses, xp.inf))
        slope = xp.where(own, -rest[:, None], shares) / total  # p - 1 = minus the rest, on the own
        if s:
            slope = slope + s * (xp.astype(own, z.dtype) - here / count[:, None])
        return losses, {"anchors": slope}


def _class_numbers(labels: Any) -> Array:
    """Return labels as an array of integers; lists become NumPy arrays."""
    import numpy as np

    x = labels if is_array(labels) else np.asarray(labels)
    numeric = not isinstance(x, np.ndarray) or x.dtype.kind in "iu"  # the standard has no text
    if not numeric or not namespace(labels=x).isdtype(x.dtype, "integral"):
        raise ArgumentTypeError(
            f"labels must be class numbers, integers from 0 on, got {x.dtype}; "
            "text is numbered by numpy.unique(labels, return_inverse=True)"
        )
    return x


def _check_range(labels: Array, n: int, classes: int) -> None:
    checks.vector("labels", labels, n, of="logits")
    if not checks.visible(labels):
        return
    xp = namespace(labels=labels)
    wrong = (labels < 0) | (labels >= classes)
    if bool(xp.any(wrong)):
        bad = int(xp.argmax(xp.astype(wrong, xp.int32)))
        raise ArgumentError(
            f"labels must be from 0 to {classes - 1}, since there are {classes} logits a row, "
            f"got {int(labels[bad])} in row {bad}"
        )
