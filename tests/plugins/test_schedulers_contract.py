"""What our schedulers promise: all that the kit asks, exact ends, a range, words for mistakes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreframe import registry
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.scheduler import Progress, Scheduler, resolve
from coreframe.testing import report
from coreframe.testing.schedulers import check_scheduler
from coreframe_losses.info_nce import InfoNCE
from coreframe_schedulers.competence import Competence
from coreframe_schedulers.constant import Constant
from coreframe_schedulers.cosine import Cosine
from coreframe_schedulers.cosine_warm_restarts import CosineWarmRestarts
from coreframe_schedulers.curriculum import Curriculum
from coreframe_schedulers.exponential import Exponential
from coreframe_schedulers.inverse_sqrt import InverseSqrt
from coreframe_schedulers.joined import Joined
from coreframe_schedulers.linear import Linear
from coreframe_schedulers.one_cycle import OneCycle
from coreframe_schedulers.piecewise import Piecewise
from coreframe_schedulers.polynomial import Polynomial
from coreframe_schedulers.stage_value import StageValue
from coreframe_schedulers.step import Step
from coreframe_schedulers.warmup_cosine import WarmupCosine
from coreframe_schedulers.warmup_stable_decay import WarmupStableDecay

STAGES = Curriculum.linear(3, 5, negatives=(5, 20), temperature=(1.0, 0.3))

ENDING: dict[str, tuple[Scheduler, float]] = {
    "constant": (Constant(value=0.5), 0.5),
    "linear": (Linear(start=1.0, end=0.3), 0.3),
    "linear in stairs": (Linear(start=1.0, end=0.3, every=0.1), 0.3),
    "cosine": (Cosine(start=1.0, end=0.3), 0.3),
    "polynomial": (Polynomial(start=1.0, end=0.3, power=2.0), 0.3),
    "exponential": (Exponential(start=1.0, end=0.3), 0.3),
    "competence": (Competence(), 1.0),
    "warmup_cosine": (WarmupCosine(peak=1.0, minimum=0.3), 0.3),
    "warmup_stable_decay": (WarmupStableDecay(peak=1.0, minimum=0.3), 0.3),
    "one_cycle": (OneCycle(peak=1.0), 1 / 25 / 1e4),
    "piecewise": (Piecewise(values=(1.0, 2.0, 0.3), boundaries=(0.5, 0.9)), 0.3),
    "piecewise in lines": (
        Piecewise(values=(1.0, 2.0, 0.3), boundaries=(0.5, 0.9), interpolate="linear"),
        0.3,
    ),
    "cosine_warm_restarts with an end": (
        CosineWarmRestarts(start=1.0, period=1e-9, cycles=1, minimum=0.3),
        0.3,
    ),
    "joined": (
        Joined(
            schedulers=(Linear(start=0.0, end=1.0), Cosine(start=1.0, end=0.3)), boundaries=(0.2,)
        ),
        0.3,
    ),
    "curriculum": (STAGES, 0.3),
    "stage_value": (STAGES.value("temperature"), 0.3),
}  # fmt: skip
ENDLESS: dict[str, Scheduler] = {
    "step": Step(start=1.0, every=3),
    "exponential by decay": Exponential(start=1.0, decay=0.9),
    "inverse_sqrt": InverseSqrt(peak=1.0),
    "cosine_warm_restarts": CosineWarmRestarts(start=1.0, period=4, multiplier=2),
    "joined without an end": Joined(
        schedulers=(Linear(start=0.0, end=1.0), Step(start=1.0, every=5)), boundaries=(9,)
    ),
}
JOINED = Joined(
    schedulers=(Linear(start=0.0, end=1.0), Linear(start=1.0, end=0.3)), boundaries=(5,)
)
ALL = {
    **{name: schedule for name, (schedule, _) in ENDING.items()},
    **ENDLESS,
    "joined by steps": JOINED,
}


@pytest.mark.parametrize("name", ALL)
def test_each_keeps_what_every_scheduler_promises(name: str) -> None:
    found = check_scheduler(ALL[name])
    assert all(found), report([c for c in found if not c])


@pytest.mark.parametrize("name", ALL)
def test_those_without_an_end_say_so(name: str) -> None:
    assert ALL[name].endless is (name in ENDLESS)


def test_these_are_all_schedulers() -> None:
    """A new scheduler has to keep the promises of this file as well."""
    tested = {type(schedule).__name__ for schedule in ALL.values()}
    ours = [entry for entry in registry.registry().entries("schedulers") if entry.plugin.built_in]
    assert {entry.load().__name__ for entry in ours} == tested


def value(schedule: Scheduler, step: int, steps: int | None) -> float:
    found = schedule(Progress(step=step, steps=steps, samples=10 * step))
    return float(found.temperature if isinstance(schedule, Curriculum) else found)


@pytest.mark.parametrize("name", ENDING)
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 7, 100])
def test_the_end_is_exact_and_holds(name: str, steps: int) -> None:
    schedule, end = ENDING[name]
    past = [steps, steps + 1, 3 * steps + 2, 10**6, 10**15]
    if isinstance(schedule, Curriculum | CosineWarmRestarts | StageValue):
        past = past[-2:]  # these have lengths of their own
    assert {value(schedule, t, steps) for t in past} == {end}


@pytest.mark.parametrize("name", ALL)
@given(step=st.integers(0, 2**60), steps=st.integers(0, 2**60))
def test_never_leaves_its_range(name: str, step: int, steps: int) -> None:
    assert 0.0 <= value(ALL[name], step, steps) <= 2.0


@given(start=st.floats(-5, 5), end=st.floats(-5, 5), steps=st.integers(1, 300), x=st.floats(0.1, 4))
def test_both_ends_are_exact(start: float, end: float, steps: int, x: float) -> None:
    for schedule in (
        Linear(start=start, end=end),
        Linear(start=start, end=end, every=0.2),
        Cosine(start=start, end=end),
        Polynomial(start=start, end=end, power=x),
        CosineWarmRestarts(start=start, period=steps, cycles=1, minimum=end),
        Piecewise(values=(start, end), boundaries=(steps,), interpolate="cosine"),
        WarmupStableDecay(peak=start, warmup_steps=0, minimum=end),
    ):
        assert (schedule.at(0, steps), schedule.at(steps, steps)) == (start, end)


@given(start=st.floats(1e-3, 5), end=st.floats(1e-3, 5), steps=st.integers(1, 60))
def test_annealing_never_turns_back(start: float, end: float, steps: int) -> None:
    sign = 1 if end >= start else -1
    for schedule in (
        Linear(start=start, end=end),
        Linear(start=start, end=end, every=0.1),
        Cosine(start=start, end=end),
        Exponential(start=start, end=end),
        Polynomial(start=start, end=end, power=3.0),
    ):
        found = [schedule.at(t, steps) for t in range(steps + 3)]
        assert all(sign * (b - a) >= -1e-12 for a, b in itertools.pairwise(found))
        assert all(min(start, end) - 1e-12 <= v <= max(start, end) + 1e-12 for v in found)


@given(
    warmup=st.integers(0, 40), more=st.integers(1, 60), form=st.sampled_from(["nonzero", "zero"])
)
def test_the_peak_is_exact_at_the_end_of_the_warmup(warmup: int, more: int, form: str) -> None:
    steps, peak = warmup + more, 0.1 + 0.2
    cosine = WarmupCosine(peak=peak, warmup_steps=warmup, warmup_start=form)
    stable = WarmupStableDecay(peak=peak, warmup_steps=warmup, decay_steps=more, warmup_start=form)
    root = InverseSqrt(peak=peak, warmup_steps=warmup, warmup_start=form)
    cycle = OneCycle(peak=peak, warmup_steps=warmup)
    share = OneCycle(peak=peak, warmup_steps=warmup / steps)
    for schedule in (cosine, stable, root, cycle, share):
        found = [schedule.at(t, steps) for t in range(steps)]
        assert found[warmup] == max(found) == peak
    first = peak / warmup if warmup and form == "nonzero" else 0.0 if warmup else peak
    assert cosine.at(0, steps) == stable.at(0, steps) == root.at(0) == pytest.approx(first)


def test_a_number_of_steps_of_its_own_needs_no_run() -> None:
    for schedule in (
        Linear(start=1.0, end=0.0, steps=4),
        Cosine(start=1.0, steps=4),
        Polynomial(start=1.0, steps=4),
        Exponential(start=1.0, end=0.1, steps=4),
        Exponential(start=1.0, decay=0.5, every=4),
        Step(start=1.0, every=4),
        OneCycle(peak=1.0, steps=4),
        WarmupCosine(peak=1.0, steps=4),
        WarmupStableDecay(peak=1.0, steps=4),
        Competence(steps=4),
    ):
        assert schedule.at(2) == schedule.at(2, 1000)
        assert math.isfinite(schedule.at(10**6))


@pytest.mark.parametrize(
    "schedule",
    [
        Linear(start=1.0, end=0.0),
        Linear(start=1.0, end=0.0, steps=0.5),
        Cosine(start=1.0),
        Exponential(start=1.0, end=0.1),
        Exponential(start=1.0, decay=0.5, every=0.5),
        OneCycle(peak=1.0),
        InverseSqrt(peak=1.0),
        CosineWarmRestarts(start=1.0, period=0.5),
        Piecewise(values=(1.0, 2.0), boundaries=(0.5,)),
        Joined(schedulers=(Constant(value=1.0), Constant(value=2.0)), boundaries=(0.5,)),
    ],
)
def test_a_share_of_an_open_ended_run_is_an_error(schedule: Scheduler) -> None:
    name = type(schedule).__name__
    with pytest.raises(ArgumentError, match=f"{name} needs the number of steps of the run"):
        schedule.at(0)


def test_shares_of_the_run() -> None:
    assert [Linear(start=1.0, end=0.0, steps=0.5).at(t, 8) for t in range(6)] == [
        1.0, 0.75, 0.5, 0.25, 0.0, 0.0,
    ]  # fmt: skip
    assert [Step(start=1.0, every=0.25, decay=0.5).at(t, 8) for t in range(5)] == [
        1.0, 1.0, 0.5, 0.5, 0.25,
    ]  # fmt: skip
    assert Exponential(start=1.0, decay=0.25, every=0.5).at(2, 8) == 0.5
    assert CosineWarmRestarts(start=1.0, period=0.5).at(4, 8) == 1.0
    assert [Step(start=1.0, every=0.1, decay=0.5).at(t, 3) for t in range(3)] == [1.0, 0.5, 0.25]


def test_shares_round_half_up() -> None:
    """0.29 of 50 is 14.5, though not in floating point."""
    for part, steps, want in ((0.29, 50, 15), (0.285, 100, 29), (0.1, 25, 3), (0.1, 24, 2)):
        line = Linear(start=1.0, end=0.0, steps=part)
        assert (line.at(want - 1, steps) > 0, line.at(want, steps)) == (True, 0)


# What is refused ------------------------------------------------------------------------------

WRONG: list[tuple[type[Scheduler], dict[str, Any], str]] = [
    (Constant, {"value": Constant(value=1.0)}, r"Constant.value must be a number.*use 'joined'"),
    (Linear, {"start": 1.0, "end": True}, r"Linear.end must be a number, got True"),
    (
        Linear,
        {"start": 1.0, "end": 0.0, "steps": 2.5},
        r"Linear.steps must be a whole number of steps, or a share of the run below 1, got 2.5",
    ),
    (
        Linear,
        {"start": 1.0, "end": 0.1, "steps": 10, "every": 20},
        r"Linear.every must be at most steps, got 20 of 10: not one stair would fit",
    ),
    (Linear, {"start": 1.0, "end": 0.1, "every": 0}, r"Linear.every must be above 0"),
    (Polynomial, {"start": 1.0, "power": 0}, r"Polynomial.power must be above 0, got 0"),
    (Competence, {"start": 0.5, "end": 0.5}, r"Competence.end must be above 0.5, got 0.5"),
    (Competence, {"power": 0.5}, r"Competence.power must be at least 1"),
    (Exponential, {"start": 0.0, "end": 0.1}, r"Exponential.start must be above 0"),
    (Exponential, {"start": 1.0, "end": 0.0}, r"Exponential.end must be above 0, got 0.0"),
    (Exponential, {"start": 1.0}, r"Exponential.end is missing: give end, or decay"),
    (Exponential, {"start": 1.0, "end": 0.1, "every": 5}, r"Exponential.every goes with decay"),
    (Exponential, {"start": 1.0, "decay": 0.9, "steps": 5}, r"Exponential.steps goes without"),
    (Exponential, {"start": 1.0, "decay": 1.1}, r"a decay of 1.1 grows without bound"),
    (
        Exponential,
        {"start": 1.0, "decay": 0.9, "end": 2.0},
        r"Exponential.end must be on the way, got 2.0: a decay of 0.9 leads away from it",
    ),
    (
        Exponential,
        {"start": 1.0, "decay": 1.1, "end": 0.5},
        r"Exponential.end must be on the way, got 0.5",
    ),
    (Step, {"start": 1.0, "every": 0}, r"Step.every must be above 0, got 0"),
    (Step, {"start": 1.0, "every": 5, "decay": 1.5}, r"Step.decay must be above 0 and at most 1"),
    (Step, {"start": 1.0, "every": 5, "minimum": 2.0}, r"Step.minimum must be .* at most 1"),
    (CosineWarmRestarts, {"start": 1.0, "period": 0}, r"CosineWarmRestarts.period must be above 0"),
    (
        CosineWarmRestarts,
        {"start": 1.0, "period": 5, "multiplier": 0.5},
        r"CosineWarmRestarts.multiplier must be at least 1, got 0.5",
    ),
    (
        CosineWarmRestarts,
        {"start": 1.0, "period": 5, "multiplier": 1.001},
        r"CosineWarmRestarts.multiplier must be 1 or at least 1.01, got 1.001",
    ),
    (CosineWarmRestarts, {"start": 1.0, "period": 5, "height": 0.0}, r"height must be above 0"),
    (CosineWarmRestarts, {"start": 1.0, "period": 5, "cycles": 1.5}, r"cycles must be an integer"),
    (WarmupCosine, {"peak": 1.0, "warmup_steps": None}, r"warmup_steps must be a number, got None"),
    (WarmupCosine, {"peak": 1.0, "warmup_start": "none"}, r"must be one of 'nonzero', 'zero'"),
    (WarmupStableDecay, {"peak": 1.0, "decay": "cosin"}, r"Did you mean 'cosine'\?"),
    (InverseSqrt, {"peak": 1.0, "timescale": 0}, r"InverseSqrt.timescale must be above 0"),
    (OneCycle, {"peak": 1.0, "div_factor": 0}, r"OneCycle.div_factor must be above 0"),
    (OneCycle, {"peak": 1.0, "anneal": "sqrt"}, r"OneCycle.anneal must be one of"),
    (Piecewise, {"values": []}, r"Piecewise.values must be a tuple of numbers, got \[\]"),
    (Piecewise, {"values": (1.0, "x"), "boundaries": (1,)}, r"must hold numbers, got 'x'"),
    (Piecewise, {"values": (1.0, math.inf), "boundaries": (1,)}, r"must be finite, got inf"),
    (Piecewise, {"values": (1.0, 2.0)}, r"one border less than there are pieces, got 0 for 2"),
    (Piecewise, {"values": (1.0, 2.0), "boundaries": [3]}, r"boundaries must be a tuple of steps"),
    (Piecewise, {"values": (1.0, 2.0), "boundaries": ("3",)}, r"must hold numbers, got '3'"),
    (Piecewise, {"values": (1.0, 2.0), "boundaries": (0,)}, r"finite numbers above 0, got 0"),
    (Piecewise, {"values": (1.0, 2.0), "boundaries": (2.5,)}, r"or shares of the run below 1"),
    (
        Piecewise,
        {"values": (1.0, 2.0, 3.0), "boundaries": (0.5, 7)},
        r"Piecewise.boundaries must be all steps or all shares of the run below 1",
    ),
    (
        Piecewise,
        {"values": (1.0, 2.0, 3.0), "boundaries": (7, 7)},
        r"Piecewise.boundaries must increase, got \(7, 7\)",
    ),
    (Joined, {"schedulers": ()}, r"Joined.schedulers must hold at least one scheduler, got none"),
    (Joined, {"schedulers": [Constant(value=1.0)]}, r"must be a tuple of schedulers"),
    (Joined, {"schedulers": (0.1,)}, r"a fixed number is Constant\(value=...\)"),
    (Joined, {"schedulers": (Constant(value=1.0),), "boundaries": (3,)}, r"got 1 for 1"),
]


@pytest.mark.parametrize(("kind", "fields", "text"), WRONG)
def test_mistakes_are_found_when_it_is_made(
    kind: type[Scheduler], fields: dict[str, Any], text: str
) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=text):
        kind(**fields)


def test_a_joined_schedule_is_refused_at_the_first_step_of_an_open_ended_run() -> None:
    """Not when its last piece begins, in the middle of the run."""
    with pytest.raises(ArgumentError, match="Linear needs the number of steps of the run"):
        JOINED.at(0)
    assert JOINED.at(0, 10) == 0.0


# In a component -------------------------------------------------------------------------------


def test_a_joined_schedule_in_a_component_and_on_its_own() -> None:
    schedule = Joined(schedulers=(Constant(value=1.0), Linear(start=1.0, end=0.1)), boundaries=(2,))
    assert resolve(schedule, Progress(step=3, steps=4)) is schedule
    loss = InfoNCE(temperature=schedule)
    assert resolve(loss, Progress(step=3, steps=4)) == InfoNCE(temperature=0.55)


def test_progress_moves_on() -> None:
    start = Progress(steps=9, epoch=2, history=(0.5,))
    assert start.after() == Progress(step=1, steps=9, epoch=2, history=(0.5,))
    assert start.after(samples=32).after(samples=7).samples == 39
    assert start == Progress(steps=9, epoch=2, history=(0.5,))
