"""Half a cosine from one value to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

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
class Cosine(Scheduler):
    """Half a cosine from ``start`` to ``end`` over N steps: flat at both ends.

        value(t) = end + (start - end) (1 + cos(pi t / N)) / 2

    How to reproduce: optax's ``cosine_decay_schedule(start, N, alpha=end / start)`` and Keras's
    ``CosineDecay`` alike; torch's ``CosineAnnealingLR(T_max=N, eta_min=end)`` up to step N, where
    torch's rises again and this holds; lightly's ``cosine_schedule(t, M)`` with N = M - 1.

    Args:
        start: any finite number.
        end: any finite number; above ``start`` it rises. Default: 0 (all libraries above).
        steps: a number of steps, or a share of the run if below 1. Default: None, the whole run.

    Shapes: a Progress comes in, one float goes out.

    Edges: holds ``end`` from step N on; with N = 0, from the start.

    Cost: constant.

    References: Loshchilov & Hutter 2017, arXiv 1608.03983, equation 5.

    >>> [round(Cosine(start=1.0, end=0.2).at(t, 4), 3) for t in range(6)]
    [1.0, 0.883, 0.6, 0.317, 0.2, 0.2]
    """

    start: float
    end: float = 0.0
    steps: float | None = None

    presets: ClassVar[Mapping[str, Preset]] = {
        "torch": Preset(
            equals="torch.optim.lr_scheduler.CosineAnnealingLR",
            fields={"end": 0.0},
            arguments={"eta_min": 0.0},
            version="torch 2.13.0",
            note="Up to step T_max = steps, behind which torch's rises again.",
        ),
        "optax": Preset(
            equals="optax.cosine_decay_schedule",
            fields={"end": 0.0},
            arguments={"alpha": 0.0, "exponent": 1.0},
            version="optax 0.2.8",
        ),
        "keras": Preset(
            equals="keras.optimizers.schedules.CosineDecay",
            fields={"end": 0.0},
            arguments={"alpha": 0.0, "warmup_target": None, "warmup_steps": 0},
            version="keras 3.15.1",
        ),
    }

    def __post_init__(self) -> None:
        check_number(self, "start")
        check_number(self, "end")
        check_steps(self, "steps", optional=True)

    def __call__(self, progress: Progress, /) -> float:
        t, steps = progress.step, steps_of(self, "steps", progress)
        return self.end if t >= steps else blend(self.start, self.end, t / steps, "cosine")
