"""Arrays of seeded numbers in the dtypes that a library has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from coreframe.backend import device_of, library_of, namespace
from coreframe.dtypes import cast
from coreframe.testing.arrays import Place

DTYPES = ("float64", "float32", "float16", "bfloat16")


def in_dtype(x: Any, place: Place, dtype: str) -> Any:
    """Return an array on a library in a dtype; None where the library lacks it."""
    narrow = dtype in ("float16", "bfloat16")
    here = place(np.asarray(x, np.float32 if narrow else dtype))
    xp = namespace(here=here)
    wanted = getattr(xp, dtype, None)
    if wanted is None or (here.dtype != wanted and not narrow):
        return None  # JAX without 64 bits; the standard has no narrow ones
    return cast(here, wanted, xp)


def placed(values: Mapping[str, Any], place: Place, dtype: str) -> dict[str, Any]:
    return {name: in_dtype(x, place, dtype) for name, x in values.items()}


def known(place: Place) -> list[str]:
    """Return the dtypes that a library has."""
    return [dtype for dtype in DTYPES if in_dtype(np.zeros(1), place, dtype) is not None]


def kind(x: Any, shape: tuple[int, ...] | None = None) -> str:
    """Return what must be kept, in words: library, dtype, shape and device."""
    dtype = str(x.dtype).rpartition(".")[-1]
    return f"{library_of(x)} {dtype} {tuple(x.shape) if shape is None else shape} on {device_of(x)}"
