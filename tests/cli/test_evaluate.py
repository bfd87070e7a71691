"""``coreframe evaluate`` and ``coreframe compare``: what they say, write, refuse, and return."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval

from coreframe import artefact, cli, config
from coreframe.artefact import Side, TrainedAdapter
from coreframe.data.pairs import Pairs
from coreframe.evaluation.per_query import per_query_lines
from coreframe.evaluation.retrieval import evaluate

D = 24


def closed_form(vectors, share=1.0) -> TrainedAdapter:
    """Queries mapped onto documents by least squares, or a part of the way there."""
    w = np.linalg.lstsq(vectors.queries, vectors.documents, rcond=None)[0]
    return TrainedAdapter(D, {"query": Side("linear", {"W": share * w + (1 - share) * np.eye(D)})})


def make_run(folder, adapter, pairs, *, promoted="trained", settings=(), stored=None):
    """Write what evaluate and compare read of a run's folder."""
    adapter.save(folder)
    (folder / "run.toml").write_text(config.dump(config.read(None, list(settings))))
    (folder / "metrics.json").write_text(json.dumps({"promoted": promoted}))
    found = {"base": evaluate(None, pairs), "adapted": evaluate(adapter, pairs)}
    if stored is not None:
        found["stored"] = evaluate(stored, pairs)
    (folder / "eval").mkdir()
    lines = "".join(f"{line}\n" for line in per_query_lines(pairs, found))
    (folder / "eval" / "per_query.jsonl").write_text(lines)
    return folder


