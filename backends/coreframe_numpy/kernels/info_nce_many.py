"""InfoNCE's row terms for any number of positives a row: what a positive adds is a short list."""

from __future__ import annotations

from typing import Any

import numpy as np

from coreframe.backend import Array
from coreframe_numpy.kernels.pairs import Pairs, leave_out, working_copy


def row_terms(loss: Any, similarities: Array, positive: Array, negative: Array) -> Any:
    """The reference's formula: one log-sum-exp over negatives a row, softplus at the positives."""
    if not similarities.size:
        return NotImplemented
    pairs = Pairs.of(positive)
    z = working_copy(loss, similarities)
    temperature = float(loss.temperature)
    z *= 1 / temperature
    own = pairs.of_matrix(z) - z.dtype.type(float(loss.margin) / temperature)
    leave_out(z, negative)
    top = z.max(axis=1)
    none = top == -np.inf  # no negatives: the gap is -inf, loss and gradient are 0
    top[none] = 0
    z -= top[:, None]
    np.exp(z, out=z)
    total = z.sum(axis=1)
    total[none] = 1
    log_total = np.where(none, -np.inf, top + np.log(total)).astype(z.dtype)
    gap = log_total[pairs.row] - own  # logsumexp over negatives - z of the positive
    small = np.exp(-np.abs(gap))
    losses = pairs.mean(np.maximum(gap, 0) + np.log1p(small))
    share = (1 / (np.maximum(pairs.count, 1) * temperature)).astype(z.dtype)
    miss = np.where(gap > 0, 1, small) / (1 + small) * share[pairs.row]
    z *= (pairs.sum(miss) / total)[:, None]
    z.reshape(-1)[pairs.flat] = -miss
    return losses, z
