"""The gate: its verdict where the truth is known, each refusal, and hints that are right."""

from __future__ import annotations

import numpy as np
import pytest

from coreframe.config import GateSettings
from coreframe.errors import ArgumentError
from coreframe.evaluation.compare import paired
from coreframe.evaluation.retrieval import Evaluation
from coreframe.gate import Evidence, Gate, covered, decide

METRIC = "ndcg@10"


def evaluation(values, first=None):
    values = np.asarray(values, np.float64)
    first = np.where(values > 0, 1, 0) if first is None else np.asarray(first)
    return Evaluation({METRIC: values}, np.zeros((len(values), 1), np.int64), first)


def judge(before, after, *, groups=None, settings=None, first=(None, None), **options) -> Gate:
    settings = settings or GateSettings(resamples=500)
    groups = np.arange(len(before)) if groups is None else groups
    one, two = (evaluation(x, f) for x, f in zip((before, after), first, strict=True))
    gain = paired(one, two, groups=groups, resamples=settings.resamples)
    options = {"changed": True, "train_queries": 1000} | options
    return decide(Evidence(before=one, after=two, gain=gain, groups=groups, **options), settings)


def steady(gain=0.1, count=200, level=0.5):
    rng = np.random.default_rng(0)
    before = np.clip(level + 0.2 * rng.standard_normal(count), 0.01, 0.9)
    return before, np.clip(before + gain + 0.1 * rng.standard_normal(count), 0.01, 1)


# Its verdict where nothing is there -------------------------------------------------------------


def sparse(rng, groups):
    """Few queries change, each either way: where a bootstrap alone is too sure."""
    change = (rng.random(groups) < 4 / groups) * rng.choice([-1.0, 1.0], groups)
    return np.full(groups, 0.5), 0.5 + 0.5 * change, np.arange(groups)


def dense(rng, groups):
    return rng.random(groups), rng.random(groups), np.arange(groups)


def clustered(rng, groups):
    """Ten queries a group, which all change alike."""
    each = np.repeat(np.arange(groups), 10)
    shift = 0.1 * rng.standard_normal(groups)[each]
    before = 0.5 + 0.05 * rng.standard_normal(len(each))
    return before, before + shift, each


@pytest.mark.parametrize("kind", [sparse, dense, clustered])
@pytest.mark.parametrize("groups", [20, 60])
def test_it_is_seldom_wrong_where_there_is_no_gain(kind, groups) -> None:
    """At most 2.5% of verdicts; with 200 draws, more than 11 would be 4 standard deviations off."""
    rng = np.random.default_rng(groups)
    settings = GateSettings(resamples=200, maximum_coverage_loss=1.0)
    wrong = 0
    for _ in range(200):
        before, after, units = kind(rng, groups)
        wrong += judge(before, after, groups=units, settings=settings).passed
    assert wrong <= 11


def test_groups_count_and_not_queries() -> None:
    """The same differences, once as queries of their own and once as twenty questions."""
    rng = np.random.default_rng(3)
    each = np.repeat(np.arange(24), 20)
    before = np.full(len(each), 0.5)
    after = before + (0.2 * rng.standard_normal(24) + 0.05)[each]
    assert judge(before, after).passed
    assert not judge(before, after, groups=each).passed


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_four_of_four_are_no_proof(level: float) -> None:
    """It says so where little is left to win, too: the interval beside it looks like a proof."""
    before, after = np.full(100, level), np.full(100, level)
    after[:4] = 1.0
    gate = judge(before, after)
    assert gate.low > 0  # the interval alone would pass it
    assert not gate.passed
    assert gate.p == pytest.approx(0.125, abs=0.05)
    assert gate.hint.startswith("only 4 of 100 test queries changed, and chance alone does as much")
    after[:8] = 1.0
    assert judge(before, after).passed


# What it asks -----------------------------------------------------------------------------------


def test_a_steady_gain_passes() -> None:
    gate = judge(*steady())
    assert gate.passed
    assert gate.hint == ""
    assert gate.low < gate.gain < gate.high
    assert gate.p < 0.01


