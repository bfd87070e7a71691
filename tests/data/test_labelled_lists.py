"""What mining writes is what reading reads: every format, and lists with labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mining_cases as cases
import numpy as np
import pytest

from coreframe.data.files import read_rows
from coreframe.data.loading import load_pairs
from coreframe.errors import DataError


def texts_of(pairs: Any, which: Any) -> set[tuple[str, str]]:
    return {(pairs.query_texts[q], pairs.document_texts[d]) for q, d in which}


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("output_format", "scored"),
    [
        ("triplet", False),
        ("triplet", True),
        ("n-tuple", False),
        ("n-tuple", True),
        ("labeled-pair", False),
        ("labeled-list", False),
    ],
)
def test_mined_rows_are_read_back(
    tmp_path: Path, output_format: str, scored: bool, suffix: str
) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    mined = cases.ours({"num_negatives": 2}, True)
    path = tmp_path / f"x.{suffix}"
    assert mined.write(path, output_format, output_scores=scored) > 0
    found = load_pairs(path).pairs
    given = mined.pairs
    wrong = [(q, d) for q, row in enumerate(mined.negatives) for d in row]
    assert texts_of(found, found.relevance.pairs) == texts_of(given, mined.right)  # type: ignore[attr-defined]
    assert texts_of(found, found.irrelevant) == texts_of(given, wrong)


def test_ids_are_read_back(tmp_path: Path) -> None:
    mined = cases.ours({"num_negatives": 2}, True)
    np.save(tmp_path / "q.npy", mined.pairs.queries)
    np.save(tmp_path / "d.npy", mined.pairs.documents)
    files = {"queries": tmp_path / "q.npy", "documents": tmp_path / "d.npy"}
    for output_format in ("triplet", "n-tuple"):
        mined.write(tmp_path / "x.jsonl", output_format, ids=True)
        found = load_pairs(tmp_path / "x.jsonl", **files)
        wrong = [[q, d] for q, row in enumerate(mined.negatives.tolist()) for d in row]
        assert sorted(found.pairs.irrelevant.tolist()) == sorted(wrong)
        np.testing.assert_array_equal(found.pairs.relevance.pairs, mined.right)  # type: ignore[attr-defined]
        assert list(found.query_ids or ()) == list(range(8))
        assert len(found.document_ids or ()) == len(mined.pairs.documents)


def test_what_ids_call_the_rows_of_files(tmp_path: Path) -> None:
    """Rows of a file that goes line by line, and ids of a file that has some."""
    x = np.eye(4, dtype=np.float32)
    np.save(tmp_path / "q.npy", x)
    np.save(tmp_path / "d.npy", x)
    rows = [{"anchor": a, "positive": p} for a, p in ("ab", "cb", "ad", "ef")]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    files = {"queries": tmp_path / "q.npy", "documents": tmp_path / "d.npy"}
    found = load_pairs(tmp_path / "x.jsonl", **files)
    assert list(found.query_ids or ()) == [0, 1, 3]  # "a" stands twice, and so does "b"
    assert list(found.document_ids or ()) == [0, 2, 3]
    (tmp_path / "d.ids.txt").write_text("w\nx\ny\nz\n")
    assert list(load_pairs(tmp_path / "x.jsonl", **files).document_ids or ()) == ["w", "y", "z"]
    assert load_pairs(tmp_path / "x.jsonl").query_ids is None


@pytest.mark.parametrize(
    ("labels", "text"),
    [
        ([1], r"line 1: 'labels' has 1 labels for 2 documents"),
        ([0, 0], r"must hold 1 for right documents, of which there is at least one"),
        ([1, 0.7], r"and 0 for wrong ones, got \[1.0, 0.7\]"),
        ([1, None], r"must be a number"),
    ],
)
def test_labels_that_do_not_fit(tmp_path: Path, labels: list[Any], text: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"anchor": "a", "positive": ["b", "c"], "labels": labels}) + "\n")
    with pytest.raises(DataError, match=text):
        read_rows(path)


def test_lists_and_single_labels_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [{"anchor": "a", "positive": ["b"], "labels": value} for value in ([1], 1)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="must be of one type"):
        read_rows(path)
