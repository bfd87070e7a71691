"""Rows of CSV and TSV, with a header; and vectors as PostgreSQL's copy writes them, without."""

from __future__ import annotations

import csv
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from coreframe.data.tables import Chunk, Table, chunked, unique_columns
from coreframe.errors import DataError

_LONGEST = 1 << 30  # characters of a cell: the csv module's 131,072 are few for a document
_limit = threading.Lock()  # that number is the process's, so it is held for one record at a time


def table(path: str) -> Table:
    """Open a CSV file: comma, semicolon or tab, as the header has them; .tsv has tabs."""
    delimiter = "\t" if path.lower().endswith(".tsv") else _delimiter(path)
    first = next(_records(path, delimiter), None)
    if first is None:
        raise DataError(f"{path} is empty: it has no rows")
    start, head = first
    has_header = not any(looks_like_vector(cell) for cell in head)
    if has_header:
        names = [name.strip() for name in head]
        if "" in names:
            raise DataError(f"{path}, line {start}: column {names.index('') + 1} has no name")
    else:
        names = _names_of_copy(head, path)

    def rows(columns: Sequence[str]) -> Iterator[tuple[int, Sequence[Any]]]:
        places = [names.index(column) for column in columns]
        records = _records(path, delimiter)
        if has_header:
            next(records)
        for number, cells in records:
            if len(cells) != len(names):
                raise DataError(
                    f"{path}, line {number}: has {len(cells)} cells for {len(names)} columns; "
                    f"a cell with a {_NAMES[delimiter]} in it needs quotes"
                )
            yield number, [cells[place] for place in places]

    def chunks(columns: Sequence[str]) -> Iterator[Chunk]:
        return chunked(rows(columns), columns)

    format = {",": "CSV", ";": "CSV with semicolons", "\t": "TSV"}[delimiter]
    return Table(
        name=path,
        format=format if has_header else f"{format} without a header",
        columns=unique_columns(names, path),
        chunks=chunks,
        unit="line",
        textual=True,
    )


_NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}


def looks_like_vector(cell: Any) -> bool:
    """Say whether a cell is a vector as pgvector writes it, ``[0.1,0.2]``."""
    if not (isinstance(cell, str) and cell.startswith("[") and cell.endswith("]")):
        return False
    try:
        float(cell[1:-1].partition(",")[0])
    except ValueError:
        return False
    return True


def _names_of_copy(head: list[str], path: str) -> list[str]:
    places = [i for i, cell in enumerate(head) if looks_like_vector(cell)]
    if len(places) != 1 or len(head) > 2:
        raise DataError(
            f"{path}, line 1: holds vectors, so it is no header; write one: \\copy ... csv header"
        )
    return ["embedding"] if len(head) == 1 else ["id", "embedding"][:: 1 if places[0] else -1]


def _delimiter(path: str) -> str:
    """Return what the first line separates its cells by, where they are not quoted."""
    with _opened(path) as file:
        try:
            line = "".join(file.readline(_LONGEST).split('"')[::2])
        except UnicodeDecodeError as error:
            raise _not_text(path, 1, error) from None
    counts = {mark: line.count(mark) for mark in _NAMES}
    return max(counts, key=lambda mark: counts[mark]) if counts[","] == 0 else ","


def _opened(path: str) -> TextIO:
    return open(path, encoding="utf-8-sig", newline="")


def _not_text(path: str, line: int, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"{path}, line {line} or after: not UTF-8 text ({error.reason}); save the file as UTF-8"
    )


def _records(path: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line that a record starts at, and its cells; blank lines are skipped."""
    with _opened(path) as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        while True:
            start = reader.line_num + 1
            with _limit:
                before = csv.field_size_limit(_LONGEST)
                try:
                    cells = next(reader, None)
                except csv.Error as error:
                    raise DataError(f"{path}, line {start}: not valid CSV: {error}") from None
                except UnicodeDecodeError as error:
                    raise _not_text(path, start, error) from None
                finally:
                    csv.field_size_limit(before)
            if cells is None:
                return
            if cells:
                yield start, cells
