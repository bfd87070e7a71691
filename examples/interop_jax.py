"""A JAX training loop with a loss, a miner, an optimizer and schedules of coreframe, all compiled.

A linear map learns to bring two noisy views of a vector together: first with the usual cross
entropy over similarities and optax's AdamW, then with coreframe's InfoNCE and AdamW in their
place, which gives the same curve; at last with a temperature that cools and random negatives.

    python examples/interop_jax.py

Needs JAX and optax (extra "optax"), and takes some seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import coreframe as cf
from coreframe.interop.jax import gradient_transformation, jax_loss, schedule

STEPS, BATCH, WIDTH, OUT = 60, 64, 32, 16
RATE = cf.build("schedulers", "warmup_cosine", peak=0.02, warmup_steps=0.1)


def views(key: Any) -> tuple[Any, Any]:
    """Return two noisy views of the same vectors."""
    base, first, second = jax.random.normal(key, (3, BATCH, WIDTH))
    return base + 0.7 * first, base + 0.7 * second


def usual(anchors: Any, positives: Any) -> Any:
    """What stands in many scripts: it holds n x n similarities and their gradient."""
    anchors, positives = (
        x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (anchors, positives)
    )
    logits = anchors @ positives.T / 0.1
    return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.arange(BATCH)).mean()


def train(loss: Callable[[Any, Any, Any, Any], Any], optimizer: Any) -> list[float]:
    """All steps as one compiled loop; it does not know whose loss and optimizer it has."""

    def step(carry: Any, count: Any) -> Any:
        params, state = carry
        key = jax.random.fold_in(jax.random.key(1), count)
        anchors, positives = views(key)

        def value_of(params: Any) -> Any:
            return loss(anchors @ params["W"], positives @ params["W"], count, key)

        value, grads = jax.value_and_grad(value_of)(params)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    params = {"W": jax.random.normal(jax.random.key(0), (WIDTH, OUT)) / WIDTH**0.5}
    carry = (params, optimizer.init(params))
    _, values = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(STEPS)))(carry)
    return [float(x) for x in values]


def main() -> dict[str, list[float]]:
    adamw = cf.build("optimizers", "adamw", learning_rate=RATE, weight_decay=1e-4)
    ours = gradient_transformation(adamw, steps=STEPS)
    theirs = optax.adamw(schedule(RATE, steps=STEPS), weight_decay=1e-4)
    info_nce = cf.build("losses", "info_nce", temperature=0.1)
    cooling = cf.build("schedulers", "linear", start=0.2, end=0.1)
    cooled = cf.build("losses", "info_nce", temperature=cooling)
    miner = cf.build("miners", "random", k=16)

    def mined(a: Any, p: Any, count: Any, key: Any) -> Any:
        return jax_loss(cooled, a, p, miner=miner, rng=key, step=count, steps=STEPS)

    curves = {
        "the usual": train(lambda a, p, *_: usual(a, p), theirs),
        "coreframe's": train(lambda a, p, *_: jax_loss(info_nce, a, p), ours),
        "mined and cooled": train(mined, ours),
    }
    for name, curve in curves.items():
        print(f"{name:>17}: {curve[0]:.4f} -> {curve[-1]:.4f}")
    return curves


if __name__ == "__main__":
    main()
