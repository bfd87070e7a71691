"""The fields of components by the paths that a run.toml gives them: ``losses.0.temperature``.

For what compares settings (those of a checkpoint with those of the run that goes on from it), and
for what shows them (a log line with every scheduled number).
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Iterator, Mapping
from typing import Any

from coreframe.backend import is_array, to_numpy
from coreframe.compose import WeightedSum
from coreframe.scheduler import Scheduler
from coreframe.storage import fingerprint

RENAMED = {"loss": "losses"}
SHORT = {"optimizer.learning_rate": "learning_rate"}
"""Numbers that a log line calls by a shorter name, as everybody does."""


def described(owner: Any) -> dict[str, Any]:
    """Return every field of a run's settings as a plain value, by its path.

    A component stands as its class beside its fields, an array as its hash, a function by its name.
    """
    return dict(_plain(owner, ""))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return path, old and new value of what differs; what is not there is "nothing"."""
    paths = dict.fromkeys((*old, *new))
    pairs = [(path, old.get(path, "nothing"), new.get(path, "nothing")) for path in paths]
    return [(path, a, b) for path, a, b in pairs if a != b and not (a != a and b != b)]


def scheduled(owner: Any, now: Any) -> dict[str, float]:
    """Return the numbers that schedulers in ``owner`` gave, by the paths of their fields.

    ``now`` is the same with numbers in their place, as ``resolve`` returns it. What is no number is
    left out.
    """
    found = {}
    for path, (held, place) in _schedulers(owner, now, ""):
        value = _at(held, place)
        if isinstance(value, numbers.Real) and not isinstance(value, bool):
            found[SHORT.get(path, path)] = float(value)
    return found


def _children(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the path and the key of each field or entry."""
    dot = f"{path}." if path else ""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for f in dataclasses.fields(value):
            if f.init:
                yield f"{dot}{RENAMED.get(f.name, f.name)}" if not path else dot + f.name, f.name
    elif isinstance(value, Mapping):
        for key in value:
            yield f"{dot}{key}", key
    elif isinstance(value, list | tuple):
        for i in range(len(value)):
            yield f"{dot}{i}", i


def _plain(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if path == "losses":
        parts = value.losses if isinstance(value, WeightedSum) else {"": value}
        for i, (name, part) in enumerate(parts.items()):
            yield from _plain(part, f"losses.{i}")
            if isinstance(value, WeightedSum) and name in value.weights:
                yield from _plain(value.weights[name], f"losses.{i}.weight")
    elif value is None or isinstance(value, bool | str):
        yield path, value
    elif isinstance(value, numbers.Real):
        yield path, int(value) if isinstance(value, numbers.Integral) else float(value)
    elif is_array(value):
        yield path, "sha256:" + fingerprint(to_numpy(value))["sha256"]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        if path:
            yield path, type(value).__name__
        for below, key in _children(value, path):
            yield from _plain(getattr(value, key), below)
    elif isinstance(value, Mapping | list | tuple):
        for below, key in _children(value, path):
            yield from _plain(value[key], below)
    else:
        yield path, getattr(value, "__qualname__", type(value).__qualname__)


def _schedulers(value: Any, now: Any, path: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the path of each scheduler, with where its number stands in the resolved component."""
    if path == "losses":
        weighted = isinstance(value, WeightedSum)
        parts = value.losses if weighted else {"": value}
        for i, name in enumerate(parts):
            inner = now.losses[name] if weighted else now
            yield from _schedulers(parts[name], inner, f"losses.{i}")
            if weighted and isinstance(value.weights.get(name), Scheduler):
                yield f"losses.{i}.weight", (now.weights, name)
        return
    for below, key in _children(value, path):
        child = _at(value, key)
        if isinstance(child, Scheduler):
            yield below, (now, key)
        elif dataclasses.is_dataclass(child) or isinstance(child, Mapping | list | tuple):
            yield from _schedulers(child, _at(now, key), below)


def _at(owner: Any, key: Any) -> Any:
    held = isinstance(owner, Mapping | list | tuple)
    return owner[key] if held else getattr(owner, key)
