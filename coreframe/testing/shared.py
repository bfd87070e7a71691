"""The promises of every component, whatever its kind."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import doctest
import inspect
import io
import itertools
import pickle
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from coreframe import config
from coreframe.component import NO_PRESETS, Preset
from coreframe.errors import ConfigError
from coreframe.testing.checks import (
    ARRAY_LIBRARIES,
    NotApplicable,
    Promise,
    explain,
    promise,
    same_bits,
)
from coreframe.testing.docstrings import Incomplete, described, read
from coreframe.testing.kit import Subject

THREADS = 4
CALLS = 3  # of each thread, at least
LONG_ENOUGH = 0.05  # seconds: quick components are called more often
GIVE_WAY = 1e-6  # seconds; a sleep of zero hands nothing over
LINES = 600  # of each thread, after which another one goes on
NOT_ITS_OWN = {*sys.stdlib_module_names, *ARRAY_LIBRARIES, "coreframe"} - {"__main__"}
"""Top-level modules that no component is written in."""

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
    yield from _not_fields(type(component))


def _not_fields(kind: type) -> Iterator[str]:
    """Yield what a class writes like a field, and what dataclasses make none of."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name, hint in inspect.get_annotations(kind).items():
        if name not in fields and not any(x in str(hint) for x in ("ClassVar", "InitVar", "KW_")):
            yield f"{name!r} is annotated, and is no field: {kind.__name__} has no @dataclass"
    for name, field in fields.items():
        written = vars(kind).get(name, field.default)
        if field.default is not dataclasses.MISSING and not same_bits(written, field.default):
            yield (
                f"the class says {name} = {written!r}, and made without arguments it has "
                f"{field.default!r}: annotate it, below @dataclass"
            )


@promise(
    SHARED,
    "It can be pickled and copied.",
    fix="Define the class at the top of a module; hold numbers and words, no open resources.",
    needs=("form",),
)
def copies(subject: Subject) -> Iterator[str]:
    component = subject.component
    for how, twin in (
        ("pickle", pickle.loads(pickle.dumps(component))),
        ("copy.deepcopy", copy.deepcopy(component)),
    ):
        if repr(twin) != repr(component):
            yield f"{how} turns {component!r} into {twin!r}"


@promise(
    SHARED,
    "Its repr names the class and every field, and shows no address in memory.",
    fix="Leave __repr__ to the dataclass, and give what the fields hold a repr of its own.",
    needs=("form",),
)
def representation(subject: Subject) -> Iterator[str]:
    component, text = subject.component, repr(subject.component)
    if " at 0x" in text:
        yield f"it shows an address: {text}"
    if type(component).__name__ not in text:
        yield f"it does not name the class: {text}"
    for field in dataclasses.fields(component) if _is_record(type(component)) else ():
        if field.repr and f"{field.name}=" not in text:
            yield f"it does not show {field.name!r}: {text}"


@promise(
    SHARED,
    "Its fields can be written to a run.toml, and what is read back is the same component.",
    fix="Annotate fields with numbers, texts, booleans, tuples of them, components, or unions of "
    "these; let __post_init__ check values and change none.",
    needs=("form",),
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
    "Each of its presets builds, and says what the component equals with it.",
    fix="In `presets`, name values that the fields may have: "
    'Preset(equals="library.Class", fields={"margin": 0.5}).',
)
def presets(subject: Subject) -> Iterator[str]:
    component = subject.component
    known = getattr(type(component), "presets", NO_PRESETS)
    if not known:
        raise NotApplicable("it has no presets")
    for name, preset in known.items():
        if not isinstance(preset, Preset):
            yield f"the preset {name!r} is no coreframe.component.Preset, but {preset!r}"
            continue
        if not preset.equals:
            yield f"the preset {name!r} does not say what it equals"
        try:
            made = dataclasses.replace(component, **preset.fields)
        except Exception as error:
            yield f"the preset {name!r} does not build: {type(error).__name__}: {error}"
            continue
        for field, value in preset.fields.items():
            if getattr(made, field) != value:
                yield f"the preset {name!r} says {field}={value!r}, built is {made!r}"


