"""A backend under test: how it is made, and what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from coreframe import backend as selector
from coreframe import registry
from coreframe.backend import Backend, device_of, library_name, library_of
from coreframe.errors import UnknownName, nearest
from coreframe.testing import kit
from coreframe.testing.checks import NotApplicable
from coreframe.testing.process import Footprint

DTYPES = ("float64", "float32", "float16", "int64", "int32", "int8", "bool")
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}
NOWHERE = "no-such-device"
METHODS = ("missing", "asarray", "to_numpy", "synchronize", "memory")
MEMBERS = ("name", "xp", "device", *METHODS)


class Subject(kit.Subject):
    """A backend's class, and the backend that is made of it."""

    base = Backend

    def __init__(self, component: str | type[Backend] | Backend) -> None:
        self.device_text = ""
        self.registered = ""
        if isinstance(component, str):
            self.registered, _, self.device_text = component.partition(":")
            component = class_of(self.registered)
        super().__init__(component)
        self.kind: Any = component if isinstance(component, type) else type(component)

    @cached_property
    def made(self) -> Any:
        """The backend, whether it can run here or not."""
        given = self.component
        return given if not isinstance(given, type) else given(self.device_text)

    @property
    def backend(self) -> Any:
        """The backend, if it can run here."""
        if reason := self.made.missing():
            raise NotApplicable(f"it cannot run here: {reason}")
        return self.made

    def has(self, dtype: str) -> bool:
        """Say whether the library has a dtype: JAX has float64 only where it is switched on."""
        wanted = getattr(self.backend.xp, dtype, None)
        if wanted is None:
            return False
        try:
            return bool(self.backend.xp.zeros(1, dtype=wanted).dtype == wanted)
        except (TypeError, ValueError, RuntimeError):
            return False

    @cached_property
    def floats(self) -> list[str]:
        return [dtype for dtype in ("float64", "float32") if self.has(dtype)]

    @property
    def compiles(self) -> bool:
        """Whether every new shape and dtype takes long, so that one dtype must do."""
        return library_name(self.backend.xp) == "jax"

    @cached_property
    def dtypes(self) -> list[str]:
        return [dtype for dtype in DTYPES if self.has(dtype)]

    def here(self, x: Any, what: str) -> Iterator[str]:
        """Yield a sentence if an array is of another library or device than the backend's."""
        if not selector.is_array(x):
            yield f"{what} is {type(x).__name__}, no array"
        elif library_of(x) != library_name(self.backend.xp):
            yield f"{what} is an array of {library_of(x)}"
        elif device_of(x) != self.backend.device:
            yield f"{what} is on the device {device_of(x)}, the backend on {self.backend.device}"

    @cached_property
    def footprint(self) -> Footprint:
        _ = self.backend  # where it cannot run, that is no fault
        return super().footprint

    def exercise(self, component: Any, variant: int = 0) -> dict[str, Any]:
        backend = self.backend if component is self.component else self.kind(self.device_text)
        rng = np.random.default_rng(41 + variant)
        x, y = (backend.asarray(rng.standard_normal((5, 3)).astype(np.float32)) for _ in range(2))
        backend.synchronize()
        backend.memory()
        return {"x": backend.to_numpy(x), "x + y": backend.to_numpy(x + y)}


def class_of(name: str) -> type[Backend]:
    """Return the class of a registered backend."""
    try:
        found: type[Backend] = registry.registry().find("backends", name).load()
    except UnknownName:
        known = [entry.name for entry in registry.registry().entries("backends")]
        raise UnknownName(f"no backend is named {name!r}.{nearest(name, known)}") from None
    return found


def samples(dtype: str) -> dict[str, Any]:
    """Return NumPy arrays of one dtype in every form that memory has."""
    rng = np.random.default_rng(42)
    whole = rng.integers(0, 2 if dtype == "bool" else 100, (4, 6))
    x = (whole if np.dtype(dtype).kind in "ib" else whole / 7 - 5).astype(dtype)
    read_only = x.copy()
    read_only.flags.writeable = False
    return {
        "ordinary": x,
        "0-d": x[1, 1].reshape(()),
        "empty": x[:0],
        "without columns": x[:, :0],
        "transposed": x.T,
        "every second column": x[:, ::2],
        "backwards": x[::-1],
        "read-only": read_only,
    }
