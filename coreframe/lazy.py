"""Rows that are made when they are asked for, so that a changed copy of all never exists.

``lazily(documents, adapter)`` is the adapted array where that is small, and else a ``LazyRows``,
whose blocks are adapted one at a time: ``rows[a:b]``, or ``rows.take(numbers)``.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from coreframe.backend import Array, device_of, namespace

LARGE = 2**26
"""Bytes of an array from which a changed copy of it is made block by block."""

BLOCK_ROWS = 8192
"""Rows of the blocks that go over a whole array."""

_TOGETHER = 16  # rows; products add up in one order for all rows of such a multiple


class LazyRows:
    """``function(source)``, row by row, made block by block: (n, d).

    Args:
        source: (n, d_in), for example a mapped file.
        function: rows in, as many rows out; a row of the result depends on that row alone.
        serial: whether the function must not be called by several threads at once.
    """

    ndim = 2

    def __init__(
        self, source: Array | LazyRows, function: Callable[[Array], Array], *, serial: bool = False
    ) -> None:
        self.source = source
        self.function = function
        first = function(source[:1, :])
        self.dtype = first.dtype
        self.shape: tuple[int, int] = (int(source.shape[0]), int(first.shape[1]))
        self._turn: Any = threading.Lock() if serial else contextlib.nullcontext()

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Array:
        """Return the rows of a slice, ``rows[a:b]`` or ``rows[a:b, :]``."""
        part = key[0] if isinstance(key, tuple) else key
        return self._made(self.source[slice(*part.indices(len(self))), :])

    def take(self, rows: Any) -> Array:
        """Return rows by their numbers, integers on the host."""
        return self._made(take(self.source, rows))

    def _made(self, x: Array) -> Array:
        xp, n = namespace(source=x), x.shape[0]
        short = -n % _TOGETHER
        if short:  # so that equal rows give equal results, wherever they stand
            more = xp.zeros((short, x.shape[1]), dtype=x.dtype, device=device_of(x))
            x = xp.concat([x, more], axis=0)
        with self._turn:
            return self.function(x)[:n, :]


def lazily(
    x: Array | LazyRows, function: Callable[[Array], Array], *, serial: bool = False
) -> Array | LazyRows:
    """Return ``function(x)``, made block by block where x (n, d) is large."""
    if is_large(x):
        return LazyRows(x, function, serial=serial)
    return function(x)


def is_large(x: Array | LazyRows) -> bool:
    """Say whether an array (n, d) is one that should not be copied whole."""
    if isinstance(x, LazyRows):
        return True
    bits = int(namespace(x=x).finfo(x.dtype).bits)
    return bool(x.shape[0] * x.shape[1] * bits > 8 * LARGE)


def take(x: Array | LazyRows, rows: Any) -> Array:
    """Return rows of x (n, d) by their numbers, integers on the host."""
    if isinstance(x, LazyRows):
        return x.take(rows)
    xp = namespace(x=x)
    return xp.take(x, xp.asarray(rows, device=device_of(x)), axis=0)


def blocks(x: Array | LazyRows, rows: int = BLOCK_ROWS) -> Iterator[Array]:
    """Yield x (n, d) in blocks of rows."""
    for start in range(0, x.shape[0], rows):
        yield x[start : min(start + rows, x.shape[0]), :]


def mean(x: Array | LazyRows) -> Array:
    """Return the mean of the rows, (d,)."""
    if not isinstance(x, LazyRows):
        return namespace(x=x).mean(x, axis=0)
    total: Any = 0.0
    for part in blocks(x):
        total = total + namespace(x=part).sum(part, axis=0)
    return total / x.shape[0]
