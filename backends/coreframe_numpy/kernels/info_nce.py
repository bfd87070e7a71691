"""InfoNCE's row terms in place: six passes over a block instead of twenty."""

from __future__ import annotations

from typing import Any

import numpy as np

from coreframe.backend import Array


def diagonal(loss: Any, similarities: Array, first: int) -> Any:
    """Serve rows whose one positive is column ``first + i``, all others being negatives."""
    return *terms(similarities, first, float(loss.temperature), float(loss.margin)), {}


def terms(z: Array, first: int, temperature: float, margin: float) -> Any:
    """Return the losses of rows of similarities, and their slopes in the same memory."""
    rows = np.arange(len(z))
    columns = rows + first
    z *= 1 / temperature
    own = z[rows, columns] - z.dtype.type(margin / temperature)
    z[rows, columns] = -np.inf
    top = z.max(axis=1)
    z -= top[:, None]
    np.exp(z, out=z)
    total = z.sum(axis=1)
    gap = top + np.log(total) - own  # logsumexp over negatives - z of the positive
    small = np.exp(-np.abs(gap))
    losses = np.maximum(gap, 0) + np.log1p(small)
    miss = np.where(gap > 0, 1, small) / ((1 + small) * temperature)
    z *= (miss / total)[:, None]
    z[rows, columns] = -miss
    return losses, z
