"""Schedulers against other libraries: against torch where it is installed, and against values
that optax, transformers, Keras, timm and lightly gave, at the options that match.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from coreframe.scheduler import Scheduler
from coreframe_schedulers.competence import Competence
from coreframe_schedulers.constant import Constant
from coreframe_schedulers.cosine import Cosine
from coreframe_schedulers.cosine_warm_restarts import CosineWarmRestarts
from coreframe_schedulers.exponential import Exponential
from coreframe_schedulers.inverse_sqrt import InverseSqrt
from coreframe_schedulers.joined import Joined
from coreframe_schedulers.linear import Linear
from coreframe_schedulers.one_cycle import OneCycle
from coreframe_schedulers.piecewise import Piecewise
from coreframe_schedulers.polynomial import Polynomial
from coreframe_schedulers.step import Step
from coreframe_schedulers.warmup_cosine import WarmupCosine
from coreframe_schedulers.warmup_stable_decay import WarmupStableDecay


def values(schedule: Scheduler, count: int, steps: int | None = None) -> list[float]:
    return [schedule.at(t, steps) for t in range(count)]


def near(got: Sequence[float], want: Sequence[float], tolerance: float = 6e-7) -> None:
    """Compare with values that are written with six digits after the point."""
    assert got == pytest.approx(list(want), abs=tolerance, rel=0)


# Recorded values of other libraries -----------------------------------------------------------


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split()]


RECORDED: dict[str, tuple[Scheduler, int | None, str]] = {
    "optax and Keras warm-up and cosine": (
        WarmupCosine(peak=1.0, warmup_steps=2, warmup_start="zero"),
        10,
        "0 .5 1 .961940 .853553 .691342 .5 .308658 .146447 .038060 0 0 0",
    ),
    "transformers cosine, to its end": (
        WarmupCosine(peak=1.0, warmup_steps=2, warmup_start="zero"),
        10,
        "0 .5 1 .961940 .853553 .691342 .5 .308658 .146447 .038060 0",
    ),
    "the same, joined": (
        Joined(schedulers=(Linear(start=0.0, end=1.0), Cosine(start=1.0)), boundaries=(2,)),
        10,
        "0 .5 1 .961940 .853553 .691342 .5 .308658 .146447 .038060 0 0 0",
    ),
    "torch and Keras restarts": (
        CosineWarmRestarts(start=1.0, period=3, multiplier=2),
        None,
        "1 .75 .25 1 .933013 .75 .5 .25 .066987 1 .982963 .933013",
    ),
    "Keras restarts that get lower": (
        CosineWarmRestarts(start=1.0, period=3, multiplier=2, height=0.5, minimum=0.1),
        None,
        "1 .775 .325 .55 .519856 .4375 .325 .2125 .130144 .325",
    ),
    "timm cosine with cycles": (
        CosineWarmRestarts(start=1.0, period=3, multiplier=2, height=0.5, cycles=3),
        None,
        "1 .75 .25 .5 .466506 .375 .25 .125 .033494 .25 .245741",
    ),
    "torch one-cycle": (
        OneCycle(peak=1.0, steps=9, warmup_steps=2),
        None,
        ".04 .52 1 .950485 .811746 .611262 .388742 .188258 .049519 4e-6 4e-6",
    ),
    "optax one-cycle": (
        OneCycle(peak=1.0),
        10,
        ".04 .28 .76 1 .950485 .811746 .611262 .388742 .188258 .049519 4e-6 4e-6",
    ),
    "transformers cosine_with_min_lr": (
        WarmupCosine(peak=1.0, warmup_steps=2, warmup_start="zero", minimum=0.1),
        10,
        "0 .5 1 .965746 .868198 .722208 .55 .377792 .231802 .134254 .1",
    ),
    "transformers cosine_warmup_with_min_lr": (
        WarmupCosine(
            peak=1.0, start=0.5, warmup_steps=1, steps=9, warmup_start="zero", minimum=0.1
        ),
        10,
        ".5 1 .965746 .868198 .722208 .55 .377792 .231802 .134254 .1",
    ),
    "transformers warmup_stable_decay": (
        WarmupStableDecay(
            peak=1.0, start=0.1, minimum=0.1, warmup_steps=2, decay_steps=4,
            warmup_start="zero", decay="cosine",
        ),
        10,
        ".1 .55 1 1 1 1 1 .868198 .55 .231802 .1 .1",
    ),
    "transformers inverse_sqrt": (
        InverseSqrt(peak=1.0, warmup_steps=4, warmup_start="zero"),
        None,
        "0 .25 .5 .75 1 .894427 .816497 .755929",
    ),
    "torch and optax piecewise": (
        Piecewise(values=(1.0, 0.1), boundaries=(3,)), None, "1 1 1 .1 .1",
    ),
    "Keras piecewise, one step later": (
        Piecewise(values=(1.0, 0.1), boundaries=(3 + 1,)), None, "1 1 1 1 .1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_values(name: str) -> None:
    schedule, steps, text = RECORDED[name]
    want = numbers(text)
    near(values(schedule, len(want), steps), want)


def test_lightly_divides_by_one_less() -> None:
    assert Cosine(start=1.0, steps=10 - 1).at(1) == pytest.approx(0.96984631, abs=1e-8)
    assert Cosine(start=1.0, steps=10 - 1).at(2) == pytest.approx(0.88302222, abs=1e-8)
    assert Cosine(start=1.0, steps=10 - 1).at(10) == 0.0


# torch ----------------------------------------------------------------------------------------


def by_torch(name: str, count: int, lr: float = 1.0, **options: Any) -> list[float]:
    """Return the learning rates that a scheduler of torch sets, by its own recursion."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    schedule = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


