"""Rows of JSON: lines of objects, or one array of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

from coreframe.data.cells import kind
from coreframe.data.tables import Chunk, Table, chunked, unique_columns
from coreframe.errors import DataError


def table(path: str) -> Table:
    """Open JSON lines (.jsonl, .ndjson), or .json of lines or of one array of objects."""
    if path.lower().endswith(".json") and (array := _array(path)) is not None:
        rows = functools.partial(_array_rows, path, array)
        return _table(path, "JSON array", rows, "row")
    return _table(path, "JSON lines", functools.partial(lines, path), "line")


def _table(path: str, format: str, records: Any, unit: str) -> Table:
    first = next(records(), None)
    if first is None:
        raise DataError(f"{path} is empty: it has no rows")
    start, head = first
    names = unique_columns(list(head), path)
    where = f"line {start}" if unit == "line" else f"row {start} (from 0)"

    def rows(columns: Sequence[str]) -> Iterator[tuple[int, Sequence[Any]]]:
        keys = head.keys()
        for number, record in records():
            if record.keys() != keys:
                told = {"without": keys - record.keys(), "with": record.keys() - keys}
                parts = [f"{w} {', '.join(map(repr, sorted(k)))}" for w, k in told.items() if k]
                here = f"line {number}" if unit == "line" else f"row {number} (from 0)"
                raise DataError(
                    f"{path}, {here}: other columns than in {where}: " + ", ".join(parts)
                )
            yield number, [record[column] for column in columns]

    def chunks(columns: Sequence[str]) -> Iterator[Chunk]:
        return chunked(rows(columns), columns)

    return Table(name=path, format=format, columns=names, chunks=chunks, unit=unit)


def lines(path: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file with their line numbers; blank lines are skipped."""
    with open(path, "rb") as file:
        for number, raw in enumerate(file, 1):
            where = f"{path}, line {number}"
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                record = json.loads(line) if line else None
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{where}: not UTF-8 text (byte {error.start + 1}); save the file as UTF-8"
                ) from error
            except json.JSONDecodeError as error:
                raise DataError(
                    f"{where}: not valid JSON: {error.msg} (column {error.colno}); "
                    "each line must be one object"
                ) from error
            except (ValueError, RecursionError) as error:
                raise DataError(f"{where}: not valid JSON: {error}") from error
            if line:
                yield number, _object(record, where)


def _object(record: Any, where: str) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise DataError(
            f"{where}: must be an object such as "
            f'{{"anchor": "...", "positive": "..."}}, got {kind(record)}'
        )
    return record


def document(path: str) -> Any:
    """Return the one value that a .json file holds, or None if it holds several lines of them."""
    with open(path, "rb") as file:
        raw = file.read()
    try:
        return json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 text (byte {error.start + 1}); save the file as UTF-8"
        ) from error
    except RecursionError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    except ValueError:
        return None  # lines, or broken: the reader of lines says where


def _array(path: str) -> list[Any] | None:
    with open(path, "rb") as file:
        head = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head.startswith(b"["):
        return None
    found = document(path)
    return found if isinstance(found, list) else None


def _array_rows(path: str, array: list[Any]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, record in enumerate(array):
        yield number, _object(record, f"{path}, row {number} (from 0)")
