"""The same factor in every step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe.component import Preset
from coreframe.errors import ArgumentError
from coreframe.scheduler import Progress, Scheduler, check_number, check_steps, steps_of


@dataclass(frozen=True, kw_only=True)
class Exponential(Scheduler):
    """A value that is multiplied by the same factor in every step.

        given decay:      value(t) = start decay^(t / every), no further than end
        else, given end:  value(t) = start (end / start)^(t / N),   N = steps

    The first form says how fast, the second where it arrives. Both are smooth; ``step`` is the
    first form in stairs.

    How to reproduce: torch's ``ExponentialLR(gamma)`` is decay=gamma; optax's
    ``exponential_decay(start, every, decay, end_value=end)`` and Keras's
    ``ExponentialDecay(start, every, decay)`` have our names' meanings.

    Args:
        start: > 0.
        end: > 0. Without ``decay`` the value at step N; with it the bound: a floor for a decay
            below 1, a ceiling (needed) above 1. Default: None, no bound.
        decay: > 0, the factor for ``every`` steps. Default: None, the one that arrives at ``end``.
        every: the steps that ``decay`` is for: a number, or a share of the run if below 1.
            Default: 1 (torch).
        steps: N, a number of steps, or a share of the run if below 1; not with ``decay``.
            Default: None, the whole run.

    Shapes: a Progress comes in, one float goes out.

    Edges: with ``end`` it holds ``end`` when it arrives there; N = 0 is ``end`` from the start.
        Without a bound it falls on, also past the end of the run. It cannot arrive at 0: use a
        small ``end``, or ``cosine``.

    Cost: constant.

    References: none.

    >>> [round(Exponential(start=1.0, end=0.01).at(t, 4), 3) for t in range(6)]
    [1.0, 0.316, 0.1, 0.032, 0.01, 0.01]
    >>> [Exponential(start=8.0, decay=0.5, every=2, end=3.0).at(t) for t in (0, 2, 4)]
    [8.0, 4.0, 3.0]
    """

    start: float
    end: float | None = None
    decay: float | None = None
    every: float = 1
    steps: float | None = None

    presets: ClassVar[Mapping[str, Preset]] = {
        "torch": Preset(
            equals="torch.optim.lr_scheduler.ExponentialLR",
            fields={"every": 1},
            version="torch 2.13.0",
            note="decay is gamma.",
        ),
    }

    def __post_init__(self) -> None:
        check_number(self, "start", above=0)
        check_steps(self, "every", above=0)
        check_steps(self, "steps", optional=True)
        if self.end is not None:
            check_number(self, "end", above=0)
        if self.decay is None:
            if self.end is None:
                raise ArgumentError("Exponential.end is missing: give end, or decay")
            if self.every != 1:
                raise ArgumentError(
                    f"Exponential.every goes with decay, got {self.every!r}; "
                    "the time to arrive at end is steps"
                )
            return
        check_number(self, "decay", above=0)
        if self.steps is not None:
            raise ArgumentError(
                f"Exponential.steps goes without decay, got {self.steps!r}; "
                "the time that decay is for is every"
            )
        if self.decay > 1 and self.end is None:
            raise ArgumentError(
                f"Exponential.end is missing: a decay of {self.decay!r} grows without bound"
            )
        if self.end is not None and (self.end - self.start) * (1 - self.decay) > 0:
            raise ArgumentError(
                f"Exponential.end must be on the way, got {self.end!r}: "
                f"a decay of {self.decay!r} leads away from it"
            )

    @property
    def endless(self) -> bool:
        return self.decay is not None and self.end is None

    def __call__(self, progress: Progress, /) -> float:
        t = progress.step
        if self.decay is None:
            assert self.end is not None
            steps = steps_of(self, "steps", progress)
            if t >= steps:
                return self.end
            return _power(self.start, self.end / self.start, t / steps)
        x = t / max(1, steps_of(self, "every", progress))
        # Asked first, since a power of a decay above 1 overflows sooner or later.
        if self.end is not None and self.decay != 1:
            arrival = math.log(self.end / self.start) / math.log(self.decay)
            if x >= arrival:
                return self.end
        return _power(self.start, self.decay, x)


def _power(start: float, factor: float, x: float) -> float:
    power: float = factor**x
    return start * power
