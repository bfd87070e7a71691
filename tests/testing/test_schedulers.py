"""The kit for schedulers: it passes what is right, and names what is wrong.

That the shipped ones keep its promises: tests/plugins/test_schedulers_contract.py.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from coreframe import Progress, Scheduler
from coreframe.scheduler import check_number, check_steps, steps_of
from coreframe.testing import Check, report
from coreframe.testing.schedulers import KIT, PROMISES, check_scheduler
from coreframe.testing.shared import SHARED


@dataclass(frozen=True, kw_only=True)
class Fall(Scheduler):
    """A line from a value to 0.

        value(t) = start (1 - t / N)

    Args:
        start: any finite number. Default: 1.
        steps: N, a number of steps, or a share of the run if below 1. Default: None, the run.

    Shapes: a Progress comes in, one float goes out.

    Edges: holds 0 from step N on.

    Cost: constant.

    References: none.

    >>> [Fall().at(t, 4) for t in (0, 1, 4, 5)]
    [1.0, 0.75, 0.0, 0.0]
    """

    start: float = 1.0
    steps: float | None = None

    def __post_init__(self) -> None:
        check_number(self, "start")
        check_steps(self, "steps", optional=True)

    def __call__(self, progress: Progress, /) -> Any:
        t, steps = progress.step, steps_of(self, "steps", progress)
        return self.start * (1 - t / steps) if t < steps else 0.0


@dataclass(frozen=True)
class Pace:
    """What a schedule of records returns."""

    speed: float


@dataclass(frozen=True, kw_only=True)
class Paces(Fall):
    __doc__ = (
        str(Fall.__doc__)
        .replace("Fall()", "Paces()")
        .replace(
            "[1.0, 0.75, 0.0, 0.0]",
            "[Pace(speed=1.0), Pace(speed=0.75), Pace(speed=0.0), Pace(speed=0.0)]",
        )
    )

    def __call__(self, progress: Progress, /) -> Any:
        return Pace(super().__call__(progress))


@dataclass(frozen=True, kw_only=True)
class Halving(Scheduler):
    """A value that is halved every so many steps, for ever.

        value(t) = 2^-(t / period)

    Args:
        period: > 0. Default: 10.

    Shapes: a Progress comes in, one float goes out.

    Edges: it has no end.

    Cost: constant.

    References: none.

    >>> Halving().at(10)
    0.5
    """

    period: float = 10.0
    endless: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number(self, "period", above=0)

    def __call__(self, progress: Progress, /) -> float:
        return float(0.5 ** (progress.step / self.period))


@pytest.mark.parametrize("scheduler", [Fall(), Fall(steps=7), Fall(steps=0.3), Paces(), Halving()])
def test_a_right_scheduler_passes(scheduler: Scheduler) -> None:
    found = check_scheduler(scheduler)
    assert all(found), report([c for c in found if not c])


# Schedulers that are wrong --------------------------------------------------------------------


class DividesAtTheEnd(Fall):
    def __call__(self, progress: Progress, /) -> Any:
        steps = steps_of(self, "steps", progress)
        return super().__call__(progress) + 0 / (steps - progress.step)


class NeedsTwoSteps(Fall):
    def __call__(self, progress: Progress, /) -> Any:
        steps = steps_of(self, "steps", progress)
        return max(0.0, 1 - progress.step / (steps - 1))


class WalksOverTheSteps(Halving):
    def __call__(self, progress: Progress, /) -> float:
        value = 1.0
        for _ in range(progress.step):
            value *= 0.9
        return value


class Overflows(Halving):
    def __call__(self, progress: Progress, /) -> float:
        return float(1 / 1.1**progress.step)


class NeverStops(Fall):
    def __call__(self, progress: Progress, /) -> Any:
        return 1 - progress.step / max(1, steps_of(self, "steps", progress))


class RisesAgain(Fall):
    def __call__(self, progress: Progress, /) -> Any:
        x = progress.step / max(1, steps_of(self, "steps", progress))
        return (1 + math.cos(math.pi * x)) / 2


class KnowsNoOpenRun(Fall):
    def __call__(self, progress: Progress, /) -> Any:
        steps: Any = progress.steps
        return max(0.0, 1 - progress.step / max(1, steps))


class RefusesInTheMiddle(Fall):
    def __call__(self, progress: Progress, /) -> Any:
        return 1.0 if progress.step < 10 else super().__call__(progress)


class OfNumPy(Fall):
    def __call__(self, progress: Progress, /) -> Any:
        return np.float64(super().__call__(progress))


class AnArray(Fall):
    def __call__(self, progress: Progress, /) -> Any:
        return np.asarray(super().__call__(progress))


class ForgetsToReturn(Fall):
    def __call__(self, progress: Progress, /) -> Any:
        if progress.step < steps_of(self, "steps", progress):
            return super().__call__(progress)
        return None


class NotANumber(Fall):
    def __call__(self, progress: Progress, /) -> Any:
        return super().__call__(progress) if progress.step != 5 else math.nan


class OfTwoKinds(Fall):
    def __call__(self, progress: Progress, /) -> Any:
        value = super().__call__(progress)
        return value if value else Pace(0.0)


class CountsItsCalls(Fall):
    def __call__(self, progress: Progress, /) -> Any:
        calls = self.__dict__.get("_calls", 0) + 1
        self.__dict__["_calls"] = calls
        return super().__call__(dataclasses.replace(progress, step=calls))


class AnotherAt(Fall):
    def at(self, step: int, steps: int | None = None) -> Any:
        return super().at(step + 1, steps)


class NotMarked(Fall):
    is_coreframe_scheduler: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class Unchecked(Fall):
    def __post_init__(self) -> None:
        pass


class KnowsNoShares(Fall):
    def __call__(self, progress: Progress, /) -> Any:
        steps = self.steps or progress.steps or 1
        return self.start * (1 - progress.step / steps) if progress.step < steps else 0.0


class Warns(Fall):
    def __call__(self, progress: Progress, /) -> Any:
        warnings.warn("careful", stacklevel=1)
        return super().__call__(progress)


WRONG = [
    (DividesAtTheEnd(), "defined", "step 10 of 10: ZeroDivisionError"),
    (NeedsTwoSteps(), "short_runs", "step 0 of 1: ZeroDivisionError"),
    (WalksOverTheSteps(), "late_steps", "does it walk over the steps?"),
    (Overflows(), "late_steps", "OverflowError"),
    (NeverStops(), "past_the_end", "0.0 at the end, step 1000000000, and -1.0 at step 2000000000"),
    (RisesAgain(), "past_the_end", "0.0 at the end, step 1000000000, and 1.0 at step 2000000000"),
    (KnowsNoOpenRun(), "open_ended", "step 0: TypeError"),
    (RefusesInTheMiddle(), "open_ended", "step 0 has a value, and step 10 is refused"),
    (OfNumPy(), "values", "is a numpy.float64"),
    (AnArray(), "values", "is a numpy.ndarray"),
    (ForgetsToReturn(), "values", "step 10 of 10: the value None is a NoneType"),
    (NotANumber(), "values", "step 5 of 10: the value is nan"),
    (OfTwoKinds(), "values", "a number at step 0, a Pace at step 10"),
    (CountsItsCalls(), "any_order", "backwards"),
    (AnotherAt(), "at_is_short", "at(0, 10) is 0.9, the value is 1.0"),
    (NotMarked(), "in_a_component", "a component refuses it: Owner.number must be a number"),
    (Unchecked(), "fields_are_checked", "start=nan is taken without a word"),
    (Unchecked(), "steps_are_checked", "steps=-1 is taken without a word"),
    (KnowsNoShares(), "shares", "steps=0.25 gives 0.0 at step 1 of 1000, steps=250 gives 0.996"),
    (Warns(), "no_warnings", "a run of 2 steps: careful"),
]


def outcome_of(name: str, scheduler: Scheduler) -> Check:
    """Check one promise alone."""
    return {p.name: p for p in PROMISES}[name].check(KIT.subject(scheduler))


@pytest.mark.parametrize(
    ("scheduler", "name", "words"), WRONG, ids=[f"{type(s).__name__}-{n}" for s, n, _ in WRONG]
)
def test_a_wrong_scheduler_is_named(scheduler: Scheduler, name: str, words: str) -> None:
    outcome = outcome_of(name, scheduler)
    assert not outcome.ok
    assert words in outcome.detail, outcome.detail
    assert "To fix: " in outcome.detail


def test_every_promise_can_be_broken() -> None:
    own = {p.name for p in PROMISES} - {p.name for p in SHARED}
    assert own == {name for _, name, _ in WRONG}


def test_what_goes_on_for_ever_says_so() -> None:
    outcome = outcome_of("past_the_end", Halving())
    assert outcome.ok
    assert outcome.detail == "not checked: it declares endless = True"
