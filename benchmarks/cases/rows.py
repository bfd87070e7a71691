"""Losses of single rows, which thinc has too: no products, only passes over the arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.case import PLAIN, US, Arrays, Call, Case, Compare, Inputs, Side
from benchmarks.data import pairs


def _ours(make: Callable[[], Any]) -> Side:
    def build(inputs: Inputs) -> Call:
        loss = make()
        return lambda: loss(inputs["a"], inputs["b"], wrt=("anchors",))

    return Side(US, build, lambda r: {"a": r.grads["anchors"]}, environment=PLAIN)


def _torch(make: Callable[[Any], Callable[[Any, Any], Any]]) -> Side:
    def build(inputs: Inputs) -> Call:
        import torch

        loss = make(torch.nn.functional)
        held = {"a": inputs["a"]}
        truths = torch.from_numpy(inputs["b"])
        return peers.torch_call(lambda x: loss(x["a"], truths), held)

    return Side(peers.TORCH, build, peers.torch_grads, ("torch",))


def _deducted(inputs: Inputs) -> int:
    return 4 * inputs["a"].nbytes  # the gradient, and three arrays to work in


def cosine(quick: bool) -> Case:
    n, d = (1024, 128) if quick else (8192, 384)

    def make() -> Any:
        from coreframe_losses.cosine_embedding import CosineEmbedding

        return CosineEmbedding()

    def theirs(functional: Any) -> Callable[[Any, Any], Any]:
        return lambda a, b: (1 - functional.cosine_similarity(a, b)).mean()

    def exact(inputs: Inputs) -> Arrays:
        a, b = (inputs[name].astype(np.float64) for name in ("a", "b"))
        a_length = np.linalg.norm(a, axis=1, keepdims=True)
        u, v = a / a_length, b / np.linalg.norm(b, axis=1, keepdims=True)
        s = np.sum(u * v, axis=1, keepdims=True)
        return {"a": -(v - s * u) / a_length / len(a)}

    return Case(
        "cosine",
        f"Cosine distance of rows, value and one gradient, n = {n:,}, d = {d}",
        pairs(n, d),
        pairs(64, d),
        (_ours(make), _torch(theirs), peers.thinc_distance("CosineDistance")),
        (Compare(peers.TORCH), Compare("thinc")),
        exact,
        _deducted,
        n=n,
    )


def squared(quick: bool) -> Case:
    n, d = (1024, 128) if quick else (8192, 384)

    def make() -> Any:
        from coreframe_losses.mse import MSE

        return MSE()

    def exact(inputs: Inputs) -> Arrays:
        a, b = (inputs[name].astype(np.float64) for name in ("a", "b"))
        return {"a": 2 * (a - b) / a.size}

    thinc = peers.thinc_distance("L2Distance")
    return Case(
        "squared",
        f"Squared distance of rows, value and one gradient, n = {n:,}, d = {d}",
        pairs(n, d),
        pairs(64, d),
        # thinc's gradient is that of half the squares, summed over dimensions
        (
            _ours(make),
            _torch(lambda functional: functional.mse_loss),
            Side(thinc.name, thinc.build, lambda r: {"a": r[0] * (2 / d)}, thinc.needs),
        ),
        (Compare(peers.TORCH), Compare("thinc")),
        exact,
        _deducted,
        n=n,
    )


CASES = {"cosine": cosine, "squared": squared}
