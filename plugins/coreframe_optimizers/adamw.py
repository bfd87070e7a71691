"""Adam with decoupled weight decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from coreframe import checks
from coreframe.backend import Array, namespace
from coreframe.optimizer import Optimizer, Slots
from coreframe.scheduler import Scheduler, plain


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay:

        p = p (1 - learning_rate weight_decay)
        m = beta1 m + (1 - beta1) g;   v = beta2 v + (1 - beta2) g^2
        p = p - learning_rate m^ / (sqrt(v^) + epsilon),   m^ = m / (1 - beta1^t), v^ alike

    Equals ``torch.optim.AdamW(lr, (beta1, beta2), eps=epsilon, weight_decay=...)``: epsilon
    stands outside the root, after the bias correction. Keras and thinc place it otherwise.

    Args:
        learning_rate: >= 0.
        beta1, beta2: in [0, 1).
        epsilon: > 0.
        weight_decay: >= 0.

    References: Kingma & Ba 2015, arXiv 1412.6980; Loshchilov & Hutter 2019, arXiv 1711.05101.
    """

    beta1: float | Scheduler = 0.9
    beta2: float | Scheduler = 0.999
    epsilon: float = 1e-8
    weight_decay: float | Scheduler = 0.01

    slots: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment")

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self, "beta1", minimum=0, below=1)
        checks.number(self, "beta2", minimum=0, below=1)
        checks.number(self, "epsilon", above=0)
        checks.number(self, "weight_decay", minimum=0)

    def step(
        self, parameter: Array, gradient: Array, slots: Slots, count: int
    ) -> tuple[Array, Slots]:
        xp = namespace(parameter=parameter)
        beta1, beta2 = plain(self.beta1), plain(self.beta2)
        learning_rate = plain(self.learning_rate)
        first = beta1 * slots["first_moment"] + (1 - beta1) * gradient
        second = beta2 * slots["second_moment"] + (1 - beta2) * (gradient * gradient)
        step_size = learning_rate / (1 - beta1**count)
        root = xp.sqrt(second) / (1 - beta2**count) ** 0.5 + self.epsilon
        decayed = parameter * (1 - learning_rate * plain(self.weight_decay))
        return decayed - step_size * first / root, {
            "first_moment": first,
            "second_moment": second,
        }
