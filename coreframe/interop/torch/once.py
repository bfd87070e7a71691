"""Steps of a graph that have a first derivative, and no second one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def once(backward: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """Make the second derivative of a Function an error.

    ``torch.autograd.function.once_differentiable`` lets it pass where the incoming gradient is a
    constant, as in a gradient penalty: the gradients are constants then, and a derivative of theirs
    would be 0 in silence.
    """

    @functools.wraps(backward)
    def called(ctx: Any, *incoming: torch.Tensor) -> tuple[Any, ...]:
        with torch.no_grad():
            found = backward(ctx, *incoming)
        if not torch.is_grad_enabled():  # they are on where create_graph=True
            return found
        marker = torch.zeros((), requires_grad=True)
        return tuple(None if g is None else _Once.apply(marker, g) for g in found)

    return called


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, marker: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *incoming: torch.Tensor) -> tuple[Any, ...]:
        raise RuntimeError(
            "losses and adapters of coreframe are differentiable once: they have closed-form "
            "gradients, and no derivative of these"
        )
