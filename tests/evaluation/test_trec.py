"""Run and qrels files: trec_eval, reading them, finds the metrics that are found here."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval

from coreframe.data.pairs import Pairs
from coreframe.data.relevance import ListedRelevance
from coreframe.errors import DataError, OutputError
from coreframe.evaluation import trec
from coreframe.evaluation.metrics import Judged, measure
from coreframe.evaluation.retrieval import evaluate
from coreframe.evaluation.trec import lists_of, read_qrels, read_run, strictly_falling, write_trec

METRICS = {"recall@10": "recall_10", "precision@5": "P_5", "ndcg@10": "ndcg_cut_10",
           "map@100": "map_cut_100", "accuracy@1": "success_1", "r_precision": "Rprec"}  # fmt: skip


def by_trec_eval(folder, run):
    """Let pytrec-eval read the two files by its own parsers."""
    with open(folder / "qrels.trec") as file:
        qrels = pytrec_eval.parse_qrel(file)
    with open(folder / f"run.{run}.trec") as file:
        lists = pytrec_eval.parse_run(file)
    measures = {"recall.10", "P.5", "ndcg_cut.10", "map_cut.100", "success.1", "Rprec"}
    return pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(lists)


def turn(x, side):
    return x[:, ::-1] * 3 if side == "query" else x


def graded(grades=(1, 2, 3), seed=0):
    """Queries of several right documents, or of one, or none; documents twice over, for ties."""
    rng = np.random.default_rng(seed)
    q, d = rng.standard_normal((25, 6)), rng.standard_normal((60, 6))
    d = np.concatenate([d, d])[rng.permutation(120)]
    pairs = np.argwhere(rng.random((25, 120)) < 0.05)
    pairs = pairs[pairs[:, 0] != 7]
    relevance = ListedRelevance.of(pairs, 25, 120, rng.choice(grades, len(pairs)))
    return Pairs(q, d, relevance=relevance)


@pytest.mark.parametrize("grades", [(1,), (1, 2, 3), (0.5, 1.0, 2.25)])
@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
def test_trec_eval_finds_our_metrics_in_the_files(tmp_path, grades, similarity):
    pairs = graded(grades)
    runs = {
        name: (a, evaluate(a, pairs, metrics=list(METRICS), similarity=similarity))
        for name, a in (("base", None), ("adapted", turn))
    }
    paths = write_trec(tmp_path, pairs, runs, similarity=similarity)
    assert [p.name for p in paths] == ["qrels.trec", "run.base.trec", "run.adapted.trec"]
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in paths)
    for name, (_, found) in runs.items():
        theirs = by_trec_eval(tmp_path, name)
        assert len(theirs) == 25  # the query without a right document too
        for ours, their in METRICS.items():
            want = [theirs[f"q{i}"][their] for i in range(25)]
            np.testing.assert_allclose(found.values[ours], want, atol=1e-12)
        again = lists_of(read_run(tmp_path / f"run.{name}.trec"), pairs)
        np.testing.assert_array_equal(again, found.found)


def test_labels_and_parts_of_data(tmp_path, rng):
    data = Pairs.labelled(rng.standard_normal((40, 4)), rng.integers(3, size=40))
    found = evaluate(None, data, metrics=list(METRICS))
    write_trec(tmp_path / "a", data, {"base": (None, found)})
    theirs = by_trec_eval(tmp_path / "a", "base")
    for ours, their in METRICS.items():
        want = [theirs[f"q{i}"][their] for i in range(40)]
        np.testing.assert_allclose(found.values[ours], want, atol=1e-12)
    part = graded().take([20, 3, 11])
    found = evaluate(None, part)
    write_trec(tmp_path / "b", part, {"base": (None, found)})
    assert list(read_run(tmp_path / "b" / "run.base.trec")) == ["q20", "q3", "q11"]
    assert list(read_qrels(tmp_path / "b" / "qrels.trec")) == ["q20", "q3", "q11"]


def test_the_lines(tmp_path):
    q, d = np.array([[3.0, 4.0]]), np.array([[0.0, 2.0], [1.0, 0.0], [3.0, 4.0], [6.0, 8.0]])
    pairs = Pairs(q, d, [[0, 3]])
    write_trec(tmp_path, pairs, {"base": (None, evaluate(None, pairs, metrics=["recall@4"]))})
    assert (tmp_path / "qrels.trec").read_text() == "q0 0 d3 1\n"
    lines = (tmp_path / "run.base.trec").read_text().splitlines()
    assert lines[0] == "q0 Q0 d2 1 1.0 coreframe-base"
    assert lines[1] == "q0 Q0 d3 2 0.99999994 coreframe-base"  # a tie: the next number below
    assert lines[2] == "q0 Q0 d0 3 0.8 coreframe-base"
    assert lines[3] == "q0 Q0 d1 4 0.6 coreframe-base"


def test_scores_fall_strictly_and_hardly_change(rng):
    scores = -np.sort(-rng.integers(0, 5, (8, 50)) / 4, axis=1)
    falling = strictly_falling(scores)
    assert falling.dtype == np.float32
    assert (np.diff(falling) < 0).all()
    np.testing.assert_allclose(falling, scores, atol=1e-5)
    apart = -np.arange(12.0).reshape(1, 12)
    np.testing.assert_array_equal(strictly_falling(apart), apart)


def test_blocks_change_nothing(tmp_path, monkeypatch):
    pairs = graded()
    found = {"base": (None, evaluate(None, pairs))}
    write_trec(tmp_path / "whole", pairs, found)
    monkeypatch.setattr(trec, "_AT_ONCE", 200)
    write_trec(tmp_path / "blocks", pairs, found)
    names = ["qrels.trec", "run.base.trec"]
    whole, blocks = ([(tmp_path / x / n).read_text() for n in names] for x in ("whole", "blocks"))
    assert whole == blocks


def test_a_run_of_another_system_is_measured(tmp_path):
    pairs = graded()
    (tmp_path / "bm25.trec").write_text(
        "q3 Q0 d5 1 2.0 bm25\nq3 Q0 d4 1 2.0 bm25\n\nq0 Q0 d119 7 -1e3 bm25\n"
    )
    lists = lists_of(read_run(tmp_path / "bm25.trec"), pairs)
    assert lists.shape == (25, 2)
    np.testing.assert_array_equal(lists[3], [4, 5])
    np.testing.assert_array_equal(lists[0], [119, -1])
    np.testing.assert_array_equal(lists[1], [-1, -1])
    values = measure(Judged.of(lists, pairs.relevance), ["ndcg@10", "recall@1"])
    assert values["recall@1"][1] == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 Q0 d1 1 x a", "line 2: the score must be a number, got 'x'"),
        ("q1 Q0 d1 1 nan a", "line 2: the score must be a number, got 'nan'"),
        ("q1 Q0 d1 1 0.5", "line 2: must be 'query Q0 document rank score name', got 5 fields"),
        ("q0 Q0 d0 1 0.5 a", "line 2: query 'q0' has document 'd0' twice"),
    ],
)
def test_bad_run_files(tmp_path, line, message):
    path = tmp_path / "run.trec"
    path.write_text(f"q0 Q0 d0 1 1.0 a\n{line}\n")
    with pytest.raises(DataError, match="run.trec, " + message):
        read_run(path)


def test_more_bad_files(tmp_path):
    (tmp_path / "q").write_text("q0 0 d0 high\n")
    with pytest.raises(DataError, match="line 1: the grade must be whole, got 'high'"):
        read_qrels(tmp_path / "q")
    with pytest.raises(DataError, match="cannot be read"):
        read_run(tmp_path / "none")
    pairs = graded()
    with pytest.raises(DataError, match="query 'q99', which is none of the 25 here"):
        lists_of({"q99": {"d0": 1.0}}, pairs)
    for name in ("d120", "0", "dx", "x1"):
        with pytest.raises(DataError, match=f"document '{name}'; here they are d0 to d119"):
            lists_of({"q0": {name: 1.0}}, pairs)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    def lines():
        yield "one\n"
        raise OSError(28, "No space left on device")

    (tmp_path / "run.trec").write_text("before")
    with pytest.raises(OutputError, match=r"cannot write .*run.trec: No space left"):
        trec.write_lines(tmp_path / "run.trec", lines())
    assert [p.name for p in tmp_path.iterdir()] == ["run.trec"]
    assert (tmp_path / "run.trec").read_text() == "before"
