"""Read vectors: .npy, .npz and .safetensors mapped, columns of tables converted block by block.

Whatever the file, the numbers are real, finite and in the byte order of this machine, and large
ones are not in memory. A DataError names the file and the row.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.data import array_files
from coreframe.data.array_files import Path
from coreframe.data.cells import kind
from coreframe.data.csv_rows import looks_like_vector
from coreframe.data.opening import SUFFIXES, is_folder_of_rows, open_table
from coreframe.data.spool import blocks_of, collect, computable
from coreframe.data.tables import Table
from coreframe.errors import DataError

COLUMNS = ("embedding", "embeddings", "vector", "vectors")
IDS = (
    "id", "_id", "ids", "key", "query_id", "query-id", "document_id", "doc_id", "corpus_id",
    "corpus-id",
)  # fmt: skip
_ARRAYS = (".npy", ".npz", ".safetensors")
_SIDECARS = (".ids.txt", ".ids.json", ".ids.npy")


@dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
    """Vectors of a file, and what their rows are called.

    Attributes:
        path: of the file.
        array: (n, d) float16, float32 or float64, finite; mapped if it is large.
        stored: the dtype in the file.
        ids: the id of each row as text, or None where rows have numbers only.
        ids_from: where the ids come from, in words.
        facts: what was seen when all values were looked at.
    """

    path: str
    array: NDArray[Any]
    stored: str
    ids: Sequence[str] | None = None
    ids_from: str = ""
    facts: Facts

    def __len__(self) -> int:
        return len(self.array)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What all values of some vectors say.

    Attributes:
        rows, width: their shape.
        zero_rows: rows of zeros: their cosine with anything is 0.
        first_zero: the first of them, or -1.
        low, mean, high: Euclidean norms, of the rows that are not zero.
    """

    rows: int
    width: int
    zero_rows: int
    first_zero: int
    low: float
    mean: float
    high: float

    @property
    def normalised(self) -> bool:
        """Whether every row that is not zero has length 1, as precisely as float16 can."""
        return self.zero_rows < self.rows and self.low > 0.995 and self.high < 1.005


def read_vectors(path: Path, *, column: str | None = None) -> NDArray[Any]:
    """Return the vectors of a file as (n, d) floating-point numbers; large ones stay on disk.

    ``column`` names the column of a table or the array of .npz and .safetensors where there are
    several. float16, float32 and float64 are returned as they are, bfloat16, int8 and uint8 as
    float32, and all in the byte order of this machine.
    Raises DataError for what is no matrix, is empty, or is not finite.
    """
    return open_vectors(path, column=column).array


def open_vectors(path: Path, *, column: str | None = None, ids: str | None = None) -> Vectors:
    """Return the vectors of a file with their ids; see ``read_vectors``.

    ``ids`` names the column or array of the ids. Otherwise they are known by their names (IDS),
    or stand beside the file: vectors.npy and vectors.ids.txt (one a line), .ids.json or .ids.npy.
    """
    name = os.fspath(path)
    suffix = os.path.splitext(name)[1].lower()
    if suffix in _ARRAYS:
        x, found_ids, where = array_files.read(name, column, COLUMNS, ids, IDS)
    elif is_folder_of_rows(name) or suffix in SUFFIXES:
        x, found_ids, where = _from_table(open_table(name), column, ids)
    else:
        known = ", ".join((*_ARRAYS, *SUFFIXES))
        raise DataError(f"{name}: vectors are read from {known} files, not {suffix!r}")
    if found_ids is None:
        found_ids, where = _beside(name)
    if found_ids is not None:
        _check_ids(found_ids, len(x), name, where)
    _check_matrix(x, name)
    array = computable(x)
    return Vectors(
        path=name,
        array=array,
        stored=x.dtype.name,
        ids=found_ids,
        ids_from=where,
        facts=look_at(array, name, found_ids),
    )


