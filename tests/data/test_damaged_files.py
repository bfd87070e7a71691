"""Files with changed bytes are read as what they then say, or refused in our words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from safetensors.numpy import save_file

from coreframe import config
from coreframe.data.loading import load_pairs
from coreframe.data.summary import describe
from coreframe.data.vectors import open_vectors
from coreframe.errors import DataError

X = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
ROWS = [{"query": f"question {i}", "answer": f"answer {i}", "score": i % 2} for i in range(12)]
SETTINGS = config.default()
MANY = 100  # files of each kind; some thousands were tried


def rows_file(folder: Path, kind: str) -> Path:
    path = folder / f"x.{kind}"
    table = pyarrow.Table.from_pylist(ROWS)
    if kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind == "json":
        path.write_text(json.dumps({
            "queries": {"a": "first"}, "corpus": {"x": "one"}, "relevant_docs": {"a": ["x"]},
        }))  # fmt: skip
    elif kind == "csv":
        path.write_text("query,answer,score\n" + "".join(
            f'"{r["query"]}",{r["answer"]},{r["score"]}\n' for r in ROWS))  # fmt: skip
    elif kind == "parquet":
        pyarrow.parquet.write_table(table, path)
    else:
        with pyarrow.OSFile(str(path), "wb") as f, pyarrow.ipc.new_stream(f, table.schema) as w:
            w.write_table(table)
    return path


def vectors_file(folder: Path, kind: str) -> Path:
    path = folder / f"x.{kind}"
    if kind == "npy":
        np.save(path, X)
    elif kind == "npz":
        np.savez(path, x=X, ids=np.arange(12))
    elif kind == "safetensors":
        save_file({"x": X, "ids": np.arange(12)}, path)
    else:
        column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(X.ravel()), 4)
        table = pyarrow.table({"id": list(range(12)), "vector": column})
        pyarrow.parquet.write_table(table, path)
    return path


def damaged(whole: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with some bytes changed, cut off, put in or taken out."""
    data = bytearray(whole)
    for _ in range(int(rng.integers(1, 4))):
        place = int(rng.integers(len(data)))
        match int(rng.integers(4)):
            case 0:
                data[place] = int(rng.integers(256))
            case 1:
                data[place] ^= 1 << int(rng.integers(8))
            case 2:
                del data[place : place + int(rng.integers(1, 20))]
            case _:
                data[place:place] = rng.bytes(int(rng.integers(1, 9)))
        if not data:
            return b""
    return bytes(data)


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet", "arrow"])
def test_damaged_rows(tmp_path: Path, kind: str) -> None:
    path = rows_file(tmp_path, kind)
    whole, rng = path.read_bytes(), np.random.default_rng(7)
    refused = told = 0
    for _ in range(MANY):
        path.write_bytes(damaged(whole, rng))
        try:
            load_pairs([path], config=SETTINGS)
        except DataError as error:  # nothing else may be raised
            refused += str(path) in str(error)
            told += 1
        assert describe(path)["path"] == str(path)
    assert refused == told > 10


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors", "parquet"])
def test_damaged_vectors(tmp_path: Path, kind: str) -> None:
    path = vectors_file(tmp_path, kind)
    whole, rng = path.read_bytes(), np.random.default_rng(8)
    refused = told = 0
    for _ in range(MANY):
        path.write_bytes(damaged(whole, rng))
        try:
            found = open_vectors(path)
        except DataError as error:  # nothing else may be raised
            refused += str(path) in str(error)
            told += 1
        else:
            assert found.array.ndim == 2
            assert np.isfinite(found.array).all()
    assert refused == told > 10


def test_a_header_that_asks_for_too_much(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for size in (2**63, 10**12, 3):
        path.write_bytes(size.to_bytes(8, "little") + b"{}" + b" " * 8)
        with pytest.raises(DataError, match=r"is not a readable \.safetensors file"):
            open_vectors(path)
    entry: dict[str, Any] = {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 16]}
    header = json.dumps({"x": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 16)
    with pytest.raises(DataError, match=r"is not a readable \.safetensors file"):
        open_vectors(path)
