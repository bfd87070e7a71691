"""Every form of data becomes the pairs that it means: sets, grades, ids, own vectors, classes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import coreframe
from coreframe import config
from coreframe.data.joining import Judged, grades, join
from coreframe.data.loading import Loaded, load_pairs
from coreframe.embedder import Embedder
from coreframe.errors import ArgumentError, DataError

SETTINGS = config.default()


def lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def right(loaded: Loaded) -> dict[tuple[str, str], float]:
    """Return the right pairs of texts with their gains."""
    pairs = loaded.pairs
    gains = pairs.relevance.gains
    found = pairs.relevance.pairs.tolist()
    values = [1.0] * len(found) if gains is None else gains.tolist()
    return {
        (pairs.query_texts[q], pairs.document_texts[d]): g
        for (q, d), g in zip(found, values, strict=True)
    }


def wrong(loaded: Loaded) -> set[tuple[str, str]]:
    pairs = loaded.pairs
    return {(pairs.query_texts[q], pairs.document_texts[d]) for q, d in pairs.irrelevant.tolist()}


def told(loaded: Loaded, word: str) -> str:
    return next((note for note in loaded.notes if note.startswith(word)), "")


# Lists and negatives ----------------------------------------------------------------------------


def test_flag_embedding() -> None:
    rows = [
        {"query": "q", "pos": ["a", "b"], "neg": ["c", "d"], "pos_scores": [0.9, 0.4],
         "neg_scores": [0.3, 0.1], "prompt": "Find: "},
        {"query": "r", "pos": ["c"], "neg": ["a"], "pos_scores": [0.9], "neg_scores": [0.3],
         "prompt": "Find: "},
    ]  # fmt: skip
    loaded = load_pairs([rows], config=SETTINGS)
    assert set(right(loaded)) == {("Find: q", "a"), ("Find: q", "b"), ("Find: r", "c")}
    assert wrong(loaded) == {("Find: q", "c"), ("Find: q", "d"), ("Find: r", "a")}
    assert loaded.pairs.weights is None
    assert told(loaded, "scores").startswith("scores  pos_scores and neg_scores are a teacher's")
    chosen = config.read(None, ["data.weight='pos_scores'"])
    weighted = load_pairs([rows], config=chosen)
    assert sorted(weighted.pairs.weights.tolist()) == [0.4, 0.9, 0.9]


def test_n_tuples() -> None:
    rows = [{"anchor": "q", "positive": "a", "negative_1": "b", "negative_2": "c"}]
    loaded = load_pairs([rows], config=SETTINGS)
    assert wrong(loaded) == {("q", "b"), ("q", "c")}


def test_a_mapping_of_columns_is_no_list_of_sources() -> None:
    loaded = load_pairs({"query": ["q", "r"], "answer": ["a", "b"]}, config=SETTINGS)
    assert set(right(loaded)) == {("q", "a"), ("r", "b")}
    assert loaded.files == ()


# Scores -----------------------------------------------------------------------------------------


def scored(scores: list[Any], **values: Any) -> Loaded:
    rows = [{"sentence1": f"q{i}", "sentence2": f"a{i}", "score": s} for i, s in enumerate(scores)]
    settings = config.read(None, [f"data.{k}={v}" for k, v in values.items()])
    return load_pairs([rows], config=settings)


def test_graded_scores_are_weights_and_gains() -> None:
    """STS: 0 to 5. Half of the scale and more is right; 0 is wrong; between is neither."""
    rows = [
        {"sentence1": "q", "sentence2": text, "score": score}
        for text, score in (("same", 5.0), ("near", 4.0), ("half", 2.5), ("far", 2.0), ("no", 0.0))
    ]
    loaded = load_pairs([rows], config=SETTINGS)
    assert right(loaded) == {("q", "same"): 1.0, ("q", "near"): 0.8, ("q", "half"): 0.5}
    assert wrong(loaded) == {("q", "no")}
    assert "far" in loaded.pairs.document_texts  # it is searched all the same
    weight_of = dict(zip(right(loaded), loaded.pairs.weights.tolist(), strict=True))
    assert weight_of == {("q", "same"): 1.0, ("q", "near"): 0.8, ("q", "half"): 0.5}
    assert told(loaded, "grades") == (
        "grades  0.5 to 1: weights in training, gains in nDCG; right from 0.5 on "
        "(data.minimum_score)"
    )
    assert "rows    1 graded between 0 and 0.5 are left out" in loaded.notes
    assert "rows    1 graded 0 are known wrong documents" in loaded.notes


def test_the_gain_of_a_grade_is_that_of_trec_eval(tmp_path: Path) -> None:
    """Gains 2 and 1, found last and first of three: by hand."""
    np.save(tmp_path / "q.npy", np.asarray([[1, 0]], np.float32))
    np.save(tmp_path / "d.npy", np.asarray([[0.6, 0.8], [1, 0], [0.8, 0.6]], np.float32))
    rows = [{"query-id": 0, "corpus-id": d, "score": s} for d, s in ((0, 2), (1, 1), (2, 0))]
    pairs = load_pairs(
        [rows], queries=tmp_path / "q.npy", documents=tmp_path / "d.npy", config=SETTINGS
    ).pairs
    value = coreframe.evaluate(None, pairs).mean()["ndcg@10"]
    assert value == pytest.approx((1 + 2 / np.log2(4)) / (2 + 1 / np.log2(3)))


def test_weights_and_grades_are_multiplied() -> None:
    rows = [
        {"sentence1": "q", "sentence2": "a", "score": 5, "weight": 2.0},
        {"sentence1": "q", "sentence2": "b", "score": 4, "weight": 3.0},
    ]
    loaded = load_pairs([rows], config=SETTINGS)
    assert sorted(loaded.pairs.weights.tolist()) == pytest.approx([2.0, 2.4])


@pytest.mark.parametrize(
    ("scores", "kept"),
    [
        ([1, 0, 1], ["q0", "q2"]),
        (["1", "0", "1"], ["q0", "q2"]),
        ([1, -1, 1], ["q0", "q2"]),
        ([0.9, 0.2, 0.5], ["q0", "q2"]),
        ([5, 1, 3], ["q0", "q2"]),
    ],
)
def test_scales_of_scores(scores: list[Any], kept: list[str]) -> None:
    loaded = scored(scores)
    assert loaded.pairs.query_texts == kept
    assert "queries 1 without a right document are left out" in loaded.notes


def test_another_minimum_score() -> None:
    assert scored([0.9, 0.2, 0.5], minimum_score=0.6).pairs.query_texts == ["q0"]
    with pytest.raises(DataError, match=r"no row is right: all have grades below 0\.95"):
        scored([0.9, 0.2], minimum_score=0.95)


@given(scores=st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_grades_are_monotone_and_in_range(scores: list[int]) -> None:
    found = grades([float(s) for s in scores], False, "here")
    assert found is not None
    assert found.min() >= 0
    assert found.max() <= 1
    assert (np.argsort(found, kind="stable") == np.argsort(scores, kind="stable")).all()


# Joining ----------------------------------------------------------------------------------------


@given(
    rows=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 4), st.sampled_from([0.0, 0.3, 0.6, 1.0])),
        min_size=1,
        max_size=12,
    )
)
def test_joining_is_what_a_loop_over_the_rows_finds(rows: list[tuple[int, int, float]]) -> None:
    query, document, grade = map(np.asarray, zip(*rows, strict=True))
    judged = Judged(
        query=query,
        row=np.arange(len(rows)),
        document=document,
        wrong_row=np.zeros(0, int),
        wrong_document=np.zeros(0, int),
        grade=grade.astype(float),
    )
    best: dict[tuple[int, int], float] = {}
    for q, d, g in rows:
        if g >= 0.5:
            best[q, d] = max(best.get((q, d), 0), g)
    if not best:
        with pytest.raises(DataError, match="no row is right"):
            join(judged, 5, minimum_grade=0.5, name="x")
        return
    found = join(judged, 5, minimum_grade=0.5, name="x")
    gains = found.relevance.gains
    values = np.full(len(found.relevance.pairs), max(best.values())) if gains is None else gains
    pairs = [(int(found.source[q]), int(d)) for q, d in found.relevance.pairs]
    assert dict(zip(pairs, values.tolist(), strict=True)) == best
    asked = {q for q, _ in best}
    assert {(int(found.source[q]), int(d)) for q, d in found.irrelevant} == {
        (q, d) for q, d, g in rows if g == 0 and q in asked
    }
    assert found.dropped == len(set(query.tolist())) - len(asked)
    assert found.middling == sum(0 < g < 0.5 for _, _, g in rows)


# Sets for retrieval -----------------------------------------------------------------------------


def beir(folder: Path, qrels: dict[str, list[tuple[str, str, int]]]) -> Path:
    lines(folder / "corpus.jsonl", [
        {"_id": "d1", "title": "Red", "text": "is a colour", "metadata": {"x": 1}},
        {"_id": "d2", "title": "", "text": "blue things"},
        {"_id": "d3", "text": "of no use"},
    ])  # fmt: skip
    lines(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in range(1, 5)])
    (folder / "qrels").mkdir(exist_ok=True)
    for part, rows in qrels.items():
        text = "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{s}\n" for q, d, s in rows)
        (folder / "qrels" / f"{part}.tsv").write_text(text)
    return folder


def test_beir(tmp_path: Path) -> None:
    folder = beir(tmp_path / "set", {
        "train": [("q1", "d1", 2), ("q1", "d2", 1), ("q1", "d3", 0)],
        "dev": [("q2", "d2", 1)],
        "test": [("q3", "d1", 1)],
    })  # fmt: skip
    loaded = load_pairs([folder], config=SETTINGS)
    assert right(loaded) == {
        ("query 1", "Red is a colour"): 2.0,
        ("query 1", "blue things"): 1.0,
        ("query 2", "blue things"): 1.0,
        ("query 3", "Red is a colour"): 1.0,
    }
    assert wrong(loaded) == {("query 1", "of no use")}
    assert loaded.pairs.document_texts == ["Red is a colour", "blue things", "of no use"]
    assert loaded.parts.tolist() == [0, 1, 2]
    assert [loaded.part(p).query_texts for p in ("train", "dev", "test")] == [
        ["query 1"], ["query 2"], ["query 3"],
    ]  # fmt: skip
    assert sorted(path.name for path in loaded.files) == [
        "corpus.jsonl", "dev.tsv", "queries.jsonl", "test.tsv", "train.tsv",
    ]  # fmt: skip
    with pytest.raises(ArgumentError, match="name must be train, dev or test"):
        loaded.part("validation")


@pytest.mark.parametrize("with_ids", [False, True])
def test_beir_with_vectors(tmp_path: Path, with_ids: bool) -> None:
    folder = beir(tmp_path / "set", {"train": [("q1", "d3", 1)], "test": [("q4", "d1", 1)]})
    q, d = np.random.default_rng(0).standard_normal((2, 4, 5)).astype(np.float32)
    d = d[:3]
    ids_q, ids_d = [f"q{i}" for i in (3, 1, 4, 2)], ["d2", "d3", "d1"]
    if with_ids:
        np.savez(tmp_path / "q.npz", x=q, ids=np.asarray(ids_q))
        np.savez(tmp_path / "d.npz", x=d, ids=np.asarray(ids_d))
    else:
        ids_q, ids_d = [f"q{i}" for i in range(1, 5)], ["d1", "d2", "d3"]
        np.savez(tmp_path / "q.npz", x=q)
        np.savez(tmp_path / "d.npz", x=d)
    pairs = load_pairs(
        [folder], queries=tmp_path / "q.npz", documents=tmp_path / "d.npz", config=SETTINGS
    ).pairs
    np.testing.assert_array_equal(pairs.queries, q[[ids_q.index("q1"), ids_q.index("q4")]])
    np.testing.assert_array_equal(pairs.documents, d)
    assert pairs.relevance.pairs.tolist() == [[0, ids_d.index("d3")], [1, ids_d.index("d1")]]
    assert pairs.query_texts == ["query 1", "query 4"]
    assert pairs.document_texts[ids_d.index("d1")] == "Red is a colour"


BEIR: list[tuple[str, str, str]] = [
    ("corpus.jsonl", '{"_id": "d1"}\n', "corpus.jsonl, line 1: has no field 'text'"),
    ("corpus.jsonl", '{"_id": "d1", "text": ""}\n', "corpus.jsonl, line 1: 'text' is empty"),
    ("queries.jsonl", "", "queries.jsonl is empty: it has no rows"),
    ("queries.jsonl", '{"_id": "q1", "text": "a"}\n' * 2,
     "queries.jsonl, line 2: the id 'q1' is there twice"),
    ("qrels/train.tsv", "query-id\tcorpus-id\tscore\nq9\td1\t1\n",
     "train.tsv, line 2: the query 'q9' is not in queries.jsonl"),
    ("qrels/train.tsv", "query-id\tcorpus-id\tscore\nq1\td9\t1\n",
     "train.tsv, line 2: the document 'd9' is not in corpus.jsonl"),
    ("qrels/train.tsv", "query-id\tcorpus-id\tscore\nq1\td1\thigh\n",
     "train.tsv, line 2: the score must be a number, got 'high'"),
    ("qrels/train.tsv", "q1\td1\t1\nq2\td2\t1\n",
     "train.tsv, line 1: has no header; expected query-id, corpus-id, score"),
    ("qrels/train.tsv", "query-id\tscore\nq1\t1\n", "train.tsv: expected the columns query-id"),
    ("qrels/more.tsv", "query-id\tcorpus-id\tscore\n", "expected train.tsv, dev.tsv or test.tsv"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "expected"), BEIR)
def test_broken_beir(tmp_path: Path, name: str, content: str, expected: str) -> None:
    folder = beir(tmp_path, {"train": [("q1", "d1", 1)]})
    (folder / name).write_text(content)
    with pytest.raises(DataError) as caught:
        load_pairs([folder], config=SETTINGS)
    assert expected in str(caught.value)


LLAMA = {
    "queries": {"a": "first", "b": "second"},
    "corpus": {"x": "one", "y": "two", "z": "three"},
    "relevant_docs": {"a": ["x", "y"], "b": ["y"]},
}


def test_llama_index(tmp_path: Path) -> None:
    path = tmp_path / "qa.json"
    path.write_text(json.dumps(LLAMA, indent=2))
    loaded = load_pairs([path], config=SETTINGS)
    assert set(right(loaded)) == {("first", "one"), ("first", "two"), ("second", "two")}
    assert loaded.pairs.document_texts == ["one", "two", "three"]
    assert loaded.parts is None
    assert loaded.notes[0] == "columns LlamaIndex JSON: 2 queries, 3 documents, judgements: 3"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"queries": {"a": "", "b": "x"}}, "queries['a'] must be a text: it is empty"),
        ({"relevant_docs": {"c": ["x"]}}, "relevant_docs names the query 'c'"),
        ({"relevant_docs": {"a": ["w"]}}, "relevant_docs['a'] names the document 'w'"),
        ({"relevant_docs": {"a": "x"}}, "relevant_docs['a'] must be a list of ids"),
        ({"relevant_docs": {}}, "relevant_docs has no pairs"),
    ],
)
def test_broken_llama_index(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    path = tmp_path / "qa.json"
    path.write_text(json.dumps(LLAMA | change))
    with pytest.raises(DataError, match=re.escape(expected)):
        load_pairs([path], config=SETTINGS)


# Ids into vectors -------------------------------------------------------------------------------

Q, D = np.random.default_rng(1).standard_normal((2, 4, 5)).astype(np.float32)


def with_ids(folder: Path) -> tuple[Path, Path]:
    np.savez(folder / "q.npz", x=Q, ids=np.asarray(["qa", "qb", "qc", "qd"]))
    np.savez(folder / "d.npz", x=D, ids=np.asarray(["10", "11", "12", "13"]))
    return folder / "q.npz", folder / "d.npz"


def test_ids_are_looked_up_and_negatives_too(tmp_path: Path) -> None:
    """Whole numbers are ids where the vectors have ids."""
    q, d = with_ids(tmp_path)
    rows = [
        {"query_id": "qc", "positive_id": 13, "negative_id": 10},
        {"query_id": "qa", "positive_id": 11, "negative_id": 12},
    ]
    pairs = load_pairs([rows], queries=q, documents=d, config=SETTINGS).pairs
    np.testing.assert_array_equal(pairs.queries, Q[[0, 2]])
    np.testing.assert_array_equal(pairs.documents, D)
    assert pairs.relevance.pairs.tolist() == [[0, 1], [1, 3]]
    assert pairs.irrelevant.tolist() == [[0, 2], [1, 0]]


def test_judgements_by_id(tmp_path: Path) -> None:
    q, d = with_ids(tmp_path)
    rows = [
        {"query-id": "qa", "corpus-id": "10", "score": 2},
        {"query-id": "qa", "corpus-id": "11", "score": 1},
        {"query-id": "qa", "corpus-id": "12", "score": 0},
        {"query-id": "qb", "corpus-id": "13", "score": 0},
    ]
    loaded = load_pairs([rows], queries=q, documents=d, config=SETTINGS)
    assert loaded.pairs.relevance.gains.tolist() == [2.0, 1.0]
    assert loaded.pairs.weights.tolist() == [1.0, 0.5]
    assert loaded.pairs.irrelevant.tolist() == [[0, 2]]
    assert told(loaded, "queries") == "queries 1 without a right document are left out"


def test_ids_that_are_not_there(tmp_path: Path) -> None:
    q, d = with_ids(tmp_path)
    with pytest.raises(DataError, match=r"row 1 \(from 0\): query_id 'qz' is not among the 4 ids"):
        load_pairs([[{"query_id": "qa", "positive_id": 11}, {"query_id": "qz", "positive_id": 11}]],
                   queries=q, documents=d, config=SETTINGS)  # fmt: skip


def test_texts_on_one_side_and_ids_on_the_other(tmp_path: Path) -> None:
    q, d = with_ids(tmp_path)
    rows = [{"query": f"text {i}", "positive_id": 10 + i} for i in range(4)]
    pairs = load_pairs([rows], queries=q, documents=d, config=SETTINGS).pairs
    assert pairs.query_texts == [f"text {i}" for i in range(4)]
    assert pairs.relevance.pairs.tolist() == [[i, i] for i in range(4)]


def test_an_array_of_row_numbers(tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", Q)
    np.save(tmp_path / "d.npy", D)
    sides = {"queries": tmp_path / "q.npy", "documents": tmp_path / "d.npy", "config": SETTINGS}
    np.save(tmp_path / "r.npy", np.asarray([2, 0, 1, 3]))
    pairs = load_pairs([tmp_path / "r.npy"], **sides).pairs
    assert pairs.relevance.pairs.tolist() == [[0, 2], [1, 0], [2, 1], [3, 3]]
    np.save(tmp_path / "r.npy", np.asarray([[3, 1], [0, 2]]))
    assert load_pairs([tmp_path / "r.npy"], **sides).pairs.relevance.pairs.tolist() == [
        [0, 2], [1, 1],
    ]  # fmt: skip
    for bad, text in (
        (np.asarray([[0, 4]]), r"row 0 \(from 0\): names row 4 of .*, which has 4"),
        (np.ones((3, 3), int), "must hold whole numbers"),
        (np.ones(3), "must hold whole numbers"),
    ):
        np.save(tmp_path / "r.npy", bad)
        with pytest.raises(DataError, match=text):
            load_pairs([tmp_path / "r.npy"], **sides)


def test_more_documents(tmp_path: Path) -> None:
    q, d = with_ids(tmp_path)
    more = np.random.default_rng(2).standard_normal((3, 5)).astype(np.float32)
    np.savez(tmp_path / "more.npz", x=more, ids=np.asarray(["20", "21", "22"]))
    rows = [{"query_id": "qa", "positive_id": "21"}]
    pairs = load_pairs(
        [rows], queries=q, documents=d, corpus=tmp_path / "more.npz", config=SETTINGS
    ).pairs
    np.testing.assert_array_equal(pairs.documents, np.concatenate([D, more]))
    assert pairs.relevance.pairs.tolist() == [[0, 5]]
    np.savez(tmp_path / "more.npz", x=more, ids=np.asarray(["20", "10", "22"]))
    with pytest.raises(DataError, match="the id '10' is in"):
        load_pairs([rows], queries=q, documents=d, corpus=tmp_path / "more.npz", config=SETTINGS)


@pytest.mark.parametrize("kind", ["txt", "jsonl", "csv"])
def test_a_corpus_of_texts(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"corpus.{kind}"
    if kind == "txt":
        path.write_text("one more\n\na\nT and another\n")
    elif kind == "csv":
        path.write_text("id,text\n1,one more\n2,a\n3,T and another\n")
    else:
        lines(path, [{"_id": "1", "text": "one more", "title": ""},
                     {"_id": "2", "text": "a", "title": None},
                     {"_id": "3", "text": "and another", "title": "T"}])  # fmt: skip
    loaded = load_pairs([[{"query": "q", "answer": "a"}]], corpus=path, config=SETTINGS)
    assert loaded.pairs.document_texts == ["a", "one more", "T and another"]
    assert loaded.pairs.relevance.pairs.tolist() == [[0, 0]]


# Vectors in the rows ----------------------------------------------------------------------------


def test_rows_with_their_own_vectors(tmp_path: Path) -> None:
    rows = [
        {"query": t, "query_embedding": Q[i].tolist(),
         "answer": a, "answer_embedding": D[j].tolist(),
         "negative": n, "negative_embedding": D[k].tolist()}
        for t, i, a, j, n, k in (("x", 0, "a", 0, "b", 1), ("y", 1, "b", 1, "c", 2),
                                 ("x", 0, "c", 2, "b", 1))
    ]  # fmt: skip
    loaded = load_pairs([lines(tmp_path / "x.jsonl", rows)], config=SETTINGS)
    pairs = loaded.pairs
    np.testing.assert_array_equal(pairs.queries, Q[:2])
    np.testing.assert_array_equal(pairs.documents, D[:3])
    assert set(right(loaded)) == {("x", "a"), ("y", "b"), ("x", "c")}
    assert wrong(loaded) == {("x", "b"), ("y", "c")}
    assert loaded.base_model is None
    assert told(loaded, "vectors queries").startswith("vectors queries: 3 x 5 float32, not norm")


def test_vectors_without_texts(tmp_path: Path) -> None:
    rows = [
        {"anchor_embedding": Q[i].tolist(), "positive_embedding": D[j].tolist()}
        for i, j in ((0, 0), (1, 1), (0, 2))
    ]
    pairs = load_pairs([lines(tmp_path / "x.jsonl", rows)], config=SETTINGS).pairs
    np.testing.assert_array_equal(pairs.queries, Q[:2])
    assert pairs.relevance.pairs.tolist() == [[0, 0], [0, 2], [1, 1]]
    assert pairs.query_texts is None


def test_vectors_of_one_side_only(tmp_path: Path) -> None:
    row = {"query": "x", "query_embedding": [1.0, 2.0], "answer": "a"}
    with pytest.raises(DataError, match="but none of the positive: expected a column answer_emb"):
        load_pairs([lines(tmp_path / "x.jsonl", [row])], config=SETTINGS)
    row |= {"answer_embedding": [1.0, 2.0], "negative": "n"}
    with pytest.raises(DataError, match="has negatives without vectors; add a column"):
        load_pairs([lines(tmp_path / "x.jsonl", [row])], config=SETTINGS)


# Classes ----------------------------------------------------------------------------------------


def test_texts_with_classes() -> None:
    rows = [{"text": t, "label": c} for t, c in (("a b", "x"), ("c d", "y"), ("a b", "x"),
                                                  ("e f", "y"), ("g h", "z"))]  # fmt: skip
    loaded = load_pairs([rows], config=SETTINGS)
    assert loaded.pairs.has_labels
    assert len(loaded.pairs) == 5
    assert loaded.pairs.relevance.counts().tolist() == [1, 1, 1, 1, 0]
    assert loaded.base_model == "coreframe:Hashing"
    assert told(loaded, "classes") == "classes 1 of 3 have one row, which has no right partner"


@pytest.mark.parametrize("label", [[3, 1, 3, 1], ["3", "1", "3", "1"], [3.0, 1.0, 3.0, 1.0]])
def test_vectors_with_classes(tmp_path: Path, label: list[Any]) -> None:
    rows = [{"embedding": Q[i].tolist(), "label": c} for i, c in enumerate(label)]
    pairs = load_pairs([lines(tmp_path / "x.jsonl", rows)], config=SETTINGS).pairs
    np.testing.assert_array_equal(pairs.queries, Q)
    assert pairs.relevance.counts().tolist() == [1] * 4


def test_classes_with_groups_weights_and_one_class() -> None:
    rows = [
        {"text": f"w{i}", "label": i % 2, "group": i // 4, "weight": i, "difficulty": -i}
        for i in range(8)
    ]
    loaded = load_pairs([rows], config=SETTINGS)
    assert loaded.has_groups
    assert loaded.pairs.groups.tolist() == [0] * 4 + [1] * 4
    assert loaded.pairs.weights.tolist() == list(range(8))
    assert loaded.pairs.difficulty.tolist() == [-i for i in range(8)]
    with pytest.raises(DataError, match="all 8 rows have the class 1: there is nothing to tell"):
        load_pairs([[row | {"label": 1} for row in rows]], config=SETTINGS)


def test_a_bad_row_is_named_with_its_id(tmp_path: Path) -> None:
    d = D.copy()
    d[2, 1] = np.inf
    np.savez(tmp_path / "d.npz", x=d, ids=np.asarray(["10", "11", "12", "13"]))
    np.save(tmp_path / "q.npy", Q)
    with pytest.raises(DataError, match=r"d\.npz, row 2 \(from 0\), id '12': has NaN or infinity"):
        load_pairs([[{"query_id": 0, "positive_id": 10}]], queries=tmp_path / "q.npy",
                   documents=tmp_path / "d.npz", config=SETTINGS)  # fmt: skip


def test_scores_are_no_classes() -> None:
    with pytest.raises(DataError, match=r"'label' must hold classes, .*, got 0\.5"):
        load_pairs([[{"text": "a", "label": 0.5}, {"text": "b", "label": 1.0}]], config=SETTINGS)


# What is told -----------------------------------------------------------------------------------


def test_what_is_odd_is_told(tmp_path: Path) -> None:
    q, d = Q.copy(), D.copy()
    d[3] = d[1]
    q[2] = d[0]
    d[2] = 0
    np.save(tmp_path / "q.npy", q)
    np.save(tmp_path / "d.npy", d / np.maximum(np.linalg.norm(d, axis=1, keepdims=True), 1e-9))
    np.save(tmp_path / "d.npy", d)
    rows = [{"anchor_id": i, "positive_id": i} for i in range(4)] + [
        {"anchor_id": 0, "positive_id": 0}
    ]
    loaded = load_pairs(
        [rows], queries=tmp_path / "q.npy", documents=tmp_path / "d.npy", config=SETTINGS
    )
    assert told(loaded, "zeros") == (
        "zeros   1 row of the documents is all zeros, the first in row 2 (from 0): their "
        "similarity to anything is 0"
    )
    assert told(loaded, "twice").startswith("twice   1 document has the vector of another one")
    assert told(loaded, "corpus").startswith("corpus  1 query is in the collection too")
    assert told(loaded, "rows") == "rows    1 repeat a pair that is there already"


def test_a_query_that_is_its_own_document_is_not_odd() -> None:
    rows = [{"query": "same", "answer": "same"}, {"query": "b", "answer": "c"}]
    assert told(load_pairs([rows], config=SETTINGS), "corpus") == ""
    rows[1]["query"] = "c"
    rows[0]["answer"] = "d"
    rows[1]["answer"] = "same"
    loaded = load_pairs([[*rows, {"query": "x", "answer": "c"}]], config=SETTINGS)
    assert told(loaded, "corpus").startswith("corpus  2 queries are in the collection too")


def test_every_text_is_embedded_once() -> None:
    asked: list[str] = []

    class Counting(Embedder):
        def embed(self, texts: Any) -> Any:
            asked.extend(texts)
            return np.asarray([[len(t), ord(t[0])] for t in texts], np.float32)

    import dataclasses

    settings = dataclasses.replace(SETTINGS, embedder=Counting())
    rows = [{"query": "a", "answer": "b", "split": s} for s in ("train", "test")]
    rows += [{"query": "b", "answer": "a", "split": "train"}]
    loaded = load_pairs([rows], config=settings)
    assert sorted(asked) == ["a", "b"]
    assert loaded.parts.tolist() == [0, 0, 2]
    assert loaded.pairs.query_texts == ["a", "b", "a"]
