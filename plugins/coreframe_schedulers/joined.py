"""One schedule after another."""

from __future__ import annotations

import bisect
import dataclasses
from dataclasses import dataclass
from typing import Any

from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.scheduler import (
    Progress,
    Scheduler,
    boundaries_of,
    check_boundaries,
)


@dataclass(frozen=True, kw_only=True)
class Joined(Scheduler):
    """Schedules one after another; each counts its steps from its own beginning.

        value(t) = schedulers[i](t - b_i),  b_i <= t < b_(i+1),  b_0 = 0, then the boundaries

    Each piece also sees its own length as the length of the run, so that ``steps=None`` and shares
    mean that piece. A warm-up before anything is ``linear`` from 0, then the thing. Joined
    schedules can be joined again without a shift.

    How to reproduce: optax's ``join_schedules(schedules, boundaries)``; torch's
    ``SequentialLR(schedulers, milestones)`` where each piece starts at its own first value.

    Args:
        schedulers: at least one.
        boundaries: increasing, one less than schedulers: where each next one begins; all numbers
            of steps, or all shares of the run below 1. Default: (), for a single schedule.

    Shapes: a Progress comes in, what the pieces return goes out.

    Edges: the last piece lasts to the end of the run and holds its last value. In an open-ended run
        it has no length; if it needs one, the run is refused at its first step. Samples, epoch and
        history are those of the whole run.

    Cost: that of one piece.

    References: none.

    >>> from coreframe_schedulers.cosine import Cosine
    >>> from coreframe_schedulers.linear import Linear
    >>> pieces = (Linear(start=0.0, end=1.0), Cosine(start=1.0))
    >>> schedule = Joined(schedulers=pieces, boundaries=(2,))
    >>> [round(schedule.at(t, 6), 3) for t in range(8)]
    [0.0, 0.5, 1.0, 0.854, 0.5, 0.146, 0.0, 0.0]
    """

    schedulers: tuple[Scheduler, ...]
    boundaries: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.schedulers, tuple):
            raise ArgumentTypeError(
                f"Joined.schedulers must be a tuple of schedulers, got {self.schedulers!r}"
            )
        if not self.schedulers:
            raise ArgumentError("Joined.schedulers must hold at least one scheduler, got none")
        for piece in self.schedulers:
            if not isinstance(piece, Scheduler):
                raise ArgumentTypeError(
                    f"Joined.schedulers must hold schedulers, got {piece!r}; "
                    "a fixed number is Constant(value=...)"
                )
        check_boundaries(self, "boundaries", self.boundaries, len(self.schedulers))

    @property
    def endless(self) -> bool:
        return self.schedulers[-1].endless

    def __call__(self, progress: Progress, /) -> Any:
        borders = boundaries_of(self, self.boundaries, progress)
        piece = bisect.bisect_right(borders, progress.step)
        begin = borders[piece - 1] if piece else 0
        end = borders[piece] if piece < len(borders) else progress.steps
        if end is not None and progress.steps is None:
            self.schedulers[-1](dataclasses.replace(progress, step=0))  # refused now, or never
        steps = None if end is None else max(0, end - begin)
        local = dataclasses.replace(progress, step=progress.step - begin, steps=steps)
        return self.schedulers[piece](local)
