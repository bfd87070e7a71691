"""The evidence: what is kept, what the gate lets through, and the demo's data and gain."""

from __future__ import annotations

import re

import numpy as np
import pytest

from coreframe import config, demo
from coreframe.callbacks import Callback
from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError, MissingExtra
from coreframe.evaluation.compare import compare
from coreframe.evaluation.retrieval import evaluate
from coreframe.experiment import experiment

D = 16


def settings(*assignments, epochs=8):
    """The run of a user without a file, shorter, with some values set."""
    short = [
        f"train.epochs={epochs}",
        "train.batch_size=64",
        "gate.resamples=500",
        "curve.enabled=never",
    ]
    return config.read(None, [*short, *assignments])


def rotation(n=600, noise=1.2, seed=0, turn=True):
    rng = np.random.default_rng(seed)
    documents = rng.standard_normal((n, D)).astype(np.float32)
    matrix = np.linalg.qr(rng.standard_normal((D, D)))[0] if turn else np.eye(D)
    queries = documents @ matrix + noise * rng.standard_normal((n, D))
    return Pairs(queries.astype(np.float32), documents)


def stretched(n=600, seed=0):
    """A few directions that say nothing drown the others: whitening is what helps."""
    rng = np.random.default_rng(seed)
    documents = rng.standard_normal((n, D))
    queries = documents + 0.6 * rng.standard_normal((n, D))
    loud = rng.standard_normal((2, n, 3)) * 25
    queries, documents = (
        np.concatenate(x, axis=1) for x in zip((queries, documents), loud, strict=True)
    )
    return Pairs(queries.astype(np.float32), documents.astype(np.float32))


