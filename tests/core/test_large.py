"""Large collections: a run that never copies them, and what a run says of itself beforehand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import memory
from coreframe import Pairs, fit
from coreframe.artefact import TrainedAdapter
from coreframe.config import parse
from coreframe.data.batches import Batches, Order
from coreframe.errors import ArgumentError
from coreframe.evaluation.pool import MANY, POOL, pool_size, pooled
from coreframe.evaluation.retrieval import evaluate
from coreframe.experiment import experiment
from coreframe.plan import FACTOR, plan

linux = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs Linux's /proc")
MIB = 2**20


# The whole run ------------------------------------------------------------------------------


@linux
def test_memory_does_not_grow_with_the_documents(tmp_path: Path) -> None:
    """A copy of half of the documents that one run has and the other has not would be seen."""
    peaks = []
    for rows in (80_000, 320_000):  # the search holds no more than a stretch of the first
        folder = tmp_path / str(rows)
        folder.mkdir()
        files = memory.make_files(folder, rows=rows, width=128, pairs=300)
        options = ("train.epochs=2", "train.eval_documents=2000", "curve.enabled=never")
        seen = memory.train(files, folder / "run", *(x for o in options for x in ("--set", o)))
        assert seen.code in (0, 3), seen.errors
        peaks.append(seen.peak)
    file = 240_000 * 128 * 4
    assert peaks[1] - peaks[0] < file / 2, [p / MIB for p in peaks]  # 23 MiB of 117, seen in 20 ms


@linux
@pytest.mark.long
def test_five_million_documents_stay_under_two_gib(tmp_path: Path) -> None:
    files = memory.make_files(tmp_path, rows=5_000_000, width=384, pairs=3_000)
    seen = memory.train(files, tmp_path / "run")
    assert seen.code == 0, seen.errors
    assert seen.peak < 2 * 2**30
    assert "100,000 of 5,000,000 documents are searched while training" in seen.errors
    found = json.loads((tmp_path / "run" / "metrics.json").read_text(encoding="utf-8"))
    assert found["documents"] == 5_000_000


@linux
@pytest.mark.long
@pytest.mark.parametrize("adapter", ["linear", "micro_lora"])
def test_a_batch_of_65536_takes_less_than_two_gib(adapter: str) -> None:
    command = ["-m", "benchmarks.memory", "step", "--adapter", adapter]
    seen = memory.run(command)
    assert seen.code == 0, seen.output + seen.errors


# What a run says beforehand -----------------------------------------------------------------


@linux
@pytest.mark.parametrize(
    ("rows", "width", "pairs", "options"),
    [
        (3_000, 64, 400, ()),
        (20_000, 256, 1_500, ("train.batch_size=1024", "train.side=both")),
    ],
    ids=["small", "large batches"],
)
def test_the_estimate_of_a_dry_run_is_that_of_the_run(
    tmp_path: Path, rows: int, width: int, pairs: int, options: tuple[str, ...]
) -> None:
    files = memory.make_files(tmp_path, rows=rows, width=width, pairs=pairs)
    words = [x for o in ("train.epochs=1", "curve.enabled=never", *options) for x in ("--set", o)]
    out = tmp_path / "run"
    before = sorted(tmp_path.iterdir())
    dry = memory.run(
        ["-m", "coreframe", "train", *files, "-o", str(out), *words, "--dry-run", "--json"]
    )
    assert dry.code == 0, dry.errors
    assert sorted(tmp_path.iterdir()) == before  # nothing is written
    estimate = json.loads(dry.output)["memory"]["total"]
    measured = memory.train(files, out, *words)
    assert measured.code in (0, 3), measured.errors
    assert measured.peak / FACTOR < estimate < measured.peak * FACTOR


def some(n: int = 60, documents: int = 300, **columns: Any) -> Pairs:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((documents, 8))
    chosen = rng.choice(documents, size=n, replace=False)
    return Pairs(vectors[chosen] + 0.4 * rng.standard_normal((n, 8)), vectors, chosen, **columns)


def test_a_plan_counts_what_a_run_does() -> None:
    train, dev, test = some().split()
    config = parse({"train": {"batch_size": 8, "epochs": 3, "gradient_accumulation_steps": 2}})
    found = plan(train, dev, test, config)
    outcome = experiment(train, dev, test, config)
    assert found.training["updates"] == max(e["step"] for e in outcome.run.history)
    assert found.training["batches"] == -(-len(train.examples) // 8)
    assert (found.data["train"], found.data["dev"]) == (len(train), len(dev))
    assert found.memory["total"] == sum(v for k, v in found.memory.items() if k != "total")
    assert parse(__import__("tomllib").loads(found.config)) == config
    told = "\n".join(found.lines())
    assert "nothing was trained, nothing was written" in told
    assert f"within a factor of {FACTOR}" in told
    assert json.loads(json.dumps(found.as_dict()))["memory"]["within_a_factor_of"] == FACTOR


def test_more_costs_more() -> None:
    train, dev, test = some().split()

    def total(**settings: Any) -> int:
        found = plan(train, dev, test, parse({"train": settings})).memory
        return found["total"] - found["the process, with the data read"]

    assert total(batch_size=40) > total(batch_size=8)
    assert total(batch_size=40, side="both") > total(batch_size=40)


# Pools --------------------------------------------------------------------------------------


def test_a_pool_holds_right_and_near_documents_and_others() -> None:
    pairs = some(texts := 20, 500)
    base = evaluate(None, pairs)
    small = pooled(pairs, 250, nearest=base.found, seed=1)
    assert small.documents.shape == (250, 8)
    assert len(small) == texts
    for query, document in zip(*pairs.relevance.pairs.T, strict=True):
        rows = small.relevance.of_queries(np.array([query]))[0]
        assert np.array_equal(small.documents[rows], pairs.documents[[document]])
    # The first ten of the whole are the first ten of the pool, since all of them are in it.
    again = evaluate(None, small)
    for a, b in zip(again.found, base.found, strict=True):
        assert np.array_equal(small.documents[a], pairs.documents[b])
    assert again.mean() == pytest.approx(base.mean())
    one, same, other = (pooled(pairs, 250, seed=seed).documents for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    least = pooled(pairs, 1)  # the right ones at least
    assert least.documents.shape[0] == len(np.unique(pairs.relevance.pairs[:, 1]))
    with pytest.raises(ArgumentError, match="size must be at least 1 document, got 0"):
        pooled(pairs, 0)


def test_a_pool_of_labelled_rows_keeps_each_row_apart_from_itself() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 5
    pairs = Pairs.labelled(rng.standard_normal((60, 4)), labels)
    small = pooled(pairs.take(np.arange(10)), 30)
    assert small.documents.shape[0] == 30
    own = small.relevance.own
    assert np.array_equal(small.documents[own], small.queries)
    assert np.array_equal(small.relevance.document_labels[own], labels[:10])
    assert (evaluate(None, small).found != own[:, None]).all()


def test_how_large_a_pool_is() -> None:
    assert pool_size("auto", MANY) is None
    assert pool_size("auto", MANY + 1) == POOL
    assert pool_size("all", 10**9) is None
    assert pool_size(50, 100) == 50
    assert pool_size(100, 100) is None
    for wrong in (0, -1, 2.5, "some"):
        with pytest.raises((ArgumentError, ValueError, TypeError)):
            parse({"train": {"eval_documents": wrong}})


def test_what_is_reported_is_measured_on_all_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def watched(train: Pairs, dev: Pairs, **options: Any) -> Any:
        seen.append(dev.documents.shape[0])
        return fit(train, dev, **options)

    monkeypatch.setattr("coreframe.experiment.fit", watched)
    pairs = some(120, 600)
    parts = pairs.split()
    config = parse({"train": {"epochs": 2, "eval_documents": 60, "start": "identity"}})
    found = experiment(*parts, config)
    trained = found.candidates["trained"]
    whole = evaluate(trained.adapter, parts[1].mapped(
        parts[1].queries.astype(np.float64), parts[1].documents.astype(np.float64)
    )).mean()  # fmt: skip
    assert dict(trained.dev)["ndcg@10"] == pytest.approx(whole["ndcg@10"], abs=1e-6)
    assert 12 <= min(seen) <= max(seen) < 200  # the right ones, ten near each query, and others


# Batches whose queries have several right documents -------------------------------------------


def test_the_relation_of_a_large_batch_is_no_table() -> None:
    """It equals the table of all pairs, and is far smaller."""
    rng = np.random.default_rng(0)
    relevant = np.stack([rng.integers(40, size=90), rng.integers(50, size=90)], axis=1)
    x = rng.standard_normal((50, 3))
    pairs = Pairs(x[:40], x, relevant, irrelevant=[[0, 1], [3, 7], [5, 9]])
    for batch in Batches(pairs=pairs, batch_size=32, order=Order()):
        n, m = batch.relation.rows, batch.relation.columns
        queries, documents = batch.ids, batch.reference_ids
        right = pairs.relevance.contains(queries[:, None], documents[None, :])
        for rows, cols in ((slice(0, n), slice(0, m)), (slice(3, 9), slice(2, m - 1))):
            positive, negative = batch.relation.tile(rows, cols, np, None)
            assert np.array_equal(positive, np.eye(n, m, dtype=bool)[rows, cols])
            assert np.array_equal(negative, ~right[rows, cols])
    large = 20_000
    many = Pairs(
        np.ones((large, 2)), np.ones((large, 2)),
        np.concatenate([np.stack([np.arange(large)] * 2, 1), [[0, 1]]]),
    )  # fmt: skip
    import tracemalloc

    tracemalloc.start()
    batch = next(iter(Batches(pairs=many, batch_size=large, order=Order())))
    batch.relation.tile(slice(0, 8), slice(0, large), np, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < large * large / 20


def test_a_split_looks_only_at_documents_that_pairs_name() -> None:
    """Documents that no pair names may be broken: nobody reads them."""

    class Watched(np.ndarray):
        taken: list[int] = []  # noqa: RUF012

    pairs = some(40, 5_000)
    own, of_document = pairs.codes
    named = np.unique(pairs.relevance.pairs[:, 1])
    assert (np.flatnonzero(of_document >= 0) == named).all()
    assert len(own) == 40
    parts = pairs.split()
    assert all(part.documents is pairs.documents for part in parts)  # shared, never copied
    assert TrainedAdapter(8)(parts[0].queries).shape == parts[0].queries.shape
