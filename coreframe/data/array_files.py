"""Arrays of .npy, .npz and .safetensors files, mapped wherever their bytes lie as they are."""

from __future__ import annotations

import json
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coreframe.data.spool import collect, rows_at_once
from coreframe.data.tables import cannot_read
from coreframe.errors import DataError, nearest

Path: TypeAlias = str | os.PathLike[str]

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "|i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1",
}  # fmt: skip


def read(
    path: str, name: str | None, names: Sequence[str], ids: str | None, id_names: Sequence[str]
) -> tuple[NDArray[Any], list[str] | None, str]:
    """Return the matrix of a file, its ids if it has some, and where those come from.

    ``names`` are tried for the matrix; otherwise the only array of two dimensions is it.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".npy":
        return open_npy(path), None, ""
    arrays = _npz(path) if suffix == ".npz" else _safetensors(path)
    chosen = _choose(path, arrays, name, names)
    id_name = ids if ids is not None else next((n for n in id_names if n in arrays), None)
    if id_name is None:
        return arrays[chosen].read(), None, ""
    if id_name not in arrays:
        raise DataError(f"{path} has no array {id_name!r} for the ids.{nearest(id_name, arrays)}")
    where = f"array {id_name}"
    return arrays[chosen].read(), as_ids(arrays[id_name].read(), f"{path}, {where}"), where


def _choose(path: str, arrays: Mapping[str, Member], name: str | None, names: Sequence[str]) -> str:
    if name is not None:
        if name not in arrays:
            raise DataError(f"{path} has no array {name!r}.{nearest(name, arrays)}")
        return name
    if known := [n for n in names if n in arrays]:
        return known[0]
    matrices = [n for n, member in arrays.items() if len(member.shape) == 2]
    if len(matrices) != 1:
        told = ", ".join(f"{n} {m.shape}" for n, m in arrays.items()) or "none"
        raise DataError(
            f"{path} must hold one matrix, or one called {' or '.join(map(repr, names))}; "
            f"its arrays: {told}"
        )
    return matrices[0]


def as_ids(x: NDArray[Any], name: str) -> list[str]:
    """Return ids, whole numbers or texts (n,), as texts."""
    if x.ndim != 1 or x.dtype.kind not in "iuU":
        raise DataError(
            f"{name} must hold ids, whole numbers or texts (n,), got {x.dtype} {x.shape}"
        )
    return [str(i) for i in x.tolist()]


def read_labels(path: Path, count: int) -> NDArray[Any]:
    """Read one label a row, integers or texts, for ``count`` rows."""
    name = os.fspath(path)
    y = np.array(open_npy(name))
    if y.ndim != 1:
        raise DataError(f"{name} must hold one label a row, ({count},), got shape {y.shape}")
    if y.dtype.kind not in "iuU":
        raise DataError(
            f"{name} must hold integers or texts, got {y.dtype}; convert it first: "
            f"np.save({name!r}, y.astype(np.int64))"
        )
    if len(y) != count:
        raise DataError(f"{name} has {len(y)} labels for {count} rows")
    return y


def open_npy(path: str) -> NDArray[Any]:
    """Map a .npy file."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise cannot_read(path, error) from error
    except Exception as error:  # a damaged header fails in many ways, in Python's parser too
        raise DataError(
            f"{path} is not a readable .npy file of numbers or texts: {error}"
        ) from error


class Member:
    """One array of a file with several: what it is, and how to read it."""

    def __init__(self, shape: tuple[int, ...], read: Any) -> None:
        self.shape = shape
        self.read = read


# .npz -------------------------------------------------------------------------------------------


