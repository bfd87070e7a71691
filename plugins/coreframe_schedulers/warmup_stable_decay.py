"""A rise, a plateau, and a fall."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe import checks
from coreframe.component import Preset
from coreframe.scheduler import (
    LEFT,
    RISES,
    Progress,
    Scheduler,
    blend,
    check_number,
    check_steps,
    rise,
    share,
    steps_of,
)


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay(Scheduler):
    """A linear warm-up over W steps, ``peak`` for a while, and a fall over the last D of T steps.

        t < W:       start + (peak - start) (t + 1) / W, or t / W with warmup_start="zero"
        t < T - D:   peak
        t < T:       minimum + (peak - minimum) left((t - T + D) / D)
        left(x) =    1 - x  (linear);  (1 + cos(pi x)) / 2  (cosine);  1 - sqrt(x)  (sqrt)

    A run can be made longer afterwards without starting anew: only the fall is repeated.

    How to reproduce: transformers' ``warmup_stable_decay`` with minimum ratio m is
    start=m peak, minimum=m peak, warmup_start="zero", decay="cosine"; torch and optax join three
    schedules.

    Args:
        peak: the highest value.
        warmup_steps: W, a number of steps, or a share of T if below 1. Default: 0.1, as in
            ``warmup_cosine``.
        decay_steps: D, likewise. Default: 0.2 (the paper's advice).
        minimum: the last value. Default: 0 (the paper).
        decay: linear, cosine or sqrt, the form of the fall. Default: sqrt (the best of the paper).
        warmup_start: nonzero or zero, which of the two forms. Default: nonzero, as in
            ``warmup_cosine``.
        start: what the warm-up rises from. Default: 0 (the paper).
        steps: T, a number of steps, or a share of the run if below 1. Default: None, the whole run.

    Shapes: a Progress comes in, one float goes out.

    Edges: it holds ``minimum`` from step T on. If W + D is more than T, the fall is what the
        warm-up leaves of T. W = 0 is ``peak`` at step 0, D = 0 keeps ``peak`` up to step T.

    Cost: constant.

    References: Hu et al. 2024, arXiv 2404.06395; Haegele et al. 2024, arXiv 2405.18392.

    >>> schedule = WarmupStableDecay(peak=1.0, warmup_steps=2, decay_steps=4, decay="linear")
    >>> [schedule.at(t, 9) for t in range(10)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """

    peak: float
    warmup_steps: float = 0.1
    decay_steps: float = 0.2
    minimum: float = 0.0
    decay: str = "sqrt"
    warmup_start: str = "nonzero"
    start: float = 0.0
    steps: float | None = None

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            equals="Haegele et al. 2024, arXiv 2405.18392, section 3",
            fields={"decay_steps": 0.2, "decay": "sqrt", "minimum": 0.0},
            note="The fall 1 - sqrt, over the last fifth of the run.",
        ),
        "transformers": Preset(
            equals="transformers.get_wsd_schedule",
            fields={"minimum": 0.0, "decay": "cosine", "warmup_start": "zero", "start": 0.0},
            arguments={
                "warmup_type": "linear",
                "decay_type": "cosine",
                "min_lr_ratio": 0,
                "num_cycles": 0.5,
            },
            version="transformers 5.24.0",
        ),
    }

    def __post_init__(self) -> None:
        check_number(self, "peak")
        check_steps(self, "warmup_steps")
        check_steps(self, "decay_steps")
        check_number(self, "minimum")
        checks.choice(self, "decay", tuple(LEFT))
        checks.choice(self, "warmup_start", RISES)
        check_number(self, "start")
        check_steps(self, "steps", optional=True)

    def __call__(self, progress: Progress, /) -> float:
        t, steps = progress.step, steps_of(self, "steps", progress)
        warmup = min(steps, share(self.warmup_steps, steps))
        fall = min(steps - warmup, share(self.decay_steps, steps))
        if t < warmup:
            return rise(self.start, self.peak, t, warmup, self.warmup_start)
        if t >= steps:
            return self.minimum
        if t < steps - fall:
            return self.peak
        return blend(self.peak, self.minimum, (t - steps + fall) / fall, self.decay)
