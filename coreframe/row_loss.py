"""The interface of losses of single rows: no pairs, no matrix of similarities."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from coreframe import checks
from coreframe.backend import Array, Params, device_of, namespace
from coreframe.batch import Batch
from coreframe.dtypes import computing_dtype
from coreframe.errors import ArgumentError, nearest
from coreframe.loss import Loss
from coreframe.result import (
    REDUCTIONS,
    LossResult,
    reduce_rows,
    wanted_fields,
)
from coreframe.scheduler import require_resolved

__all__ = ["RowLoss"]


@dataclass(frozen=True, kw_only=True)
class RowLoss(Loss):
    """A loss of each row by itself: write ``rows``, get weights, reductions and dtypes.

        value = reduction of w_i l_i,   l_i a function of row i of the fields in ``needs``

    With ``references`` in ``needs``, row i of the anchors goes with row i of the references
    (``Batch.aligned``); the relation is not read, and references beyond the anchors (shared
    negatives) take no part.

    Args:
        reduction: mean, sum, mean_active or none; see ``coreframe.pairwise``. Default: torch's.

    Shapes: anchors (n, d); references (m, d) with m >= n; value 0-d, or (n,) with
    reduction="none"; gradients as their fields. Fields that are not read have gradient 0.

    Edges: no references, and references in other rows than the anchors', are errors; where the
    weights sum to 0, value and gradients are 0.

    Cost: O(n d) time and memory beside ``rows``.

    References: our own.

    >>> import numpy as np
    >>> class Apart(RowLoss):
    ...     needs = ("anchors", "references")
    ...     def rows(self, arrays, batch):
    ...         apart = arrays["anchors"] - arrays["references"]
    ...         return abs(apart).sum(axis=1), {"anchors": np.sign(apart)}
    >>> float(Apart()(np.eye(2), np.zeros((2, 2))).value)
    1.0
    """

    reduction: str = "mean"

    def __post_init__(self) -> None:
        checks.choice(self, "reduction", REDUCTIONS)

    @abstractmethod
    def rows(self, arrays: Params, batch: Batch) -> tuple[Array, Params]:
        """Return losses (n,) and the derivative of loss i by row i of each array, keyed alike.

        ``arrays`` holds the embeddings named in ``needs``, (n, d) each, in the computing dtype
        (float32 for anything narrower). A derivative that is left out is 0.
        """

    def value_and_grad(
        self,
        batch: Batch,
        params: Params | None = None,
        *,
        wrt: tuple[str, ...] | None = None,
    ) -> LossResult:
        require_resolved(self)
        wanted = wanted_fields(batch, wrt)
        xp = namespace(anchors=batch.anchors)
        dtype, device = computing_dtype(batch.anchors, xp), device_of(batch.anchors)
        n = batch.anchors.shape[0]
        arrays = {"anchors": xp.astype(batch.anchors, dtype, copy=False)}
        if "references" in self.needs:
            arrays["references"] = xp.astype(self._partners(batch), dtype, copy=False)
        losses, slopes = self.rows(arrays, batch)
        self._check(losses, slopes, arrays)
        weights = None if batch.weights is None else xp.astype(batch.weights, dtype, copy=False)
        every = xp.ones((n,), dtype=xp.bool, device=device)
        value, factor, active = reduce_rows(losses, every, weights, self.reduction)
        grads: dict[str, Array] = {}
        for name in wanted:
            x = getattr(batch, name)
            if name not in slopes:
                grads[name] = xp.zeros_like(x)
                continue
            scale = factor if weights is None else (weights * factor)[:, None]
            gradient = xp.astype(slopes[name] * scale, x.dtype, copy=False)
            if x.shape[0] > n:
                gradient = xp.concat([gradient, xp.zeros_like(x[n:, :])], axis=0)
            grads[name] = gradient
        return LossResult(value, grads, {}, {"active": active})

    def _check(self, losses: Array, slopes: Params, arrays: Params) -> None:
        """Refuse what would be broadcast or, under a name that is none, never be used."""
        name = type(self).__name__
        _require_shape(f"the losses of {name}.rows", losses, arrays["anchors"].shape[:1])
        for key, slope in slopes.items():
            if key not in arrays:
                raise ArgumentError(
                    f"{name}.rows returned a derivative by {key!r}, which is none of its arrays."
                    f"{nearest(key, arrays)}"
                )
            _require_shape(f"the derivative by {key} of {name}.rows", slope, arrays[key].shape)

    def _partners(self, batch: Batch) -> Any:
        """Return the references that stand in the anchors' rows."""
        name, n = type(self).__name__, batch.anchors.shape[0]
        if batch.references is None:
            raise ArgumentError(
                f"{name} needs references, row i with anchor i: {name}()(anchors, positives)"
            )
        if not batch.aligned:
            raise ArgumentError(
                f"{name} reads row i of the references with anchor i, and this batch does not say "
                "that they go together: make it by Batch.pairs(anchors, references), or with "
                "aligned=True"
            )
        return batch.references[:n, :]


def _require_shape(what: str, x: Array, expected: tuple[int, ...]) -> None:
    shape = getattr(x, "shape", None)  # what is no array is refused where arrays are read
    if shape is not None and tuple(shape) != tuple(expected):
        raise ArgumentError(f"{what} must have the shape {tuple(expected)}, got {tuple(shape)}")
