"""Values that change during a run: Scheduler, Progress, and ``resolve``; parts of schedulers.

Any numeric hyperparameter of any component may be a number or a scheduler. The trainer calls
``resolve(component, progress)`` once a step, which puts plain numbers in their place.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from coreframe import checks
from coreframe.component import Component
from coreframe.errors import ArgumentError, ArgumentTypeError

__all__ = [
    "LEFT",
    "RISES",
    "Progress",
    "Scheduler",
    "blend",
    "boundaries_of",
    "check_boundaries",
    "check_number",
    "check_steps",
    "plain",
    "require_resolved",
    "resolve",
    "rise",
    "share",
    "steps_of",
]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands, before update number ``step + 1``.

    Everything a scheduler may depend on is here, so that a restart needs no hidden state. The
    trainer makes one for each step; a loop of your own starts at ``Progress(steps=...)`` and moves
    on with ``after``.

    Args:
        step: updates done. Default: 0, the start.
        steps: updates planned. Default: None, an open-ended run.
        samples: examples seen. Default: 0, the start.
        epoch: passes over the data that are done. Default: 0, the start.
        history: the evaluated metric so far, oldest first. Default: (), nothing evaluated.

    Shapes: plain numbers, no arrays.

    Edges: steps may go past ``steps``: schedulers hold their last value there.

    Cost: none to speak of.

    References: none.

    >>> Progress(steps=10).after(samples=32).after(samples=32)
    Progress(step=2, steps=10, samples=64, epoch=0, history=())
    """

    step: int = 0
    steps: int | None = None
    samples: int = 0
    epoch: int = 0
    history: tuple[float, ...] = ()

    def after(self, *, samples: int = 0) -> Progress:
        """Return the progress after one more update, which saw so many examples."""
        return dataclasses.replace(self, step=self.step + 1, samples=self.samples + samples)


class Scheduler(Component, ABC):
    """A pure function from progress to a value.

    The one convention of all schedulers and curricula: the value at ``Progress(step=t)`` is the
    one that update number t + 1 uses. So a value is asked for before the step, and step 0 is the
    first value.

    Subclasses are frozen, keyword-only dataclasses. They are defined for every step >= 0, hold
    their last value past the end (or are ``endless``), and find fault with their fields when they
    are made, not in the middle of a run. Numbers of steps in their fields may be written as a
    share of the run, below 1; see ``check_steps`` and ``steps_of``.

    Shapes: a Progress comes in, one value goes out, mostly a float.

    Edges: a schedule that depends on the length of an open-ended run raises ArgumentError.

    Cost: plain Python arithmetic, no arrays.

    References: none.

    >>> class Halving(Scheduler):
    ...     def __call__(self, progress):
    ...         return 0.5**progress.step
    >>> [Halving().at(step) for step in range(4)]
    [1.0, 0.5, 0.25, 0.125]
    """

    is_coreframe_scheduler: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, progress: Progress, /) -> Any:
        """Return the value that is used for the next update."""

    @property
    def endless(self) -> bool:
        """Whether it goes on past the end of every run, in place of holding its last value."""
        return False

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


def check_number(owner: Scheduler, name: str, **bounds: Any) -> None:
    """Check a field of a scheduler as ``checks.number`` does; it cannot itself be scheduled."""
    given = getattr(owner, name)
    if isinstance(given, Scheduler):
        raise ArgumentTypeError(
            f"{type(owner).__name__}.{name} must be a number, got {given!r}; "
            "to let one schedule follow another, use 'joined'"
        )
    checks.number(owner, name, **bounds)


def check_steps(
    owner: Scheduler, name: str, *, optional: bool = False, above: float | None = None
) -> None:
    """Check a field that holds a number of steps: whole, or a share of the run below 1.

    With ``optional`` it may be None, which means all steps of the run.
    """
    given = getattr(owner, name)
    if given is None and optional:
        return
    check_number(owner, name, minimum=0 if above is None else None, above=above)
    if given > 1 and given != math.floor(given):
        raise ArgumentError(
            f"{type(owner).__name__}.{name} must be a whole number of steps, or a share of the "
            f"run below 1, got {given!r}"
        )


def share(value: float, steps: int) -> int:
    """Return a number of steps, which may be given as a share of ``steps``, below 1.

    A share rounds half up: 0.1 of 25 steps is 3.
    """
    if value >= 1:
        return int(value)
    return math.floor(round(value * steps, 6) + 0.5)  # 0.29 of 50 is 14.499999999999998


def steps_of(owner: Scheduler, name: str, progress: Progress) -> int:
    """Return a field that holds a number of steps, or a share of the run, or None for the run."""
    value = getattr(owner, name)
    if value is None:
        return total_steps(owner, progress)
    if value == 0 or value >= 1:
        return int(value)
    return share(value, total_steps(owner, progress))


LEFT: dict[str, Callable[[float], float]] = {
    "linear": lambda x: 1 - x,
    # (1 + cos pi x) / 2 in the form that loses no digits where it is nearly 0.
    "cosine": lambda x: math.cos(math.pi * x / 2) ** 2,
    "sqrt": lambda x: 1 - math.sqrt(x),
}
"""How much of the way from a first value to the next is still left, at a share x of the time."""

RISES = ("nonzero", "zero")
"""The forms of a linear warm-up over W steps: (t + 1) / W and t / W."""


