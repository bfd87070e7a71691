"""Hard negatives: the recorded rows of sentence-transformers, and what goes beyond them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mining_cases as cases
import numpy as np
import pytest
from support import Library

from coreframe.data import mining
from coreframe.data.mining import mine_hard_negatives
from coreframe.data.mining.search import make_search
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import ListedRelevance
from coreframe.errors import ArgumentError, ArgumentTypeError, DataError, MissingExtra
from coreframe.evaluation.retrieval import evaluate
from coreframe.trainer import fit

STORED = json.loads(cases.GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("number", range(len(STORED)))
def test_rows_equal_the_recorded_ones(number: int) -> None:
    options, output_format, scored, with_corpus = cases.cases()[number]
    mined = cases.ours(options, with_corpus)
    rows = list(mined.rows(output_format, output_scores=scored))
    cases.assert_rows(rows, STORED[number])
    if rows:
        assert list(rows[0]) == mined.columns(output_format, output_scores=scored)


# Vectors --------------------------------------------------------------------------------------


def vectors(seed: int = 0, queries: int = 60, documents: int = 300, d: int = 8) -> tuple[Any, ...]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(documents, d)).astype(np.float32)
    right = np.stack([np.repeat(np.arange(queries), 2), rng.integers(0, documents, 2 * queries)], 1)
    q = x[right[::2, 1]] + 0.7 * rng.normal(size=(queries, d)).astype(np.float32)
    return q.astype(np.float32), x, right


def by_hand(q: Any, x: Any, right: Any, k: int, margin: float) -> np.ndarray:
    """All cosines at once in float64, query by query."""
    q, x = (a.astype(np.float64) / np.linalg.norm(a, axis=1, keepdims=True) for a in (q, x))
    out = np.full((len(q), k), -1)
    for i in range(len(q)):
        cosines = x @ q[i]
        mine = set(right[right[:, 0] == i, 1].tolist())
        lowest = min(cosines[j] for j in mine)
        order = [j for j in np.argsort(-cosines, kind="stable") if j not in mine]
        kept = [j for j in order if cosines[j] <= lowest - abs(lowest) * margin][:k]
        out[i, : len(kept)] = kept
    return out


def test_negatives_on_every_library(library: Library) -> None:
    q, x, right = vectors(queries=20, documents=40)
    pairs = Pairs(library.asarray(q), library.asarray(x), right)
    mined = mine_hard_negatives(pairs, num_negatives=4, relative_margin=0.1, range_max=40)
    np.testing.assert_array_equal(mined.negatives, by_hand(q, x, right, 4, 0.1))
    drawn = mine_hard_negatives(pairs, sampling_strategy="random", range_max=20)
    plain = mine_hard_negatives(Pairs(q, x, right), sampling_strategy="random", range_max=20)
    np.testing.assert_array_equal(drawn.negatives, plain.negatives)
    np.testing.assert_array_equal(drawn.scores, plain.scores)


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_mapped_file_is_searched_on_another_backend(tmp_path, backend, monkeypatch) -> None:
    pytest.importorskip(backend)
    q, x, right = vectors()
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    monkeypatch.setattr(mining.search, "_ON_DEVICE", 8 * 70)  # parts of 70 documents
    mined = mine_hard_negatives(Pairs(q, mapped, right), backend=backend)
    plain = mine_hard_negatives(Pairs(q, x, right))
    np.testing.assert_array_equal(mined.negatives, plain.negatives)
    np.testing.assert_array_equal(mined.scores, plain.scores)


@pytest.mark.parametrize("strategy", ["top", "random"])
def test_the_result_does_not_depend_on_tiles_or_threads(strategy: str, monkeypatch) -> None:
    q, x, right = vectors(documents=3000)
    x[2000:] = x[:1000]  # many of equal score: the lower row comes first
    pairs = Pairs(q, x, right)
    options = {"sampling_strategy": strategy, "range_max": 30, "relative_margin": -0.5}
    want = mine_hard_negatives(pairs, **options)
    for size, threads in ((1, "1"), (7, "2"), (59, "5"), (10_000, "1")):
        monkeypatch.setenv("COREFRAME_THREADS", threads)
        got = mine_hard_negatives(pairs, queries_at_once=size, **options)
        np.testing.assert_array_equal(got.negatives, want.negatives)
        np.testing.assert_array_equal(got.scores, want.scores)
        np.testing.assert_array_equal(got.suspects.document, want.suspects.document)
        assert got.statistics() == want.statistics()
    monkeypatch.setattr(mining.search, "_ENTRIES", 50)
    np.testing.assert_array_equal(mine_hard_negatives(pairs, **options).scores, want.scores)


def test_memory_does_not_grow_with_queries_times_documents(tmp_path) -> None:
    import tracemalloc

    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(60_000, 16)).astype(np.float32))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    q = np.array(x[:2000]) + 0.1
    pairs = Pairs(q, x, np.stack([np.arange(2000), np.arange(2000)], 1))
    mine_hard_negatives(pairs.take(np.arange(10)))
    tracemalloc.start()
    mine_hard_negatives(pairs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # the scores of all are 480 MB


LARGE = """
import sys, threading, time
import numpy as np
from coreframe import Pairs
from coreframe.data.mining import mine_hard_negatives

