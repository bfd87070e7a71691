"""Rows of every format are the same rows, and what is broken in each is named."""

from __future__ import annotations

import csv
import datetime
import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coreframe.data import csv_rows, tables
from coreframe.data.files import Rows, read_rows
from coreframe.errors import ArgumentTypeError, DataError

ROWS = [
    {"query": "a, or b", "answer": 'said "yes"', "quality": 0.5, "group": 3},
    {"query": "two\nlines", "answer": "ö; ß\t☃", "quality": 2.0, "group": 4},
    {"query": "x" * 200_000, "answer": "long", "quality": 0.0, "group": 3},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Any:
    """Write rows in the format of the ending, with the library of the format, and return it."""
    table = pyarrow.Table.from_pylist(rows)
    kind = path.name.partition(".")[2]
    if kind in ("jsonl", "ndjson"):
        path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif kind in ("csv", "tsv", "semicolon.csv", "tab.csv", "bom.csv"):
        mark = {"csv": ",", "bom.csv": ",", "semicolon.csv": ";"}.get(kind, "\t")
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, list(rows[0]), delimiter=mark)
        writer.writeheader()
        writer.writerows(rows)
        path.write_bytes(buffer.getvalue().encode("utf-8-sig" if kind == "bom.csv" else "utf-8"))
    elif kind == "parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=2)
    elif kind == "arrow":
        with pyarrow.OSFile(str(path), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as w:
            w.write_table(table, max_chunksize=2)
    elif kind == "stream.arrow":
        with pyarrow.OSFile(str(path), "wb") as f, pyarrow.ipc.new_stream(f, table.schema) as w:
            w.write_table(table, max_chunksize=2)
    else:
        pyarrow.feather.write_feather(table, path)
    return path


KINDS = [
    "jsonl", "ndjson", "json", "csv", "bom.csv", "semicolon.csv", "tab.csv", "tsv", "parquet",
    "arrow", "stream.arrow", "feather",
]  # fmt: skip


def same(rows: Rows, expected: list[dict[str, Any]]) -> None:
    assert rows.count == len(expected)
    assert rows.anchors == [r["query"] for r in expected]
    assert rows.positives == [(r["answer"],) for r in expected]
    assert rows.weights == [(r["quality"],) for r in expected]
    assert rows.group == [str(r["group"]) for r in expected]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    same(read_rows(write(tmp_path / f"pairs.{kind}", ROWS)), ROWS)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "stream.arrow"])
def test_rows_are_read_in_chunks(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "CHUNK", 4)
    monkeypatch.setattr("coreframe.data.arrow_rows.CHUNK", 4)
    rows = [{"query": f"q{i}", "answer": f"a{i}", "quality": 1.0, "group": i} for i in range(11)]
    same(read_rows(write(tmp_path / f"pairs.{kind}", rows)), rows)


def in_memory() -> list[Any]:
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    return [
        ROWS,
        tuple(ROWS),
        columns,
        {name: np.asarray(column) for name, column in columns.items()},
        pyarrow.Table.from_pylist(ROWS),
        pyarrow.concat_tables([pyarrow.Table.from_pylist(ROWS[:1]),
                               pyarrow.Table.from_pylist(ROWS[1:])]),
    ]  # fmt: skip


@pytest.mark.parametrize("source", in_memory(), ids=lambda s: type(s).__name__)
def test_objects_in_memory(source: Any) -> None:
    same(read_rows(source), ROWS)


def test_objects_that_are_none() -> None:
    with pytest.raises(ArgumentTypeError, match="the int is no data: give a path"):
        read_rows(3)
    with pytest.raises(ArgumentTypeError, match="a list of data holds rows"):
        read_rows([1, 2])
    with pytest.raises(DataError, match=r"row 1 \(from 0\) has other columns than row 0"):
        read_rows([{"a": "x", "b": "y"}, {"a": "x"}])
    with pytest.raises(DataError, match="columns of different lengths: a 2, b 1"):
        read_rows({"a": ["x", "y"], "b": ["z"]})
    with pytest.raises(DataError, match=r"row 1 \(from 0\): 'b' is empty"):
        read_rows([{"a": "x", "b": "y"}, {"a": "x", "b": ""}])


text = (
    st.text(min_size=1)
    .filter(lambda t: t.strip() and "\0" not in t)
    .filter(lambda t: not any(0xD800 <= ord(c) < 0xE000 for c in t))
)


