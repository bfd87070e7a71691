"""Rows to files: the whole file or none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coreframe.data import row_writer
from coreframe.data.row_writer import write_rows
from coreframe.errors import ArgumentError, MissingExtra, OutputError

ROWS = [{"a": "x\ny", "b": [1, 2]}, {"a": "日本語", "b": []}]


def test_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    assert write_rows(path, ["a", "b"], iter(ROWS)) == 2
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == ROWS
    assert write_rows(path, ["a"], []) == 0
    assert path.read_bytes() == b""
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]


def test_parquet(tmp_path: Path, monkeypatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(row_writer, "_ROWS", 3)
    rows = [{"a": f"t{i}", "b": [i] * (i % 3), "c": i / 2} for i in range(10)]
    assert write_rows(tmp_path / "x.parquet", ["a", "b", "c"], iter(rows)) == 10
    table = parquet.read_table(tmp_path / "x.parquet")
    assert table.to_pylist() == rows
    assert table.column_names == ["a", "b", "c"]
    assert write_rows(tmp_path / "x.parquet", ["a"], []) == 0
    assert parquet.read_table(tmp_path / "x.parquet").column_names == ["a"]


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_fails_in_the_middle_leaves_the_old_file(
    tmp_path: Path, suffix: str, error: type[BaseException]
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"x.{suffix}"
    write_rows(path, ["a", "b"], ROWS)
    before = path.read_bytes()

    def broken() -> Iterator[dict[str, Any]]:
        yield from ROWS * 5000
        raise error

    with pytest.raises(error):
        write_rows(path, ["a", "b"], broken())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, monkeypatch) -> None:
    def full(path: Path, other: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(row_writer.os, "replace", full)
    with pytest.raises(OutputError, match=r"cannot write .*x.jsonl: No space left on device"):
        write_rows(tmp_path / "x.jsonl", ["a", "b"], ROWS)
    assert list(tmp_path.iterdir()) == []


def test_other_endings(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ArgumentError, match=r"must end in .jsonl, .ndjson, .parquet, got"):
        write_rows(tmp_path / "x.json", ["a"], [])
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingExtra, match="writing Parquet needs"):
        write_rows(tmp_path / "x.parquet", ["a"], [])