def anonymous():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024

most = 0
def watch():
    global most
    while True:
        most = max(most, anonymous())
        time.sleep(0.01)

x = np.load(sys.argv[1], mmap_mode="r")
queries = np.array(x[:500]) + 0.1
threading.Thread(target=watch, daemon=True).start()
mined = mine_hard_negatives(Pairs(queries, x, np.arange(500)), relative_margin=0.05)
assert (mined.negatives >= 0).all()
print(most)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_file_is_not_held_in_memory(tmp_path: Path) -> None:
    """A million vectors, 512 MB on the disk, are searched in 300 MB of anonymous memory."""
    rng = np.random.default_rng(0)
    x = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (1_000_000, 128))
    for i in range(0, len(x), 50_000):
        x[i : i + 50_000] = rng.standard_normal((50_000, 128), dtype=np.float32)
    x.flush()
    command = [sys.executable, "-c", LARGE, str(tmp_path / "x.npy")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 300e6


def test_a_random_choice_is_uniform_and_follows_the_seed() -> None:
    q, x, right = vectors(queries=300)
    pairs = Pairs(q, x, right)
    options: dict[str, Any] = {"sampling_strategy": "random", "num_negatives": 4, "range_max": 12}
    wide = mine_hard_negatives(pairs, num_negatives=12, range_max=12).negatives
    drawn = mine_hard_negatives(pairs, **options).negatives
    counts = np.zeros(12)
    for row, all_ in zip(drawn, wide, strict=True):
        places = [all_.tolist().index(d) for d in row]
        assert places == sorted(set(places))
        counts[places] += 1
    assert counts.sum() == 1200
    assert np.abs(counts - 100).max() < 45  # five standard deviations
    same = mine_hard_negatives(pairs, **options).negatives
    other = mine_hard_negatives(pairs, seed=1, **options).negatives
    np.testing.assert_array_equal(drawn, same)
    assert (drawn != other).any(axis=1).mean() > 0.9
    # A query draws the same whoever else is there.
    some = mine_hard_negatives(
        Pairs(q, x, right[right[:, 0] % 3 == 0]), **options
    ).negatives  # fmt: skip
    np.testing.assert_array_equal(some[::3], drawn[::3])


def test_without_texts_an_equal_vector_is_the_same_document() -> None:
    x = np.eye(4)[[0, 0, 1, 2, 3]] + 0.1
    pairs = Pairs(x[:1] + np.array([[0, 0.3, 0, 0]]), x, [0])
    assert mine_hard_negatives(pairs, num_negatives=3).negatives.tolist() == [[2, 3, 4]]
    itself = Pairs(x[2:3], x, [0])
    assert mine_hard_negatives(itself, num_negatives=2).negatives.tolist() == [[3, 4]]
    kept = mine_hard_negatives(itself, num_negatives=2, mask_anchors=False)
    assert kept.negatives.tolist() == [[2, 3]]


def test_with_texts_the_query_itself_is_no_negative() -> None:
    embedder = cases.any_function.Callable(function=cases.embed)
    pairs = Pairs.from_texts(["a", "b", "c"], ["b", "c", "a"], embedder, corpus=["d", "e"])
    texts = pairs.document_texts
    for mask in (True, False):
        mined = mine_hard_negatives(pairs, num_negatives=3, mask_anchors=mask, range_max=5)
        found = [{texts[d] for d in row if d >= 0} for row in mined.negatives]
        assert [q in own for q, own in zip("abc", found, strict=True)] == [not mask] * 3
        assert not any(p in own for p, own in zip("bca", found, strict=True))


def test_queries_without_a_right_document_are_counted() -> None:
    q, x, right = vectors()
    mined = mine_hard_negatives(Pairs(q, x, right[right[:, 0] < 50]))
    assert (mined.negatives[50:] == -1).all()
    assert (mined.negatives[:50] >= 0).all()
    assert mined.statistics()["queries_without_positive"] == 10
    assert len(list(mined.rows("triplet", ids=True))) == 3 * len(mined.right)


# What comes out -------------------------------------------------------------------------------


def test_statistics_are_those_of_the_rows() -> None:
    mined = cases.ours({"relative_margin": 0.05}, True)
    found = mined.statistics()
    rows = list(mined.rows("triplet", output_scores=True))
    positive, negative = np.array([row["scores"] for row in rows]).T
    assert found["difference"]["mean"] == pytest.approx((positive - negative).mean(), abs=1e-6)
    kept = mined.negatives >= 0
    assert found["negatives"] == kept.sum()
    assert found["queries_short"] == (kept.sum(axis=1) < 3).sum()
    assert found["queries_without_negative"] == (~kept.any(axis=1)).sum()
    assert found["negative"]["max"] == pytest.approx(negative.max(), abs=1e-6)
    assert found["negative"]["50%"] == pytest.approx(np.median(mined.scores[kept]), abs=1e-6)
    assert found["skipped"]["relative_margin"] > 0
    assert found["range_max"] == 33
    assert json.loads(json.dumps(found)) == found


def test_suspects_are_what_beats_a_right_document() -> None:
    mined = cases.ours({}, True)
    rows = list(mined.suspect_rows())
    assert rows
    assert len(rows) == len(mined.suspects)
    for row in rows:
        assert row["score"] > row["positive_score"]
        assert (row["anchor"], row["positive"]) in set(
            zip(cases.ANCHORS, cases.POSITIVES, strict=True)
        )
        left, right, other = cases.embed([row["anchor"], row["positive"], row["document"]])
        cosine = left @ other / np.linalg.norm(left) / np.linalg.norm(other)
        assert row["score"] == pytest.approx(cosine, abs=1e-6)
        best = left @ right / np.linalg.norm(left) / np.linalg.norm(right)
        assert row["positive_score"] == pytest.approx(best, abs=1e-6)
    used = {(row["anchor"], row["document"]) for row in rows if row["used"]}
    negatives = {(r["anchor"], r["negative"]): r["scores"] for r in mined.rows(output_scores=True)}
    lowest = {row["anchor"]: row["positive_score"] for row in rows}
    want = {key for key, (_, s) in negatives.items() if s > lowest.get(key[0], 9)}
    assert used == want
    # With a margin nothing of the kind is used, and it is listed all the same.
    strict = cases.ours({"absolute_margin": 0.0}, True)
    assert strict.suspects.total >= mined.suspects.total
    assert not strict.suspects.used.any()
    wide = cases.ours({"false_negative_margin": 0.2}, True)
    assert wide.suspects.total > mined.suspects.total


def test_they_are_trained_on() -> None:
    q, x, right = vectors(queries=200, documents=400)
    mined = mine_hard_negatives(Pairs(q, x, right), absolute_margin=0.05)
    data = mined.as_pairs()
    assert isinstance(data.relevance, ListedRelevance)
    assert len(data.irrelevant) == (mined.negatives >= 0).sum()
    assert not data.relevance.contains(data.irrelevant[:, 0], data.irrelevant[:, 1]).any()
    train, dev, test = data.split(seed=0)
    run = fit(train, dev, epochs=1, own_negatives=2)
    assert evaluate(run.adapter, test).mean()["recall@10"] > 0


def test_progress_is_told() -> None:
    q, x, right = vectors()
    told: list[tuple[int, int]] = []
    mine_hard_negatives(
        Pairs(q, x, right), queries_at_once=25, progress=lambda done, of: told.append((done, of))
    )
    assert told == [(25, 60), (50, 60), (60, 60)]


def test_a_cross_encoder_may_be_an_object_and_sees_each_pair_once() -> None:
    asked: list[tuple[str, str]] = []

    class Judge:
        def predict(self, pairs: list[tuple[str, str]]) -> Any:
            asked.extend(pairs)
            return cases.judge(pairs)[:, None]

    mined = mine_hard_negatives(cases.pairs(True), cross_encoder=Judge(), max_score=1.5)
    np.testing.assert_array_equal(
        mined.negatives, cases.ours({"cross_encoder": True, "max_score": 1.5}, True).negatives
    )
    candidates = [pair for pair in asked if pair[1].startswith("x")]
    assert len(set(candidates)) == len(candidates)


# What cannot be mined -------------------------------------------------------------------------


def small(**more: Any) -> Pairs:
    return Pairs(np.eye(4)[:2], np.eye(4), [0, 1], **more)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_negatives": 0}, "num_negatives must be at least 1, got 0"),
        ({"num_negatives": 4}, "num_negatives must be at most 3, since there are 4 documents"),
        ({"range_min": -1}, "range_min must be at least 0"),
        ({"range_min": 2, "range_max": 4}, r"after range_min=2, got 4; use at least 5"),
        ({"range_max": 0}, "range_max must be at least 1"),
        ({"max_score": float("nan")}, "max_score must be finite, got nan"),
        ({"relative_margin": float("inf")}, "relative_margin must be finite"),
        ({"max_score": 0.1, "min_score": 0.2}, "min_score must not be above max_score=0.1"),
        ({"sampling_strategy": "topp"}, "got 'topp'. Did you mean 'top'"),
        ({"include_positives": "no"}, "include_positives must be True or False"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"search": "fais"}, "search must be one of .* Did you mean 'faiss'"),
        ({"index": "Flat"}, "go with search='faiss' or 'usearch'"),
        ({"search": "faiss", "backend": "numpy"}, "backend goes with search='exact'"),
        ({"queries_at_once": 0}, "queries_at_once must be an integer of at least 1"),
        ({"cross_encoder": 3, "max_score": 1.0}, "cross_encoder must be a function"),
        ({"cross_encoder": len, "max_score": 1.0}, "a cross_encoder reads texts"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], text: str) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=text):
        mine_hard_negatives(small(), **{"num_negatives": 3, **options})


