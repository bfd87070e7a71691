"""The p value of a comparison: against scipy, against all sign flips, and against chance."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from coreframe.errors import ArgumentError
from coreframe.evaluation import METRICS
from coreframe.evaluation.compare import _randomised, paired
from coreframe.evaluation.retrieval import Evaluation


def evaluation(values, names=("ndcg@10",)):
    values = np.asarray(values, dtype=np.float64)
    none = np.zeros((len(values), 1), np.int64)
    return Evaluation(dict.fromkeys(names, values), none, none[:, 0])


def p_of(difference, **options):
    x = np.asarray(difference, dtype=np.float64)
    return paired(evaluation(np.zeros(len(x))), evaluation(x), **options).gains["ndcg@10"].p


@pytest.mark.parametrize("kind", ["normal", "ties"])
@pytest.mark.parametrize("count", [3, 7, 10])
def test_all_flips_of_few_queries(count, kind):
    rng = np.random.default_rng(count)
    x = rng.normal(0.3, 1, count) if kind == "normal" else rng.integers(-1, 3, count) / 4
    sums = [abs(np.dot(signs, x)) for signs in itertools.product((-1, 1), repeat=count)]
    want = np.mean(np.array(sums) >= abs(x.sum()) - 1e-12)
    assert p_of(x) == pytest.approx(want)
    theirs = stats.permutation_test(
        (x,), lambda y, axis: y.mean(axis=axis), permutation_type="samples", n_resamples=10**6
    )
    # scipy doubles the smaller side; the sum over flips is symmetric, so that it is the same.
    assert p_of(x) == pytest.approx(min(1.0, theirs.pvalue))


@pytest.mark.parametrize("shift", [0.0, 0.15, 0.3])
def test_drawn_flips_come_near_scipy(shift):
    x = np.random.default_rng(5).normal(shift, 1, 80)
    theirs = stats.permutation_test(
        (x,), lambda y, axis: y.mean(axis=axis), permutation_type="samples", n_resamples=10_000,
        rng=np.random.default_rng(0),
    ).pvalue  # fmt: skip
    assert p_of(x, resamples=10_000) == pytest.approx(theirs, abs=0.015)
    assert p_of(x, resamples=10_000) == pytest.approx(stats.ttest_1samp(x, 0).pvalue, abs=0.03)


def test_groups_are_flipped_whole():
    rng = np.random.default_rng(1)
    x = rng.normal(0.4, 1, 8)
    again, groups = np.repeat(x, 5), np.repeat(np.arange(8), 5)
    assert p_of(again, groups=groups) == p_of(x)
    assert p_of(again) < 0.3 * p_of(x)
    mixed = rng.permutation(len(again))
    assert p_of(again[mixed], groups=groups[mixed]) == pytest.approx(p_of(x))


def test_no_difference_has_p_1_and_p_is_never_0():
    assert p_of(np.zeros(40)) == 1.0
    assert p_of(np.zeros(4)) == 1.0
    assert p_of(np.ones(400)) == 1 / 2001
    assert p_of(np.ones(4)) == 2 / 16  # four better ones and none worse: chance does it in 1 of 8


def test_p_is_two_sided_and_the_same_at_every_seed_that_is_the_same():
    x = np.random.default_rng(2).normal(0.2, 1, 100)
    assert p_of(x) == p_of(-x)
    assert p_of(x, seed=1) == p_of(x, seed=1) != p_of(x, seed=2)


def test_flips_in_several_turns_are_those_of_one(monkeypatch):
    from coreframe.evaluation import compare

    many, few = (np.random.default_rng(3).normal(0.2, 1, n) for n in (64, 9))
    whole = p_of(many), p_of(few)
    monkeypatch.setattr(compare, "_SIGNS_AT_ONCE", 100)
    assert (p_of(many), p_of(few)) == whole


def test_it_is_right_as_often_as_it_says():
    """Under chance alone, p is at most 0.05 about 5 times in 100, with few changed queries too."""
    rng = np.random.default_rng(4)
    for draw in (
        lambda: rng.normal(size=60),
        lambda: rng.choice([-1.0, 0, 0, 0, 0, 0, 0, 0, 0, 1.0], 60),
        lambda: rng.exponential(size=60) * rng.choice([-1, 1], 60),
    ):
        p = [_randomised(draw()[None], np.arange(60), 300, seed)[0] for seed in range(400)]
        small = np.mean(np.array(p) <= 0.05)
        assert small <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)
    power = np.mean([p_of(0.7 + rng.normal(size=60), resamples=300) <= 0.05 for _ in range(30)])
    assert power > 0.9


def test_evaluations_that_do_not_go_together():
    with pytest.raises(ArgumentError, match="of the same queries, got 3 and 4"):
        paired(evaluation([0, 1, 0]), evaluation([0, 1, 0, 1]))
    with pytest.raises(ArgumentError, match="no metric in common"):
        paired(evaluation([0.0]), evaluation([0.0], names=("map@10",)))
    some = paired(evaluation([0.0, 1.0], METRICS), evaluation([1.0, 1.0], ("map@5", "mrr@10")))
    assert list(some.gains) == ["mrr@10"]