@promise(
    SHARED,
    "Its docstring says what it is, and describes every field under Args.",
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


@promise(
    SHARED,
    "The examples of its docstring are true.",
    fix="Run `python -m doctest FILE` and write what it prints; compute on a seed, so that it "
    "stays the same.",
    needs=("documentation",),
)
def examples(subject: Subject) -> Iterator[str]:
    kind = type(subject.component)
    found = doctest.DocTestFinder(recurse=False).find(
        kind, kind.__name__, sys.modules[kind.__module__]
    )
    if not any(test.examples for test in found):
        raise NotApplicable("its docstring has no example (>>>)")
    for test in found:
        told = io.StringIO()
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
        if runner.run(test, out=told.write).failed:
            yield "\n".join(f"  {line}" for line in told.getvalue().strip().splitlines())


def _is_record(kind: type) -> bool:
    return dataclasses.is_dataclass(kind) and inspect.isclass(kind)


# Manners ------------------------------------------------------------------------------------


@promise(
    SHARED,
    "It can be used: an ordinary use raises no exception.",
    fix="Follow the line that is named; it is the last one outside the array libraries.",
    needs=("row_terms_shapes",),  # of losses, where it says more
)
def usable(subject: Subject) -> Iterator[str]:
    if (error := subject.footprint.error) is not None:
        yield explain(error)


def _unchanged(subject: Subject, what: str) -> Iterator[str]:
    yield from subject.footprint.changes[what]


@promise(
    SHARED,
    "It uses no global random generator.",
    fix="Draw from the rng or seed that is given, or make one: "
    "coreframe.random.stream(seed, 'name'); never np.random.rand or random.random.",
    needs=("usable",),
)
def no_global_random(subject: Subject) -> Iterator[str]:
    for change in _unchanged(subject, "random"):
        yield f"a global random generator was used: the state of {change}"


@promise(
    SHARED,
    "It leaves the filters of warnings as they are.",
    fix="Guard the operation with xp.where so that nothing warns, or write "
    "`with warnings.catch_warnings():` around it.",
    needs=("usable",),
)
def warning_filters(subject: Subject) -> Iterator[str]:
    yield from _unchanged(subject, "warnings")


@promise(
    SHARED,
    "It leaves NumPy's handling of floating-point errors as it is.",
    fix="Write `with np.errstate(...):` in place of np.seterr(...), or guard the operation.",
    needs=("usable",),
)
def floating_point_errors(subject: Subject) -> Iterator[str]:
    for change in _unchanged(subject, "floating point"):
        yield f"np.geterr(): {change}"


@promise(
    SHARED,
    "It leaves the numbers of threads of BLAS, OpenMP and PyTorch as they are.",
    fix="Write `with threadpoolctl.threadpool_limits(1):` around the operation; call no "
    "set_num_threads.",
    needs=("usable",),
)
def thread_counts(subject: Subject) -> Iterator[str]:
    for change in _unchanged(subject, "threads"):
        yield f"the number of threads of {change}"


@promise(
    SHARED,
    "It leaves environment, working directory, signals, logging and print options as they are.",
    fix="Take settings as fields; log with logging.getLogger(__name__) and add no handler.",
    needs=("usable",),
)
def surroundings(subject: Subject) -> Iterator[str]:
    yield from _unchanged(subject, "surroundings")


@promise(
    SHARED,
    "It prints nothing.",
    fix="Delete the print, or log with logging.getLogger(__name__).debug(...).",
    needs=("usable",),
)
def prints_nothing(subject: Subject) -> Iterator[str]:
    if told := subject.footprint.printed:
        yield f"it printed {told[:60]!r}"


@promise(
    SHARED,
    "It keeps nothing from call to call: the same call gives the same bits, whatever came between.",
    fix="Keep no cache, counter or running mean in the object, its class or its module; pass "
    "state in and out as a value. Draws come from the rng or seed that is given.",
    needs=("usable", "no_global_random"),
)
def no_hidden_state(subject: Subject) -> Iterator[str]:
    component = subject.component
    twin = copy.deepcopy(component)
    before = repr(component)
    first = subject.exercise(component)
    if repr(component) != before:
        yield f"its fields change while it is used: from {before} to {component!r}"
    other = subject.exercise(component, 1)
    kept = subject.remembered.changed()
    hint = f"; since its first use this is another: {', '.join(kept[:3])}" if kept else ""
    yield from _others(first, subject.exercise(component), "after another call", hint)
    yield from _others(other, subject.exercise(twin, 1), "from a copy of the component", hint)
    subject.remembered.forget()
    yield from _others(other, subject.exercise(component, 1), "in a process just started", hint)


def _others(
    first: Mapping[str, Any], again: Mapping[str, Any], when: str, hint: str = ""
) -> Iterator[str]:
    """Yield a sentence for the first result whose bits differ."""
    for name, x in first.items():
        if not same_bits(x, again.get(name)):
            yield f"{name} is another {when}{hint}"
            return


@promise(
    SHARED,
    "Threads may use it at the same time, and each gets what it gets alone.",
    fix="Write to no attribute, class or module variable while it works; make work space inside "
    "the call.",
    needs=("usable", "no_hidden_state"),
)
def thread_safe(subject: Subject) -> Iterator[str]:
    alone = [subject.exercise(subject.component, variant) for variant in (0, 1)]
    problems: list[str] = []
    together = threading.Barrier(THREADS)

    def use(number: int) -> None:
        try:
            together.wait()
            until, lines = time.monotonic() + LONG_ENOUGH, iter(range(LINES))
            for call in itertools.count():
                if call >= CALLS and (problems or time.monotonic() > until):
                    break
                variant = (number + call) % 2
                with _giving_way(lines):
                    found = subject.exercise(subject.component, variant)
                problems.extend(_others(alone[variant], found, "in several threads"))
        except Exception as error:
            problems.append(f"in several threads: {type(error).__name__}: {error}")

    workers = [threading.Thread(target=use, args=(number,)) for number in range(THREADS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    yield from dict.fromkeys(problems)


@promise(
    SHARED,
    "Nothing that it keeps grows with every call: no list, no dict, no cache.",
    fix="Append to nothing that outlives the call; a cache needs a largest size, as "
    "functools.lru_cache(maxsize=8) has, and a key that the next step has again.",
    needs=("usable", "no_hidden_state", "looks_anew"),
)
def nothing_grows(subject: Subject) -> Iterator[str]:
    sizes = [subject.remembered.sizes()]
    for _ in range(3):
        subject.exercise(subject.component)
        sizes.append(subject.remembered.sizes())
    for name in sizes[-1]:
        counts = [each.get(name, 0) for each in sizes]
        if all(before < after for before, after in itertools.pairwise(counts)):
            told = ", ".join(str(count) for count in counts[1:])
            yield f"{name} has more entries after each use: {told}"


@contextlib.contextmanager
def _giving_way(lines: Iterator[int]) -> Iterator[None]:
    """Let another thread go on after each of so many lines of the component, of its bases and of
    the helpers that it calls: threads that are let alone switch once in hundreds of calls, and
    would hardly ever meet inside of one.
    """

    def line(frame: FrameType, event: str, argument: Any) -> Any:
        if next(lines, None) is None:
            return None
        time.sleep(GIVE_WAY)
        return line

    def call(frame: FrameType, event: str, argument: Any) -> Any:
        name = str(frame.f_globals.get("__name__"))
        return None if name.partition(".")[0] in NOT_ITS_OWN else line

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(before)
