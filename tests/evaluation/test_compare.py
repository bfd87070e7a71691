"""Is it better? The interval of a gain, against known cases and against chance."""

from __future__ import annotations

import numpy as np
import pytest

from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError
from coreframe.evaluation import METRICS
from coreframe.evaluation.compare import compare, paired
from coreframe.evaluation.retrieval import Evaluation, evaluate


def evaluation(values):
    """Return an evaluation whose four metrics all have these values a query."""
    values = np.asarray(values, dtype=np.float64)
    none = np.zeros((len(values), 1), np.int64)
    return Evaluation(dict.fromkeys(METRICS, values), none, none[:, 0])


def gain_of(before, after, **options):
    return paired(evaluation(before), evaluation(after), **options).gains["ndcg@10"]


def test_no_difference_is_not_better(rng):
    x = rng.random(50)
    found = paired(evaluation(x), evaluation(x))
    for name in METRICS:
        g = found.gains[name]
        assert (g.gain, g.low, g.high) == (0, 0, 0)
        assert (g.better, g.worse, g.same) == (0, 0, 50)
        assert not found.better(name)


def test_a_constant_gain_has_no_width():
    x = np.zeros(40)
    found = paired(evaluation(x), evaluation(x + 0.25))
    g = found.gains["mrr@10"]
    assert (g.base, g.adapted, g.gain, g.low, g.high) == (0, 0.25, 0.25, 0.25, 0.25)
    assert found.better("mrr@10")
    assert found.better("mrr@10", minimum=0.24)
    assert not found.better("mrr@10", minimum=0.25)
    assert not paired(evaluation(x + 0.25), evaluation(x)).better()


def test_counts_and_means(rng):
    before, after = np.array([0.0, 0.5, 1.0, 0.2]), np.array([1.0, 0.5, 0.5, 0.3])
    g = gain_of(before, after)
    assert (g.better, g.worse, g.same) == (2, 1, 1)
    assert g.base == pytest.approx(0.425)
    assert g.adapted == pytest.approx(0.575)
    assert g.gain == pytest.approx(0.15)
    assert g.low < g.gain < g.high


def test_the_interval_is_that_of_normal_theory(rng):
    difference = rng.normal(0.1, 0.5, 400)
    g = gain_of(np.zeros(400), difference, resamples=4000)
    error = difference.std() / 20
    assert g.low == pytest.approx(difference.mean() - 1.96 * error, abs=0.1 * error)
    assert g.high == pytest.approx(difference.mean() + 1.96 * error, abs=0.1 * error)


def test_the_interval_is_paired(rng):
    # Queries differ much more than the two adapters do: only pairing can see the gain.
    level = rng.random(200)
    g = gain_of(level, level + 0.02 + 0.01 * rng.standard_normal(200))
    assert 0 < g.low < 0.02 < g.high
    shuffled = gain_of(level, rng.permutation(level) + 0.02)
    assert shuffled.low < 0


def test_queries_of_one_group_count_as_one(rng):
    # Each query four times over is no more evidence than once.
    before, after = rng.random(50), rng.random(50)
    once = gain_of(before, after)
    again = gain_of(np.repeat(before, 4), np.repeat(after, 4), groups=np.repeat(np.arange(50), 4))
    assert (again.low, again.high) == pytest.approx((once.low, once.high))
    alone = gain_of(np.repeat(before, 4), np.repeat(after, 4))
    assert alone.high - alone.low < 0.6 * (once.high - once.low)


def test_all_metrics_see_the_same_resamples(rng):
    x = rng.random(60)
    gains = paired(evaluation(x), evaluation(x[::-1])).gains
    assert len({(g.low, g.high) for g in gains.values()}) == 1


def test_the_same_seed_gives_the_same_interval(rng):
    before, after = rng.random(80), rng.random(80)
    first, again, other = (gain_of(before, after, seed=s) for s in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) != (other.low, other.high)


@pytest.mark.parametrize(("count", "shape"), [(60, "normal"), (200, "skewed")])
def test_coverage(count, shape):
    """95% intervals hold the true mean about 95 times in 100."""
    rng = np.random.default_rng(1)
    runs, held, above = 400, 0, 0
    for seed in range(runs):
        noise = rng.normal(size=count) if shape == "normal" else rng.exponential(size=count) - 1
        g = gain_of(np.zeros(count), 0.3 + noise, resamples=300, seed=seed)
        held += g.low <= 0.3 <= g.high
        above += g.low > 0.3
    assert 0.91 <= held / runs <= 0.98  # 0.95 with a standard error of 0.011
    assert above / runs <= 0.05  # the side on which a gate errs


def test_the_gate_rarely_passes_chance():
    rng = np.random.default_rng(2)
    passed = sum(
        gain_of(np.zeros(100), rng.choice([-1.0, 0, 0, 0, 1.0], 100), resamples=300, seed=s).low > 0
        for s in range(300)
    )
    assert passed / 300 <= 0.06  # 0.025 is meant


@pytest.mark.parametrize(
    ("metric", "hint"),
    [("ndcg@1", "Did you mean 'ndcg@10'"), ("accuracy", "Known: mrr@10, ndcg@10, recall@1")],
)
def test_unknown_metrics(metric, hint):
    found = paired(evaluation([0.0]), evaluation([1.0]))
    with pytest.raises(ArgumentError, match=f"there is no metric '{metric}'") as caught:
        found.better(metric)
    assert hint in str(caught.value)


def test_too_few_resamples():
    with pytest.raises(ArgumentError, match=r"resamples must be at least 100 .* got 99"):
        gain_of([0.0], [1.0], resamples=99)


def test_compare_evaluates_both_and_prints_a_table(library):
    rng = np.random.default_rng(0)
    d = rng.standard_normal((30, 5))
    turn = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    data = Pairs(library.asarray(d @ turn.T), library.asarray(d))
    back = library.asarray(turn)

    def adapter(x, side):
        return x @ back if side == "query" else x

    found = compare(adapter, data)
    assert found.queries == 30
    assert found.gains["recall@1"].adapted == 1
    assert found.base.mean() == evaluate(None, data).mean()
    assert found.better()
    lines = str(found).splitlines()
    assert lines[0].split() == ["30", "queries", "base", "adapted", "gain", "95%", "interval"]
    assert [line.split()[0] for line in lines[1:]] == list(METRICS)
    g = found.gains["mrr@10"]
    assert f"[{g.low:+.3f}, {g.high:+.3f}]" in lines[3]
    assert f"{g.gain:+.3f}" in lines[3]
    same = compare(adapter, data, base=adapter)
    assert (same.gains["ndcg@10"].low, same.gains["ndcg@10"].high) == (0, 0)


def test_thousands_of_queries(rng):
    """The number of all sign flips is beyond any float from 1,024 groups on."""
    g = gain_of(np.zeros(3000), rng.normal(0.1, 0.5, 3000), resamples=100)
    assert g.p == pytest.approx(1 / 101)
