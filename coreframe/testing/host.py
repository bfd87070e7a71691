"""What looks at a value on the host: found without a GPU and without JAX."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import coreframe
from coreframe.testing import arrays
from coreframe.testing.arrays import Place
from coreframe.testing.checks import NotApplicable, explain

STRICT = "array-api-strict"
CORE = os.path.dirname(coreframe.__file__) + os.sep

LOOKS = {
    "__bool__": "bool() or `if`",
    "__float__": "float()",
    "__int__": "int()",
    "__index__": "an array as a number",
    "__array__": "a NumPy copy",
    "__dlpack__": "a copy to the host",
}


class LooksAtValue(Exception):
    """Raised where Python asks for a value of an array."""


def looks(libraries: Mapping[str, Place], call: Callable[[Place], Any]) -> Iterator[str]:
    """Yield the first look at a value in a call, whose argument brings arrays to a device.

    ``call`` makes its arrays and returns a function, which is watched. Raises NotApplicable where
    nothing here shows who looks at values.
    """
    _shown(libraries)
    for library, place in arrays.devices().values():
        if library == STRICT and library in libraries:
            watched = call(place)
            with _unseen():
                try:
                    watched()
                except LooksAtValue as error:
                    yield explain(error, but_for=CORE)


def _shown(libraries: Mapping[str, Place]) -> None:
    if STRICT in libraries or "jax" in libraries:
        return
    missing = "JAX is not installed"
    if importlib.util.find_spec("jax"):
        missing = "the backend jax takes no part (see COREFRAME_PLUGINS)"
    raise NotApplicable(f"array-api-strict is not installed (pip install {STRICT}), and {missing}")


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """Let arrays of the strict library refuse what a device answers only by waiting."""
    import array_api_strict

    kind: Any = type(array_api_strict.zeros(1))
    taken = kind.__getitem__

    def refused(word: str) -> Callable[..., Any]:
        def method(self: Any, *given: Any, **named: Any) -> Any:
            raise LooksAtValue(f"{word} of an array asks for its value")

        return method

    def item(self: Any, key: Any) -> Any:
        for each in key if isinstance(key, tuple) else (key,):
            if isinstance(each, kind) and each.dtype == array_api_strict.bool:
                raise LooksAtValue("a mask as an index makes a shape that depends on values")
        return taken(self, key)

    before = {name: vars(kind)[name] for name in [*LOOKS, "__getitem__"] if name in vars(kind)}
    try:
        for name in before:
            setattr(kind, name, item if name == "__getitem__" else refused(LOOKS[name]))
        yield
    finally:
        for name, method in before.items():
            setattr(kind, name, method)
