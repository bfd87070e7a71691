"""The promises of every component, on a kind made for the purpose: each fault is named."""

from __future__ import annotations

import functools
import logging
import os
import random
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import threadpoolctl

from coreframe.component import Component, Preset
from coreframe.errors import ArgumentTypeError
from coreframe.testing import Check, report
from coreframe.testing.checks import NotApplicable, Promise
from coreframe.testing.kit import Kit
from coreframe.testing.kit import Subject as AnySubject
from coreframe.testing.process import surroundings, thread_counts
from coreframe.testing.shared import SHARED


class Thing(Component):
    """A component that turns an array into another."""

    def __call__(self, x: Any) -> Any:
        return 2.0 * x


class Subject(AnySubject):
    base = Thing

    def exercise(self, component: Any, variant: int = 0) -> dict[str, Any]:
        return {"y": component(np.arange(4.0) + variant)}


KIT = Kit("things", Thing, Subject, SHARED)


def broken(thing: Any) -> dict[str, str]:
    return {c.name: c.detail for c in KIT.check(thing) if not c}


@dataclass(frozen=True, kw_only=True)
class Right(Thing):
    """Doubles what it is given.

    Args:
        factor: by which it multiplies. Default: two.

    >>> Right()(3.0)
    6.0
    """

    factor: float = 2.0

    presets: ClassVar[Mapping[str, Preset]] = {
        "other": Preset(equals="other.Triple", fields={"factor": 3.0})
    }


def test_a_right_component_passes() -> None:
    checks = KIT.check(Right())
    assert all(checks), report(checks)
    assert all(check.checked for check in checks)


# Form ---------------------------------------------------------------------------------------


@dataclass
class Changeable(Thing):
    """Can be changed.

    Args:
        factor: by position. Default: two.
    """

    factor: float = 2.0


class NoDecorator(Right):
    """Has a field that is none."""

    margin: float = 0.5


@dataclass(frozen=True, kw_only=True)
class NoAnnotation(Right):
    """Means to have another default."""

    factor = 3.0


@dataclass(frozen=True, kw_only=True)
class CountsInAField(Thing):
    """Appends to a list with each call.

    Args:
        seen: what came so far. Default: nothing.
    """

    seen: list[int] = field(default_factory=list)

    def __call__(self, x: Any) -> Any:
        self.seen.append(1)
        return super().__call__(x)


@pytest.mark.parametrize(
    ("thing", "name", "text"),
    [
        (NoDecorator(), "form", "'margin' is annotated, and is no field"),
        (NoAnnotation(), "form", "says factor = 3.0, and made without arguments it has 2.0"),
        (CountsInAField(), "no_hidden_state", "its fields change while it is used"),
        (Thing(), "form", "Thing is no dataclass"),
    ],
)
def test_what_is_no_field_is_named_once(thing: Any, name: str, text: str) -> None:
    found = {k: v for k, v in broken(thing).items() if k != "documentation"}
    assert list(found) == [name]
    assert text in found[name]


@dataclass(frozen=True, kw_only=True)
class HoldsAFunction(Thing):
    """Holds a lambda.

    Args:
        function: what cannot be pickled. Default: one that returns 1.
    """

    function: Callable[[], int] = field(default_factory=lambda: lambda: 1)


@dataclass(frozen=True, kw_only=True, repr=False)
class Mute(Right):
    """Has the repr of any object."""

    def __repr__(self) -> str:
        return "something"


@dataclass(frozen=True, kw_only=True)
class ChangesItsFields(Right):
    """Doubles what it is made with."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", 2 * self.factor)


class MisnamesAField(Right):
    """Offers values of fields that it has not."""

    presets: ClassVar[Mapping[str, Preset]] = {
        "other": Preset(equals="other.Triple", fields={"factr": 3.0})
    }


class SaysNothing(Right):
    """Offers a preset of nobody knows what."""

    presets: ClassVar[Mapping[str, Preset]] = {"other": Preset(equals="", fields={"factor": 3.0})}


class OffersATable(Right):
    """Offers the values alone."""

    presets: ClassVar[Mapping[str, Any]] = {"other": {"factor": 3.0}}


@dataclass(frozen=True, kw_only=True)
class Undocumented(Thing):
    """Does not say what its field is."""

    factor: float = 2.0


@dataclass(frozen=True, kw_only=True)
class FalseExample(Thing):
    """Shows what is not so.

    >>> 1 + 1
    3
    """


# Manners ------------------------------------------------------------------------------------


class Raises(Right):
    """Raises."""

    def __call__(self, x: Any) -> Any:
        raise ValueError("not today")


class Exits(Right):
    """Ends the process."""

    def __call__(self, x: Any) -> Any:
        sys.exit(3)


class DrawsFromNumPy(Right):
    """Draws from NumPy's global generator."""

    def __call__(self, x: Any) -> Any:
        return x + np.random.rand()


class DrawsFromPython(Right):
    """Draws from Python's global generator."""

    def __call__(self, x: Any) -> Any:
        return x + random.random()


