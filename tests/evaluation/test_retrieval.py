"""Search and metrics, against brute force that shares no code with the package."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_near

from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.evaluation import METRICS, retrieval
from coreframe.evaluation.retrieval import evaluate, search
from coreframe.similarity import NAMES


def brute_scores(q, d, similarity):
    """Similarities (n, m), with exact integers where the vectors hold small integers."""
    if similarity == "dot":
        return q @ d.T
    if similarity == "cosine":
        length = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(d, axis=1)[None, :]
        return (q @ d.T) / np.where(length > 0, length, 1)
    squared = ((q[:, None, :] - d[None, :, :]) ** 2).sum(axis=-1)
    return -squared if similarity == "squared_euclidean" else -np.sqrt(squared)


def brute_search(q, d, k, similarity):
    """Rank by score, then by row: written as a sort of tuples, not as a stable sort."""
    scores = brute_scores(q, d, similarity)
    return np.array(
        [[j for _, j in sorted((-s, j) for j, s in enumerate(row))[:k]] for row in scores]
    )


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(retrieval, "_QUERIES_AT_ONCE", 4)
    monkeypatch.setattr(retrieval, "_DOCUMENTS_AT_ONCE", 5)


# Search -------------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_search_is_exact(library, rng, similarity, dtype):
    q, d = rng.standard_normal((13, 6)), rng.standard_normal((57, 6)) * rng.uniform(0.5, 2, (57, 1))
    q, d = q.astype(dtype), d.astype(dtype)
    found = search(library.asarray(q), library.asarray(d), 10, similarity=similarity)
    assert isinstance(found, np.ndarray)
    assert found.dtype == np.int64
    expected = brute_search(q.astype(np.float64), d.astype(np.float64), 10, similarity)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("similarity", ["dot", "squared_euclidean"])
def test_ties_go_by_row_within_and_across_tiles(library, rng, similarity, small_tiles):
    # Small integers: every library has the same scores to the last bit, and many are equal.
    q, d = rng.integers(-1, 2, (12, 3)) * 1.0, rng.integers(-1, 2, (30, 3)) * 1.0
    d[20:] = d[:10]  # whole rows again in later tiles
    if similarity == "squared_euclidean":
        d -= d.mean(axis=0).round()
        d[-1] -= d.sum(axis=0)  # the mean is 0, so that moving to it is exact
    for k in (1, 10):
        found = search(library.asarray(q), library.asarray(d), k, similarity=similarity)
        np.testing.assert_array_equal(found, brute_search(q, d, k, similarity))


def test_all_documents_alike_rank_in_order(library, small_tiles):
    q = np.ones((4, 4), np.float32)
    d = np.tile(np.array([[0.3, -1.7, 2.2, 0.1]], np.float32), (15, 1))
    for similarity in ("cosine", "euclidean"):
        found = search(library.asarray(q), library.asarray(d), 10, similarity=similarity)
        np.testing.assert_array_equal(found, np.tile(np.arange(10), (4, 1)))


@pytest.mark.parametrize("similarity", NAMES)
def test_tiles_change_nothing(rng, similarity, monkeypatch):
    q, d = rng.standard_normal((29, 8)), rng.standard_normal((101, 8))
    whole = search(q, d, 10, similarity=similarity)
    for queries, documents in ((1, 1), (7, 3), (29, 100), (1000, 11)):
        monkeypatch.setattr(retrieval, "_QUERIES_AT_ONCE", queries)
        monkeypatch.setattr(retrieval, "_DOCUMENTS_AT_ONCE", documents)
        np.testing.assert_array_equal(search(q, d, 10, similarity=similarity), whole)


def test_zero_vectors_are_similar_to_nothing():
    q = np.array([[1.0, 0.0], [0.0, 0.0]])
    d = np.array([[-1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    np.testing.assert_array_equal(search(q, d, 3), [[2, 1, 0], [0, 1, 2]])


def test_bad_searches():
    x = np.ones((3, 2))
    for k in (0, 4):
        with pytest.raises(ArgumentError, match="k must be from 1 to the number of documents 3"):
            search(x, x, k)
    with pytest.raises(ArgumentTypeError, match="documents must be an array, got list"):
        search(x, x.tolist(), 1)


# Metrics ------------------------------------------------------------------------------------


def brute_metrics(ranking, right):
    """One query: the documents best first, and the set of right ones."""
    top = list(ranking)[:10]
    first = next((i + 1 for i, j in enumerate(top) if j in right), 0)
    gains = [1.0 if j in right else 0.0 for j in top]
    perfect = [1.0] * min(len(right), len(top))
    dcg, best = (sum(g / np.log2(i + 2) for i, g in enumerate(x)) for x in (gains, perfect))
    return {
        "recall@1": len(right & set(top[:1])) / len(right) if right else 0.0,
        "recall@10": len(right & set(top)) / len(right) if right else 0.0,
        "mrr@10": 1 / first if first else 0.0,
        "ndcg@10": dcg / best if right else 0.0,
    }


@given(st.integers(1, 25), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_metrics(documents, queries, seed):
    rng = np.random.default_rng(seed)
    q, d = rng.standard_normal((queries, 3)), rng.standard_normal((documents, 3))
    pairs = [(i, j) for i in range(queries) for j in range(documents) if rng.random() < 0.2]
    pairs = pairs or [(0, 0)]  # some queries may have no right document, some more than ten
    found = evaluate(None, Pairs(q, d, pairs))
    for i in range(queries):
        right = {j for a, j in pairs if a == i}
        ranking = brute_search(q[i : i + 1], d, documents, "cosine")[0]
        want = brute_metrics(ranking, right)
        assert {m: float(found.values[m][i]) for m in METRICS} == pytest.approx(want, abs=1e-12)
        first = next((r + 1 for r, j in enumerate(ranking[:10]) if j in right), 0)
        assert found.first[i] == first
    means = {m: float(np.mean(found.values[m])) for m in METRICS}
    assert found.mean() == pytest.approx(means)


def test_metrics_by_hand():
    # One query; documents in the order of their rows; right are the 2nd, the 4th and the 12th.
    d = np.stack([np.cos(np.arange(12) / 10), np.sin(np.arange(12) / 10)], axis=1)
    found = evaluate(None, Pairs(d[:1], d, [[0, 1], [0, 3], [0, 11]])).mean()
    assert found["recall@1"] == 0
    assert found["recall@10"] == pytest.approx(2 / 3)
    assert found["mrr@10"] == 0.5
    ideal = 1 + 1 / np.log2(3) + 1 / 2
    assert found["ndcg@10"] == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / ideal)


def test_more_right_documents_than_places():
    x = np.ones((1, 2))
    d = np.ones((20, 2))
    found = evaluate(None, Pairs(x, d, [[0, j] for j in range(20)])).mean()
    assert found == {"recall@1": 0.05, "recall@10": 0.5, "mrr@10": 1.0, "ndcg@10": 1.0}


def test_metrics_are_the_same_on_every_library(library, rng):
    q, d = rng.standard_normal((20, 5)), rng.standard_normal((40, 5))
    pairs = np.stack([rng.integers(20, size=50), rng.integers(40, size=50)], axis=1)
    want = evaluate(None, Pairs(q, d, pairs))
    got = evaluate(None, Pairs(library.asarray(q), library.asarray(d), pairs))
    for name in METRICS:
        np.testing.assert_array_equal(got.values[name], want.values[name])
    np.testing.assert_array_equal(got.found, want.found)


def test_ndcg_is_that_of_scikit_learn(rng):
    ndcg_score = pytest.importorskip("sklearn.metrics").ndcg_score
    q, d = rng.standard_normal((30, 4)), rng.standard_normal((50, 4))
    right = rng.random((30, 50)) < 0.1
    right[:, 0] |= ~right.any(axis=1)
    found = evaluate(None, Pairs(q, d, np.argwhere(right)))
    scores = brute_scores(q, d, "cosine")
    for i in range(30):
        want = ndcg_score(right[i : i + 1].astype(float), scores[i : i + 1], k=10)
        assert found.values["ndcg@10"][i] == pytest.approx(want)


def test_labels_are_right_by_class_and_no_row_is_its_own_answer(library, rng):
    x = rng.standard_normal((40, 3))
    labels = rng.integers(4, size=40)
    found = evaluate(None, Pairs.labelled(library.asarray(x), labels))
    for i in range(40):
        right = set(np.nonzero(labels == labels[i])[0].tolist()) - {i}
        ranking = [j for j in brute_search(x[i : i + 1], x, 40, "cosine")[0] if j != i]
        want = brute_metrics(ranking, right)
        assert {m: float(found.values[m][i]) for m in METRICS} == pytest.approx(want)


def test_the_adapter_is_asked_for_both_sides(rng):
    x = rng.standard_normal((12, 3))
    asked = []

    def turn(y, side):
        asked.append(side)
        return -y if side == "document" else y

    found = evaluate(turn, Pairs(x, -x))
    assert asked == ["query", "document"]
    assert found.mean()["recall@1"] == 1.0
    assert evaluate(None, Pairs(x, -x)).mean()["recall@1"] == 0.0


def test_the_similarity_is_chosen():
    q = np.array([[1.0, 0.0]])
    d = np.array([[1.0, 0.1], [9.0, 9.0], [1.2, 0.9]])
    first = {s: int(search(q, d, 1, similarity=s)[0, 0]) for s in NAMES}
    assert first == {"cosine": 0, "dot": 1, "euclidean": 0, "squared_euclidean": 0}
    found = evaluate(None, Pairs(q, d, [[0, 1]]), similarity="dot")
    assert found.mean()["mrr@10"] == 1.0
    assert str(found) == "recall@1 1.000  recall@10 1.000  mrr@10 1.000  ndcg@10 1.000"


def test_near_ties_are_found_in_float32(rng):
    # Documents that differ in the last bits only: whatever is found must be among the best.
    base = rng.standard_normal(16)
    d = (base + 1e-7 * rng.standard_normal((200, 16))).astype(np.float32)
    q = rng.standard_normal((5, 16)).astype(np.float32)
    scores = brute_scores(q.astype(np.float64), d.astype(np.float64), "cosine")
    found = search(q, d, 10)
    best = np.sort(scores, axis=1)[:, ::-1][:, :10]
    assert_near(np.take_along_axis(scores, found, axis=1), best, 1e-6)


def test_a_search_names_two_widths() -> None:
    with pytest.raises(ArgumentError, match=r"of one width, got \(2, 3\) and \(4, 2\)"):
        search(np.ones((2, 3)), np.ones((4, 2)), 2)
