"""torch's ``.bin`` files, written and read without torch.

Such a file is a zip archive without compression: ``archive/data.pkl``, the instructions that put
tensors together, ``archive/data/0`` and so on, their numbers, and ``archive/version``. Only what
a mapping of names to float32 tensors needs is written, in fixed opcodes that
``torch.load(weights_only=True)`` allows. Nothing is ever unpickled here: reading compares the
opcodes with those that are expected.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Mapping

import numpy as np

from coreframe.errors import ExportError
from coreframe.export.files import zipped
from coreframe.export.target import Floats

_OPEN = b"\x80\x02ccollections\nOrderedDict\n)R("  # protocol 2, OrderedDict(), a mark
_TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(("  # the function, its arguments, a storage's id
_STORAGE = b"ctorch\nFloatStorage\n"
_END = b"u."  # set the items, stop


def write(tensors: Mapping[str, Floats]) -> bytes:
    """Return the content of a file that torch loads as a mapping of float32 tensors."""
    arrays = {name: np.ascontiguousarray(x, "<f4") for name, x in tensors.items()}
    members = {
        "archive/data.pkl": _instructions({name: x.shape for name, x in arrays.items()}),
        "archive/byteorder": b"little",
        "archive/version": b"3\n",
    }
    data = {f"archive/data/{i}": x.tobytes() for i, x in enumerate(arrays.values())}
    return zipped(members | data)


def read(content: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
    """Return the tensors of these names and shapes; raises ExportError if the file has others."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if archive.read("archive/data.pkl") != _instructions(shapes):
            raise ExportError(f"the .bin file does not hold just the tensors {dict(shapes)}")
        return {
            name: np.frombuffer(archive.read(f"archive/data/{i}"), "<f4").reshape(shape)
            for i, (name, shape) in enumerate(shapes.items())
        }


def _instructions(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """Return the opcodes that make a mapping of tensors."""
    items = (_text(name) + _tensor(i, shape) for i, (name, shape) in enumerate(shapes.items()))
    return _OPEN + b"".join(items) + _END


def _tensor(number: int, shape: tuple[int, ...]) -> bytes:
    """Return the opcodes of _rebuild_tensor_v2(storage, 0, shape, strides, False, hooks)."""
    strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    storage = _text("storage") + _STORAGE + _text(str(number)) + _text("cpu")
    return (
        _TENSOR + storage + _whole(math.prod(shape)) + b"tQ"  # the storage, by its id
        + _whole(0) + _tuple(shape) + _tuple(strides)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _whole(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _tuple(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_whole, values)) + b"t"