def test_pairs_that_cannot_be_mined() -> None:
    with pytest.raises(ArgumentTypeError, match=r"pairs must be coreframe.Pairs, .* got list"):
        mine_hard_negatives([("a", "b")])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="labelled vectors have no pairs"):
        mine_hard_negatives(Pairs.labelled(np.eye(4), [0, 0, 1, 1]))
    none = Pairs(np.eye(2), np.eye(2), relevance=ListedRelevance(np.zeros((0, 2), int), 2, 2))
    with pytest.raises(DataError, match="no query has a right document"):
        mine_hard_negatives(none)
    with pytest.raises(ArgumentError, match="NaN"):
        mine_hard_negatives(Pairs(np.eye(4), np.full((4, 4), np.nan)))
    with pytest.raises(ArgumentError, match="width 4"):
        mine_hard_negatives(Pairs(np.eye(4), np.eye(4, 5)))


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda pairs: [1.0], r"one finite score a pair, \(\d+,\), got shape \(1,\)"),
        (lambda pairs: [np.nan] * len(pairs), "values that are not finite"),
        (lambda pairs: ["good"] * len(pairs), "must return numbers"),
    ],
)
def test_a_cross_encoder_that_answers_badly(answer: Any, text: str) -> None:
    pairs = small(query_texts=["a", "b"], document_texts=["c", "d", "e", "f"])
    with pytest.raises(ArgumentError, match=text):
        mine_hard_negatives(pairs, cross_encoder=answer, max_score=1.0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"output_format": "triplets"}, "Did you mean 'triplet'"),
        ({"anchor_column": "positive"}, "two names of their own"),
        ({"positive_column": "negative"}, "two names of their own"),
        ({"ids": False}, "these pairs have no texts"),
    ],
)
def test_rows_that_cannot_be(options: dict[str, Any], text: str) -> None:
    mined = mine_hard_negatives(small(), num_negatives=1)
    with pytest.raises(ArgumentError, match=text):
        list(mined.rows(**{"ids": True, **options}))
    ranked = mine_hard_negatives(small(), num_negatives=1, include_positives=True)
    with pytest.raises(ArgumentError, match="only output_format='n-tuple'"):
        list(ranked.rows(ids=True))


@pytest.mark.parametrize(("method", "package"), [("faiss", "faiss"), ("usearch", "usearch")])
def test_an_index_that_is_not_installed(method: str, package: str, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    monkeypatch.setitem(__import__("sys").modules, f"{package}.index", None)
    with pytest.raises(MissingExtra, match=rf"pip install 'coreframe-ml\[{method}\]'"):
        make_search(np.eye(4), method)