class Silences(Right):
    """Silences warnings for all."""

    def __call__(self, x: Any) -> Any:
        warnings.simplefilter("ignore")
        return x


class IgnoresErrors(Right):
    """Sets NumPy to what it is by default, wherever it is called."""

    def __call__(self, x: Any) -> Any:
        np.seterr(all="warn")
        return x


class LimitsThreads(Right):
    """Holds BLAS to one thread, and forgets to give it back."""

    def __call__(self, x: Any) -> Any:
        threadpoolctl.threadpool_limits(1)
        return x


class SetsTheEnvironment(Right):
    """Sets a variable."""

    def __call__(self, x: Any) -> Any:
        os.environ["OMP_NUM_THREADS"] = "17"
        return x


class AddsAHandler(Right):
    """Takes logging over."""

    def __call__(self, x: Any) -> Any:
        logging.getLogger().addHandler(logging.NullHandler())
        return x


class Prints(Right):
    """Prints what it works on."""

    def __call__(self, x: Any) -> Any:
        print("working")
        return x


class RunningMean(Right):
    """Keeps a mean in a frozen object."""

    def __call__(self, x: Any) -> Any:
        mean = 0.9 * getattr(self, "mean", 0.0) + 0.1 * x.mean()
        object.__setattr__(self, "mean", mean)
        return x - mean


class CountsInItsClass(Right):
    """Counts its calls in the class."""

    calls: ClassVar[int] = 0

    def __call__(self, x: Any) -> Any:
        type(self).calls += 1
        return x + self.calls


FIRST: list[float] = []


class KeepsTheFirst(Right):
    """Compares all with the first that it ever saw."""

    def __call__(self, x: Any) -> Any:
        if not FIRST:
            FIRST.append(float(x.mean()))
        return x - FIRST[0]


@functools.lru_cache
def mean_of(key: int) -> float:
    return SEEN[-1]


SEEN: list[float] = [0.0]


class CachesByNumber(Right):
    """Caches by what is the same for all arrays of a shape."""

    def __call__(self, x: Any) -> Any:
        SEEN[:] = [float(x.mean())]
        return x - mean_of(len(x))


class SharesWorkSpace(Right):
    """Works in an array of the class."""

    space: ClassVar[Any] = np.zeros(4)

    def __call__(self, x: Any) -> Any:
        for i in range(4):
            self.space[i] = x[i]
        found = self.space.copy()
        self.space[:] = 0.0
        return found


HELPER = """
space = [0.0] * 4
def through(x):
    for i in range(4):
        space[i] = x[i]
    found = list(space)
    space[:] = [0.0] * 4
    return found
"""
HELPERS: dict[str, Any] = {"__name__": "somebody_elses.helpers"}
exec(compile(HELPER, "helpers.py", "exec"), HELPERS)


class CallsAHelper(Right):
    """Works in an array of a module of another package."""

    def __call__(self, x: Any) -> Any:
        return np.asarray(HELPERS["through"](x))


CALLS: list[Any] = []


class Logs(Right):
    """Notes every call."""

    def __call__(self, x: Any) -> Any:
        CALLS.append(len(x))
        return super().__call__(x)


class Box:
    """An object of one's own."""

    def __init__(self) -> None:
        self.arrays: list[Any] = []


BOX = Box()


class FillsABox(Right):
    """Keeps all results in an object that stands in its module."""

    def __call__(self, x: Any) -> Any:
        found = super().__call__(x)
        BOX.arrays.append(found)
        return found


@functools.cache
def double_of(x: Any) -> float:
    return 2.0 * float(x)


class CachesEachCall(Right):
    """Keeps what comes under a number that never comes again."""

    def __call__(self, x: Any) -> Any:
        key = object()
        BY_KEY(key)
        return super().__call__(x)


BY_KEY = functools.cache(lambda key: key)


class CachesByLength(Right):
    """Keeps one number for each length, as it may."""

    def __call__(self, x: Any) -> Any:
        double_of(len(x))
        return super().__call__(x)


