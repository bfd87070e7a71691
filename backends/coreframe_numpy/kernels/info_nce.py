"""InfoNCE's row terms in place: six passes over a block instead of twenty."""

from __future__ import annotations

from typing import Any

import numpy as np

from coreframe.backend import Array


def row_terms(loss: Any, similarities: Array, positive: Array, negative: Array) -> Any:
    """Serve blocks where every row has one positive and a negative; leave the rest."""
    if loss.similarity not in ("cosine", "dot") or loss.learnable_scale:
        return NotImplemented  # the engine needs the similarities again
    if not (np.count_nonzero(positive, axis=1) == 1).all() or not negative.any(axis=1).all():
        return NotImplemented
    rows = np.arange(len(similarities))
    column = positive.argmax(axis=1)
    z = similarities
    z *= 1 / loss.temperature
    own = z[rows, column] - z.dtype.type(loss.margin / loss.temperature)
    np.copyto(z, -np.inf, where=~negative)
    top = z.max(axis=1)
    z -= top[:, None]
    np.exp(z, out=z)
    total = z.sum(axis=1)
    gap = top + np.log(total) - own  # logsumexp over negatives - z of the positive
    small = np.exp(-np.abs(gap))
    losses = np.maximum(gap, 0) + np.log1p(small)
    miss = np.where(gap > 0, 1, small) / ((1 + small) * loss.temperature)
    z *= (miss / total)[:, None]
    z[rows, column] = -miss
    return losses, z
