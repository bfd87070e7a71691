"""The promises of every component, whatever its kind."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import doctest
import inspect
import io
import logging
import os
import pickle
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from coreframe import config
from coreframe.errors import ConfigError
from coreframe.testing.checks import NotApplicable, Promise, promise
from coreframe.testing.docstrings import Incomplete, described, read
from coreframe.testing.kit import Subject

THREADS = 4
CALLS = 3  # of each thread

SHARED: list[Promise] = []


# Form ---------------------------------------------------------------------------------------


@promise(
    SHARED,
    "It is a frozen, keyword-only dataclass: its fields are its configuration.",
    fix="Write @dataclass(frozen=True, kw_only=True) above the class; keep no other state.",
)
def form(subject: Subject) -> Iterator[str]:
    component = subject.component
    name = type(component).__name__
    if not isinstance(component, subject.base):
        yield f"{name} is not a subclass of coreframe.{subject.base.__name__}"
    settings = getattr(type(component), "__dataclass_params__", None)
    if settings is None:
        yield f"{name} is no dataclass"
        return
    if not settings.frozen:
        yield f"{name} can be changed after it is made"
    for field in dataclasses.fields(component):
        if field.init and not field.kw_only:
            yield f"the field {field.name!r} can be given by position"


@promise(
    SHARED,
    "It can be pickled and copied, and its repr says how to make it again.",
    fix="Define the class at the top of a module; hold numbers and words, no open resources.",
)
def copies(subject: Subject) -> Iterator[str]:
    component = subject.component
    for how, twin in (
        ("pickle", pickle.loads(pickle.dumps(component))),
        ("copy.deepcopy", copy.deepcopy(component)),
    ):
        if repr(twin) != repr(component):
            yield f"{how} turns {component!r} into {twin!r}"
    if " at 0x" in repr(component):
        yield f"repr shows an address in memory: {component!r}"


@promise(
    SHARED,
    "Its fields can be written to a run.toml, and what is read back is the same component.",
    fix="Annotate fields with numbers, texts, booleans, tuples of them, components, or unions of "
    "these; let __post_init__ check values and change none.",
)
def configuration(subject: Subject) -> Iterator[str]:
    component = subject.component
    try:
        table = config.table_of(component)
    except ConfigError as error:
        raise NotApplicable(f"it holds what a file cannot: {error.problems[0]}") from None
    again = config.made_of(type(component), table)
    if repr(again) != repr(component):
        yield f"it is written as {table!r}, and read back as {again!r}"


@promise(
    SHARED,
    "Its docstring says what it is, describes every field under Args, and its examples are true.",
    fix="First line: what it is. Then the formula, indented by four; Args with a line a field, "
    "'    name: meaning. Default: where it comes from.'; References; a short example (>>>).",
)
def documentation(subject: Subject) -> Iterator[str]:
    kind = type(subject.component)
    text = vars(kind).get("__doc__") or ""
    if not text or text.startswith(f"{kind.__name__}("):  # what dataclass writes itself
        yield f"{kind.__name__} has no docstring"
        return
    try:
        doc = read(kind.__name__, text)
    except Incomplete as problem:
        yield str(problem)
        return
    fields = [f.name for f in dataclasses.fields(kind) if f.init] if _is_record(kind) else []
    for name in fields:
        if not any(described(kind, name, doc)[1]):
            yield f"Args does not describe {name!r}"
    for name in doc.fields:
        if fields and name not in fields:
            yield f"Args describes {name!r}, which is no field"
    module = sys.modules[kind.__module__]
    for test in doctest.DocTestFinder(recurse=False).find(kind, kind.__name__, module):
        told = io.StringIO()
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
        if runner.run(test, out=told.write).failed:
            got = told.getvalue().strip().splitlines()
            yield "an example of the docstring fails:\n" + "\n".join(f"  {line}" for line in got)


def _is_record(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) and inspect.isclass(kind)


# Manners ------------------------------------------------------------------------------------


@promise(
    SHARED,
    "It keeps nothing from call to call: the same call gives the same bits, whatever came between.",
    fix="Keep no cache, counter or running mean in the object, its class or its module; pass "
    "state in and out as a value. Draws come from the rng or seed that is given.",
)
def no_hidden_state(subject: Subject) -> Iterator[str]:
    twin = copy.deepcopy(subject.component)
    before = global_random_state()
    first = subject.exercise(subject.component)
    subject.exercise(subject.component, 1)
    if global_random_state() != before:
        yield "a global random generator was used"
    yield from _others(first, subject.exercise(subject.component), "after another call")
    yield from _others(first, subject.exercise(twin), "from a copy of the component")


def _others(first: Mapping[str, Any], again: Mapping[str, Any], when: str) -> Iterator[str]:
    """Yield a sentence for each result whose bits differ."""
    for name, x in first.items():
        if not same_bits(x, again.get(name)):
            yield f"{name} is another {when}"


def same_bits(x: Any, y: Any) -> bool:
    """Say whether two results are the same: arrays by dtype, shape and value, NaN being itself."""
    if not isinstance(x, np.ndarray | np.generic):
        return bool(x == y)
    if not isinstance(y, np.ndarray | np.generic) or x.dtype != y.dtype:
        return False
    return np.array_equal(x, y, equal_nan=x.dtype.kind in "fc")


@promise(
    SHARED,
    "It leaves the process as it is: warning filters, thread counts, floating-point errors, "
    "environment, signals, logging, working directory; and prints nothing.",
    fix="Use `with np.errstate(...)`, `with warnings.catch_warnings()` around the operation, or "
    "guard it with xp.where; log with logging.getLogger(__name__) and no handler.",
)
def process_is_kept(subject: Subject) -> Iterator[str]:
    before = process_state()
    with contextlib.redirect_stdout(io.StringIO()) as told:
        subject.exercise(subject.component)
    for what, was in before.items():
        if (now := process_state()[what]) != was:
            yield f"the {what} changed from {was} to {now}"
    if told.getvalue():
        yield f"it printed {told.getvalue()[:60]!r}"


def process_state() -> dict[str, Any]:
    """Return what all parts of a process share, by name."""
    import threadpoolctl

    pools = threadpoolctl.threadpool_info()
    return {
        "warning filters": len(warnings.filters),
        "floating-point error state": np.geterr(),
        "thread counts": {p["filepath"].rpartition("/")[2]: p["num_threads"] for p in pools},
        "environment": dict(os.environ),
        "working directory": os.getcwd(),
        "handlers of the root logger": list(logging.getLogger().handlers),
        "handler of SIGINT": signal.getsignal(signal.SIGINT),
    }


def global_random_state() -> list[Any]:
    """Return the state of the global generators of Python, NumPy and, if it is loaded, torch."""
    states: list[Any] = [random.getstate(), pickle.dumps(np.random.get_state())]
    if torch := sys.modules.get("torch"):
        states.append(torch.get_rng_state().numpy().tobytes())
    return states


@promise(
    SHARED,
    "Threads may use it at the same time, and each gets what it gets alone.",
    fix="Write to no attribute, class or module variable while it works; make work space inside "
    "the call.",
)
def thread_safe(subject: Subject) -> Iterator[str]:
    alone = [subject.exercise(subject.component, variant) for variant in (0, 1)]
    problems: list[str] = []
    together = threading.Barrier(THREADS)

    def use(number: int) -> None:
        try:
            together.wait()
            for call in range(CALLS):
                variant = (number + call) % 2
                found = subject.exercise(subject.component, variant)
                problems.extend(_others(alone[variant], found, "in several threads"))
        except Exception as error:
            problems.append(f"in several threads: {type(error).__name__}: {error}")

    workers = [threading.Thread(target=use, args=(number,)) for number in range(THREADS)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads do meet in the middle of a call
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(interval)
    yield from dict.fromkeys(problems)
