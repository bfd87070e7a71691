"""Operations: a reference written against the Array API, and faster kernels from backends.

``@op`` marks the reference. A backend offers a kernel of the same name for its library
(``coreframe_kernels``), ``module:function`` for an operation of another package. A kernel may
return ``NotImplemented`` for inputs that it does not serve, and the reference is used.
``COREFRAME_KERNELS=off`` forces references everywhere.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

from coreframe.backend import Array, device_of, library_of, namespace
from coreframe.registry import import_target, kernel_table

__all__ = ["Op", "kernel", "op", "segment_sum", "softplus", "top_k"]

P = ParamSpec("P")
R = TypeVar("R")


class Op(Generic[P, R]):
    """A function whose kernel depends on the library of its first argument."""

    def __init__(self, reference: Callable[P, R]) -> None:
        self.reference = reference
        # Ours have plain names; those of others are told apart by their module.
        module, name = reference.__module__, reference.__name__
        self.name = name if module.partition(".")[0] == "coreframe" else f"{module}:{name}"
        functools.update_wrapper(self, reference)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        fast = kernel(self.name, args[0])
        if fast is not None:
            result = fast(*args, **kwargs)
            if result is not NotImplemented:
                return result  # type: ignore[no-any-return]
        return self.reference(*args, **kwargs)


def op(reference: Callable[P, R]) -> Op[P, R]:
    """Mark a function as the reference of an operation."""
    return Op(reference)


def kernel(name: str, x: Any) -> Callable[..., Any] | None:
    """Return the kernel called ``name`` for the library of array ``x``, or None."""
    target = kernel_table(library_of(x)).get(name)
    if target is None or os.environ.get("COREFRAME_KERNELS") == "off":
        return None
    return _load(target)


@functools.cache
def _load(target: str) -> Callable[..., Any]:
    found: Callable[..., Any] = import_target(target)
    return found


@op
def softplus(z: Array, /) -> tuple[Array, Array]:
    """Return log(1 + exp z) and its derivative 1 / (1 + exp -z), exact at both ends.

    What a logistic loss is made of; ``logaddexp`` is twenty times slower on NumPy.
    """
    xp = namespace(z=z)
    small = xp.exp(-xp.abs(z))
    zero = xp.zeros_like(z)
    slope = xp.where(z > 0, zero + 1, small) / (1 + small)
    return xp.where(z > 0, z, zero) + xp.log1p(small), slope


@op
def top_k(values: Array, k: int, /) -> Array:
    """Return the column indices of the k largest values of each row, largest first.

    values (n, m), not NaN; result (n, k) int. Ties go to the lower index. Requires k <= m.
    """
    xp = namespace(values=values)
    return xp.argsort(values, axis=1, descending=True, stable=True)[:, :k]


@op
def segment_sum(values: Array, segments: Array, count: int, /) -> Array:
    """Sum rows that share a segment: result[s] = sum of values[i] where segments[i] == s.

    values (n, d); segments (n,) int, anything outside 0..count-1 is left out; result (count, d).
    The reference sorts by segment and adds by doubling distances, in O(n d log n) and without
    any shape that depends on the data, in the same order at every run.
    """
    xp = namespace(values=values, segments=segments)
    n, d = values.shape
    if n == 0 or count == 0:
        return xp.zeros((count, d), dtype=values.dtype, device=device_of(values))
    outside = (segments < 0) | (segments >= count)
    keys = xp.where(outside, xp.full_like(segments, count), segments)
    order = xp.argsort(keys, stable=True)
    keys = xp.take(keys, order)
    sums = xp.take(values, order, axis=0)
    step = 1
    while step < n:  # an inclusive scan that stops at segment borders
        same = xp.astype(keys[step:] == keys[:-step], sums.dtype)[:, None]
        sums = xp.concat([sums[:step, :], sums[step:, :] + same * sums[:-step, :]], axis=0)
        step *= 2
    wanted = xp.arange(count, dtype=keys.dtype, device=device_of(values))
    last = xp.searchsorted(keys, wanted, side="right") - 1
    last = xp.where(last < 0, xp.zeros_like(last), last)
    found = xp.take(keys, last) == wanted
    return xp.where(found[:, None], xp.take(sums, last, axis=0), xp.zeros_like(sums[:1, :]))
