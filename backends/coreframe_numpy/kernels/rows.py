"""What is done to rows of embeddings before the products and after them, and to their distances.

Large arrays are worked on in slices of rows that fit the processor's cache, on the pool; each row
is computed by itself, so the cut changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from coreframe.backend import Array
from coreframe_numpy.kernels import threads

_CACHE = 2**16  # entries of a slice
_SMALL = 2**18  # entries, under which one thread is done sooner than two have started


def _by_rows(run: Callable[[slice], None], shape: tuple[int, ...]) -> None:
    n, d = shape
    if n * d <= _SMALL:
        run(slice(0, n))
        return
    step = max(1, _CACHE // d)
    turns = [slice(i, min(i + 8 * step, n)) for i in range(0, n, 8 * step)]

    def turn(part: slice) -> None:
        for i in range(part.start, part.stop, step):
            run(slice(i, min(i + step, part.stop)))

    threads.each(turn, turns)


def unit_rows(x: Array, /, dtype: Any = None) -> Any:
    """Lengths by one sum of squares, where none of them is too large or too small for it. Narrow
    rows are widened slice by slice.
    """
    if x.size == 0:
        return NotImplemented
    flat = x.reshape(-1, x.shape[-1])
    dtype = x.dtype if dtype is None else dtype
    unit, inverse = np.empty(flat.shape, dtype), np.empty((len(flat), 1), dtype)
    info = np.finfo(dtype)
    low, high = float(info.smallest_normal) / float(info.eps), float(info.max)
    safe = []

    def run(part: slice) -> None:
        here = flat[part].astype(dtype, copy=False)
        with np.errstate(over="ignore", divide="ignore"):
            squares = np.einsum("ij,ij->i", here, here)
            np.divide(1, np.sqrt(squares), out=inverse[part, 0])
        # What is summed keeps its digits down to the smallest normal number, over eps.
        safe.append(bool(low < squares.min() and squares.max() <= high))
        if safe[-1]:
            np.multiply(here, inverse[part], out=unit[part])

    _by_rows(run, flat.shape)
    if not all(safe):
        return NotImplemented
    return unit.reshape(x.shape), inverse.reshape(*x.shape[:-1], 1)


def across(gradient: Array, unit: Array, inverse: Array, /, dtype: Any = None) -> Any:
    """One pass to find what stands along a row, one to take it off."""
    if gradient.ndim != 2 or gradient.dtype != unit.dtype:
        return NotImplemented
    result = np.empty(gradient.shape, gradient.dtype if dtype is None else dtype)

    def run(part: slice) -> None:
        g, u = gradient[part], unit[part]
        found = u * np.einsum("ij,ij->i", g, u)[:, None]
        np.subtract(g, found, out=found)
        np.multiply(found, inverse[part], out=result[part], casting="same_kind")

    _by_rows(run, gradient.shape)
    return result


def minus_distances(inner: Array, left: Array, right: Array, /, *, squared: bool) -> Array:
    """In place, but for one array of the same size."""
    total = left + right
    found = inner
    found *= -2
    found += total
    total *= 4 * np.finfo(inner.dtype).eps  # closer than rounding can tell apart
    np.copyto(found, 0, where=found <= total)
    if not squared:
        np.sqrt(found, out=found)
    return np.negative(found, out=found)


def by_squared_distances(gradient: Array, similarities: Array, /) -> Array:
    """Divide, then mend where points coincide."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Any = gradient / similarities
    found *= -0.5
    np.copyto(found, 0, where=similarities >= 0)
    return found


def keep_rows(x: Array, keep: Array, /) -> Array:
    """Most blocks keep all of their rows."""
    return x if keep.all() else np.where(keep[:, None], x, 0)


def all_finite(x: Array, /) -> Any:
    """A sum of squares is finite only if all of them are; where it is not, they may be large."""
    if x.dtype.itemsize < 4 or not x.flags.c_contiguous:
        return NotImplemented
    flat = x.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.dot(flat, flat)
    return bool(np.isfinite(total)) or NotImplemented


def softplus(z: Array, /) -> Any:
    """Arithmetic alone: a masked pass costs ten times as much where the signs are mixed."""
    if not z.ndim:
        return NotImplemented
    value = np.abs(z)
    np.negative(value, out=value)
    np.exp(value, out=value)
    np.log1p(value, out=value)
    value += np.maximum(z, 0)
    slope = np.negative(z)
    with np.errstate(over="ignore"):  # 1 / infinity is what the slope is there
        np.exp(slope, out=slope)
    slope += 1
    return value, np.divide(1, slope, out=slope)
