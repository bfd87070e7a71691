"""Steps of a graph that have a first derivative, and no second one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch

from coreframe.errors import ArgumentError


def once(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Make the second derivative of a Function an error.

    ``torch.autograd.function.once_differentiable`` lets it pass where the incoming gradient is a
    constant, as in a gradient penalty: the gradients are constants then, and a derivative of theirs
    would be 0 in silence. ``ctx.links`` holds the ``links`` of the inputs, so that the error also
    comes where a derivative by these alone is asked for, as by ``torch.autograd.grad``.
    """

    @functools.wraps(backward)
    def called(ctx: Any, *incoming: torch.Tensor) -> tuple[Any, ...]:
        with torch.no_grad():
            found = backward(ctx, *incoming)
        if not torch.is_grad_enabled():  # they are on where create_graph=True
            return found
        return tuple(None if g is None else _Once.apply(g, *ctx.links) for g in found)

    return called


def links(tensors: Iterable[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Return, for each tensor that wants a gradient, an empty one that hangs on it in the graph.

    It holds none of the memory of the tensor. Made before the step of the graph, not in it.
    """
    if not torch.is_grad_enabled():
        return ()
    return tuple((x if x.ndim else x[None])[:0].clone() for x in tensors if x.requires_grad)


def untransformed(tensors: Iterable[torch.Tensor]) -> None:
    """Refuse tensors that a transformation of ``torch.func`` has wrapped."""
    wrapped = getattr(getattr(torch._C, "_functorch", None), "is_functorch_wrapped_tensor", None)
    if wrapped is not None and any(wrapped(x) for x in tensors):
        raise ArgumentError(
            "losses and adapters of coreframe do not go through torch.func (grad, vmap, jacrev, "
            "...); take torch.autograd.grad or backward, and a loop in place of vmap"
        )


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: torch.Tensor, *links: torch.Tensor) -> torch.Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *incoming: torch.Tensor) -> tuple[Any, ...]:
        raise RuntimeError(
            "losses and adapters of coreframe are differentiable once: they have closed-form "
            "gradients, and no derivative of these"
        )
