"""Which library computes (the arrays decide), and where new arrays live (the selector decides).

``namespace(anchors=a, references=r)`` answers the first question, once per public call.
``get_backend()`` answers the second: the argument, then ``COREFRAME_BACKEND``, then the library
of the arrays at hand, then NumPy. The variable is read at call time and never falls back
silently; there is no global switch.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

from coreframe import registry
from coreframe.errors import (
    ArgumentTypeError,
    BackendUnavailable,
    MixedArrays,
    UnknownName,
    nearest,
)

__all__ = [
    "Array",
    "Backend",
    "Params",
    "device_of",
    "get_backend",
    "is_array",
    "library_of",
    "namespace",
    "to_numpy",
]

Array: TypeAlias = Any
"""An array of any library that follows the Array API standard; no checker knows the type yet."""

Params: TypeAlias = Mapping[str, Array]
"""Parameters or gradients: flat, with dotted names such as ``adapter.query.W``."""

VARIABLE = "COREFRAME_BACKEND"


@runtime_checkable
class Backend(Protocol):
    """What the Array API standard lacks, for one library on one device.

    A backend is constructed with the text after the colon of its name (``cupy:1`` -> ``"1"``),
    which is empty for the default device. ``missing()`` is asked before anything else.
    """

    name: str

    def __init__(self, device: str = "") -> None: ...

    @property
    def xp(self) -> Any:
        """The Array API namespace."""

    @property
    def device(self) -> Any:
        """The device, as the library itself names it."""

    def missing(self) -> str | None:
        """Return why this backend cannot run here and what to install, or None."""

    def asarray(self, x: Any, /, dtype: Any = None) -> Array:
        """Bring numbers, or an array of any library, to this library and device."""

    def to_numpy(self, x: Array, /) -> Any:
        """Copy an array of this library to a NumPy array."""

    def synchronize(self) -> None:
        """Wait until the device has finished all work."""

    def memory(self) -> int:
        """Return the bytes that this process holds on the device now."""


# Which library computes ---------------------------------------------------------------------

_namespaces: dict[type, Any] = {}  # array type -> namespace; only ever grows by known types


def _namespace_of(x: Any) -> Any:
    """Return the namespace of one array, or None if it is not an array."""
    kind = type(x)
    found = _namespaces.get(kind)
    if found is None:
        import array_api_compat

        if not array_api_compat.is_array_api_obj(x):
            return None
        found = _namespaces[kind] = array_api_compat.array_namespace(x)
    return found


def namespace(**arrays: Any) -> Any:
    """Return the Array API namespace of the given arrays, after checking that they agree.

    Arguments that are None or plain numbers are ignored. Raises ArgumentTypeError for lists and
    other non-arrays, and MixedArrays, which lists every argument, if two libraries or two
    devices are mixed.
    """
    found: Any = None
    place: Any = None
    for name, x in arrays.items():
        if x is None or type(x) in (bool, int, float):  # NumPy's float64 is an array here
            continue
        xp = _namespace_of(x)
        if xp is None:
            raise ArgumentTypeError(
                f"{name} must be an array, got {_type_name(x)}; "
                f"make one with numpy.asarray({name}) or coreframe.get_backend().asarray({name})"
            )
        here = device_of(x)
        if found is None:
            found, place = xp, here
        elif xp is not found or (here != place and here is not None and place is not None):
            raise MixedArrays(_describe_mix(arrays))
    if found is None:
        raise ArgumentTypeError(f"at least one array is needed among: {', '.join(arrays)}")
    return found


def is_array(x: Any) -> bool:
    """Say whether x is an array of a library that follows the standard."""
    return _namespace_of(x) is not None


def device_of(x: Array) -> Any:
    """Return the device of an array; None while JAX traces a function."""
    if type(x).__module__ == "numpy":
        return "cpu"
    import array_api_compat

    return array_api_compat.device(x)


def library_of(x: Array) -> str:
    """Return the name of an array's library: ``numpy``, ``cupy``, ``torch``, ``jax``, ..."""
    return library_name(_namespace_of(x))