def noise(n=600, seed=0):
    """Pairs that have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, n, D)).astype(np.float32)
    return Pairs(x[0], x[1])


def run(data, *assignments, dev=0.2, test=0.3, **options):
    return experiment(*data.split(dev, test, seed=3), settings(*assignments, **options))


@pytest.fixture(scope="module")
def turned():
    return run(rotation())


# The gate -----------------------------------------------------------------------------------


def test_a_gain_that_is_there_passes(turned):
    gate = turned.gate
    assert gate.passed
    assert gate.hint == ""
    assert (gate.metric, gate.minimum_gain) == ("ndcg@10", 0.0)
    assert 0 < gate.low < gate.gain < gate.high
    assert re.fullmatch(r"ndcg@10 0\.\d+ -> 0\.\d+, \+0\.\d+ \[\+0\.\d+, \+0\.\d+\]", gate.reason)
    assert turned.promoted == turned.kept
    assert turned.adapter is turned.candidates[turned.kept].adapter
    assert not turned.adapter.is_identity
    again = compare(turned.adapter, turned.test, resamples=500).gains["ndcg@10"]
    assert (again.gain, again.low, again.high) == (gate.gain, gate.low, gate.high)


def test_every_candidate_is_on_the_table(turned):
    assert list(turned.candidates) == ["identity", "whitening", "procrustes", "trained"]
    for name, candidate in turned.candidates.items():
        assert candidate.name == name
        assert candidate.dev == pytest.approx(evaluate(candidate.adapter, turned.dev).mean())
        assert candidate.test.mean() == pytest.approx(
            evaluate(candidate.adapter, turned.test).mean()
        )
        assert candidate.allowed == (name != "whitening")
        assert candidate.adapter.rebuilds_index == (name == "whitening")
    base = turned.candidates["identity"].gain.gains["ndcg@10"]
    assert (base.gain, base.low, base.high) == (0, 0, 0)
    best = max(c.dev["ndcg@10"] for c in turned.candidates.values() if c.allowed)
    assert turned.candidates[turned.kept].dev["ndcg@10"] == best
    assert turned.comparison is turned.candidates[turned.kept].gain


def test_pairs_of_noise_promote_nothing():
    for seed in range(3):
        outcome = run(noise(seed=seed), epochs=3)
        assert not outcome.gate.passed
        assert outcome.promoted == "identity"
        assert outcome.adapter.is_identity
        hints = ("nothing beat", "the pairs may say", "it makes unseen", "only ", "if the gain is")
        assert outcome.gate.hint.startswith(hints)
        if outcome.kept == "identity":
            assert outcome.gate.reason == "no candidate beat the base on dev"


def test_a_saturated_base():
    outcome = run(rotation(turn=False, noise=0.01), epochs=2)
    assert not outcome.gate.passed
    assert outcome.adapter.is_identity
    assert outcome.gate.hint == "ndcg@10 is 1.00 as it is: there is little left to win"


def test_few_pairs():
    outcome = run(noise(120), epochs=2)
    train = len(outcome.train)
    assert train < 200
    assert not outcome.gate.passed
    assert outcome.gate.hint.startswith(f"{train} training queries are few: label more")


def test_few_test_queries():
    outcome = run(noise(300), dev=0.1, test=0.1, epochs=2)
    assert not outcome.gate.passed
    assert outcome.gate.hint.startswith(f"{len(outcome.test)} test queries leave a wide interval")


def test_the_gain_must_be_above_the_minimum(turned):
    minimum = (turned.gate.low + turned.gate.gain) / 2
    stricter = run(rotation(), f"gate.minimum_gain={minimum:.4f}")
    assert stricter.gate.gain == pytest.approx(turned.gate.gain)
    assert not stricter.gate.passed
    assert stricter.kept == turned.kept
    assert stricter.promoted == "identity"
    assert stricter.gate.reason == turned.gate.reason


def test_the_metric_is_the_one_that_was_asked_for():
    outcome = run(rotation(), "gate.metric=recall@1")
    assert outcome.gate.metric == "recall@1"
    assert outcome.gate.reason.startswith("recall@1 ")
    assert outcome.gate.gain == outcome.comparison.gains["recall@1"].gain


# What is kept, and where training starts ----------------------------------------------------


def test_whitening_is_kept_on_both_sides_only():
    data = stretched()
    both = run(data, "train.side=both", "train.start=identity", epochs=1)
    scores = {name: c.dev["ndcg@10"] for name, c in both.candidates.items()}
    assert max(scores, key=scores.get) == "whitening"
    assert both.kept == both.promoted == "whitening"
    assert both.adapter.rebuilds_index
    query = run(data, "train.side=query", "train.start=identity", epochs=1)
    assert query.candidates["whitening"].dev == both.candidates["whitening"].dev
    assert not query.candidates["whitening"].allowed
    assert query.kept != "whitening"
    assert not query.adapter.rebuilds_index


def test_what_a_rebuilt_index_would_allow_is_said():
    found = run(stretched(), epochs=1)
    assert not found.candidates["whitening"].allowed
    assert re.fullmatch(
        r"whitening is better on dev \(ndcg@10 0\.\d+, kept 0\.\d+\) and moves documents: "
        r"if their index may be rebuilt, train with side = 'both'",
        found.if_rebuilt,
    )
    assert run(stretched(), "train.side=both", epochs=1).if_rebuilt == ""
    assert run(rotation()).if_rebuilt == ""


def test_auto_tries_the_identity_and_the_best_baseline():
    # Procrustes is right at once: what starts there is ahead of what starts at the identity.
    outcome = run(rotation(), epochs=1)
    assert outcome.start == "procrustes"
    first = outcome.run.history[0]["ndcg@10"]
    assert first == pytest.approx(outcome.candidates["procrustes"].dev["ndcg@10"], abs=1e-6)
    outcome = run(stretched(), "train.side=both", epochs=1)
    assert outcome.start == "whitening"
    assert outcome.candidates["trained"].adapter.rebuilds_index
    # Where no baseline beats the identity, it is the only start.
    started = []

    class Listener(Callback):
        def on_start(self, setup):
            started.append(setup.start)

    data = rotation(turn=False, noise=0.01).split(0.2, 0.3)
    assert experiment(*data, settings(epochs=1), callbacks=[Listener()]).start == "identity"
    assert started == [None]


def test_a_start_that_was_asked_for():
    for start in ("identity", "procrustes"):
        assert run(rotation(), f"train.start={start}", epochs=1).start == start
    outcome = run(rotation(), "train.start=whitening", "train.side=both", epochs=1)
    assert outcome.start == "whitening"


def test_a_start_that_moves_documents_needs_both_sides():
    with pytest.raises(ArgumentError) as caught:
        run(rotation(), "train.start=whitening", "train.side=query")
    assert str(caught.value) == (
        "start='whitening' moves the documents, which side='query' leaves as they are; "
        "use side='both', or start='procrustes'"
    )


def test_of_equals_the_simpler_is_kept():
    # A rate of zero trains nothing: the trained adapter is as good as its start, and no better.
    still = "optimizer.learning_rate=0.0"
    assert run(rotation(turn=False), still, "train.start=identity", epochs=1).kept == "identity"
    assert run(rotation(), still, "train.start=procrustes", epochs=1).kept == "procrustes"


def test_labelled_vectors(rng):
    labels = rng.integers(6, size=500)
    x = rng.standard_normal((500, D)) * np.where(np.arange(D) < 4, 6, 1)
    x[:, 4:] += 2 * rng.standard_normal((6, D - 4))[labels]
    outcome = run(Pairs.labelled(x.astype(np.float32), labels), "train.side=both")
    assert outcome.gate.passed
    assert outcome.promoted in ("whitening", "trained")


def test_another_library_gives_the_same_verdict(turned):
    pytest.importorskip("torch")
    parts = rotation().split(0.2, 0.3, seed=3)
    outcome = experiment(*parts, settings(), backend="torch")
    assert (outcome.run.backend, outcome.run.backend_source) == ("torch", "argument")
    assert outcome.promoted == turned.promoted
    assert outcome.gate.gain == pytest.approx(turned.gate.gain, abs=0.02)


def test_the_same_seed_gives_the_same_figures(turned):
    again = run(rotation())
    assert again.gate == turned.gate
    for name, x in turned.run.params.items():
        np.testing.assert_array_equal(again.run.params[name], x)


# The demo -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emoji():
    pytest.importorskip("emoji", reason="the package emoji is not installed")
    return demo.pairs(config.read(default=demo.QUICK).embedder)


def test_the_names_of_emoji(emoji):
    names = demo.names()
    assert len({english for _, english in names}) == 1927
    assert sorted(set(names)) == names
    assert sorted(emoji.document_texts) == sorted({english for _, english in names})
    assert ("pizza", "pizza") in names
    assert ("1.00 uhr", "one o’clock") in names
    for pair in names:
        for text in pair:
            assert text == text.strip()
            assert not set("_:") & set(text)
            assert text
    assert not [english for _, english in names if "skin tone" in english]
    known = {(emoji.query_texts[i], emoji.document_texts[j]) for i, j in emoji.relevance.pairs}
    assert known == set(names)


def test_families():
    names = ["man cook", "woman cook", "Man", "old woman", "cook", "kite", "red red"]
    assert demo.families(names) == ["man", "woman", "man", "woman", "cook", "kite", "red red"]
    # cook 3, man 2, woman 2: the rarest shared word, and the first in the alphabet of equals.
    assert demo.families(["b a", "a b", "b"]) == ["a", "a", "b"]
    assert demo.families(["a x", "b x", "a b"]) == ["a", "b", "a"]


@pytest.mark.parametrize("seed", range(5))
def test_no_text_and_no_family_stands_on_two_sides(emoji, seed):
    english = [emoji.document_texts[j] for j in range(len(emoji.document_texts))]
    family = dict(zip(english, demo.families(english), strict=True))
    seen = []
    for part in emoji.split(0.1, 0.2, seed=seed):
        right = {part.document_texts[j] for j in part.relevance.pairs[:, 1]}
        texts = {text.casefold() for text in [*part.query_texts, *right]}
        seen.append((texts, {family[text] for text in right}))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not seen[one][0] & seen[other][0]
        assert not seen[one][1] & seen[other][1]


def test_the_quick_demo_gains_a_third(emoji):
    """Of recall@10, on the mean of five seeds, each of them promoted."""
    gains = []
    for seed in range(5):
        chosen = config.read(
            None,
            [f"train.seed={seed}", "curve.enabled=never", "gate.resamples=500"],
            default=demo.QUICK,
        )
        outcome = experiment(*emoji.split(0.1, 0.2, seed=seed), chosen)
        assert outcome.gate.passed
        assert outcome.promoted == "trained"
        assert not outcome.adapter.rebuilds_index
        found = outcome.comparison.gains["recall@10"]
        gains.append(found.gain / found.base)
    assert np.mean(gains) >= 0.30


def test_without_emoji_it_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "emoji", None)
    with pytest.raises(MissingExtra, match=r"pip install 'coreframe-ml\[demo\]'"):
        demo.names()
