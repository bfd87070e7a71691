"""What a component could remember from call to call: looked at, and taken away again."""

from __future__ import annotations

import copy
import functools
import os
import sys
from collections.abc import (
    Callable,
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
)
from types import ModuleType
from typing import Any

import numpy as np

LARGEST = 10_000  # numbers of an array that is copied
MOST = 1_000  # entries of a container that is copied, again before each call

_NUMBERS = (type(None), bool, int, float, complex, str, bytes, np.generic)


class Remembered:
    """The data of a component, of its classes, of their modules and of modules beside these that
    they import from, as it was before its use.

    Functions that cache their results (``functools.lru_cache``) are emptied with it. What the
    core of coreframe keeps is not looked at.
    """

    def __init__(self, component: Any) -> None:
        kinds = [k for k in type(component).__mro__ if _is_foreign(k.__module__)]
        homes = [sys.modules[k.__module__] for k in kinds if k.__module__ in sys.modules]
        modules = dict.fromkeys([*homes, *(other for home in homes for other in _helpers(home))])
        owners = [component, *kinds, *modules]
        self._before = [(owner, _copied(_names(owner))) for owner in owners]

    def changed(self) -> list[str]:
        """Return what is other than before, in words."""
        found = []
        for owner, before in self._before:
            now = _names(owner)
            found += [
                f"{name} of {_called(owner)}"
                for name in [*before, *(now.keys() - before.keys())]
                if name not in now or name not in before or not _same(now[name], before[name][1])
            ]
        return found

    def sizes(self) -> dict[str, int]:
        """Return the entries of all containers and caches, also of those that hold no plain data,
        and of objects of the component's own classes that stand there.
        """
        found: dict[str, int] = {}
        for owner, _ in self._before:
            for name, x in getattr(owner, "__dict__", {}).items():
                if name.startswith("__") or isinstance(x, type | type(sys)):
                    continue
                inside = getattr(x, "__dict__", {}) if _is_foreign(type(x).__module__) else {}
                for path, each in ((name, x), *((f"{name}.{k}", v) for k, v in inside.items())):
                    if (size := _entries(each)) is not None:
                        found[f"{path} of {_called(owner)}"] = size
        return found

    def forget(self) -> None:
        """Bring all of it back, and empty caches."""
        for owner, before in self._before:
            for name, x in list(getattr(owner, "__dict__", {}).items()):
                if hasattr(x, "cache_clear"):
                    x.cache_clear()
                elif name not in before and _is_data(name, x):
                    (type if isinstance(owner, type) else object).__delattr__(owner, name)
            now = _names(owner)
            for name, (x, was) in before.items():
                if name not in now or not _same(now[name], was):
                    writer = type if isinstance(owner, type) else object
                    writer.__setattr__(owner, name, _refilled(x, was))


def forgetful(component: Any, remembered: Remembered) -> Any:
    """Return the component with no memory: before each call of a method of its own, all that it
    remembers is taken away. So one that has a hidden state can still be checked for the rest.
    """
    kind = type(component)
    own: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if _is_foreign(base.__module__):
            own |= {name: f for name, f in vars(base).items() if isinstance(f, type(lambda: 0))}

    def forgetting(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def fresh(self: Any, *given: Any, **named: Any) -> Any:
            remembered.forget()
            for name in vars(self).keys() - vars(component).keys():
                object.__delattr__(self, name)
            return method(self, *given, **named)

        return fresh

    body: dict[str, Any] = {name: forgetting(f) for name, f in own.items() if not _is_made(name)}
    made: Any = type(kind)
    body |= {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    remembered.forget()
    twin = copy.copy(component)
    object.__setattr__(twin, "__class__", made(kind.__name__, (kind,), body))
    return twin


def _is_made(name: str) -> bool:
    """Say whether Python or the dataclass calls a method of that name, and not a user."""
    return name.startswith("__") and name.endswith("__") and name != "__call__"


def _helpers(home: ModuleType) -> Iterator[ModuleType]:
    """Yield the modules of the same package, or folder, that a module has something of."""
    for x in list(vars(home).values()):
        name = x.__name__ if isinstance(x, ModuleType) else getattr(x, "__module__", None)
        other = sys.modules.get(name) if isinstance(name, str) else None
        if other is not None and _is_foreign(other.__name__) and _place(other) & _place(home):
            yield other


def _place(module: ModuleType) -> set[str]:
    """Return the package of a module, and its folder."""
    file = getattr(module, "__file__", None)
    return {module.__name__.partition(".")[0], *([os.path.dirname(file)] if file else [])}


def _called(owner: Any) -> str:
    if isinstance(owner, type):
        return f"the class {owner.__name__}"
    if isinstance(owner, type(sys)):
        return f"the module {owner.__name__}"
    return "the object"


def _is_foreign(module: str) -> bool:
    root = module.partition(".")[0]
    return root != "coreframe" and root not in sys.stdlib_module_names - {"__main__"}


def _names(owner: Any) -> dict[str, Any]:
    """Return the data of an object, class or module by name."""
    return {name: x for name, x in getattr(owner, "__dict__", {}).items() if _is_data(name, x)}


def _copied(names: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return each thing with a copy of what it holds: the thing itself may be written to."""
    return {name: (x, copy.deepcopy(x)) for name, x in names.items()}


def _is_data(name: str, x: Any) -> bool:
    return not (name.startswith("__") and name.endswith("__")) and _is_plain(x)


def _is_plain(x: Any, depth: int = 3) -> bool:
    """Say whether a value is data, and small enough to be copied."""
    if isinstance(x, _NUMBERS):
        return True
    if isinstance(x, np.ndarray):
        return x.size <= LARGEST and x.dtype.kind != "O"
    if type(x) not in (list, tuple, set, frozenset, dict) or not depth or len(x) > MOST:
        return False
    entries = [*x, *x.values()] if isinstance(x, dict) else x
    return all(_is_plain(entry, depth - 1) for entry in entries)


def _entries(x: Any) -> int | None:
    """Return how much a container or a cache holds; None of anything else."""
    if isinstance(x, MutableSequence | MutableSet | MutableMapping):
        return len(x)
    return int(x.cache_info().currsize) if hasattr(x, "cache_info") else None


def _same(x: Any, y: Any) -> bool:
    if type(x) is not type(y):
        return False
    if isinstance(x, np.ndarray):
        return x.dtype == y.dtype and np.array_equal(x, y, equal_nan=x.dtype.kind in "fc")
    if isinstance(x, dict):
        return x.keys() == y.keys() and all(_same(x[key], y[key]) for key in x)
    if isinstance(x, list | tuple):
        return len(x) == len(y) and all(map(_same, x, y))
    return bool(x == y) or x != x


def _refilled(x: Any, was: Any) -> Any:
    """Return the very object that was there, with what it held: others may refer to it."""
    fresh = copy.deepcopy(was)
    if isinstance(x, list):
        x[:] = fresh
    elif isinstance(x, dict | set):
        x.clear()
        x.update(fresh)
    elif isinstance(x, np.ndarray) and x.flags.writeable and x.shape == fresh.shape:
        x[...] = fresh
    return x
