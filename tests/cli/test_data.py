"""``coreframe train`` on data of many forms, and ``coreframe inspect`` on all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FEW = (
    "--set",
    "embedder.dimensions=64",
    "--set",
    "train.epochs=2",
    "--set",
    "train.start=identity",
    "--set",
    "curve.enabled=never",
)


def beir(folder: Path, records: list[dict[str, str]]) -> None:
    """Write pairs as a BEIR folder of three parts, and a leak: query 0 is also in the test."""
    (folder / "qrels").mkdir(parents=True)
    ids = range(len(records))
    corpus = [{"_id": f"d{i}", "title": "", "text": records[i]["positive"]} for i in ids]
    queries = [{"_id": f"q{i}", "text": records[i]["anchor"]} for i in ids]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    parts = {"train": [i for i in ids if i % 4 < 2], "dev": [i for i in ids if i % 4 == 2],
             "test": [0, *(i for i in ids if i % 4 == 3)]}  # fmt: skip
    for part, chosen in parts.items():
        lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in chosen)]
        (folder / "qrels" / f"{part}.tsv").write_text("\n".join(lines) + "\n")


def test_train_on_a_beir_folder(coreframe_, tmp_path, records) -> None:
    records = records[:160]
    beir(tmp_path / "set", records)
    ran = coreframe_("train", "set", *FEW)
    assert ran.returncode in (0, 3), ran.stderr
    count = len(records)
    assert f"columns BEIR folder: {count} queries, {count} documents" in ran.stderr
    assert "texts   embedded by coreframe:Hashing, the default, which sees spelling" in ran.stderr
    assert "queries, as given" in ran.stderr
    assert "leakage 1 train query also in test" in ran.stderr
    folder = tmp_path / "coreframe-run"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["queries"]["test"] == 1 + count // 4
    notes = [line for line in metrics["data"] if line.startswith("leakage")]
    assert notes == ["leakage 1 train query also in test, by text or group: left out of train"]
    inputs = json.loads((folder / "environment.json").read_text())["inputs"]
    assert {Path(name).name for name in inputs} == {
        "corpus.jsonl", "queries.jsonl", "train.tsv", "dev.tsv", "test.tsv",
    }  # fmt: skip


def test_leakage_can_be_an_error(coreframe_, tmp_path, records) -> None:
    beir(tmp_path / "set", records)
    ran = coreframe_("train", "set", *FEW, "--set", "data.leakage=refuse")
    assert ran.returncode == 4
    assert "error: leakage: 1 train query also in test" in ran.stderr
    assert not (tmp_path / "coreframe-run").exists()


def test_train_by_time_with_vectors_of_two_formats(coreframe_, tmp_path, vectors) -> None:
    """Pairs in CSV by id, queries as pgvector writes them, documents as int8 with more of them."""
    with open(tmp_path / "q.csv", "w") as file:
        file.write("id,embedding\n")
        for i, row in enumerate(vectors.queries):
            text = ",".join(f"{v:.6g}" for v in row)
            file.write(f'q{i},"[{text}]"\n')
    scale = 127 / np.abs(vectors.documents).max()
    np.savez(tmp_path / "d.npz", embedding=np.round(vectors.documents * scale).astype(np.int8))
    lines = ["query_id,positive_id,time"]
    lines += [f"q{i},{i},2026-01-{1 + i // 20:02}" for i in range(300)]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n")
    ran = coreframe_(
        "train", "pairs.csv", "--queries", "q.csv", "--documents", "d.npz", "--split", "time", *FEW
    )
    assert ran.returncode in (0, 3), ran.stderr
    assert "vectors queries: 400 x 24 float32, not normalised" in ran.stderr
    assert "ids from column id" in ran.stderr
    assert "vectors documents: 400 x 24 int8, computed in float32, not normalised" in ran.stderr
    assert "Pairs(300 queries, 400 documents, 300 relevant pairs, dim 24)" in ran.stderr
    assert "by time: the latest are the test" in ran.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_inspect(coreframe_, tmp_path, records, as_json) -> None:
    beir(tmp_path / "set", records)
    x = np.eye(6, 4, dtype=np.float16)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", np.asarray([1, 2, 1, 2, 3, 3]))
    row: dict[str, Any] = {"query": "a", "answer": "b", "note": 1}
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    (tmp_path / "v.csv").write_text('id,embedding\na,"[0.6,0.8]"\nb,"[1,0]"\n')
    names = ("p.jsonl", "x.npy", "y.npy", "v.csv", "set")
    ran = coreframe_("inspect", *names, *["--json"] * as_json)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    if not as_json:
        assert "p.jsonl: JSON lines, pairs, 2 rows" in ran.stdout
        assert "note    not used" in ran.stdout
        assert "1 pairs · 1 repeated pairs" in ran.stdout
        assert "6 x 4 float16 · normalised · 2 zero rows · 1 repeated rows" in ran.stdout
        assert "ids from column id" in ran.stdout
        assert "set: BEIR folder, a retrieval set" in ran.stdout
        return
    found = {Path(entry["path"]).name: entry for entry in json.loads(ran.stdout)["files"]}
    assert [entry["problems"] for entry in found.values()] == [[]] * 5
    assert [(c["name"], c["role"]) for c in found["p.jsonl"]["columns"]] == [
        ("query", "anchor"), ("answer", "positive"), ("note", None),
    ]  # fmt: skip
    assert found["x.npy"]["vectors"][0]["zero_rows"] == 2
    assert found["y.npy"]["holds"] == "labels or ids"
    assert found["v.csv"]["vectors"][0]["normalised"] is True
    assert found["set"]["counts"]["queries"] == len(records)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("x.jsonl", '{"query": "a", "answer": ""}\n', "x.jsonl, line 1: 'answer' is empty"),
        ("x.jsonl", '{"query": "a", "n": 1, "m": 2}\n', "x.jsonl has no column for the positive"),
        ("x.csv", 'id,vector\na,"[1,2]"\nb,"[1]"\n', "x.csv, line 3: 'vector' has 1 numbers"),
        ("x.npy", "no array", "x.npy is not a readable .npy file"),
        ("x.bin", "", "x.bin: rows are read from"),
        ("train.jsonl", "", "train.jsonl is empty"),
    ],
)
def test_inspect_names_problems(coreframe_, tmp_path, name, content, problem) -> None:
    (tmp_path / name).write_text(content)
    ran = coreframe_("inspect", name)
    assert ran.returncode == 4
    assert f"problem: {problem}" in ran.stdout
    assert "Traceback" not in ran.stderr
    assert coreframe_("inspect", "nowhere").returncode == 4


def test_inspect_a_folder_in_parts(coreframe_, tmp_path) -> None:
    (tmp_path / "set").mkdir()
    for part in ("train", "test"):
        (tmp_path / "set" / f"{part}.csv").write_text("query,answer\na,b\n")
    ran = coreframe_("inspect", "set")
    assert ran.returncode == 0
    assert "set: folder in parts, parts" in ran.stdout
    assert "train.csv: CSV, pairs, 1 rows" in ran.stdout
