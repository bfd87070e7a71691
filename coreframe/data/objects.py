"""Rows of objects in memory, known by what they can do: data sets of Hugging Face, data frames of
pandas and polars, tables of Arrow, mappings of columns, and lists of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from coreframe.data.tables import CHUNK, Chunk, Table, unique_columns
from coreframe.errors import ArgumentTypeError, DataError


def table(source: Any) -> Table:
    """Return an object that has columns as a table; its values are not copied whole."""
    name = f"the {type(source).__name__}"
    if isinstance(source, Sequence) and not isinstance(source, str | bytes):
        return _rows(source)
    names, take = _columns(source, name)
    columns = unique_columns(names, name)
    count = _length(source, columns)
    if not count:
        raise DataError(f"{name} is empty: it has no rows")

    def chunks(wanted: Sequence[str]) -> Iterator[Chunk]:
        for start in range(0, count, CHUNK):
            stop = min(start + CHUNK, count)
            yield Chunk(
                places=range(start, stop),
                cells={column: take(column, start, stop) for column in wanted},
            )

    return Table(name=name, format=type(source).__name__, columns=columns, chunks=chunks)


def _columns(source: Any, name: str) -> tuple[list[str], Any]:
    if hasattr(source, "column_names") and hasattr(source, "with_format"):  # datasets.Dataset
        plain = source.with_format(None)
        return list(source.column_names), lambda c, i, j: _plain(plain[i:j][c])
    if hasattr(source, "column_names") and hasattr(source, "slice"):  # pyarrow.Table
        return (
            list(source.column_names),
            lambda c, i, j: source.slice(i, j - i).column(c).combine_chunks(),
        )
    if isinstance(source, Mapping):
        return list(source), lambda c, i, j: _plain(source[c][i:j])
    if hasattr(source, "columns") and hasattr(source, "iloc"):  # pandas
        return list(source.columns), lambda c, i, j: _plain(source[c].iloc[i:j])
    if hasattr(source, "columns") and hasattr(source, "get_column"):  # polars
        return list(source.columns), lambda c, i, j: _plain(source.get_column(c)[i:j])
    raise ArgumentTypeError(
        f"{name} is no data: give a path, a datasets.Dataset or DatasetDict, a data frame, a table "
        "of Arrow, a mapping of columns, or a list of rows"
    )


def _length(source: Any, columns: Sequence[str]) -> int:
    if not isinstance(source, Mapping):
        return len(source)
    sizes = {column: len(source[column]) for column in columns}
    if len(set(sizes.values())) > 1:
        raise DataError(
            "columns of different lengths: " + ", ".join(f"{c} {n}" for c, n in sizes.items())
        )
    return next(iter(sizes.values()), 0)


def _plain(values: Any) -> list[Any]:
    """Return values as a list of Python's own; what is not a number (pandas' empty) is None."""
    found = values.tolist() if hasattr(values, "tolist") else list(values)
    return (
        [None if value != value else _own(value) for value in found]
        if _simple(found)
        else [_own(value) for value in found]
    )


def _simple(values: list[Any]) -> bool:
    return all(not hasattr(value, "__len__") or isinstance(value, str) for value in values)


def _own(value: Any) -> Any:
    """Turn NumPy's numbers and pandas' times into Python's."""
    if hasattr(value, "to_pydatetime"):
        return value.to_pydatetime()
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def _rows(source: Sequence[Any]) -> Table:
    if not source:
        raise DataError("the list of rows is empty")
    if not all(isinstance(row, Mapping) for row in source):
        raise ArgumentTypeError("a list of data holds rows, each a mapping of column to value")
    keys = source[0].keys()

    def chunks(wanted: Sequence[str]) -> Iterator[Chunk]:
        for start in range(0, len(source), CHUNK):
            part = source[start : start + CHUNK]
            for number, row in enumerate(part, start):
                if row.keys() != keys:
                    raise DataError(f"the rows: row {number} (from 0) has other columns than row 0")
            cells = {column: [_own(row[column]) for row in part] for column in wanted}
            yield Chunk(places=range(start, start + len(part)), cells=cells)

    return Table(name="the rows", format="list of rows", columns=tuple(keys), chunks=chunks)
