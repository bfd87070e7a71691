"""From the files a user names to Pairs, and in which words they are refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from coreframe import config
from coreframe.data.loading import load_pairs
from coreframe.errors import ArgumentError, DataError

SETTINGS = config.default()


@pytest.fixture
def write(tmp_path):
    """Return a writer of JSON lines and of arrays, which returns the path."""

    def writer(name, content):
        path = tmp_path / name
        if name.endswith(".npy"):
            np.save(path, np.asarray(content))
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        return path

    return writer


def vectors(n, d=4, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def right(pairs):
    return {
        (pairs.query_texts[i], pairs.document_texts[j]) for i, j in pairs.relevance.pairs.tolist()
    }


# Texts --------------------------------------------------------------------------------------


def test_texts_are_embedded(write):
    path = write(
        "pairs.jsonl",
        [
            {"anchor": "rot", "positive": "red", "negative": "blue", "group": "colour"},
            {"anchor": "blau", "positive": "blue", "negative": "red", "group": "colour"},
            {"anchor": "rot", "positive": "crimson", "negative": "blue", "group": "shade"},
        ],
    )
    loaded = load_pairs([path], config=SETTINGS)
    assert loaded.files == (path,)
    assert loaded.base_model == "coreframe:Hashing"
    assert loaded.notes == (
        "columns anchor = anchor, positive = positive, negative = negative, group = group",
    )
    data = loaded.pairs
    assert data.query_texts == ["rot", "blau"]
    assert data.document_texts == ["red", "blue", "crimson"]
    assert right(data) == {("rot", "red"), ("rot", "crimson"), ("blau", "blue")}
    assert data.irrelevant.tolist() == [[0, 1], [1, 0]]
    assert data.groups[0] == data.groups[1]
    np.testing.assert_array_equal(data.documents, SETTINGS.embedder.embed(data.document_texts))


def test_columns_by_order_are_told(write):
    path = write("x.jsonl", [{"frage": "a b", "antwort": "c d"}, {"frage": "e", "antwort": "f"}])
    loaded = load_pairs([path], config=SETTINGS)
    assert loaded.notes == ("columns frage = anchor, antwort = positive",)


def test_columns_by_configuration(write):
    path = write("x.jsonl", [{"id": 1, "b": "right", "a": "left"}])
    chosen = config.read(None, ["data.anchor='a'", "data.positive='b'"])
    assert right(load_pairs([path], config=chosen).pairs) == {("left", "right")}


@pytest.mark.parametrize("labels", [(1, 0, 1), ("1", "0", "1"), (1.0, 0.0, 1.0)])
def test_rows_labelled_0_are_no_pairs(write, labels):
    rows = [{"anchor": f"a{i}", "positive": f"p{i}", "label": y} for i, y in enumerate(labels)]
    pairs = load_pairs([write("x.jsonl", rows)], config=SETTINGS).pairs
    assert right(pairs) == {("a0", "p0"), ("a2", "p2")}


# Vectors beside rows ------------------------------------------------------------------------


def load_beside(write, rows, q, d):
    files = write("x.jsonl", rows), write("q.npy", q), write("d.npy", d)
    return load_pairs([files[0]], queries=files[1], documents=files[2], config=SETTINGS), files


def test_line_i_goes_with_row_i(write):
    rows = [{"anchor": f"a{i}", "positive": f"p{i}"} for i in range(5)]
    q, d = vectors(5), vectors(5, seed=1)
    loaded, files = load_beside(write, rows, q, d)
    assert loaded.files == files
    assert loaded.base_model is None
    np.testing.assert_array_equal(loaded.pairs.queries, q)
    np.testing.assert_array_equal(loaded.pairs.documents, d)
    assert right(loaded.pairs) == {(f"a{i}", f"p{i}") for i in range(5)}


def test_equal_texts_become_one_row(write):
    rows = [{"anchor": a, "positive": p} for a, p in ("ax", "by", "ay", "bz")]
    q = vectors(2)[[0, 1, 0, 1]]
    d = vectors(3, seed=1)[[0, 1, 1, 2]]
    pairs = load_beside(write, rows, q, d)[0].pairs
    assert pairs.query_texts == ["a", "b"]
    assert pairs.document_texts == ["x", "y", "z"]
    np.testing.assert_array_equal(pairs.queries, q[:2])
    np.testing.assert_array_equal(pairs.documents, d[[0, 1, 3]])
    assert right(pairs) == {("a", "x"), ("b", "y"), ("a", "y"), ("b", "z")}


def test_ids_name_rows(write):
    rows = [{"anchor_id": i, "positive_id": j} for i, j in [(0, 3), (2, 1), (0, 1)]]
    q, d = vectors(3), vectors(5, seed=1)
    pairs = load_beside(write, rows, q, d)[0].pairs
    np.testing.assert_array_equal(pairs.queries, q[[0, 2]])  # row 1 asks for nothing
    np.testing.assert_array_equal(pairs.documents, d)  # all documents are searched
    assert pairs.relevance.pairs.tolist() == [[0, 1], [0, 3], [1, 1]]


def test_groups_beside_vectors_join_as_they_do_with_texts(write):
    rows = [{"anchor": a, "positive": p, "group": g} for a, p, g in ("axu", "byv", "azv", "cwt")]
    pairs = load_beside(write, rows, vectors(3)[[0, 1, 0, 2]], vectors(4))[0].pairs
    a, b, c = pairs.groups.tolist()
    assert a == b  # by the second row of a
    assert a != c


def test_labels_0_beside_vectors(write):
    rows = [{"anchor": f"a{i}", "positive": f"p{i}", "label": i % 2} for i in range(4)]
    q, d = vectors(4), vectors(4, seed=1)
    pairs = load_beside(write, rows, q, d)[0].pairs
    assert right(pairs) == {("a1", "p1"), ("a3", "p3")}
    np.testing.assert_array_equal(pairs.queries, q[[1, 3]])
    np.testing.assert_array_equal(pairs.documents, d)


def test_vectors_with_labels(write):
    x = vectors(6)
    loaded = load_pairs(
        [write("X.npy", x), write("y.npy", ["b", "a", "b", "a", "c", "c"])], config=SETTINGS
    )
    assert loaded.notes == (
        "columns 6 vectors with labels; equal labels belong together",
        "vectors vectors: 6 x 4 float32, not normalised (norms 0.674 to 2.75)",
    )
    assert loaded.pairs.has_labels
    np.testing.assert_array_equal(loaded.pairs.queries, x)
    assert loaded.pairs.relevance.counts().tolist() == [1] * 6  # a row is not its own answer


# Refused ------------------------------------------------------------------------------------

PAIR = {"anchor": "a", "positive": "p"}


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (
            [{**PAIR, "label": 1}, {**PAIR, "label": -0.5}],
            "column 'label' has scores from -0.5 to 1; grades of likeness start at 0",
        ),
        ([{**PAIR, "score": "yes"}], "column 'score' must hold numbers, got 'yes': is it a class?"),
        ([{**PAIR, "label": 0}], "no row is right: all have grades below 0.5"),
        (
            [{"anchor_id": 0, "positive_id": 0}],
            "has ids but no texts; give their vectors with --queries and --documents",
        ),
        ([{"anchor": "a"}], "has no column for the positive"),
    ],
)
def test_rows_that_cannot_be_pairs(write, rows, text):
    path = write("x.jsonl", rows)
    with pytest.raises(DataError, match=re.escape(text)) as caught:
        load_pairs([path], config=SETTINGS)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "q", "d", "text"),
    [
        ([PAIR] * 2, 3, 2, "--queries has 3 vectors for 2 rows of "),
        ([PAIR] * 2, 2, 1, "--documents has 1 vectors for 2 rows of "),
        ([{**PAIR, "negative": "n"}], 1, 1, "has a column of negatives, but --documents holds one"),
        (
            [{"anchor_id": 0, "positive_id": 0}, {"anchor_id": 2, "positive_id": 0}],
            2,
            2,
            "line 2: anchor_id must be a row number from 0 to 1, since",
        ),
        (
            [{"anchor_id": 0, "positive_id": "x7"}],
            2,
            2,
            "has no ids, got 'x7'",
        ),
    ],
)
def test_rows_and_vectors_that_do_not_fit(write, rows, q, d, text):
    with pytest.raises(DataError, match=re.escape(text)) as caught:
        load_beside(write, rows, vectors(q), vectors(d))
    assert "x.jsonl" in str(caught.value)


def test_files_that_do_not_go_together(write):
    pairs, x = write("x.jsonl", [PAIR]), write("X.npy", vectors(3))
    for data in ([x], [pairs, pairs], [pairs, x], [x, x, x], []):
        with pytest.raises(ArgumentError, match="DATA is one file of pairs") as caught:
            load_pairs(data, config=SETTINGS)
        for path in data:
            assert str(path) in str(caught.value)
    for sides in ({"queries": x}, {"documents": x}):
        with pytest.raises(ArgumentError, match="--queries and --documents go together"):
            load_pairs([pairs], config=SETTINGS, **sides)


def test_bad_arrays(write):
    x = vectors(3)
    with pytest.raises(DataError, match=r"y\.npy has 2 labels for 3 rows"):
        load_pairs([write("X.npy", x), write("y.npy", [1, 2])], config=SETTINGS)
    x[1, 2] = np.nan
    with pytest.raises(DataError, match=r"q\.npy, row 1 \(from 0\): has NaN or infinity"):
        load_beside(write, [PAIR] * 3, x, vectors(3))
    with pytest.raises(
        DataError, match=r"q\.npy have width 4, but the documents of .*d\.npy have 5"
    ):
        load_beside(write, [PAIR] * 3, vectors(3), vectors(3, d=5))
