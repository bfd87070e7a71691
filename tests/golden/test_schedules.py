"""Learning rates and temperatures of the two seeds, through the schedulers that reach them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from goldens import Case, case, fault, golden

from coreframe.errors import ArgumentError
from coreframe.scheduler import Scheduler
from coreframe_optimizers.sgd import SGD
from coreframe_schedulers.constant import Constant
from coreframe_schedulers.cosine import Cosine
from coreframe_schedulers.cosine_warm_restarts import CosineWarmRestarts
from coreframe_schedulers.exponential import Exponential
from coreframe_schedulers.joined import Joined
from coreframe_schedulers.linear import Linear
from coreframe_schedulers.one_cycle import OneCycle
from coreframe_schedulers.step import Step
from coreframe_schedulers.warmup_cosine import WarmupCosine

# The JavaScript seed's seven schedules ----------------------------------------------------------


def one_cycle(base: float, params: dict[str, Any]) -> Scheduler:
    """Two lines that meet in the middle, from the base rate: what the seed computes."""
    peak = params.get("maxLR", 10 * base)
    return OneCycle(
        peak=peak,
        div_factor=peak / base,
        final_div_factor=params.get("finalDiv", 1e4),
        warmup_steps=0.5,
        anneal="linear",
    )


SCHEDULES: dict[str, Callable[[float, dict[str, Any]], Scheduler]] = {
    "constant": lambda base, p: Constant(value=base),
    "linear": lambda base, p: Linear(start=base, end=0.0),
    "cosine": lambda base, p: Cosine(start=base),
    "cosineWarmRestarts": lambda base, p: CosineWarmRestarts(
        start=base, period=p.get("restartPeriod", 100)
    ),
    "exponential": lambda base, p: Step(
        start=base, decay=p.get("gamma", 0.95), every=p.get("stepSize", 100)
    ),
    "warmupCosine": lambda base, p: WarmupCosine(
        peak=base, warmup_steps=p.get("warmupSteps", 100), warmup_start="zero"
    ),
    "oneCycle": one_cycle,
}
ENDLESS = ("constant", "cosineWarmRestarts", "exponential")


@golden(
    "js",
    "lr/",
    without=(
        "lr/cosineWarmRestarts_total1000_restartPeriod:50,restartMultiplier:3",
        "lr/warmupCosine_total100_warmupSteps:100",
        "lr/total_zero",
    ),
)
def test_js_schedules(case: Case) -> None:
    kind = case.name.partition("/")[2].partition("_")[0]
    base, total = case.inputs["baseLR"], case.inputs["totalSteps"]
    schedule = SCHEDULES[kind](base, case.params)
    for step, want in zip(case.inputs["steps"], case.output, strict=True):
        if step <= total or kind in ENDLESS:
            assert schedule.at(step, total) == pytest.approx(want, abs=1e-12, rel=0)
        else:  # the seed's go below 0 or rise again here
            assert schedule.at(step, total) == schedule.at(total, total)


@golden(
    "js", "microlora/lr_constant", "microlora/lr_linear", "microlora/lr_cosine",
    "microlora/lr_exponential",
)  # fmt: skip
def test_js_schedules_of_the_adapter(case: Case) -> None:
    rate, warmup, total = (
        case.params["lr"], case.params["warmupSteps"], case.inputs["totalSteps"],
    )  # fmt: skip
    after: dict[str, Scheduler] = {
        "constant": Constant(value=rate),
        "linear": Linear(start=rate, end=0.0),
        "cosine": Cosine(start=rate),
        "exponential": Exponential(start=rate, decay=0.9, every=total),
    }
    schedule = Joined(
        schedulers=(Linear(start=0.0, end=rate), after[case.params["scheduler"]]),
        boundaries=(warmup,),
    )
    for step, want in zip(case.inputs["steps"], case.output, strict=True):
        assert schedule.at(step, total) == pytest.approx(want, abs=1e-12, rel=0)


@fault(24, "js:lr/cosineWarmRestarts_total1000_restartPeriod:50,restartMultiplier:3")
def test_the_multiplier_of_restarts_counts() -> None:
    ignored = case("js:lr/cosineWarmRestarts_total1000_restartPeriod:50,restartMultiplier:3")
    equal = case("js:lr/cosineWarmRestarts_total1000_restartPeriod:50,restartMultiplier:1")
    assert ignored.output == equal.output  # the fault, as recorded
    ours = CosineWarmRestarts(start=0.001, period=50, multiplier=3)
    assert [t for t in range(2000) if ours.at(t) == 0.001] == [0, 50, 200, 650]
    doubling = CosineWarmRestarts(start=1.0, period=100, multiplier=2)
    assert [t for t in range(1000) if doubling.at(t) == 1.0] == [0, 100, 300, 700]


@fault(25, "js:lr/oneCycle_total1000_maxLR:0.01,divFactor:1000,finalDiv:100")
def test_one_cycle_starts_at_the_peak_by_its_divisor() -> None:
    ignored = case("js:lr/oneCycle_total1000_maxLR:0.01,divFactor:1000,finalDiv:100")
    base, peak = ignored.inputs["baseLR"], ignored.params["maxLR"]
    assert ignored.output[0] == base  # the fault: neither peak / div_factor nor a warning
    ours = OneCycle(peak=peak, div_factor=1000, final_div_factor=100)
    assert ours.at(0, 1000) == peak / 1000
    assert ours.at(300, 1000) == peak == max(ours.at(t, 1000) for t in range(1001))
    assert ours.at(1000, 1000) == peak / 1000 / 100
    assert ours.at(150, 1000) == pytest.approx((peak / 1000 + peak) / 2)


@pytest.mark.parametrize("kind", ["linear", "cosine", "warmupCosine", "oneCycle"])
@fault(26)
def test_past_the_end_a_schedule_holds_its_last_value(kind: str) -> None:
    recorded = case(f"js:lr/{kind}_total1000")
    assert recorded.output[-1] not in (recorded.output[-4], 0.0)  # step 1500 and step 1000
    schedule = SCHEDULES[kind](0.001, {})
    last = schedule.at(1000, 1000)
    assert last >= 0.0
    assert {schedule.at(t, 1000) for t in (1001, 1100, 1500, 10**9)} == {last}


@fault(27, "js:lr/warmupCosine_total100_warmupSteps:100", "js:lr/total_zero")
def test_a_warmup_as_long_as_the_run_and_a_run_of_no_steps() -> None:
    recorded = case("js:lr/warmupCosine_total100_warmupSteps:100")
    schedule = SCHEDULES["warmupCosine"](0.001, recorded.params)
    for step, want in zip(recorded.inputs["steps"], recorded.output, strict=True):
        found = schedule.at(step, 100)
        assert found == pytest.approx(0.0 if math.isnan(want) else want, abs=1e-12)
    ends = {"constant": 0.001, "cosineWarmRestarts": 0.001, "exponential": 0.001}
    for kind in case("js:lr/total_zero").output:
        found = SCHEDULES[kind](0.001, {}).at(0, 0)
        assert found == pytest.approx(1e-7 if kind == "oneCycle" else ends.get(kind, 0.0))


@fault(28, "js:microlora/readme_example_becomes_nan")
def test_two_examples_and_ten_epochs_stay_finite() -> None:
    recorded = case("js:microlora/readme_example_becomes_nan")
    assert math.isnan(recorded.output["lr_at_step10_of_10"])
    rate, total = recorded.params["lr"], recorded.output["totalSteps"]
    schedules = (
        Joined(
            schedulers=(Linear(start=0.0, end=rate), Cosine(start=rate)),
            boundaries=(recorded.params["warmupSteps"],),
        ),
        WarmupCosine(
            peak=rate, warmup_steps=recorded.params["warmupSteps"], warmup_start="zero"
        ),
    )  # fmt: skip
    for schedule in schedules:
        assert [schedule.at(t, total) for t in range(total)] == pytest.approx(
            [rate * t / 10 for t in range(total)]
        )
        assert schedule.at(total, total) == 0.0
    params = {"W": np.ones(3)}
    optimizer = SGD(learning_rate=1.0)
    state = optimizer.init(params)
    for t in range(total + 5):
        now = SGD(learning_rate=schedules[0].at(t, total))
        params, state = now.update(params, {"W": np.ones(3)}, state)
    assert np.all(np.isfinite(params["W"]))
    assert np.all(params["W"] < 1)


@fault(29)
def test_a_warmup_may_start_above_zero_or_at_it() -> None:
    assert case("js:lr/warmupCosine_total1000").output[0] == 0
    assert WarmupCosine(peak=0.001, warmup_steps=100).at(0, 1000) == pytest.approx(1e-5)
    assert WarmupCosine(peak=0.001, warmup_steps=100, warmup_start="zero").at(0, 1000) == 0.0


# The Rust seed's scheduler ----------------------------------------------------------------------


@golden("rust", "lr_scheduler/")
def test_rust_scheduler(case: Case) -> None:
    """Its decay is counted after the warm-up; ours ends at ``steps``, warm-up included."""
    p = case.params
    schedule = WarmupCosine(
        peak=p.get("initial_lr", 0.001),
        warmup_steps=p["warmup"],
        minimum=p["min_lr"],
        steps=p["warmup"] + p["decay_steps"],
    )
    found = [schedule.at(step) for step in case.inputs["steps"]]
    assert found == pytest.approx(case.output["lr"], abs=1e-9, rel=0)
    assert [schedule.at(step) for step in case.inputs["steps"]] == found  # nothing to reset


def test_rust_expectations_on_warmup_and_decay() -> None:
    warm = WarmupCosine(peak=0.001, warmup_steps=100, steps=100_100, minimum=1e-7)
    assert warm.at(0) == pytest.approx(1e-5)
    assert warm.at(100) == pytest.approx(0.001, abs=1e-5)
    decay = WarmupCosine(peak=0.001, warmup_steps=0, steps=100, minimum=1e-4)
    assert decay.at(0) == pytest.approx(0.001, abs=1e-5)
    assert decay.at(101) == pytest.approx(1e-4, abs=1e-5)


# Temperatures -----------------------------------------------------------------------------------


def annealing(kind: str, initial: float, final: float) -> Scheduler:
    if kind == "Exponential":
        return Exponential(start=initial, end=final)
    if kind == "Cosine":
        return Cosine(start=initial, end=final)
    return Linear(start=initial, end=final, every=0.1 if kind == "Step" else None)


@golden(
    "rust",
    "temperature/",
    without=(
        "temperature/step_size_larger_than_total",
        "temperature/exponential_to_zero",
        "temperature/zero_steps",
    ),
)
def test_temperatures(case: Case) -> None:
    p = case.params
    if "step_size" in p:
        schedule: Scheduler = Linear(start=p["initial"], end=p["final"], every=p["step_size"])
    else:
        schedule = annealing(p["decay"], p["initial"], p["final"])
    found = [schedule.at(t, p["total_steps"]) for t in case.inputs["steps"]]
    assert found == pytest.approx(case.output["temperature"], abs=1e-6, rel=0)
    assert found == sorted(found, reverse=True)


@golden("rust", "temperature/zero_steps")
def test_temperature_of_a_run_without_steps(case: Case) -> None:
    p = case.params
    for kind in ("Linear", "Exponential", "Cosine", "Step"):
        found = annealing(kind, p["initial"], p["final"]).at(0, p["total_steps"])
        assert found == case.output["temperature"]


@fault(42, "rust:temperature/step_size_larger_than_total")
def test_a_stair_longer_than_the_schedule_is_refused() -> None:
    p = case("rust:temperature/step_size_larger_than_total").params
    with pytest.raises(ArgumentError, match=r"Linear.every must be at most steps, got 20 of 10"):
        Linear(start=p["initial"], end=p["final"], steps=p["total_steps"], every=p["step_size"])
    # Where only the run says how long it is, the first value holds, not the last.
    schedule = Linear(start=p["initial"], end=p["final"], every=p["step_size"])
    assert [schedule.at(t, p["total_steps"]) for t in (0, 5, 9, 10)] == [1, 1, 1, p["final"]]


@fault(43, "rust:temperature/exponential_to_zero")
def test_an_exponential_to_zero_is_refused() -> None:
    p = case("rust:temperature/exponential_to_zero").params
    with pytest.raises(ArgumentError, match=r"Exponential.end must be above 0, got 0"):
        Exponential(start=p["initial"], end=p["final"])


def test_rust_expectations_on_temperatures() -> None:
    line = Linear(start=1.0, end=0.1)
    assert (line.at(0, 100), line.at(100, 100)) == (1.0, 0.1)
    assert Cosine(start=1.0).at(50, 100) == pytest.approx(0.5)
    stairs = Linear(start=1.0, end=0.0, every=25)
    assert stairs.at(25, 100) == 0.75 < stairs.at(24, 100)
    short = Linear(start=1.0, end=0.1)
    assert (short.at(0, 10), short.at(5, 10)) == (1.0, pytest.approx(0.55))
    falling = [Cosine(start=1.0).at(t, 100) for t in range(120)]
    assert falling == sorted(falling, reverse=True)
