"""AdamW over ten million parameters, in one array and in many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.case import COMPILED, PLAIN, US, Arrays, Call, Case, Compare, Inputs, Side
from benchmarks.data import normal

RATE, BETA1, BETA2, EPSILON, DECAY = 1e-3, 0.9, 0.999, 1e-8, 0.01
FUSED, DEFAULT, FOREACH = "torch fused", "torch default", "torch foreach"
OPTAX, THINC, FORMULA = "optax on JAX", "thinc", "the formula in NumPy"


def arrays(count: int, size: int) -> Callable[[], Inputs]:
    """Return a maker of parameters p0, p1, ... and gradients g0, g1, ..."""

    def make() -> Inputs:
        found = {}
        for i in range(count):
            found[f"p{i}"] = normal(1, size, 2 * i)[0]
            found[f"g{i}"] = normal(1, size, 2 * i + 1)[0]
        return found

    return make


def split(inputs: Inputs) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return copies of the parameters, which steps may write to, and of the gradients."""
    count = len(inputs) // 2
    return (
        {str(i): inputs[f"p{i}"].copy() for i in range(count)},
        {str(i): inputs[f"g{i}"].copy() for i in range(count)},
    )


def _ours(name: str, environment: dict[str, str]) -> Side:
    def build(inputs: Inputs) -> Call:
        from coreframe_optimizers.adamw import AdamW

        optimizer = AdamW(
            learning_rate=RATE, beta1=BETA1, beta2=BETA2, epsilon=EPSILON, weight_decay=DECAY
        )
        params, grads = split(inputs)
        state = optimizer.init(params)

        def run() -> Any:
            nonlocal params, state
            params, state = optimizer.update(params, grads, state, donate=True)
            return params

        return run

    needs = ("numba",) if name == COMPILED else ()
    return Side(name, build, dict, needs, in_full=True, environment=environment)


def _torch(name: str, **options: bool) -> Side:
    def build(inputs: Inputs) -> Call:
        torch = peers.torch_library()
        start, grads = split(inputs)
        params = {k: torch.from_numpy(x).requires_grad_() for k, x in start.items()}
        for k, p in params.items():
            p.grad = torch.from_numpy(grads[k])
        optimizer = torch.optim.AdamW(
            params.values(), RATE, (BETA1, BETA2), EPSILON, DECAY, **options
        )

        def run() -> Any:
            optimizer.step()
            return params

        return run

    def outputs(params: Any) -> Arrays:
        return {k: p.detach().numpy() for k, p in params.items()}

    return Side(name, build, outputs, ("torch",), in_full=True)


def _optax() -> Side:
    def build(inputs: Inputs) -> Call:
        import jax
        import jax.numpy as jnp
        import optax

        rule = optax.adamw(RATE, BETA1, BETA2, EPSILON, weight_decay=DECAY)

        def step(params: Any, grads: Any, state: Any) -> Any:
            updates, state = rule.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        fast = jax.jit(step, donate_argnums=(0, 2))
        start, gradients = split(inputs)
        params = {k: jnp.array(x) for k, x in start.items()}
        grads = {k: jnp.array(x) for k, x in gradients.items()}
        state = rule.init(params)

        def run() -> Any:
            nonlocal params, state
            params, state = jax.block_until_ready(fast(params, grads, state))
            return params

        return run

    # Copied, since the next step gives these arrays up.
    return Side(
        OPTAX,
        build,
        lambda p: {k: np.array(x) for k, x in p.items()},
        ("jax", "optax"),
        in_full=True,
    )


def _thinc() -> Side:
    def build(inputs: Inputs) -> Call:
        from thinc.optimizers import Optimizer

        optimizer = Optimizer(
            RATE,
            beta1=BETA1,
            beta2=BETA2,
            eps=EPSILON,
            L2=DECAY,
            L2_is_weight_decay=True,
            grad_clip=0.0,
            use_averages=False,
        )
        params, grads = split(inputs)

        def run() -> Any:
            for k, p in params.items():
                params[k], _ = optimizer((0, k), p, grads[k])
            return params

        return run

    return Side(THINC, build, dict, ("thinc",), in_full=True)


def formula() -> Side:
    """The formula as one would write it down in NumPy, with an array for each operation."""

    def build(inputs: Inputs) -> Call:
        params, grads = split(inputs)
        first = {k: np.zeros_like(p) for k, p in params.items()}
        second = {k: np.zeros_like(p) for k, p in params.items()}
        t = 0

        def run() -> Any:
            nonlocal t
            t += 1
            for k, g in grads.items():
                first[k] = BETA1 * first[k] + (1 - BETA1) * g
                second[k] = BETA2 * second[k] + (1 - BETA2) * (g * g)
                root = np.sqrt(second[k] / (1 - BETA2**t)) + EPSILON
                move = first[k] / (1 - BETA1**t) / root
                params[k] = params[k] * (1 - RATE * DECAY) - RATE * move
            return params

        return run

    return Side(FORMULA, build, dict, in_full=True)


def exact(inputs: Inputs) -> Arrays:
    """The first step: both moments are the gradient's own."""
    found = {}
    for i in range(len(inputs) // 2):
        p, g = (inputs[f"{kind}{i}"].astype(np.float64) for kind in "pg")
        found[str(i)] = p * (1 - RATE * DECAY) - RATE * g / (np.abs(g) + EPSILON)
    return found


def adamw(name: str, count: int, size: int) -> Case:
    where = "one array" if count == 1 else f"{count} arrays"
    return Case(
        name,
        f"AdamW, {count * size / 1e6:g} M parameters in {where}",
        arrays(count, size),
        arrays(count, 64),
        (
            _ours(US, PLAIN),
            _ours(COMPILED, {}),
            _torch(FUSED, fused=True),
            _torch(DEFAULT),
            _torch(FOREACH, foreach=True),
            _optax(),
            _thinc(),
            formula(),
        ),
        (
            Compare(FUSED, COMPILED, at_most=1.0),
            Compare(DEFAULT, at_most=0.8),
            Compare(FUSED),
            Compare(FOREACH),
            Compare(OPTAX),
            Compare(THINC),
            Compare(FORMULA),
        ),
        exact,
        accuracy="parameters",
        rounds=15,
        note="steps may write to the parameters and the state; thinc's takes the decay after the "
        "move",
    )


CASES = {
    "adamw": lambda quick: adamw("adamw", 1, 1_000_000 if quick else 10_000_000),
    "adamw_many": lambda quick: adamw("adamw_many", 200, 5_000 if quick else 50_000),
}
