"""What a callback promises, and how each promise is checked."""

from __future__ import annotations

import gc
import inspect
import math
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from coreframe.callbacks import About, Callback, Record, Session, Status, Tracker
from coreframe.errors import MissingExtra, nearest
from coreframe.testing import kit
from coreframe.testing.callbacks.subject import CONFIG, HOOKS, Subject, follow
from coreframe.testing.checks import Check, Promise, explain, promise, same_bits
from coreframe.testing.field_checks import FIELDS
from coreframe.testing.shared import SHARED

ENDINGS = ("finished", "failed", "interrupted")

# A callback may remember the run that it follows, and one run is one thread's.
PROMISES: list[Promise] = [*(p for p in SHARED if p.name != "thread_safe"), *FIELDS]


def check_callback(callback: Callback) -> list[Check]:
    """Check all promises of a callback, or of a tracker, by small runs that it follows.

    A tracker writes to its tool while it is checked: give it a place of its own, by its fields or
    by the tool's environment variables.
    """
    return KIT.check(callback)


# Form ---------------------------------------------------------------------------------------


@promise(
    PROMISES,
    "Its hooks are those that a run calls, with the arguments that it gives.",
    fix="Write on_start(self, run), on_step(self, status), on_evaluate(self, status), "
    "on_end(self, run) or on_result(self, values); a Tracker writes check and open alone.",
)
def hooks(subject: Subject) -> Iterator[str]:
    kind = type(subject.callback)
    for name in [name for name in dir(kind) if name.startswith("on_")]:
        if name not in HOOKS:
            yield f"{name} is never called.{nearest(name, HOOKS)}"
            continue
        if issubclass(kind, Tracker) and getattr(kind, name) is not getattr(Callback, name):
            yield f"{name} is never called: a Tracker hears of a run by its session"
        yield from _misfit(getattr(subject.callback, name), name)
    if issubclass(kind, Tracker):
        yield from _misfit(subject.callback.open, "open")  # type: ignore[attr-defined]


def _misfit(hook: Any, name: str) -> Iterator[str]:
    try:
        inspect.signature(hook).bind(None)
    except TypeError as error:
        yield f"{name} cannot be called with one argument: {error}"


@promise(
    PROMISES,
    "on_step and on_evaluate answer None, False or, to stop the run, True.",
    fix="Return nothing, or bool(...): any other value that counts as true stops the run.",
    needs=("usable",),
)
def answers(subject: Subject) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        outcome = follow(subject.callback, Path(folder))
    said = {name: answer for name, answer in outcome.heard.answers if name in HOOKS}
    for name, answer in said.items():
        if answer is not None and not isinstance(answer, bool | np.bool_):
            yield f"{name} answers {answer!r}"


# The run ------------------------------------------------------------------------------------


@promise(
    PROMISES,
    "It only watches: parameters and history are those of a run without it, bit for bit.",
    fix="Write to nothing that a hook is given, and draw from no generator that others use.",
    needs=("usable", "answers"),
)
def only_watches(subject: Subject) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        alone, followed = (follow(c, Path(folder)) for c in (None, subject.callback))
    (one,), (two,) = alone.runs, followed.runs
    mine, other = list(one.history), list(two.history)
    told, behind = alone.told, followed.told
    if followed.stopped:  # after its last step a run is evaluated once more
        mine, other = ([line for line in lines if "loss" in line] for lines in (mine, other))
        told, behind = ([v for v in values if "loss" in v] for values in (told, behind))
        mine, told = mine[: len(other)], told[: len(behind)]
    else:
        for name, x in one.params.items():
            if not same_bits(x, two.params[name]):
                yield f"{name} is another than in a run without it"
    if mine != other:
        yield "the history is another than in a run without it"
    if told != behind:
        yield "the callback after it is told other values: it writes to status.values"


@promise(
    PROMISES,
    "It follows any run: without a dev part, of several fits, that fails, or is interrupted; and "
    "values that are not finite.",
    fix="Ask for no value by name without a default, and keep nothing from one fit to the next but "
    "what on_start makes new.",
    needs=("usable",),
)
def any_run(subject: Subject) -> Iterator[str]:
    ways: dict[str, dict[str, Any]] = {
        "a run without a dev part": {"dev": False},
        "two fits of an experiment": {"fits": 2},
        "a run that failed": {"ending": "failed"},
        "a run that is interrupted": {"ending": "interrupted"},
    }
    for name, asked in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            errors = follow(subject.callback, Path(folder), **asked).heard.errors
        yield from (f"{name}: in {hook} {explain(error)}" for hook, error in errors)
    for error in _odd_values(subject):
        yield f"values that are not finite: {explain(error)}"