@pytest.fixture
def here(tmp_path, vectors, monkeypatch):
    """Files of vectors, and two runs: a good one, and one that stored the identity."""
    np.save(tmp_path / "q.npy", vectors.queries)
    np.save(tmp_path / "d.npy", vectors.documents)
    rows = [{"anchor_id": i, "positive_id": i} for i in range(400)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    pairs = Pairs(vectors.queries, vectors.documents)
    make_run(tmp_path / "good", closed_form(vectors), pairs)
    make_run(tmp_path / "none", closed_form(vectors, 0.05), pairs, promoted="identity")
    monkeypatch.chdir(tmp_path)
    return tmp_path


VECTORS = ("--queries", "q.npy", "--documents", "d.npy")


def run(capsys, *words):
    """Run a command in this process; return code, stdout, stderr."""
    capsys.readouterr()
    code = cli.run([str(w) for w in words])
    out, err = capsys.readouterr()
    return code, out, err


def as_json(capsys, *words):
    code, out, err = run(capsys, *words, "--json")
    assert err == ""
    return code, json.loads(out)


# evaluate -------------------------------------------------------------------------------------


def test_evaluate_prints_the_table(here, vectors, capsys):
    code, out, err = run(capsys, "evaluate", "good", "pairs.jsonl", *VECTORS)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "400 queries · 400 documents"
    assert lines[1].split() == ["base", "adapted", "gain", "95%", "interval", "p"]
    want = evaluate(closed_form(vectors), Pairs(vectors.queries, vectors.documents)).mean()
    for line, (name, value) in zip(lines[2:6], want.items(), strict=True):
        assert line.split()[0] == name
        assert line.split()[2] == f"{value:.3f}"
    assert lines[6].endswith("same in ndcg@10")
    assert "effective rank" in lines[7]
    assert "collapsed" not in out
    assert "columns" in err  # what the data is read as


def test_evaluate_as_json_equals_the_library(here, vectors, capsys):
    pairs = Pairs(vectors.queries, vectors.documents)
    adapter = artefact.load("good")
    names = ["recall@1", "recall@10", "mrr@10", "ndcg@10", "map@100", "precision@3"]
    code, found = as_json(
        capsys, "evaluate", "good", "pairs.jsonl", *VECTORS,
        "--metric", "map@100", "--metrics", "precision@3,recall@1",
    )  # fmt: skip
    assert code == 0
    assert found["adapted"] == evaluate(adapter, pairs, metrics=names).mean()
    assert found["base"] == evaluate(None, pairs, metrics=names).mean()
    assert (found["metric"], found["queries"], found["documents"]) == ("map@100", 400, 400)
    for name in names:
        low, high = found["ci95"][name]
        assert low < found["gain"][name] < high
        assert 0 < found["p"][name] <= 1
    assert found["better"] + found["worse"] + found["same"] == 400
    assert found["health"]["adapted"]["distance_from_identity"] > 0
    assert found["health"]["base"]["collapsed"] is False


def test_an_adapter_alone_is_enough(here, capsys, vectors):
    closed_form(vectors).save("adapter")
    alone = as_json(capsys, "evaluate", "adapter", "pairs.jsonl", *VECTORS)
    assert alone == as_json(capsys, "evaluate", "good", "pairs.jsonl", *VECTORS)


def test_trec_files_and_lines_hold_the_same_metrics(here, capsys):
    _, found = as_json(
        capsys, "evaluate", "good", "pairs.jsonl", *VECTORS,
        "--trec-dir", "trec", "--per-query", "out/lines.jsonl",
    )  # fmt: skip
    with open("trec/qrels.trec") as file:
        qrels = pytrec_eval.parse_qrel(file)
    for name in ("base", "adapted"):
        with open(f"trec/run.{name}.trec") as file:
            lists = pytrec_eval.parse_run(file)
        theirs = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(lists)
        mean = np.mean([x["ndcg_cut_10"] for x in theirs.values()])
        assert found[name]["ndcg@10"] == pytest.approx(mean)
        lines = [json.loads(x) for x in Path("out/lines.jsonl").read_text().splitlines()]
        assert found[name]["ndcg@10"] == pytest.approx(np.mean([x[name]["ndcg@10"] for x in lines]))


def test_texts_are_embedded_as_the_run_did(here, texts, capsys, records):
    settings = ["embedder.dimensions=256"]
    built = config.read(None, settings).embedder
    pairs = Pairs.from_texts(
        [r["anchor"] for r in records], [r["positive"] for r in records], built
    )
    make_run(here / "texts", TrainedAdapter(256), pairs, settings=settings)
    code, found = as_json(capsys, "evaluate", "texts", texts)
    assert code == 0
    assert found["base"] == evaluate(None, pairs).mean()
    assert found["gain"]["ndcg@10"] == pytest.approx(0, abs=1e-3)  # but for last digits


def test_data_that_was_trained_on_is_named(here, capsys):
    from coreframe.outputs import hash_file

    known = {"inputs": {"elsewhere/pairs.jsonl": hash_file("pairs.jsonl")}}
    (here / "good" / "environment.json").write_text(json.dumps(known))
    _, _, err = run(capsys, "evaluate", "good", "pairs.jsonl", *VECTORS)
    assert "pairs.jsonl is what the run was trained on" in err
    _, _, err = run(capsys, "evaluate", "none", "pairs.jsonl", *VECTORS)
    assert "trained on" not in err
    _, _, err = run(capsys, "evaluate", "good", "pairs.jsonl", *VECTORS, "--quiet")
    assert err == ""


def test_a_collapse_is_said(here, capsys):
    w = np.diag(np.eye(D)[0] + 1e-6).astype(np.float32)
    TrainedAdapter(D, {"query": Side("linear", {"W": w})}).save("flat")
    code, out, _ = run(capsys, "evaluate", "flat", "pairs.jsonl", *VECTORS)
    assert code == 0
    assert "adapted has collapsed: queries" in out
    assert "base has collapsed" not in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["missing", "pairs.jsonl", *VECTORS], 2, "missing is no stored adapter"),
        (["good", "pairs.jsonl", *VECTORS, "--metric", "ndgc@10"], 2, "Did you mean 'ndcg@10'"),
        (["good", "pairs.jsonl", *VECTORS, "--metrics", "recall"], 2, "needs a depth, such as"),
        (["good", "none.jsonl", *VECTORS], 4, "none.jsonl"),
        (["small", "pairs.jsonl", *VECTORS], 4, "have width 24, but the adapter is for vectors of "
         "made-up of width 8"),
        (["good", "pairs.jsonl", *VECTORS, "--part", "dev"], 4, "no given part 'dev'"),
        (["good", "pairs.jsonl", "--queries", "q.npy"], 2, "go together"),
        (["good"], 2, "Missing argument"),
    ],
)  # fmt: skip
def test_what_evaluate_refuses(here, capsys, words, code, message):
    TrainedAdapter(8, base_model="made-up").save("small")
    got, out, err = run(capsys, "evaluate", *words)
    assert (got, out) == (code, "")
    assert message in err
    assert "Traceback" not in err


# compare --------------------------------------------------------------------------------------


def test_the_better_run_is_proven_better(here, capsys):
    code, out, _ = run(capsys, "compare", "none", "good")
    assert code == 0
    assert out.splitlines()[0] == "400 queries   first none   second good"
    assert "✓ the second is better: ndcg@10" in out
    code, out, _ = run(capsys, "compare", "good", "none")
    assert code == 3
    assert "✗ not proven better: ndcg@10" in out
    assert "the first is proven better" in out
    assert out.rstrip().endswith("exit 3")
    assert out.count("\n  worse  ") == 10


def test_a_run_is_not_better_than_itself(here, capsys):
    code, found = as_json(capsys, "compare", "good", "good")
    assert code == 3
    assert found["passed"] is False
    assert (found["better"], found["worse"], found["same"]) == (0, 0, 400)
    assert found["p"]["ndcg@10"] == 1
    assert found["hint"] == "both rank all of these queries alike"


