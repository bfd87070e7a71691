"""Pairs and relevance: what they accept, and splits that let nothing through."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreframe.data.pairs import Pairs
from coreframe.data.relevance import LabelRelevance, ListedRelevance, components
from coreframe.errors import ArgumentError, ArgumentTypeError, DataError, MixedArrays
from coreframe.evaluation.retrieval import evaluate

X = np.random.default_rng(0).standard_normal((6, 4))


class Letters:
    """Embeds a text by its letter counts, and notes what it was asked."""

    def __init__(self):
        self.asked = []

    def embed(self, texts):
        self.asked.append(list(texts))
        return np.array([[t.count(c) + 0.5 for c in "abcdefgh"] for t in texts], np.float32)


def pair_set(pairs):
    return {tuple(p) for p in pairs.tolist()}


# Making them --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("relevant", "expected"),
    [
        (None, [[i, i] for i in range(6)]),
        ([5, 4, 3, 2, 1, 0], [[i, 5 - i] for i in range(6)]),
        ([[2, 1], [0, 3], [2, 1], [2, 0]], [[0, 3], [2, 0], [2, 1]]),
        (np.array([[1, 1]], dtype=np.uint8), [[1, 1]]),
    ],
)
def test_forms_of_relevant(relevant, expected):
    data = Pairs(X, X, relevant)
    assert data.relevance.pairs.tolist() == expected
    assert data.relevance.pairs.dtype == np.int64
    assert len(data) == 6


def test_arrays_and_relevant_of_every_library(library):
    data = Pairs(library.asarray(X), library.asarray(X), library.asarray([0] * 6))
    assert data.relevance.pairs[:, 1].tolist() == [0] * 6
    part = data.take([4, 1])
    assert type(part.queries) is type(library.asarray(X))
    np.testing.assert_array_equal(library.to_numpy(part.queries), X[[4, 1]])


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: Pairs(X, X[:5]), DataError, "6 queries and 5 documents; without relevant="),
        (lambda: Pairs(X, X, [0, 1]), DataError, "relevant has 2 entries for 6 queries"),
        (lambda: Pairs(X, X, np.zeros((6, 3), int)), DataError, "(q,) or (p, 2), got shape (6, 3)"),
        (lambda: Pairs(X, X, np.zeros((0, 2), int)), DataError, "(q,) or (p, 2), got shape (0, 2)"),
        (lambda: Pairs(X, X, np.zeros(6)), DataError, "relevant must be integers (row numbers)"),
        (lambda: Pairs(X, X, np.ones(6, bool)), DataError, "must be integers (row numbers), got"),
        (lambda: Pairs(X, X, [[6, 0]]), DataError, "names query 6 and document 0 at most"),
        (lambda: Pairs(X, X, [[0, 6]]), DataError, "there are 6 queries and 6 documents"),
        (lambda: Pairs(X, X, [[0, -1], [1, 1]]), DataError, "-1 at least"),
        (lambda: Pairs(X, X, irrelevant=[[0, 9]]), DataError, "document 9 at most"),
        (
            lambda: Pairs(X, X, query_texts=["a"]),
            DataError,
            "query_texts has 1 entries for 6 rows",
        ),
        (
            lambda: Pairs(X, X, document_texts=["a"] * 7),
            DataError,
            "document_texts has 7 entries for 6 rows",
        ),
        (lambda: Pairs(X, X, groups=[1, 2]), DataError, "groups has 2 entries for 6 queries"),
        (
            lambda: Pairs(X, X, groups=[("a", i) for i in range(6)]),
            DataError,
            "groups must hold one number or text a query (6,)",
        ),
        (lambda: Pairs(X, X[:, :3]), ArgumentError, "documents must have width 4"),
        (lambda: Pairs(X[:0], X[:0]), ArgumentError, "queries is empty: its shape is (0, 4)"),
        (lambda: Pairs(X[0], X), ArgumentError, "queries must have 2 dimensions"),
        (lambda: Pairs(X.tolist(), X), ArgumentTypeError, "queries must be an array, got list"),
        (
            lambda: Pairs(X.astype(int), X),
            ArgumentTypeError,
            "queries must be floating point, got int64",
        ),
        (
            lambda: Pairs(X, np.where(X[3, 1] == X, np.nan, X)),
            ArgumentError,
            "documents has 1 values that are NaN or infinite, the first in row 3",
        ),
        (lambda: Pairs.labelled(X, [0, 1]), DataError, "labels has 2 entries for 6 rows"),
        (
            lambda: Pairs.labelled(X.tolist(), [0] * 6),
            ArgumentTypeError,
            "embeddings must be an array, got list",
        ),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call()


def test_arrays_of_two_libraries_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(MixedArrays, match=r"queries: numpy.*\n.*documents: torch"):
        Pairs(X, torch.asarray(X))


def test_from_texts_embeds_each_text_once_and_merges_duplicates():
    embedder = Letters()
    data = Pairs.from_texts(
        ["a", "b", "a", "a"],
        ["c", "c", "d", "c"],
        embedder,
        negatives=["e", "c", "e", "f"],
        corpus=["g", "c"],
    )
    assert embedder.asked == [["a", "b"], ["c", "d", "e", "f", "g"]]
    assert data.query_texts == ["a", "b"]
    assert data.document_texts == ["c", "d", "e", "f", "g"]
    assert data.relevance.pairs.tolist() == [[0, 0], [0, 1], [1, 0]]
    assert data.irrelevant.tolist() == [[0, 2], [0, 3], [1, 0]]
    np.testing.assert_array_equal(data.queries[1], Letters().embed(["b"])[0])


def test_groups_that_one_text_names_are_one_group():
    data = Pairs.from_texts(
        ["a", "b", "a", "c", "d"], list("efghe"), Letters(), groups=["x", "y", "y", "z", 3]
    )
    a, b, c, d = data.groups.tolist()
    assert a == b
    assert len({a, c, d}) == 3


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"positives": ["c"]}, "2 anchors, but 1 positives"),
        ({"negatives": ["c"] * 3}, "2 anchors, but 3 negatives"),
        ({"groups": ["g"]}, "2 anchors, but 1 groups"),
    ],
)
def test_columns_of_texts_must_have_one_length(columns, text):
    columns = {"positives": ["c", "d"], **columns}
    with pytest.raises(DataError, match=text):
        Pairs.from_texts(["a", "b"], embedder=Letters(), **columns)


def test_repr_counts_in_words():
    assert repr(Pairs(X, X)) == "Pairs(6 queries, 6 documents, 6 relevant pairs, dim 4)"
    one = repr(Pairs(X[:1], X[:1]))
    assert one == "Pairs(1 query, 1 document, 1 relevant pair, dim 4)"
    assert repr(Pairs.labelled(X, [0] * 6)) == "Pairs(6 queries, 6 documents, dim 4)"


def test_moving_to_a_backend_widens_halves_and_keeps_the_rest():
    from coreframe.backend import get_backend

    data = Pairs(
        X.astype(np.float16), X.astype(np.float16), groups=list("aabbcc"), irrelevant=[[0, 1]]
    )
    moved = data.to(get_backend("numpy"))
    assert moved.queries.dtype == moved.documents.dtype == np.float32
    assert moved.groups.tolist() == data.groups.tolist()
    assert moved.irrelevant.tolist() == [[0, 1]]
    assert Pairs(X, X).to(get_backend("numpy")).queries.dtype == np.float64


# Splitting ----------------------------------------------------------------------------------


def random_pairs(seed, q=300, c=260, groups=True):
    rng = np.random.default_rng(seed)
    extra = np.stack([rng.integers(q, size=60), rng.integers(c, size=60)], axis=1)
    own = np.stack([np.arange(q), rng.integers(c, size=q)], axis=1)
    return Pairs(
        rng.standard_normal((q, 3)),
        rng.standard_normal((c, 3)),
        np.concatenate([own, extra[:20]]),
        query_texts=[f"q{i}" for i in range(q)],
        groups=rng.integers(200, size=q) if groups else None,
        irrelevant=extra[20:],
    )


@pytest.mark.parametrize("seed", range(5))
def test_no_document_and_no_group_stands_on_two_sides(seed):
    data = random_pairs(seed, c=2000)
    group = dict(zip(data.query_texts, data.groups.tolist(), strict=True))
    parts = data.split(0.2, 0.3, seed=seed)
    seen = []
    for part in parts:
        # A part numbers its rows anew, but keeps the numbers of documents.
        documents = {f"d{j}" for j in part.relevance.pairs[:, 1]}
        seen.append(documents | {f"g{group[text]}" for text in part.query_texts})
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    names = [text for part in parts for text in part.query_texts]
    assert sorted(names) == sorted(data.query_texts)


def test_chains_of_shared_documents_stay_together():
    # 0-1-2 hang together by documents, 2-3 by group; 4.. are alone.
    relevant = [[0, 0], [1, 0], [1, 1], [2, 1], [3, 2], *([i, i] for i in range(4, 40))]
    groups = [0, 1, 2, 2, *range(4, 40)]
    x = np.random.default_rng(0).standard_normal((40, 3))
    for seed in range(10):
        data = Pairs(x, x, relevant, groups=groups, query_texts=[str(i) for i in range(40)])
        sides = [{"0", "1", "2", "3"} & set(p.query_texts) for p in data.split(seed=seed)]
        assert sorted(map(len, sides)) == [0, 0, 4]


@pytest.mark.parametrize(("dev", "test"), [(0.1, 0.2), (0.25, 0.25), (0.05, 0.6)])
def test_shares(dev, test):
    x = np.random.default_rng(0).standard_normal((2000, 2))
    groups = np.random.default_rng(1).integers(900, size=2000)
    train, held_out, last = Pairs(x, x, groups=groups).split(dev, test, seed=3)
    assert len(train) + len(held_out) + len(last) == 2000
    assert len(held_out) == pytest.approx(2000 * dev, abs=12)
    assert len(last) == pytest.approx(2000 * test, abs=12)


def test_a_large_group_does_not_upset_the_shares():
    x = np.random.default_rng(0).standard_normal((1000, 2))
    groups = np.where(np.arange(1000) < 400, 0, np.arange(1000))
    for seed in range(8):
        parts = Pairs(x, x, groups=groups).split(0.1, 0.2, seed=seed)
        assert [len(part) for part in parts] == [700, 100, 200]


def test_split_follows_the_seed_alone():
    data = random_pairs(0, groups=False, c=2000)
    first, again, other = (data.split(seed=seed) for seed in (5, 5, 6))
    assert [p.query_texts for p in first] == [p.query_texts for p in again]
    assert [p.query_texts for p in first] != [p.query_texts for p in other]
    assert first[0].query_texts == sorted(first[0].query_texts, key=lambda t: int(t[1:]))


def test_parts_keep_documents_texts_and_irrelevant_pairs():
    data = random_pairs(1, c=2000)
    known = {(f"q{i}", j) for i, j in data.irrelevant.tolist()}
    right = {(f"q{i}", j) for i, j in data.relevance.pairs.tolist()}
    found, found_right = set(), set()
    parts = data.split(0.2, 0.3)
    held = {j for part in parts[1:] for j in part.relevance.pairs[:, 1].tolist()}
    assert not held & set(parts[0].irrelevant[:, 1].tolist())  # nor are they trained on
    for part in parts:
        assert part.documents is data.documents
        found |= {(part.query_texts[i], j) for i, j in part.irrelevant.tolist()}
        found_right |= {(part.query_texts[i], j) for i, j in part.relevance.pairs.tolist()}
        for i, text in enumerate(part.query_texts):
            np.testing.assert_array_equal(part.queries[i], data.queries[int(text[1:])])
    assert {(q, j) for q, j in known - found if j not in held} == set()
    assert found <= known
    assert found_right == right


@pytest.mark.parametrize("shares", [(0, 0.2), (0.1, 0), (0.5, 0.5), (-0.1, 0.3), (0.1, 1.2)])
def test_shares_must_leave_something_for_each_part(shares):
    with pytest.raises(ArgumentError, match="dev and test must be shares with a sum below 1"):
        Pairs(X, X).split(*shares)


def test_too_few_groups_to_split():
    with pytest.raises(DataError, match=r"part is empty: 6 queries in 1 groups .* too few"):
        Pairs(X, X, [0] * 6).split()
    with pytest.raises(DataError, match="the dev part is empty: 6 queries in 6 groups"):
        Pairs(X, X).split(dev=0.01, test=0.5)


def test_labelled_split(library):
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=200)
    x = np.stack([labels, np.arange(200)], axis=1).astype(np.float64)
    parts = Pairs.labelled(library.asarray(x), labels).split(0.2, 0.2, seed=1)
    rows = [library.to_numpy(p.queries)[:, 1].astype(int) for p in parts]
    assert sorted(np.concatenate(rows)) == list(range(200))
    for part, own in zip(parts, rows, strict=True):
        corpus = library.to_numpy(part.documents)[:, 1].astype(int)
        np.testing.assert_array_equal(corpus, rows[0])  # what is searched is what was trained on
        hits = part.relevance.hits(np.tile(np.arange(len(corpus)), (len(own), 1)))
        np.testing.assert_array_equal(hits, labels[own][:, None] == labels[corpus][None, :])


# Relevance, by brute force ------------------------------------------------------------------


@st.composite
def listed(draw):
    q, c = draw(st.integers(1, 7)), draw(st.integers(1, 7))
    cell = st.tuples(st.integers(0, q - 1), st.integers(0, c - 1))
    return q, c, draw(st.lists(cell, min_size=1, max_size=20))


@given(listed(), st.data())
def test_listed_relevance(case, data):
    q, c, pairs = case
    known = set(pairs)
    relevance = ListedRelevance.of(pairs, q, c)
    table = np.array([[(i, j) in known for j in range(c)] for i in range(q)])
    i, j = np.indices((q, c))
    np.testing.assert_array_equal(relevance.contains(i, j), table)
    np.testing.assert_array_equal(relevance.counts(), table.sum(axis=1))
    found = np.array(
        data.draw(st.lists(st.lists(st.integers(-1, c - 1), min_size=3, max_size=3), min_size=q))
    )[:q]
    expected = [[(row, x) in known for x in found[row]] for row in range(q)]
    np.testing.assert_array_equal(relevance.hits(found), expected)
    rows = np.array(data.draw(st.lists(st.integers(0, q - 1), min_size=1, max_size=9)))
    part = relevance.take(rows)
    assert (part.queries, part.documents) == (len(rows), c)
    assert pair_set(part.pairs) == {
        (place, j) for place, row in enumerate(rows) for j in range(c) if (row, j) in known
    }
    assert part.pairs.tolist() == sorted(part.pairs.tolist())
    np.testing.assert_array_equal(part.counts(), table[rows].sum(axis=1))
    i, j = np.indices((len(rows), c))
    np.testing.assert_array_equal(part.contains(i, j), table[rows])


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
    st.lists(st.integers(0, 4), min_size=1, max_size=8),
)
def test_label_relevance(queries, documents):
    relevance = LabelRelevance(np.array(queries), np.array(documents))
    table = np.array([[a == b for b in documents] for a in queries])
    np.testing.assert_array_equal(relevance.counts(), table.sum(axis=1))
    every = np.tile(np.arange(-1, len(documents)), (len(queries), 1))
    np.testing.assert_array_equal(
        relevance.hits(every), np.concatenate([np.zeros_like(table[:, :1]), table], axis=1)
    )
    half = relevance.take(np.arange(0, len(queries), 2))
    np.testing.assert_array_equal(half.counts(), table[::2].sum(axis=1))


def test_take_by_list_mask_and_repetition():
    data = Pairs(X, X, irrelevant=[[1, 5], [4, 0], [4, 2]], query_texts=list("abcdef"))
    mask = np.array([False, True, False, False, True, False])
    for rows in ([1, 4], np.array([1, 4]), mask, [-5, -2]):
        part = data.take(rows)
        assert part.query_texts == ["b", "e"]
        assert part.relevance.pairs.tolist() == [[0, 1], [1, 4]]
        assert part.irrelevant.tolist() == [[0, 5], [1, 0], [1, 2]]
        np.testing.assert_array_equal(part.queries, X[[1, 4]])
    twice = data.take([4, 4])
    assert twice.relevance.pairs.tolist() == [[0, 4], [1, 4]]
    assert twice.irrelevant.tolist() == [[0, 0], [0, 2], [1, 0], [1, 2]]


def test_queries_without_any_right_document_count_zero():
    data = Pairs(X, X, [[0, 0]])
    assert evaluate(None, data).mean()["recall@10"] == pytest.approx(1 / 6)
    assert evaluate(None, data.take([2, 3])).mean() == dict.fromkeys(
        ("recall@1", "recall@10", "mrr@10", "ndcg@10"), 0.0
    )


def test_aligned_rows():
    queries, documents = Pairs(X, X, [[3, 1], [0, 2], [3, 0]]).aligned()
    np.testing.assert_array_equal(queries, X[[0, 3, 3]])
    np.testing.assert_array_equal(documents, X[[2, 0, 1]])


def test_aligned_rows_of_labels_are_means_of_classes(library):
    labels = ["b", "a", "b", "c", "a", "b"]
    queries, means = Pairs.labelled(library.asarray(X), labels).aligned()
    np.testing.assert_array_equal(library.to_numpy(queries), X)
    wanted = [X[[j for j in range(6) if labels[j] == labels[i]]].mean(axis=0) for i in range(6)]
    np.testing.assert_allclose(library.to_numpy(means), wanted, rtol=1e-12)


# Components ---------------------------------------------------------------------------------


@given(
    st.integers(1, 14).flatmap(
        lambda n: st.tuples(
            st.just(n),
            st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=20),
        )
    )
)
def test_components(case):
    count, edges = case
    reached = np.eye(count, dtype=bool)
    for a, b in edges:
        reached[a, b] = reached[b, a] = True
    for k in range(count):  # Warshall
        reached |= reached[:, k][:, None] & reached[k][None, :]
    left, right = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    label = components(left, right, count)
    np.testing.assert_array_equal(label[:, None] == label[None, :], reached)


def test_components_of_a_long_chain_and_of_edges_in_any_order():
    n = 5000
    order = np.random.default_rng(0).permutation(n - 1)
    assert len(set(components(order, order + 1, n))) == 1
    assert len(set(components(order[1:], order[1:] + 1, n))) == 2
    with pytest.raises(ArgumentError, match="edges need two ends, got 2 and 1"):
        components(np.array([0, 1]), np.array([1]), 3)
