"""Any loss of coreframe as a function that JAX can differentiate.

    value, dE = loss.value_and_grad(E)      forward, for the inputs that are differentiated by
    gradient of E = incoming gradient * dE  backward

It is a ``jax.custom_vjp``, so what a differentiated function keeps of it is one array of gradients
an input; the loss's own n x n arrays never exist (see ``coreframe.tiles``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from coreframe import registry
from coreframe.backend import Params
from coreframe.batch import Batch
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.interop.jax.schedules import schedule
from coreframe.interop.jax.tracing import KeyDraws, looks_named
from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.random import stream
from coreframe.result import LossResult
from coreframe.scheduler import Scheduler, resolve_by

__all__ = ["init_params", "jax_loss"]

INPUTS = ("anchors", "positives", "negatives")

OWN = "params."
"""What the names of a loss's own parameters begin with, beside those of the inputs."""

Grads = dict[str, Any]


def jax_loss(
    loss: Loss | str,
    anchors: jax.Array,
    positives: jax.Array | None = None,
    negatives: jax.Array | None = None,
    *,
    labels: Any = None,
    ids: Any = None,
    weights: jax.Array | None = None,
    batch: Callable[..., Batch] | None = None,
    miner: Miner | str | None = None,
    rng: Any = None,
    params: Mapping[str, jax.Array] | None = None,
    step: Any = None,
    steps: int | None = None,
) -> jax.Array:
    """Return the value of a loss, which ``jax.grad`` and its like differentiate exactly.

    Called as the loss itself is. It works under ``jit``, ``grad``, ``value_and_grad``, ``vmap``
    and ``lax.scan``, in any order. The gradient is that of ``value_and_grad``, asked for only by
    the inputs that are differentiated by; without differentiation only the value is computed.

    Args:
        loss: any ``coreframe.Loss``, or the name of a registered one.
        anchors: (n, d) embeddings, or whatever the loss calls its anchors.
        positives: (n, d). Default: none, where the loss is called with labels.
        negatives: (s, d), shared by all, or (n, k, d), each anchor's own. Default: none.
        labels, ids, weights: as the loss takes them. They get no gradient. Arrays of JAX may be
            traced; NumPy arrays, lists and texts are constants of the traced function. With
            ``batch`` they may be whatever it takes, trees of arrays included.
        batch: how the batch is made of the arrays that are given and of labels, ids and weights:
            ``Batch.edges``, say, or a function of yours for any other relation. Its references
            must be the positives, and shared negatives behind them. What is traced must come to
            it by its arguments. Default: ``loss.batch``.
        miner: picks the pairs of the batch, without a gradient. Default: none.
        rng: a key of ``jax.random``, by which each call draws, or a ``numpy.random.Generator``,
            which draws while the function is traced. Default: the same draws at every call.
        params: the loss's own parameters by name, for losses that have some: see ``init_params``.
            Default: none.
        step: updates done, which may be traced, for a loss or a miner with schedulers in place of
            numbers. Default: none, all are numbers.
        steps: updates planned, which a traced step needs. Default: None, an open-ended run.

    Shapes: a 0-d array; (n,) with reduction="none".

    Dtypes: float64 is computed in float64 (under ``jax_enable_x64``), anything else in float32;
    gradients have the dtype of their input.

    Edges: with reduction="none" the Jacobian is never made: the way back calls the loss twice,
    with the positive and with the negative part of the incoming gradient as weights. Second
    derivatives are those of JAX, of the gradient (``jax.hessian(f)``, ``jax.jacrev(jax.grad(f))``);
    forward mode of the value (``jvp``, ``jacfwd``) is JAX's error for custom_vjp. Numbers of a loss
    may be traced by ``jit`` and ``vmap``, but have no gradient. NaN and infinity are errors outside
    of tracing, and spread inside of it. A loss that looks at values is an error while
    traced, and works outside, under a plain ``jax.grad`` too.

    Raises ArgumentError and ArgumentTypeError, as the loss does.

    >>> import coreframe as cf
    >>> value = jax.jit(lambda x, y: jax_loss("info_nce", x, y))
    >>> jax.grad(value)(jnp.eye(3), jnp.eye(3)).shape
    (3, 3)
    """
    if isinstance(anchors, Batch):
        raise ArgumentTypeError(
            "a coreframe.Batch is no argument that JAX differentiates by; give the arrays, and "
            "batch=a function that makes the Batch of them"
        )
    places = zip(INPUTS, (anchors, positives, negatives), strict=True)
    inputs = {name: jnp.asarray(x) for name, x in places if x is not None}
    own = {name: jnp.asarray(x) for name, x in (params or {}).items()}
    if weights is not None and batch is None:
        weights = jnp.asarray(weights)
    given = {"labels": labels, "ids": ids, "weights": weights}
    leaves, tree = jax.tree.flatten({k: x for k, x in given.items() if x is not None})
    traced = {i: x for i, x in enumerate(leaves) if isinstance(x, jax.Array)}
    given_parts = (
        registry.component("losses", loss, Loss),
        None if miner is None else registry.component("miners", miner, Miner),
    )
    parts, numbers = _scheduled(given_parts, step, steps)
    key = rng if isinstance(rng, jax.Array) else None
    call = _Call(
        loss=parts[0],
        miner=parts[1],
        make=batch,
        rng=None if key is not None else rng,
        others=tree,
        fixed=tuple(None if i in traced else x for i, x in enumerate(leaves)),
        dtypes={name: x.dtype for name, x in (inputs | _named(own)).items()},
    )
    function = jax.custom_vjp(functools.partial(_value, call))
    function.defvjp(
        functools.partial(_forward, call), functools.partial(_backward, call), symbolic_zeros=True
    )
    try:
        value: jax.Array = function((inputs, own), (traced, numbers, key))
    except jax.errors.UnexpectedTracerError as error:
        raise ArgumentError(
            f"{type(call.loss).__name__}, its miner or batch= holds a value that is differentiated "
            "by, and a loss has a gradient by its arguments alone; a scale is learned by "
            "learnable_scale=True and params=, and arrays of batch= come as arguments"
        ) from error
    return value


