"""Vectors that come block by block: small ones are held in memory, large ones on disk, mapped.

The temporary file has no name on Unix and is deleted when it is closed elsewhere, so nothing is
left behind whatever happens. It is made where TMPDIR says.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.errors import OutputError

IN_MEMORY = 1 << 26
"""Bytes that are held in memory; more go to disk."""

BLOCK = 1 << 22
"""Numbers that are worked on at a time: bounds the memory."""


def collect(blocks: Iterable[NDArray[Any]], *, in_memory: int | None = None) -> NDArray[Any] | None:
    """Return blocks (n_i, d) of one dtype as one array (n, d), mapped if it is large.

    None if there is no block. Raises OutputError if the temporary file cannot be written.
    """
    limit = IN_MEMORY if in_memory is None else in_memory
    held: list[NDArray[Any]] = []
    source = iter(blocks)
    size = 0
    for block in source:
        held.append(block)
        size += block.nbytes
        if size > limit:
            return _mapped(held, source)
    return np.concatenate(held) if len(held) > 1 else next(iter(held), None)


def _mapped(held: list[NDArray[Any]], rest: Iterator[NDArray[Any]]) -> NDArray[Any]:
    width, dtype, count = held[0].shape[1], held[0].dtype, 0
    try:
        with tempfile.TemporaryFile(prefix="coreframe-") as file:  # the map outlives it
            for blocks in (held, rest):
                for block in blocks:
                    file.write(np.ascontiguousarray(block).data)
                    count += len(block)
                held.clear()
            file.flush()
            found = np.memmap(file, dtype=dtype, mode="r", shape=(count, width))
    except OSError as error:
        raise OutputError(
            f"cannot keep vectors in a temporary file in {tempfile.gettempdir()}: "
            f"{error.strerror or error}; TMPDIR names another folder"
        ) from None
    return found


def rows_at_once(width: int) -> int:
    """Return how many rows of a width make up a block."""
    return max(1, BLOCK // max(1, width))


def blocks_of(x: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield a matrix in blocks of rows, one after the other."""
    height = rows_at_once(x.shape[1])
    for start in range(0, len(x), height):
        yield x[start : start + height]


def take_rows(x: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return some rows of a matrix: itself if they are all in order, else a copy as ``collect``
    makes it.
    """
    if len(rows) == len(x) and np.array_equal(rows, np.arange(len(x))):
        return x
    height = rows_at_once(x.shape[1])
    parts = (x[rows[i : i + height]] for i in range(0, len(rows), height))
    found = collect(parts)
    return x[:0] if found is None else found


def computable(x: NDArray[Any]) -> NDArray[Any]:
    """Return vectors as floating-point numbers of this machine's byte order: float16, float32 and
    float64 as they are, whole numbers as float32.
    """
    wanted = x.dtype.newbyteorder("=") if x.dtype.kind == "f" else np.dtype(np.float32)
    if x.dtype == wanted:
        return x
    with np.errstate(invalid="ignore"):  # NaN is found later, when all values are looked at
        found = collect(part.astype(wanted) for part in blocks_of(x))
    assert found is not None  # x is not empty
    return found
