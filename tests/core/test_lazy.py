"""Rows made block by block: the same rows, wherever somebody would else copy all of them."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
from support import Library, assert_near

from coreframe import Pairs, fit, lazy
from coreframe.artefact import Side, TrainedAdapter
from coreframe.config import parse
from coreframe.errors import ArgumentError
from coreframe.evaluation.ranks import exact_ranks
from coreframe.evaluation.retrieval import evaluate, search
from coreframe.experiment import experiment
from coreframe.lazy import LazyRows, blocks, lazily, mean, take
from coreframe.registry import build
from coreframe.report import report_html


@pytest.fixture
def everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lazy, "LARGE", 0)
    monkeypatch.setattr(lazy, "BLOCK_ROWS", 8)


def test_rows_are_those_of_the_whole(library: Library) -> None:
    host = np.random.default_rng(0).standard_normal((37, 4))
    w = library.asarray(np.random.default_rng(1).standard_normal((4, 3)))
    rows = LazyRows(library.asarray(host), lambda x: x @ w)
    whole = library.to_numpy(library.asarray(host) @ w)
    assert (rows.shape, rows.ndim, len(rows), rows.size) == ((37, 3), 2, 37, 111)
    assert rows.dtype == w.dtype
    assert_near(library.to_numpy(rows[5:9]), whole[5:9])
    assert_near(library.to_numpy(rows[30:99, :]), whole[30:])
    assert_near(library.to_numpy(rows.take([3, 0, 36])), whole[[3, 0, 36]])
    assert_near(library.to_numpy(mean(rows)), whole.mean(axis=0))
    twice = LazyRows(rows, lambda x: 2 * x)
    assert_near(library.to_numpy(take(twice, np.array([1]))), 2 * whole[[1]])
    joined = np.concatenate([library.to_numpy(part) for part in blocks(rows, 10)])
    assert_near(joined, whole)


def test_small_arrays_are_made_at_once_and_large_ones_never() -> None:
    seen: list[int] = []

    def function(x: Any) -> Any:
        seen.append(len(x))
        return x + 1

    small = np.zeros((10, 4), np.float32)
    assert isinstance(lazily(small, function), np.ndarray)
    large = np.broadcast_to(np.zeros(4, np.float32), (lazy.LARGE // 16 + 1, 4))
    rows = lazily(large, function)
    assert isinstance(rows, LazyRows)
    assert (rows[-20:] == 1).all()
    assert seen == [10, 1, 32]  # and one row, which tells width and dtype


def test_a_function_of_one_thread_is_called_by_one() -> None:
    inside, most = 0, 0

    def function(x: Any) -> Any:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.01)
        inside -= 1
        return x

    rows = LazyRows(np.zeros((64, 2)), function, serial=True)
    threads = [threading.Thread(target=rows.__getitem__, args=(slice(i, i + 4),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


ADAPTER = TrainedAdapter(
    6,
    {
        "query": Side("linear", {"W": np.eye(6, dtype=np.float32)[::-1].copy()}),
        "document": Side("linear", {"W": 2 * np.eye(6, dtype=np.float32)}),
    },
)


def some(dtype: str = "float32", n: int = 90) -> Pairs:
    rng = np.random.default_rng(0)
    queries, documents = (rng.standard_normal((k, 6)).astype(dtype) for k in (40, n))
    relevant = np.stack([rng.integers(40, size=60), rng.integers(n, size=60)], axis=1)
    return Pairs(queries, documents, relevant)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "squared_euclidean"])
def test_search_and_ranks_are_the_same(
    monkeypatch: pytest.MonkeyPatch, similarity: str, library: Library
) -> None:
    host = some()
    pairs = host.mapped(library.asarray(host.queries), library.asarray(host.documents))
    want = evaluate(ADAPTER, pairs, similarity=similarity)
    ranks = exact_ranks(ADAPTER, pairs, want)
    monkeypatch.setattr(lazy, "LARGE", 0)
    found = evaluate(ADAPTER, pairs, similarity=similarity)
    assert np.array_equal(found.found, want.found)
    assert np.array_equal(exact_ranks(ADAPTER, pairs, found).rank, ranks.rank)


def test_a_search_of_lazy_rows_never_has_them_all() -> None:
    most = 0
    documents = np.random.default_rng(0).standard_normal((40_000, 8)).astype(np.float32)

    def function(x: Any) -> Any:
        nonlocal most
        most = max(most, len(x))
        return x[:, ::-1]

    queries = documents[:50, ::-1].copy()
    found = search(queries, LazyRows(documents, function), 1)
    assert found[:, 0].tolist() == list(range(50))
    assert most <= 1024


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("start", ["whitening", "procrustes"])
def test_a_run_is_the_same(monkeypatch: pytest.MonkeyPatch, dtype: str, start: str) -> None:
    train, dev = some(dtype), some(dtype)
    options: dict[str, Any] = {"side": "both", "start": start, "epochs": 2, "batch_size": 16}
    want = fit(train, dev, **options)
    monkeypatch.setattr(lazy, "LARGE", 0)
    monkeypatch.setattr(lazy, "BLOCK_ROWS", 8)
    found = fit(train, dev, **options)
    assert found.dev == pytest.approx(want.dev)
    for name, x in want.params.items():
        assert_near(found.params[name], x, rtol=2e-4)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("name", ["whitening", "procrustes"])
def test_closed_forms_by_blocks_are_those_of_the_whole(library: Library, name: str) -> None:
    host = some("float64")
    pairs = host.mapped(library.asarray(host.queries), library.asarray(host.documents))
    solver = build("adapters", name)
    want = solver.solve(*pairs.aligned())
    found = solver.solve_blocks(lambda: pairs.aligned_blocks(7))
    joined = super(type(solver), solver).solve_blocks(lambda: pairs.aligned_blocks(7))
    for key, x in want.items():
        assert_near(library.to_numpy(found[key]), library.to_numpy(x), rtol=1e-8)
        assert_near(library.to_numpy(joined[key]), library.to_numpy(x), rtol=1e-8)


def test_classes_by_blocks_have_the_same_means(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal((50, 3))
    pairs = Pairs.labelled(x, np.arange(50) % 4)
    want = pairs.aligned()[1]
    monkeypatch.setattr(lazy, "LARGE", 0)
    monkeypatch.setattr("coreframe.data.pairs.BLOCK_ROWS", 7)
    assert_near(np.concatenate([d for _, d in pairs.aligned_blocks(9)]), want)


@pytest.mark.usefixtures("everything_is_large")
def test_a_value_that_is_not_finite_is_found_in_its_block() -> None:
    x = np.zeros((40, 3))
    x[21, 1] = np.nan
    x[33, 0] = np.inf
    with pytest.raises(ArgumentError, match=r"has 2 values that are NaN or infinite, .* in row 21"):
        Pairs(x, x)


@pytest.mark.usefixtures("everything_is_large")
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_a_whole_experiment_on_documents_of_another_dtype(dtype: str) -> None:
    """Whoever looks at documents, up to the report, takes them as they lie in the file."""
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((300, 8)).astype(dtype)
    queries = (documents[:120] @ np.linalg.qr(rng.standard_normal((8, 8)))[0]).astype("float32")
    pairs = Pairs(queries, documents, np.arange(120))
    config = parse({"train": {"epochs": 2, "side": "both", "start": "whitening"}})
    outcome = experiment(*pairs.split(), config)
    assert outcome.test.documents.dtype == dtype
    page = report_html(outcome, title="x", config_text="", environment={
        "python": "", "platform": "", "packages": {}, "plugins": {}, "backend": "",
        "backend_source": "", "blas": [], "inputs": {},
    })  # fmt: skip
    assert "<html" in page
