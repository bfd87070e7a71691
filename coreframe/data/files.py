"""Rows of a user's file: what the columns are, and every cell checked by what it is.

Everything is checked here, at the boundary; a DataError names the file and the line or row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.data import cells
from coreframe.data.columns import NAMES, column_roles
from coreframe.data.opening import open_table
from coreframe.data.tables import Table
from coreframe.data.vectors import read_column
from coreframe.errors import DataError

__all__ = ["NAMES", "Rows", "column_roles", "read_rows", "rows_of"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """The columns of a file that were found, one entry a row; None is a column that is not there.

    Attributes:
        name: of the file.
        format: in words.
        count: rows.
        places: where each row stands, as "line 3" or "row 2 (from 0)".
        mapping: role -> name of the column, to be shown to the user.
        unused: columns that have no role.
        anchors: texts.
        positives, negatives: the texts of each row, one or several; negatives may be none.
        anchor_ids: row numbers from 0, or ids.
        positive_ids, negative_ids: those of each row, one or several.
        prompts: what stands before the anchor where it is embedded.
        texts: texts with a class, where there are no pairs.
        group: rows of one group belong on one side of a split.
        times: seconds, for a split by time.
        splits: train, dev or test.
        weights: how much each right document of a row counts, >= 0: its quality.
        difficulty: a number for each row, low is easy.
        labels: a score or class of each row, numbers or texts.
        vectors: role (anchor, positive, negative_1, text, ...) -> the row's own vectors (n, d).
    """

    name: str
    format: str
    count: int
    places: Places
    mapping: dict[str, str]
    unused: tuple[str, ...] = ()
    anchors: list[str] | None = None
    positives: list[tuple[str, ...]] | None = None
    negatives: list[tuple[str, ...]] | None = None
    anchor_ids: list[int | str] | None = None
    positive_ids: list[tuple[int | str, ...]] | None = None
    negative_ids: list[tuple[int | str, ...]] | None = None
    prompts: list[str] | None = None
    texts: list[str] | None = None
    group: list[str] | None = None
    times: list[float] | None = None
    splits: list[str] | None = None
    weights: list[tuple[float, ...]] | None = None
    difficulty: list[float] | None = None
    labels: list[float] | list[str] | None = None
    vectors: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """Where rows stand in their file, or in the parts (rows, name) of their data."""

    numbers: NDArray[np.int64]
    unit: str
    parts: tuple[tuple[int, str], ...] = ()

    def __getitem__(self, row: int) -> str:
        number = int(self.numbers[row])
        where = f"line {number}" if self.unit == "line" else f"row {number} (from 0)"
        for count, name in self.parts:
            if row < count:
                return f"{name}, {where}"
            row -= count
        return where


_FIELDS = {
    "anchor": "anchors",
    "positive": "positives",
    "anchor_id": "anchor_ids",
    "positive_id": "positive_ids",
    "negative_id": "negative_ids",
    "prompt": "prompts",
    "text": "texts",
    "group": "group",
    "time": "times",
    "split": "splits",
    "weight": "weights",
    "difficulty": "difficulty",
    "label": "labels",
}
_NEGATIVE = re.compile(r"negative(_\d+)?")
_ONE_TYPE = ("anchor_id", "label")


def read_rows(source: Any, *, columns: Mapping[str, str] | None = None) -> Rows:
    """Read rows of a file, of a folder that ``datasets`` or Lance wrote, or of an object.

    JSON lines (.jsonl, .ndjson, .json), CSV and TSV, Parquet, Arrow; objects are a data set of
    Hugging Face, a data frame, a table of Arrow, a mapping of columns or a list of rows.
    ``columns`` names columns by role (see ``columns.NAMES``); others are known by their names
    or by their order (``column_roles``).
    """
    return rows_of(open_table(source), columns=columns)


def rows_of(table: Table, *, columns: Mapping[str, str] | None = None) -> Rows:
    """Read the columns of an open table that have a role, and check every cell."""
    roles = column_roles(table.columns, columns, source=table.name)
    vectors = {role: column for role, column in roles.items() if role.endswith("_vector")}
    wanted = {role: column for role, column in roles.items() if role not in vectors}
    numbers: list[Any] = []
    found: dict[str, list[Any]] = {role: [] for role in wanted}
    for chunk in table.chunks(list(wanted.values()) or list(vectors.values())):
        numbers.extend(chunk.places)
        for role, column in wanted.items():
            _check(table, role, column, chunk.values(column), chunk.places, numbers[0], found[role])
    if not numbers:
        raise DataError(f"{table.name} is empty: it has no rows")
    places = Places(np.asarray(numbers, np.int64), table.unit)
    _fit(table, found, roles, places)
    if isinstance(next(iter(found.get("label", ())), None), tuple):
        _sort_out(table, found, roles, places)
    negatives = [found[role] for role in found if _NEGATIVE.fullmatch(role)]
    values = {_FIELDS[role]: column for role, column in found.items() if role in _FIELDS}
    if negatives:
        values["negatives"] = [
            tuple(dict.fromkeys(text for cell in row for text in cell))
            for row in zip(*negatives, strict=True)
        ]
    if "labels" in values:
        values["labels"] = _labels(values["labels"])
    return Rows(
        name=table.name,
        format=table.format,
        count=len(numbers),
        places=places,
        mapping=roles,
        unused=tuple(c for c in table.columns if c not in roles.values()),
        vectors={
            role.removesuffix("_vector"): read_column(table, column)
            for role, column in vectors.items()
        },
        **values,
    )


def _check(
    table: Table,
    role: str,
    column: str,
    values: list[Any],
    places: Any,
    first: int,
    checked: list[Any],
) -> None:
    """Check the cells of a column and append them."""
    known = "negative" if _NEGATIVE.fullmatch(role) else role
    check = cells.CHECKS[known]
    for place, value in zip(places, values, strict=True):
        try:
            if table.textual:
                value = cells.from_text(known, value)
            checked.append(check(value))
        except ValueError as error:
            raise DataError(f"{table.name}, {table.place(place)}: {column!r} {error}") from None
        if role in _ONE_TYPE and type(checked[-1]) is not type(checked[0]):
            raise DataError(
                f"{table.name}, {table.place(place)}: {column!r} must be of one type, "
                f"got {cells.kind(checked[-1])} here and {cells.kind(checked[0])} in "
                f"{table.place(first)}"
            )


def _fit(table: Table, found: Mapping[str, list[Any]], roles: Any, places: Places) -> None:
    """Check that lists of one row belong together."""
    for role, of in (
        ("weight", "positive"), ("positive_score", "positive"), ("negative_score", "negative"),
    ):  # fmt: skip
        owners = found.get(of) or found.get(f"{of}_id")
        if role not in found or owners is None:
            continue
        for row, (numbers, texts) in enumerate(zip(found[role], owners, strict=True)):
            single = role == "weight" and len(numbers) == 1
            if numbers and len(numbers) != len(texts) and not single:
                raise DataError(
                    f"{table.name}, {places[row]}: {roles[role]!r} has {len(numbers)} numbers for "
                    f"{len(texts)} texts of {roles.get(of) or roles[f'{of}_id']!r}"
                )


def _sort_out(
    table: Table, found: dict[str, list[Any]], roles: dict[str, str], places: Places
) -> None:
    """Tell right from wrong in lists of documents with a list of labels beside them.

    Scores of rows that have their negatives already say nothing new, and are left unused.
    """
    column, labels = roles.pop("label"), found.pop("label")
    if any(_NEGATIVE.fullmatch(role) or role == "negative_id" for role in found):
        return
    side = "positive" if "positive" in found else "positive_id"
    other = side.replace("positive", "negative")
    roles[other] = column
    found[other] = []
    for row, (documents, marks) in enumerate(zip(found[side], labels, strict=True)):
        where = f"{table.name}, {places[row]}: {column!r}"
        if len(marks) != len(documents):
            raise DataError(f"{where} has {len(marks)} labels for {len(documents)} documents")
        if not set(marks) <= {0.0, 1.0} or 1.0 not in marks:
            raise DataError(
                f"{where} must hold 1 for right documents, of which there is at least one, and 0 "
                f"for wrong ones, got {list(marks)}"
            )
        both = list(zip(documents, marks, strict=True))
        found[side][row] = tuple(text for text, mark in both if mark)
        found[other].append(tuple(text for text, mark in both if not mark))


def _labels(labels: list[Any]) -> list[Any]:
    """Return labels that are all texts of numbers as numbers."""
    if isinstance(labels[0], str):
        try:
            return [cells.number(float(label)) for label in labels]
        except ValueError:
            return labels
    return labels
