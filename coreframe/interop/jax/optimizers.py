"""Optimizers of coreframe as gradient transformations of optax."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from coreframe import registry
from coreframe.errors import ArgumentError, MissingExtra
from coreframe.interop.jax.schedules import schedule
from coreframe.interop.jax.tracing import looks_named
from coreframe.optimizer import Optimizer
from coreframe.scheduler import Scheduler, resolve_by

__all__ = ["OptimizerState", "gradient_transformation"]


class OptimizerState(NamedTuple):
    """The state of an optimizer in optax."""

    count: jax.Array
    """Updates done: 0-d int32."""

    slots: dict[str, Any]
    """What is kept for each parameter: by the slot's name, a tree like the parameters'."""


def gradient_transformation(
    optimizer: Optimizer | str,
    *,
    steps: int | None = None,
    batch_size: int = 0,
    steps_per_epoch: int | None = None,
) -> Any:
    """Return an optimizer as an ``optax.GradientTransformation``.

        updates, state = transformation.update(grads, state, params)
        params = optax.apply_updates(params, updates)

    gives the parameters that ``optimizer.update`` gives, to rounding. It can be a link of
    ``optax.chain``, the last one, since its updates are what is added and no gradients.

    Args:
        optimizer: any ``coreframe.Optimizer``, or the name of a registered one. Its rules match
            the names of leaves, joined by dots: ``{"layer": {"b": x}}`` holds ``layer.b``, and a
            single array is named ``params``. Numbers of it, and of its rules, may be schedulers.
        steps, batch_size, steps_per_epoch: of the run, for schedulers: see ``schedule``. Under
            ``jit`` these need ``steps``.

    Shapes: parameters and gradients are trees of floating point arrays; updates like gradients.

    Dtypes: parameters keep theirs. Those of float16 and bfloat16 have state and updates in
    float32, so that ``optax.apply_updates`` rounds once.

    Edges: a gradient that is None leaves its parameter and state as they are. Schedulers of beta1
    and beta2 in Adam are errors under ``jit``: they are taken logarithms of in Python.

    Raises MissingExtra without optax, and ArgumentError for an update without params, and for a
    state of other parameters.
    """
    try:
        import optax
    except ImportError as error:
        raise MissingExtra("optax", "optax", "gradient_transformation") from error
    own: Optimizer = registry.component("optimizers", optimizer, Optimizer)
    slots = (*own.slots, *own.scalars)

    def values(count: Any) -> Optimizer:
        def at(scheduler: Scheduler) -> Any:
            of = schedule(
                scheduler, steps=steps, batch_size=batch_size, steps_per_epoch=steps_per_epoch
            )
            return of(count)

        return resolve_by(own, at)

    def init(params: Any) -> OptimizerState:
        named, tree = _flat(params)
        state = own.init(named)
        return OptimizerState(
            jnp.zeros((), jnp.int32),
            {
                slot: tree.unflatten([_unbound(state[f"{slot}/{name}"]) for name in named])
                for slot in slots
            },
        )

    def update(
        updates: Any, state: OptimizerState, params: Any = None
    ) -> tuple[Any, OptimizerState]:
        if params is None:
            raise ArgumentError(
                f"{type(own).__name__} needs the parameters: update(grads, state, params)"
            )
        named, tree = _flat(params)
        grads, wanted = _flat(updates)
        wide = {name: _widened(x) for name, x in named.items()}
        kept = {
            f"{slot}/{name}": x for slot in slots for name, x in _flat(state.slots[slot])[0].items()
        }
        with looks_named(own):
            new, after = values(state.count).update(wide, grads, {"step": state.count, **kept})
        moves = wanted.unflatten([new[name] - wide[name] for name in grads])
        found = {
            slot: tree.unflatten([after[f"{slot}/{name}"] for name in named]) for slot in slots
        }
        return moves, OptimizerState(state.count + 1, found)

    return optax.GradientTransformation(init, update)


def _flat(tree: Any) -> tuple[dict[str, jax.Array], Any]:
    """Return the leaves of a tree by name, in order, and its structure."""
    paths, structure = jax.tree_util.tree_flatten_with_path(tree)
    named = {
        jax.tree_util.keystr(path, simple=True, separator=".") or "params": jnp.asarray(x)
        for path, x in paths
    }
    if len(named) != len(paths):
        raise ArgumentError("two parameters have one name, joined by dots; rename one of them")
    return named, structure


def _unbound(x: jax.Array) -> jax.Array:
    """Return a single number free to go where the parameters are.

    One that is bound to a device would make ``jit`` compile the first update for itself.
    """
    return x if x.ndim or isinstance(x, jax.core.Tracer) else jnp.asarray(np.asarray(x))


def _widened(x: jax.Array) -> jax.Array:
    narrow = jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits < 32
    return x.astype(jnp.float32) if narrow else x
