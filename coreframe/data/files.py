"""Read a user's files: rows of texts or ids from JSONL and Parquet, vectors and labels from .npy.

Everything is checked here, at the boundary; a DataError names the file and the line or row.
"""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coreframe.errors import ArgumentError, DataError, MissingExtra, nearest

Path: TypeAlias = str | os.PathLike[str]

NAMES: dict[str, tuple[str, ...]] = {
    "anchor": ("anchor", "query", "input"),
    "positive": ("positive", "answer", "document", "pos", "output"),
    "negative": ("negative", "neg"),
    "anchor_id": ("anchor_id",),
    "positive_id": ("positive_id",),
    "group": ("group",),
    "weight": ("weight", "quality"),
    "difficulty": ("difficulty",),
    "label": ("label", "labels", "score", "scores"),
}
"""What a column may be for, and the names by which it is known."""

_BLOCK = 1 << 22  # numbers that are checked at a time: bounds the memory


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The columns of a file that were found, one entry a row; None is a column that is not there.

    Attributes:
        count: rows.
        mapping: role -> name of the column, to be shown to the user.
        anchors, positives, negatives: texts.
        anchor_ids, positive_ids: row numbers from 0, or ids.
        group: rows of one group belong on one side of a split.
        weights: how much each pair counts, >= 0: its quality.
        difficulty: a number for each pair, low is easy.
        labels: a label or score of each pair, numbers or texts.
    """

    count: int
    mapping: dict[str, str]
    anchors: list[str] | None = None
    positives: list[str] | None = None
    negatives: list[str] | None = None
    anchor_ids: list[int] | list[str] | None = None
    positive_ids: list[int] | list[str] | None = None
    group: list[str] | None = None
    weights: list[float] | None = None
    difficulty: list[float] | None = None
    labels: list[float] | list[str] | None = None


_FIELDS = {
    "anchor": "anchors",
    "positive": "positives",
    "negative": "negatives",
    "anchor_id": "anchor_ids",
    "positive_id": "positive_ids",
    "group": "group",
    "weight": "weights",
    "difficulty": "difficulty",
    "label": "labels",
}


def read_rows(path: Path, *, columns: Mapping[str, str] | None = None) -> Rows:
    """Read pairs or triplets from JSON lines (.jsonl, .ndjson, .json) or Parquet.

    ``columns`` names columns by role (anchor, positive, negative, anchor_id, positive_id, group,
    weight, difficulty, label); other columns are known by NAMES. Where neither side of the pairs
    has a known name, the order decides, as in Hugging Face data sets: first anchor, second
    positive, third negative.
    """
    name = os.fspath(path)
    readers = {".jsonl": _json, ".ndjson": _json, ".json": _json, ".parquet": _parquet}
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in readers:
        raise DataError(f"{name}: rows are read from {', '.join(readers)} files, not {suffix!r}")
    try:
        return readers[suffix](name, columns or {})
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error.strerror or error}") from error


def column_roles(
    names: Iterable[str], columns: Mapping[str, str] | None = None, *, source: str = "the data"
) -> dict[str, str]:
    """Return role -> column for the columns of a file, in their order; see ``read_rows``."""
    names = list(names)
    found: dict[str, str] = {}
    for role, column in (columns or {}).items():
        if role not in NAMES:
            raise ArgumentError(f"columns has no role {role!r}.{nearest(role, NAMES)}")
        if column not in names:
            raise DataError(
                f"{source} has no column {column!r} for the {role}. {_there(names, [column])}"
            )
        if column in found.values():
            raise DataError(f"{source}: column {column!r} is given two roles")
        found[role] = column
    for role, known in NAMES.items():
        free = [name for name in known if name in names and name not in found.values()]
        if role not in found and free:
            found[role] = free[0]
    rest = [n for n in names if n not in found.values() and n not in NAMES["label"]]
    missing = [s for s in ("anchor", "positive") if s not in found and f"{s}_id" not in found]
    if len(missing) == 2 and len(rest) >= 2:
        order = [role for role in ("anchor", "positive", "negative") if role not in found]
        found |= dict(zip(order, rest, strict=False))
    elif len(missing) == 1 and len(rest) == 1:
        found[missing[0]] = rest[0]
    elif missing:
        side = missing[-1]
        raise DataError(
            f"{source} has no column for the {side}: expected "
            f"{' or '.join(map(repr, NAMES[side]))}. {_there(names, NAMES[side])}"
        )
    return {role: found[role] for role in NAMES if role in found}


def _there(names: list[str], wanted: Iterable[str]) -> str:
    """Say which columns there are, and which of them is nearest to a wanted one."""
    close = [c for w in wanted for c in difflib.get_close_matches(w, names, n=1)]
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Its columns: {', '.join(map(repr, names)) or 'none'}.{hint}"


# JSON lines -----------------------------------------------------------------------------------


def _json(path: str, columns: Mapping[str, str]) -> Rows:
    cells: dict[str, list[Any]] = {}
    roles: dict[str, str] = {}
    numbers: list[int] = []
    keys: set[str] = set()
    for number, record in _records(path):
        if not numbers:
            roles, keys = column_roles(record, columns, source=path), set(record)
            cells = {role: [] for role in roles}
        elif record.keys() != keys:
            told = {"without": keys - record.keys(), "with": record.keys() - keys}
            parts = [f"{word} {', '.join(map(repr, sorted(k)))}" for word, k in told.items() if k]
            raise DataError(
                f"{path}, line {number}: other columns than in line {numbers[0]}: "
                + ", ".join(parts)
            )
        numbers.append(number)
        for role, column in roles.items():
            cells[role].append(record[column])
    if not numbers:
        raise DataError(f"{path} is empty: it has no rows")
    return _rows(path, roles, cells, [f"line {number}" for number in numbers])


def _records(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file with their line numbers; blank lines are skipped."""
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            where = f"{path}, line {number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                record = json.loads(line) if line else None
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: not UTF-8 text (byte {error.start + 1})") from error
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{where}: not valid JSON: {error.msg} (column {error.colno}); "
                    "each line must be one object"
                ) from error
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not valid JSON: {error}") from error
            if not line:
                continue
            if not isinstance(record, dict):
                raise DataError(
                    f"{where}: must be an object such as "
                    f'{{"anchor": "...", "positive": "..."}}, got {_kind(record)}'
                )
            yield number, record


