"""A whole call of InfoNCE on a batch so small that the arithmetic is not what it costs.

A batch of 32 pairs needs some ten microseconds of arithmetic. The general way there (prepare,
blocks, masks, reductions, each for any loss) takes ten times as long, this one about as long as
its thirty calls of NumPy, and the compiled one five calls.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from coreframe.batch import Batch
from coreframe.blocks import budget_of
from coreframe.loss import LossResult
from coreframe.result import wanted_fields
from coreframe_numpy.kernels import compiled, info_nce_symmetric
from coreframe_numpy.kernels.info_nce import terms

_SMALL = 2**29  # multiplications of a product, which BLAS shares better than we do
_TINY = 2**19  # of them, up to which compiled steps are worth importing numba
_LOW, _HIGH = 1e-30, 1e30  # sums of squares whose rounding is a normal number's in float32


def value_and_grad(loss: Any, batch: Batch, wrt: tuple[str, ...] | None) -> Any:
    """Serve plain pairs, row i with row i, in float32 or float64; leave the rest."""
    if loss.symmetric:
        return info_nce_symmetric.value_and_grad(loss, batch, wrt)
    a, b = batch.anchors, batch.references
    if (
        b is None
        or not batch.relation.diagonal
        or batch.negatives is not None
        or batch.weights is not None
        or loss.learnable_scale
        or loss.similarity != "cosine"
        or loss.reduction not in ("mean", "sum")
        or a.dtype not in (np.float32, np.float64)  # nor in another order of bytes
        or len(b) < 2
        or (size := len(a) * b.size) >= _SMALL
        or 4 * len(a) * len(b) * a.dtype.itemsize > budget_of(a, loss.memory_budget)
    ):
        return NotImplemented
    wanted = wanted_fields(batch, wrt)
    weight = 1 / len(a) if loss.reduction == "mean" else 1.0
    if size <= _TINY and compiled.available():
        a, b = (np.require(x, requirements=["C", "W"]) for x in (a, b))  # one form to compile for
        from coreframe_numpy.kernels.compiled import info_nce as steps
    else:
        steps = _Plain  # type: ignore[assignment]
    u, u_inverse, u_safe = steps.unit_rows(a)
    v, v_inverse, v_safe = steps.unit_rows(b)
    if not (u_safe and v_safe):
        return NotImplemented
    z = np.dot(u, v.T)
    value, active = steps.slopes(z, float(loss.temperature), float(loss.margin), weight)
    grads = {}
    for name in wanted:
        if name == "anchors":
            grads[name] = steps.across(np.dot(z, v), u, u_inverse)
        else:
            grads[name] = steps.across(np.dot(z.T, u), v, v_inverse)
    parts = {"active": np.asarray(active, a.dtype)}
    return LossResult(np.asarray(value, a.dtype), grads, {}, parts)


class _Plain:
    """The steps in NumPy."""

    @staticmethod
    def unit_rows(x: Any) -> tuple[Any, Any, bool]:
        squares = np.einsum("ij,ij->i", x, x)
        safe = squares.min() > _LOW and squares.max() < _HIGH
        if not safe:
            return x, squares, False
        inverse = (1 / np.sqrt(squares))[:, None]
        return x * inverse, inverse, True

    @staticmethod
    def slopes(z: Any, temperature: float, margin: float, weight: float) -> tuple[float, float]:
        """Turn cosines into slopes; return the value and the share of rows with a loss."""
        losses, _ = terms(z, 0, temperature, margin)
        z *= weight
        return losses.sum() * weight, np.count_nonzero(losses) / len(losses)

    @staticmethod
    def across(gradient: Any, unit: Any, inverse: Any) -> Any:
        along = np.einsum("ij,ij->i", gradient, unit)
        gradient -= along[:, None] * unit
        gradient *= inverse
        return gradient
