"""SupCon's row terms: nine passes over a block, and positives as a list."""

from __future__ import annotations

from typing import Any

import numpy as np

from coreframe.backend import Array
from coreframe_numpy.kernels.pairs import Pairs, leave_out, working_copy


def row_terms(loss: Any, similarities: Array, positive: Array, negative: Array) -> Any:
    """The reference's formula, with the differences taken at the positives alone."""
    if not similarities.size:
        return NotImplemented
    pairs = Pairs.of(positive)
    z = working_copy(loss, similarities)
    temperature = float(loss.temperature)
    z *= 1 / temperature
    own = pairs.of_matrix(z)
    leave_out(z, positive | negative)
    top = z.max(axis=1)
    top[top == -np.inf] = 0  # rows without a pair
    z -= top[:, None]
    np.exp(z, out=z)
    total = z.sum(axis=1)
    total[total == 0] = 1
    log_total = top + np.log(total)
    losses = pairs.mean(log_total[pairs.row] - own)
    z *= (1 / (total * temperature))[:, None]
    share = (1 / (np.maximum(pairs.count, 1) * temperature)).astype(z.dtype)
    z.reshape(-1)[pairs.flat] -= share[pairs.row]
    return losses, z
