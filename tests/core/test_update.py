"""``update``: deterministic, a no-op where nothing is learned, held, and gated."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

import coreframe as cf
from coreframe.artefact import Side, TrainedAdapter
from coreframe.config import GateSettings
from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError, ArgumentTypeError

D = 16
FAST = {"learning_rate": 0.02, "epochs": 15, "batch_size": 64}
GATE = GateSettings(resamples=300)


def subject(number, count=300, seed=0):
    """Documents lie in one half of the space; queries are bent there, and look elsewhere."""
    rng = np.random.default_rng(10 * number + seed)
    here = np.arange(D) % 2 == number % 2
    documents = rng.standard_normal((count, D)) * np.where(here, 1.0, 0.05)
    turn = np.linalg.qr(np.random.default_rng(number).standard_normal((D // 2, D // 2)))[0]
    bent = np.eye(D)
    bent[np.ix_(here, here)] = 0.3 * np.eye(D // 2) + turn
    queries = (documents + 0.3 * rng.standard_normal((count, D)) * np.where(here, 1, 0.05)) @ bent
    return Pairs(queries.astype(np.float32), documents.astype(np.float32))


def quality(adapter, pairs):
    return cf.evaluate(adapter, pairs).mean()["ndcg@10"]


def maps(adapter):
    return {
        (side, name): x for side in ("query", "document")
        for name, x in adapter.side(side).arrays.items()
    }  # fmt: skip


def same(one, other):
    a, b = maps(one), maps(other)
    return set(a) == set(b) and all(np.array_equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def first():
    return cf.update(TrainedAdapter(D), subject(1), **FAST)


def test_it_learns_and_the_old_one_stays() -> None:
    old = TrainedAdapter(D, base_model="some/model")
    new = cf.update(old, subject(1), **FAST)
    assert new.promoted
    assert isinstance(new, TrainedAdapter)
    assert new.base_model == "some/model"
    assert old.is_identity
    assert not new.rebuilds_index
    assert quality(new, subject(1, seed=1)) > quality(None, subject(1, seed=1)) + 0.1
    assert new.gate is None


def test_it_is_deterministic_and_can_be_stored(first, tmp_path) -> None:
    assert same(cf.update(TrainedAdapter(D), subject(1), **FAST), first)
    assert not same(cf.update(TrainedAdapter(D), subject(1), **FAST, seed=1), first)
    first.save(tmp_path)
    assert same(cf.load(tmp_path), first)


def test_two_updates_know_both(first) -> None:
    test = subject(1, seed=1)
    held = cf.update(first, subject(2), **FAST, strength=30.0, keep={"one": test}, gate=GATE)
    free = cf.update(first, subject(2), **FAST, hold="none")
    assert held.learned.tasks == 2
    assert quality(held, subject(2, seed=1)) > quality(first, subject(2, seed=1)) + 0.1
    assert quality(held, test) > quality(first, test) - 0.02
    assert quality(free, test) < quality(first, test) - 0.05
    (row,) = held.forgetting
    assert (row.name, row.forgotten) == ("one", False)
    assert row.after["ndcg@10"] == pytest.approx(quality(held, test))


def test_what_forgets_is_not_promoted(first) -> None:
    test = subject(1, seed=1)
    stays = cf.update(first, subject(2), **FAST, hold="none", keep=test, gate=GATE)
    assert same(stays, first)
    assert not stays.promoted
    assert stays.gate.reason == "it forgets: kept 1"
    assert stays.learned is first.learned


def test_nothing_to_learn_is_no_change() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, D)).astype(np.float32)
    perfect = Pairs(x, x)
    start = TrainedAdapter(D)
    new = cf.update(start, perfect, **FAST)
    assert not new.promoted
    y = rng.standard_normal((7, D)).astype(np.float32)
    np.testing.assert_array_equal(new(y), start(y))
    # A pair or two are nothing either.
    few = cf.update(start, perfect.take([0, 1]), **FAST)
    assert not few.promoted
    assert few.gate.reason == "2 pairs are fewer than minimum_pairs = 20"
    np.testing.assert_array_equal(few(y), start(y))


def test_noise_does_not_pass_the_gate(first) -> None:
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, 400, D)).astype(np.float32)
    new, test = Pairs(x[0], x[1]).take(np.arange(300)), Pairs(x[0], x[1]).take(np.arange(300, 400))
    stays = cf.update(first, new, **FAST, test=test, gate=GATE)
    assert not stays.gate.passed
    assert stays.gate.reason
    assert stays.gate.hint
    assert same(stays, first)
    better = cf.update(TrainedAdapter(D), subject(1), **FAST, test=subject(1, seed=1), gate=GATE)
    assert better.gate.passed
    assert better.promoted


@pytest.mark.parametrize("form", ["linear", "bias", "low_rank", "both", "two maps"])
def test_every_form_of_adapter_goes_on(form) -> None:
    rng = np.random.default_rng(1)
    w = (np.eye(D) + 0.1 * rng.standard_normal((D, D))).astype(np.float32)
    b = 0.1 * rng.standard_normal(D).astype(np.float32)
    a = {"A": w[:, :3], "B": 0.1 * w[:3]}
    sides = {
        "linear": {"query": Side("linear", {"W": w})},
        "bias": {"query": Side("linear", {"W": w, "b": b})},
        "low_rank": {"query": Side("low_rank", a, 2.0)},
        "both": {"query": Side("linear", {"W": w}), "document": Side("linear", {"W": w})},
        "two maps": {"query": Side("linear", {"W": w}), "document": Side("linear", {"W": w.T})},
    }[form]
    old = TrainedAdapter(D, sides)
    still = cf.update(old, subject(1), epochs=1, learning_rate=0.0, dev=subject(1, seed=1))
    assert not still.promoted
    assert same(still, old)
    new = cf.update(old, subject(1), **FAST)
    assert new.promoted
    assert quality(new, subject(1, seed=1)) > quality(old, subject(1, seed=1))
    assert new.side("query").form == ("low_rank" if form == "low_rank" else "linear")
    assert new.rebuilds_index == old.rebuilds_index
    if form == "two maps":
        np.testing.assert_array_equal(new.side("document").arrays["W"], w.T)
    if form == "both":
        assert new.side("query").arrays["W"] is new.side("document").arrays["W"] or same(
            TrainedAdapter(D, {"query": new.side("query")}),
            TrainedAdapter(D, {"query": new.side("document")}),
        )
    # Its history is not known, so all is held alike, then too.
    assert new.learned.without.startswith("the adapter came without")
    assert not new.learned.fisher


def test_a_run_of_fit_can_be_updated() -> None:
    run = cf.fit(subject(1), epochs=2)
    new = cf.update(run, subject(1), epochs=1, learning_rate=0.0, dev=subject(1, seed=1))
    assert same(new, run.adapter)


def test_it_works_on_every_library(library) -> None:
    pairs = subject(1, count=120)
    there = Pairs(*(library.asarray(x) for x in (pairs.queries, pairs.documents)))
    options = FAST | {"epochs": 2, "batch_size": 120}  # one shape for JAX to compile
    found, want = (
        cf.update(TrainedAdapter(D), there, **options),
        cf.update(TrainedAdapter(D), pairs, **options),
    )
    assert found.epoch == want.epoch
    for key, x in maps(want).items():
        np.testing.assert_allclose(maps(found)[key], x, atol=1e-4)


def test_what_cannot_be_is_said(first) -> None:
    narrow = Pairs(np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32))
    with pytest.raises(ArgumentError, match="new_pairs has vectors of width 4, but the adapter"):
        cf.update(first, narrow)
    with pytest.raises(ArgumentTypeError, match=r"new_pairs must be coreframe\.Pairs"):
        cf.update(first, np.eye(3))
    with pytest.raises(
        ArgumentTypeError, match="adapter must be a coreframe adapter, a stored run"
    ):
        cf.update("runs/first", subject(1))


def test_a_thousand_pairs_take_as_long_as_a_few_steps() -> None:
    """A third of a second; beside plain steps in NumPy, which a slow machine slows down as well."""
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((1000, 384)).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((384, 384)))[0]
    queries = 0.15 * documents + documents @ turn + 1.5 * rng.standard_normal(documents.shape)
    pairs = Pairs(queries.astype(np.float32), documents)
    from threadpoolctl import threadpool_limits

    def ten_steps() -> None:
        for _ in range(10):
            s = pairs.queries @ turn @ documents.T
            e = np.exp(s - s.max(axis=1, keepdims=True))
            pairs.queries.T @ ((e / e.sum(axis=1, keepdims=True)) @ documents)

    def seconds(call: Callable[[], object]) -> float:
        started = time.process_time()
        call()
        return time.process_time() - started

    turn = turn.astype(np.float32)
    with threadpool_limits(1):
        cf.update(TrainedAdapter(384), pairs)
        ratios = (
            seconds(lambda: cf.update(TrainedAdapter(384), pairs)) / seconds(ten_steps)
            for _ in range(5)
        )
        assert any(ratio < 5 for ratio in ratios)  # 1.4 on a quiet machine


def test_right_documents_of_dev_are_no_negatives(monkeypatch) -> None:
    class Seen(Exception):
        pass

    def see(train, dev, **_):
        raise Seen(train, dev)

    monkeypatch.setattr("coreframe.continual.fit", see)
    x = np.random.default_rng(0).standard_normal((80, 8)).astype(np.float32)
    rows = np.arange(80)
    pairs = Pairs(x, x + 1, irrelevant=np.stack([rows, (rows + 1) % 80], axis=1))
    with pytest.raises(Seen) as caught:
        cf.update(TrainedAdapter(8), pairs)
    train, dev = caught.value.args
    assert len(train) + len(dev) == 80
    assert len(train.irrelevant)
    assert not set(train.irrelevant[:, 1]) & set(dev.relevance.pairs[:, 1])
