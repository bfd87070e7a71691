"""Any loss of coreframe as a differentiable function of PyTorch.

    value, dE = loss.value_and_grad(E)      forward, once, for the inputs that need gradients
    gradient of E = incoming gradient * dE  backward

The loss is a step of the graph like any other, and what it holds there is one array of gradients
an input; its own n x n arrays never exist (see ``coreframe.tiles``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from coreframe import checks, registry
from coreframe.batch import Batch
from coreframe.errors import ArgumentError, ArgumentTypeError, MixedArrays
from coreframe.interop.torch.arrays import (
    as_array,
    as_tensor,
    computing,
    exactly,
    numpy_named,
    shared,
    uncompiled,
    widened,
)
from coreframe.interop.torch.once import links, once, untransformed
from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.random import stream
from coreframe.result import LossResult

__all__ = ["torch_loss"]

INPUTS = ("anchors", "positives", "negatives")


@uncompiled
def torch_loss(
    loss: Loss | str,
    anchors: torch.Tensor,
    positives: torch.Tensor | None = None,
    negatives: torch.Tensor | None = None,
    *,
    labels: Any = None,
    ids: Any = None,
    weights: torch.Tensor | None = None,
    batch: Callable[..., Batch] | None = None,
    miner: Miner | str | None = None,
    rng: Any = None,
    params: Mapping[str, torch.Tensor] | None = None,
    library: str | None = None,
) -> torch.Tensor:
    """Return the value of a loss as a tensor that knows its gradient.

    Called as the loss itself is. The gradient is the exact one of ``value_and_grad``, which is
    called once, and only for the inputs that need gradients; ``backward`` multiplies.

    Args:
        loss: any ``coreframe.Loss``, or the name of a registered one.
        anchors: (n, d) embeddings, or whatever the loss calls its anchors.
        positives: (n, d). Default: none, where the loss is called with labels.
        negatives: (s, d), shared by all, or (n, k, d), each anchor's own. Default: none.
        labels, ids, weights: as the loss takes them. They get no gradient.
        batch: how the batch is made of the tensors that are given and of labels, ids and weights:
            ``Batch.edges``, say, or a function of yours for any other relation. Its references
            must be the positives, and shared negatives behind them. Default: ``loss.batch``.
        miner: picks the pairs of the batch, without a gradient. Default: none.
        rng: a ``numpy.random.Generator`` for the miner. Default: the same draws at every call.
        params: the loss's own parameters by name, for losses that have some. Default: none.
        library: who computes, "numpy" or "torch" ("cupy" and "jax" too where they are). Default:
            NumPy for tensors of the processor, whose memory it shares and for which it has the
            fast kernels, and torch, on their device, for all others.

    Shapes: a 0-d tensor; (n,) with reduction="none".

    Dtypes: float64 is computed in float64, anything else in float32, autocast or not; gradients
    come back in the dtype of their input.

    Edges: with reduction="none" the Jacobian is never made: where the incoming gradient is not the
    same for all rows, ``backward`` calls the loss again with it as weights, once for its positive
    and once for its negative entries. A second derivative is an error. NaN and infinity in tensors
    of the processor are errors. A loss that computes with NumPy alone is an error on other devices.

    Raises ArgumentError and ArgumentTypeError, as the loss does.

    >>> import coreframe as cf
    >>> x = torch.eye(3, requires_grad=True)
    >>> value = torch_loss(cf.build("losses", "info_nce"), x, torch.eye(3))
    >>> value.backward()
    >>> x.grad.shape
    torch.Size([3, 3])
    """
    if isinstance(anchors, Batch):
        raise ArgumentTypeError(
            "a coreframe.Batch holds arrays that are cut off from the graph, so no gradient would "
            "leave it; give the tensors, and batch=a function that makes the Batch of them"
        )
    places = zip(INPUTS, (anchors, positives, negatives), strict=True)
    given = {name: x for name, x in places if x is not None}
    own = dict(params or {})
    _check(given | own, weights)
    untransformed((*given.values(), *own.values()))
    others = {"labels": labels, "ids": ids, "weights": weights}
    call = _Call(
        loss=registry.component("losses", loss, Loss),
        make=batch,
        others={name: x for name, x in others.items() if x is not None},
        miner=None if miner is None else registry.component("miners", miner, Miner),
        rng=rng,
        library=computing(anchors, library),
        names=tuple(given),
        own=tuple(own),
    )
    tensors = (*given.values(), *own.values())
    # Inside of a Function gradients are off, so this is asked here.
    wanted = tuple(torch.is_grad_enabled() and x.requires_grad for x in tensors)
    value: torch.Tensor = _Value.apply(call, wanted, links(tensors), *tensors)
    return value


def _check(tensors: Mapping[str, Any], weights: Any) -> None:
    for name, x in tensors.items():
        if not isinstance(x, torch.Tensor):
            raise ArgumentTypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if len({x.device for x in tensors.values()}) > 1:
        places = "\n".join(f"  {name}: {x.device}" for name, x in tensors.items())
        raise MixedArrays(f"the tensors of one call must share their device, got\n{places}")
    if isinstance(weights, torch.Tensor) and weights.requires_grad:
        raise ArgumentError(
            "weights needs a gradient, and a loss has none by its weights; give weights.detach()"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Call:
    """One call of a loss: all but the tensors that gradients go to."""

    loss: Loss
    make: Callable[..., Batch] | None
    others: Mapping[str, Any]
    miner: Miner | None
    rng: Any
    library: str
    names: tuple[str, ...]
    own: tuple[str, ...]

    def batch(self, tensors: tuple[torch.Tensor, ...]) -> Batch:
        """Make the batch of the tensors, for the library that computes, and narrow it."""
        given = [widened(x) for x in tensors[: len(self.names)]]
        others = {k: widened(x) if _is_tensor(x) else x for k, x in self.others.items()}
        if self.make is None:
            arrays = {
                k: as_array(x, self.library) if _is_tensor(x) else x
                for k, x in (*zip(self.names, given, strict=True), *others.items())
            }
            batch = self.loss.batch(**arrays)
        else:
            batch = shared(self.make(*given, **others), self.library)
        if self.miner is None:
            return batch
        rng = stream(0, "mined") if self.rng is None else self.rng
        return replace(batch, relation=self.miner.mine(batch, rng=rng))

    def run(
        self, batch: Batch, tensors: tuple[torch.Tensor, ...], wanted: tuple[bool, ...]
    ) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        """Return the value, and the gradient of each tensor that wants one."""
        count = len(self.names)
        dtype = as_tensor(batch.anchors).dtype
        params = {
            name: as_array(widened(x, dtype), self.library)
            for name, x in zip(self.own, tensors[count:], strict=True)
        }
        fields = [_field(name, batch) for name in self.names]
        wrt = dict.fromkeys(f for f, want in zip(fields, wanted, strict=False) if want)
        result = self.loss.value_and_grad(batch, params or None, wrt=tuple(wrt))
        found: list[Any] = [
            _part(name, field, tensors[:count], result) if want else None
            for name, field, want in zip(self.names, fields, wanted, strict=False)
        ]
        found += [
            result.param_grads.get(name) if want else None
            for name, want in zip(self.own, wanted[count:], strict=True)
        ]
        slopes = [
            None if g is None else as_tensor(g).to(x.device).reshape(x.shape)
            for g, x in zip(found, tensors, strict=True)
        ]
        return as_tensor(result.value).to(tensors[0].device), slopes


def _is_tensor(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


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


def _part(
    name: str, field: str, inputs: tuple[torch.Tensor, ...], result: LossResult
) -> torch.Tensor:
    """Return the part of a field's gradient that belongs to an input."""
    found, x = as_tensor(result.grads[field]), inputs[INPUTS.index(name)]
    if field == "references":
        rows = inputs[1].shape[0]
        found = found[:rows] if name == "positives" else found[rows:]
    if found.numel() != x.numel():
        raise ArgumentError(
            f"the {field} of the batch do not hold the {name}: there is a gradient of "
            f"{tuple(found.shape)} for {name} of {tuple(x.shape)}; references must be the "
            "positives, and shared negatives behind them"
        )
    return found


