"""A user's files: which columns are taken, and in which words a file is refused."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coreframe.data.array_files import read_labels
from coreframe.data.files import NAMES, Rows, column_roles, read_rows
from coreframe.data.vectors import read_vectors
from coreframe.errors import ArgumentError, DataError, MissingExtra


def write(tmp_path: Path, *lines: Any, name: str = "pairs.jsonl") -> Path:
    """Write lines: texts as they are, anything else as JSON."""
    path = tmp_path / name
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes("\n".join(texts).encode())
    return path


def refused(path: Path, **columns: str) -> str:
    """Return why a file of rows is refused, without its folder."""
    with pytest.raises(DataError) as caught:
        read_rows(path, columns=columns)
    return str(caught.value).replace(str(path), path.name)


# Columns

ROLES: list[tuple[str, dict[str, str], dict[str, str]]] = [
    ("anchor positive", {}, {"anchor": "anchor", "positive": "positive"}),
    ("positive anchor", {}, {"anchor": "anchor", "positive": "positive"}),
    ("id answer query", {}, {"anchor": "query", "positive": "answer"}),
    ("query document", {}, {"anchor": "query", "positive": "document"}),
    ("query pos neg", {}, {"anchor": "query", "positive": "pos", "negative": "neg"}),
    ("query anchor pos", {}, {"anchor": "anchor", "positive": "pos"}),
    ("german english", {}, {"anchor": "german", "positive": "english"}),
    ("label a b c", {}, {"anchor": "a", "positive": "b", "negative": "c", "label": "label"}),
    ("a b c d", {}, {"anchor": "a", "positive": "b", "negative": "c"}),
    ("group a b", {}, {"anchor": "a", "positive": "b", "group": "group"}),
    ("query text", {}, {"anchor": "query", "positive": "text"}),
    ("a b", {"anchor": "b"}, {"anchor": "b", "positive": "a"}),
    (
        "a b c",
        {"positive": "a", "anchor": "c", "group": "b"},
        {"anchor": "c", "positive": "a", "group": "b"},
    ),
    ("anchor_id positive_id x", {}, {"anchor_id": "anchor_id", "positive_id": "positive_id"}),
    ("text positive_id", {}, {"anchor": "text", "positive_id": "positive_id"}),
    ("text label", {}, {"label": "label", "text": "text"}),
    ("idx sentence label", {}, {"label": "label", "text": "sentence"}),
    (
        "id sentence1 sentence2 score",
        {},
        {"anchor": "sentence1", "positive": "sentence2", "label": "score"},
    ),
    ("text2 text1 label", {}, {"anchor": "text1", "positive": "text2", "label": "label"}),
    (
        "query-id corpus-id score",
        {},
        {"anchor_id": "query-id", "positive_id": "corpus-id", "label": "score"},
    ),
    (
        "query_id positive_id negative_id",
        {},
        {"anchor_id": "query_id", "positive_id": "positive_id", "negative_id": "negative_id"},
    ),
    (
        "anchor positive negative_2 negative_10 negative_1",
        {},
        {
            "anchor": "anchor", "positive": "positive", "negative_1": "negative_1",
            "negative_2": "negative_2", "negative_10": "negative_10",
        },
    ),
    ("a b negative_0", {}, {"anchor": "a", "positive": "b", "negative_0": "negative_0"}),
    (
        "query pos neg pos_scores neg_scores prompt",
        {},
        {
            "anchor": "query", "positive": "pos", "negative": "neg", "prompt": "prompt",
            "positive_score": "pos_scores", "negative_score": "neg_scores",
        },
    ),
    ("time date a b split", {}, {"anchor": "a", "positive": "b", "time": "time", "split": "split"}),
    ("vector label", {}, {"label": "label", "text_vector": "vector"}),
    (
        "query query_embedding answer positive_embedding embedding",
        {},
        {
            "anchor": "query", "positive": "answer", "anchor_vector": "query_embedding",
            "positive_vector": "positive_embedding",
        },
    ),
    (
        "anchor_embedding positive_embedding negative_1 negative_1_embedding",
        {},
        {
            "negative_1": "negative_1", "anchor_vector": "anchor_embedding",
            "positive_vector": "positive_embedding", "negative_1_vector": "negative_1_embedding",
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("names", "given", "expected"), ROLES)
def test_columns_are_found(names: str, given: dict[str, str], expected: dict[str, str]) -> None:
    assert column_roles(names.split(), given) == expected


POSITIVE = " or ".join(map(repr, NAMES["positive"]))
MISSING: list[tuple[str, dict[str, str], str]] = [
    (
        "anchor x y",
        {},
        f"the data has no column for the positive: expected {POSITIVE}. "
        "Its columns: 'anchor', 'x', 'y'.",
    ),
    (
        "anchor postive note",
        {},
        f"the data has no column for the positive: expected {POSITIVE}. "
        "Its columns: 'anchor', 'postive', 'note'. Did you mean 'postive'?",
    ),
    (
        "german english",
        {"anchor": "germn"},
        "the data has no column 'germn' for the anchor. Its columns: 'german', 'english'. "
        "Did you mean 'german'?",
    ),
    (
        "a b",
        {"anchor": "a", "positive": "a"},
        "the data: column 'a' is given two roles",
    ),
    (
        "",
        {},
        f"the data has no column for the positive: expected {POSITIVE}. Its columns: none.",
    ),
]


@pytest.mark.parametrize(("names", "given", "expected"), MISSING)
def test_a_missing_column(names: str, given: dict[str, str], expected: str) -> None:
    with pytest.raises(DataError) as caught:
        column_roles(names.split(), given)
    assert str(caught.value) == expected


def test_an_unknown_role() -> None:
    with pytest.raises(ArgumentError) as caught:
        column_roles(["a", "b"], {"anchr": "a"})
    assert str(caught.value) == "columns has no role 'anchr'. Did you mean 'anchor' or 'anchor_id'?"


# JSON lines


def fields_of(rows: Rows) -> dict[str, Any]:
    """Return what was found, without what is the same everywhere."""
    plain = ("name", "format", "places", "count", "vectors", "mapping", "unused")
    return {k: v for k, v in vars(rows).items() if v is not None and k not in plain}


def test_texts_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {"anchor": "Hund", "positive": "dog", "negative": "cat", "group": 1, "score": 1},
        {"positive": "cat", "anchor": "Katze", "negative": "dog", "group": 2, "score": 0.5},
    )
    rows = read_rows(path)
    assert (rows.count, rows.format, rows.unused) == (2, "JSON lines", ())
    assert rows.mapping == {
        "anchor": "anchor",
        "positive": "positive",
        "negative": "negative",
        "group": "group",
        "label": "score",
    }
    assert fields_of(rows) == {
        "anchors": ["Hund", "Katze"],
        "positives": [("dog",), ("cat",)],
        "negatives": [("cat",), ("dog",)],
        "group": ["1", "2"],
        "labels": [1.0, 0.5],
    }


def test_ids_are_read(tmp_path: Path) -> None:
    path = write(tmp_path, {"anchor_id": 3, "positive_id": "d7"}, name="pairs.ndjson")
    rows = read_rows(path)
    assert (rows.anchor_ids, rows.positive_ids, rows.anchors) == ([3], [("d7",)], None)


def test_blank_lines_and_a_byte_order_mark_are_let_through(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    path.write_bytes(b'\xef\xbb\xbf\n{"a": "x", "b": "y"}\r\n  \r\n{"a": "z", "b": "w"}\n\n')
    rows = read_rows(path)
    assert (rows.anchors, rows.positives) == (["x", "z"], [("y",), ("w",)])


GOOD = {"anchor": "a", "positive": "p"}
BROKEN: list[tuple[list[Any], str]] = [
    ([], "pairs.jsonl is empty: it has no rows"),
    (["", "  "], "pairs.jsonl is empty: it has no rows"),
    (
        [GOOD, "", '{"anchor": "a" "positive": "p"}'],
        "pairs.jsonl, line 3: not valid JSON: Expecting ',' delimiter (column 16); "
        "each line must be one object",
    ),
    (
        ["[", GOOD],
        "pairs.jsonl, line 1: not valid JSON: Expecting value (column 2); "
        "each line must be one object",
    ),
    (
        [GOOD, ["a", "p"]],
        'pairs.jsonl, line 2: must be an object such as {"anchor": "...", "positive": "..."}, '
        "got a list",
    ),
    (
        [GOOD, "null"],
        'pairs.jsonl, line 2: must be an object such as {"anchor": "...", "positive": "..."}, '
        "got null",
    ),
    (
        ["", GOOD, {"anchor": "a", "postive": "p", "note": ""}],
        "pairs.jsonl, line 3: other columns than in line 2: without 'positive', "
        "with 'note', 'postive'",
    ),
    (
        [GOOD, {**GOOD, "negative": "n"}],
        "pairs.jsonl, line 2: other columns than in line 1: with 'negative'",
    ),
    (
        [{"anchor": "a", "note": "x", "more": "y"}],
        f"pairs.jsonl has no column for the positive: expected {POSITIVE}. "
        "Its columns: 'anchor', 'note', 'more'.",
    ),
    (
        [GOOD, {"anchor": 3, "positive": "p"}],
        "pairs.jsonl, line 2: 'anchor' must be a text, got the number 3",
    ),
    ([{"query": "a", "pos": []}], "pairs.jsonl, line 1: 'pos' is an empty list"),
    (
        [{"query": "a", "pos": ["p", 3]}],
        "pairs.jsonl, line 1: 'pos' must be a text, got the number 3",
    ),
    (
        [{"query": "a", "pos": ["p", "q"], "pos_scores": [1.0]}],
        "pairs.jsonl, line 1: 'pos_scores' has 1 numbers for 2 texts of 'pos'",
    ),
    (
        [{**GOOD, "split": "tset"}],
        "pairs.jsonl, line 1: 'split' must be train, dev (or validation) or test, got a text",
    ),
    (
        [{**GOOD, "time": "noon"}],
        "pairs.jsonl, line 1: 'time' must be a number or a time such as "
        "2026-11-26T15:04:05, got 'noon'",
    ),
    (
        [GOOD, {"anchor": "a", "positive": None}],
        "pairs.jsonl, line 2: 'positive' must be a text, got null",
    ),
    ([GOOD, {"anchor": "a", "positive": " "}], "pairs.jsonl, line 2: 'positive' is empty"),
    (
        ['{"anchor": "\\ud800", "positive": "p"}'],
        "pairs.jsonl, line 1: 'anchor' has half a character (a lone surrogate)",
    ),
    (
        [{"anchor_id": -1, "positive_id": 0}],
        "pairs.jsonl, line 1: 'anchor_id' must be a row number from 0 or an id, got -1",
    ),
    (
        [{"anchor_id": 1.5, "positive_id": 0}],
        "pairs.jsonl, line 1: 'anchor_id' must be a row number or an id, got the number 1.5",
    ),
    (
        [{"anchor_id": True, "positive_id": 0}],
        "pairs.jsonl, line 1: 'anchor_id' must be a row number or an id, got true",
    ),
    (
        [{"anchor_id": 1, "positive_id": 0}, {"anchor_id": "b", "positive_id": 0}],
        "pairs.jsonl, line 2: 'anchor_id' must be of one type, "
        "got a text here and the number 1 in line 1",
    ),
    ([{**GOOD, "group": None}], "pairs.jsonl, line 1: 'group' must be a text, got null"),
    (
        ['{"a": "x", "b": "y", "score": NaN}'],
        "pairs.jsonl, line 1: 'score' must be finite, got nan",
    ),
    (
        [{**GOOD, "label": {}}],
        "pairs.jsonl, line 1: 'label' must be a number or a text, got an object",
    ),
]


@pytest.mark.parametrize(("lines", "expected"), BROKEN)
def test_a_broken_line_is_named(tmp_path: Path, lines: list[Any], expected: str) -> None:
    assert refused(write(tmp_path, *lines)) == expected


def test_text_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"anchor": "caf\xe9", "positive": "p"}')
    assert refused(path) == "pairs.jsonl, line 2: not UTF-8 text (byte 16); save the file as UTF-8"


def test_numbers_and_nesting_without_end(tmp_path: Path) -> None:
    assert "line 1: not valid JSON: " in refused(write(tmp_path, '{"a": ' + "9" * 5000 + "}"))
    assert "line 1: not valid JSON: " in refused(write(tmp_path, "[" * 100_000))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert refused(tmp_path / "no.jsonl") == "no.jsonl cannot be read: No such file or directory"
    assert refused(tmp_path / "no.parquet") == (
        "no.parquet cannot be read: No such file or directory"
    )
    assert refused(tmp_path / "pairs.txt") == (
        "pairs.txt: rows are read from .jsonl, .ndjson, .json, .csv, .tsv, .parquet, .arrow, "
        ".feather, .lance files, from folders that datasets.save_to_disk wrote and from BEIR "
        "folders, not '.txt'"
    )


def test_a_column_that_was_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, {"german": "Hund", "english": "dog"})
    assert read_rows(path, columns={"anchor": "english"}).anchors == ["dog"]
    assert refused(path, positive="englisch") == (
        "pairs.jsonl has no column 'englisch' for the positive. Its columns: 'german', "
        "'english'. Did you mean 'english'?"
    )


# Parquet


def write_parquet(path: Path, **columns: Any) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path)
    return path


def test_parquet_is_read(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "pairs.parquet",
        embedding=[[1.0, 2.0], [3.0, 4.0]],
        query=["Hund", "Katze"],
        answer=["dog", "cat"],
        positive_id=[1, 0],
    )
    rows = read_rows(path)
    assert rows.unused == ("embedding",)
    assert fields_of(rows) == {
        "anchors": ["Hund", "Katze"],
        "positives": [("dog",), ("cat",)],
        "positive_ids": [(1,), (0,)],
    }


def test_parquet_with_broken_cells(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "p.parquet", anchor=["a", "b"], positive=["c", None])
    assert refused(path) == "p.parquet, row 1 (from 0): 'positive' must be a text, got null"
    path = write_parquet(tmp_path / "e.parquet", anchor=[], positive=[])
    assert refused(path) == "e.parquet is empty: it has no rows"
    path.write_bytes(b"PAR1 and no more")
    assert refused(path).startswith("e.parquet is not a readable Parquet file: ")


@pytest.mark.parametrize(
    ("package", "extra", "what", "name"),
    [
        ("pyarrow", "parquet", "Parquet", "x.parquet"),
        ("pyarrow", "parquet", "Arrow", "x.arrow"),
        ("lance", "lance", "Lance", "x.lance"),
    ],
)
def test_without_the_package(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    extra: str,
    what: str,
    name: str,
) -> None:
    real = builtins.__import__

    def importer(module: str, *args: Any, **kwargs: Any) -> Any:
        if module.partition(".")[0] == package:
            raise ImportError(module)
        return real(module, *args, **kwargs)

    (tmp_path / "x.lance" / "_versions").mkdir(parents=True)
    monkeypatch.setattr(builtins, "__import__", importer)
    with pytest.raises(MissingExtra) as caught:
        read_rows(tmp_path / name)
    assert str(caught.value) == (
        f"reading {what} needs the package {package!r}, which is not installed. "
        f"Install it with: pip install 'coreframe-ml[{extra}]'"
    )


# Vectors and labels


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_vectors_stay_on_disk(tmp_path: Path, dtype: str, order: Any) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(6.0).reshape(3, 2).astype(dtype, order=order))
    x = read_vectors(path)
    assert isinstance(x, np.memmap)
    assert x.dtype == dtype
    np.testing.assert_array_equal(x, [[0, 1], [2, 3], [4, 5]])


def test_the_first_bad_row_is_found_in_any_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coreframe.data.spool.BLOCK", 6)
    x = np.zeros((10, 2), np.float32)
    x[7, 1], x[9, 0] = np.inf, np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(DataError) as caught:
        read_vectors(tmp_path / "x.npy")
    assert str(caught.value) == (
        f"{tmp_path / 'x.npy'}, row 7 (from 0): has NaN or infinity; "
        "drop such rows or replace the values"
    )


VECTORS: list[tuple[Any, str]] = [
    (np.zeros(3, np.float32), "x.npy must hold a matrix (rows, width), got shape (3,)"),
    (
        np.zeros((2, 2), np.int64),
        "x.npy must hold float16, float32, float64, int8 or uint8, got int64; convert it first: "
        "np.save('x.npy', x.astype(np.float32))",
    ),
    (
        np.zeros((2, 2), np.complex64),
        "x.npy must hold float16, float32, float64, int8 or uint8, got complex64; convert it "
        "first: np.save('x.npy', x.astype(np.float32))",
    ),
    (np.zeros((0, 4), np.float32), "x.npy is empty: its shape is (0, 4)"),
    (np.zeros((4, 0), np.float32), "x.npy is empty: its shape is (4, 0)"),
]


@pytest.mark.parametrize(("x", "expected"), VECTORS)
def test_vectors_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, x: Any, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", x)
    with pytest.raises(DataError) as caught:
        read_vectors("x.npy")
    assert str(caught.value) == expected


def test_what_is_no_npy_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"^x\.npy cannot be read: No such file or directory$"):
        read_vectors("x.npy")
    np.save("x.npy", np.zeros((100, 4), np.float32))
    Path("x.npy").write_bytes(Path("x.npy").read_bytes()[:-50])
    with pytest.raises(DataError, match=r"^x\.npy is not a readable \.npy file of numbers or"):
        read_vectors("x.npy")
    Path("x.npy").write_text("1.0 2.0 3.0\n")
    with pytest.raises(DataError, match=r"^x\.npy is not a readable \.npy file of numbers or"):
        read_vectors("x.npy")
    np.save("x.npy", np.asarray([None, "a"], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"^x\.npy is not a readable \.npy file of numbers or"):
        read_labels("x.npy", 2)


@pytest.mark.parametrize("y", [np.asarray([3, 1, 3]), np.asarray(["cat", "dog", "cat"])])
def test_labels_are_read(tmp_path: Path, y: Any) -> None:
    np.save(tmp_path / "y.npy", y)
    np.testing.assert_array_equal(read_labels(tmp_path / "y.npy", 3), y)


LABELS: list[tuple[Any, str]] = [
    (np.asarray([1, 2]), "y.npy has 2 labels for 3 rows"),
    (
        np.ones((3, 1), np.int64),
        "y.npy must hold one label a row, (3,), got shape (3, 1)",
    ),
    (
        np.ones(3),
        "y.npy must hold integers or texts, got float64; convert it first: "
        "np.save('y.npy', y.astype(np.int64))",
    ),
]


@pytest.mark.parametrize(("y", "expected"), LABELS)
def test_labels_that_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, y: Any, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("y.npy", y)
    with pytest.raises(DataError) as caught:
        read_labels("y.npy", 3)
    assert str(caught.value) == expected


def test_quality_and_difficulty_are_numbers_of_their_rows(tmp_path: Path) -> None:
    lines = [
        {"input": "a", "output": "b", "quality": 0, "difficulty": -2},
        {"input": "c", "output": "d", "quality": None, "difficulty": 0.5},
    ]
    rows = read_rows(write(tmp_path, *lines))
    assert (rows.anchors, rows.positives) == (["a", "c"], [("b",), ("d",)])
    assert (rows.weights, rows.difficulty) == ([(0.0,), (1.0,)], [-2.0, 0.5])
    for column, value, message in (
        ("quality", -1, "line 1: 'quality' must not be negative, got -1"),
        ("quality", "good", "line 1: 'quality' must be a number, got a text"),
        ("difficulty", None, "line 1: 'difficulty' must be a number, got null"),
    ):
        path = write(tmp_path, {"anchor": "a", "positive": "b", column: value})
        assert message in refused(path)
