"""Stairs: a factor every so many steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe.component import Preset
from coreframe.scheduler import Progress, Scheduler, check_number, check_steps, steps_of


@dataclass(frozen=True, kw_only=True)
class Step(Scheduler):
    """A value that is multiplied by ``decay`` every so many steps.

        value(t) = max(minimum, start decay^floor(t / every))

    How to reproduce: torch's ``StepLR(step_size=every, gamma=decay)``; optax's and Keras's
    exponential decay with ``staircase=True``. Stairs of equal height are ``linear`` with every=;
    stairs at chosen steps are ``piecewise``.

    Args:
        start: > 0.
        every: the steps for which a stair holds: a number, or a share of the run if below 1 (at
            least one step).
        decay: in (0, 1]. Default: 0.1 (torch).
        minimum: >= 0; it falls no further. Default: 0, no floor.

    Shapes: a Progress comes in, one float goes out.

    Edges: the value falls at the steps ``every``, 2 ``every``, ..., also past the end of the run,
        down to ``minimum``.

    Cost: constant.

    References: none.

    >>> [Step(start=1.0, every=2, decay=0.5, minimum=0.2).at(t) for t in range(7)]
    [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.2]
    """

    start: float
    every: float
    decay: float = 0.1
    minimum: float = 0.0

    presets: ClassVar[Mapping[str, Preset]] = {
        "torch": Preset(
            equals="torch.optim.lr_scheduler.StepLR",
            fields={"decay": 0.1, "minimum": 0.0},
            arguments={"gamma": 0.1},
            version="torch 2.13.0",
        ),
    }

    def __post_init__(self) -> None:
        check_number(self, "start", above=0)
        check_steps(self, "every", above=0)
        check_number(self, "decay", above=0, maximum=1)
        check_number(self, "minimum", minimum=0, maximum=self.start)

    @property
    def endless(self) -> bool:
        return True

    def __call__(self, progress: Progress, /) -> float:
        stair = max(1, steps_of(self, "every", progress))
        fallen: float = self.decay ** (progress.step // stair)
        return max(self.minimum, self.start * fallen)
