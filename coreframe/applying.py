"""Apply an adapter to a file of vectors of any size: in blocks, and after a kill where it was.

What is done lies in a hidden folder beside the output, with a journal of how many rows are on the
disk. A second call with the same adapter and input goes on from there, after it has read the rows
that are done again and found them unchanged by their hash. Only a whole result takes its name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.artefact import SIDES, TrainedAdapter
from coreframe.data import array_files, vectors, writing
from coreframe.data.opening import SUFFIXES, is_folder_of_rows, open_table
from coreframe.data.spool import computable, rows_at_once
from coreframe.data.tables import Chunk, Table
from coreframe.data.writer import NAME, RowBlock, VectorWriter
from coreframe.errors import ArgumentError, CoreframeError, DataError, OutputError
from coreframe.export.exporting import hash_adapter
from coreframe.export.target import adapted_sides, moves_alike
from coreframe.lock import FolderLock
from coreframe.storage import sync_folder, write_files

__all__ = ["apply_file"]

DTYPES = ("float32", "float16", "int8")
FORMAT, VERSION = "coreframe-apply", 1
SYNC_EVERY = 1 << 26
"""Bytes of vectors after which what is done is brought to the disk."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What was done.

    Attributes:
        path: of the result.
        rows, width: its shape.
        side: which map was applied.
        column: the name of the vectors in it, or None for a plain array.
        resumed_at: rows that an interrupted call had done already.
        zero_rows: rows of zeros in the input: they stay zeros if there is no bias.
        reindex: rows that must be put into the index again: all of adapted documents, else none.
    """

    path: Path
    rows: int
    width: int
    side: str
    column: str | None
    resumed_at: int
    zero_rows: int
    reindex: int


def apply_file(
    adapter: TrainedAdapter,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    side: str | None = None,
    column: str | None = None,
    to_column: str | None = None,
    dtype: str = "float32",
    base_model: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
) -> Applied:
    """Write the adapted vectors of a file to another; formats follow the endings.

    Args:
        adapter: what ``fit`` or ``load`` returned.
        source: .npy, .npz, .safetensors, or a table (.parquet, .csv, .jsonl, .lance, ...).
        target: .npy, .npz, .safetensors, .parquet, .csv, .tsv or .lance.
        side: "query" or "document"; may be left out where only one side moves, or both alike.
        column: the column of a table, or the array of .npz and .safetensors.
        to_column: name of the new column of a table; ``<column>_adapted`` if None. All others,
            the old vectors too, are kept.
        dtype: "float32", "float16", or "int8": rows divided by a scale each, which is stored.
        base_model: what made the vectors, where the file does not say.
        overwrite: replace the target if it exists.
        progress: called with the rows done, and how many there are, or None if not known.

    Raises DataError for vectors of another width, of another base model, already adapted, or not
    finite, and OutputError if the result cannot be written.
    """
    if dtype not in DTYPES:
        raise ArgumentError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if dtype == "int8" and Path(target).suffix.lower() in (".csv", ".tsv"):
        raise ArgumentError("CSV is for pgvector, which has no 8-bit vectors; write .parquet")
    side = _side(adapter, side)
    input_ = _open(Path(source), column)
    _check_origin(input_, adapter, base_model)
    place = Path(os.path.abspath(target))
    if place.exists() and not overwrite:
        raise ArgumentError(f"{place} exists; use overwrite (--overwrite), or another name")
    table = writing.is_table(place)
    new = to_column or (f"{input_.column}_adapted" if input_.columns else NAME)
    if table and new in input_.columns:
        raise ArgumentError(f"{input_.name} has a column {new!r} already; name another")
    if not place.parent.is_dir():
        raise OutputError(f"cannot write {place}: there is no folder {place.parent}")
    plan: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "adapter": hash_adapter(adapter),
        "side": side,
        "dtype": dtype,
        "column": [input_.column, new if table else None],
        "source": input_.identity,
    }
    metadata = {
        "coreframe.adapter": plan["adapter"],
        "coreframe.side": side,
        "coreframe.column": new,
        "coreframe.base_model": adapter.base_model or base_model or "",
    }
    part = place.with_name(f".{place.name}.part")
    work = _Work(adapter, side, dtype, input_, table, plan, progress)
    finished = False
    try:
        with FolderLock(part):  # what another call does in this folder is not ours to remove
            try:
                done, files = work.run(
                    part, lambda: writing.open_writer(place, part, column=new, metadata=metadata)
                )
                _publish(part, files, place)
                finished = True
            finally:
                if finished or not (part / _JOURNAL).exists():  # nothing to go on from
                    shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        if isinstance(error, CoreframeError):
            raise
        raise OutputError(
            f"cannot write {place}: {error.strerror or error}; what is done is kept in {part}, and "
            "the same call goes on from there"
        ) from None
    return Applied(
        path=Path(target),
        rows=done.rows,
        width=work.width,
        side=side,
        column=new if table else None,
        resumed_at=done.resumed_at,
        zero_rows=done.zero_rows,
        reindex=done.rows if side == "document" and adapter.rebuilds_index else 0,
    )


def _side(adapter: TrainedAdapter, side: str | None) -> str:
    if side is not None:
        if side not in SIDES:
            raise ArgumentError(f"side must be 'query' or 'document', got {side!r}")
        return side
    moved = adapted_sides(adapter)
    if len(moved) == 2 and not moves_alike(adapter):
        raise ArgumentError(
            "queries and documents move differently: say which these are, side='query' or "
            "side='document'"
        )
    return "document" if "document" in moved else "query"


# The input --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class _Input:
    """Vectors that are read block by block, with the other columns of their table."""

    name: str
    column: str | None
    columns: tuple[str, ...]
    """Of a table; none for a plain array."""
    rows: int | None
    identity: Mapping[str, Any]
    metadata: Mapping[str, str]
    blocks: Callable[[int], Iterator[tuple[NDArray[Any], Mapping[str, Any]]]]
    """Given a row to start at, yields vectors (n, d) and the cells of the other columns."""


def _open(path: Path, column: str | None) -> _Input:
    name = os.fspath(path)
    suffix = path.suffix.lower()
    if is_folder_of_rows(name) or suffix in SUFFIXES:
        return _open_table(path, column)
    if suffix not in (".npy", ".npz", ".safetensors"):
        raise DataError(f"{name}: vectors are not read from {suffix!r} files")
    x, _, _ = array_files.read(name, column, vectors.COLUMNS, None, ())
    if x.ndim != 2 or x.size == 0 or x.dtype.kind not in "fiu":
        raise DataError(
            f"{name} must hold a matrix of numbers (rows, width), got {x.dtype} {x.shape}"
        )

    def blocks(start: int) -> Iterator[tuple[NDArray[Any], Mapping[str, Any]]]:
        height = rows_at_once(x.shape[1])
        for begin in range(start, len(x), height):
            yield computable(x[begin : begin + height]), {}

    return _Input(
        name=name,
        column=column,
        columns=(),
        rows=len(x),
        identity={"shape": list(x.shape), "dtype": str(x.dtype)},
        metadata=_metadata(path),
        blocks=blocks,
    )


def _open_table(path: Path, column: str | None) -> _Input:
    table = open_table(path)
    chosen = column or vectors.vector_column(table)
    if chosen not in table.columns:
        there = ", ".join(map(repr, table.columns))
        raise DataError(f"{table.name} has no column {chosen!r}. Its columns: {there}")

    def blocks(start: int) -> Iterator[tuple[NDArray[Any], Mapping[str, Any]]]:
        done = 0
        for chunk in table.chunks(table.columns):
            size = len(chunk.places)
            if done + size > start:
                part = _from(chunk, max(0, start - done))
                x = computable(_matrix(table, chosen, part))
                yield x, {**part.cells, **({chosen: x} if table.textual else {})}
            done += size

    return _Input(
        name=table.name,
        column=chosen,
        columns=table.columns,
        rows=None,
        identity={"columns": list(table.columns), **_stamp(path)},
        metadata=_metadata(path),
        blocks=blocks,
    )


def _from(chunk: Chunk, start: int) -> Chunk:
    if start == 0:
        return chunk
    cells = {name: column[start:] for name, column in chunk.cells.items()}
    return Chunk(places=chunk.places[start:], cells=cells)


def _matrix(table: Table, column: str, chunk: Chunk) -> NDArray[Any]:
    one = dataclasses.replace(table, chunks=lambda columns: iter([chunk]))
    return vectors.read_column(one, column)


def _stamp(path: Path) -> dict[str, Any]:
    """Return what changes when a file or a folder of files is written to."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stats = [p.stat() for p in files]
    return {
        "size": sum(s.st_size for s in stats),
        "modified": max((s.st_mtime_ns for s in stats), default=0),
    }


