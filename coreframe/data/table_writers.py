"""Write tables with a column of vectors: Parquet, Lance, and CSV as pgvector reads it.

Vectors are lists of a fixed size in Arrow's formats, which Lance asks for, and texts such as
``[0.1,0.2]`` in CSV.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from coreframe.data.writer import RESULT, RawFile, RowBlock, VectorWriter
from coreframe.errors import ArgumentError, DataError, MissingExtra


class CsvWriter(VectorWriter):
    """``.csv``, with a header: PostgreSQL takes it by ``copy ... csv header``."""

    delimiter: ClassVar[str] = ","

    def __post_init__(self) -> None:
        self._file = RawFile(self.folder / RESULT)

    def write(self, block: RowBlock) -> None:
        if block.vectors.dtype.kind != "f":
            raise ArgumentError(
                "CSV holds vectors as pgvector reads them, which has no 8-bit numbers; "
                "use float16 for its type halfvec, or write .parquet"
            )
        digits = "%.5g" if block.vectors.dtype == np.float16 else "%.9g"
        columns = [[_cell(x) for x in _plain(cells)] for cells in block.cells.values()]
        texts = ("[" + ",".join([digits % x for x in row]) + "]" for row in block.vectors.tolist())
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, delimiter=self.delimiter, lineterminator="\n")
        if self._file.size == 0:
            writer.writerow([*block.cells, self.column])
        for text, *cells in zip(texts, *columns, strict=True):
            writer.writerow([*cells, text])
        self._file.append(buffer.getvalue().encode())

    def sync(self) -> dict[str, Any]:
        return {"bytes": self._file.sync()}

    def resume(self, state: Mapping[str, Any]) -> None:
        self._file.size = int(state["bytes"])

    def finish(self) -> list[tuple[str, str]]:
        self._file.sync()
        self.close()
        return [(RESULT, "")]

    def close(self) -> None:
        self._file.close()


class TsvWriter(CsvWriter):
    """``.tsv``, with a header."""

    delimiter: ClassVar[str] = "\t"


def _plain(cells: Any) -> list[Any]:
    if isinstance(cells, list):
        return cells
    return list(cells.tolist() if isinstance(cells, np.ndarray) else cells.to_pylist())


def _cell(value: Any) -> Any:
    """Return a vector as the text of one; CSV takes the rest as it is."""
    if isinstance(value, list) and all(isinstance(x, float | int) for x in value):
        return "[" + ",".join(f"{x:.9g}" for x in value) + "]"
    return value


# Arrow ------------------------------------------------------------------------------------------


@dataclass(kw_only=True, eq=False)
class ArrowWriter(VectorWriter):
    """The base of Parquet and Lance: blocks become tables of Arrow, and wait for ``sync``."""

    waiting: list[Any] = field(default_factory=list)

    def write(self, block: RowBlock) -> None:
        import pyarrow

        columns = {name: _arrow(cells, name) for name, cells in block.cells.items()}
        columns[self.column] = _lists(block.vectors)
        if block.scale is not None:
            columns[f"{self.column}_scale"] = pyarrow.array(block.scale)
        self.waiting.append(pyarrow.table(columns))

    def _take(self) -> Any | None:
        """Return what waits as one table with our texts in its schema, or None."""
        if not self.waiting:
            return None
        table = _joined(self.waiting)
        self.waiting = []
        texts = {key.encode(): text.encode() for key, text in self.metadata.items()}
        return table.replace_schema_metadata({**(table.schema.metadata or {}), **texts})


class ParquetWriter(ArrowWriter):
    """``.parquet``. A killed writer could not go on in a file whose index stands at its end: so
    each ``sync`` makes a file of its own, and ``finish`` copies them into one, in their order.
    """

    parts: int = 0

    def __post_init__(self) -> None:
        _need("pyarrow", "parquet", "writing Parquet")

    def sync(self) -> dict[str, Any]:
        import pyarrow.parquet

        if (table := self._take()) is not None:
            path = self._part(self.parts)
            with open(path, "wb") as file:  # what a killed process left of it is written anew
                pyarrow.parquet.write_table(table, file)
                file.flush()
                os.fsync(file.fileno())
            self.parts += 1
        return {"parts": self.parts}

    def _part(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}.parquet"

    def resume(self, state: Mapping[str, Any]) -> None:
        self.parts = int(state["parts"])

    def finish(self) -> list[tuple[str, str]]:
        import pyarrow.parquet

        self.sync()
        paths = [self._part(i) for i in range(self.parts)]
        schema = _common([pyarrow.parquet.read_schema(path) for path in paths])
        with (
            open(self.folder / RESULT, "wb") as file,
            pyarrow.parquet.ParquetWriter(file, schema) as writer,
        ):
            for path in paths:
                with pyarrow.parquet.ParquetFile(path) as part:
                    for group in range(part.num_row_groups):
                        writer.write_table(part.read_row_group(group).cast(schema))
            writer.close()
            file.flush()
            os.fsync(file.fileno())
        return [(RESULT, "")]


class LanceWriter(ArrowWriter):
    """``.lance``, a folder: each ``sync`` is a version, and ``resume`` takes back later ones."""

    def __post_init__(self) -> None:
        _need("pyarrow", "lance", "writing Lance")
        self._lance = _need("lance", "lance", "writing Lance")

    @property
    def _path(self) -> str:
        return str(self.folder / RESULT)

    def sync(self) -> dict[str, Any]:
        if (table := self._take()) is not None:
            mode = "append" if os.path.isdir(self._path) else "create"
            self._lance.write_dataset(table, self._path, mode=mode)
        return {"version": self._lance.dataset(self._path).version}

    def resume(self, state: Mapping[str, Any]) -> None:
        data = self._lance.dataset(self._path, version=int(state["version"]))
        if self._lance.dataset(self._path).version != data.version:
            data.restore()

    def finish(self) -> list[tuple[str, str]]:
        self.sync()
        return [(RESULT, "")]


def _need(package: str, extra: str, purpose: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingExtra(package, extra, purpose) from None


def _lists(x: Any) -> Any:
    """Return rows as lists of a fixed size."""
    import pyarrow

    flat = pyarrow.array(np.ascontiguousarray(x).reshape(-1))
    return pyarrow.FixedSizeListArray.from_arrays(flat, x.shape[1])


def _arrow(cells: Any, name: str) -> Any:
    """Return a column as an array of Arrow."""
    import pyarrow

    if isinstance(cells, pyarrow.Array | pyarrow.ChunkedArray):
        return cells
    if isinstance(cells, np.ndarray):
        return _lists(cells)
    try:
        return pyarrow.array(cells)
    except (pyarrow.ArrowException, ValueError, TypeError) as error:
        raise DataError(f"column {name!r} has cells of several kinds: {error}") from None


def _common(schemas: list[Any]) -> Any:
    """Return one schema for parts: a column that is empty in one has the type of the others."""
    import pyarrow

    try:
        return pyarrow.unify_schemas(schemas, promote_options="permissive")
    except pyarrow.ArrowException as error:
        raise DataError(f"a column has cells of several kinds: {error}") from None


def _joined(tables: list[Any]) -> Any:
    import pyarrow

    schema = _common([table.schema for table in tables])
    return pyarrow.concat_tables([table.cast(schema) for table in tables])
