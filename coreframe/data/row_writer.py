"""Write rows of texts as they come, as JSON lines or Parquet: the whole file or none."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coreframe.errors import ArgumentError, MissingExtra, nearest
from coreframe.storage import make_folder, sweep, whole_file

Row = Mapping[str, Any]

SUFFIXES = (".jsonl", ".ndjson", ".parquet")
_ROWS = 4096  # written at once: bounds the memory


def check_path(path: Path, option: str = "path") -> None:
    """Raise ArgumentError for an ending that rows are not written to, and MissingExtra."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ArgumentError(
            f"{option} must end in {', '.join(SUFFIXES)}, got {str(path)!r}."
            f"{nearest(suffix, SUFFIXES)}"
        )
    if suffix == ".parquet":
        _pyarrow()


def write_rows(path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Row]) -> int:
    """Write rows to a file of the ending's format and return how many there were.

    Rows are asked for one by one, and few are held. The file takes its place, or that of an old
    one, when all are on the disk; whatever fails before, the old one is there. Raises OutputError.
    """
    target = Path(path)
    check_path(target)
    make_folder(target.parent)
    sweep(target.parent)
    write = _parquet if target.suffix.lower() == ".parquet" else _json_lines
    with whole_file(target) as part:
        return write(part, list(columns), _chunks(rows))


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    left = iter(rows)
    while chunk := list(itertools.islice(left, _ROWS)):
        yield chunk


def _json_lines(part: Path, columns: list[str], chunks: Iterator[list[Row]]) -> int:
    count = 0
    with open(part, "x", encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        for chunk in chunks:
            file.writelines(json.dumps(dict(row), ensure_ascii=False) + "\n" for row in chunk)
            count += len(chunk)
    return count


def _parquet(part: Path, columns: list[str], chunks: Iterator[list[Row]]) -> int:
    pyarrow, parquet = _pyarrow()
    count = 0
    first = next(chunks, [])
    kinds = pyarrow.Table.from_pylist([dict(row) for row in first]).schema if first else None
    fields = [(c, kinds.field(c).type if kinds else pyarrow.string()) for c in columns]
    schema = pyarrow.schema(fields)
    with open(part, "xb") as file, parquet.ParquetWriter(file, schema) as writer:
        for chunk in itertools.chain([first], chunks):
            writer.write_table(pyarrow.Table.from_pylist([dict(r) for r in chunk], schema))
            count += len(chunk)
    return count


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "parquet", "writing Parquet") from None
    return pyarrow, pyarrow.parquet
