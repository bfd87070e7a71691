"""InfoNCE and what is like it: pairs, both directions, many rows, few rows, a plugin's loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import exact, floors, peers
from benchmarks.case import COMPILED, PLAIN, US, Call, Case, Compare, Inputs, Side
from benchmarks.data import loss_bytes, pairs

T = 0.07


def grads(result: Any) -> dict[str, Any]:
    return {"a": result.grads["anchors"], "b": result.grads["references"]}


def info_nce(name: str = US, environment: dict[str, str] = PLAIN, **options: Any) -> Side:
    """Our public call, with all its checks."""

    def build(inputs: Inputs) -> Call:
        from coreframe_losses.info_nce import InfoNCE

        loss = InfoNCE(temperature=T, **options)
        return lambda: loss(inputs["a"], inputs["b"])

    needs = ("numba",) if name == COMPILED else ()
    return Side(name, build, grads, needs, environment=environment)


def _peers(symmetric: bool) -> tuple[Side, ...]:
    makers: tuple[Callable[[float, bool], Side], ...] = (
        peers.torch_info_nce,
        peers.compiled_info_nce,
        peers.sentence_transformers_info_nce,
        peers.jax_info_nce,
    )
    return tuple(make(T, symmetric) for make in makers)


def one_direction(quick: bool, n: int = 8192, d: int = 384, name: str = "info_nce") -> Case:
    n, d = (1024, 128) if quick else (n, d)
    return Case(
        name,
        f"InfoNCE, value and both gradients, n = {n:,}, d = {d}",
        pairs(n, d),
        pairs(64, d),
        (info_nce(), *floors.three_products(), *_peers(False)),
        (
            Compare(floors.FLOOR, at_most=1.2, goal=1.1),
            Compare(peers.TORCH, at_most=0.7, memory_mib=64),
            Compare(peers.TORCH_COMPILE),
            Compare(peers.SENTENCE_TRANSFORMERS),
            Compare(peers.JAX),
        ),
        exact.info_nce(T),
        loss_bytes,
        n=n,
    )


def both_directions(quick: bool, n: int = 8192, d: int = 384, name: str = "symmetric") -> Case:
    n, d = (1024, 128) if quick else (n, d)
    return Case(
        name,
        f"InfoNCE(symmetric=True), n = {n:,}, d = {d}",
        pairs(n, d),
        pairs(64, d),
        (info_nce(symmetric=True), *floors.three_products(), *_peers(True)),
        (
            Compare(floors.FLOOR, at_most=1.6),
            Compare(peers.TORCH, at_most=0.45),
            Compare(peers.TORCH_COMPILE),
            Compare(peers.SENTENCE_TRANSFORMERS),
            Compare(peers.JAX),
        ),
        exact.info_nce(T, symmetric=True),
        loss_bytes,
        n=n,
    )


def large(quick: bool) -> Case:
    n, d = (4096, 64) if quick else (65536, 384)
    return Case(
        "large",
        f"InfoNCE, n = {n:,}, d = {d}",
        pairs(n, d),
        pairs(1024, d),
        (info_nce(), *floors.only_blocks()),
        (Compare(floors.BLOCKS, at_most=1.3, memory_mib=512),),
        exact.info_nce_rows(T),
        loss_bytes,
        rounds=1,
        long=True,
        n=n,
        note="the floor in blocks only, since the whole similarities are 16 GiB; the gradients "
        "of 256 anchors are judged",
    )


def small(quick: bool) -> Case:
    n, d = 32, 128
    return Case(
        "small",
        f"InfoNCE, small calls, n = {n}, d = {d}",
        pairs(n, d),
        pairs(n, d),
        (
            info_nce(),
            info_nce(COMPILED, {}),
            formula(),
            peers.torch_info_nce(T),
            peers.compiled_info_nce(T),
            peers.sentence_transformers_info_nce(T),
            peers.jax_info_nce(T),
        ),
        (
            Compare(FORMULA),
            Compare(peers.TORCH, at_most=0.5),
            Compare(peers.TORCH, COMPILED, at_most=0.3),
            Compare(peers.TORCH_COMPILE),
            Compare(peers.SENTENCE_TRANSFORMERS),
            Compare(peers.JAX),
        ),
        exact.info_nce(T),
        rounds=5 if quick else 25,
        calls=50 if quick else 200,
        memory=False,
        n=n,
    )


FORMULA = "the formula in NumPy"


def formula() -> Side:
    """InfoNCE as one would write it down in NumPy, without any checks: the floor of small calls."""

    def build(inputs: Inputs) -> Call:
        import numpy as np

        a, b = inputs["a"], inputs["b"]
        rows = np.arange(len(a))

        def run() -> tuple[Any, Any, Any]:
            a_length = np.sqrt(np.einsum("ij,ij->i", a, a))[:, None]
            b_length = np.sqrt(np.einsum("ij,ij->i", b, b))[:, None]
            u, v = a / a_length, b / b_length
            z = u @ v.T / T
            z -= z.max(axis=1, keepdims=True)
            right = z[rows, rows]
            np.exp(z, out=z)
            total = z.sum(axis=1, keepdims=True)
            value = (np.log(total[:, 0]) - right).mean()
            z /= total
            z[rows, rows] -= 1
            z /= len(a) * T
            du, dv = z @ v, z.T @ u
            du -= np.einsum("ij,ij->i", du, u)[:, None] * u
            dv -= np.einsum("ij,ij->i", dv, v)[:, None] * v
            return value, du / a_length, dv / b_length

        return run

    return Side(FORMULA, build, lambda r: {"a": r[1], "b": r[2]}, memory=False)


# A plugin's loss ------------------------------------------------------------------------------


def soft_margin() -> Side:
    """The loss of docs/write-a-plugin.md, as a third party would write it."""

    def build(inputs: Inputs) -> Call:
        from coreframe import PairwiseLoss, namespace

        @dataclass(frozen=True, kw_only=True)
        class SoftMargin(PairwiseLoss):
            scale: float = 10.0

            def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
                xp, scale = namespace(similarities=similarities), self.scale
                dtype = similarities.dtype
                sign = xp.astype(negative, dtype) - xp.astype(positive, dtype)
                z = scale * sign * similarities
                used = xp.abs(sign)
                terms = xp.maximum(z, 0 * z) + xp.log1p(xp.exp(-xp.abs(z)))
                return xp.sum(used * terms, axis=1), scale * sign / (1 + xp.exp(-z))

        loss = SoftMargin()
        return lambda: loss(inputs["a"], inputs["b"])

    return Side("third-party row_terms", build, environment=PLAIN)


def third_party(quick: bool, n: int = 8192, d: int = 384, name: str = "third_party") -> Case:
    n, d = (1024, 128) if quick else (n, d)
    return Case(
        name,
        f"A plugin's row_terms (the example of fifteen lines), n = {n:,}, d = {d}",
        pairs(n, d),
        pairs(64, d),
        (soft_margin(), info_nce(), *floors.three_products()),
        (
            Compare(US, "third-party row_terms", at_most=1.6),
            Compare(floors.FLOOR, "third-party row_terms"),
        ),
        exact.info_nce(T),
        loss_bytes,
        n=n,
    )


CASES = {
    "info_nce": one_direction,
    "symmetric": both_directions,
    "large": large,
    "small": small,
    "third_party": third_party,
}
