"""Half a cosine down, again and again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe.component import Preset
from coreframe.errors import ArgumentError
from coreframe.scheduler import (
    Progress,
    Scheduler,
    blend,
    check_number,
    check_steps,
    steps_of,
)


@dataclass(frozen=True, kw_only=True)
class CosineWarmRestarts(Scheduler):
    """Cycles that each start high and fall by half a cosine; the next one starts high again.

        cycle i:  length n_i = round(period multiplier^i),  height h_i = (start - minimum) height^i
        value(t) = minimum + h_i (1 + cos(pi (t - n_0 - ... - n_(i-1)) / n_i)) / 2

    Cycles begin at sums of whole lengths, not at a logarithm of t, which rounds some beginnings to
    the end of the cycle before. period=100, multiplier=2 restarts at 100, 300, 700.

    How to reproduce: torch's ``CosineAnnealingWarmRestarts(T_0, T_mult, eta_min)``; Keras's
    ``CosineDecayRestarts(start, period, t_mul, m_mul, alpha)`` with height=m_mul and
    minimum=alpha start; timm's cosine with cycle_mul, cycle_decay, cycle_limit at minimum 0;
    transformers' ``cosine_with_restarts`` with period=1 / c and cycles=c.

    Args:
        start: the value at step 0.
        period: the length of the first cycle: a number of steps, or a share of the run if below 1.
        minimum: what a cycle falls towards. Default: 0 (torch, Keras, optax).
        multiplier: 1, or at least 1.01: how much longer each cycle is. Default: 1, equal cycles
            (torch).
        height: in (0, 1]: how much lower each cycle starts, above the minimum. Default: 1, as high
            as the first (torch).
        cycles: >= 1; ``minimum`` holds after so many. Default: None, no limit.

    Shapes: a Progress comes in, one float goes out.

    Edges: a cycle's last step is still above ``minimum``, by a share of (1 - cos(pi / n)) / 2.
        Without ``cycles`` it goes on past the end of the run. A period of a share that rounds to 0
        is 1 step.

    Cost: constant with multiplier 1; else the logarithm of t: at most some 2,000 additions.

    References: Loshchilov & Hutter 2017, arXiv 1608.03983, section 3.

    >>> schedule = CosineWarmRestarts(start=1.0, period=3, multiplier=2)
    >>> [round(schedule.at(t), 3) for t in range(10)]
    [1.0, 0.75, 0.25, 1.0, 0.933, 0.75, 0.5, 0.25, 0.067, 1.0]
    """

    start: float
    period: float
    minimum: float = 0.0
    multiplier: float = 1
    height: float = 1.0
    cycles: int | None = None

    presets: ClassVar[Mapping[str, Preset]] = {
        "torch": Preset(
            equals="torch.optim.lr_scheduler.CosineAnnealingWarmRestarts",
            fields={"minimum": 0.0, "multiplier": 1, "height": 1.0},
            arguments={"T_mult": 1, "eta_min": 0.0},
            version="torch 2.13.0",
        ),
        "keras": Preset(
            equals="keras.optimizers.schedules.CosineDecayRestarts",
            fields={"minimum": 0.0, "multiplier": 2.0, "height": 1.0},
            arguments={"t_mul": 2.0, "m_mul": 1.0, "alpha": 0.0},
            version="keras 3.15.1",
        ),
    }

    def __post_init__(self) -> None:
        check_number(self, "start")
        check_steps(self, "period", above=0)
        check_number(self, "minimum")
        check_number(self, "multiplier", minimum=1)
        if 1 < self.multiplier < 1.01:
            raise ArgumentError(
                f"CosineWarmRestarts.multiplier must be 1 or at least 1.01, got {self.multiplier!r}"
            )
        check_number(self, "height", above=0, maximum=1)
        if self.cycles is not None:
            check_number(self, "cycles", minimum=1, integer=True)

    @property
    def endless(self) -> bool:
        return self.cycles is None

    def __call__(self, progress: Progress, /) -> float:
        period = max(1, steps_of(self, "period", progress))
        cycle, begin, length = self._cycle(progress.step, period)
        if self.cycles is not None and cycle >= self.cycles:
            return self.minimum
        lowered: float = self.height**cycle
        top = self.minimum + (self.start - self.minimum) * lowered if cycle else self.start
        return blend(top, self.minimum, (progress.step - begin) / length, "cosine")

    def _cycle(self, step: int, period: int) -> tuple[int, int, int]:
        """Return the cycle's number, its first step and its length."""
        if self.multiplier == 1:
            cycle = step // period
            return cycle, cycle * period, period
        cycle, begin, length = 0, 0, period
        while step >= begin + length:
            cycle, begin = cycle + 1, begin + length
            length = math.floor(period * self.multiplier**cycle + 0.5)
        return cycle, begin, length
