"""Checks at the boundary: what a public function asks of its arguments, each stated once.

Every message names the argument, what came, and what was expected. Numbers may also be
schedulers, which are checked when they are resolved, or numbers that JAX traces.
"""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Sequence

from coreframe.backend import Array, device_of, is_array, namespace, on_host
from coreframe.dtypes import is_floating
from coreframe.errors import ArgumentError, ArgumentTypeError, nearest
from coreframe.lazy import blocks, is_large
from coreframe.ops import op

__all__ = [
    "choice",
    "embeddings",
    "flag",
    "is_scheduler",
    "is_traced",
    "number",
    "vector",
    "visible",
]


def number(
    owner: object,
    name: str,
    *,
    minimum: float | None = None,
    above: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
    integer: bool = False,
) -> None:
    """Check a numeric field of a component; a scheduler in its place is let through."""
    given = getattr(owner, name)
    if is_scheduler(given):
        return
    where = f"{type(owner).__name__}.{name}"
    wanted = numbers.Integral if integer else numbers.Real
    if isinstance(given, bool) or not isinstance(given, wanted):
        if is_traced(given):
            return
        kind = "an integer" if integer else "a number"
        raise ArgumentTypeError(f"{where} must be {kind}, got {given!r}")
    value = float(given)
    if not math.isfinite(value):
        raise ArgumentError(f"{where} must be finite, got {given!r}")
    bounds = []
    if above is not None:
        bounds.append((value > above, f"above {above:g}"))
    if minimum is not None:
        bounds.append((value >= minimum, f"at least {minimum:g}"))
    if below is not None:
        bounds.append((value < below, f"below {below:g}"))
    if maximum is not None:
        bounds.append((value <= maximum, f"at most {maximum:g}"))
    if not all(ok for ok, _ in bounds):
        expected = " and ".join(text for _, text in bounds)
        raise ArgumentError(f"{where} must be {expected}, got {given!r}")


def flag(owner: object, name: str) -> None:
    """Check a field that is true or false; a text such as "no" would count as true."""
    value = getattr(owner, name)
    if not isinstance(value, bool):
        raise ArgumentTypeError(
            f"{type(owner).__name__}.{name} must be True or False, got {value!r}"
        )


def choice(owner: object, name: str, options: Sequence[str]) -> None:
    """Check a field that takes one of a few words."""
    value = getattr(owner, name)
    if value not in options:
        raise ArgumentError(
            f"{type(owner).__name__}.{name} must be one of {', '.join(map(repr, options))}, "
            f"got {value!r}.{nearest(str(value), options)}"
        )


def is_scheduler(value: object) -> bool:
    """Say whether a field holds a scheduler (marked, so that nothing need be imported here)."""
    return getattr(value, "is_coreframe_scheduler", False) is True


def is_traced(value: object) -> bool:
    """Say whether a field holds a number that JAX traces, whose value nobody can look at."""
    return is_array(value) and device_of(value) is None


def embeddings(name: str, x: Array, *, width: int | None = None, ndim: int = 2) -> Array:
    """Check one array of embeddings and return it (cut off from torch's graph).

    Raises ArgumentTypeError for integers, ArgumentError for a wrong shape and for NaN or
    infinity, the latter on host arrays only, or everywhere under COREFRAME_CHECKS=1.
    """
    xp = namespace(**{name: x})
    letters = "(n, d)" if ndim == 2 else "(n, k, d)"
    if x.ndim != ndim:
        raise ArgumentError(
            f"{name} must have {ndim} dimensions {letters}, got shape {tuple(x.shape)}"
            + (f"; one vector is {name}[None, :]" if x.ndim == 1 else "")
        )
    if not is_floating(x.dtype, xp):
        raise ArgumentTypeError(
            f"{name} must be floating point, got {x.dtype}; "
            f"convert it first, for example xp.astype({name}, xp.float32)"
        )
    if x.shape[0] == 0 or x.shape[-1] == 0:
        raise ArgumentError(f"{name} is empty: its shape is {tuple(x.shape)}")
    if width is not None and x.shape[-1] != width:
        raise ArgumentError(
            f"{name} must have width {width} as the other embeddings, got {x.shape[-1]}"
        )
    if getattr(x, "requires_grad", False):
        x = x.detach()
    finite(name, x)
    return x


def visible(x: Array) -> bool:
    """Say whether values are looked at: on the host, and everywhere under COREFRAME_CHECKS=1."""
    asked = os.environ.get("COREFRAME_CHECKS") == "1"
    return on_host(x) or (asked and device_of(x) is not None)


@op
def all_finite(x: Array, /) -> bool:
    """Say whether no value is NaN or infinite; looks at the values, which waits for a device."""
    xp = namespace(x=x)
    return bool(xp.all(xp.isfinite(x)))


def finite(name: str, x: Array) -> None:
    """Raise ArgumentError if a host array (any array under COREFRAME_CHECKS=1) is not finite."""
    if not visible(x):
        return
    bad, first, start = 0, -1, 0
    # What is large, a mapped file perhaps, is looked at block by block.
    for part in blocks(x) if x.ndim == 2 and is_large(x) else (x,):
        if not all_finite(part):
            xp = namespace(**{name: part})
            wrong = ~xp.isfinite(part)
            bad += int(xp.sum(xp.astype(wrong, xp.int32)))
            rows = xp.any(xp.reshape(wrong, (part.shape[0], -1)), axis=1)
            if first < 0:
                first = start + int(xp.argmax(xp.astype(rows, xp.int32)))
        start += part.shape[0] if part.ndim else 0
    if bad:
        raise ArgumentError(
            f"{name} has {bad} values that are NaN or infinite, the first in row {first}; "
            f"drop those rows or replace the values"
        )


def vector(name: str, x: Array | None, length: int, *, of: str) -> Array | None:
    """Check a one-dimensional companion of an array: one entry a row of ``of``."""
    if x is None:
        return None
    shape = tuple(x.shape) if hasattr(x, "shape") else (len(x),)
    if shape != (length,):
        raise ArgumentError(f"{name} must have shape ({length},), one a row of {of}, got {shape}")
    return x


def weights(x: Array | None, length: int, *, of: str) -> Array | None:
    """Check example weights: (n,), real, not negative."""
    if x is None:
        return None
    vector("weights", x, length, of=of)
    xp = namespace(weights=x)
    if getattr(x, "requires_grad", False):
        x = x.detach()
    finite("weights", x)
    if on_host(x) and bool(xp.any(x < 0)):
        raise ArgumentError("weights must not be negative; a weight of 0 leaves an example out")
    return x