@settings(max_examples=8)
@given(rows=st.lists(st.tuples(text, text), min_size=1, max_size=5))
def test_any_text_comes_through_any_format(
    rows: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    expected = [{"query": q, "answer": a, "quality": 1.0, "group": 1} for q, a in rows]
    for kind in ("jsonl", "csv", "tsv", "parquet"):
        same(read_rows(write(folder / f"pairs.{kind}", expected)), expected)


# Lists, negatives, scores


def test_negatives_of_all_forms(tmp_path: Path) -> None:
    def negatives(row: dict[str, Any]) -> Any:
        path = tmp_path / "x.jsonl"
        path.write_text(json.dumps({"anchor": "a", "positive": "p"} | row))
        return read_rows(path).negatives

    assert negatives({"negative": "n"}) == [("n",)]
    assert negatives({"negatives": ["n", "m"]}) == [("n", "m")]
    assert negatives({"negative_1": "n", "negative_2": "m"}) == [("n", "m")]
    assert negatives({"negative_0": "n", "negative_2": "m", "negative_1": "l"}) == [("n", "l", "m")]
    assert negatives({"negative_1": "n", "negative_2": None}) == [("n",)]
    assert negatives({"negative": "n", "negative_1": "n"}) == [("n",)]
    assert negatives({"hard_negatives": ["n"]}) == [("n",)]


def test_lists_in_csv_are_json(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('query,pos,neg,time\nq,"[""a"", ""b""]",[no list],2026-01-01\nr,[x],,12.5\n')
    rows = read_rows(path)
    assert rows.positives == [("a", "b"), ("[x]",)]
    assert rows.negatives == [("[no list]",), ()]
    midnight = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp()
    assert rows.times == [midnight, 12.5]


def test_flag_embedding_lists(tmp_path: Path) -> None:
    rows = read_rows([
        {"query": "q", "pos": ["a", "b"], "neg": ["c"], "pos_scores": [0.9, 0.8],
         "neg_scores": [0.1], "prompt": "Find: ", "id": 7},
    ])  # fmt: skip
    assert rows.positives == [("a", "b")]
    assert rows.prompts == ["Find: "]
    assert rows.unused == ("id",)
    weighted = read_rows(
        [{"query": "q", "pos": ["a", "b"], "pos_scores": [0.9, 0.8]}],
        columns={"weight": "pos_scores"},
    )
    assert weighted.weights == [(0.9, 0.8)]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (5, 5.0),
        (1.5, 1.5),
        ("1970-01-02", 86400.0),
        ("1970-01-01T01:00:00+01:00", 0.0),
        (datetime.date(1970, 1, 2), 86400.0),
        (datetime.datetime(1970, 1, 1, 1, tzinfo=datetime.UTC), 3600.0),
    ],
)
def test_times(value: Any, seconds: float) -> None:
    assert read_rows([{"a": "x", "b": "y", "time": value}]).times == [seconds]


# Broken files of each format


def refused(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_rows(path)
    return str(caught.value).replace(str(path), path.name)


CSV: list[tuple[bytes, str]] = [
    (b"", "x.csv is empty: it has no rows"),
    (b"a,b\n", "x.csv is empty: it has no rows"),
    (b"a,b\nx,y\nz\n", "x.csv, line 3: has 1 cells for 2 columns; a cell with a comma in it needs "
     "quotes"),
    (b'a,b\n"x\ny",z\nu,v,w\n', "x.csv, line 4: has 3 cells for 2 columns; a cell with a comma in "
     "it needs quotes"),
    (b'a,b\nx,"y\n', "x.csv, line 2: not valid CSV: unexpected end of data"),
    (b"a,b\nx,\xff\n", "x.csv, line 1 or after: not UTF-8 text (invalid start byte); "
     "save the file as UTF-8"),
    (b"a,a\nx,y\n", "x.csv has two columns 'a'"),
    (b"a,,b\nx,y,z\n", "x.csv, line 1: column 2 has no name"),
    (b"a,b\nx,y\n\nz,\n", "x.csv, line 4: 'b' must be a text, got null"),
    (b"a,b,quality\nx,y,good\n", "x.csv, line 2: 'quality' must be a number, got a text"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), CSV)
def test_broken_csv(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    assert refused(tmp_path / "x.csv") == expected


def test_the_longest_cell_of_the_process_is_left_alone(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    chunks = csv_rows.table(str(write(tmp_path / "x.csv", ROWS))).chunks(["query"])
    next(chunks)
    assert csv.field_size_limit() == before


def test_broken_json_arrays(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"a": "x", "b": "y"}, 3]')
    assert refused(path) == (
        'x.json, row 1 (from 0): must be an object such as {"anchor": "...", "positive": "..."}, '
        "got the number 3"
    )
    path.write_text('[{"a": "x", "b": "y"}, {"a": "x"}]')
    assert refused(path) == (
        "x.json, row 1 (from 0): other columns than in row 0 (from 0): without 'b'"
    )
    path.write_text('[{"a": "x", "b": "y"}, ')
    assert refused(path).startswith("x.json, line 1: not valid JSON: ")


@pytest.mark.parametrize("kind", ["parquet", "arrow", "stream.arrow", "feather"])
def test_arrow_files_that_are_cut(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"x.{kind}", ROWS)
    whole = path.read_bytes()
    for size in (0, 5, 40, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=f"x.{kind}"):
            read_rows(path)


def test_two_readers_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", ROWS * 50)
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(read_rows(path).count)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [150] * 4
