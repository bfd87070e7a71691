"""A power of the time that is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe.component import Preset
from coreframe.scheduler import Progress, Scheduler, check_number, check_steps, steps_of


@dataclass(frozen=True, kw_only=True)
class Polynomial(Scheduler):
    """From ``start`` to ``end`` by a power of the share of steps that are left.

        value(t) = end + (start - end) (1 - t / N)^power

    How to reproduce: optax's ``polynomial_schedule(start, end, power, N)``, torch's
    ``PolynomialLR(total_iters=N, power)`` with end = 0, Keras's
    ``PolynomialDecay(start, N, end, power)``, transformers' ``polynomial`` after its warm-up.

    Args:
        start: any finite number.
        end: any finite number. Default: 0 (torch).
        power: > 0; above 1 it falls fast first, below 1 late. Default: 1, a line (torch and
            transformers).
        steps: a number of steps, or a share of the run if below 1. Default: None, the whole run.

    Shapes: a Progress comes in, one float goes out.

    Edges: holds ``end`` from step N on; with N = 0, from the start.

    Cost: constant.

    References: none beyond the libraries above.

    >>> [Polynomial(start=1.0, power=2.0).at(t, 4) for t in range(6)]
    [1.0, 0.5625, 0.25, 0.0625, 0.0, 0.0]
    """

    start: float
    end: float = 0.0
    power: float = 1.0
    steps: float | None = None

    presets: ClassVar[Mapping[str, Preset]] = {
        "torch": Preset(
            equals="torch.optim.lr_scheduler.PolynomialLR",
            fields={"end": 0.0, "power": 1.0, "steps": 5},
            arguments={"total_iters": 5, "power": 1.0},
            version="torch 2.13.0",
        ),
        "transformers": Preset(
            equals="transformers.get_polynomial_decay_schedule_with_warmup",
            fields={"end": 1e-07, "power": 1.0},
            arguments={"lr_end": 1e-07, "power": 1.0},
            version="transformers 5.24.0",
            note="With num_warmup_steps=0.",
        ),
        "keras": Preset(
            equals="keras.optimizers.schedules.PolynomialDecay",
            fields={"end": 0.0001, "power": 1.0},
            arguments={"end_learning_rate": 0.0001, "power": 1.0, "cycle": False},
            version="keras 3.15.1",
        ),
    }

    def __post_init__(self) -> None:
        check_number(self, "start")
        check_number(self, "end")
        check_number(self, "power", above=0)
        check_steps(self, "steps", optional=True)

    def __call__(self, progress: Progress, /) -> float:
        t, steps = progress.step, steps_of(self, "steps", progress)
        if t <= 0 < steps:
            return self.start
        if t >= steps:
            return self.end
        left: float = (1 - t / steps) ** self.power
        return self.end + (self.start - self.end) * left
