"""From the files a user names to Pairs: texts are embedded, vectors are taken as they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coreframe.config import RunConfig
from coreframe.data.files import Rows, read_labels, read_rows, read_vectors
from coreframe.data.pairs import Pairs, join_groups
from coreframe.data.relevance import Ints
from coreframe.errors import ArgumentError, DataError


@dataclass(frozen=True, eq=False)
class Loaded:
    """Pairs, the files they came from, what is worth telling, and what made the vectors."""

    pairs: Pairs
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    base_model: str | None


def load_pairs(
    data: Sequence[Path],
    *,
    queries: Path | None = None,
    documents: Path | None = None,
    config: RunConfig,
) -> Loaded:
    """Load one file of pairs (with texts, or with vectors beside it), or X.npy and y.npy.

    With vectors, line i goes with row i of both arrays, unless the columns ``anchor_id`` and
    ``positive_id`` name rows. Raises DataError for anything that does not fit together.
    """
    vectors = [path for path in data if path.suffix == ".npy"]
    if len(data) == 2 and len(vectors) == 2:
        if queries is not None or documents is not None:
            raise ArgumentError("--queries and --documents go with a file of pairs, not with X, y")
        x = read_vectors(data[0])
        pairs = Pairs.labelled(x, read_labels(data[1], len(x)))
        note = f"columns {len(x):,} vectors with labels; equal labels belong together"
        return Loaded(pairs, tuple(data), (note,), None)
    if len(data) != 1 or vectors:
        raise ArgumentError(
            "DATA is one file of pairs (.jsonl or .parquet), or two: X.npy with vectors and "
            f"y.npy with labels; got {', '.join(map(str, data))}"
        )
    if (queries is None) != (documents is None):
        raise ArgumentError("--queries and --documents go together: vectors of both sides")
    rows = read_rows(data[0], columns=config.data.columns)
    notes = ["columns " + ", ".join(f"{column} = {role}" for role, column in rows.mapping.items())]
    keep = _positive_rows(rows, data[0])
    if len(keep) < rows.count:
        notes.append(f"rows    {rows.count - len(keep):,} labelled 0 are left out")
    if queries is None or documents is None:
        if rows.anchors is None or rows.positives is None:
            raise DataError(
                f"{data[0]} has ids but no texts; give their vectors with --queries and --documents"
            )
        pairs = Pairs.from_texts(
            [rows.anchors[i] for i in keep],
            [rows.positives[i] for i in keep],
            config.embedder,
            negatives=None if rows.negatives is None else [rows.negatives[i] for i in keep],
            groups=None if rows.group is None else [rows.group[i] for i in keep],
            **_numbers(rows, keep),
        )
        name = type(config.embedder).__name__
        return Loaded(pairs, (data[0],), tuple(notes), f"coreframe:{name}")
    pairs = _with_vectors(rows, keep, read_vectors(queries), read_vectors(documents), data[0])
    return Loaded(pairs, (data[0], queries, documents), tuple(notes), None)


def _positive_rows(rows: Rows, path: Path) -> list[int]:
    """Return the rows that are pairs: all, or those labelled 1 where there are labels 0 and 1."""
    if rows.labels is None:
        return list(range(rows.count))
    if not set(rows.labels) <= {0, 1, "0", "1"}:
        column = rows.mapping["label"]
        raise DataError(
            f"{path}: column {column!r} has values other than 0 and 1; graded scores cannot be "
            "trained on yet, so turn them into 0 and 1 or drop the column"
        )
    keep = [i for i, label in enumerate(rows.labels) if str(label) in ("1", "1.0")]
    if not keep:
        raise DataError(f"{path}: no row has the label 1")
    return keep


def _with_vectors(rows: Rows, keep: list[int], q: Any, d: Any, path: Path) -> Pairs:
    """Join rows with vectors, by row number or by ids; equal texts or vectors become one."""
    if rows.negatives is not None:
        raise DataError(
            f"{path} has a column of negatives, but --documents holds one vector a row: that of "
            "the positive; drop the column, or let the texts be embedded"
        )
    if (rows.anchor_ids is None) != (rows.positive_ids is None):
        raise DataError(f"{path} needs both anchor_id and positive_id, or neither")
    if rows.anchor_ids is not None and rows.positive_ids is not None:
        left = _row_numbers(rows.anchor_ids, len(q), "anchor_id", path)
        right = _row_numbers(rows.positive_ids, len(d), "positive_id", path)
        query_texts = document_texts = None
    else:
        for name, x in (("--queries", q), ("--documents", d)):
            if len(x) != rows.count:
                raise DataError(
                    f"{name} has {len(x)} vectors for {rows.count} rows of {path}; line i goes "
                    "with row i, unless columns anchor_id and positive_id name rows"
                )
        first_q, left = _unique(rows.anchors, q)
        first_d, right = _unique(rows.positives, d)
        q, d = np.asarray(q)[first_q], np.asarray(d)[first_d]
        query_texts = None if rows.anchors is None else [rows.anchors[i] for i in first_q]
        document_texts = None if rows.positives is None else [rows.positives[i] for i in first_d]
    chosen = np.asarray(keep)
    groups = None if rows.group is None else join_groups(left, rows.group, len(q))
    pairs = Pairs(
        q,
        d,
        np.stack([left[chosen], right[chosen]], axis=1),
        query_texts=query_texts,
        document_texts=document_texts,
        groups=groups,
        **_numbers(rows, keep),
    )
    asked = np.unique(left[chosen])
    return pairs if len(asked) == len(q) else pairs.take(asked)


def _numbers(rows: Rows, keep: list[int]) -> dict[str, Any]:
    """Return the weight and the difficulty of the rows that are kept, where there are such."""
    columns = {"weights": rows.weights, "difficulty": rows.difficulty}
    return {k: None if x is None else [x[i] for i in keep] for k, x in columns.items()}


def _row_numbers(ids: Sequence[Any], count: int, column: str, path: Path) -> Ints:
    """Check ids that name rows of an array of vectors."""
    for line, number in enumerate(ids, 1):
        if not isinstance(number, int) or not 0 <= number < count:
            raise DataError(
                f"{path}, row {line}: {column} must be a row number from 0 to {count - 1}, "
                f"got {number!r}"
            )
    return np.asarray(ids, dtype=np.int64)


def _unique(texts: Sequence[str] | None, vectors: Any) -> tuple[Ints, Ints]:
    """Return the first row of each different text (or vector), and which of them each row is."""
    keys: Sequence[Any] = texts if texts is not None else [x.tobytes() for x in np.asarray(vectors)]
    place: dict[Any, int] = {}
    of_row = np.array([place.setdefault(key, len(place)) for key in keys], dtype=np.int64)
    first = np.full(len(place), -1)
    first[of_row[::-1]] = np.arange(len(of_row))[::-1]
    return first, of_row
