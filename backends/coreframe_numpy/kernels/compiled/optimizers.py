"""The updates of parameters as one loop each: every array is read once and written once.

The formulas are those of ``kernels/optimizers.py``, in the same order of operations. ``numbers``
holds their constants in the dtype of the arrays, so that nothing is widened. The compiler makes
vector instructions of a loop over whole slices without branches, and not where an index could be
negative.
"""

from __future__ import annotations

import math
from typing import Any


def adam(p: Any, g: Any, m: Any, v: Any, numbers: Any, start: int, stop: int) -> None:
    """Adam and AdamW, on entries start to stop."""
    beta1, rest1, beta2, rest2 = numbers[0], numbers[1], numbers[2], numbers[3]
    coupled, kept, epsilon, rate = numbers[4], numbers[5], numbers[6], numbers[7]
    p, g, m, v = p[start:stop], g[start:stop], m[start:stop], v[start:stop]
    for i in range(p.size):
        x, slope = p[i], g[i]
        if coupled != 0:
            slope = slope + coupled * x
        first = beta1 * m[i] + rest1 * slope
        second = beta2 * v[i] + rest2 * (slope * slope)
        m[i] = first
        v[i] = second
        p[i] = x * kept - first / (math.sqrt(second) + epsilon) * rate


def sgd(p: Any, g: Any, v: Any, numbers: Any, start: int, stop: int) -> None:
    """Stochastic gradient descent with momentum, on entries start to stop."""
    momentum, decay, rate, nesterov = numbers[0], numbers[1], numbers[2], numbers[3]
    p, g, v = p[start:stop], g[start:stop], v[start:stop]
    for i in range(p.size):
        x, slope = p[i], g[i]
        if decay != 0:
            slope = slope + decay * x
        velocity = momentum * v[i] + slope
        v[i] = velocity
        if nesterov != 0:
            velocity = slope + momentum * velocity
        p[i] = x - rate * velocity