def _metadata(path: Path) -> dict[str, str]:
    """Return our texts in a file that has some: which adapter its vectors went through, say."""
    suffix = path.suffix.lower()
    found: Mapping[Any, Any] = {}
    with contextlib.suppress(ImportError):  # what cannot be read is said by those who read it
        if suffix == ".safetensors":
            from safetensors import safe_open

            with safe_open(path, "numpy") as file:
                found = file.metadata() or {}
        elif suffix == ".parquet":
            import pyarrow.parquet

            found = pyarrow.parquet.read_schema(path).metadata or {}
        elif suffix == ".lance":
            import lance

            found = lance.dataset(str(path)).schema.metadata or {}
    texts = {_text(key): _text(value) for key, value in found.items()}
    return {key: value for key, value in texts.items() if key.startswith("coreframe.")}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _check_origin(input_: _Input, adapter: TrainedAdapter, base_model: str | None) -> None:
    """Refuse vectors that went through an adapter already, or that another model made."""
    stored = input_.metadata
    column = stored.get("coreframe.column")
    if "coreframe.adapter" in stored and input_.column in (None, column):
        raise DataError(
            f"{input_.name} was written by coreframe apply: its vectors are adapted already; "
            "apply to the base model's vectors (of a table, --column names theirs)"
        )
    for said, whence in ((base_model, "given"), (stored.get("coreframe.base_model"), "stored")):
        if said and adapter.base_model and said != adapter.base_model:
            raise DataError(
                f"the vectors of {input_.name} are of {said!r} ({whence}), and the adapter was "
                f"trained on vectors of {adapter.base_model!r}: they do not belong together"
            )