def init_params(loss: Loss | str, dim: int, *, seed: int = 0) -> dict[str, jax.Array]:
    """Return the start of a loss's own parameters, as in ``fit`` with that seed.

    Args:
        loss: any ``coreframe.Loss``, or the name of a registered one.
        dim: the width of the embeddings.
        seed: of the start. Default: 0.

    Shapes: arrays by name, {} for a loss without parameters. After an update, ``loss.project``
    moves them back to where the loss allows them to be.

    >>> init_params("info_nce", 8)
    {}
    """
    start = registry.component("losses", loss, Loss).init(stream(seed, "loss"), dim)
    return {name: jnp.asarray(x) for name, x in start.items()}


def _scheduled(parts: Any, step: Any, steps: int | None) -> tuple[Any, list[Any]]:
    """Return parts with numbers for schedulers, or as they are, and the numbers to put there."""
    found: list[Scheduler] = []

    def noted(scheduler: Scheduler) -> Scheduler:
        found.append(scheduler)
        return scheduler

    resolve_by(parts, noted)
    if not found:
        return parts, []
    if step is None:
        raise ArgumentError(
            f"{type(found[0]).__name__} stands in place of a number of the loss or the miner; "
            "give step= (the updates done), and steps= where it is traced"
        )
    if not isinstance(step, jax.core.Tracer):
        return resolve_by(parts, lambda s: schedule(s, steps=steps)(step)), []
    return parts, [schedule(s, steps=steps)(step) for s in found]


@dataclass(frozen=True, eq=False)
class _Call:
    """One call of a loss: all that JAX does not see."""

    loss: Loss
    miner: Miner | None
    make: Callable[..., Batch] | None
    rng: Any
    others: Any  # the tree of labels, ids and weights
    fixed: tuple[Any, ...]  # its leaves that are not traced
    dtypes: Mapping[str, Any]

    def run(
        self, inputs: Grads, own: Grads, rest: Any, wanted: set[str], rows: Any = None
    ) -> tuple[jax.Array, Grads]:
        """Return the value, and the gradients of the wanted inputs and of all parameters.

        ``rows`` multiplies the weights of the rows.
        """
        own, (traced, numbers, key) = _staged((own, rest))
        left = iter(numbers)
        loss, miner = self.loss, self.miner
        if numbers:
            loss, miner = resolve_by((loss, miner), lambda _: next(left))
        leaves = [traced.get(i, x) for i, x in enumerate(self.fixed)]
        others = jax.tree.unflatten(self.others, leaves)
        wide = {name: _widened(x) for name, x in _staged(inputs).items()}
        with looks_named(loss):
            batch = (self.make or loss.batch)(**wide, **others)
        if miner is not None:
            draws = KeyDraws(key) if key is not None else self.rng or stream(0, "mined")
            with looks_named(miner):
                batch = replace(batch, relation=miner.mine(batch, rng=draws))
        if rows is not None:
            batch = replace(batch, weights=rows if batch.weights is None else rows * batch.weights)
        fields = {name: _field(name, batch) for name in inputs}
        wrt = tuple(dict.fromkeys(fields[name] for name in inputs if name in wanted))
        params: Params = {name: x.astype(batch.anchors.dtype) for name, x in own.items()}
        with looks_named(loss):
            result = loss.value_and_grad(batch, params or None, wrt=wrt)
        slopes = {n: _part(n, fields[n], inputs, result) for n in inputs if n in wanted}
        return jnp.asarray(result.value), {**slopes, **_named(result.param_grads)}


