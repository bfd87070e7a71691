"""The steps of a small InfoNCE call, one loop each; see ``kernels.info_nce_small``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from coreframe_numpy.kernels.compiled import compiled

_LOW, _HIGH = 1e-30, 1e30


def unit_rows(x: Any) -> tuple[Any, Any, bool]:
    """Return rows of length 1, inverse lengths, and whether these are to be trusted."""
    unit, inverse = np.empty_like(x), np.empty(len(x), x.dtype)
    return unit, inverse, compiled(_unit_rows)(x, unit, inverse)


def slopes(z: Any, temperature: float, margin: float, weight: float) -> tuple[float, float]:
    """Turn cosines into slopes; return the value and the share of rows with a loss."""
    return compiled(_slopes)(z, temperature, margin, weight)  # type: ignore[no-any-return]


def across(gradient: Any, unit: Any, inverse: Any) -> Any:
    """Turn the gradient by unit rows into that by the rows, in place."""
    compiled(_across)(gradient, unit, inverse)
    return gradient


def _unit_rows(x, unit, inverse):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        squares = 0.0
        for j in range(x.shape[1]):
            squares += float(x[i, j]) * float(x[i, j])
        if not _LOW < squares < _HIGH:
            return False
        scale = x.dtype.type(1 / math.sqrt(squares))
        inverse[i] = scale
        for j in range(x.shape[1]):
            unit[i, j] = x[i, j] * scale
    return True


def _slopes(z, temperature, margin, weight):  # type: ignore[no-untyped-def]
    """InfoNCE as softplus(logsumexp over negatives - positive), the positive in column i."""
    value, active = 0.0, 0
    n, m = z.shape
    kind = z.dtype.type
    for i in range(n):
        top = -np.inf
        for j in range(m):
            if j != i and z[i, j] > top:
                top = z[i, j]
        total = 0.0
        own = z[i, i]
        for j in range(m):
            z[i, j] = math.exp((z[i, j] - kind(top)) * kind(1 / temperature))
            if j != i:
                total += z[i, j]
        gap = (top - own + margin) / temperature + math.log(total)
        small = math.exp(-abs(gap))
        loss = max(gap, 0.0) + math.log1p(small)
        value += loss
        active += kind(loss) > 0
        miss = (1.0 if gap > 0 else small) / ((1 + small) * temperature) * weight
        scale = kind(miss / total)
        for j in range(m):
            z[i, j] *= scale
        z[i, i] = -miss
    return value * weight, active / n


def _across(gradient, unit, inverse):  # type: ignore[no-untyped-def]
    for i in range(gradient.shape[0]):
        along = 0.0
        for j in range(gradient.shape[1]):
            along += float(gradient[i, j]) * float(unit[i, j])
        share = gradient.dtype.type(along)
        for j in range(gradient.shape[1]):
            gradient[i, j] = (gradient[i, j] - share * unit[i, j]) * inverse[i]
