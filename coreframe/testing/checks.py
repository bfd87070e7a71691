"""What a check is, and how checks are run and reported.

A promise is a generator that yields one sentence for each thing that is wrong. It needs no test
framework, so that the kit runs on the command line, in a notebook, and in any test suite.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coreframe.errors import CoreframeError

MOST_PROBLEMS = 3  # shown for one promise; the first is nearly always enough
ARRAY_LIBRARIES = {"array_api_compat", "array_api_strict", "cupy", "jax", "numpy", "torch"}


@dataclass(frozen=True)
class Check:
    """The outcome of one promise. True if it is kept."""

    name: str
    promise: str
    ok: bool
    detail: str = ""

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        lines = [f"{'ok  ' if self.ok else 'FAIL'}  {self.name}: {self.promise}"]
        return "\n".join([*lines, *(f"        {line}" for line in self.detail.splitlines())])


def report(checks: Sequence[Check]) -> str:
    """Return the outcomes as plain text, one promise a line, with what to do where it is broken."""
    broken = sum(not check.ok for check in checks)
    lines = [str(check) for check in checks]
    return "\n".join([*lines, f"{len(checks) - broken} promises kept, {broken} broken"])


class NotApplicable(CoreframeError):
    """Raised by a promise that says nothing about this component; the text is the reason."""


@dataclass(frozen=True)
class Promise:
    """A sentence, how to find out whether it is true, and what to do if it is not."""

    sentence: str
    fix: str
    problems: Callable[[Any], Iterator[str]]

    def check(self, subject: Any) -> Check:
        """Run it on one component. An exception is a problem like any other.

        Warnings are one promise's matter, and silent in all others.
        """
        found: list[str] = []
        remark = ""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found.extend(itertools.islice(self.problems(subject), MOST_PROBLEMS))
        except NotApplicable as reason:
            remark = f"not checked: {reason}"
        except Exception as error:
            found.append(explain(error))
        detail = "\n".join([*found, f"To fix: {self.fix}"]) if found else remark
        return Check(self.problems.__name__, self.sentence, not found, detail)


def promise(
    into: list[Promise], sentence: str, *, fix: str
) -> Callable[[Callable[[Any], Iterator[str]]], Callable[[Any], Iterator[str]]]:
    """Add a function to a list of promises."""

    def added(problems: Callable[[Any], Iterator[str]]) -> Callable[[Any], Iterator[str]]:
        into.append(Promise(sentence, fix, problems))
        return problems

    return added


def explain(error: BaseException) -> str:
    """Return an exception as one line, with the place outside array libraries that led to it."""
    frames = traceback.extract_tb(error.__traceback__)
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


@contextlib.contextmanager
def recorded_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """Collect all warnings, those about numbers too."""
    with warnings.catch_warnings(record=True) as caught, np.errstate(all="warn", under="ignore"):
        warnings.simplefilter("always")
        yield caught