def _odd_values(subject: Subject) -> Iterator[Exception]:
    """Yield what a callback raises when it is told NaN, infinity and no value at all."""
    many: tuple[dict[str, float], ...] = (
        {"loss": math.nan, "grad_norm": math.inf},
        {},
        {"loss": 1e-300, "name/with@all 1": 2.0},
    )
    callback = subject.callback
    with tempfile.TemporaryDirectory() as folder:
        try:
            if not isinstance(callback, Tracker):
                callback.on_start(None)
                for values in many:
                    callback.on_step(Status(1, 9, 1, 3, 8, values))
                    callback.on_evaluate(Status(1, 9, 1, 3, 8, values))
                callback.on_end(None)
                return
            session = callback.open(About(name=None, config=CONFIG, folder=Path(folder)))
            for step, kind in enumerate(("train", "eval", "test")):
                for values in many:
                    named = {f"{kind}/{name}": x for name, x in values.items()}
                    session.log(
                        Record(fit="a b", first=True, kind=kind, step=step, epoch=1, values=named)
                    )
            session.close("finished")
        except Exception as error:
            yield error


@promise(
    PROMISES,
    "No warning is raised.",
    fix="Guard the operation before it happens, or close what is opened.",
    needs=("usable",),
)
def no_warnings(subject: Subject) -> Iterator[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with tempfile.TemporaryDirectory() as folder:
            follow(subject.callback, Path(folder))
            gc.collect()
    yield from (f"{warning.category.__name__}: {warning.message}" for warning in caught)


# Trackers -----------------------------------------------------------------------------------


@promise(
    PROMISES,
    "check() says by MissingExtra what to install, before any work, and begins nothing.",
    fix="Write `if importlib.util.find_spec('tool') is None: raise MissingExtra('tool', extra=..., "
    "purpose=...)`, and open the tool in open().",
)
def extra(subject: Subject) -> Iterator[str]:
    tracker = subject.tracker
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        error = _raised(tracker.check)
        written = os.listdir(folder)
        os.chdir(tempfile.gettempdir())
        yield from (f"check() writes {name}" for name in written)
        if isinstance(error, MissingExtra):
            if "pip install" not in str(error):
                yield f"the error does not say what to install: {error}"
            return
        if error is not None:
            yield f"check() raises {explain(error)}"
            return
        try:
            session = tracker.open(About(name="check", config=CONFIG, folder=Path(folder)))
        except ImportError as missing:
            yield f"check() finds nothing missing, but open() raises {explain(missing)}"
            return
        if not isinstance(session, Session):
            yield f"open() returns {type(session).__name__}, and no coreframe.callbacks.Session"
            return
        session.close("finished")


def _raised(call: Any) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


@promise(
    PROMISES,
    "Once a run is over, however it ended, no file and no thread of it is left open.",
    fix="Close in Session.close all that open() and log() opened, whatever the state is.",
    needs=("usable", "extra"),
)
def closed(subject: Subject) -> Iterator[str]:
    tracker, descriptors = subject.tracker, Path("/proc/self/fd")
    for ending in ENDINGS:
        before = set(threading.enumerate())
        with tempfile.TemporaryDirectory() as folder:
            follow(tracker, Path(folder), ending=ending)
            here = os.path.realpath(folder)
            targets = [_target(link) for link in descriptors.glob("*")]
            open_files = [os.path.basename(t) for t in targets if t.startswith(here)]
        yield from (f"{ending}: {name} is still open" for name in open_files)
        for thread in set(threading.enumerate()) - before:
            if not thread.daemon:
                yield f"{ending}: the thread {thread.name} still runs"


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed meanwhile
        return ""


@promise(
    PROMISES,
    "What it writes lies in the folder of the run, or where a field or a setting of the tool says.",
    fix="Take about.folder / 'name' as the file, and the working directory where folder is None.",
    needs=("usable", "extra"),
)
def in_the_folder(subject: Subject) -> Iterator[str]:
    tracker = subject.tracker
    own = [getattr(tracker, field.name) for field in fields(tracker)]  # type: ignore[arg-type]
    named = {Path(value).parts[0] for value in own if isinstance(value, str) and value}
    with tempfile.TemporaryDirectory() as here, tempfile.TemporaryDirectory() as folder:
        os.chdir(here)
        try:
            follow(tracker, Path(folder))
        finally:
            os.chdir(tempfile.gettempdir())
        for name in sorted(set(os.listdir(here)) - named):
            yield f"it writes {name} into the working directory"


KIT = kit.Kit("callbacks", Callback, Subject, PROMISES)
