"""Open rows whatever they are stored in: by the ending of a file, the content of a folder, or what
an object can do.
"""

from __future__ import annotations

import os
from typing import Any

from coreframe.data import arrow_rows, csv_rows, json_rows, objects
from coreframe.data.tables import Table, cannot_read
from coreframe.errors import DataError

SUFFIXES: dict[str, str] = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv",
    ".parquet": "arrow", ".arrow": "arrow", ".feather": "arrow", ".lance": "arrow",
}  # fmt: skip
"""The endings of files of rows, and which module reads them."""


_READERS = {"json": json_rows.table, "csv": csv_rows.table, "arrow": arrow_rows.table}


def is_folder_of_rows(path: str) -> bool:
    """Say whether a folder is one that ``datasets.save_to_disk`` or Lance wrote."""
    return any(os.path.exists(os.path.join(path, name)) for name in ("state.json", "_versions"))


def open_table(source: Any) -> Table:
    """Open a file of rows by its ending, a folder of rows, or an object that has columns.

    Raises DataError if it cannot be read, and MissingExtra if its reader is not installed.
    """
    if not isinstance(source, str | os.PathLike):
        return objects.table(source)
    path = os.fspath(source)
    suffix = os.path.splitext(path.rstrip("/\\"))[1].lower()
    kind = "arrow" if is_folder_of_rows(path) else SUFFIXES.get(suffix)
    if kind is None and os.path.isdir(path):
        raise DataError(
            f"{path} is a folder, but none of BEIR (corpus.jsonl, queries.jsonl, qrels), of "
            "datasets (state.json, dataset_dict.json), of Lance, or with train.*, dev.* and test.*"
        )
    if kind is None and not suffix and not os.path.exists(path):
        raise DataError(f"{path} cannot be read: No such file or directory")
    if kind is None:
        raise DataError(
            f"{path}: rows are read from {', '.join(SUFFIXES)} files, from folders that "
            f"datasets.save_to_disk wrote and from BEIR folders, not {suffix!r}"
        )
    try:
        return _READERS[kind](path)
    except OSError as error:
        raise cannot_read(path, error) from error