# Parquet --------------------------------------------------------------------------------------


def _parquet(path: str, columns: Mapping[str, str]) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "parquet", "reading Parquet") from None
    try:
        with open(path, "rb") as source, pyarrow.parquet.ParquetFile(source) as file:
            names = file.schema_arrow.names
            if repeated := [n for i, n in enumerate(names) if n in names[:i]]:
                raise DataError(f"{path} has two columns {repeated[0]!r}")
            roles = column_roles(names, columns, source=path)
            table = file.read(columns=list(roles.values()))
            cells = {role: table.column(column).to_pylist() for role, column in roles.items()}
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error
    if not table.num_rows:
        raise DataError(f"{path} is empty: it has no rows")
    return _rows(path, roles, cells, [f"row {i} (from 0)" for i in range(table.num_rows)])


# Cells ----------------------------------------------------------------------------------------


def _rows(
    path: str, roles: dict[str, str], cells: Mapping[str, list[Any]], places: list[str]
) -> Rows:
    """Check every cell by its role."""
    found: dict[str, Any] = {}
    for role, values in cells.items():
        check: Callable[[Any], Any] = _CHECKS.get(role, _text)
        checked: list[Any] = []
        for place, value in zip(places, values, strict=True):
            try:
                checked.append(check(value))
            except ValueError as error:
                raise DataError(f"{path}, {place}: {roles[role]!r} {error}") from None
            if type(checked[-1]) is not type(checked[0]):
                raise DataError(
                    f"{path}, {place}: {roles[role]!r} must be of one type, "
                    f"got {_kind(checked[-1])} here and {_kind(checked[0])} in {places[0]}"
                )
        found[_FIELDS[role]] = checked
    return Rows(count=len(places), mapping=roles, **found)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        more = "; write one row a pair" if isinstance(value, list) else ""
        raise ValueError(f"must be a text, got {_kind(value)}{more}")
    if not value.strip():
        raise ValueError("is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("has half a character (a lone surrogate)") from None
    return value


def _id(value: Any) -> int | str:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise ValueError(f"must be a row number from 0 or an id, got {value}")
        return value
    if not isinstance(value, str):
        raise ValueError(f"must be a row number or an id, got {_kind(value)}")
    return _text(value)


def _group(value: Any) -> str:
    return str(value) if type(value) is int else _text(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"must be a number, got {_kind(value)}")
    if not abs(value) <= sys.float_info.max:
        raise ValueError(f"must be finite, got {value}")
    return float(value)


def _weight(value: Any) -> float:
    if value is None:  # not said: it counts in full; 0 is 0
        return 1.0
    number = _number(value)
    if number < 0:
        raise ValueError(f"must not be negative, got {value}")
    return number


def _label(value: Any) -> float | str:
    if isinstance(value, (int, float)):
        return _number(float(value))
    if not isinstance(value, str):
        raise ValueError(f"must be a number or a text, got {_kind(value)}")
    return _text(value)


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "anchor_id": _id,
    "positive_id": _id,
    "group": _group,
    "weight": _weight,
    "difficulty": _number,
    "label": _label,
}


