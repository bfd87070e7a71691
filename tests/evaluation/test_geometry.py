"""Health: each measure against its formula, and an alarm on collapse that is quiet elsewhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from coreframe import demo
from coreframe.artefact import Side, TrainedAdapter
from coreframe.data.pairs import Pairs
from coreframe.evaluation import geometry
from coreframe.evaluation.geometry import (
    alignment,
    distance_from_identity,
    effective_rank,
    health,
    hubness,
    uniformity,
)
from coreframe_text.hashing import Hashing


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# Measures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(50, 8), (6, 20), (1, 4), (8, 8)])
def test_effective_rank(shape, rng):
    x = unit(rng.standard_normal(shape))
    singular = np.linalg.svd(x, compute_uv=False)
    shares = singular / singular.sum()
    assert effective_rank(x) == pytest.approx(np.exp(stats.entropy(shares)))


def test_effective_rank_of_known_cases():
    assert effective_rank(np.eye(7)) == pytest.approx(7)
    assert effective_rank(np.tile(unit(np.ones((1, 300))), (900, 1))) == 1.0
    assert effective_rank(np.repeat(np.eye(5, 40), 30, axis=0)) == pytest.approx(5)
    assert effective_rank(np.zeros((4, 3))) == 0.0
    assert np.isnan(effective_rank(np.zeros((0, 3))))


def test_alignment_and_uniformity(rng):
    u, v = unit(rng.standard_normal((30, 5))), unit(rng.standard_normal((30, 5)))
    assert alignment(u, v) == pytest.approx(np.mean(np.linalg.norm(u - v, axis=1) ** 2))
    pairs = [np.exp(-2 * np.sum((u[i] - u[j]) ** 2)) for i in range(30) for j in range(i)]
    assert uniformity(u) == pytest.approx(np.log(np.mean(pairs)))
    assert uniformity(np.eye(9)) == pytest.approx(-4)
    assert uniformity(np.ones((9, 1))) == pytest.approx(0)
    assert alignment(u, -u) == pytest.approx(4)
    assert np.isnan(alignment(u[:0], v[:0]))
    assert np.isnan(uniformity(u[:1]))


@pytest.mark.parametrize("themselves", [False, True])
def test_hubness(themselves, rng):
    q = unit(rng.standard_normal((40, 6)))
    d = q if themselves else unit(rng.standard_normal((70, 6)))
    times = np.zeros(len(d))
    for i, row in enumerate(q @ d.T):
        order = [j for j in np.argsort(-row) if not (themselves and j == i)]
        times[order[:10]] += 1
    assert hubness(q, d, themselves=themselves) == pytest.approx(stats.skew(times))
    assert np.isnan(hubness(q, d[:10]))


def test_a_hub_is_seen(rng):
    q, d = unit(rng.standard_normal((300, 16))), unit(rng.standard_normal((300, 16)))
    quiet = hubness(q, d)
    d[0] = unit(q.mean(axis=0, keepdims=True))
    q = unit(q + 2 * d[0])
    assert hubness(q, d) > quiet + 1


def test_distance_from_identity(rng):
    w = rng.standard_normal((6, 6))
    a, b = rng.standard_normal((6, 2)), rng.standard_normal((2, 6))
    adapter = TrainedAdapter(
        6,
        {
            "query": Side("linear", {"W": w}),
            "document": Side("low_rank", {"A": a, "B": b}, scaling=0.5),
        },
    )
    want = np.linalg.norm(w - np.eye(6)) / np.linalg.norm(np.eye(6))
    assert distance_from_identity(adapter, "query") == pytest.approx(want)
    low = np.linalg.norm(0.5 * a @ b) / np.sqrt(6)
    assert distance_from_identity(adapter, "document") == pytest.approx(low)
    assert distance_from_identity(None, "query") == 0
    assert distance_from_identity(TrainedAdapter(6), "document") == 0
    assert np.isnan(distance_from_identity(lambda x, side: x, "query"))
    narrow = TrainedAdapter(6, {"query": Side("linear", {"W": w[:, :3]})})
    assert np.isnan(distance_from_identity(narrow, "query"))


# Health ---------------------------------------------------------------------------------------


def data(n=300, d=24, seed=0, queries=0.5):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, d))
    return Pairs((x + queries * rng.standard_normal((n, d))).astype(np.float32), x.astype("f4"))


def squeeze(keep, d=24, side="query", bias=None):
    """An adapter that keeps some directions whole, and a millionth of the others."""
    w = np.diag(np.where(np.arange(d) < keep, 1.0, 1e-6)).astype(np.float32)
    arrays = {"W": w} if bias is None else {"W": w, "b": np.full(d, bias, np.float32)}
    return TrainedAdapter(d, {side: Side("linear", arrays)})


def test_the_measures_are_those_of_the_vectors(library):
    pairs = data(60, 8)
    there = Pairs(library.asarray(pairs.queries), library.asarray(pairs.documents))
    found = health(None, there)
    q, d = (unit(np.asarray(x, np.float64)) for x in (pairs.queries, pairs.documents))
    assert found.effective_rank == pytest.approx(effective_rank(q))
    assert found.document_effective_rank == pytest.approx(effective_rank(d))
    assert found.alignment == pytest.approx(alignment(q, d))
    assert found.uniformity == pytest.approx(uniformity(q))
    assert found.document_uniformity == pytest.approx(uniformity(d))
    assert found.hubness == pytest.approx(hubness(q, d))
    assert (found.sampled_queries, found.sampled_documents) == (60, 60)
    assert (found.collapsed, found.reason) == (False, "")


def test_samples_are_drawn_by_the_seed_and_are_enough(monkeypatch):
    pairs = data(4000, 16)
    whole = health(None, pairs, sample=4000)
    some = health(None, pairs, sample=500)
    assert (some.sampled_queries, some.sampled_documents) == (500, 500)
    assert some == health(None, pairs, sample=500) != health(None, pairs, sample=500, seed=1)
    assert some.effective_rank == pytest.approx(whole.effective_rank, rel=0.02)
    assert some.alignment == pytest.approx(whole.alignment, rel=0.1)
    assert some.uniformity == pytest.approx(whole.uniformity, rel=0.05)
    touched = []

    def spy(x, side):
        touched.append(len(x))
        return x

    health(spy, pairs, sample=100)
    assert max(touched) == 100  # so that it costs the same on millions of rows


def test_labels(rng):
    labels = rng.integers(4, size=200)
    x = rng.standard_normal((4, 12))[labels] + 0.3 * rng.standard_normal((200, 12))
    found = health(None, Pairs.labelled(x, labels))
    assert found.alignment < 0.5
    assert not found.collapsed
    train, dev, _ = Pairs.labelled(x, labels).split()
    assert health(None, dev).alignment < 0.5
    assert not health(None, train).collapsed


def test_json_has_none_for_what_is_not_known():
    found = health(lambda x, side: x, data(8, 4))
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert json.loads(text)["distance_from_identity"] is None
    assert json.loads(text)["hubness"] is None  # of eight documents, ten are never nearest
    assert json.loads(text)["collapsed"] is False


@pytest.mark.parametrize(
    ("adapter", "reason"),
    [
        (squeeze(1), "queries lie on one line: effective rank 1."),
        (squeeze(2), "queries lost most of their directions: effective rank 2.0, below a tenth"),
        (squeeze(24, bias=100.0), "queries point nearly all the same way: uniformity -0.0"),
        (squeeze(2, side="document"), "documents lost most of their directions"),
        (squeeze(24, side="document", bias=100.0), "documents point nearly all the same way"),
    ],
)
def test_collapse_raises_the_alarm(adapter, reason):
    pairs = data()
    base = health(None, pairs)
    found = health(adapter, pairs, base=base)
    assert found.collapsed
    assert reason in found.reason
    assert not base.collapsed


def test_a_base_that_is_collapsed_itself_is_named():
    rng = np.random.default_rng(0)
    x = (np.ones((200, 24)) + 0.01 * rng.standard_normal((200, 24))).astype(np.float32)
    found = health(None, Pairs(x, x))
    assert found.collapsed
    assert found.reason.count("point nearly all the same way") == 2


@pytest.mark.parametrize("case", ["normal", "narrow cone", "few directions", "tiny", "2-d", "turn"])
def test_the_alarm_is_quiet_on_healthy_vectors(case):
    pairs = {"tiny": data(3, 8), "2-d": data(50, 2)}.get(case, data())
    if case == "narrow cone":  # all cosines about 0.8, as those of some embedders
        shift = 2 * np.ones(24, np.float32)
        pairs = Pairs(pairs.queries + shift, pairs.documents + shift)
    adapter = {"few directions": squeeze(6), "turn": squeeze(24)}.get(case)
    base = health(None, pairs)
    for found in (base, health(adapter, pairs, base=base)):
        assert (found.collapsed, found.reason) == (False, "")


def test_the_alarm_is_quiet_on_real_texts():
    pytest.importorskip("emoji")
    pairs = demo.pairs(Hashing())
    found = health(None, pairs)
    assert not found.collapsed
    assert found.effective_rank > 20
    assert found.uniformity < geometry.CROWDED