FAULTS = [
    (Changeable(), "form", "Changeable can be changed after it is made"),
    (Changeable(), "form", "the field 'factor' can be given by position"),
    (HoldsAFunction(), "copies", "pickle"),
    (Mute(), "representation", "it does not name the class: something"),
    (ChangesItsFields(), "configuration", "factor=8.0"),
    (MisnamesAField(), "presets", "the preset 'other' does not build: TypeError"),
    (SaysNothing(), "presets", "does not say what it equals"),
    (OffersATable(), "presets", "is no coreframe.component.Preset"),
    (Undocumented(), "documentation", "Args does not describe 'factor'"),
    (FalseExample(), "examples", "Expected:"),
    (Raises(), "usable", "ValueError: not today (test_shared.py:"),
    (Exits(), "usable", "SystemExit: 3"),
    (
        DrawsFromNumPy(),
        "no_global_random",
        "a global random generator was used: ",
    ),
    (DrawsFromPython(), "no_global_random", "the state of random changed"),
    (Silences(), "warning_filters", "filters changed"),
    (IgnoresErrors(), "floating_point_errors", "divide changed from call to warn"),
    (LimitsThreads(), "thread_counts", "changed from 2 to 1"),
    (SetsTheEnvironment(), "surroundings", "environment variable"),
    (AddsAHandler(), "surroundings", "the level and handlers of the root logger changed"),
    (Prints(), "prints_nothing", "it printed 'working"),
    (RunningMean(), "no_hidden_state", "is another: mean of the object"),
    (CountsInItsClass(), "no_hidden_state", "calls of the class CountsInItsClass"),
    (KeepsTheFirst(), "no_hidden_state", "y is another in a process just started"),
    (CachesByNumber(), "no_hidden_state", "y is another"),
    (SharesWorkSpace(), "thread_safe", "y is another in several threads"),
    (CallsAHelper(), "thread_safe", "y is another in several threads"),
    (
        Logs(),
        "nothing_grows",
        "CALLS of the module tests.testing.test_shared has more entries after each use",
    ),
    (
        FillsABox(),
        "nothing_grows",
        "BOX.arrays of the module tests.testing.test_shared has more entries",
    ),
    (
        CachesEachCall(),
        "nothing_grows",
        "BY_KEY of the module tests.testing.test_shared has more entries",
    ),
]


@pytest.mark.parametrize(
    ("thing", "name", "words"),
    FAULTS,
    ids=lambda x: type(x).__name__ if isinstance(x, Thing) else "",
)
def test_each_fault_is_named_and_no_other(thing: Any, name: str, words: str) -> None:
    found = broken(thing)
    also = ["representation"] if name == "copies" else []  # a lambda shows where it lies
    assert list(found) == [name, *also], found
    assert words in found[name], found[name]
    assert "\nTo fix: " in found[name]


def test_a_cache_that_ends_passes() -> None:
    assert broken(CachesByLength()) == {}


def test_threads_meet_in_a_class_that_is_made_while_it_runs() -> None:
    made = type("Made", (SharesWorkSpace,), {"__doc__": SharesWorkSpace.__doc__})
    (promise,) = [p for p in SHARED if p.name == "thread_safe"]
    assert "in several threads" in promise.check(Subject(made())).detail


def test_a_trace_function_is_given_back() -> None:
    (promise,) = [p for p in SHARED if p.name == "thread_safe"]
    calls = []

    def trace(frame: Any, event: str, argument: Any) -> None:
        calls.append(event)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        assert promise.check(Subject(Right())).ok
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)


def test_every_shared_promise_has_a_fault() -> None:
    assert {promise.name for promise in SHARED} == {name for _, name, _ in FAULTS}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (3, "the kit for things takes an object of a subclass of Thing, got 3"),
        (Right, "got <class '.*Right'>; make one of it"),
    ],
)
def test_what_is_no_component_of_the_kind_is_an_error(given: Any, words: str) -> None:
    with pytest.raises(ArgumentTypeError, match=words):
        KIT.check(given)


# The kit itself -----------------------------------------------------------------------------


def test_the_process_is_as_before_whatever_a_component_does() -> None:
    def state() -> list[Any]:
        drawn = repr((random.getstate(), np.random.get_state()))
        return [list(warnings.filters), np.geterr(), thread_counts(), surroundings(), drawn]

    before = state()
    for thing, _, _ in FAULTS:
        KIT.check(thing)
    assert state() == before


def test_what_needs_a_broken_promise_is_left_out() -> None:
    def first(subject: Any) -> Any:
        yield "it is wrong"

    def second(subject: Any) -> Any:
        raise AssertionError("this is never asked")
        yield

    def third(subject: Any) -> Any:
        yield from ()

    promises = [
        Promise("One.", "mend it", first),
        Promise("Two.", "", second, ("first",)),
        Promise("Three.", "", third, ("second", "unknown")),
    ]
    checks = Kit("things", Thing, Subject, promises).check(Right())
    assert [bool(check) for check in checks] == [False, True, True]
    assert [check.checked for check in checks] == [True, False, False]
    assert checks[2].detail == "not checked: mend first first"
    assert report(checks).endswith("0 promises kept, 1 broken, 2 not checked")


def test_an_exception_in_a_promise_is_its_failure() -> None:
    def fails(subject: Any) -> Any:
        yield "before"
        raise KeyError("in the middle")

    def does_not_apply(subject: Any) -> Any:
        raise NotApplicable("of another kind")
        yield

    checks = Kit(
        "things",
        Thing,
        Subject,
        [Promise("One.", "mend it", fails), Promise("Two.", "", does_not_apply)],
    ).check(Right())
    assert "KeyError: 'in the middle' (test_shared.py:" in checks[0].detail
    assert checks[0].detail.startswith("before\n")
    assert checks[1].ok
    assert checks[1].detail == "not checked: of another kind"


def test_a_check_knows_its_seconds() -> None:
    assert all(0 <= check.seconds < 60 for check in KIT.check(Right()))
    assert Check("name", "It is so.", True).seconds == 0