class _Value(torch.autograd.Function):
    """The value of a loss in the graph."""

    @staticmethod
    def forward(
        ctx: Any,
        call: _Call,
        wanted: tuple[bool, ...],
        links: tuple[torch.Tensor, ...],
        *tensors: torch.Tensor,
    ) -> torch.Tensor:
        device = tensors[0].device
        with exactly(device), numpy_named(call.loss, device):
            batch = call.batch(tensors)
            value, slopes = call.run(batch, tensors, wanted)
        ctx.call, ctx.wanted, ctx.batch = call, wanted, batch if value.ndim else None
        ctx.links = links
        ctx.dtypes = [x.dtype for x in tensors]
        ctx.save_for_backward(*slopes, *((value, *tensors) if value.ndim else ()))
        return value

    @staticmethod
    @once
    def backward(ctx: Any, incoming: torch.Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        count = len(ctx.dtypes)
        slopes, rest = saved[:count], saved[count:]
        first = incoming.reshape(-1)[0]
        if ctx.batch is not None and not bool((incoming == first).all()):
            with exactly(incoming.device):
                slopes, first = _by_rows(ctx, incoming, *rest), torch.ones_like(first)
        # Scaled before it is narrowed, so that a GradScaler keeps small gradients alive.
        return (
            None,
            None,
            None,
            *(
                None if g is None else (g * first.to(g.dtype)).to(dtype)
                for g, dtype in zip(slopes, ctx.dtypes, strict=True)
            ),
        )


def _by_rows(
    ctx: Any, incoming: torch.Tensor, value: torch.Tensor, *tensors: torch.Tensor
) -> list[torch.Tensor | None]:
    """Return the gradient of sum_i incoming_i value_i, for values that are one a row.

    A row's weight multiplies its loss and gradient, so the incoming gradient goes in as weights;
    these are not negative, hence two calls where it has both signs.
    """
    per_row = incoming.reshape(len(incoming), -1)
    if not bool((per_row == per_row[:, :1]).all()):
        raise ArgumentError(
            f"the value of this loss is {tuple(value.shape)}, and the gradient that came back "
            "differs inside of a row; a loss of coreframe has weights for its rows alone"
        )
    batch: Batch = ctx.batch
    total: list[torch.Tensor | None] = [None] * len(tensors)
    for sign in (1, -1):
        factor = (sign * per_row[:, 0]).clamp(min=0)
        if not bool(factor.any()):
            continue
        before = batch.weights
        weights = factor if before is None else factor * as_tensor(before)
        weighed = replace(batch, weights=as_array(weights, ctx.call.library))
        again, slopes = ctx.call.run(weighed, tensors, ctx.wanted)
        wanted = factor.reshape(-1, *[1] * (value.ndim - 1)) * value
        if checks.visible(again) and not torch.allclose(again, wanted, rtol=1e-3, atol=1e-6):
            raise ArgumentError(
                f"{type(ctx.call.loss).__name__} does not take weights as factors of its rows, so "
                "the rows of its value cannot be differentiated one by one; reduce them alike"
            )
        total = [
            g if g is None else (sign * g if t is None else t + sign * g)
            for t, g in zip(total, slopes, strict=True)
        ]
    return total
