"""How much of a task may be used: fast at first, then slower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe.component import Preset
from coreframe.scheduler import Progress, Scheduler, check_number, check_steps, steps_of


@dataclass(frozen=True, kw_only=True)
class Competence(Scheduler):
    """A root that rises from ``start`` to ``end``: the pacing function of a curriculum.

        value(t) = (start^p + (end^p - start^p) t / N)^(1 / p),   p = power

    The value is meant as the share of the examples, easiest first, that may be drawn: the larger
    p, the less time is spent on the easy ones, so that new examples come at a rate that falls as
    their number grows.

    How to reproduce: the paper's competence is the default, ``min(1, sqrt(t (1 - c0^2) / T +
    c0^2))``; with power=1 it is ``linear``.

    Args:
        start: >= 0; the share at step 0. Default: 0.01 (the paper).
        end: above ``start``. Default: 1, all examples.
        power: >= 1. Default: 2, the square root (the paper).
        steps: a number of steps, or a share of the run if below 1. Default: None, the whole run.

    Shapes: a Progress comes in, one float goes out.

    Edges: holds ``end`` from step N on; with N = 0, from the start.

    Cost: constant.

    References: Platanios et al. 2019, arXiv 1903.09848, section 3.

    >>> [round(Competence(start=0.0).at(t, 100), 2) for t in (0, 1, 25, 100, 200)]
    [0.0, 0.1, 0.5, 1.0, 1.0]
    """

    start: float = 0.01
    end: float = 1.0
    power: float = 2.0
    steps: float | None = None

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            equals="Platanios et al. 2019, arXiv 1903.09848, section 3",
            fields={"start": 0.01, "end": 1.0, "power": 2.0},
        ),
    }

    def __post_init__(self) -> None:
        check_number(self, "start", minimum=0)
        check_number(self, "end", above=self.start)
        check_number(self, "power", minimum=1)
        check_steps(self, "steps", optional=True)

    def __call__(self, progress: Progress, /) -> float:
        t, steps, p = progress.step, steps_of(self, "steps", progress), self.power
        if t <= 0 < steps:
            return self.start
        if t >= steps:
            return self.end
        # Relative to the end, so that a large power overflows nothing.
        first: float = (self.start / self.end) ** p
        root: float = (first + (1 - first) * t / steps) ** (1 / p)
        return self.end * root
