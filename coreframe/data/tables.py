"""Tables: columns of a file or an object, read in chunks, so that no file is in memory whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coreframe.errors import DataError

CHUNK = 4096
"""Rows that are read at a time."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some rows of a table: where they stand, and their cells by column.

    Cells are a list, or an array of Arrow that becomes one by ``values``.
    """

    places: Sequence[int]
    cells: Mapping[str, Any]

    def values(self, column: str) -> list[Any]:
        cells = self.cells[column]
        return cells if isinstance(cells, list) else list(cells.to_pylist())


@dataclass(frozen=True, kw_only=True)
class Table:
    """A source of rows.

    Attributes:
        name: of the file, for messages.
        format: in words, for people.
        columns: their names, in order.
        chunks: given names of columns, yields them chunk by chunk; may be called again.
        unit: what places count: lines of a text file from 1, or rows from 0.
        textual: whether every cell is a text, as in CSV.
    """

    name: str
    format: str
    columns: tuple[str, ...]
    chunks: Callable[[Sequence[str]], Iterator[Chunk]]
    unit: str = "row"
    textual: bool = False

    def place(self, number: int) -> str:
        return f"line {number}" if self.unit == "line" else f"row {number} (from 0)"


def cannot_read(path: object, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read: {error.strerror or error}")


def chunked(rows: Iterator[tuple[int, Sequence[Any]]], columns: Sequence[str]) -> Iterator[Chunk]:
    """Yield rows (place, cells in the order of columns) as chunks."""
    places: list[int] = []
    cells: list[list[Any]] = [[] for _ in columns]
    for place, values in rows:
        places.append(place)
        for column, value in zip(cells, values, strict=True):
            column.append(value)
        if len(places) == CHUNK:
            yield Chunk(places=places, cells=dict(zip(columns, cells, strict=True)))
            places, cells = [], [[] for _ in columns]
    if places:
        yield Chunk(places=places, cells=dict(zip(columns, cells, strict=True)))


def unique_columns(names: Sequence[str], path: str) -> tuple[str, ...]:
    if repeated := [n for i, n in enumerate(names) if n in names[:i]]:
        raise DataError(f"{path} has two columns {repeated[0]!r}")
    return tuple(names)
