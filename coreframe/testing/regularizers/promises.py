"""What a regularizer promises, and how each promise is checked."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from coreframe.backend import to_numpy
from coreframe.regularizer import Regularizer
from coreframe.result import LossResult
from coreframe.testing import host, kit
from coreframe.testing.arrays import Place
from coreframe.testing.checks import (
    REPEATABLE,
    Check,
    NotApplicable,
    Promise,
    difference,
    explain,
    promise,
)
from coreframe.testing.dtypes import kind, known, placed
from coreframe.testing.regularizers import manners
from coreframe.testing.regularizers.subject import Case, Subject, placed_ids, problems, rows
from coreframe.testing.regularizers.subject import starting_parameters as starting_parameters
from coreframe.testing.shared import SHARED

DIRECTIONS = 50
STEPS = (1e-5, 1e-6, 1e-4)  # of central differences; the later ones in case a kink is near

OWN: list[Promise] = []


def check_regularizer(
    regularizer: Regularizer,
    *,
    arrays: Mapping[str, Any] | None = None,
    ids: Mapping[str, Any] | None = None,
) -> list[Check]:
    """Check all promises of a regularizer, on every array library of this machine.

    It is checked on ``starting_parameters()`` moved a little, or on batches of embeddings of width
    5 with ids below 9, of which those are used that it does not refuse by an ArgumentError. One
    that is made for others gets them here, in float64: ``arrays`` are the parameters that a run
    starts at, or the embeddings of a batch by field, and ``ids`` theirs.
    """
    made = functools.partial(Subject, given=arrays, ids=ids)
    return dataclasses.replace(KIT, subject=made).check(regularizer)


# Form ---------------------------------------------------------------------------------------


@promise(
    OWN,
    "It says what it is of, and takes the parameters or embeddings of at least one run.",
    fix='Set `of` to "parameters" or "embeddings"; raise ArgumentError only for input without '
    "meaning. Make one that is bound to parameters or ids for starting_parameters() or ids below "
    "9, or give check_regularizer its arrays= and ids=.",
    needs=("usable",),
)
def accepts(subject: Subject) -> Iterator[str]:
    if subject.component.of not in ("parameters", "embeddings"):
        yield f"of is {subject.component.of!r}"
    elif not subject.cases:
        yield from (f"{name}: {reason}" for name, reason in subject.refusals.items())
    elif not any(subject.acts(case) for case in subject.cases):
        yield "the value is 0 on every input, so that nothing can be checked"


@promise(
    OWN,
    "It returns a LossResult: a value that is 0-d, and gradients keyed like the arrays.",
    fix="Return LossResult(value, grads) with xp.sum or xp.mean over all, and in grads a name of "
    "the arrays for each gradient that is not 0.",
    needs=("usable", "accepts"),
)
def shapes(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        raw = subject.run(case).raw
        if not isinstance(raw, LossResult):
            yield f"{case.name}: it returns a {type(raw).__name__}"
            continue
        if np.shape(raw.value) != ():
            yield f"{case.name}: value has shape {np.shape(raw.value)}"
        for name, g in raw.grads.items():
            if name not in case.arrays:
                yield f"{case.name}: grads has {name!r}, the arrays are {', '.join(case.arrays)}"
            elif np.shape(g) != np.shape(case.arrays[name]):
                wanted = np.shape(case.arrays[name])
                yield f"{case.name}: grads[{name!r}] has shape {np.shape(g)}, expected {wanted}"


@promise(
    OWN,
    "Value and gradients have the library, device and dtype of the arrays.",
    fix="Use only functions of xp = namespace(...), none of NumPy; read numbers with "
    "plain(self.x), since a NumPy float64 widens float32; create arrays "
    "with dtype= and device= of the inputs; bring what is kept beside them in `begin`.",
    needs=("usable", "accepts", "shapes", REPEATABLE),
)
def kinds_are_kept(subject: Subject) -> Iterator[str]:
    for library, place in subject.places.items():
        # Dtypes are the same matter in all cases, and JAX compiles each anew.
        for case in subject.cases if library == "numpy" else subject.cases[:1]:
            for dtype in known(place):
                where = f"{case.name}, {library}, {dtype}"
                try:
                    raw = subject.run(case, place, dtype).raw
                    moved = subject.step(case, subject.rates(case), place, dtype)
                except Exception as error:
                    yield f"{where}: {explain(error)}"
                    continue
                here = placed(case.arrays, place, dtype)
                first = next(iter(here.values()))
                results = {"value": (raw.value, kind(first, ()))}
                results |= {f"grads[{k!r}]": (g, kind(here[k])) for k, g in raw.grads.items()}
                if subject.of_parameters:
                    results |= {f"after_step: {k}": (x, kind(here[k])) for k, x in moved.items()}
                for name, (x, wanted) in results.items():
                    got = kind(x) if hasattr(x, "dtype") else f"a {type(x).__name__}"
                    if got != wanted:
                        yield f"{where}: {name} is {got}, must be {wanted}"


# The mathematics ----------------------------------------------------------------------------


@promise(
    OWN,
    "The gradient is the derivative of the value: central differences in float64 agree.",
    fix="Derive the formula again for the array named here; what grads leaves out counts as 0. "
    "One that takes its step in after_step returns gradients of 0.",
    needs=("usable", "accepts", "shapes", REPEATABLE),
)
def gradient(subject: Subject) -> Iterator[str]:
    if subject.proximal is not None:
        raise NotApplicable("it takes a step after the update in place of a gradient")
    for case in subject.cases:
        grads = subject.run(case).grads
        for name, g in grads.items():
            size = float(np.linalg.norm(np.ravel(g)))
            for direction, slope in _slopes(subject, case, name):
                got = float(np.sum(g * direction))
                slack = 1e-6 * size + 1e-9 + 1e-5 * abs(got)
                if all(abs(slope(h) - got) > slack for h in STEPS):
                    yield (
                        f"{case.name}: along a random direction of {name} the value changes by "
                        f"{slope(STEPS[0]):.6g} a unit, the gradient says {got:.6g}"
                    )
                    break


def _slopes(
    subject: Subject, case: Case, name: str
) -> Iterator[tuple[Any, Callable[[float], float]]]:
    """Yield random directions of one array, with the slope of the value along each."""
    rng = np.random.default_rng(44)
    start, term = case.arrays[name], subject.begun()

    def value(x: Any) -> float:
        return float(subject.run(case.with_arrays(case.name, **{name: x}), term=term).value)

    for _ in range(DIRECTIONS):
        direction = rng.standard_normal(np.shape(start))

        def slope(h: float, direction: Any = direction) -> float:
            return (value(start + h * direction) - value(start - h * direction)) / 2 / h

        yield direction, slope


@promise(
    OWN,
    "A proximal step goes to the minimum of the value plus |step|^2 / (2 learning rate).",
    fix="Solve learning_rate * gradient(q) + q - p = 0 for q, and return q from after_step.",
    needs=("usable", "accepts", "shapes", REPEATABLE),
)
def proximal_step(subject: Subject) -> Iterator[str]:
    if (case := subject.proximal) is None:
        raise NotApplicable("it takes no step in place of a gradient")
    rates = subject.rates(case)
    moved = {name: np.asarray(x) for name, x in subject.step(case, rates).items()}
    there = case.with_arrays(case.name, **moved)
    for name, x in case.arrays.items():
        way = moved[name] - x
        slack = 1e-5 * float(np.linalg.norm(np.ravel(way))) + 1e-8
        for direction, slope in _slopes(subject, there, name):
            left = [rates[name] * slope(h) + float(np.sum(way * direction)) for h in STEPS]
            if min(abs(v) for v in left) > slack:
                yield (
                    f"where {name} is moved to, the value still falls: learning_rate * gradient "
                    f"+ step is {left[0]:.3g} along a random direction, must be 0"
                )
                break


@promise(
    OWN,
    "A proximal step uses the learning rate of each parameter, and moves nothing at a rate of 0.",
    fix="Read learning_rates[name] for each name; rules of the optimizer make them differ.",
    needs=("usable", "accepts", "shapes", REPEATABLE),
)
def own_rates(subject: Subject) -> Iterator[str]:
    if (case := subject.proximal) is None:
        raise NotApplicable("it takes no step in place of a gradient")
    rates = subject.rates(case)
    whole = subject.step(case, rates)
    for name in case.arrays:
        alone = subject.step(case, {k: rate if k == name else 0.0 for k, rate in rates.items()})
        for other, x in case.arrays.items():
            wanted = whole[other] if other == name else x
            if difference(alone[other], wanted) > 1e-12:
                what = "moves otherwise" if other == name else "is moved by a rate of 0"
                yield f"{other} {what} where {name} alone has a learning rate"
                return


@promise(
    OWN,
    "after_step returns the same names, shapes and dtypes, and leaves what it is given.",
    fix="Return {**params, name: new}, with the parameters that are free as they are.",
    needs=("usable", "accepts"),
)
def after_step(subject: Subject) -> Iterator[str]:
    subject.only("parameters")
    for case in subject.cases:
        given = {name: np.array(x) for name, x in case.arrays.items()}
        moved = subject.begun().after_step(given, subject.rates(case))
        if set(moved) != set(given):
            yield f"{case.name}: it returns {sorted(moved)}, given were {sorted(given)}"
            continue
        for name, x in given.items():
            if np.shape(moved[name]) != x.shape:
                yield f"{case.name}: {name} has shape {np.shape(moved[name])}, not {x.shape}"
            if not np.array_equal(x, case.arrays[name]):
                yield f"{case.name}: {name}, as it was given, was changed"


@promise(
    OWN,
    "The order of arrays and of rows does not matter, as long as ids go with their rows.",
    fix="Use no position of a name or row: sum over rows, and find rows by their ids.",
    needs=("usable", "accepts", "shapes", REPEATABLE),
)
def order(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        expected = subject.run(case)
        turned = dataclasses.replace(case, arrays=dict(reversed(list(case.arrays.items()))))
        where = f"{case.name}, names in another order"
        yield from problems(subject.run(turned), expected, 1e-9, where)
        counts = {len(x) for x in case.arrays.values() if np.ndim(x) > 1}
        named = all((case.ids or {}).get(name) is not None for name in case.arrays)
        if subject.of_parameters or len(counts) != 1 or not named:
            continue  # without ids, rows may be known by their numbers
        mixed = np.random.default_rng(45).permutation(counts.pop())
        got = subject.run(rows(case, case.name, mixed))
        back = {name: g[np.argsort(mixed)] for name, g in got.grads.items()}
        got = dataclasses.replace(got, grads=back)
        yield from problems(got, expected, 1e-9, f"{case.name}, rows in another order")


@promise(
    OWN,
    "A `strength` scales it: 0 gives 0 with gradients of 0, twice gives twice the value.",
    fix="Multiply value and gradients by plain(self.strength), and nothing else.",
    needs=("usable", "accepts", "shapes", REPEATABLE),
)
def strength(subject: Subject) -> Iterator[str]:
    term = subject.begun()
    once = getattr(term, "strength", None)
    if not isinstance(once, int | float) or once == 0:
        raise NotApplicable("it has no field strength, or it is 0")
    for factor in (0.0, 2.0):
        other = dataclasses.replace(term, strength=factor * once)
        for case in subject.cases:
            got, before = subject.run(case, term=other).all, subject.run(case, term=term).all
            for name, x in before.items():
                if difference(got[name], factor * x) > 1e-9:
                    yield f"{case.name}: at {factor:g} times the strength {name} is not as much"


@promise(
    OWN,
    "begin returns a regularizer for one run, and changes neither this one nor earlier runs.",
    fix="Return dataclasses.replace(self, center=dict(params)); set nothing on self.",
    needs=("usable", "accepts", "shapes", REPEATABLE),
)
def begin(subject: Subject) -> Iterator[str]:
    first = subject.begun()
    if not isinstance(first, Regularizer):
        yield f"begin returns a {type(first).__name__}"
        return
    if first.of != subject.component.of:
        yield f"begin returns a regularizer of {first.of}"
    before = [subject.run(case, term=first).all for case in subject.cases]
    elsewhere = {name: np.asarray(x + 1.0) for name, x in subject.start.items()}
    subject.component.begin(elsewhere)
    for when in ("an earlier run", "a run from here"):
        term = first if when == "an earlier run" else subject.begun()
        for case, expected in zip(subject.cases, before, strict=True):
            got = subject.run(case, term=term).all
            for name, x in expected.items():
                if difference(got[name], x) > 0:
                    yield f"{case.name}: after another begin, {name} of {when} is another"


# Libraries ----------------------------------------------------------------------------------


@promise(
    OWN,
    "All array libraries of this machine give the same result.",
    fix="Use only functions of the array API standard, from xp = namespace(...), and create "
    "arrays with device=.",
    needs=("usable", "accepts", "shapes", REPEATABLE, "kinds_are_kept"),
)
def libraries(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        expected = subject.run(case)
        stepped = subject.step(case, subject.rates(case))
        for library, place in subject.places.items():
            for dtype, tolerance in (("float64", 1e-9), ("float32", 1e-3)):
                if dtype not in known(place):
                    continue
                where = f"{case.name}, {library}, {dtype}"
                try:
                    got = subject.run(case, place, dtype)
                    moved = subject.step(case, subject.rates(case), place, dtype)
                except Exception as error:
                    yield f"{where}: {explain(error)}"
                    continue
                yield from problems(got, expected, tolerance, where)
                for name, x in stepped.items():
                    if difference(to_numpy(moved[name]), x) > tolerance:
                        yield f"{where}: after_step moves {name} elsewhere"


@promise(
    OWN,
    "It looks at no value of its arrays on the host: no GPU is waited for, and it runs under "
    "jax.jit.",
    fix="Replace `if`, float(), .item() and a mask as an index by xp.where: on a device each look "
    "is a wait.",
    needs=("usable", "accepts", "shapes", REPEATABLE, "libraries"),
)
def traceable(subject: Subject) -> Iterator[str]:
    yield from host.looks(subject.places, lambda place: _calls(subject, place))
    if "jax" not in subject.places:
        return
    import jax

    place = subject.places["jax"]
    for case in subject.cases[:1]:
        term, ids = subject.begun(place, "float32"), placed_ids(case.ids, place)
        here = placed(case.arrays, place, "float32")

        def value(given: Any, term: Any = term, ids: Any = ids) -> Any:
            return term.value_and_grad(given, ids=ids).value

        if difference(jax.jit(value)(here), value(here)) > 1e-3:
            yield f"{case.name}: the value is another under jax.jit"


def _calls(subject: Subject, place: Place) -> Callable[[], Any]:
    """Return a call on all cases, whose arrays are made already; ids are the host's."""
    term = subject.begun(place)
    given = [(placed(x.arrays, place, "float64"), x.ids) for x in subject.cases]
    return lambda: [term.value_and_grad(arrays, ids=ids) for arrays, ids in given]


PROMISES = [*SHARED, *OWN, *manners.PROMISES]

KIT = kit.Kit("regularizers", Regularizer, Subject, PROMISES)
