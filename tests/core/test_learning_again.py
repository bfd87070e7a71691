"""What a run leaves for the next, holding it, the forgetting table, and the learning curve."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from coreframe import build, config
from coreframe.artefact import Side, TrainedAdapter
from coreframe.compose import Symmetric
from coreframe.config import ContinualSettings, CurveSettings, GateSettings
from coreframe.curve import CurvePoint, learning_curve, left_out, subsets, would_more_help
from coreframe.data.batches import Batches
from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError, ArtefactError
from coreframe.evaluation.compare import Gain
from coreframe.evaluation.retrieval import evaluate
from coreframe.experiment import experiment
from coreframe.fisher_information import fisher
from coreframe.forgetting import Earlier, Kept, Trial, choose, forgetting, holding, trials
from coreframe.learned import Learned, learn, one_direction
from coreframe.outputs import summary

D = 16


def task(number, count=500, noise=0.3, seed=0):
    """Pairs of one subject: documents lie in one half of the space, and queries are bent there."""
    rng = np.random.default_rng(10 * number + seed)
    here = np.arange(D) % 2 == number % 2
    documents = rng.standard_normal((count, D)) * np.where(here, 1.0, 0.05)
    bend = np.random.default_rng(number).standard_normal((D // 2, D // 2))
    left, _, right = np.linalg.svd(bend)
    bent = np.eye(D)
    bent[np.ix_(here, here)] = left * np.exp(np.linspace(-1.5, 1.5, D // 2)) @ left.T @ right
    queries = (documents + noise * rng.standard_normal((count, D)) * np.where(here, 1, 0.05)) @ bent
    return Pairs(queries.astype(np.float32), documents.astype(np.float32))


def settings(*assignments):
    short = ["train.epochs=25", "train.batch_size=64", "gate.resamples=300"]
    short += [
        "continual.strengths=[0.1, 1.0, 10.0]",
        "optimizer.learning_rate=0.02",
        "train.start=identity",
        "curve.enabled=never",
    ]
    return config.read(None, [*short, *assignments])


@pytest.fixture(scope="module")
def first():
    outcome = experiment(*task(1).split(0.2, 0.3, seed=3), settings())
    assert outcome.promoted == "trained"
    return outcome


def earlier(outcome, *, kept=True):
    sets = (Kept(name="one", test=outcome.test, dev=outcome.dev),) if kept else ()
    return Earlier(adapter=outcome.adapter, learned=outcome.learned, kept=sets)


# What a run leaves ------------------------------------------------------------------------------


def test_what_is_learned_is_where_the_run_ended(first) -> None:
    learned = first.learned
    assert learned.tasks == 1
    assert learned.without == ""
    np.testing.assert_array_equal(learned.own["W"], first.adapter.side("query").arrays["W"])
    # The Fisher is that of the run's own pairs, at its parameters, of mean 1.
    loss = build("losses", "info_nce", temperature=0.05)
    batches = Batches(pairs=first.train, batch_size=64, seed=42)
    want = fisher(build("adapters", "linear"), learned.own, loss, batches).normalized("mean")
    np.testing.assert_allclose(learned.fisher["W"], want.diagonal["W"], rtol=1e-4, atol=1e-6)
    assert learned.fisher["W"].mean() == pytest.approx(1, rel=1e-5)


def test_tasks_add_up(first) -> None:
    again = learn(
        build("adapters", "linear"), first.run.params, first.train,
        loss=build("losses", "info_nce", temperature=0.05), side="query", batch_size=64, seed=42,
        earlier=first.learned,
    )  # fmt: skip
    assert again.tasks == 2
    np.testing.assert_allclose(again.fisher["W"], 2 * first.learned.fisher["W"], rtol=1e-5)


def test_it_is_stored_to_the_bit(first, tmp_path) -> None:
    start = {"query": Side("linear", {"W": np.eye(D, dtype=np.float32)})}
    learned = replace(first.learned, start=start, without="")
    (tmp_path / "learned.safetensors").write_bytes(learned.encode())
    back = Learned.load(tmp_path / "learned.safetensors")
    assert (back.tasks, back.without) == (1, "")
    assert set(back.params) == set(learned.params)
    for name, x in learned.params.items():
        np.testing.assert_array_equal(back.params[name], x)
    np.testing.assert_array_equal(back.fisher["W"], learned.fisher["W"])
    assert back.start["query"].form == "linear"
    np.testing.assert_array_equal(back.start["query"].arrays["W"], np.eye(D))


def test_a_damaged_state_is_refused(first, tmp_path) -> None:
    path = tmp_path / "learned.safetensors"
    worse = replace(first.learned, fisher={"W": -first.learned.fisher["W"]})
    path.write_bytes(worse.encode())
    with pytest.raises(ArtefactError, match=r"learned.safetensors is damaged: .*Fisher of W"):
        Learned.load(path)
    path.write_bytes(replace(first.learned, fisher={"V": np.ones(3)}).encode())
    with pytest.raises(ArtefactError, match="is damaged"):
        Learned.load(path)
    with pytest.raises(ArtefactError, match=r"missing.safetensors cannot be read"):
        Learned.load(tmp_path / "missing.safetensors")


def test_losses_of_two_directions_lose_the_second() -> None:
    one = build("losses", "info_nce", temperature=0.1)
    both = build("losses", "info_nce", temperature=0.1, symmetric=True)
    assert one_direction(both) == one
    assert one_direction(Symmetric(loss=one)) == one
    assert one_direction(one) is one


def test_a_symmetric_run_has_a_fisher() -> None:
    outcome = experiment(
        *task(1).split(0.2, 0.3, seed=3), settings("losses.0.symmetric=true", "train.epochs=2")
    )
    assert outcome.learned.fisher["W"].any()


# Going on ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second(first):
    return experiment(*task(2).split(0.2, 0.3, seed=3), settings(), earlier=earlier(first))


def test_both_tasks_are_known_afterwards(first, second) -> None:
    assert second.continued
    assert second.promoted == "trained"
    assert second.start == "previous"
    assert list(second.candidates) == ["identity", "previous", "trained"]
    assert second.learned.tasks == 2
    (row,) = second.forgetting
    assert row.name == "one"
    assert not row.forgotten
    assert row.before["ndcg@10"] == pytest.approx(
        first.gate.gain + first.candidates["identity"].test.mean()["ndcg@10"]
    )
    assert row.gain.gain == pytest.approx(row.after["ndcg@10"] - row.before["ndcg@10"])
    assert row.gain.gain > -0.02
    # The gate looks at the gain over what was there before, not over the base.
    over = second.over_previous.gains["ndcg@10"]
    assert second.gate.gain == over.gain
    assert over.base == pytest.approx(second.candidates["previous"].test.mean()["ndcg@10"])
    told = summary(second, settings())
    assert json.loads(json.dumps(told))["forgetting"][0]["name"] == "one"
    assert told["gate"]["over"] == "previous"
    assert len(told["continued"]["trials"]) == 3


def test_without_a_pull_the_first_is_forgotten_and_the_gate_says_so(first) -> None:
    free = settings('continual.hold="none"', "train.epochs=40", "optimizer.learning_rate=0.02")
    outcome = experiment(*task(2).split(0.2, 0.3, seed=3), free, earlier=earlier(first))
    assert len(outcome.trials) == 1
    (row,) = outcome.forgetting
    assert row.forgotten
    assert not outcome.gate.passed
    assert "it forgets: one: ndcg@10" in outcome.gate.reason
    assert outcome.promoted == "previous"
    assert outcome.adapter.side("query").arrays["W"] is first.adapter.side("query").arrays["W"]
    assert outcome.learned is first.learned


def test_nothing_to_learn_keeps_the_earlier_adapter(first) -> None:
    still = settings("optimizer.learning_rate=0.0", "train.epochs=2")
    outcome = experiment(*task(2).split(0.2, 0.3, seed=3), still, earlier=earlier(first))
    assert outcome.kept == outcome.promoted == "previous"
    assert outcome.gate.reason == "no candidate beat the earlier adapter on dev"
    new, old = outcome.candidates["trained"].adapter, first.adapter
    np.testing.assert_array_equal(new.side("query").arrays["W"], old.side("query").arrays["W"])


@pytest.mark.parametrize("start", ["procrustes", "whitening"])
def test_a_run_with_a_start_goes_on_where_it_stood(start) -> None:
    both = "both" if start == "whitening" else "query"
    chosen = settings(f"train.start={start}", f"train.side={both}", "train.epochs=3")
    one = experiment(*task(1).split(0.2, 0.3, seed=3), chosen)
    held = Earlier(adapter=one.candidates["trained"].adapter, learned=learn(
        chosen.adapter, one.run.params, one.train, loss=chosen.loss, side=both, batch_size=64,
        seed=42, start=one.candidates[start].adapter.sides,
    ))  # fmt: skip
    still = settings("optimizer.learning_rate=0.0", f"train.side={both}", "train.epochs=1")
    outcome = experiment(*task(2).split(0.2, 0.3, seed=3), still, earlier=held)
    for side in ("query", "document"):
        a, b = (x.side(side).arrays for x in (outcome.run.adapter, held.adapter))
        assert set(a) == set(b)
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


def test_a_baseline_that_was_promoted_is_what_is_gone_on_from() -> None:
    still = settings("optimizer.learning_rate=0.0", "train.start=procrustes", "train.epochs=1")
    one = experiment(*task(1).split(0.2, 0.3, seed=3), still)
    assert one.promoted == "procrustes"
    assert set(one.learned.start) == {"query"}
    outcome = experiment(*task(2).split(0.2, 0.3, seed=3), settings(), earlier=earlier(one))
    assert outcome.candidates["previous"].test.mean() == pytest.approx(
        evaluate(one.adapter, outcome.test).mean()
    )
    assert outcome.gate.passed


# Holding ----------------------------------------------------------------------------------------


def trial(strength, new, **changes):
    return Trial(hold="ewc", strength=strength, pull=None, run=None, new=new, changes=changes)


def test_the_strength_is_the_best_that_loses_no_more_than_is_allowed() -> None:
    weak, middle, strong = trial(0.1, 0.6, a=-0.05), trial(1, 0.5, a=-0.01), trial(10, 0.4, a=0.0)
    assert choose([weak, middle, strong], 0.01) is middle
    assert choose([weak, middle, strong], 0.05) is weak
    assert choose([weak, middle, strong], 0.0) is strong
    # Each kept set counts; where none is within, the one that loses least.
    other = trial(1, 0.5, a=0.1, b=-0.02)
    assert choose([weak, other], 0.01) is other
    # Of equals, the one that holds harder; without kept sets, the best.
    assert choose([trial(1, 0.5), trial(2, 0.5)], 0.01).strength == 2
    assert choose([trial(1, 0.5), trial(2, 0.4)], 0.01).strength == 1


def test_what_holds() -> None:
    params = {"adapter.W": np.eye(3, dtype=np.float32)}
    known = Learned(params=params, fisher={"W": np.ones((3, 3), np.float32)}, tasks=1)
    hold, pull = holding(known, ContinualSettings())
    assert hold == "ewc"
    assert float(pull(2.0).value_and_grad({"W": np.zeros((3, 3))}).value) == 3.0
    without = Learned(params=params, without="no losses of examples")
    assert holding(without, ContinualSettings())[0] == "l2"
    with pytest.raises(ArgumentError, match="lacks: no losses of examples; use 'l2'"):
        holding(without, ContinualSettings(hold="ewc"))
    assert holding(known, ContinualSettings(hold="none"))[1](1.0) is None
    with pytest.raises(ArgumentError, match="strengths"):
        ContinualSettings(strengths=())


def test_a_strength_that_is_given_twice_is_tried_once() -> None:
    pairs, names = task(1, 60), []
    earlier = Earlier(
        adapter=TrainedAdapter(D),
        learned=Learned(params={"adapter.W": np.eye(D, dtype=np.float32)}),
        kept=(Kept(name="x", test=pairs, dev=pairs),),
    )

    def fit_held(name, pull):
        names.append(name)
        return SimpleNamespace(adapter=TrainedAdapter(D), dev={"ndcg@10": 0.5})

    trials(earlier, fit_held, ContinualSettings(strengths=(0.3, 0.1, 0.3)), "ndcg@10")
    assert names == ["l2-0.1", "l2-0.3"]


def test_a_kept_set_gives_a_part_to_choose_on() -> None:
    pairs = task(1)
    groups = np.arange(500) // 3
    pairs = Pairs(pairs.queries, pairs.documents, groups=groups)
    kept = Kept.of("x", pairs)
    both = np.concatenate([kept.test.query_rows, kept.dev.query_rows])
    assert sorted(both) == list(range(500))
    assert 0.2 < len(kept.dev) / 500 < 0.4
    # Whatever the order that the queries stand in.
    turned = Kept.of("x", pairs.take(np.arange(500)[::-1]))
    both = np.concatenate([turned.test.query_rows, turned.dev.query_rows])
    assert sorted(both) == list(range(500))
    assert not set(groups[kept.test.query_rows]) & set(groups[kept.dev.query_rows])
    assert (np.diff(kept.test.query_rows) > 0).all()
    np.testing.assert_array_equal(
        np.unique(kept.test.groups, return_inverse=True)[1],
        np.unique(groups[kept.test.query_rows], return_inverse=True)[1],
    )
    small = pairs.take(np.arange(30))
    assert Kept.of("x", small).dev is None
    assert Kept.of("x", small).test is small


def test_the_forgetting_table() -> None:
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((200, D)).astype(np.float32)
    pairs = Pairs(documents + 0.5 * rng.standard_normal((200, D)).astype(np.float32), documents)
    bad = {"W": rng.standard_normal((D, D)).astype(np.float32)}
    spoilt = TrainedAdapter(D, {"query": Side("linear", bad)})
    held = Earlier(
        adapter=TrainedAdapter(D), learned=Learned(params={}), kept=(Kept(name="x", test=pairs),)
    )
    (row,) = forgetting(held, spoilt, GateSettings(resamples=300), seed=1)
    assert row.forgotten
    assert row.base == row.before == evaluate(None, pairs).mean()
    assert row.after == evaluate(spoilt, pairs).mean()
    (row,) = forgetting(held, spoilt, GateSettings(resamples=300, maximum_forgetting=1.0), seed=1)
    assert not row.forgotten
    (row,) = forgetting(held, held.adapter, GateSettings(resamples=300), seed=1)
    assert not row.forgotten


# The learning curve -----------------------------------------------------------------------------


def test_shares_are_nested_and_hold_whole_groups() -> None:
    pairs = task(1, count=300)
    groups = np.arange(300) // 4
    pairs = Pairs(pairs.queries, pairs.documents, groups=groups)
    small, large = subsets(pairs, (0.1, 0.3), seed=1)
    assert set(small) < set(large)
    assert 26 <= len(small) <= 30
    assert 86 <= len(large) <= 90
    for rows in (small, large):
        assert not set(groups[rows]) & set(np.delete(groups, rows))
    again = subsets(pairs, (0.1, 0.3), seed=1)
    np.testing.assert_array_equal(again[1], large)
    assert set(subsets(pairs, (0.3,), seed=2)[0]) != set(large)


def test_the_curve_of_a_run(first) -> None:
    outcome = experiment(*task(1).split(0.2, 0.3, seed=3), settings("curve.enabled=always"))
    assert [point.share for point in outcome.curve] == [0.1, 0.3, 1.0]
    small, middle, whole = outcome.curve
    assert small.pairs < middle.pairs < whole.pairs == len(outcome.train.examples)
    assert whole.metrics == outcome.candidates["trained"].test.mean()
    assert whole.gain == outcome.candidates["trained"].gain.gains["ndcg@10"]
    assert whole.step.gain == pytest.approx(whole.metrics["ndcg@10"] - middle.metrics["ndcg@10"])
    assert small.metrics["ndcg@10"] < whole.metrics["ndcg@10"]
    # The run itself is the same with and without a curve.
    np.testing.assert_array_equal(outcome.run.params["adapter.W"], first.run.params["adapter.W"])
    assert outcome.more_labels
    assert "from " in outcome.more_labels
    told = summary(outcome, settings())["learning_curve"]
    assert told["answer"] == outcome.more_labels
    assert len(told["points"]) == 3


def test_why_there_is_no_curve(first) -> None:
    assert first.curve == ()
    assert first.no_curve == "turned off (curve.enabled)"
    assert first.more_labels == ""
    large = CurveSettings(maximum_pairs=100)
    assert left_out(first.train, large).startswith(
        "250 pairs are more than curve.maximum_pairs = 100"
    )
    assert left_out(first.train, replace(large, enabled="always")) == ""
    assert "too few to take a part of" in left_out(first.train.take(np.arange(20)), CurveSettings())
    with pytest.raises(ArgumentError, match="must rise inside"):
        CurveSettings(shares=(0.3, 0.1))


def point(pairs, gain, low, high):
    step = Gain(0.5, 0.5 + gain, gain, low, high, 5, 5, 5, 0.5)
    return CurvePoint(share=0.3, queries=pairs, pairs=pairs, metrics={}, gain=step, step=step)


@pytest.mark.parametrize(
    ("gain", "low", "high", "answer"),
    [
        (0.04, 0.02, 0.06, "More labels would help: from 100 to 400 pairs m changed by +0.040"),
        (0.002, -0.004, 0.008, "More labels of this kind would bring little"),
        (0.002, 0.001, 0.003, "More labels of this kind would bring little"),
        (0.02, -0.01, 0.05, "Whether more labels would help cannot be told"),
    ],
)
def test_the_answer_in_words(gain, low, high, answer) -> None:
    text = would_more_help([point(100, 0, 0, 0), point(400, gain, low, high)], "m")
    assert text.startswith(answer)
    if gain == 0.04:
        assert text.endswith("about +0.020 each time they doubled.")


def test_shares_below_the_least_are_left_out() -> None:
    pairs, test = task(1, count=300), task(1, count=50)
    base = evaluate(None, test)
    seen = []

    def fit_share(name, part):
        seen.append((name, len(part)))
        return TrainedAdapter(D)

    points = learning_curve(
        pairs, test, fit_share, CurveSettings(minimum_queries=50), before=base, after=base,
        metric="ndcg@10", resamples=200, seed=1,
    )  # fmt: skip
    assert seen == [("curve-0.3", 90)]
    assert [p.share for p in points] == [0.3, 1.0]
