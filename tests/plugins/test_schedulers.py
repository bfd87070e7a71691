"""Schedulers: their values at every step, and ``resolve``, which puts them in place."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest

from coreframe.compose import Mined, WeightedSum
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.scheduler import Progress, Scheduler, resolve
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.triplet import Triplet
from coreframe_miners.hardest import Hardest
from coreframe_optimizers.sgd import SGD
from coreframe_regularizers.graph_laplacian import GraphLaplacian
from coreframe_regularizers.l2 import L2
from coreframe_schedulers.constant import Constant
from coreframe_schedulers.warmup_cosine import WarmupCosine


@dataclass(frozen=True, kw_only=True)
class Half(Scheduler):
    """Half the step: 0, 0.5, 1, 1.5, ..."""

    def __call__(self, progress: Progress, /) -> float:
        return progress.step / 2


# Values -----------------------------------------------------------------------------------------


def test_constant():
    assert [Constant(value=0.1).at(t) for t in (0, 7, 10**9)] == [0.1] * 3
    assert Constant(value=2).at(3, 2) == 2


@pytest.mark.parametrize("start", ["nonzero", "zero"])
@pytest.mark.parametrize(("steps", "warmup"), [(10, 3), (7, 0), (100, 10), (5, 1)])
def test_warmup_cosine_by_its_formula(start, steps, warmup):
    schedule = WarmupCosine(peak=0.5, warmup_steps=warmup, minimum=0.1, warmup_start=start)
    if 0 < warmup < 1 or warmup == 1:
        schedule = WarmupCosine(peak=0.5, warmup_steps=1, minimum=0.1, warmup_start=start)
    for t in range(steps + 5):
        if t < warmup:
            want = 0.5 * ((t + 1) if start == "nonzero" else t) / warmup
        elif t < steps:
            want = 0.1 + 0.4 * (1 + math.cos(math.pi * (t - warmup) / (steps - warmup))) / 2
        else:
            want = 0.1
        assert schedule.at(t, steps) == pytest.approx(want, rel=1e-14)


def test_warmup_cosine_past_the_end_holds_its_last_value():
    schedule = WarmupCosine(peak=1.0, minimum=0.25)
    assert {schedule.at(t, 20) for t in (20, 21, 1000, 10**9)} == {0.25}


@pytest.mark.parametrize("warmup", [6, 60])
def test_warmup_as_long_as_the_run_then_holds_the_minimum(warmup):
    schedule = WarmupCosine(peak=1.0, warmup_steps=warmup, minimum=0.2)
    values = [schedule.at(t, 6) for t in range(9)]
    assert values == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1.0, 0.2, 0.2, 0.2])


def test_warmup_as_a_share_of_the_run_rounds_half_up():
    schedule = WarmupCosine(peak=1.0, warmup_steps=0.1)
    assert [schedule.at(t, 100) for t in (0, 8, 9, 10)] == pytest.approx([0.1, 0.9, 1.0, 1.0])
    assert [schedule.at(t, 25) for t in (0, 1, 2)] == pytest.approx([1 / 3, 2 / 3, 1.0])  # 2.5
    assert schedule.at(0, 4) == 1.0  # 0.4: none
    assert schedule.at(0, 0) == 0.0


def test_warmup_cosine_needs_to_know_the_end():
    with pytest.raises(ArgumentError, match="WarmupCosine needs the number of steps of the run"):
        WarmupCosine(peak=1.0).at(3)


@pytest.mark.parametrize("schedule", [Constant(value=1.5), WarmupCosine(peak=1.0), Half()])
def test_schedulers_are_values(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert schedule.at(3, 9) == schedule(Progress(step=3, steps=9)) == schedule.at(3, 9)


# resolve ----------------------------------------------------------------------------------------


def test_nothing_scheduled_is_the_very_same_object():
    for component in (
        InfoNCE(),
        Mined(miner=Hardest(), loss=InfoNCE()),
        WeightedSum(losses={"a": InfoNCE()}, weights={"a": 2.0}),
        SGD(),
    ):
        assert resolve(component, Progress()) is component


def test_a_scheduled_field_becomes_a_number():
    loss = InfoNCE(temperature=WarmupCosine(peak=0.5, warmup_steps=0, minimum=0.1))
    assert resolve(loss, Progress(step=0, steps=4)) == InfoNCE(temperature=0.5)
    assert resolve(loss, Progress(step=4, steps=4)) == InfoNCE(temperature=0.1)
    assert isinstance(loss.temperature, Scheduler)


def test_nested_components_mappings_and_tuples():
    loss = WeightedSum(
        losses={
            "a": Mined(miner=Hardest(k=Half()), loss=InfoNCE(temperature=Half())),
            "b": Triplet(margin=0.3),
        },
        weights={"a": Half(), "b": 3.0},
    )
    done = resolve(loss, Progress(step=7))
    assert done.losses["a"] == Mined(miner=Hardest(k=4), loss=InfoNCE(temperature=3.5))
    assert done.losses["b"] is loss.losses["b"]
    assert done.weights == {"a": 3.5, "b": 3.0}

    @dataclass(frozen=True, kw_only=True)
    class Holder:
        values: tuple[float | Scheduler, ...]
        table: Mapping[str, tuple[float | Scheduler, ...]] = field(default_factory=dict)

    holder = Holder(values=(1.0, Half()), table={"x": (Half(), 2.0)})
    assert resolve(holder, Progress(step=3)) == Holder(values=(1.0, 1.5), table={"x": (1.5, 2.0)})


@pytest.mark.parametrize(("step", "k"), [(2, 1), (3, 2), (5, 3), (6, 3), (9, 5)])
def test_integers_round_half_up(step, k):
    done = resolve(Hardest(k=Half()), Progress(step=step))
    assert done.k == k
    assert type(done.k) is int


def test_resolved_values_are_checked_again():
    with pytest.raises(ArgumentError, match=r"InfoNCE.temperature must be above 0, got 0.0"):
        resolve(InfoNCE(temperature=Half()), Progress(step=0))


def test_a_scheduler_itself_is_left_alone():
    schedule = WarmupCosine(peak=1.0)
    assert resolve(schedule, Progress()) is schedule


def test_calling_what_is_unresolved_names_the_field(rng):
    a = rng.standard_normal((3, 2))
    text = r"{} is scheduled; call coreframe.resolve\(component, progress\) first"
    with pytest.raises(ArgumentTypeError, match=text.format(r"InfoNCE\.temperature")):
        InfoNCE(temperature=Half())(a, a)
    with pytest.raises(ArgumentTypeError, match=text.format(r"InfoNCE\.margin")):
        InfoNCE(margin=Half(), symmetric=True)(a, a)
    with pytest.raises(ArgumentTypeError, match=text.format(r"Hardest\.k")):
        Mined(miner=Hardest(k=Half()), loss=InfoNCE())(a, a)
    with pytest.raises(ArgumentTypeError, match=text.format(r"WeightedSum\.weights\['a'\]")):
        WeightedSum(losses={"a": InfoNCE()}, weights={"a": Half()})(a, a)
    with pytest.raises(ArgumentTypeError, match=text.format(r"L2\.strength")):
        L2(strength=Half()).value_and_grad({"W": a})
    with pytest.raises(ArgumentTypeError, match=text.format(r"GraphLaplacian\.strength")):
        GraphLaplacian(strength=Half(), edges=np.array([[0, 1]])).value_and_grad({"anchors": a})
