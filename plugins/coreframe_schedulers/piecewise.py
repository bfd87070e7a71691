"""Values at chosen steps."""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

from coreframe import checks
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.scheduler import (
    Progress,
    Scheduler,
    blend,
    boundaries_of,
    check_boundaries,
)


@dataclass(frozen=True, kw_only=True)
class Piecewise(Scheduler):
    """One value until the first boundary, the next from it on; or a way that leads through them.

        constant:        value(t) = values[number of boundaries <= t]
        linear, cosine:  values[0] at step 0, values[i] at boundaries[i - 1], and between them
                         a line or half a cosine

    In every form ``values[i]`` is there first at the step ``boundaries[i - 1]``.

    How to reproduce: torch's ``MultiStepLR(milestones, gamma)`` and optax's
    ``piecewise_constant_schedule`` with the products as values; optax's
    ``piecewise_interpolate_schedule`` likewise. Keras's ``PiecewiseConstantDecay`` changes one step
    later: add 1 to each boundary. Triangles, also repeated, and torch's three-phase one-cycle are
    ``linear``.

    Args:
        values: finite numbers, one more than there are boundaries.
        boundaries: increasing; all numbers of steps, or all shares of the run below 1.
            Default: (), one constant value.
        interpolate: constant, linear or cosine. Default: constant (the name's usual meaning).

    Shapes: a Progress comes in, one float goes out.

    Edges: holds the last value past the last boundary. Of shares that fall on one step in a short
        run, the last one counts.

    Cost: the logarithm of the number of boundaries.

    References: none.

    >>> schedule = Piecewise(values=(1.0, 0.1, 0.01), boundaries=(3, 5))
    >>> [schedule.at(t) for t in range(7)]
    [1.0, 1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    >>> triangle = Piecewise(values=(0.0, 1.0, 0.0), boundaries=(2, 6), interpolate="linear")
    >>> [triangle.at(t) for t in range(8)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """

    values: tuple[float, ...]
    boundaries: tuple[float, ...] = ()
    interpolate: str = "constant"

    def __post_init__(self) -> None:
        if not isinstance(self.values, tuple) or not self.values:
            raise ArgumentTypeError(
                f"Piecewise.values must be a tuple of numbers, got {self.values!r}"
            )
        for value in self.values:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ArgumentTypeError(f"Piecewise.values must hold numbers, got {value!r}")
            if not math.isfinite(value):
                raise ArgumentError(f"Piecewise.values must be finite, got {value!r}")
        check_boundaries(self, "boundaries", self.boundaries, len(self.values))
        checks.choice(self, "interpolate", ("constant", "linear", "cosine"))

    def __call__(self, progress: Progress, /) -> float:
        t, borders = progress.step, boundaries_of(self, self.boundaries, progress)
        passed = bisect.bisect_right(borders, t)
        if self.interpolate == "constant" or passed == len(borders):
            return self.values[passed]
        begin = borders[passed - 1] if passed else 0
        x = (t - begin) / (borders[passed] - begin)
        return blend(self.values[passed], self.values[passed + 1], x, self.interpolate)
