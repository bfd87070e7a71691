"""Stochastic gradient descent, with momentum, Nesterov's form and weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe import checks
from coreframe.backend import Array
from coreframe.component import Preset
from coreframe.errors import ArgumentError
from coreframe.optimizer import Optimizer, Slots
from coreframe.scheduler import Scheduler, plain


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Steps against the gradient, or against its decaying sum.

        g = g + weight_decay p;   v = momentum v + g;   p = p - learning_rate v

    or, with Nesterov's form, p - learning_rate (g + momentum v). The learning rate is outside
    the velocity, so a schedule acts at once (Keras has it inside).

    Equals ``torch.optim.SGD(lr, momentum, weight_decay=..., nesterov=...)`` with dampening 0.

    Args:
        learning_rate: >= 0. Default: 1e-2 (Keras).
        momentum: in [0, 1). Default: 0, none (PyTorch); 0.9 is usual.
        nesterov: Nesterov's form, which needs momentum. Default: False (PyTorch).
        weight_decay: >= 0, added to the gradient. Default: 0, none (PyTorch).

    Shapes: parameters and gradients of any shape; one velocity of that shape.

    Edges: a gradient of zero without momentum and decay, or a learning rate of 0, moves nothing.
        The first step with momentum is the plain one (times 1 + momentum in Nesterov's form).

    Cost: two to five passes over the parameter, which on NumPy stay in the cache (one with the
        extra ``compiled``); memory of one.

    References: Polyak 1964; Sutskever et al. 2013, equations 1 to 4.

    >>> import numpy as np
    >>> params, optimizer = {"W": np.array([1.0, -2.0])}, SGD(learning_rate=0.1, momentum=0.9)
    >>> new, state = optimizer.update(params, {"W": np.array([3.0, -4.0])}, optimizer.init(params))
    >>> new["W"].round(6).tolist(), state["velocity/W"].tolist()
    ([0.7, -1.6], [3.0, -4.0])
    """

    learning_rate: float | Scheduler = 1e-2
    momentum: float | Scheduler = 0.0
    nesterov: bool = False
    weight_decay: float | Scheduler = 0.0

    slots: ClassVar[tuple[str, ...]] = ("velocity",)

    presets: ClassVar[Mapping[str, Preset]] = {
        "torch": Preset(
            equals="torch.optim.SGD",
            fields={
                "learning_rate": 0.001,
                "momentum": 0.0,
                "nesterov": False,
                "weight_decay": 0.0,
            },
            arguments={
                "lr": 0.001,
                "momentum": 0,
                "dampening": 0,
                "weight_decay": 0,
                "nesterov": False,
            },
            version="torch 2.13.0",
        ),
        "optax": Preset(
            equals="optax.sgd",
            fields={"momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
            arguments={"momentum": None, "nesterov": False},
            version="optax 0.2.8",
            note="The learning rate has no default there.",
        ),
        "keras": Preset(
            equals="keras.optimizers.SGD",
            fields={"learning_rate": 0.01, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0},
            arguments={
                "learning_rate": 0.01,
                "momentum": 0.0,
                "nesterov": False,
                "weight_decay": None,
            },
            version="keras 3.15.1",
            note="With a momentum a learning rate that changes acts otherwise: Keras has it "
            "inside the velocity.",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.flag(self, "nesterov")
        checks.number(self, "momentum", minimum=0, below=1)
        checks.number(self, "weight_decay", minimum=0)
        if self.nesterov and self.momentum == 0:
            raise ArgumentError("SGD.nesterov needs a momentum above 0")

    def step(
        self, parameter: Array, gradient: Array, slots: Slots, count: int
    ) -> tuple[Array, Slots]:
        momentum, weight_decay = plain(self.momentum), plain(self.weight_decay)
        if weight_decay:
            gradient = gradient + weight_decay * parameter
        velocity = momentum * slots["velocity"] + gradient
        move = gradient + momentum * velocity if self.nesterov else velocity
        return parameter - plain(self.learning_rate) * move, {"velocity": velocity}
