"""Cached steps: the gradients of a whole batch, through an encoder a part at a time."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from support import Library, assert_near

from coreframe import Adapter, Batch, Pairs, Progress, cached_step, fit
from coreframe.cached import cached
from coreframe.config import parse
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.random import stream
from coreframe.registry import build
from coreframe.step import Step, named
from coreframe_adapters.linear import Linear
from coreframe_adapters.low_rank import LowRank
from coreframe_adapters.micro_lora import MicroLoRA
from coreframe_adapters.recomputed import Recomputed
from coreframe_losses.info_nce import InfoNCE
from coreframe_miners.semi_hard import SemiHard
from coreframe_regularizers.variance_of_variances import VarianceOfVariances

N, D = 11, 6


def params_of(adapter: Adapter, loss: Any, library: Library) -> dict[str, Any]:
    own = {**named("adapter", adapter.init(stream(1, "a"), D)),
           **named("loss", loss.init(stream(1, "l"), D))}  # fmt: skip
    rng = np.random.default_rng(5)
    return {k: library.asarray(x + 0.1 * rng.standard_normal(x.shape)) for k, x in own.items()}


def batch_of(library: Library, kind: str) -> Batch:
    rng = np.random.default_rng(2)
    a, p = (library.asarray(rng.standard_normal((N, D))) for _ in range(2))
    if kind == "labels":
        return Batch.labelled(a, library.asarray(np.arange(N) % 3))
    own = library.asarray(rng.standard_normal((N, 2, D))) if kind == "own" else None
    weights = library.asarray(rng.uniform(0.5, 2, N)) if kind == "weights" else None
    return Batch.with_negatives(a, p, own=own, weights=weights)


def gradients(
    library: Library,
    part: int | None,
    kind: str,
    *,
    adapter: Any,
    loss: Any,
    side: str,
    **more: Any,
) -> dict[str, np.ndarray]:
    batch = batch_of(library, kind)
    params = params_of(adapter, loss, library)
    step = Step(adapter=adapter, loss=loss, miner=more.pop("miner", None), side=side, seed=3,
                mini_batch_size=part)  # fmt: skip
    progress = Progress(step=0, steps=1)
    found = step.gradients(batch, params, more.pop("regularizers", ()), progress, 0)
    return {name: np.asarray(library.to_numpy(x)) for name, x in found.items()}


CASES: dict[str, dict[str, Any]] = {
    "pairs": {"kind": "pairs", "adapter": Linear(bias=True), "loss": InfoNCE(), "side": "query"},
    "weights": {"kind": "weights", "adapter": LowRank(rank=2),
                "loss": InfoNCE(learnable_scale=True), "side": "both"},
    "own negatives": {"kind": "own", "adapter": Linear(), "loss": InfoNCE(), "side": "both"},
    "labels": {"kind": "labels", "adapter": MicroLoRA(rank=1), "loss": build("losses", "sup_con"),
               "side": "both"},
    "miner": {"kind": "pairs", "adapter": Linear(), "loss": build("losses", "triplet"),
              "miner": SemiHard(), "side": "both"},
    "regularizer": {"kind": "pairs", "adapter": Linear(), "loss": build("losses", "contrastive"),
                    "regularizers": (VarianceOfVariances(strength=0.5),), "side": "both"},
    "recomputed": {"kind": "pairs", "adapter": Recomputed(adapter=MicroLoRA(rank=1)),
                   "loss": InfoNCE(symmetric=True), "side": "both"},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_those_of_the_plain_step(library: Library, case: str) -> None:
    plain = gradients(library, None, **CASES[case])
    assert any(np.abs(g).max() > 1e-3 for name, g in plain.items() if name != "value")
    for part in (4, 50) if library.name == "jax" else (1, 4, N, 50):
        found = gradients(library, part, **CASES[case])
        assert found.keys() == plain.keys()
        for name, g in plain.items():
            assert_near(found[name], g)
        if part >= N and CASES[case]["kind"] != "own":  # own negatives are more rows than anchors
            assert all(np.array_equal(found[name], g) for name, g in plain.items())


@pytest.mark.parametrize(
    "loss", ["info_nce", "sup_con", "triplet", "contrastive", "mse", "cosine_embedding"]
)
def test_every_loss(on_numpy: Library, loss: str) -> None:
    case = {"adapter": Linear(), "loss": build("losses", loss), "side": "both"}
    kind = "labels" if loss == "sup_con" else "pairs"
    plain, found = (gradients(on_numpy, part, kind, **case) for part in (None, 3))
    for name, g in plain.items():
        assert_near(found[name], g)


# Noise --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Noisy(Linear):
    """Draws once, row by row, and multiplies what it drew; or twice."""

    draws: int = 1

    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        noise = np.ones(x.shape)
        for _ in range(self.draws):
            noise = noise * rng.standard_normal(x.shape)
        y, pullback = super().forward(params, x * noise)

        def back(dy: Any, need_dx: bool = True) -> Any:
            grads, dx = pullback(dy, need_dx=need_dx)
            return grads, None if dx is None else dx * noise

        return y, back


def test_noise_is_that_of_the_plain_step_whatever_the_parts(on_numpy: Library) -> None:
    case = {"adapter": Noisy(), "loss": InfoNCE(), "side": "both"}
    plain = gradients(on_numpy, None, "own", **case)
    for part in (1, 4, 7):
        found = gradients(on_numpy, part, "own", **case)
        for name, g in plain.items():
            assert_near(found[name], g)


def test_noise_is_the_same_in_both_passes_of_a_part(on_numpy: Library) -> None:
    """Two draws a pass come in another order than in one piece, and gradients are still exact."""
    case = {"adapter": Noisy(draws=2), "loss": InfoNCE(), "side": "both", "kind": "pairs"}
    found = gradients(on_numpy, 4, **case)
    w = params_of(Noisy(), InfoNCE(), on_numpy)["adapter.W"]
    direction = np.random.default_rng(0).standard_normal(w.shape)

    def value(step: float) -> float:
        batch = batch_of(on_numpy, "pairs")
        own = {"adapter.W": w + step * direction}
        step_of = Step(adapter=Noisy(draws=2), loss=InfoNCE(), miner=None, side="both", seed=3,
                       mini_batch_size=4)  # fmt: skip
        made = step_of.gradients(batch, own, (), Progress(step=0, steps=1), 0)
        return float(made["value"])

    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    assert slope == pytest.approx(float((found["adapter.W"] * direction).sum()), rel=1e-6)


# Any encoder --------------------------------------------------------------------------------


def mlp(w1: Any, w2: Any, seen: list[int] | None = None) -> Callable[[Any, Any], Any]:
    def forward(x: Any, rng: Any) -> Any:
        if seen is not None:
            seen.append(len(x))
        hidden = np.tanh(x @ w1)

        def pullback(dy: Any, need_dx: bool = True) -> Any:
            inner = (dy @ w2.T) * (1 - hidden * hidden)
            return {"w1": x.T @ inner, "w2": hidden.T @ dy}, inner @ w1.T if need_dx else None

        return hidden @ w2, pullback

    return forward


def some_mlp() -> tuple[Any, Any, Any, Any, Any]:
    rng = np.random.default_rng(0)
    w1, w2 = rng.standard_normal((D, 20)) / 3, rng.standard_normal((20, 5)) / 3
    return w1, w2, *(rng.standard_normal((N, *shape)) for shape in ((D,), (D,), (3, D)))


def test_an_encoder_by_parts_against_torch() -> None:
    torch = pytest.importorskip("torch")
    w1, w2, a, p, own = some_mlp()
    found, grads = cached_step(
        mlp(w1, w2), InfoNCE(temperature=0.3), {"anchors": a, "references": p, "negatives": own},
        mini_batch_size=4,
    )  # fmt: skip
    t1, t2 = (torch.tensor(w, requires_grad=True) for w in (w1, w2))
    za, zp, zn = (
        torch.nn.functional.normalize(torch.tanh(torch.tensor(x) @ t1) @ t2, dim=-1)
        for x in (a, p, own)
    )
    scores = torch.cat([za @ zp.T, torch.einsum("nd,nkd->nk", za, zn)], dim=1) / 0.3
    value = torch.nn.functional.cross_entropy(scores, torch.arange(N))
    value.backward()
    assert float(found.value) == pytest.approx(float(value.detach()))
    assert_near(grads["w1"], t1.grad.numpy())
    assert_near(grads["w2"], t2.grad.numpy())


def test_two_towers_a_frozen_side_and_a_function_for_a_loss() -> None:
    w1, w2, a, p, _ = some_mlp()
    v1, v2 = w1 + 1, w2 - 1
    inputs = {"anchors": a, "references": p}
    towers = {"anchors": mlp(w1, w2), "references": mlp(v1, v2)}
    _, grads = cached_step(towers, InfoNCE(), inputs, mini_batch_size=3)
    whole, want = cached_step(towers, InfoNCE(), inputs, mini_batch_size=99)
    assert set(grads) == {"anchors.w1", "anchors.w2", "references.w1", "references.w2"}
    for name, g in want.items():
        assert_near(grads[name], g)
    frozen = mlp(v1, v2)(p, None)[0]
    half, grads = cached_step(
        {"anchors": towers["anchors"]},
        lambda e: InfoNCE().value_and_grad(Batch.pairs(e["anchors"], e["references"])),
        {"anchors": a, "references": frozen},
        mini_batch_size=3,
    )
    assert float(half.value) == pytest.approx(float(whole.value))
    assert set(grads) == {"anchors.w1", "anchors.w2"}
    assert_near(grads["anchors.w1"], want["anchors.w1"])


def test_each_part_goes_through_twice_and_no_more() -> None:
    w1, w2, a, _, _ = some_mlp()
    seen: list[int] = []
    y, pullback = cached(mlp(w1, w2, seen), a, mini_batch_size=4)
    assert seen == [4, 4, 3]
    grads, dx = pullback(np.ones_like(y))
    assert seen == [4, 4, 3] * 2
    plain_y, plain = mlp(w1, w2)(a, None)
    assert_near(y, plain_y)
    assert_near(dx, plain(np.ones_like(y))[1])
    assert pullback(np.ones_like(y), need_dx=False)[1] is None
    assert_near(pullback(np.ones_like(y))[0]["w1"], grads["w1"])  # and may be called again


def test_memory_is_that_of_a_part() -> None:
    rng = np.random.default_rng(0)
    w1, w2 = rng.standard_normal((16, 2048)), rng.standard_normal((2048, 16))
    x = rng.standard_normal((2048, 16))
    peaks = []
    for part in (64, 2048):
        gc.collect()
        tracemalloc.start()
        y, pullback = cached(mlp(w1, w2), x, mini_batch_size=part)
        pullback(np.ones_like(y), need_dx=False)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] > 2048 * 2048 * 8
    assert peaks[0] < peaks[1] / 8


# Errors, and runs ---------------------------------------------------------------------------


def test_what_cannot_work_is_said() -> None:
    w1, w2, a, p, _ = some_mlp()
    inputs = {"anchors": a, "references": p}
    for wrong in (0, -1, 2.0, True, None):
        with pytest.raises(ArgumentError, match="mini_batch_size must be a whole number from 1"):
            cached(mlp(w1, w2), a, mini_batch_size=wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="forward names 'queries', but inputs has anchors, ref"):
        cached_step({"queries": mlp(w1, w2)}, InfoNCE(), inputs, mini_batch_size=2)
    with pytest.raises(ArgumentTypeError, match="loss must be a Loss or a function"):
        cached_step(mlp(w1, w2), "info_nce", inputs, mini_batch_size=2)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="a reduction but 'none'"):
        cached_step(mlp(w1, w2), InfoNCE(reduction="none"), inputs, mini_batch_size=2)
    drawn = np.random.default_rng(0)

    def careless(x: Any, rng: Any) -> Any:  # draws from a generator of its own
        noise = drawn.standard_normal(x.shape)
        return x * noise, lambda dy, need_dx=True: ({}, dy * noise)

    y, pullback = cached(careless, a, mini_batch_size=4)
    with pytest.raises(ArgumentError, match="another output for rows 0 to 3 when it was run again"):
        pullback(np.ones_like(y))
    with pytest.raises(ArgumentError, match="mini_batch_size must be a whole number from 1, got 0"):
        fit(Pairs(a, p), mini_batch_size=0)


def test_a_run_by_parts_is_the_run() -> None:
    rng = np.random.default_rng(0)
    pairs = Pairs(rng.standard_normal((40, D)), rng.standard_normal((40, D)))
    options: dict[str, Any] = {
        "adapter": Recomputed(adapter=MicroLoRA(rank=1)), "side": "both", "epochs": 2,
        "batch_size": 16, "gradient_accumulation_steps": 2, "max_grad_norm": 1.0,
    }  # fmt: skip
    plain, parts = fit(pairs, **options), fit(pairs, **options, mini_batch_size=5)
    for name, x in plain.params.items():
        assert_near(parts.params[name], x)
    assert parts.history[0]["loss"] == pytest.approx(plain.history[0]["loss"])


def test_mini_batch_size_stands_in_a_run_toml() -> None:
    from coreframe.experiment import fit_arguments

    settings = parse({"train": {"mini_batch_size": 64}})
    assert fit_arguments(settings)["mini_batch_size"] == 64
    assert replace(settings.train, mini_batch_size=None).mini_batch_size is None
