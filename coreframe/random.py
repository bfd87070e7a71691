"""Named random streams: a pure function of (seed, stream, step), the same on every backend.

Nothing here has hidden state, so a run that is resumed, or that moves to another array library,
draws the same numbers. Draws as large as a row block come from ``hash_keys``, an integer hash in
Array API operations; everything else from NumPy's Philox on the host.
"""

from __future__ import annotations

import hashlib
from typing import Any

from coreframe.backend import Array, is_array, library_of, namespace
from coreframe.errors import ArgumentTypeError

__all__ = ["gumbel", "stream"]


def stream(seed: int, name: str, step: int = 0) -> Any:
    """Return a ``numpy.random.Generator`` that depends on the seed, the name and the step only."""
    import numpy as np

    digest = hashlib.blake2b(f"{seed}/{name}/{step}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


def hash_keys(seeds: tuple[int, int], rows: slice, columns: int, xp: Any, device: Any) -> Array:
    """Return uniform random keys in [0, 1), float32 (rows, columns), for one block of rows.

    The key of (row, column) depends on the seeds and on that pair alone, never on the blocks.
    The finaliser of MurmurHash3 (Appleby 2011) on 32-bit integers, which wrap in every library.
    """
    first, second = seeds
    row = xp.arange(rows.start, rows.stop, dtype=xp.int32, device=device)[:, None]
    column = xp.arange(columns, dtype=xp.int32, device=device)[None, :]
    x = _mix(row ^ first, xp) ^ column
    x = _mix(_mix(x, xp) ^ second, xp)
    return xp.astype(_shift(x, 8, xp), xp.float32) * (1.0 / (1 << 24))


def gumbel(keys: Array, dtype: Any) -> Array:
    """Turn the keys of ``hash_keys`` into independent standard Gumbel draws of a dtype.

    The k columns with the largest log w + g are k draws without replacement with probabilities
    proportional to w, each renormalised over what is left (Vieira 2014; Kool et al. 2019,
    arXiv 1903.06059, section 2.3). A key of 0 counts as 2**-25, so that the draws are finite.
    """
    xp = namespace(keys=keys)
    inside = xp.where(keys > 0, keys, xp.full_like(keys, 2.0**-25))
    return -xp.log(-xp.log(xp.astype(inside, dtype)))


def fresh_seeds(rng: Any) -> tuple[int, int]:
    """Draw the two 31-bit seeds of ``hash_keys``."""
    if not hasattr(rng, "integers"):
        raise ArgumentTypeError(
            "rng must be a numpy.random.Generator, such as coreframe.random.stream(seed, name), "
            f"got {rng!r}"
        )
    first, second = rng.integers(1 << 31), rng.integers(1 << 31)
    # Seeds that a key of JAX gives stay on the device: see coreframe.interop.jax.
    stays = is_array(first) and library_of(first) != "numpy"
    return (first, second) if stays else (int(first), int(second))


def _mix(x: Array, xp: Any) -> Array:
    x = x ^ _shift(x, 16, xp)
    x = x * _signed(0x85EBCA6B)
    x = x ^ _shift(x, 13, xp)
    x = x * _signed(0xC2B2AE35)
    return x ^ _shift(x, 16, xp)


def _shift(x: Array, by: int, xp: Any) -> Array:
    """Shift right and fill with zeros: the standard's shift repeats the sign bit."""
    return (x >> by) & ((1 << (32 - by)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 32)
