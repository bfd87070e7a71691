"""Tensors as arrays of other libraries and back, with shared memory; and how losses see them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from coreframe import registry
from coreframe.backend import Array, is_array, library_of
from coreframe.errors import ArgumentError, ArgumentTypeError

__all__ = ["as_array", "as_tensor"]

T = TypeVar("T")


def as_tensor(x: Array) -> torch.Tensor:
    """Return an array of any library as a tensor on its device, with shared memory (DLPack).

    A tensor comes back as it is. What cannot be shared, a read-only array of NumPy and one with
    steps backwards, is copied on the processor.

    Raises ArgumentTypeError for what is no array.

    >>> import numpy as np
    >>> x = np.zeros(3)
    >>> t = as_tensor(x)
    >>> x[0] = 1
    >>> t.tolist()
    [1.0, 0.0, 0.0]
    """
    if isinstance(x, torch.Tensor):
        return x
    if not is_array(x):
        raise ArgumentTypeError(f"x must be an array, got {type(x).__name__}")
    if library_of(x) != "numpy":
        return torch.from_dlpack(x)
    import numpy as np

    x = np.asarray(x)  # its scalars have no memory to share
    shared = x.flags.writeable and min(x.strides, default=0) >= 0
    return torch.from_numpy(x if shared else x.copy())


def as_array(x: torch.Tensor, library: str = "numpy") -> Array:
    """Return a tensor as an array of another library on the same device, with shared memory.

    The array is cut off from the graph. ``library`` is numpy, torch, cupy or jax.

    Raises ArgumentError for a tensor of a GPU that NumPy is to see: nothing is copied from one
    device to another behind your back; ArgumentTypeError for what is no tensor, and for a dtype
    that the library lacks.

    >>> t = torch.zeros(3, requires_grad=True)
    >>> as_array(t)
    array([0., 0., 0.], dtype=float32)
    """
    if not isinstance(x, torch.Tensor):
        raise ArgumentTypeError(f"x must be a tensor, got {type(x).__name__}")
    x = x.detach()
    if library == "torch":
        return x
    if library == "numpy":
        if x.device.type != "cpu":
            raise ArgumentError(
                f"NumPy computes on the processor, and this tensor is on {x.device}; move it "
                "with .cpu(), or compute where it is, with library='torch'"
            )
        if x.dtype is torch.bfloat16:
            raise ArgumentTypeError("NumPy has no bfloat16; convert the tensor with .float()")
        return x.numpy()
    own = registry.own_plugin(library)
    if own is None:
        raise ArgumentError(f"library must be numpy, torch, cupy or jax, got {library!r}")
    xp: Any = registry.import_target(own.coreframe_backends()[library])().xp
    return xp.from_dlpack(x)


def computing(x: torch.Tensor, library: str | None) -> str:
    """Return the library that computes on a tensor: the given one, or NumPy on the processor."""
    return library or ("numpy" if x.device.type == "cpu" else "torch")


def shared(value: T, library: str) -> T:
    """Return a batch or a relation with all its tensors as arrays of another library."""
    if library == "torch":
        return value
    changes: dict[str, Any] = {}
    for f in dataclasses.fields(value):  # type: ignore[arg-type]
        x = getattr(value, f.name)
        if isinstance(x, torch.Tensor):
            changes[f.name] = as_array(x, library)
        elif dataclasses.is_dataclass(x):
            changes[f.name] = shared(x, library)
    return dataclasses.replace(value, **changes) if changes else value  # type: ignore[type-var]


def widened(x: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Return a tensor cut off from the graph, in the dtype that is computed in.

    That is its own, or the given one, and float32 for anything narrower; integers stay.
    """
    x = x.detach()
    if not x.is_floating_point():
        return x
    dtype = dtype or x.dtype
    return x.to(dtype if torch.finfo(dtype).bits >= 32 else torch.float32)


def exactly(device: torch.device) -> Any:
    """Return a context without autocast: what is computed in float32 stays so."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return contextlib.nullcontext()


@contextlib.contextmanager
def numpy_named(part: object, device: torch.device) -> Iterator[None]:
    """Say what to do where a component hands tensors of another device to NumPy."""
    try:
        yield
    except (TypeError, RuntimeError) as error:
        if device.type == "cpu" or "to numpy" not in str(error):
            raise
        raise ArgumentError(
            f"{type(part).__name__} computes with NumPy alone, and these tensors are on {device}; "
            "move them with .cpu(), or write it with xp = coreframe.namespace(...)"
        ) from error


def uncompiled(function: Callable[..., T]) -> Callable[..., T]:
    """Let ``torch.compile`` step around a function: the graph breaks, and the result is right.

    Asked at the call, since ``torch.compiler.disable`` loads the compiler, which takes seconds.
    """

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> T:
        if torch.compiler.is_compiling():
            found: T = torch.compiler.disable(function)(*args, **kwargs)
            return found
        return function(*args, **kwargs)

    return called
