"""What is in a file or folder: its format, what each column is taken for, vectors, problems."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from coreframe.data import array_files
from coreframe.data.columns import column_roles
from coreframe.data.files import Rows, rows_of
from coreframe.data.found import as_vectors
from coreframe.data.opening import open_table
from coreframe.data.retrieval_sets import (
    RetrievalSet,
    is_beir,
    llama_index_of,
    read_beir,
    read_llama_index,
)
from coreframe.data.seeing import repeated_rows
from coreframe.data.split_folders import parts_of
from coreframe.data.tables import Table
from coreframe.data.vectors import IDS, Facts, Vectors, open_vectors, vector_column
from coreframe.errors import DataError, MissingExtra

SHOWN = 60
"""Characters of a cell that are shown."""


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what is seen in a file or folder, in a form that JSON can hold.

    Always ``path``, ``format``, ``holds`` (pairs, classes, ids, vectors, labels, a retrieval set,
    parts, or nothing that is known) and ``problems``: why it would be refused, empty if it is
    sound. Besides, what belongs to the kind: ``rows``, ``columns``, ``vectors``, ``counts``.
    """
    name = os.fspath(path)
    found: dict[str, Any] = {"path": name, "format": "unknown", "holds": "nothing", "problems": []}
    try:
        found |= _described(name)
    except (DataError, MissingExtra) as error:
        found["problems"] = [str(error)]
    return found


def _described(path: str) -> dict[str, Any]:
    if not os.path.exists(path):
        raise DataError(f"{path} cannot be read: No such file or directory")
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".npy":
        return _npy(path)
    if suffix in (".npz", ".safetensors"):
        return {"format": suffix[1:], **_vectors(path)}
    if is_beir(path):
        return _retrieval(read_beir(path))
    content = llama_index_of(path)
    if content is not None:
        return _retrieval(read_llama_index(path, content))
    parts = parts_of(path)
    if parts is not None:
        inside = {name: describe(part) for name, part in parts.items()}
        problems = [problem for part in inside.values() for problem in part["problems"]]
        return {
            "format": "folder in parts",
            "holds": "parts",
            "parts": inside,
            "problems": problems,
        }
    return _table(open_table(path))


# Rows -------------------------------------------------------------------------------------------


def _table(table: Table) -> dict[str, Any]:
    try:
        roles = column_roles(table.columns, source=table.name)
    except DataError as error:
        try:
            vector_column(table)
        except DataError:
            columns = _columns(table, {})
            problems = [str(error)]
            return {
                "format": table.format, "holds": "rows", "columns": columns, "problems": problems,
            }  # fmt: skip
        return {
            "format": table.format, "columns": _columns(table, _vector_roles(table)),
            **_vectors(table.name),
        }  # fmt: skip
    described: dict[str, Any] = {
        "format": table.format,
        "holds": _holds(roles),
        "columns": _columns(table, {column: role for role, column in roles.items()}),
    }
    try:
        rows = rows_of(table)
    except DataError as error:
        return described | {"problems": [str(error)]}
    described["rows"] = rows.count
    described["counts"] = _counts(rows)
    described["vectors"] = []
    for role, x in rows.vectors.items():
        try:
            seen = as_vectors(x, table.name)
        except DataError as error:
            return described | {"problems": [str(error)]}
        column = rows.mapping[f"{role}_vector"]
        described["vectors"].append({"name": column, **_facts(seen)})
    return described


def _holds(roles: dict[str, str]) -> str:
    if "text" in roles or "text_vector" in roles:
        return "classes"
    ids = "anchor_id" in roles and "anchor" not in roles
    return "pairs of ids" if ids else "pairs"


def _vector_roles(table: Table) -> dict[str, str]:
    roles = {vector_column(table): "vector"}
    id_column = next((name for name in IDS if name in table.columns), None)
    return roles if id_column is None else roles | {id_column: "id"}


