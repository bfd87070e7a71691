"""What a check is, and how checks are run and reported.

A promise is a generator that yields one sentence for each thing that is wrong. It needs no test
framework, so that the kit runs on the command line, in a notebook, and in any test suite.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from coreframe.errors import CoreframeError
from coreframe.testing.process import restored

MOST_PROBLEMS = 3  # shown for one promise; the first is nearly always enough
NOT_CHECKED = "not checked: "
REPEATABLE = "repeatable"
"""What most promises need: that the same call gives the same. It is so where ``no_hidden_state``
is kept, and where what the component remembers can be taken away before each call."""
ARRAY_LIBRARIES = {"array_api_compat", "array_api_strict", "cupy", "jax", "numpy", "torch"}


@dataclass(frozen=True)
class Check:
    """The outcome of one promise. True if it is kept."""

    name: str
    promise: str
    ok: bool
    detail: str = ""
    seconds: float = 0.0

    def __bool__(self) -> bool:
        return self.ok

    @property
    def checked(self) -> bool:
        """Whether there was something to find out: ``detail`` says why not."""
        return not (self.ok and self.detail.startswith(NOT_CHECKED))

    def __str__(self) -> str:
        lines = [f"{'ok  ' if self.ok else 'FAIL'}  {self.name}: {self.promise}"]
        return "\n".join([*lines, *(f"        {line}" for line in self.detail.splitlines())])


def report(checks: Sequence[Check]) -> str:
    """Return the outcomes as plain text, one promise a line, with what to do where it is broken."""
    return "\n".join([*(str(check) for check in checks), summary(checks)])


def summary(checks: Sequence[Check]) -> str:
    """Return how many promises are kept and broken, and how many could not be checked."""
    broken = sum(not check.ok for check in checks)
    skipped = sum(not check.checked for check in checks)
    kept = f"{len(checks) - broken - skipped} promises kept, {broken} broken"
    return kept + (f", {skipped} not checked" if skipped else "")


class NotApplicable(CoreframeError):
    """Raised by a promise that says nothing about this component; the text is the reason."""


class Remark(str):
    """A sentence of a promise about what is allowed, and worth knowing: it breaks nothing."""


@dataclass(frozen=True)
class Promise:
    """A sentence, how to find out whether it is true, and what to do if it is not."""

    sentence: str
    fix: str
    problems: Callable[[Any], Iterator[str]]
    needs: tuple[str, ...] = ()
    """Promises without which this one means nothing: what breaks them would break it too."""

    @property
    def name(self) -> str:
        return self.problems.__name__

    def check(self, subject: Any) -> Check:
        """Run it on one component. An exception is a problem like any other.

        Warnings are one promise's matter, and silent in all others. What the component changes
        in the process is undone.
        """
        start = time.perf_counter()
        found: list[str] = []
        remark = ""
        try:
            with restored(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.extend(itertools.islice(self.problems(subject), MOST_PROBLEMS))
        except NotApplicable as reason:
            remark = f"{NOT_CHECKED}{reason}"
        except (Exception, SystemExit) as error:
            found.append(explain(error))
        wrong = [sentence for sentence in found if not isinstance(sentence, Remark)]
        found += [f"To fix: {self.fix}"] if wrong else [remark] if remark else []
        seconds = round(time.perf_counter() - start, 3)
        return Check(self.name, self.sentence, not wrong, "\n".join(found), seconds)

    def left_out(self, broken: str) -> Check:
        """Return the outcome where a promise that this one needs is broken."""
        return Check(self.name, self.sentence, True, f"{NOT_CHECKED}mend {broken} first")


def promise(
    into: list[Promise], sentence: str, *, fix: str, needs: tuple[str, ...] = ()
) -> Callable[[Callable[[Any], Iterator[str]]], Callable[[Any], Iterator[str]]]:
    """Add a function to a list of promises."""

    def added(problems: Callable[[Any], Iterator[str]]) -> Callable[[Any], Iterator[str]]:
        into.append(Promise(sentence, fix, problems, needs))
        return problems

    return added


def resting_on(needs: tuple[str, ...], promises: Sequence[Promise]) -> list[Promise]:
    """Return promises that mean nothing without others, which may be some of them, in order."""
    found = []
    for known in promises:
        before = needs[: needs.index(known.name)] if known.name in needs else needs
        found.append(replace(known, needs=(*before, *known.needs)))
    return found


def explain(error: BaseException, but_for: str = "") -> str:
    """Return an exception as one line, with the place outside array libraries, and outside of one
    folder, that led to it.
    """
    every = traceback.extract_tb(error.__traceback__)
    frames = [f for f in every if not but_for or not f.filename.startswith(but_for)] or list(every)
    outside = [f for f in frames if ARRAY_LIBRARIES.isdisjoint(re.split(r"[\\/]", f.filename))]
    place = (outside or frames)[-1]
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text} ({os.path.basename(place.filename)}:{place.lineno})"


# Comparing ----------------------------------------------------------------------------------


def difference(got: Any, expected: Any, scale: float = 1e-6) -> float:
    """Return the largest difference, relative to the largest expected entry, or to ``scale`` if
    that is larger; infinity if shapes differ, or what is finite.
    """
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    if got.shape != expected.shape or not (np.isfinite(got) == np.isfinite(expected)).all():
        return float("inf")
    if got.size == 0:
        return 0.0
    finite = np.isfinite(expected)
    scale = max(scale, float(np.abs(expected[finite]).max(initial=0.0)))
    return float(np.abs(got[finite] - expected[finite]).max(initial=0.0)) / scale


def same_bits(x: Any, y: Any) -> bool:
    """Say whether two results are the same: arrays by dtype, shape and value, NaN being itself."""
    if not isinstance(x, np.ndarray | np.generic):
        return bool(x == y)
    if not isinstance(y, np.ndarray | np.generic) or x.dtype != y.dtype:
        return False
    return np.array_equal(x, y, equal_nan=x.dtype.kind in "fc")


@contextlib.contextmanager
def recorded_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Collect all warnings, those about numbers too."""
    with warnings.catch_warnings(record=True) as caught, np.errstate(all="warn", under="ignore"):
        warnings.simplefilter("always")
        yield caught
