"""Write arrays: .npy, .npz and .safetensors, whose heads are filled in when all rows are there."""

from __future__ import annotations

import json
import os
import shutil
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coreframe.data.writer import NAME, RESULT, RawFile, RowBlock, VectorWriter
from coreframe.storage import sync_folder


@dataclass(kw_only=True, eq=False)
class ArrayWriter(VectorWriter):
    """The base of formats that are a head and the plain bytes of rows."""

    head: int = 0
    """Bytes that are left free at the start of the file."""
    shape: tuple[int, int] = (0, 0)
    dtype: str = ""
    scaled: bool = False

    def __post_init__(self) -> None:
        self._rows = RawFile(self.folder / RESULT)
        self._scale = RawFile(self.folder / "scale")

    def write(self, block: RowBlock) -> None:
        if not self.dtype:
            self.dtype = block.vectors.dtype.newbyteorder("<").str
            self.shape = (0, int(block.vectors.shape[1]))
            self.scaled = block.scale is not None
            self._rows.append(bytes(self.head))
        self._rows.append(np.ascontiguousarray(block.vectors, self.dtype).reshape(-1).data)
        if block.scale is not None:
            self._scale.append(np.ascontiguousarray(block.scale, "<f4").data)
        self.shape = (self.shape[0] + len(block.vectors), self.shape[1])

    def sync(self) -> dict[str, Any]:
        self._rows.sync()
        self._scale.sync()
        return {"shape": list(self.shape), "dtype": self.dtype, "scaled": self.scaled}

    def resume(self, state: Mapping[str, Any]) -> None:
        self.shape = (int(state["shape"][0]), int(state["shape"][1]))
        self.dtype, self.scaled = str(state["dtype"]), bool(state["scaled"])
        width = self.shape[1] * np.dtype(self.dtype).itemsize
        self._rows.size = self.head + self.shape[0] * width
        self._scale.size = 4 * self.shape[0] if self.scaled else 0

    def close(self) -> None:
        self._rows.close()
        self._scale.close()

    def _set_head(self, data: bytes) -> None:
        """Write what stands before the rows, and bring the file to the disk."""
        self.sync()
        self.close()
        with open(self._rows.path, "r+b") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


class NpyWriter(ArrayWriter):
    """``.npy``; the scales of int8 rows stand in a second file, ``.scale.npy``."""

    def __post_init__(self) -> None:
        self.head = _NPY_HEAD
        super().__post_init__()

    def finish(self) -> list[tuple[str, str]]:
        self._set_head(_npy_head(self.dtype, self.shape))
        files = [(RESULT, "")]
        if self.scaled:
            scale = self.folder / "scale.npy"
            np.save(scale, np.fromfile(self._scale.path, "<f4"))
            files.insert(0, (scale.name, ".scale.npy"))
        return files


class NpzWriter(NpyWriter):
    """``.npz`` with the arrays ``embedding`` and, of int8 rows, ``scale``; not compressed."""

    def finish(self) -> list[tuple[str, str]]:
        members = {NAME: self.folder / super().finish()[-1][0]}
        if self.scaled:
            members["scale"] = self.folder / "scale.npy"
        whole = self.folder / "archive"
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED) as archive:
            for name, path in members.items():
                entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
                with archive.open(entry, "w", force_zip64=True) as to, open(path, "rb") as source:
                    shutil.copyfileobj(source, to, 1 << 20)
        _sync_file(whole)
        return [(whole.name, "")]


class SafetensorsWriter(ArrayWriter):
    """``.safetensors`` with the tensors ``embedding`` and, of int8 rows, ``scale``."""

    def __post_init__(self) -> None:
        texts = len(json.dumps(dict(self.metadata)))
        self.head = 8 * -(-(512 + texts) // 8)
        super().__post_init__()

    def finish(self) -> list[tuple[str, str]]:
        begin = self._rows.size - self.head
        code = {"<f4": "F32", "<f2": "F16", "|i1": "I8"}[self.dtype]
        entries: dict[str, Any] = {"__metadata__": dict(self.metadata)}
        entries[NAME] = {"dtype": code, "shape": list(self.shape), "data_offsets": [0, begin]}
        if self.scaled:
            end = begin + self._scale.size
            entries["scale"] = {
                "dtype": "F32", "shape": [self.shape[0]], "data_offsets": [begin, end],
            }  # fmt: skip
            self._scale.sync()
            self._scale.close()
            with open(self._scale.path, "rb") as file:
                while data := file.read(1 << 20):
                    self._rows.append(data)
        text = json.dumps(entries, separators=(",", ":")).encode()
        size = self.head - 8
        self._set_head(struct.pack("<Q", size) + text.ljust(size))
        return [(RESULT, "")]


_NPY_HEAD = 128


def _npy_head(dtype: str, shape: tuple[int, int]) -> bytes:
    """Return the head of a .npy file, always of 128 bytes."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}"
    return b"\x93NUMPY\x01\x00\x76\x00" + text.encode().ljust(_NPY_HEAD - 11) + b"\n"


def _sync_file(path: Path) -> None:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
    sync_folder(path.parent)
