"""``train --dry-run``: the plan, and nothing else."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coreframe import config
from coreframe.plan import WIDTH, StandIn
from coreframe_text.hashing import Hashing


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    rows = [{"query": f"question {i}", "answer": f"answer number {i}"} for i in range(60)]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def test_it_says_what_would_be_done_and_does_nothing(coreframe_: Any, texts: Path) -> None:
    before = sorted(texts.parent.rglob("*"))
    ran = coreframe_("train", texts.name, "--dry-run", "--set", "train.batch_size=16")
    assert ran.returncode == 0, ran.stderr
    assert sorted(texts.parent.rglob("*")) == before
    text, _, rest = ran.stdout.partition("\ndata      ")
    assert config.parse(tomllib.loads(text)).train.batch_size == 16
    assert "42 train · 6 dev · 12 test queries, 60 documents of 512 numbers" in rest
    assert "30 epochs of 3 batches, 90 updates; start: auto" in rest
    assert "memory    about" in rest
    assert "dry run: nothing was trained, nothing was written" in rest
    assert "columns" in ran.stderr  # what was seen in the data goes where it always goes


def test_as_json_it_is_one_object(coreframe_: Any, texts: Path) -> None:
    ran = coreframe_("train", texts.name, "--dry-run", "--json", "-o", "out")
    found = json.loads(ran.stdout)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert set(found) == {"config", "data", "training", "memory", "notes"}
    assert found["data"] == {
        "train": 42, "dev": 6, "test": 12, "documents": 60, "pairs": 42, "labels": False,
        "width": 512,
    }  # fmt: skip
    assert not (texts.parent / "out").exists()


def test_bad_data_and_bad_settings_have_their_codes(coreframe_: Any, texts: Path) -> None:
    assert coreframe_("train", texts.name, "--dry-run", "--set", "train.epochs=0").returncode == 2
    texts.write_text('{"query": "a", "answer": ""}\n', encoding="utf-8")
    assert coreframe_("train", texts.name, "--dry-run").returncode == 4


def test_labelled_vectors_have_a_plan_too(coreframe_: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "X.npy", rng.standard_normal((80, 8)).astype(np.float32))
    np.save(tmp_path / "y.npy", np.arange(80) % 4)
    ran = coreframe_(
        "train", "X.npy", "y.npy", "--side", "both", "--dry-run", "--json",
        "--set", "sampler.name=m_per_class", "--set", "train.batch_size=8",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["data"]["labels"]
    assert found["training"]["batches"] == -(-found["data"]["train"] // 8)


def test_texts_are_not_embedded_where_that_costs_anything() -> None:
    class Service(StandIn):
        def fingerprint(self, side: Any = None) -> dict[str, Any]:
            return {"model": "x"}

        def embed(self, texts: Any) -> Any:
            raise AssertionError("it was asked")

    for width, want in ((7, 7), (None, WIDTH)):
        found = StandIn.of(Service(dimensions=width))
        assert found.embed(["a", "b"]).shape == (2, want)
    cheap = Hashing()
    assert StandIn.of(cheap) is cheap


def test_a_pool_is_told_of(coreframe_: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "q.npy", rng.standard_normal((60, 4)).astype(np.float32))
    np.save(tmp_path / "d.npy", rng.standard_normal((500, 4)).astype(np.float32))
    rows = [{"anchor_id": i, "positive_id": i} for i in range(60)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    ran = coreframe_(
        "train", "pairs.jsonl", "--queries", "q.npy", "--documents", "d.npy",
        "--set", "train.epochs=1", "--set", "train.eval_documents=200",
    )  # fmt: skip
    assert ran.returncode in (0, 3), ran.stderr
    assert "200 of 500 documents are searched while training (train.eval_documents)" in ran.stderr
    metrics = json.loads((tmp_path / "coreframe-run" / "metrics.json").read_text("utf-8"))
    assert metrics["documents"] == 500