@functools.cache
def library_name(xp: Any) -> str:
    """Return the library that a namespace belongs to."""
    name: str = xp.__name__
    return name.removeprefix("array_api_compat.").partition(".")[0]


def on_host(x: Array) -> bool:
    """Say whether looking at a value costs no wait for a device and is possible at all."""
    return "cpu" in str(device_of(x)).lower()


def to_numpy(x: Any) -> Any:
    """Copy any array to NumPy. The only way out of a device; used at the edges, not in maths."""
    import numpy as np

    xp = _namespace_of(x)
    if xp is None or isinstance(x, (np.ndarray, np.generic)):
        return np.asarray(x)
    library = library_name(xp)
    if backend := own_backend(library):
        return backend().to_numpy(x)
    import array_api_compat

    devices = xp.__array_namespace_info__().devices()
    host = next((d for d in devices if "cpu" in str(d).lower()), None)
    return np.asarray(array_api_compat.to_device(x, host) if host is not None else x)


def _type_name(x: Any) -> str:
    kind = type(x)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


def _describe_mix(arrays: Mapping[str, Any]) -> str:
    lines = [
        f"  {name}: {library_of(x)} on {device_of(x)}"
        for name, x in arrays.items()
        if _namespace_of(x) is not None
    ]
    return (
        "arrays of one call must share their library and device, got\n"
        + "\n".join(lines)
        + "\nmove them with coreframe.get_backend(NAME).asarray(...)"
    )


# Where new arrays live ----------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """A backend together with who chose it, for reports."""

    backend: Backend
    source: str


def get_backend(name: str | None = None) -> Backend:
    """Return a backend by name, else by COREFRAME_BACKEND, else NumPy.

    Names are ``numpy``, ``cupy``, ``cupy:1``, ``torch``, ``torch:cuda``, ``jax``, ``auto`` (CuPy
    if a device answers, else NumPy), and those of plugins. Raises UnknownName, or
    BackendUnavailable if the backend is known but cannot run here; never falls back.
    """
    return choose_backend(name).backend


def choose_backend(name: str | None = None, *, like: Array | None = None) -> Choice:
    """Choose a backend: the argument, the environment, the library of ``like``, then NumPy."""
    if name is not None:
        return Choice(_open(name, "argument"), "argument")
    if variable := os.environ.get(VARIABLE, "").strip():
        return Choice(_open(variable, VARIABLE), VARIABLE)
    if like is not None and (own := own_backend(library_of(like))) is not None:
        device = device_of(like)
        backend = own("" if device is None else str(device))
        return Choice(backend, "default" if backend.name == "numpy" else "the arrays given")
    return Choice(_open("numpy", "default"), "default")


def _open(name: str, source: str) -> Backend:
    if not isinstance(name, str):
        raise ArgumentTypeError(f"backend must be a name such as 'numpy', got {_type_name(name)}")
    if name == "auto":
        return next(
            b for b in (_open_class(n)("") for n in ("cupy", "numpy")) if b.missing() is None
        )
    library, _, device = name.partition(":")
    try:
        kind = _open_class(library)
    except UnknownName:
        known = [entry.name for entry in registry.registry().entries("backends")]
        raise UnknownName(
            f"no backend is named {library!r} (from {source}).{nearest(library, [*known, 'auto'])}"
        ) from None
    backend = kind(device)
    if reason := backend.missing():
        raise BackendUnavailable(f"backend {name!r} (from {source}) cannot run here: {reason}")
    return backend


def _open_class(library: str) -> type[Backend]:
    own = own_backend(library)
    if own is not None:
        return own
    found: type[Backend] = registry.registry().find("backends", library).load()
    return found


def own_backend(library: str) -> type[Backend] | None:
    """Return our own backend class for a library, without loading other people's plugins."""
    module = registry.own_plugin(library)
    if module is None:
        return None
    found: type[Backend] = registry.import_target(module.coreframe_backends()[library])
    return found
