"""A linear rise, then half a cosine down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from coreframe import checks
from coreframe.component import Preset
from coreframe.scheduler import (
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
class WarmupCosine(Scheduler):
    """A linear warm-up to ``peak`` over W steps, then a cosine down to ``minimum`` at step T.

        t < W:   start + (peak - start) (t + 1) / W, or t / W with warmup_start="zero"
        t >= W:  minimum + (peak - minimum) (1 + cos(pi (t - W) / (T - W))) / 2

    How to reproduce: with warmup_start="zero", optax's
    ``warmup_cosine_decay_schedule(start, peak, W, T, minimum)``, Keras's ``CosineDecay(0,
    decay_steps=T - W, warmup_target=peak, warmup_steps=W)``, and transformers' ``cosine`` and
    ``cosine_with_min_lr`` up to step T, where transformers' rise again and this holds. The default
    form is open_clip's. transformers' ``cosine_warmup_with_min_lr`` is start=peak / W,
    warmup_steps=W - 1, steps=T - 1, warmup_start="zero".

    Args:
        peak: the highest value, reached at step W.
        warmup_steps: W, a number of steps, or a share of T if below 1. Default: 0.1 of the run
            (the usual advice for sentence embedders).
        minimum: the last value. Default: 0 (all libraries above).
        warmup_start: nonzero or zero, which of the two forms. Default: nonzero, since a first step
            at 0 is a step for nothing (open_clip).
        start: what the warm-up rises from. Default: 0 (all libraries above).
        steps: T, warm-up included: a number of steps, or a share of the run if below 1.
            Default: None, the whole run.

    Shapes: a Progress comes in, one float goes out.

    Edges: W = 0 is ``peak`` at step 0. It holds ``minimum`` from step T on. A warm-up as long as T,
        or longer, warms up over T steps and then holds the minimum.

    Cost: constant.

    References: Loshchilov & Hutter 2017, arXiv 1608.03983; Goyal et al. 2017, arXiv 1706.02677.

    >>> [round(WarmupCosine(peak=1.0, warmup_steps=2).at(t, 6), 3) for t in range(8)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    peak: float
    warmup_steps: float = 0.1
    minimum: float = 0.0
    warmup_start: str = "nonzero"
    start: float = 0.0
    steps: float | None = None

    presets: ClassVar[Mapping[str, Preset]] = {
        "transformers": Preset(
            equals="transformers.get_cosine_schedule_with_warmup",
            fields={"minimum": 0.0, "warmup_start": "zero", "start": 0.0},
            arguments={"num_cycles": 0.5},
            version="transformers 5.24.0",
            note="Up to its last step, behind which transformers' rises again.",
        ),
        "optax": Preset(
            equals="optax.warmup_cosine_decay_schedule",
            fields={"minimum": 0.0, "warmup_start": "zero"},
            arguments={"end_value": 0.0, "exponent": 1.0},
            version="optax 0.2.8",
        ),
        "open_clip": Preset(
            equals="open_clip_train.scheduler.cosine_lr",
            fields={"warmup_steps": 10000, "minimum": 0.0, "warmup_start": "nonzero", "start": 0.0},
            version="open_clip_torch 3.3.0",
            note="With the warm-up of its command line, for long runs.",
        ),
    }

    def __post_init__(self) -> None:
        check_number(self, "peak")
        check_steps(self, "warmup_steps")
        check_number(self, "minimum")
        checks.choice(self, "warmup_start", RISES)
        check_number(self, "start")
        check_steps(self, "steps", optional=True)

    def __call__(self, progress: Progress, /) -> float:
        t, steps = progress.step, steps_of(self, "steps", progress)
        warmup = min(steps, share(self.warmup_steps, steps))
        if t < warmup:
            return rise(self.start, self.peak, t, warmup, self.warmup_start)
        if t >= steps:
            return self.minimum
        return blend(self.peak, self.minimum, (t - warmup) / (steps - warmup), "cosine")
