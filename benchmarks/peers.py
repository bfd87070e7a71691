"""What a user would pick instead, each as a builder of a call; nothing is imported before."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import floors
from benchmarks.case import Arrays, Call, Inputs, LeftOut, Side

TORCH, TORCH_COMPILE = "torch eager", "torch.compile"
SENTENCE_TRANSFORMERS, PML = "sentence-transformers", "pytorch-metric-learning"
JAX = "optax on JAX"


def torch_library() -> Any:
    """Return torch, with as many threads as all others have."""
    import torch

    torch.set_num_threads(floors.threads())
    return torch


def torch_leaves(inputs: Inputs) -> dict[str, Any]:
    """Return the inputs as tensors over the same memory; what is floating is differentiated."""
    torch = torch_library()
    found = {}
    for name, x in inputs.items():
        found[name] = torch.from_numpy(x)
        if found[name].is_floating_point():
            found[name].requires_grad_()
    return found


def torch_call(loss: Callable[[dict[str, Any]], Any], inputs: Inputs) -> Call:
    """Return a call of value and gradients by the floating inputs."""
    leaves = torch_leaves(inputs)

    def run() -> Any:
        for x in leaves.values():
            x.grad = None
        loss(leaves).backward()
        return leaves

    return run


def torch_grads(leaves: dict[str, Any]) -> Arrays:
    return {name: x.grad.numpy() for name, x in leaves.items() if x.grad is not None}


# InfoNCE --------------------------------------------------------------------------------------


def _torch_info_nce(temperature: float, symmetric: bool) -> Callable[[dict[str, Any]], Any]:
    import torch
    from torch.nn.functional import cross_entropy, normalize

    def loss(x: dict[str, Any]) -> Any:
        logits = normalize(x["a"]) @ normalize(x["b"]).T / temperature
        target = torch.arange(len(logits))
        if not symmetric:
            return cross_entropy(logits, target)
        return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2

    return loss


def torch_info_nce(temperature: float, symmetric: bool = False) -> Side:
    def build(inputs: Inputs) -> Call:
        return torch_call(_torch_info_nce(temperature, symmetric), inputs)

    return Side(TORCH, build, torch_grads, ("torch",))


def compiled_info_nce(temperature: float, symmetric: bool = False) -> Side:
    def build(inputs: Inputs) -> Call:
        import torch

        loss = torch.compile(_torch_info_nce(temperature, symmetric), dynamic=False)
        call = torch_call(loss, inputs)
        try:
            call()
        except Exception as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise LeftOut(f"needs a C++ compiler that works ({line[:100]})") from error
        return call

    return Side(TORCH_COMPILE, build, torch_grads, ("torch",), in_full=True)


def jax_info_nce(temperature: float, symmetric: bool = False) -> Side:
    def build(inputs: Inputs) -> Call:
        import jax
        import jax.numpy as jnp
        import optax

        def loss(a: Any, b: Any) -> Any:
            u, v = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
            logits = u @ v.T / temperature
            target = jnp.arange(len(a))
            cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
            value = jnp.mean(cross_entropy(logits, target))
            if symmetric:
                value = (value + jnp.mean(cross_entropy(logits.T, target))) / 2
            return value

        step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
        a, b = (jax.block_until_ready(jnp.asarray(inputs[name])) for name in ("a", "b"))
        return lambda: jax.block_until_ready(step(a, b))

    return Side(JAX, build, lambda r: {"a": r[1][0], "b": r[1][1]}, ("jax", "optax"), in_full=True)


def sentence_transformers_info_nce(temperature: float, symmetric: bool = False) -> Side:
    """Its MultipleNegativesRankingLoss on given embeddings, without a model."""

    def build(inputs: Inputs) -> Call:
        from sentence_transformers.losses import MultipleNegativesRankingLoss

        options: dict[str, Any] = {}
        if symmetric:
            options = {
                "directions": ("query_to_doc", "doc_to_query"),
                "partition_mode": "per_direction",
            }
        loss = MultipleNegativesRankingLoss(None, scale=1 / temperature, **options)
        return torch_call(
            lambda x: loss.compute_loss_from_embeddings([x["a"], x["b"]], None), inputs
        )

    return Side(SENTENCE_TRANSFORMERS, build, torch_grads, ("sentence_transformers",))


# Losses of labels -----------------------------------------------------------------------------


def metric_learning(
    make: Callable[[Any], tuple[Any, Any]], name: str = PML, *, judged: bool = True
) -> Side:
    """Return a side of pytorch-metric-learning; ``make`` returns a loss and a miner or None."""

    def build(inputs: Inputs) -> Call:
        import pytorch_metric_learning as library
        from pytorch_metric_learning import distances, losses, miners, reducers

        del losses, distances, miners, reducers  # imported so that make finds them
        loss, miner = make(library)

        def run(x: dict[str, Any]) -> Any:
            # Its miners are called without gradients, as its own documentation shows.
            chosen = None if miner is None else miner(x["x"], x["labels"])
            return loss(x["x"], x["labels"], chosen)

        return torch_call(run, inputs)

    return Side(name, build, torch_grads if judged else None, ("pytorch_metric_learning",))


def jax_nt_xent(temperature: float) -> Side:
    """optax.losses.ntxent, the mean over positive pairs."""

    def build(inputs: Inputs) -> Call:
        import jax
        import jax.numpy as jnp
        import optax

        def loss(x: Any, labels: Any) -> Any:
            return optax.losses.ntxent(x, labels, temperature)

        step = jax.jit(jax.value_and_grad(loss))
        x, labels = jnp.asarray(inputs["x"]), jnp.asarray(inputs["labels"].astype(np.int32))
        return lambda: jax.block_until_ready(step(x, labels))

    return Side(JAX, build, lambda r: {"x": r[1]}, ("jax", "optax"), in_full=True)


# Losses of rows -------------------------------------------------------------------------------


def thinc_distance(name: str) -> Side:
    """One of thinc's losses of rows: value, and the gradient of the guesses."""

    def build(inputs: Inputs) -> Call:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from thinc import loss

        distance = getattr(loss, name)()
        return lambda: distance(inputs["a"], inputs["b"])

    return Side("thinc", build, lambda r: {"a": r[0]}, ("thinc",))
