"""A linear rise, then half a cosine down."""

from __future__ import annotations

import math
from dataclasses import dataclass

from coreframe import checks
from coreframe.scheduler import Progress, Scheduler, total_steps


@dataclass(frozen=True, kw_only=True)
class WarmupCosine(Scheduler):
    """A linear warm-up to ``peak`` over W steps, then a cosine down to ``minimum`` at step T.

        t < W:   peak (t + 1) / W, or peak t / W with warmup_start="zero"
        t >= W:  minimum + (peak - minimum) (1 + cos(pi (t - W) / (T - W))) / 2

    It holds ``minimum`` from step T on. A warm-up as long as the run warms up, then holds the
    minimum. With warmup_start="zero" it equals transformers' ``cosine_with_min_lr`` schedule and
    optax's ``warmup_cosine_decay_schedule(0, peak, W, T, minimum)`` up to step T.

    Args:
        peak: the highest value.
        warmup_steps: a number of steps, or a share of the run if below 1.
        minimum: the last value.
        warmup_start: nonzero or zero: the value at step 0.

    References: Loshchilov & Hutter 2017, arXiv 1608.03983; Goyal et al. 2017, arXiv 1706.02677.

    >>> [round(WarmupCosine(peak=1.0, warmup_steps=2).at(t, 6), 3) for t in range(8)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    peak: float
    warmup_steps: float = 0.1
    minimum: float = 0.0
    warmup_start: str = "nonzero"

    def __post_init__(self) -> None:
        checks.number(self, "peak")
        checks.number(self, "warmup_steps", minimum=0)
        checks.number(self, "minimum")
        checks.choice(self, "warmup_start", ("nonzero", "zero"))

    def __call__(self, progress: Progress, /) -> float:
        steps, t = total_steps(self, progress), progress.step
        share = self.warmup_steps < 1
        warmup = min(steps, math.floor(self.warmup_steps * (steps if share else 1) + 0.5))
        if t < warmup:
            return self.peak * (t + (self.warmup_start == "nonzero")) / warmup
        if t >= steps:
            return self.minimum
        phase = (t - warmup) / (steps - warmup)
        return self.minimum + (self.peak - self.minimum) * (1 + math.cos(math.pi * phase)) / 2