def look_at(x: NDArray[Any], name: str, ids: Sequence[str] | None = None) -> Facts:
    """Look at all values once, block by block; raise DataError if one is NaN or infinite."""
    zero_rows, first_zero, low, high, total, start = 0, -1, np.inf, 0.0, 0.0, 0
    for block in blocks_of(x):
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            if block.dtype == np.float16:
                block = block.astype(np.float32)
            squares = np.einsum("ij,ij->i", block, block)
        odd = np.nonzero(~np.isfinite(squares) | (squares == 0))[0]
        zero = np.zeros(len(block), bool)
        if len(odd):  # not finite, of zeros, or too large or small for the square
            with np.errstate(invalid="ignore"):  # signalling NaN
                rows = np.asarray(block[odd], np.float64)
            good = np.isfinite(rows).all(axis=1)
            if not good.all():
                row = start + int(odd[np.argmin(good)])
                called = "" if ids is None else f", id {ids[row]!r}"
                raise DataError(
                    f"{name}, row {row} (from 0){called}: has NaN or infinity; "
                    "drop such rows or replace the values"
                )
            zero[odd] = ~rows.any(axis=1)
            squares = squares.astype(np.float64)
            scale = np.abs(rows).max(axis=1)
            with np.errstate(over="ignore", under="ignore"):
                near = np.where(scale > 0, scale, 1)[:, None]
                squares[odd] = scale**2 * ((rows / near) ** 2).sum(axis=1)
        if zero.any():
            first_zero = start + int(np.argmax(zero)) if first_zero < 0 else first_zero
            zero_rows += int(zero.sum())
        norms = np.sqrt(squares[~zero], dtype=np.float64)
        if len(norms):
            low, high = min(low, float(norms.min())), max(high, float(norms.max()))
            total += float(norms.sum())
        start += len(block)
    others = len(x) - zero_rows
    return Facts(
        rows=len(x),
        width=int(x.shape[1]),
        zero_rows=zero_rows,
        first_zero=first_zero,
        low=low if others else 0.0,
        mean=total / others if others else 0.0,
        high=high,
    )


def _check_matrix(x: NDArray[Any], name: str) -> None:
    if x.ndim != 2:
        raise DataError(f"{name} must hold a matrix (rows, width), got shape {x.shape}")
    narrow = x.dtype.kind in "iu" and x.dtype.itemsize == 1
    if not narrow and not (x.dtype.kind == "f" and x.dtype.itemsize <= 8):
        raise DataError(
            f"{name} must hold float16, float32, float64, int8 or uint8, got {x.dtype}; "
            f"convert it first: np.save({name!r}, x.astype(np.float32))"
        )
    if x.size == 0:
        raise DataError(f"{name} is empty: its shape is {x.shape}")


# Columns of tables ------------------------------------------------------------------------------


def _from_table(
    table: Table, column: str | None, ids: str | None
) -> tuple[NDArray[Any], list[str] | None, str]:
    column = column or vector_column(table)
    if column not in table.columns:
        raise DataError(f"{table.name} has no column {column!r}. {_there(table)}")
    if ids is not None and ids not in table.columns:
        raise DataError(f"{table.name} has no column {ids!r} for the ids. {_there(table)}")
    id_column = ids or next((name for name in IDS if name in table.columns), None)
    x = read_column(table, column)
    if id_column is None:
        return x, None, ""
    found: list[str] = []
    for chunk in table.chunks([id_column]):
        for place, value in zip(chunk.places, chunk.values(id_column), strict=True):
            if value is None or value == "":
                raise DataError(f"{table.name}, {table.place(place)}: {id_column!r} is empty")
            found.append(str(value))
    return x, found, f"column {id_column}"


def vector_column(table: Table) -> str:
    """Return the column of a table that holds vectors, by its name."""
    plain = [name for name in COLUMNS if name in table.columns]
    if plain:
        return plain[0]
    ending = [n for n in table.columns if n.endswith(("_embedding", "_vector"))]
    if len(ending) == 1:
        return ending[0]
    if ending:
        raise DataError(
            f"{table.name} has several columns of vectors, {', '.join(map(repr, ending))}; "
            "give a file with one of them"
        )
    raise DataError(
        f"{table.name} has no column of vectors: expected 'embedding', 'vector' or one that ends "
        f"in '_embedding'. {_there(table)}"
    )


def _there(table: Table) -> str:
    return f"Its columns: {', '.join(map(repr, table.columns))}."


def read_column(table: Table, column: str) -> NDArray[Any]:
    """Return a column of vectors as a matrix, converted block by block."""
    found = collect(_column_blocks(table, column))
    if found is None:
        raise DataError(f"{table.name} is empty: it has no rows")
    return found


def _column_blocks(table: Table, column: str) -> Iterator[NDArray[Any]]:
    width: int | None = None
    dtype: Any = None
    for chunk in table.chunks([column]):
        cells = chunk.cells[column]
        block, sizes = (None, np.zeros(0)) if isinstance(cells, list) else _arrow_block(cells)
        if block is None:
            values = chunk.values(column)
            width = width or _length_of(values[0], table, chunk.places[0], column)
            block = _list_block(values, width, table, chunk.places, column)
        else:
            width = width or int(sizes[0])
            wrong = np.nonzero(sizes != width)[0]
            if len(wrong):
                where, has = table.place(chunk.places[int(wrong[0])]), int(sizes[wrong[0]])
                got = "null" if has < 0 else f"{has} numbers"
                raise _other_width(table, where, column, got, width)
            block = block.reshape(-1, width)
        dtype = dtype or block.dtype
        yield block.astype(dtype, copy=False)


