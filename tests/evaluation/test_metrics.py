"""Every metric equals trec_eval's, by pytrec-eval, on random rankings."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from coreframe import config
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import ListedRelevance
from coreframe.errors import ArgumentError, ArgumentTypeError, ConfigError, DataError
from coreframe.evaluation import METRICS, metrics
from coreframe.evaluation.compare import compare
from coreframe.evaluation.metrics import Judged, depth_of, measure, parse, several
from coreframe.evaluation.retrieval import evaluate
from coreframe.trainer import fit
from coreframe_optimizers.adamw import AdamW

THEIRS = {
    "recall": "recall_{}",
    "precision": "P_{}",
    "accuracy": "success_{}",
    "map": "map_cut_{}",
    "ndcg": "ndcg_cut_{}",
}
DEPTHS = (1, 2, 3, 5, 10, 100)
NAMES = [*(f"{family}@{k}" for family in metrics.FAMILIES for k in DEPTHS), "r_precision"]


def document(j, count):
    """A name whose order, downwards, is that of rows: how trec_eval breaks ties."""
    return f"d{count - j:06d}"


def trec_eval(grades, ranked):
    """Return all of NAMES of one query by trec_eval: grades (c,), ranked documents and scores."""
    count = len(grades)
    ranked = sorted(ranked, key=lambda x: (-x[1], x[0]))  # for the lists of k, which are cut here
    qrels = {"q": {document(j, count): int(g) for j, g in enumerate(grades)}}

    def scores(k):
        return {"q": {document(j, count): float(s) for j, s in ranked[:k]}}

    wanted = {f"{t[:-3]}.{','.join(map(str, DEPTHS))}" for t in THEIRS.values()} | {"Rprec"}
    found = pytrec_eval.RelevanceEvaluator(qrels, wanted).evaluate(scores(count))["q"]
    values = {f"{f}@{k}": found[t.format(k)] for f, t in THEIRS.items() for k in DEPTHS}
    for k in DEPTHS:  # recip_rank has no depth: it gets a list of k
        first = pytrec_eval.RelevanceEvaluator(qrels, {"recip_rank"})
        values[f"mrr@{k}"] = first.evaluate(scores(k))["q"]["recip_rank"]
    return values | {"r_precision": found["Rprec"]}


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 2**32 - 1), st.booleans())
def test_metrics_equal_trec_eval(count, queries, seed, graded):
    rng = np.random.default_rng(seed)
    grades = rng.integers(0, 4 if graded else 2, (queries, count))
    grades *= rng.random((queries, count)) < rng.random((queries, 1))  # many right ones, or none
    grades[0, 0] = max(1, grades[0, 0])
    pairs = np.argwhere(grades > 0)
    gains = grades[grades > 0] if graded else None
    relevance = ListedRelevance.of(pairs, queries, count, gains)
    depth = min(count, depth_of(NAMES, relevance))
    found = np.stack([rng.permutation(count) for _ in range(queries)])[:, :depth]
    values = measure(Judged.of(found, relevance), NAMES)
    assert list(values) == NAMES
    for i in range(queries):
        want = trec_eval(grades[i], [(j, -r) for r, j in enumerate(found[i])])
        got = {name: float(x[i]) for name, x in values.items()}
        assert got == pytest.approx(want, abs=1e-12)
        if not grades[i].any():
            assert set(got.values()) == {0.0}


@given(st.integers(12, 40), st.integers(0, 2**32 - 1))
def test_equal_scores_rank_by_row_as_trec_eval_ranks_names(count, seed):
    rng = np.random.default_rng(seed)
    q, d = rng.integers(-1, 2, (3, 2)) * 1.0, rng.integers(-1, 2, (count, 2)) * 1.0
    right = rng.random((3, count)) < 0.3
    right[0, 0] = True
    found = evaluate(None, Pairs(q, d, np.argwhere(right)), metrics=NAMES, similarity="dot")
    for i, scores in enumerate(q @ d.T):  # small integers: exact, and mostly ties
        want = trec_eval(right[i], list(enumerate(scores)))
        assert {n: float(x[i]) for n, x in found.values.items()} == pytest.approx(want, abs=1e-12)


def test_labels_search_no_row_for_itself_at_any_depth(rng):
    x, labels = rng.standard_normal((30, 3)), rng.integers(3, size=30)
    found = evaluate(None, Pairs.labelled(x, labels), metrics=NAMES)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    scores = unit @ unit.T
    for i in range(30):
        others = np.delete(np.arange(30), i)
        want = trec_eval(labels[others] == labels[i], list(enumerate(scores[i, others])))
        assert {n: float(v[i]) for n, v in found.values.items()} == pytest.approx(want, abs=1e-12)
    assert found.found.shape == (30, 29)
    assert not (found.found == np.arange(30)[:, None]).any()


def test_perfect_lists_are_exactly_one(rng):
    grades = rng.integers(1, 5, 40) * 1.7
    relevance = ListedRelevance.of([[0, j] for j in range(40)], 1, 40, grades)
    best = np.argsort(-grades, kind="stable")[None, :]
    for k in (1, 7, 40, 60):
        assert measure(Judged.of(best[:, :k], relevance), [f"ndcg@{k}"])[f"ndcg@{k}"][0] == 1.0
        assert measure(Judged.of(best[:, ::-1][:, :k], relevance), [f"ndcg@{k}"])[f"ndcg@{k}"] < 1


def test_lists_are_as_long_as_the_deepest_metric_asks_for(rng):
    q, d = rng.standard_normal((5, 4)), rng.standard_normal((60, 4))
    pairs = Pairs(q, d, [[i, j] for i in range(5) for j in range(i, 12 + i)])
    for names, depth in (
        (["recall@1"], 1),
        (["recall@1", "map@50"], 50),
        (["ndcg@500"], 60),
        (["r_precision"], 12),
    ):
        assert evaluate(None, pairs, metrics=names).found.shape == (5, depth)
    deep = evaluate(None, pairs, metrics=["recall@1", "map@50"])
    assert list(deep.values) == ["recall@1", "map@50"]
    np.testing.assert_array_equal(deep.found[:, :10], evaluate(None, pairs).found)
    assert evaluate(None, pairs, metrics=["mrr@10"]).first.max() <= 10


def test_gains_of_a_part_and_of_pairs_given_twice():
    relevance = ListedRelevance.of([[1, 3], [0, 2], [1, 3], [1, 0]], 2, 4, [1.0, 2.0, 3.0, 0.5])
    np.testing.assert_array_equal(relevance.pairs, [[0, 2], [1, 0], [1, 3]])
    np.testing.assert_array_equal(relevance.gains, [2.0, 0.5, 3.0])
    np.testing.assert_array_equal(
        relevance.gains_of(np.array([[2, 1], [3, 0]])), [[2, 0], [3, 0.5]]
    )
    part = relevance.take(np.array([1, 1]))
    np.testing.assert_array_equal(part.gains, [0.5, 3.0, 0.5, 3.0])
    np.testing.assert_array_equal(part.ideal(np.array([1.0, 0.5])), [3.25, 3.25])


@pytest.mark.parametrize(
    ("gains", "message"),
    [
        ([1.0], r"gains must hold one number for each of 2 pairs, got float64 \(1,\)"),
        ([1.0, 0.0], "gains must be finite and above 0, got 0.0 for entry 1; leave out pairs"),
        ([1.0, np.nan], "gains must be finite and above 0, got nan for entry 1"),
        (["a", "b"], "gains must hold one number"),
    ],
)
def test_bad_gains(gains, message):
    with pytest.raises(DataError, match=message):
        ListedRelevance.of([[0, 0], [1, 1]], 2, 2, gains)


# Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ndgc@10", "there is no metric 'ndgc@10'. Did you mean 'ndcg@10' or 'ndcg@100'?"),
        ("cosine_map@100", "there is no metric 'cosine_map@100'. Did you mean 'map@100' or"),
        ("map", "metric 'map' needs a depth, such as 'map@10'"),
        ("recall@0", "metric 'recall@0' needs a depth from 1, such as 'recall@10'"),
        ("recall@010", "metric 'recall@010' needs a depth from 1, such as 'recall@10'"),
        ("bleu", "there is no metric 'bleu'. Known: recall@K, precision@K, accuracy@K, mrr@K, "
                 "map@K, ndcg@K, r_precision."),
    ],
)  # fmt: skip
def test_unknown_names(name, message, rng):
    with pytest.raises(ArgumentError) as caught:
        parse(name)
    assert message in str(caught.value)
    data = Pairs(np.eye(4), np.eye(4))
    for call in (
        lambda: evaluate(None, data, metrics=[name]),
        lambda: fit(data, data, metric=name, epochs=1),
    ):
        with pytest.raises(ArgumentError, match=name):
            call()


def test_names_are_texts_and_some_metric_is_asked_for():
    with pytest.raises(ArgumentTypeError, match="a metric must be a name such as 'ndcg@10', got 3"):
        parse(3)
    with pytest.raises(ArgumentError, match="metrics must name at least one"):
        evaluate(None, Pairs(np.eye(2), np.eye(2)), metrics=[])
    assert several(METRICS, "map@100", ["ndcg@10"]) == (*METRICS, "map@100")
    assert doctest.testmod(metrics).failed == 0


# Where they decide ----------------------------------------------------------------------------


def turned(n=120, noise=0.3):
    rng = np.random.default_rng(3)
    d = rng.standard_normal((n, 8))
    turn = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    return Pairs(d @ turn + noise * rng.standard_normal((n, 8)), d)


@pytest.mark.parametrize("metric", ["map@100", "precision@3", "r_precision"])
def test_the_metric_that_decides_may_be_any(metric):
    train, dev, _ = turned().split(0.3, 0.2)
    run = fit(
        train, dev, metric=metric, epochs=4, batch_size=32, optimizer=AdamW(learning_rate=0.05)
    )
    assert set(run.dev) == {*METRICS, metric}
    seen = [line[metric] for line in run.history if metric in line]
    assert len(seen) == 5
    assert run.dev[metric] == max(seen) > seen[0]


def test_a_comparison_has_the_metrics_that_are_asked_for():
    data = turned()
    found = compare(lambda x, side: x, data, metrics=["accuracy@3", "map@20"])
    assert list(found.gains) == ["accuracy@3", "map@20"]
    with pytest.raises(ArgumentError, match="there is no metric 'ndcg@10'"):
        found.better()


def test_a_run_names_the_metric_that_decides_and_more():
    run = config.read(None, ["gate.metric=map@100", 'gate.metrics=["recall@100", "map@100"]'])
    assert run.gate.evaluated == (*METRICS, "map@100", "recall@100")
    assert config.read().gate.evaluated == METRICS
    with pytest.raises(ConfigError, match=r"gate.metrics must be a list"):
        config.read(None, ["gate.metrics=recall@100"])
