"""What a scheduler promises, and how each promise is checked."""

from __future__ import annotations

import copy
import dataclasses
import math
import numbers
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from coreframe import checks as boundary
from coreframe import fields
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.scheduler import Progress, Scheduler, require_resolved, resolve
from coreframe.testing import hyperparameters, kit
from coreframe.testing.checks import (
    REPEATABLE,
    Check,
    NotApplicable,
    Promise,
    explain,
    promise,
    recorded_warnings,
)
from coreframe.testing.hyperparameters import Same, unchecked
from coreframe.testing.shared import SHARED

RUNS = (10, 1000)
SHORT = (0, 1, 2, 3)
LATE = (10**6, 10**9, 10**15, 2**60)
LONG = 10**9  # a run that is longer than the lengths that fields may name
SLOW = 0.1  # seconds for one value, late in a run

PROMISES: list[Promise] = [*SHARED]


def check_scheduler(scheduler: Scheduler) -> list[Check]:
    """Check all promises of a scheduler, in runs of many lengths and in open-ended ones."""
    return KIT.check(scheduler)


class Subject(kit.Subject):
    """A scheduler, and the runs that it is asked about."""

    base = Scheduler

    def exercise(self, component: Any, variant: int = 0) -> dict[str, Any]:
        return {
            f"the value at step {t} of {steps}": component(standing(t, steps))
            for steps in RUNS
            for t in (variant, 3 + variant, steps // 2 + variant, steps + 7 * variant)
        }

    def ask(self, step: int, steps: int | None) -> Any:
        return self.component(standing(step, steps))

    @cached_property
    def steps_fields(self) -> list[str]:
        """The fields that hold a number of steps, by the names that all schedulers use."""
        found = hyperparameters.numbers(self.component)
        return [name for name in found if name == "steps" or name.endswith("_steps")]


def standing(step: int, steps: int | None) -> Progress:
    """Return where a run stands, with batches of 32 and epochs of 100 steps."""
    return Progress(step=step, steps=steps, samples=32 * step, epoch=step // 100)


def alike(x: Any, y: Any) -> bool:
    """Say whether two values are the same; NaN is another promise's matter."""
    return bool(x == y) or (x != x and y != y)


# Where it is defined ------------------------------------------------------------------------


@promise(
    PROMISES,
    "It has a value at every step of a run, the first and the last included.",
    fix="Define it for every step >= 0; find fault with fields in __post_init__, not in the middle "
    "of a run.",
)
def defined(subject: Subject) -> Iterator[str]:
    for steps in RUNS:
        for t in range(steps + 2):
            try:
                subject.ask(t, steps)
            except Exception as error:
                yield f"step {t} of {steps}: {explain(error)}"
                break


@promise(
    PROMISES,
    "It has a value in runs of 0, 1, 2 and 3 steps, where shares of the run round to nothing.",
    fix="Guard divisions by a number of steps: `if t >= steps: return last` before t / steps.",
)
def short_runs(subject: Subject) -> Iterator[str]:
    for steps in SHORT:
        for t in range(steps + 3):
            try:
                value = subject.ask(t, steps)
            except Exception as error:
                yield f"step {t} of {steps}: {explain(error)}"
                break
            if isinstance(value, numbers.Real) and not math.isfinite(value):
                yield f"step {t} of {steps}: the value is {value}"
                break


@promise(
    PROMISES,
    "It has a finite value late in a run and far past its end, and takes no longer for it.",
    fix="Compute the value from the step, with no loop over steps; hold a bound before a power "
    "overflows.",
)
def late_steps(subject: Subject) -> Iterator[str]:
    if (seconds := min(_seconds(subject, 10**7) for _ in range(3))) > SLOW:
        yield f"the value at step 10,000,000 takes {seconds:.2g} s: does it walk over the steps?"
        return
    for steps in (RUNS[-1], LATE[-1]):
        for t in LATE:
            value = subject.ask(t, steps)
            if isinstance(value, numbers.Real) and not math.isfinite(value):
                yield f"step {t} of {steps}: the value is {value}"


def _seconds(subject: Subject, step: int) -> float:
    start = time.perf_counter()
    subject.ask(step, None if _open_ended(subject) else step)
    return time.perf_counter() - start


def _open_ended(subject: Subject) -> bool:
    try:
        subject.ask(0, None)
    except Exception:
        return False
    return True


@promise(
    PROMISES,
    "It holds its last value past the end of the run, or declares that it is endless.",
    fix="Return the last value where progress.step >= steps. One that goes on for ever on purpose "
    "has a property `endless` that returns True.",
    needs=("usable", "defined", REPEATABLE),
)
def past_the_end(subject: Subject) -> Iterator[str]:
    if subject.component.endless:
        raise NotApplicable("it declares endless = True")
    last = subject.ask(LONG, LONG)
    for t in (2 * LONG, LONG + 1, 10**15):
        if not alike(value := subject.ask(t, LONG), last):
            yield f"the value is {last!r} at the end, step {LONG}, and {value!r} at step {t}"
            return


@promise(
    PROMISES,
    "In an open-ended run it has a value, or is refused by an ArgumentError at the first step.",
    fix="Where the length of the run is needed, call coreframe.scheduler.total_steps(self, "
    "progress) or steps_of, at every step: an error in the middle of a run comes too late.",
)
def open_ended(subject: Subject) -> Iterator[str]:
    refused: str | None = None
    for t in (0, 1, 2, *range(3, 200, 7), 10**6):
        try:
            subject.ask(t, None)
        except ArgumentError as error:
            if t and refused is None:
                yield f"step 0 has a value, and step {t} is refused: {error}"
                return
            refused = str(error)
        except Exception as error:
            yield f"step {t}: {explain(error)}"
            return
        else:
            if refused is not None:
                yield f"step 0 is refused ({refused}), and step {t} has a value"
                return


# Its value ----------------------------------------------------------------------------------


@promise(
    PROMISES,
    "Its value is a finite number of Python, a word or a frozen record; the same kind all along.",
    fix="Use math, not numpy: a NumPy float64 widens float32 arrays, and an array may live "
    "elsewhere. End every branch with a return.",
    needs=("usable", "defined"),
)
def values(subject: Subject) -> Iterator[str]:
    kinds: dict[str, int] = {}
    for steps in RUNS:
        for t in range(steps + 2):
            value = subject.ask(t, steps)
            is_number = type(value) in (int, float)
            if is_number and not math.isfinite(value):
                yield f"step {t} of {steps}: the value is {value}"
                return
            if not _is_plain(value):
                yield f"step {t} of {steps}: the value {value!r} is a {_name(value)}"
                return
            kinds.setdefault("a number" if is_number else f"a {type(value).__name__}", t)
    if len(kinds) > 1:
        yield "the value is " + ", ".join(f"{kind} at step {t}" for kind, t in kinds.items())


def _is_plain(value: Any) -> bool:
    """Say whether a value is Python's own, and cannot be changed."""
    if isinstance(value, tuple):
        return all(_is_plain(x) for x in value)
    settings = getattr(type(value), "__dataclass_params__", None)
    return type(value) in (int, float, bool, str) or bool(settings and settings.frozen)


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"


@promise(
    PROMISES,
    "Asked in any order, or from the middle on after a restart, it gives the same values.",
    fix="Compute the value from progress alone: no counter, no last value, no clock, no draw.",
    needs=("usable", "defined", REPEATABLE),
)
def any_order(subject: Subject) -> Iterator[str]:
    fresh = copy.deepcopy(subject.component)
    steps = RUNS[0]
    expected = {t: subject.ask(t, steps) for t in range(steps + 3)}
    mixed = random.Random(0).sample(list(expected), len(expected))
    middle = list(expected)[steps // 2 :]
    for how, component, order in (
        ("backwards", subject.component, list(reversed(expected))),
        ("in a mixed order", subject.component, mixed),
        ("from the middle on, by a copy", fresh, middle),
    ):
        for t in order:
            if not alike(value := component(standing(t, steps)), expected[t]):
                yield f"step {t} of {steps} is {expected[t]!r} at first, {value!r} {how}"
                break


@promise(
    PROMISES,
    "at(step, steps) is short for the value at Progress(step=step, steps=steps).",
    fix="Write __call__ and leave at to the base class.",
    needs=("usable", "defined", REPEATABLE),
)
def at_is_short(subject: Subject) -> Iterator[str]:
    for steps in RUNS:
        for t in (0, 1, steps // 3, steps, steps + 5):
            got = subject.component.at(t, steps)
            wanted = subject.component(Progress(step=t, steps=steps))
            if not alike(got, wanted):
                yield f"at({t}, {steps}) is {got!r}, the value is {wanted!r}"
                break


@promise(
    PROMISES,
    "It stands in for a number: let in by a component's checks, resolved, and logged by its field.",
    fix="Subclass coreframe.Scheduler, and change neither is_coreframe_scheduler nor what "
    "dataclasses make.",
    needs=("usable", "defined", REPEATABLE),
)
def in_a_component(subject: Subject) -> Iterator[str]:
    where = standing(3, RUNS[0])
    wanted = subject.component(where)
    try:
        owner = Owner(number=subject.component)
    except (ArgumentError, ArgumentTypeError) as error:
        yield f"a component refuses it: {error}"
        return
    try:
        require_resolved(owner)
        yield "a component that still holds it counts as resolved"
    except ArgumentTypeError:
        pass
    if resolve(subject.component, where) is not subject.component:
        yield "on its own, it is not left as it is by coreframe.resolve"
    if type(wanted) not in (int, float):
        return  # such as a stage, which another scheduler takes a number of
    now = resolve(owner, where)
    if not alike(now.number, wanted):
        yield f"at step 3 it puts {now.number!r} into a component, its value is {wanted!r}"
    if not alike(logged := fields.scheduled(owner, now).get("number"), wanted):
        yield f"at step 3 the log says {logged!r}, its value is {wanted!r}"


@dataclass(frozen=True, kw_only=True)
class Owner:
    """A component with a number."""

    number: Any

    def __post_init__(self) -> None:
        boundary.number(self, "number")


# Its fields ---------------------------------------------------------------------------------


@promise(
    PROMISES,
    "Its fields are checked when it is made: NaN, infinity, texts and schedulers are refused.",
    fix="In __post_init__ call coreframe.scheduler.check_number(self, 'name', minimum=...), and "
    "check_steps for numbers of steps. To let one schedule follow another, take a Scheduler.",
    needs=("form",),
)
def fields_are_checked(subject: Subject) -> Iterator[str]:
    yield from unchecked(subject.component, Same(value=1.0))


@promise(
    PROMISES,
    "Numbers of steps are at least 0, and whole, or a share of the run below 1.",
    fix="Call coreframe.scheduler.check_steps(self, 'name') in __post_init__.",
)
def steps_are_checked(subject: Subject) -> Iterator[str]:
    if not subject.steps_fields:
        raise NotApplicable("it has no field named steps, or *_steps")
    for name in subject.steps_fields:
        for wrong in (-1, 2.5):
            try:
                dataclasses.replace(subject.component, **{name: wrong})
            except ArgumentError:
                continue
            yield f"{name}={wrong} is taken without a word"


@promise(
    PROMISES,
    "A share of the run means so many steps: 0.25 of 1000 is the same as 250.",
    fix="Read numbers of steps with coreframe.scheduler.steps_of(self, 'name', progress).",
    needs=("usable", "defined", REPEATABLE),
)
def shares(subject: Subject) -> Iterator[str]:
    if not subject.steps_fields:
        raise NotApplicable("it has no field named steps, or *_steps")
    steps = RUNS[-1]
    for name in subject.steps_fields:
        # A schedule with an end of its own takes shares of that, and not of the run.
        of_run = {"steps": None} if "steps" in subject.steps_fields else {}
        try:
            part, whole = (
                dataclasses.replace(subject.component, **{**of_run, name: value})
                for value in (0.25, steps // 4)
            )
        except ArgumentError:
            continue  # which goes with other fields
        for t in (0, 1, 100, 249, 250, 251, 600, 1000):
            got, wanted = (x(standing(t, steps)) for x in (part, whole))
            close = alike(got, wanted) or (
                type(got) in (int, float) and math.isclose(got, wanted, rel_tol=1e-9)
            )
            if not close:
                yield f"{name}=0.25 gives {got!r} at step {t} of 1000, {name}=250 gives {wanted!r}"
                break


@promise(
    PROMISES,
    "No warning is raised.",
    fix="Guard a division or a power before it happens.",
    needs=("usable", "defined", "short_runs", "open_ended"),
)
def no_warnings(subject: Subject) -> Iterator[str]:
    for steps in (*SHORT, *RUNS):
        with recorded_warnings() as caught:
            for t in range(steps + 2):
                subject.ask(t, steps)
        for warning in caught[:1]:
            yield f"a run of {steps} steps: {warning.message}"


KIT = kit.Kit("schedulers", Scheduler, Subject, PROMISES)