# The work ---------------------------------------------------------------------------------------

_JOURNAL = "journal.json"


@dataclass(kw_only=True)
class _Done:
    rows: int = 0
    zero_rows: int = 0
    resumed_at: int = 0


class _Work:
    """Blocks through the adapter into a writer, with a journal."""

    def __init__(
        self,
        adapter: TrainedAdapter,
        side: str,
        dtype: str,
        input_: _Input,
        table: bool,
        plan: Mapping[str, Any],
        progress: Callable[[int, int | None], None] | None,
    ) -> None:
        self.adapter, self.side, self.dtype = adapter, side, dtype
        self.input, self.table, self.plan, self.progress = input_, table, plan, progress
        self.width = adapter.side(side).matrix(adapter.dimensions)[0].shape[1]

    def run(
        self, part: Path, open_writer: Callable[[], VectorWriter]
    ) -> tuple[_Done, list[tuple[str, str]]]:
        """Do what is not done yet; return what was done, and the files that make up the result."""
        writer = open_writer()
        try:
            done, digest = self._earlier(writer, part), hashlib.sha256()
            if done.rows and not self._unchanged(done.rows, digest, part):
                _log.warning("%s has changed since the call that was interrupted; starting over",
                             self.input.name)  # fmt: skip
                writer.close()
                _empty(part)
                writer, done, digest = open_writer(), _Done(), hashlib.sha256()
            done.resumed_at = done.rows
            self._all(writer, part, done, digest)
            return done, writer.finish()
        finally:
            writer.close()

    def _all(self, writer: VectorWriter, part: Path, done: _Done, digest: Any) -> None:
        since = 0
        for x, cells in self.input.blocks(done.rows):
            y, zero_rows = self._adapted(x, done.rows)
            writer.write(_encoded(y, self.dtype, cells if self.table else {}))
            digest.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
            done.rows += len(x)
            done.zero_rows += zero_rows
            since += y.nbytes
            if since >= SYNC_EVERY:
                self._note(writer, part, done, digest.hexdigest())
                since = 0
            if self.progress is not None:
                self.progress(done.rows, self.input.rows)
        if not done.rows:
            raise DataError(f"{self.input.name} is empty: it has no rows")

    def _adapted(self, x: NDArray[Any], start: int) -> tuple[NDArray[Any], int]:
        if x.shape[1] != self.adapter.dimensions:
            raise DataError(
                f"{self.input.name} holds vectors of {x.shape[1]} numbers, and the adapter was "
                f"trained on {self.adapter.dimensions}: they do not belong together"
            )
        good = np.isfinite(x).all(axis=1)
        if not good.all():
            raise DataError(
                f"{self.input.name}, row {start + int(np.argmin(good))} (from 0): has NaN or "
                "infinity; drop such rows or replace the values"
            )
        y: NDArray[Any] = self.adapter(x.astype(np.float32, copy=False), self.side)
        if self.dtype == "float16" and not np.all(np.abs(y) <= np.finfo(np.float16).max):
            raise DataError(
                f"{self.input.name}: adapted vectors are too large for float16, whose largest "
                "number is 65504; use float32"
            )
        return y, int(np.sum(~x.any(axis=1)))

    def _note(self, writer: VectorWriter, part: Path, done: _Done, digest: str) -> None:
        journal = {
            "plan": self.plan,
            "rows": done.rows,
            "zero_rows": done.zero_rows,
            "sha256": digest,
            "writer": writer.sync(),
        }
        write_files(part, {_JOURNAL: (json.dumps(journal) + "\n").encode()})

    def _earlier(self, writer: VectorWriter, part: Path) -> _Done:
        """Return what an interrupted call with the same plan has done, and take it up."""
        try:
            journal = json.loads((part / _JOURNAL).read_text(encoding="utf-8"))
            same = journal["plan"] == json.loads(json.dumps(self.plan))
            if same:
                writer.resume(journal["writer"])
                return _Done(rows=int(journal["rows"]), zero_rows=int(journal["zero_rows"]))
            _log.warning("%s: an interrupted call had other settings; starting over", part)
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            _log.warning("%s cannot be taken up (%s); starting over", part, error)
        _empty(part)
        return _Done()

    def _unchanged(self, rows: int, digest: Any, part: Path) -> bool:
        """Read the rows that are done again, and say whether they are those of the journal."""
        wanted = json.loads((part / _JOURNAL).read_text(encoding="utf-8"))["sha256"]
        seen = 0
        for x, _ in self.input.blocks(0):
            x = x[: rows - seen]
            digest.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
            seen += len(x)
            if seen == rows:
                break
        return bool(seen == rows and digest.hexdigest() == wanted)


def _encoded(y: NDArray[Any], dtype: str, cells: Mapping[str, Any]) -> RowBlock:
    if dtype != "int8":
        return RowBlock(vectors=y.astype(dtype), cells=cells)
    largest = np.abs(y).max(axis=1).astype(np.float32)
    scale = largest / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    return RowBlock(vectors=np.rint(y * inverse[:, None]).astype(np.int8), scale=scale, cells=cells)


def _empty(part: Path) -> None:
    """Remove what an earlier call left, but for the lock."""
    for entry in part.iterdir():
        if entry.name == ".lock":
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _publish(part: Path, files: list[tuple[str, str]], place: Path) -> None:
    """Rename the result, and what goes with it first, to where they belong."""
    for name, ending in files:
        to = place.with_name(place.stem + ending) if ending else place
        if to.is_dir():  # a rename cannot replace it
            old = part / "replaced"
            os.rename(to, old)
            try:
                os.rename(part / name, to)
            except BaseException:
                os.rename(old, to)
                raise
        else:
            os.replace(part / name, to)
    sync_folder(place.parent)
