"""In which dtype something is computed: float32 for anything narrower, else its own."""

from __future__ import annotations

import functools
from typing import Any

from coreframe.backend import Array


def computing_dtype(x: Array, xp: Any) -> Any:
    """Return the dtype that a floating array is computed in."""
    return _computing(x.dtype, xp)


@functools.cache
def _computing(dtype: Any, xp: Any) -> Any:
    return xp.float32 if int(xp.finfo(dtype).bits) < 32 else dtype


def cast(x: Array, dtype: Any, xp: Any) -> Array:
    """Return an array in a dtype; the same array where it has it."""
    # NumPy's arithmetic turns arrays without dimensions into its scalars.
    x = x if x.ndim else xp.asarray(x)
    return x if x.dtype == dtype else xp.astype(x, dtype)


def widened(x: Array, xp: Any) -> Array:
    """Return an array in the dtype that it is computed in."""
    return cast(x, computing_dtype(x, xp), xp)


@functools.cache
def is_floating(dtype: Any, xp: Any) -> bool:
    """Say whether a dtype is real floating."""
    return bool(xp.isdtype(dtype, "real floating"))
