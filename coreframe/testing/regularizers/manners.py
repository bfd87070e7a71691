"""How a regularizer treats what it is given: bad input, memory, warnings, its fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from coreframe.backend import to_numpy
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.testing.arrays import Place
from coreframe.testing.checks import (
    REPEATABLE,
    NotApplicable,
    Promise,
    difference,
    explain,
    promise,
    recorded_warnings,
)
from coreframe.testing.dtypes import placed
from coreframe.testing.growth import per_row
from coreframe.testing.hyperparameters import unchecked, unscheduled
from coreframe.testing.regularizers.subject import (
    Case,
    Outcome,
    Subject,
    placed_ids,
    problems,
)

MOST_COPIES = 64  # of a row, that one call may hold at once

PROMISES: list[Promise] = []


@promise(
    PROMISES,
    "Zeros, one row, rows that are alike and ids that repeat give finite results.",
    fix="Guard denominators with xp.where before dividing (not after: 0 * inf is NaN), and roots "
    "before their derivative.",
    needs=("usable", "accepts", "shapes", REPEATABLE),
)
def edge_cases(subject: Subject) -> Iterator[str]:
    for case in subject.edges():
        for dtype in ("float64", "float32"):
            for name, x in subject.run(case, dtype=dtype).all.items():
                if not np.isfinite(x).all():
                    yield f"{case.name}, {dtype}: {name} is not finite"


@promise(
    PROMISES,
    "NaN in what it is given comes out, as NaN or as an ArgumentError.",
    fix="Drop no NaN (nansum, xp.where(isfinite)): the run leaves out a step that is not finite, "
    "and says where it came from.",
    needs=("usable", "accepts", "shapes", REPEATABLE),
)
def nan_comes_out(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        spoilt = {name: np.full(np.shape(x), np.nan) for name, x in case.arrays.items()}
        try:
            outcome = subject.run(case.with_arrays(case.name, **spoilt))
        except ArgumentError:
            continue
        if not np.any(subject.run(case).value):
            continue  # it has nothing to say here
        if np.isfinite(outcome.value):
            yield f"{case.name}: with NaN everywhere the value is {float(outcome.value):.4g}"


@promise(
    PROMISES,
    "Batches without ids are served, or refused by an ArgumentError; ids of a wrong form too.",
    fix="Read ids with (ids or {}).get(name), which may be None, and say what is missing; check "
    "that there is one id a row.",
    needs=("usable", "accepts", "shapes", REPEATABLE),
)
def ids_may_be_missing(subject: Subject) -> Iterator[str]:
    subject.only("embeddings")
    for case in subject.cases:
        for what, ids in (
            ("ids=None", None),
            ("ids={}", {}),
            ("ids of None", dict.fromkeys(case.arrays)),
        ):
            try:
                subject.run(dataclasses.replace(case, ids=ids))
            except ArgumentError:
                continue
            except Exception as error:
                yield f"{case.name}, {what}: {explain(error)}"
        if not _reads_ids(subject, case):
            continue
        short = {name: x if x is None else x[:-1] for name, x in (case.ids or {}).items()}
        try:
            subject.run(dataclasses.replace(case, ids=short))
        except (ArgumentError, ArgumentTypeError):
            continue
        except Exception as error:
            yield f"{case.name}, one id too few: {explain(error)}"
        else:
            yield f"{case.name}: one id too few is taken without a word"


def _reads_ids(subject: Subject, case: Case) -> bool:
    """Say whether other ids give another result."""
    turned = {name: x if x is None else np.roll(x, 1) for name, x in (case.ids or {}).items()}
    try:
        other = subject.run(dataclasses.replace(case, ids=turned))
    except Exception:
        return True
    expected = subject.run(case)
    return any(difference(other.all[name], x) > 1e-12 for name, x in expected.all.items())


@promise(
    PROMISES,
    "Nothing that is given is written to, not by begin either; read-only arrays are accepted.",
    fix="Write x = x + y in place of x += y, and xp.where in place of assignments.",
    needs=("usable", "accepts"),
)
def inputs_are_kept(subject: Subject) -> Iterator[str]:
    for library, place in subject.places.items():
        writable: Place = np.array if library == "numpy" else place
        for case in subject.cases:
            given = placed(case.arrays, writable, "float32")
            start = placed(subject.start, writable, "float32")
            ids = placed_ids(case.ids, writable) or {}
            subject.held.append((given, start))
            everything = {"": given, "start: ": start, "ids: ": ids}
            before = {
                (what, name): np.array(to_numpy(x))
                for what, values in everything.items()
                for name, x in values.items()
                if x is not None
            }
            try:
                subject.begun_at(start).value_and_grad(given, ids=ids)
            except Exception:
                continue  # which `libraries` explains
            for (what, name), x in before.items():
                if not np.array_equal(to_numpy(everything[what][name]), x):
                    yield f"{case.name}, {library}: {what}{name} was changed"
    for case in subject.cases:
        subject.run(case)  # on read-only arrays


@promise(
    PROMISES,
    "An array whose values have changed is looked at anew.",
    fix="Keep nothing by id(array): the same memory soon holds other numbers, here and on a GPU.",
    needs=("usable", "accepts", "shapes", "no_hidden_state", "inputs_are_kept"),
)
def looks_anew(subject: Subject) -> Iterator[str]:
    rng = np.random.default_rng(47)
    for case in subject.cases:
        term = subject.begun()
        given = {name: np.array(x) for name, x in case.arrays.items()}
        subject.held.append(given)
        term.value_and_grad(given, ids=case.ids)
        for x in given.values():
            x[...] += 0.1 * rng.standard_normal(x.shape)
        got = term.value_and_grad(given, ids=case.ids)
        subject.remembered.forget()
        expected = subject.run(case.with_arrays(case.name, **given))
        grads = {**{name: 0 * x for name, x in given.items()}, **got.grads}
        found = Outcome(got, np.asarray(got.value), grads)
        yield from problems(found, expected, 1e-9, f"{case.name}, other values in the same arrays")


@promise(
    PROMISES,
    "No warning is raised, edge cases included.",
    fix="Guard the operation before it happens: xp.where around the argument of log, division and "
    "sqrt, not around the result. A warning to the user belongs in begin.",
    needs=("usable", "accepts", "shapes", REPEATABLE, "edge_cases"),
)
def no_warnings(subject: Subject) -> Iterator[str]:
    term = subject.begun()
    for case in [*subject.cases, *subject.edges()]:
        with recorded_warnings() as caught:
            subject.run(case, term=term)
        for warning in caught:
            yield f"{case.name}: {warning.message}"


@promise(
    PROMISES,
    "Its memory grows as the rows or parameters do.",
    fix="Walk over blocks of rows, as coreframe.pairwise does, in place of a matrix of all pairs.",
    needs=("usable", "accepts", "shapes", REPEATABLE),
)
def memory(subject: Subject) -> Iterator[str]:
    def call(n: int) -> Any:
        subject.held.append(case := _larger(subject, n))
        start = case.arrays if subject.of_parameters else subject.start
        term = subject.begun_at(start)
        if hasattr(term, "memory_budget"):
            term = dataclasses.replace(term, memory_budget=1)
        return lambda: term.value_and_grad(case.arrays, ids=case.ids)

    try:
        call(8)()
    except ArgumentError as error:
        raise NotApplicable(f"it takes no other sizes: {error}") from None
    width = sum(np.size(x) for x in _larger(subject, 8).arrays.values()) // 8
    copies = per_row(call, 512, 2048) / 8 / width
    if copies > MOST_COPIES:
        yield f"each further row takes {copies:.0f} times its own memory"


def _larger(subject: Subject, n: int) -> Case:
    """Return a case of so many rows, each with an id of its own; or of one long parameter."""
    rng = np.random.default_rng(46)
    if subject.of_parameters:
        return Case(f"{n} parameters", {next(iter(subject.start)): rng.standard_normal(n)})
    fields = subject.cases[0].arrays
    arrays = {name: rng.standard_normal((n, x.shape[1])) for name, x in fields.items()}
    return Case(f"{n} rows", arrays, {name: rng.permutation(n) for name in arrays})


@promise(
    PROMISES,
    "Each number among its fields may follow a schedule, and is refused by name until resolved.",
    fix="Annotate it `float | Scheduler`, check it with checks.number, call require_resolved(self) "
    "first in value_and_grad, and read it with plain.",
    needs=("form", "usable", "accepts", "shapes", REPEATABLE),
)
def schedules(subject: Subject) -> Iterator[str]:
    def use(term: Any) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for case in subject.cases:
            for name, x in subject.run(case, term=term).all.items():
                found[f"{case.name}: {name}"] = x
        return found

    yield from unscheduled(subject.begun(), use)


@promise(
    PROMISES,
    "Its fields are checked when it is made: NaN, infinity and texts are refused by name.",
    fix="In __post_init__ call checks.number(self, 'name', minimum=...) for each number.",
    needs=("form",),
)
def fields_are_checked(subject: Subject) -> Iterator[str]:
    yield from unchecked(subject.component)
