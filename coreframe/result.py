"""What a loss returns, and how the losses of rows become one value: for losses of every kind."""

from __future__ import annotations

from dataclasses import dataclass, field

from coreframe.backend import Array, Params, namespace
from coreframe.batch import Batch
from coreframe.errors import ArgumentError, ArgumentTypeError

__all__ = ["LossResult"]

REDUCTIONS = ("mean", "sum", "mean_active", "none")


@dataclass(frozen=True, eq=False)
class LossResult:
    """What a loss returns.

    value: 0-d (or (n,) for reduction "none"), on the device. grads: keyed by Batch field, each of
    that field's shape and dtype. param_grads: for losses with parameters. parts: 0-d, to log.
    """

    value: Array
    grads: Params
    param_grads: Params = field(default_factory=dict)
    parts: Params = field(default_factory=dict)


def reduce_rows(
    losses: Array, counted: Array, weights: Array | None, reduction: str
) -> tuple[Array, Array, Array]:
    """Return the value, the factor for gradients of the weighted sum, and the active share.

    losses (n,); counted (n,) bool: rows that have a loss; weights (n,) or None. The reductions
    are those of ``pairwise``.
    """
    xp = namespace(losses=losses)
    there = xp.astype(counted, losses.dtype)
    w = there if weights is None else there * weights
    active = w * xp.astype(losses > 0, losses.dtype)
    total, total_active = xp.sum(w), xp.sum(active)
    one = xp.ones_like(total)

    def over(numerator: Array, denominator: Array) -> Array:
        empty = denominator == 0
        return xp.where(empty, xp.zeros_like(one), numerator / xp.where(empty, one, denominator))

    share = over(total_active, total)
    weighted = w * losses
    if reduction == "none":
        return weighted, one, share
    if reduction == "sum":
        return xp.sum(weighted), one, share
    denominator = total if reduction == "mean" else total_active
    return over(xp.sum(weighted), denominator), over(one, denominator), share


def wanted_fields(batch: Batch, wrt: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the embedding fields to differentiate by: those named in wrt, or all present."""
    present = [f for f in ("anchors", "references", "negatives") if getattr(batch, f) is not None]
    if isinstance(wrt, str):
        raise ArgumentTypeError(f"wrt is a tuple of names, such as ({wrt!r},), got {wrt!r}")
    for name in wrt or ():
        if name not in present:
            raise ArgumentError(f"wrt names {name!r}, but this batch has {', '.join(present)}")
    return tuple(present if wrt is None else dict.fromkeys(wrt))