def _other_width(table: Table, where: str, column: str, got: str, width: int) -> DataError:
    return DataError(f"{table.name}, {where}: {column!r} has {got}, but the first row has {width}")


def _arrow_block(cells: Any) -> tuple[NDArray[Any] | None, NDArray[Any]]:
    """Return the numbers of lists of Arrow and the length of each (-1 for null), or None."""
    import pyarrow

    kinds = pyarrow.types
    if isinstance(cells, pyarrow.ExtensionArray):
        cells = cells.storage
    lists = kinds.is_list(cells.type) or kinds.is_large_list(cells.type)
    if not (lists or kinds.is_fixed_size_list(cells.type)):
        return None, np.zeros(0)
    value = cells.type.value_type
    if not (kinds.is_floating(value) or kinds.is_integer(value)):
        return None, np.zeros(0)
    flat = cells.flatten()
    if flat.null_count:
        return None, np.zeros(0)  # the slow way finds the row
    missing = np.asarray(cells.is_null())
    if lists:
        sizes = np.where(missing, -1, np.asarray(cells.value_lengths().fill_null(-1)))
    else:
        sizes = np.where(missing, -1, cells.type.list_size)
    return _of_vectors(flat.to_numpy(zero_copy_only=False)), sizes


def _of_vectors(x: NDArray[Any]) -> NDArray[Any]:
    """Return numbers in a dtype that vectors may have: whole numbers that are wide as float32."""
    return x.astype(np.float32) if x.dtype.kind in "iu" and x.dtype.itemsize > 1 else x


def _length_of(value: Any, table: Table, place: int, column: str) -> int:
    return len(_numbers(value, table.name, table.place(place), column))


def _list_block(
    values: list[Any], width: int, table: Table, places: Sequence[int], column: str
) -> NDArray[Any]:
    block = np.empty((len(values), width), np.float32)
    for i, (place, value) in enumerate(zip(places, values, strict=True)):
        numbers = _numbers(value, table.name, table.place(place), column)
        if len(numbers) != width:
            where = table.place(place)
            raise _other_width(table, where, column, f"{len(numbers)} numbers", width)
        block[i] = numbers
    return block


def _numbers(value: Any, name: str, where: str, column: str) -> NDArray[Any]:
    """Return the numbers of one cell: a list, an array, or the text of pgvector or JSON."""
    if isinstance(value, str) and looks_like_vector(value):
        value = value[1:-1].split(",")
    elif isinstance(value, str) or not hasattr(value, "__len__") or isinstance(value, dict):
        raise DataError(
            f"{name}, {where}: {column!r} must be a vector such as [0.1, 0.2], got {kind(value)}"
        )
    try:
        numbers = np.asarray(value, np.float64).astype(np.float32)
    except (TypeError, ValueError):
        raise DataError(f"{name}, {where}: {column!r} must be a list of numbers") from None
    if numbers.ndim != 1 or not len(numbers):
        raise DataError(f"{name}, {where}: {column!r} must be a list of numbers")
    return numbers


# Ids --------------------------------------------------------------------------------------------


def _beside(path: str) -> tuple[list[str] | None, str]:
    """Return the ids of a file beside the vectors: x.npy and x.ids.txt, .ids.json or .ids.npy."""
    stem = os.path.splitext(path)[0]
    for ending in _SIDECARS:
        name = stem + ending
        if not os.path.exists(name):
            continue
        if ending.endswith(".npy"):
            return array_files.as_ids(array_files.open_npy(name), name), name
        with open(name, encoding="utf-8-sig") as file:
            try:
                found = json.load(file) if ending.endswith(".json") else file.read().splitlines()
            except ValueError as error:
                raise DataError(f"{name} cannot be read: {error}") from None
        if not isinstance(found, list) or not all(isinstance(i, str | int) for i in found):
            raise DataError(f"{name} must hold a list of ids, texts or whole numbers")
        return [str(i) for i in found], name
    return None, ""


def _check_ids(ids: Sequence[str], count: int, name: str, where: str) -> None:
    if len(ids) != count:
        raise DataError(f"{name} has {count} vectors, but {len(ids)} ids ({where})")
    if len(set(ids)) < count:
        seen: dict[str, int] = {}
        for row, id_ in enumerate(ids):
            if id_ in seen:
                raise DataError(
                    f"{name}: the id {id_!r} stands in rows {seen[id_]} and {row} (from 0); "
                    f"ids must differ ({where})"
                )
            seen[id_] = row
