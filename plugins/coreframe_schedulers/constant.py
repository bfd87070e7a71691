"""One value for the whole run."""

from __future__ import annotations

from dataclasses import dataclass

from coreframe import checks
from coreframe.scheduler import Progress, Scheduler


@dataclass(frozen=True, kw_only=True)
class Constant(Scheduler):
    """The same value at every step.

    >>> Constant(value=0.1).at(7)
    0.1
    """

    value: float

    def __post_init__(self) -> None:
        checks.number(self, "value")

    def __call__(self, progress: Progress, /) -> float:
        return self.value