def test_what_is_compared_is_what_is_stored(here, capsys, vectors):
    pairs = Pairs(vectors.queries, vectors.documents)
    code, found = as_json(capsys, "compare", "none", "good")
    assert code == 0
    assert found["first"] == evaluate(None, pairs).mean()  # nothing was promoted there
    assert found["second"] == pytest.approx(evaluate(closed_form(vectors), pairs).mean())
    stored = closed_form(vectors, 0.5)
    make_run(here / "before", closed_form(vectors), pairs, promoted="previous", stored=stored)
    _, found = as_json(capsys, "compare", "before", "good")
    assert found["first"] == pytest.approx(evaluate(stored, pairs).mean())


def test_stored_and_measured_agree(here, capsys, vectors):
    TrainedAdapter(D).save("none")
    first = as_json(capsys, "compare", "none", "good")
    again = as_json(capsys, "compare", "none", "good", "--data", "pairs.jsonl", *VECTORS)
    for key in ("first", "second", "gain", "p"):
        for name, value in first[1][key].items():
            assert again[1][key][name] == pytest.approx(value, abs=5e-3), (key, name)
    deep = as_json(
        capsys, "compare", "none", "good", "--data", "pairs.jsonl", *VECTORS, "--metric", "map@50"
    )
    assert deep[1]["metric"] == "map@50"
    assert deep[0] == 0


def test_who_got_worse(here, capsys, vectors):
    texts = [f"query\nnumber {i} " + "x" * 90 for i in range(400)]
    pairs = Pairs(
        vectors.queries, vectors.documents, query_texts=texts, document_texts=list("ab" * 200)
    )
    for name, share in (("left", 1.0), ("right", 0.2)):
        make_run(here / name, closed_form(vectors, share), pairs)
    _, found = as_json(capsys, "compare", "left", "right")
    change = [row["second"] - row["first"] for row in found["worst"]]
    assert change == sorted(change)
    assert max(change) < 0
    ours = evaluate(closed_form(vectors), pairs).values["ndcg@10"]
    for row in found["worst"]:
        assert row["first"] == pytest.approx(ours[row["query"]])
        assert row["text"].startswith(f"query number {row['query']} xxx")
        assert len(row["text"]) == 72


def test_groups_of_either_run_count_as_one(here, capsys, vectors):
    for name, size in (("a", 40), ("b", 1)):
        groups = np.arange(400) // size
        pairs = Pairs(vectors.queries, vectors.documents, groups=groups)
        make_run(here / name, closed_form(vectors, 1.0 if name == "b" else 0.0), pairs)
    code, found = as_json(capsys, "compare", "a", "b")
    assert code == 3  # ten groups prove nothing
    assert "10 independent groups" in found["hint"]


def test_a_minimum_gain_may_be_asked_for(here, capsys):
    _, found = as_json(capsys, "compare", "none", "good")
    low = found["ci95"]["ndcg@10"][0]
    for minimum, code in ((low - 0.01, 0), (low + 0.01, 3)):
        got, _, _ = run(capsys, "compare", "none", "good", "--minimum-gain", minimum)
        assert got == code


def test_other_queries_are_refused(here, capsys, vectors):
    pairs = Pairs(vectors.queries, vectors.documents).take(np.arange(300))
    make_run(here / "other", closed_form(vectors), pairs)
    code, out, err = run(capsys, "compare", "good", "other")
    assert (code, out) == (4, "")
    assert "400 and 300, of which 300 are asked in both" in err
    assert "--data" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["good", "bare"], 2, "bare has no eval/per_query.jsonl"),
        (["good", "none", "--queries", "q.npy"], 2, "--queries goes with --data"),
        (["good", "none", "--metric", "map@7"], 2, "the runs have not stored 'map@7', but recall"),
        (["good", "none", "--minimum-gain", "2"], 2, "minimum_gain must be"),
        (["good", "broken"], 2, "per_query.jsonl, line 1"),
    ],
)
def test_what_compare_refuses(here, capsys, words, code, message):
    TrainedAdapter(D).save("bare")
    shutil.copytree("good", "broken")
    Path("broken/eval/per_query.jsonl").write_text("{}\n")
    got, out, err = run(capsys, "compare", *words)
    assert (got, out) == (code, "")
    assert message in err


# Training -------------------------------------------------------------------------------------


def test_train_evaluates_more_metrics(here, capsys):
    code, out, err = run(
        capsys, "train", "pairs.jsonl", *VECTORS, "-o", "out", "--set", "train.epochs=3",
        "--set", "gate.metric=map@20", "--metrics", "recall@50,precision@5", "--json",
    )  # fmt: skip
    assert code in (0, 3), err
    found = json.loads(out)
    names = {"recall@1", "recall@10", "mrr@10", "ndcg@10", "map@20", "recall@50", "precision@5"}
    assert set(found["gain"]) == set(found["adapted"]) == names
    assert found["gate"]["metric"] == "map@20"
    code, measured = as_json(capsys, "compare", "out", "out")
    assert measured["metric"] == "map@20"
    assert set(measured["gain"]) == names