def blend(start: float, end: float, x: float, curve: str = "linear") -> float:
    """Return the value at a share x of the time from start to end; exact at both ends."""
    if x <= 0:
        return start
    if x >= 1:
        return end
    return end + (start - end) * LEFT[curve](x)


def rise(start: float, peak: float, step: int, steps: int, form: str) -> float:
    """Return the value of a linear warm-up; "nonzero" is one step ahead of "zero"."""
    return blend(start, peak, (step + (form == "nonzero")) / steps)


def check_boundaries(owner: Scheduler, name: str, boundaries: object, pieces: int) -> None:
    """Check the borders between pieces: all whole steps, or all shares of the run, increasing."""
    where = f"{type(owner).__name__}.{name}"
    if not isinstance(boundaries, tuple):
        raise ArgumentTypeError(f"{where} must be a tuple of steps, got {boundaries!r}")
    for given in boundaries:
        if isinstance(given, bool) or not isinstance(given, int | float):
            raise ArgumentTypeError(f"{where} must hold numbers, got {given!r}")
        if not 0 < given < math.inf:
            raise ArgumentError(f"{where} must hold finite numbers above 0, got {given!r}")
        if given > 1 and given != math.floor(given):
            raise ArgumentError(
                f"{where} must hold whole steps, or shares of the run below 1, got {given!r}"
            )
    if len({given < 1 for given in boundaries}) > 1:
        raise ArgumentError(
            f"{where} must be all steps or all shares of the run below 1, got {boundaries!r}"
        )
    if any(a >= b for a, b in itertools.pairwise(boundaries)):
        raise ArgumentError(f"{where} must increase, got {boundaries!r}")
    if len(boundaries) != pieces - 1:
        raise ArgumentError(
            f"{where} must hold one border less than there are pieces, "
            f"got {len(boundaries)} for {pieces}"
        )


def boundaries_of(
    owner: Scheduler, boundaries: tuple[float, ...], progress: Progress
) -> tuple[int, ...]:
    """Return boundaries in steps. Shares of a short run may fall together."""
    if not boundaries or boundaries[0] >= 1:
        return tuple(int(b) for b in boundaries)
    steps = total_steps(owner, progress)
    return tuple(share(b, steps) for b in boundaries)


def resolve(component: T, progress: Progress) -> T:
    """Return the component with plain numbers in place of schedulers.

    Walks fields, tuples and mappings, nested components included. Returns the very same object
    when nothing is scheduled; else a copy, which is validated again. Integer fields round half up.
    """
    return resolve_by(component, lambda scheduler: scheduler(progress))


def resolve_by(component: T, value_of: Callable[[Scheduler], Any]) -> T:
    """Return the component with ``value_of(scheduler)`` in place of each scheduler."""
    return _resolve(component, value_of, top=True)  # type: ignore[no-any-return]


def _resolve(
    value: Any, value_of: Callable[[Scheduler], Any], *, top: bool = False, of: Any = None
) -> Any:
    """Resolve a component (``top``) or what it holds; ``of`` is the type that its field names."""
    if type(value) in _PLAIN:  # most fields, at every step
        return value
    if isinstance(value, Scheduler):
        if top:
            return value
        found = value_of(value)
        # What is no number, as a curriculum's stage, is left to the field's own check.
        rounds = isinstance(found, numbers.Real) and _is_integer(of)
        return math.floor(found + 0.5) if rounds else found
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changes = {}
        for f in dataclasses.fields(value):
            old = getattr(value, f.name)
            new = _resolve(old, value_of, of=f.type)
            if new is not old:
                changes[f.name] = new
        return dataclasses.replace(value, **changes) if changes else value
    if isinstance(value, Mapping):
        mapped = {key: _resolve(item, value_of) for key, item in value.items()}
        return mapped if any(mapped[key] is not value[key] for key in value) else value
    if isinstance(value, tuple):
        items = tuple(_resolve(item, value_of) for item in value)
        same = all(a is b for a, b in zip(items, value, strict=True))
        return value if same else items
    return value


_PLAIN = frozenset({float, int, bool, str, type(None)})


def plain(value: float | Scheduler) -> float:
    """Return a hyperparameter as the number that it is in a resolved component.

    A number that JAX traces stays what it is.
    """
    if isinstance(value, Scheduler):
        raise ArgumentTypeError(f"{value!r} is scheduled; call coreframe.resolve first")
    if type(value) not in _PLAIN and checks.is_traced(value):
        return value
    return float(value)  # a NumPy float64 would widen float32 arrays


def _is_integer(annotation: Any) -> bool:
    words = str(annotation).replace("<class 'int'>", "int").replace("|", " ").split()
    return "int" in words and "float" not in words


def require_resolved(component: object) -> None:
    """Raise ArgumentTypeError, naming the field, if a component still holds a scheduler."""
    for name in component.__dataclass_fields__:  # type: ignore[attr-defined]
        value = getattr(component, name)
        if type(value) in _PLAIN:
            continue
        inside = value.items() if isinstance(value, Mapping) else ()
        for where, found in (("", value), *((f"[{key!r}]", item) for key, item in inside)):
            if isinstance(found, Scheduler):
                raise ArgumentTypeError(
                    f"{type(component).__name__}.{name}{where} is scheduled; call "
                    "coreframe.resolve(component, progress) first (the trainer does it every step)"
                )