def test_too_few_queries_and_groups() -> None:
    before, after = steady(count=40)
    gate = judge(before, after, settings=GateSettings(minimum_queries=50, minimum_groups=5))
    assert not gate.passed
    assert gate.hint == (
        "40 test queries prove nothing, 50 are the least: hold out more, or collect more pairs"
    )
    gate = judge(before, after, groups=np.arange(40) // 10)
    assert not gate.passed
    assert gate.hint.startswith("4 independent groups of test queries prove nothing, 20 are")


def test_coverage_has_a_floor() -> None:
    before, after = steady(0.2)
    first = np.ones(200, np.int64), np.where(np.arange(200) < 10, 0, 1)
    gate = judge(before, after, first=first)
    assert not gate.passed
    assert gate.coverage == (1.0, 0.95)
    assert (
        "share of queries with a right document in the first 10 fell from 1.000 to" in gate.reason
    )
    assert "l2" in gate.hint
    assert judge(
        before, after, first=first, settings=GateSettings(maximum_coverage_loss=0.05)
    ).passed
    # A right document below the tenth is not found.
    assert covered(evaluation([1, 1, 1, 1], [1, 10, 11, 0])) == 0.5


def test_what_is_forgotten_is_not_promoted() -> None:
    gate = judge(*steady(), forgotten=("old: ndcg@10 0.500 -> 0.400",))
    assert not gate.passed
    assert gate.reason.endswith("but it forgets: old: ndcg@10 0.500 -> 0.400")
    assert "continual.strengths" in gate.hint


def test_a_gain_below_the_minimum() -> None:
    gate = judge(*steady(0.05), settings=GateSettings(minimum_gain=0.2))
    assert not gate.passed
    assert gate.hint.startswith("there is a gain, but not proven to be above minimum_gain = 0.2")


def test_nothing_was_chosen() -> None:
    before, _ = steady()
    gate = judge(before, before, changed=False)
    assert gate.reason == "no candidate beat the base on dev"
    assert gate.hint.startswith("nothing beat the base on dev")
    gate = judge(before, before, changed=False, against="the earlier adapter")
    assert gate.reason == "no candidate beat the earlier adapter on dev"
    assert gate.hint.startswith("nothing beat the earlier adapter on dev")


def test_each_hint_is_that_of_its_case() -> None:
    rng = np.random.default_rng(1)
    high = np.ones(300)
    high[:3] = 0.5
    assert judge(high, np.ones(300)).hint == "ndcg@10 is 0.99 or 1.00 as it is".replace(
        "0.99 or 1.00 as it is", f"{high.mean():.2f} as it is: there is little left to win"
    )
    assert judge(*steady(-0.1)).hint.startswith("it makes unseen queries worse")
    before = rng.random(300)
    small = np.clip(before + 0.3 * rng.standard_normal(300), 0, 1)
    assert judge(before, small, train_queries=50).hint.startswith("50 training queries are few")
    few = judge(before[:60], small[:60]).hint
    assert few.startswith("60 test queries leave a wide interval: hold out more of them")
    # The number of queries that would do: the interval shrinks with their root.
    before = np.full(200, 0.5)
    noisy = before + 0.02 + 0.2 * rng.standard_normal(200)
    noisy += 0.02 - (noisy - before).mean()
    gate = judge(before, noisy)
    assert not gate.passed
    found = gate.hint.removeprefix("if the gain is real, about ").split()[0]
    needed = 200 * ((gate.gain - gate.low) / gate.gain) ** 2
    assert needed <= int(found.replace(",", "")) <= 1.1 * needed + 10


@pytest.mark.parametrize(
    ("name", "value"),
    [("minimum_queries", 0), ("maximum_coverage_loss", 1.5), ("maximum_forgetting", -0.1)],
)
def test_settings_are_checked(name, value) -> None:
    with pytest.raises(ArgumentError, match=name):
        GateSettings(**{name: value})