def _kind(value: Any) -> str:
    """Say what a cell holds."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"the number {value}"
    kinds: dict[type, str] = {str: "a text", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")


# Arrays ---------------------------------------------------------------------------------------


def read_vectors(path: Path) -> NDArray[Any]:
    """Open a matrix (rows, width) of floating-point numbers; it stays on disk until it is used."""
    name = os.fspath(path)
    x = _open(name)
    if x.ndim != 2:
        raise DataError(f"{name} must hold a matrix (rows, width), got shape {x.shape}")
    if x.dtype.kind != "f" or x.dtype.itemsize > 8:
        raise DataError(
            f"{name} must hold float16, float32 or float64, got {x.dtype}; convert it first: "
            f"np.save({name!r}, x.astype(np.float32))"
        )
    if not x.dtype.isnative:
        raise DataError(
            f"{name} is stored in the byte order of another machine ({x.dtype.str}); convert it "
            f"first: np.save({name!r}, x.astype(np.{x.dtype.name}))"
        )
    if x.size == 0:
        raise DataError(f"{name} is empty: its shape is {x.shape}")
    height = max(1, _BLOCK // x.shape[1])
    for start in range(0, len(x), height):
        good = np.isfinite(x[start : start + height]).all(axis=1)
        if not good.all():
            row = start + int(np.argmin(good))
            raise DataError(
                f"{name}, row {row} (from 0): has NaN or infinity; "
                "drop such rows or replace the values"
            )
    return x


def read_labels(path: Path, count: int) -> NDArray[Any]:
    """Read one label a row, integers or texts, for ``count`` rows."""
    name = os.fspath(path)
    y = np.array(_open(name))
    if y.ndim != 1:
        raise DataError(f"{name} must hold one label a row, ({count},), got shape {y.shape}")
    if y.dtype.kind not in "iuU":
        raise DataError(
            f"{name} must hold integers or texts, got {y.dtype}; convert it first: "
            f"np.save({name!r}, y.astype(np.int64))"
        )
    if len(y) != count:
        raise DataError(f"{name} has {len(y)} labels for {count} rows")
    return y


def _open(path: str) -> NDArray[Any]:
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise DataError(
            f"{path} is not a readable .npy file of numbers or texts: {error}"
        ) from error
