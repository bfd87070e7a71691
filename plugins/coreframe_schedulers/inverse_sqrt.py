"""A rise, then a fall with the root of time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe import checks
from coreframe.component import Preset
from coreframe.scheduler import (
    RISES,
    Progress,
    Scheduler,
    check_number,
    check_steps,
    rise,
    steps_of,
)


@dataclass(frozen=True, kw_only=True)
class InverseSqrt(Scheduler):
    """A linear warm-up to ``peak`` over W steps, then a fall with the root of the step.

        t < W:   peak (t + 1) / W, or peak t / W with warmup_start="zero"
        t >= W:  peak / sqrt(1 + (t - W) / timescale)

    It needs no end, so it suits a run of unknown length. How to reproduce: transformers'
    ``inverse_sqrt`` with warmup_start="zero".

    Args:
        peak: the highest value, reached at step W.
        warmup_steps: W, a number of steps, or a share of the run if below 1. Default: 0.1, as in
            ``warmup_cosine``.
        timescale: > 0, the steps after which the value has fallen to peak / sqrt(2).
            Default: None, W steps, or 10,000 without a warm-up (transformers).
        warmup_start: nonzero or zero, which of the two forms. Default: nonzero, as in
            ``warmup_cosine``.

    Shapes: a Progress comes in, one float goes out.

    Edges: W = 0 is ``peak`` at step 0. It has no end: it falls on past the end of the run.

    Cost: constant.

    References: Vaswani et al. 2017, arXiv 1706.03762, section 5.3.

    >>> [round(InverseSqrt(peak=1.0, warmup_steps=2).at(t), 3) for t in (0, 1, 2, 4, 8)]
    [0.5, 1.0, 1.0, 0.707, 0.5]
    """

    peak: float
    warmup_steps: float = 0.1
    timescale: float | None = None
    warmup_start: str = "nonzero"

    presets: ClassVar[Mapping[str, Preset]] = {
        "transformers": Preset(
            equals="transformers.get_inverse_sqrt_schedule",
            fields={"timescale": None, "warmup_start": "zero"},
            arguments={"timescale": None},
            version="transformers 5.24.0",
        ),
    }

    def __post_init__(self) -> None:
        check_number(self, "peak")
        check_steps(self, "warmup_steps")
        if self.timescale is not None:
            check_number(self, "timescale", above=0)
        checks.choice(self, "warmup_start", RISES)

    @property
    def endless(self) -> bool:
        return True

    def __call__(self, progress: Progress, /) -> float:
        t, warmup = progress.step, steps_of(self, "warmup_steps", progress)
        if t < warmup:
            return rise(0.0, self.peak, t, warmup, self.warmup_start)
        timescale = self.timescale or warmup or 10_000
        return self.peak / math.sqrt(1 + (t - warmup) / timescale)
