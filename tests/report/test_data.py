"""What a report shows is plain data, right by an independent count, and small."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from coreframe import config
from coreframe.data.pairs import Pairs
from coreframe.experiment import Outcome, experiment
from coreframe.report import compare_html, model_card, render, report_data
from coreframe.report.compare import different
from coreframe.report.examples import suspects
from coreframe.report.projection import pca, project, vector_map

pytest.importorskip("jinja2")

SHORT = ("train.epochs=2", "train.batch_size=32")


def turned(count: int = 200) -> Pairs:
    rng = np.random.default_rng(1)
    queries = rng.normal(size=(count, 12)).astype(np.float32)
    rotation = np.linalg.qr(rng.normal(size=(12, 12)))[0].astype(np.float32)
    noise = 0.4 * rng.normal(size=(count, 12)).astype(np.float32)
    texts = [f"text {i}" for i in range(count)]
    return Pairs(queries, queries @ rotation + noise, query_texts=texts, document_texts=texts)


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    schedule = "losses.0.temperature={ scheduler = 'cosine', start = 0.1, end = 0.05 }"
    settings = config.read(None, [*SHORT, "curve.enabled=always", schedule])
    return experiment(*turned().split(0.2, 0.4), settings)


@pytest.fixture(scope="module")
def data(outcome: Outcome) -> dict[str, Any]:
    return report_data(outcome, title="A title", config_text="[a]\nb = 1\n", environment={})


def test_json_holds_it_and_the_page_is_the_same(data: dict[str, Any]) -> None:
    text = json.dumps(data, allow_nan=False)
    again = json.loads(text)
    assert again == data
    assert render(again) == render(data)
    assert len(text) < 150_000
    assert len(render(data)) < 250_000


def test_its_size_does_not_grow_with_the_data() -> None:
    sizes = []
    for count in (400, 2000):
        settings = config.read(None, [*SHORT, "curve.enabled=never", "train.start=identity"])
        outcome = experiment(*turned(count).split(0.2, 0.4), settings)
        found = report_data(outcome, title="t", config_text="", environment={})
        sizes.append(len(json.dumps(found)))
    assert sizes[1] < 1.5 * sizes[0]  # five times the data; the history has up to 100 lines


def test_every_scheduled_value_has_its_curve(data: dict[str, Any]) -> None:
    page = render(data)
    for name in ("learning rate", "losses.0.temperature"):
        assert f"<figcaption>{name}<span>a scheduled value" in page
    assert "Would more labels help?" in page
    assert data["more_labels"] in page.replace("&#39;", "'")


def test_a_collapse_is_an_alarm(data: dict[str, Any]) -> None:
    assert "Alarm" not in render(data)
    sick = json.loads(json.dumps(data))
    sick["health"]["adapted"] |= {"collapsed": True, "reason": "all <queries> point one way"}
    page = render(sick)
    assert 'role="alert"' in page
    assert "Alarm: the vectors have collapsed." in page
    assert "all &lt;queries&gt; point one way" in page


def test_what_was_forgotten_is_a_table(data: dict[str, Any]) -> None:
    gain = data["gains"]["ndcg@10"] | {"gain": -0.2, "low": -0.3, "high": -0.1}
    row = {"name": "old.jsonl", "queries": 70, "base": 0.1, "before": 0.5, "after": 0.3}
    trial = {"hold": "ewc", "strength": 100.0, "new": 0.4, "worst": -0.01, "chosen": True}
    page = render(
        data
        | {
            "forgetting": [row | {"gain": gain, "forgotten": True}],
            "trials": [trial],
            "over_previous": data["gains"],
        }
    )
    for text in ("What was forgotten", "old.jsonl", ">forgotten<", "Against the earlier adapter"):
        assert text in page


def test_suspects_are_first_in_both_and_not_marked(outcome: Outcome) -> None:
    """With a copy of each right document that is not marked, the copies are what is suspected."""
    pairs = turned(60)
    copies = pairs.documents
    noise = np.random.default_rng(2).normal(size=copies.shape).astype(np.float32)
    documents = np.concatenate([copies, copies + 0.2 * noise])
    marked = np.stack([np.arange(60), 60 + np.arange(60)], axis=1)
    texts = [f"copy {i}" for i in range(60)] + [f"marked {i}" for i in range(60)]
    test = Pairs(
        copies * 2, documents, relevant=marked, query_texts=texts[:60],
        document_texts=texts,
    )  # fmt: skip
    settings = config.read(None, [*SHORT, "curve.enabled=never"])
    run = experiment(outcome.train, outcome.dev, test, settings)
    ranks, base = run.ranks["base"], run.candidates["identity"]
    found = suspects(run, base, ranks, ranks)
    assert len(found) > 0
    for one in found:
        assert one["document"].startswith("copy")
        assert one["score"] > one["right_score"]
    assert any(one["document"].split()[1] == one["right"][0].split()[1] for one in found)


def test_axes_are_those_of_scikit_learn() -> None:
    decomposition = pytest.importorskip("sklearn.decomposition")
    x = np.random.default_rng(0).normal(size=(50, 6)) * np.arange(1, 7)
    flat, share = pca(x)
    wanted = decomposition.PCA(2).fit(x)
    np.testing.assert_allclose(np.abs(flat), np.abs(wanted.transform(x)), atol=1e-9)
    assert share == pytest.approx(wanted.explained_variance_ratio_.sum())
    np.testing.assert_array_equal(pca(x)[0], flat)
    assert pca(np.zeros((4, 3)))[1] == 1.0
    assert pca(np.ones((4, 1)))[0].shape == (4, 2)


def test_the_map_samples_and_tells_classes(outcome: Outcome) -> None:
    found = vector_map(outcome.test, outcome.candidates["trained"].adapter)
    before, after = found["panels"]
    assert len(before) == len(after) == 2 * min(120, len(outcome.test))
    assert [c for *_, c in before] == [0] * (len(before) // 2) + [1] * (len(before) // 2)
    labels = np.arange(900) % 9
    x = np.random.default_rng(0).normal(size=(900, 12)).astype(np.float32)
    many = vector_map(Pairs.labelled(x, labels), outcome.candidates["identity"].adapter)
    assert len(many["panels"][0]) == 400
    assert len(many["classes"]) == 7
    assert many["classes"][-1] == "other labels"


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore")
def test_umap_where_it_is_installed() -> None:
    pytest.importorskip("umap")
    x = np.random.default_rng(0).normal(size=(40, 6))
    one, two, how = project(x, x + 0.1)
    assert one.shape == two.shape == (40, 2)
    assert how.startswith("UMAP")


def test_settings_that_differ_are_found_at_any_depth() -> None:
    texts = ['[a]\nb = 1\nc = [{ d = "x" }]\n', '[a]\nb = 1\nc = [{ d = "y" }]\ne = true\n']
    assert different(texts) == [("a.c.0.d", ["x", "y"]), ("a.e", [None, True])]


def test_two_runs_at_least(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="at least two runs, got 1"):
        compare_html({"one": data})
    assert compare_html({"<one>": data, "two": data}).count("&lt;one&gt;") > 2


# The model card -------------------------------------------------------------------------------


@pytest.mark.integration
def test_the_hub_reads_the_card(outcome: Outcome, data: dict[str, Any]) -> None:
    hub = pytest.importorskip("huggingface_hub")
    title = 'A "title": with # marks'
    run = replace(outcome, candidates=outcome.candidates)
    text = model_card(run, title=title, environment={}, data=data)
    card = hub.ModelCard(text).data
    assert card.library_name == "coreframe"
    assert card.model_name == title
    results = {r.metric_type: r.metric_value for r in card.eval_results}
    assert results == pytest.approx(
        outcome.candidates[outcome.promoted].test.mean(), abs=1e-6
    )  # fmt: skip


def test_the_card_says_gate_thresholds_and_exports(outcome: Outcome, data: dict[str, Any]) -> None:
    text = model_card(outcome, title="A title", environment={}, data=data)
    assert "Gate: passed." in text
    assert "## Score thresholds" in text
    assert "lets 90% of right documents pass" in text
    assert "coreframe export . --to sentence-transformers --base" in text
    assert data["more_labels"] in text
    head = text.split("---\n")[1]
    assert head.count("- type: ") == len(data["metrics"])
