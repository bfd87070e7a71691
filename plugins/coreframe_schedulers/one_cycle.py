"""Up, then down to nearly nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe import checks
from coreframe.component import Preset
from coreframe.scheduler import (
    Progress,
    Scheduler,
    blend,
    check_number,
    check_steps,
    steps_of,
)


@dataclass(frozen=True, kw_only=True)
class OneCycle(Scheduler):
    """One rise to ``peak`` and one fall, far below where it began.

        first = peak / div_factor,  last = first / final_div_factor
        t < W:  from first to peak,  W = warmup_steps
        t < T:  from peak to last, each by half a cosine or a line

    How to reproduce: optax's ``cosine_onecycle_schedule(T, peak, W / T, div_factor,
    final_div_factor)``. torch's ``OneCycleLR(peak, T, pct_start=p)`` is one step ahead, with its
    peak at p T - 1 and its end at T - 1: steps=T - 1, warmup_steps=(p T - 1) / (T - 1).

    Args:
        peak: the highest value.
        warmup_steps: W, a number of steps, or a share of T if below 1, which is not rounded.
            Default: 0.3 (torch, optax).
        div_factor: > 0, how far the first value is below the peak. Default: 25 (torch, optax).
        final_div_factor: > 0, how far the last value is below the first. Default: 10,000 (torch,
            optax).
        anneal: cosine or linear. Default: cosine (torch, optax).
        steps: T, a number of steps, or a share of the run if below 1. Default: None, the whole run.

    Shapes: a Progress comes in, one float goes out.

    Edges: the peak is at step W, exactly, where W is a whole number, and between two steps where
        it is not; W = 0 starts at the peak. It holds ``last`` from step T on. A W of T or more
        rises over T steps, then holds ``last``.

    Cost: constant.

    References: Smith & Topin 2018, arXiv 1708.07120.

    >>> [round(OneCycle(peak=1.0).at(t, 10), 3) for t in (0, 1, 3, 6, 10, 11)]
    [0.04, 0.28, 1.0, 0.611, 0.0, 0.0]
    """

    peak: float
    warmup_steps: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    anneal: str = "cosine"
    steps: float | None = None

    presets: ClassVar[Mapping[str, Preset]] = {
        "optax": Preset(
            equals="optax.cosine_onecycle_schedule",
            fields={
                "warmup_steps": 0.3,
                "div_factor": 25.0,
                "final_div_factor": 10000.0,
                "anneal": "cosine",
            },
            arguments={"pct_start": 0.3, "div_factor": 25.0, "final_div_factor": 10000.0},
            version="optax 0.2.8",
        ),
    }

    def __post_init__(self) -> None:
        check_number(self, "peak")
        check_steps(self, "warmup_steps")
        check_number(self, "div_factor", above=0)
        check_number(self, "final_div_factor", above=0)
        checks.choice(self, "anneal", ("cosine", "linear"))
        check_steps(self, "steps", optional=True)

    def __call__(self, progress: Progress, /) -> float:
        t, steps = progress.step, steps_of(self, "steps", progress)
        first = self.peak / self.div_factor
        last = first / self.final_div_factor
        top = self.warmup_steps * (steps if self.warmup_steps < 1 else 1)
        if abs(top - round(top)) < 1e-9 * steps:  # 0.29 of 100 is 28.999999999999996
            top = round(top)
        top = min(top, steps)
        if t >= steps:
            return last
        if t < top:
            return blend(first, self.peak, t / top, self.anneal)
        return blend(self.peak, last, (t - top) / (steps - top), self.anneal)
