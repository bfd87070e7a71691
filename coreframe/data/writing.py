"""The writer of vectors for a file, by its ending: arrays, or tables with a column of vectors."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from coreframe.data.writer import NAME, VectorWriter
from coreframe.errors import ArgumentError, nearest

_ARRAYS = {".npy": "NpyWriter", ".npz": "NpzWriter", ".safetensors": "SafetensorsWriter"}
_TABLES = {
    ".parquet": "ParquetWriter",
    ".lance": "LanceWriter",
    ".csv": "CsvWriter",
    ".tsv": "TsvWriter",
}


def open_writer(
    path: Path, folder: Path, *, column: str = NAME, metadata: Mapping[str, str] | None = None
) -> VectorWriter:
    """Return the writer for a file of this ending, working in ``folder``.

    Raises ArgumentError for another ending, MissingExtra if its library is not installed.
    """
    suffix = path.suffix.lower()
    known = {**_ARRAYS, **_TABLES}
    if suffix not in known:
        raise ArgumentError(
            f"{path}: vectors are written to {', '.join(known)} files, not {suffix!r}."
            + nearest(suffix, known)
        )
    kind = "array_writers" if suffix in _ARRAYS else "table_writers"
    writer: type[VectorWriter] = getattr(
        importlib.import_module(f"coreframe.data.{kind}"), known[suffix]
    )
    return writer(folder=folder, column=column, metadata=dict(metadata or {}))


def is_table(path: Path) -> bool:
    """Say whether a file of this ending has room for other columns."""
    return path.suffix.lower() in _TABLES
