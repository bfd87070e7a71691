"""Rows in Arrow's formats: Parquet, Arrow files, folders of ``datasets``, and Lance."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from coreframe.data.tables import CHUNK, Chunk, Table, unique_columns
from coreframe.errors import DataError, MissingExtra


def table(path: str) -> Table:
    """Open a file or a folder; see ``tables.open_table``."""
    try:
        import pyarrow
    except ImportError:
        raise MissingExtra("pyarrow", "parquet", f"reading {_word(path)}") from None
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, "state.json")):
            return _saved_to_disk(path)
        return _lance(path)
    with _named(path, "Parquet file" if path.lower().endswith(".parquet") else "Arrow file"):
        if path.lower().endswith(".parquet"):
            return _parquet(path)
        with pyarrow.memory_map(path) as source, _reader(source) as reader:
            names = unique_columns(reader.schema.names, path)
    return Table(
        name=path,
        format="Arrow",
        columns=names,
        chunks=lambda columns: _counted(path, columns, lambda: _batches([path], columns)),
    )


def _word(path: str) -> str:
    suffix = os.path.splitext(path.rstrip("/\\"))[1].lower()
    return {".parquet": "Parquet", ".lance": "Lance"}.get(suffix, "Arrow")


@contextmanager
def _named(path: str, what: str) -> Iterator[None]:
    """Turn Arrow's errors into ours."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if getattr(error, "errno", None) is not None:  # of the system, not of what is in the file
            raise
        raise DataError(f"{path} is not a readable {what}: {error}") from error


def _counted(
    path: str, columns: Sequence[str], batches: Callable[[], Iterator[Any]]
) -> Iterator[Chunk]:
    """Yield the batches of Arrow as chunks, with the numbers of their rows."""
    done = 0
    with _named(path, "file of rows"):
        for batch in batches():
            if batch.num_rows:
                batch.validate(full=True)  # a damaged file may hold offsets beyond its end
                cells = {column: batch.column(i) for i, column in enumerate(columns)}
                yield Chunk(places=range(done, done + batch.num_rows), cells=cells)
                done += batch.num_rows


def _parquet(path: str) -> Table:
    import pyarrow.parquet

    with open(path, "rb") as source, pyarrow.parquet.ParquetFile(source) as file:
        names = unique_columns(file.schema_arrow.names, path)

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        with open(path, "rb") as source, pyarrow.parquet.ParquetFile(source) as file:
            for batch in file.iter_batches(batch_size=CHUNK, columns=list(columns)):
                yield batch.select(list(columns))
        pyarrow.default_memory_pool().release_unused()  # Arrow keeps what it has freed

    return Table(
        name=path,
        format="Parquet",
        columns=names,
        chunks=lambda columns: _counted(path, columns, lambda: batches(columns)),
    )


def _reader(source: Any) -> Any:
    """Open a mapped Arrow file, of the file format or of the stream format."""
    import pyarrow

    magic = source.read(6)
    source.seek(0)
    opened = pyarrow.ipc.open_file if magic == b"ARROW1" else pyarrow.ipc.open_stream
    return opened(source)


def _batches(paths: Sequence[str], columns: Sequence[str]) -> Iterator[Any]:
    """Yield batches of mapped Arrow files, so that only what is used is read."""
    import pyarrow

    for path in paths:
        with (
            _named(path, "Arrow file"),
            pyarrow.memory_map(path) as source,
            _reader(source) as reader,
        ):
            stream = hasattr(reader, "read_next_batch")
            every = reader if stream else map(reader.get_batch, range(reader.num_record_batches))
            for batch in every:
                chosen = batch.select(list(columns))
                for start in range(0, chosen.num_rows, CHUNK):
                    yield chosen.slice(start, CHUNK)


def _saved_to_disk(folder: str) -> Table:
    """Open a folder that ``Dataset.save_to_disk`` wrote: state.json names its Arrow files."""
    where = os.path.join(folder, "state.json")
    try:
        with open(where, encoding="utf-8") as file:
            state = json.load(file)
        files = [str(entry["filename"]) for entry in state["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where} is not what datasets.save_to_disk writes: {error}") from None
    if any(os.path.basename(name) != name for name in files):
        raise DataError(f"{where} names files outside the folder")
    if state.get("_indices_data_files"):
        raise DataError(
            f"{folder} was saved with a selection of its rows beside them; save it flat: "
            "dataset.flatten_indices().save_to_disk(...)"
        )
    paths = [os.path.join(folder, name) for name in files]
    if not paths:
        raise DataError(f"{folder} is empty: it has no rows")
    with _named(paths[0], "Arrow file"):
        import pyarrow

        with pyarrow.memory_map(paths[0]) as source, _reader(source) as reader:
            names = unique_columns(reader.schema.names, folder)
    return Table(
        name=folder,
        format="folder of datasets",
        columns=names,
        chunks=lambda columns: _counted(folder, columns, lambda: _batches(paths, columns)),
    )


def _lance(folder: str) -> Table:
    try:
        import lance
    except ImportError:
        raise MissingExtra("lance", "lance", "reading Lance") from None
    try:
        data = lance.dataset(folder)
        names = unique_columns(data.schema.names, folder)
    except (ValueError, OSError) as error:
        raise DataError(f"{folder} is not a readable Lance folder: {error}") from None

    def batches(columns: Sequence[str]) -> Iterator[Any]:
        try:
            for batch in data.to_batches(columns=list(columns), batch_size=CHUNK):
                yield batch.select(list(columns))
        except (ValueError, OSError) as error:
            raise DataError(f"{folder} is not a readable Lance folder: {error}") from None

    return Table(
        name=folder,
        format="Lance",
        columns=names,
        chunks=lambda columns: _counted(folder, columns, lambda: batches(columns)),
    )
