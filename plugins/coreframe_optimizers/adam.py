"""Adam, with weight decay in the gradient or apart from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe import checks
from coreframe.backend import Array, namespace
from coreframe.component import Preset
from coreframe.optimizer import Optimizer, Slots
from coreframe.scheduler import Scheduler, plain


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Steps by the mean of the gradient over the root of the mean of its square.

        g = g + weight_decay p
        m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
        p = p - learning_rate m^ / (sqrt(v^) + epsilon),   m^ = m / (1 - beta1^t), v^ alike

    or, with ``decoupled``, g as it is and p = p - learning_rate weight_decay p before the step,
    as in AdamW. t counts the updates of this parameter.

    Equals ``torch.optim.Adam(lr, (beta1, beta2), eps=epsilon, weight_decay=...,
    decoupled_weight_decay=...)``: epsilon stands outside the root, after the bias correction.
    Keras and thinc place it otherwise, and their weight decay is decoupled.

    Args:
        learning_rate: >= 0. Default: 1e-3 (the paper).
        beta1, beta2: in [0, 1). Default: 0.9 and 0.999 (the paper).
        epsilon: > 0. Default: 1e-8 (the paper).
        weight_decay: >= 0. Default: 0, none (PyTorch).
        decoupled: whether the weight decay leaves the moments alone. Default: False (PyTorch).

    Shapes: parameters and gradients of any shape; two moments of that shape and one number each.

    Edges: a gradient of zero at every step moves nothing but by weight decay. The first step is
        learning_rate in size, whatever the gradient's. With beta1 and beta2 of 0 it is a step by
        the sign of the gradient.

    Cost: about ten passes over the parameter, which on NumPy stay in the cache (one with the extra
        ``compiled``); memory of two.

    References: Kingma & Ba 2015, arXiv 1412.6980, algorithm 1.

    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([1.0, -2.0])}, Adam(learning_rate=0.1)
    >>> new, state = optimizer.update(params, {"W": np.array([3.0, -4.0])}, optimizer.init(params))
    >>> new["W"].round(6).tolist(), state["step"]
    ([0.9, -1.9], 1)
    """

    beta1: float | Scheduler = 0.9
    beta2: float | Scheduler = 0.999
    epsilon: float | Scheduler = 1e-8
    weight_decay: float | Scheduler = 0.0
    decoupled: bool = False

    slots: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment")
    scalars: ClassVar[tuple[str, ...]] = ("updates",)

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            equals="Kingma & Ba 2015, arXiv 1412.6980, algorithm 1",
            fields={
                "learning_rate": 0.001,
                "beta1": 0.9,
                "beta2": 0.999,
                "epsilon": 1e-08,
                "weight_decay": 0.0,
            },
        ),
        "torch": Preset(
            equals="torch.optim.Adam",
            fields={
                "learning_rate": 0.001,
                "beta1": 0.9,
                "beta2": 0.999,
                "epsilon": 1e-08,
                "weight_decay": 0.0,
                "decoupled": False,
            },
            arguments={
                "lr": 0.001,
                "betas": (0.9, 0.999),
                "eps": 1e-08,
                "weight_decay": 0,
                "amsgrad": False,
                "decoupled_weight_decay": False,
            },
            version="torch 2.13.0",
        ),
        "optax": Preset(
            equals="optax.adam",
            fields={"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-08, "weight_decay": 0.0},
            arguments={"b1": 0.9, "b2": 0.999, "eps": 1e-08, "eps_root": 0.0, "nesterov": False},
            version="optax 0.2.8",
            note="The learning rate has no default there.",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.flag(self, "decoupled")
        checks.number(self, "beta1", minimum=0, below=1)
        checks.number(self, "beta2", minimum=0, below=1)
        checks.number(self, "epsilon", above=0)
        checks.number(self, "weight_decay", minimum=0)

    def step(
        self, parameter: Array, gradient: Array, slots: Slots, count: int
    ) -> tuple[Array, Slots]:
        weight_decay = plain(self.weight_decay)
        decayed = parameter
        if weight_decay and self.decoupled:
            decayed = parameter * (1 - plain(self.learning_rate) * weight_decay)
        elif weight_decay:
            gradient = gradient + weight_decay * parameter
        move, slots = adam_move(
            gradient, slots, plain(self.beta1), plain(self.beta2), plain(self.epsilon)
        )
        return decayed - plain(self.learning_rate) * move, slots


def adam_move(
    gradient: Array, slots: Slots, beta1: float, beta2: float, epsilon: float
) -> tuple[Array, Slots]:
    """Return m^ / (sqrt(v^) + epsilon) and the slots after one gradient.

    The updates are counted on the device, one count a parameter: moments that a step did not
    reach, because it was not finite or had no gradient for them, are corrected for what they are.
    """
    xp = namespace(gradient=gradient)
    updates = slots["updates"] + 1
    first = beta1 * slots["first_moment"] + (1 - beta1) * gradient
    second = beta2 * slots["second_moment"] + (1 - beta2) * (gradient * gradient)
    # Both corrections go into the denominator as numbers, which saves a pass over the array.
    filled = _filled(beta1, updates)
    root = xp.sqrt(second) * (filled / xp.sqrt(_filled(beta2, updates))) + epsilon * filled
    return first / root, {"first_moment": first, "second_moment": second, "updates": updates}


def _filled(beta: float, updates: Array) -> Array:
    """Return 1 - beta^t: how much of a mean that started at zero is filled.

    By expm1, since in float32 the plain form has lost five digits at beta = 0.999, t = 1.
    """
    xp = namespace(updates=updates)
    return -xp.expm1(updates * math.log(beta)) if beta else xp.ones_like(updates)