def _staged(tree: Any) -> Any:
    """Return arrays as parts of the function that is traced, if one is.

    A constant in it has values to look at, and what is computed of it has none.
    """
    return jax.tree.map(lambda x: x if isinstance(x, jax.core.Tracer) else jnp.copy(x), tree)


def _widened(x: jax.Array) -> jax.Array:
    """Return floating point numbers in the dtype that they are computed in."""
    narrow = jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits < 32
    return x.astype(jnp.float32) if narrow else x


def _named(grads: Params) -> Grads:
    return {OWN + name: g for name, g in grads.items()}


def _field(name: str, batch: Batch) -> str:
    """Return the field of the batch that an input stands in."""
    if name == "anchors":
        return name
    field = "negatives" if name == "negatives" and batch.negatives is not None else "references"
    if getattr(batch, field) is None:
        raise ArgumentError(
            f"the batch has no {field}, so the {name} have no place in it; a batch of labels takes "
            "anchors alone"
        )
    return field


def _part(name: str, field: str, inputs: Grads, result: LossResult) -> jax.Array:
    """Return the part of a field's gradient that belongs to an input."""
    found, x = result.grads[field], inputs[name]
    if field == "references":
        rows = inputs["positives"].shape[0]
        found = found[:rows] if name == "positives" else found[rows:]
    if found.size != x.size:
        raise ArgumentError(
            f"the {field} of the batch do not hold the {name}: there is a gradient of "
            f"{tuple(found.shape)} for {name} of {tuple(x.shape)}; references must be the "
            "positives, and shared negatives behind them"
        )
    return found.reshape(x.shape)


# The three functions of custom_vjp ------------------------------------------------------------


def _value(call: _Call, by: tuple[Grads, Grads], rest: Any) -> jax.Array:
    return call.run(*by, rest, set())[0]


def _forward(call: _Call, by: Any, rest: Any) -> tuple[jax.Array, Any]:
    """Return the value, and the gradients that are wanted; for one value a row, what makes them."""
    if any(x.perturbed for x in jax.tree.leaves(rest)):
        raise ArgumentError(
            "labels, ids or weights depend on what is differentiated by, and a loss has no "
            "gradient by them; give jax.lax.stop_gradient(weights)"
        )
    values, others = jax.tree.map(lambda x: x.value, (by, rest))
    inputs, own = by
    wanted = {name for name, x in (inputs | _named(own)).items() if x.perturbed}
    value, slopes = call.run(values[0], values[1], others, wanted)
    if value.ndim:
        return value, ((values, others), dict.fromkeys(wanted, ()))
    return value, (None, {name: slopes[name] for name in slopes if name in wanted})


def _backward(call: _Call, kept: Any, incoming: Any) -> Any:
    again, slopes = kept
    if isinstance(incoming, SymbolicZero):
        return None, None
    if again is not None:
        slopes = _by_rows(call, again[0], again[1], set(slopes), incoming)
        incoming = jnp.ones((), incoming.dtype)

    def scaled(name: str) -> jax.Array | None:
        g = slopes.get(name)
        # Scaled before it is narrowed, so that a scaled loss keeps small gradients alive.
        return None if g is None else (g * incoming.astype(g.dtype)).astype(call.dtypes[name])

    names = call.dtypes
    return (
        {name: scaled(name) for name in names if name in INPUTS},
        {name.removeprefix(OWN): scaled(name) for name in names if name not in INPUTS},
    ), None


def _by_rows(
    call: _Call, by: tuple[Grads, Grads], rest: Any, wanted: set[str], incoming: jax.Array
) -> Grads:
    """Return the gradient of sum_i incoming_i value_i, for values that are one a row.

    A row's weight multiplies its loss and gradient, so the incoming gradient goes in as weights;
    these are not negative, hence two calls.
    """
    if incoming.ndim != 1:
        raise ArgumentError(
            f"the value of this loss is {incoming.shape}, but weights are one a row; such a value "
            "cannot be differentiated, reduce it in the loss"
        )
    _, up = call.run(*by, rest, wanted, rows=jnp.maximum(incoming, 0))
    _, down = call.run(*by, rest, wanted, rows=jnp.maximum(-incoming, 0))
    return {name: g - down[name] for name, g in up.items() if name in wanted}