def _columns(table: Table, role_of: dict[str, str]) -> list[dict[str, str | None]]:
    """Return name, role and first cell of each column."""
    first = next(table.chunks(table.columns), None)
    found = []
    for column in table.columns:
        example = _shown(first.values(column)[0]) if first is not None else None
        found.append({"name": column, "role": role_of.get(column), "example": example})
    return found


def _shown(value: Any) -> str:
    if hasattr(value, "__len__") and not isinstance(value, str) and len(value) > 4:
        return f"{len(value)} entries, the first {value[0]!r}"[:SHOWN]
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _counts(rows: Rows) -> dict[str, int]:
    """Return how many different things there are."""
    counts: dict[str, int] = {}
    if rows.anchors is not None:
        counts["queries"] = len(set(rows.anchors))
    if rows.positives is not None:
        documents = {text for texts in rows.positives for text in texts}
        counts["documents"] = len(documents)
        if rows.anchors is not None:
            pairs = [(a, p) for a, ps in zip(rows.anchors, rows.positives, strict=True) for p in ps]
            counts["pairs"] = len(set(pairs))
            counts["repeated pairs"] = len(pairs) - len(set(pairs))
            counts["queries that are documents too"] = len(set(rows.anchors) & documents)
    if rows.negatives is not None:
        counts["negatives"] = sum(map(len, rows.negatives))
    if rows.group is not None:
        counts["groups"] = len(set(rows.group))
    if rows.splits is not None:
        counts |= {f"{part} rows": rows.splits.count(part) for part in dict.fromkeys(rows.splits)}
    if rows.texts is not None:
        counts["different texts"] = len(set(rows.texts))
    if rows.labels is not None:
        counts["different labels"] = len(set(rows.labels))
    return counts


# Vectors ----------------------------------------------------------------------------------------


def _npy(path: str) -> dict[str, Any]:
    x = array_files.open_npy(path)
    if x.ndim == 2 and not (x.dtype.kind in "iu" and x.dtype.itemsize > 1):
        return {"format": "npy", **_vectors(path)}
    shape = " x ".join(map(str, x.shape))
    found = {"format": "npy", "rows": len(x) if x.ndim else 0, "array": f"{shape} {x.dtype}"}
    if x.ndim == 1 and x.dtype.kind in "iuU":
        return found | {
            "holds": "labels or ids",
            "counts": {"different labels": len(np.unique(np.asarray(x)))},
        }
    if x.ndim == 2 and x.shape[1] == 2:
        return found | {"holds": "pairs of row numbers"}
    raise DataError(
        f"{path} holds neither vectors (rows, width) nor labels (rows,), but {x.dtype} {x.shape}"
    )


def _vectors(path: str) -> dict[str, Any]:
    try:
        found = open_vectors(path)
    except DataError as error:
        return {"holds": "vectors", "vectors": [], "problems": [str(error)]}
    return {
        "holds": "vectors",
        "rows": len(found),
        "vectors": [{"name": "vectors", **_facts(found)}],
    }


def _facts(x: Vectors) -> dict[str, Any]:
    facts: Facts = x.facts
    return {
        "rows": facts.rows,
        "width": facts.width,
        "dtype": x.stored,
        "normalised": facts.normalised,
        "norms": [facts.low, facts.mean, facts.high],
        "zero_rows": facts.zero_rows,
        "repeated_rows": repeated_rows(x.array),
        "ids": x.ids_from or None,
    }


def _retrieval(data: RetrievalSet) -> dict[str, Any]:
    judged = {part or "all": len(found) for part, found in data.judgements.items()}
    return {
        "format": data.format,
        "holds": "a retrieval set",
        "rows": sum(judged.values()),
        "counts": {
            "queries": len(data.queries),
            "documents": len(data.corpus),
            **{f"{part} judgements": count for part, count in judged.items()},
            "documents of equal text": len(data.corpus) - len(set(data.corpus.values())),
        },
    }
