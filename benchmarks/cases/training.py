"""A whole step of training, and the Fisher information that learning again needs."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import exact, floors, peers
from benchmarks.case import COMPILED, PLAIN, US, Call, Case, Compare, Inputs, Side
from benchmarks.data import pairs

T = 0.07
FORWARD, PRODUCT = "forward and loss", "one product"


def _step(name: str, environment: dict[str, str]) -> Side:
    def build(inputs: Inputs) -> Call:
        from coreframe import Batch
        from coreframe_adapters.linear import Linear
        from coreframe_losses.info_nce import InfoNCE
        from coreframe_optimizers.adamw import AdamW

        x, documents = inputs["a"], inputs["b"]
        adapter, loss, optimizer = Linear(), InfoNCE(temperature=T), AdamW()
        params = adapter.init(np.random.default_rng(0), x.shape[1])
        state = optimizer.init(params)

        def run() -> Any:
            nonlocal params, state
            y, pullback = adapter.forward(params, x)
            result = loss.value_and_grad(Batch.pairs(y, documents), wrt=("anchors",))
            grads, _ = pullback(result.grads["anchors"], need_dx=False)
            params, state = optimizer.update(params, grads, state, donate=True)
            return grads

        return run

    compiled = name == COMPILED
    needs = ("numba",) if compiled else ()
    return Side(name, build, dict, needs, in_full=compiled, environment=environment)


def _torch_step() -> Side:
    def build(inputs: Inputs) -> Call:
        torch = peers.torch_library()
        from torch.nn.functional import cross_entropy, normalize

        x, documents = (torch.from_numpy(inputs[name]) for name in ("a", "b"))
        target = torch.arange(len(x))
        w = torch.eye(x.shape[1], requires_grad=True)
        optimizer = torch.optim.AdamW([w])

        def run() -> Any:
            optimizer.zero_grad()
            logits = normalize(x @ w) @ normalize(documents).T / T
            cross_entropy(logits, target).backward()
            optimizer.step()
            return w

        return run

    return Side(peers.TORCH, build, lambda w: {"W": w.grad.numpy()}, ("torch",))


def step(quick: bool, n: int = 4096, d: int = 384, name: str = "step") -> Case:
    n, d = (512, 64) if quick else (n, d)
    return Case(
        name,
        f"One step: linear {d} x {d}, batch {n:,}, InfoNCE, AdamW; queries adapted",
        pairs(n, d),
        pairs(64, d),
        (
            _step(US, PLAIN),
            _step(COMPILED, {}),
            _torch_step(),
            *floors.three_products(),
        ),
        (
            Compare(peers.TORCH, at_most=0.6),
            Compare(peers.TORCH, COMPILED, at_most=0.6),
            Compare(floors.FLOOR),
        ),
        exact.adapter_step(T),
        lambda inputs: 3 * inputs["a"].nbytes + 4 * d * d,
        n=n,
        note="documents are held: their gradient, one of the floor's three products, is not needed",
    )


def fisher(quick: bool, n: int = 50_000, d: int = 384, name: str = "fisher") -> Case:
    n, d = (4_000, 128) if quick else (n, d)
    at_once = 1_000

    def parts(inputs: Inputs) -> tuple[Any, Any, Any, list[Any]]:
        from coreframe import Batch
        from coreframe_adapters.linear import Linear
        from coreframe_losses.mse import MSE

        adapter = Linear()
        params = adapter.init(np.random.default_rng(0), d)
        a, b = inputs["a"], inputs["b"]
        cuts = [slice(i, i + at_once) for i in range(0, len(a), at_once)]
        loss = MSE(reduction="none")
        return adapter, params, loss, [Batch.pairs(a[rows], b[rows]) for rows in cuts]

    def whole(inputs: Inputs) -> Call:
        from coreframe import fisher as information

        adapter, params, loss, batches = parts(inputs)
        return lambda: information(adapter, params, loss, batches)

    def plain(inputs: Inputs) -> Call:
        from coreframe import Batch

        adapter, params, loss, batches = parts(inputs)

        def run() -> None:
            for batch in batches:
                y, _ = adapter.forward(params, batch.anchors)
                loss.value_and_grad(Batch.pairs(y, batch.references), wrt=("anchors",))

        return run

    def product(inputs: Inputs) -> Call:
        return lambda: inputs["a"].T @ inputs["b"]

    return Case(
        name,
        f"Fisher diagonal of a linear adapter, {n:,} examples, d = {d}",
        pairs(n, d),
        pairs(at_once, d),
        (
            Side(US, whole, environment=PLAIN),
            Side(FORWARD, plain, environment=PLAIN, memory=False),
            Side(PRODUCT, product, memory=False),
        ),
        (Compare(PRODUCT, at_most=1.5, minus=FORWARD),),
        rounds=9,
        n=n,
        note="less the adapter's forward pass and one call of the loss by the anchors, which is a "
        f"squared error, since that of many products would drown the difference; the product is "
        f"X^T D of all examples; batches of {at_once:,}",
    )


CASES = {"step": step, "fisher": fisher}