def _npz(path: str) -> dict[str, Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            found = {}
            for member in members:
                with archive.open(member) as file:
                    shape, fortran, dtype = _npy_header(file)
                    start = file.tell()
                name = member.filename.removesuffix(".npy")
                found[name] = Member(shape, _reader(path, member, shape, fortran, dtype, start))
            return found
    except OSError as error:
        raise cannot_read(path, error) from error
    except Exception as error:  # a damaged header fails in many ways, in Python's parser too
        raise DataError(f"{path} is not a readable .npz file: {error}") from error


def _npy_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(file)
    else:
        header = np.lib.format.read_array_header_2_0(file)
    shape, fortran, dtype = header
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    return shape, fortran, dtype


def _reader(
    path: str,
    member: zipfile.ZipInfo,
    shape: tuple[int, ...],
    fortran: bool,
    dtype: np.dtype[Any],
    start: int,
) -> Any:
    """Return what reads one member: a map if it is stored as it is, else block by block."""

    def read() -> NDArray[Any]:
        if member.compress_type == zipfile.ZIP_STORED and all(shape):
            with open(path, "rb") as file:
                file.seek(member.header_offset)
                fixed = struct.unpack("<4s22x2H", file.read(30))
            offset = member.header_offset + 30 + fixed[1] + fixed[2] + start
            order: Any = "F" if fortran else "C"
            return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape, order=order)
        with zipfile.ZipFile(path) as archive, archive.open(member) as file:
            if len(shape) != 2 or fortran or not all(shape):
                return np.asarray(np.lib.format.read_array(file, allow_pickle=False))
            file.read(start)
            found = collect(_pieces(file, shape, dtype))
            assert found is not None
            return found

    def checked() -> NDArray[Any]:
        try:
            return read()
        except OSError as error:
            raise cannot_read(path, error) from error
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError) as error:
            raise DataError(f"{path} is damaged at {member.filename}: {error}") from error

    return checked


def _pieces(file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    rows, width = shape
    height = rows_at_once(width)
    for begin in range(0, rows, height):
        count = min(height, rows - begin)
        raw = file.read(count * width * dtype.itemsize)
        if len(raw) < count * width * dtype.itemsize:
            raise ValueError(f"it ends after row {begin + len(raw) // (width * dtype.itemsize)}")
        yield np.frombuffer(raw, dtype).reshape(count, width)


# .safetensors -----------------------------------------------------------------------------------


def _safetensors(path: str) -> dict[str, Member]:
    from safetensors import SafetensorError, safe_open

    try:
        with open(path, "rb"):
            pass
        with safe_open(path, framework="np") as file:  # checks sizes, overlaps and holes
            names = list(file.keys())
        with open(path, "rb") as raw:
            size = struct.unpack("<Q", raw.read(8))[0]
            header = json.loads(raw.read(size))
    except OSError as error:
        raise cannot_read(path, error) from error
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{path} is not a readable .safetensors file: {error}") from error
    found = {}
    for name in names:
        entry = header[name]
        shape = tuple(entry["shape"])
        begin = 8 + size + entry["data_offsets"][0]
        found[name] = Member(shape, _tensor_reader(path, name, entry["dtype"], shape, begin))
    return found


def _tensor_reader(path: str, name: str, code: str, shape: tuple[int, ...], begin: int) -> Any:
    def read() -> NDArray[Any]:
        if code not in _DTYPES:
            raise DataError(f"{path}: {name!r} is stored as {code}, which is not read")
        if not all(shape):
            return np.zeros(shape, np.float32)
        x = np.memmap(path, dtype=_DTYPES[code], mode="r", offset=begin, shape=shape)
        if code != "BF16":
            return x
        if x.ndim != 2:
            return _widened(np.asarray(x))
        height = rows_at_once(shape[1])
        parts = (_widened(x[i : i + height]) for i in range(0, shape[0], height))
        found = collect(parts)
        assert found is not None
        return found

    return read


def _widened(x: NDArray[Any]) -> NDArray[Any]:
    """Return bfloat16, given as its bits, as float32: the upper half of the same number."""
    return (x.astype(np.uint32) << np.uint32(16)).view(np.float32)
