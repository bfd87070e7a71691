"""The arrays of the cases, from fixed seeds and without large temporaries."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.case import Inputs


def normal(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d), dtype=np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    """Scale rows to length 1, in place."""
    for i in range(0, len(x), 4096):
        x[i : i + 4096] /= np.linalg.norm(x[i : i + 4096], axis=1, keepdims=True)
    return x


def pairs(n: int, d: int) -> Callable[[], Inputs]:
    """Return a maker of anchors and of positives near them."""

    def make() -> Inputs:
        a, b = normal(n, d, 0), normal(n, d, 1)
        b += a
        return {"a": a, "b": b}

    return make


def classes(n: int, d: int, each: int = 4) -> Callable[[], Inputs]:
    """Return a maker of unit vectors with labels, ``each`` a class, that lie somewhat together."""

    def make() -> Inputs:
        x = normal(n, d, 0)
        labels = np.arange(n) // each
        x += 0.7 * normal(labels[-1] + 1, d, 1)[labels]
        return {"x": unit(x), "labels": labels}

    return make


def loss_bytes(inputs: Inputs) -> int:
    """Return the bytes of the gradients, and of three arrays of a side's shape to work in."""
    arrays = [inputs[name] for name in ("a", "b", "x") if name in inputs]
    return sum(x.nbytes for x in arrays) + 3 * arrays[0].nbytes
