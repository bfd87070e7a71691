"""Values that change during a run: Scheduler, Progress, and ``resolve``.

Any numeric hyperparameter of any component may be a number or a scheduler. The trainer calls
``resolve(component, progress)`` once a step, which puts plain numbers in their place.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from coreframe.errors import ArgumentError, ArgumentTypeError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands, before update number ``step + 1``.

    step: updates done; steps: updates planned, or None when open-ended; samples: examples seen;
    epoch: passes over the data begun; history: the evaluated metric so far, oldest first.
    Everything a scheduler may depend on is here, so that a restart needs no hidden state.
    """

    step: int = 0
    steps: int | None = None
    samples: int = 0
    epoch: int = 0
    history: tuple[float, ...] = ()


class Scheduler(ABC):
    """A pure function from progress to a value.

    Subclasses are frozen, keyword-only dataclasses. They are defined for every step >= 0 and
    hold their last value past the end.
    """

    is_coreframe_scheduler: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, progress: Progress, /) -> Any:
        """Return the value that is used for the next update."""

    def at(self, step: int, steps: int | None = None) -> Any:
        """Return the value at a step of a run of ``steps``: short for ``self(Progress(...))``."""
        return self(Progress(step=step, steps=steps))


def total_steps(owner: Scheduler, progress: Progress) -> int:
    """Return the planned steps, or raise ArgumentError if the run is open-ended."""
    if progress.steps is None:
        raise ArgumentError(
            f"{type(owner).__name__} needs the number of steps of the run; "
            "give Progress(step=..., steps=...)"
        )
    return progress.steps


def resolve(component: T, progress: Progress) -> T:
    """Return the component with plain numbers in place of schedulers.

    Walks fields, tuples and mappings, nested components included. Returns the very same object
    when nothing is scheduled; else a copy, which is validated again. Integer fields round half up.
    """
    return _resolve(component, progress, top=True)  # type: ignore[no-any-return]


def _resolve(value: Any, progress: Progress, *, top: bool = False, integer: bool = False) -> Any:
    if isinstance(value, Scheduler) and not top:
        found = value(progress)
        return math.floor(found + 0.5) if integer else found
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {}
        for f in dataclasses.fields(value):
            old = getattr(value, f.name)
            new = _resolve(old, progress, integer=_is_integer(f.type))
            if new is not old:
                changes[f.name] = new
        return dataclasses.replace(value, **changes) if changes else value
    if isinstance(value, Mapping):
        mapped = {key: _resolve(item, progress) for key, item in value.items()}
        return mapped if any(mapped[key] is not value[key] for key in value) else value
    if isinstance(value, tuple):
        items = tuple(_resolve(item, progress) for item in value)
        same = all(a is b for a, b in zip(items, value, strict=True))
        return value if same else items
    return value


def plain(value: float | Scheduler) -> float:
    """Return a hyperparameter as the number that it is in a resolved component."""
    if isinstance(value, Scheduler):
        raise ArgumentTypeError(f"{value!r} is scheduled; call coreframe.resolve first")
    return float(value)  # a NumPy float64 would widen float32 arrays


def _is_integer(annotation: Any) -> bool:
    words = str(annotation).replace("<class 'int'>", "int").replace("|", " ").split()
    return "int" in words and "float" not in words


def require_resolved(component: object) -> None:
    """Raise ArgumentTypeError, naming the field, if a component still holds a scheduler."""
    for f in dataclasses.fields(component):  # type: ignore[arg-type]
        value = getattr(component, f.name)
        inside = value.items() if isinstance(value, Mapping) else ()
        for where, found in (("", value), *((f"[{key!r}]", item) for key, item in inside)):
            if isinstance(found, Scheduler):
                raise ArgumentTypeError(
                    f"{type(component).__name__}.{f.name}{where} is scheduled; call "
                    "coreframe.resolve(component, progress) first (the trainer does it every step)"
                )
