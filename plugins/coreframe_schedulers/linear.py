"""A straight line from one value to another."""

from __future__ import annotations

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
    share,
    steps_of,
)


@dataclass(frozen=True, kw_only=True)
class Linear(Scheduler):
    """A straight line from ``start`` to ``end`` over N steps, or stairs along it.

        value(t) = start + (end - start) t / N
        with every=z:  start + (end - start) floor(t / z) / floor(N / z)

    ``start`` is reached at step 0 and ``end`` at step N, exactly; N = ``steps``. As a warm-up, a
    line from 0 over W steps is t / W; a line from peak / W over W - 1 steps is (t + 1) / W.

    How to reproduce: optax's ``linear_schedule(start, end, N)``; torch's
    ``LinearLR(start_factor, end_factor, total_iters=N)`` with start and end the factors times the
    learning rate; transformers' ``linear`` and Keras's ``PolynomialDecay(start, N, end)``.

    Args:
        start, end: any finite numbers.
        steps: a number of steps, or a share of the run if below 1. Default: None, the whole run.
        every: the steps for which a stair holds: a number, or a share of ``steps`` if below 1
            (at least one step). Default: None, no stairs.

    Shapes: a Progress comes in, one float goes out.

    Edges: holds ``end`` from step N on; with N = 0, from the start. Stairs longer than the line
        are refused where both lengths are given; where a run turns out to be shorter than one
        stair, ``start`` holds until its end. If z does not divide N, ``end`` comes early.

    Cost: constant.

    References: none; the stairs are usual for annealing a temperature.

    >>> [round(Linear(start=1.0, end=0.1).at(t, 10), 2) for t in (0, 5, 10, 11)]
    [1.0, 0.55, 0.1, 0.1]
    >>> [Linear(start=1.0, end=0.0, steps=100, every=25).at(t) for t in (0, 24, 25, 99, 100)]
    [1.0, 1.0, 0.75, 0.25, 0.0]
    """

    start: float
    end: float
    steps: float | None = None
    every: float | None = None

    presets: ClassVar[Mapping[str, Preset]] = {
        "transformers": Preset(
            equals="transformers.get_linear_schedule_with_warmup",
            fields={"end": 0.0},
            version="transformers 5.24.0",
            note="With num_warmup_steps=0, as its trainer has by default.",
        ),
    }

    def __post_init__(self) -> None:
        check_number(self, "start")
        check_number(self, "end")
        check_steps(self, "steps", optional=True)
        if self.every is None:
            return
        check_steps(self, "every", above=0)
        if self.steps is not None and self.steps >= 1 and self.every > self.steps:
            raise ArgumentError(
                f"Linear.every must be at most steps, got {self.every!r} of {self.steps!r}: "
                "not one stair would fit"
            )

    def __call__(self, progress: Progress, /) -> float:
        t, steps = progress.step, steps_of(self, "steps", progress)
        if t >= steps:
            return self.end
        if self.every is None:
            return blend(self.start, self.end, t / steps)
        stair = max(1, share(self.every, steps))
        return blend(self.start, self.end, (t // stair) / max(1, steps // stair))