TORCH: dict[str, tuple[str, dict[str, Any], int, Scheduler]] = {
    "linear": (
        "LinearLR",
        {"start_factor": 0.3, "end_factor": 0.9, "total_iters": 7},
        12,
        Linear(start=0.3, end=0.9, steps=7),
    ),
    "cosine": (
        "CosineAnnealingLR",
        {"T_max": 9, "eta_min": 0.1},
        10,
        Cosine(start=1.0, end=0.1, steps=9),
    ),
    "restarts": (
        "CosineAnnealingWarmRestarts",
        {"T_0": 4, "T_mult": 3, "eta_min": 0.01},
        60,
        CosineWarmRestarts(start=1.0, period=4, multiplier=3, minimum=0.01),
    ),
    "exponential": ("ExponentialLR", {"gamma": 0.93}, 40, Exponential(start=1.0, decay=0.93)),
    "step": (
        "StepLR",
        {"step_size": 5, "gamma": 0.3},
        40,
        Step(start=1.0, every=5, decay=0.3),
    ),
    "multistep": (
        "MultiStepLR",
        {"milestones": [3, 8], "gamma": 0.5},
        12,
        Piecewise(values=(1.0, 0.5, 0.25), boundaries=(3, 8)),
    ),
    "polynomial": (
        "PolynomialLR",
        {"total_iters": 8, "power": 2.5},
        12,
        Polynomial(start=1.0, power=2.5, steps=8),
    ),
    "one_cycle": (
        "OneCycleLR",
        {"max_lr": 2.0, "total_steps": 25, "pct_start": 0.3},
        25,
        OneCycle(peak=2.0, steps=24, warmup_steps=(0.3 * 25 - 1) / 24),
    ),
    "one_cycle in lines": (
        "OneCycleLR",
        {
            "max_lr": 2.0, "total_steps": 20, "pct_start": 0.25, "anneal_strategy": "linear",
            "div_factor": 10.0, "final_div_factor": 100.0,
        },
        20,
        OneCycle(
            peak=2.0, steps=19, warmup_steps=4, anneal="linear",
            div_factor=10.0, final_div_factor=100.0,
        ),
    ),
    "one_cycle in three phases": (
        "OneCycleLR",
        {
            "max_lr": 2.0, "total_steps": 20, "pct_start": 0.3, "anneal_strategy": "linear",
            "three_phase": True, "div_factor": 10.0, "final_div_factor": 100.0,
        },
        20,
        Piecewise(
            values=(0.2, 2.0, 0.2, 0.002), boundaries=(5, 10, 19), interpolate="linear"
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TORCH)
def test_equals_torch(name: str) -> None:
    theirs, options, count, ours = TORCH[name]
    assert values(ours, count) == pytest.approx(by_torch(theirs, count, **options), rel=1e-9)


def test_joined_equals_torch_sequential() -> None:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    lr = torch.optim.lr_scheduler
    pieces = [
        lr.LinearLR(optimizer, 0.25, 1.0, total_iters=4),
        lr.ExponentialLR(optimizer, 0.9),
    ]
    schedule = lr.SequentialLR(optimizer, pieces, milestones=[4])
    found = []
    for _ in range(12):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    ours = Joined(
        schedulers=(Linear(start=0.25, end=1.0), Exponential(start=1.0, decay=0.9)),
        boundaries=(4,),
    )
    assert values(ours, 12) == pytest.approx(found, rel=1e-9)


# Formulas of libraries that are not installed -------------------------------------------------


def test_transformers_constant_with_warmup() -> None:
    schedule = WarmupStableDecay(peak=1.0, warmup_steps=2, decay_steps=0, warmup_start="zero")
    assert values(schedule, 6, 100) == [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]
    without = WarmupStableDecay(peak=1.0, warmup_steps=0, decay_steps=0)
    assert values(without, 3, 100) == [1.0, 1.0, 1.0]  # optax's stays at 0 for ever


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_transformers_polynomial_and_linear(power: float) -> None:
    b, m, w, total = 1.0, 1e-7, 3, 11
    ours = Joined(
        schedulers=(Linear(start=0.0, end=b), Polynomial(start=b, end=m, power=power)),
        boundaries=(w,),
    )
    for t in range(total + 4):
        left = 1 - (t - w) / (total - w)
        want = b * t / w if t < w else (b - m) * max(left, 0.0) ** power + m
        assert ours.at(t, total) == pytest.approx(want, rel=1e-12)


def test_transformers_cosine_with_restarts() -> None:
    ours, total, cycles = CosineWarmRestarts(start=1.0, period=1 / 3, cycles=3), 12, 3
    for t in range(total + 5):
        x = t / total
        want = 0.0 if x >= 1 else 0.5 * (1 + math.cos(math.pi * ((cycles * x) % 1.0)))
        assert ours.at(t, total) == pytest.approx(want, abs=1e-12)


def test_optax_exponential_decay_with_a_floor_or_a_ceiling() -> None:
    falling = Exponential(start=1.0, decay=0.5, every=10, end=0.2)
    rising = Exponential(start=1.0, decay=3.0, every=4, end=20.0)
    for t in range(60):
        assert falling.at(t) == pytest.approx(max(0.5 ** (t / 10), 0.2), rel=1e-13)
        assert rising.at(t) == pytest.approx(min(3 ** (t / 4), 20.0), rel=1e-13)
    assert rising.at(10**9) == 20.0
    assert Exponential(start=2.0, decay=1.0).at(10**9) == 2.0


def test_optax_piecewise_interpolate() -> None:
    line = Piecewise(values=(1.0, 3.0, 0.5), boundaries=(4, 8), interpolate="linear")
    assert values(line, 11) == pytest.approx([1, 1.5, 2, 2.5, 3, 2.375, 1.75, 1.125, 0.5, 0.5, 0.5])
    curve = Piecewise(values=(1.0, 3.0, 0.5), boundaries=(4, 8), interpolate="cosine")
    for t in range(4):
        want = 3.0 + (1.0 - 3.0) / 2 * (math.cos(math.pi * t / 4) + 1)
        assert curve.at(t) == pytest.approx(want, rel=1e-12)
    assert [curve.at(t) for t in (0, 4, 6, 8, 99)] == pytest.approx([1.0, 3.0, 1.75, 0.5, 0.5])


@pytest.mark.parametrize(
    ("decay", "left"),
    [
        ("linear", lambda x: 1 - x),
        ("cosine", lambda x: (1 + math.cos(math.pi * x)) / 2),
        ("sqrt", lambda x: 1 - math.sqrt(x)),
    ],
)
def test_warmup_stable_decay_by_its_formula(decay: str, left: Callable[[float], float]) -> None:
    schedule = WarmupStableDecay(
        peak=2.0, warmup_steps=0.1, decay_steps=0.25, minimum=0.5, decay=decay
    )
    for t in range(50):  # W = 4, D = 10 of T = 40
        if t < 4:
            want = 2.0 * (t + 1) / 4
        elif t < 30:
            want = 2.0
        else:
            want = 0.5 + 1.5 * left((t - 30) / 10) if t < 40 else 0.5
        assert schedule.at(t, 40) == pytest.approx(want, rel=1e-12)


def test_competence_is_the_papers() -> None:
    schedule, c0, total = Competence(), 0.01, 50
    for t in range(70):
        want = min(1.0, math.sqrt(t * (1 - c0**2) / total + c0**2))
        assert schedule.at(t, total) == pytest.approx(want, rel=1e-12)
    line = Competence(start=0.2, end=0.8, power=1.0)
    assert values(line, 8, 4) == pytest.approx(values(Linear(start=0.2, end=0.8), 8, 4), rel=1e-12)
    steep = Competence(start=2.0, end=1e300, power=50.0)
    assert 2.0 < steep.at(1, 10) < 1e300


def test_exponential_arrives_where_it_is_told() -> None:
    schedule = Exponential(start=1.0, end=1e-4)
    for t in range(20):
        assert schedule.at(t, 20) == pytest.approx(10 ** (-4 * t / 20), rel=1e-12)
    assert values(schedule, 22, 20)[20:] == [1e-4, 1e-4]


# Where restarts are ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "multiplier", "restart"),
    [
        (1, 3, 121), (10, 3, 1210), (5, 3, 605), (7, 3, 847), (1, 10, 111),
        (100, 1.1, 210), (100, 2, 100), (100, 2, 300), (100, 2, 700), (100, 2.0, 1500),
        (100, 1, 100), (100, 1, 1500),
    ],
)  # fmt: skip
def test_a_restart_is_where_the_lengths_add_up(
    period: int, multiplier: float, restart: int
) -> None:
    """At the first five, torch's step(epoch) and timm give 0, not 1; at the sixth, Keras."""
    schedule = CosineWarmRestarts(start=1.0, period=period, multiplier=multiplier)
    assert schedule.at(restart) == 1.0
    assert schedule.at(restart - 1) < 0.9


@pytest.mark.parametrize("period", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("multiplier", [2, 3, 5, 10])
def test_all_restarts_of_whole_multipliers(period: int, multiplier: int) -> None:
    schedule = CosineWarmRestarts(start=1.0, period=period, multiplier=multiplier)
    begin = 0
    for cycle in range(20):
        assert schedule.at(begin) == 1.0
        length = period * multiplier**cycle
        assert schedule.at(begin + length - 1) == pytest.approx(
            (1 + math.cos(math.pi * (length - 1) / length)) / 2, abs=1e-12
        )
        begin += length


def test_restarts_end_after_so_many_cycles() -> None:
    schedule = CosineWarmRestarts(start=1.0, period=2, cycles=3, minimum=0.25, height=0.5)
    assert values(schedule, 9) == pytest.approx(
        [1.0, 0.625, 0.625, 0.4375, 0.4375, 0.34375, 0.25, 0.25, 0.25]
    )
    assert schedule.at(10**12) == 0.25


@pytest.mark.parametrize("multiplier", [1, 1.01, 1.5, 2])
def test_a_step_far_away_is_found_at_once(multiplier: float) -> None:
    schedule = CosineWarmRestarts(start=1.0, period=1, multiplier=multiplier)
    assert 0.0 <= schedule.at(10**15) <= 1.0


# Joined ---------------------------------------------------------------------------------------


def test_each_piece_counts_from_its_own_beginning() -> None:
    inner = Joined(schedulers=(Linear(start=0.0, end=1.0), Constant(value=5.0)), boundaries=(0.5,))
    outer = Joined(schedulers=(Constant(value=7.0), inner, inner), boundaries=(2, 6))
    want = [7, 7, 0, 0.5, 5, 5, 0, 0.25, 0.5, 0.75, 5, 5, 5, 5, 5]
    assert values(outer, 15, 14) == want
    once_more = Joined(schedulers=(outer,))
    assert values(once_more, 15, 14) == want  # wrapping shifts nothing


def test_boundaries_as_shares() -> None:
    schedule = Joined(
        schedulers=(Constant(value=1.0), Constant(value=2.0), Constant(value=3.0)),
        boundaries=(0.25, 0.75),
    )
    assert values(schedule, 10, 8) == [1, 1, 2, 2, 2, 2, 3, 3, 3, 3]
    assert values(schedule, 3, 1) == [2, 3, 3]  # of one step, 0.25 rounds to 0 and 0.75 to 1
    stairs = Piecewise(values=(1.0, 2.0, 3.0), boundaries=(0.25, 0.75))
    assert values(stairs, 10, 8) == [1, 1, 2, 2, 2, 2, 3, 3, 3, 3]


def test_a_warmup_as_long_as_the_run() -> None:
    schedule = Joined(
        schedulers=(Linear(start=0.0, end=1.0), Polynomial(start=1.0, end=0.1)), boundaries=(4,)
    )
    assert values(schedule, 7, 4) == [0, 0.25, 0.5, 0.75, 0.1, 0.1, 0.1]


def test_an_open_ended_run_reaches_the_last_piece() -> None:
    schedule = Joined(
        schedulers=(Linear(start=0.0, end=1.0), InverseSqrt(peak=1.0, warmup_steps=0, timescale=1)),
        boundaries=(2,),
    )
    assert values(schedule, 6) == pytest.approx([0, 0.5, 1, 0.5**0.5, 3**-0.5, 0.5])
