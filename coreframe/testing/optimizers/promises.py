"""What an optimizer promises, and how each promise is checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from coreframe.backend import to_numpy
from coreframe.optimizer import Optimizer
from coreframe.testing import kit
from coreframe.testing.arrays import Place, on_numpy
from coreframe.testing.checks import REPEATABLE, Check, Promise, difference, explain, promise
from coreframe.testing.dtypes import in_dtype, kind, known, placed
from coreframe.testing.optimizers import manners, steps
from coreframe.testing.optimizers.subject import RATE, TOLERANCE, Subject, everything
from coreframe.testing.shared import SHARED

FORM: list[Promise] = []


def check_optimizer(optimizer: Optimizer) -> list[Check]:
    """Check all promises of an optimizer on seeded parameters and on every array library here.

    Numbers that are scheduled are taken from the middle of a run. Takes about a second.
    """
    return KIT.check(optimizer)


@promise(
    FORM,
    "It takes parameters of every shape, one number and one column included.",
    fix="Write step with operations that work on every shape: no axis=, no x.T, no len(x); a "
    "method for matrices says in step what it does with the rest.",
)
def accepts(subject: Subject) -> Iterator[str]:
    for name, shape in subject.shapes.items():
        try:
            params = {name: on_numpy(subject.params[name])}
            state = subject.bare.init(params)
            subject.bare.update(params, {name: on_numpy(np.ones(shape))}, state)
        except Exception as error:
            yield f"shape {shape}: {explain(error)}"


@promise(
    FORM,
    "init gives step 0, and for each parameter zeros: its slots in its shape, its scalars 0-d.",
    fix="Name what is kept in `slots` and `scalars`, and leave init to the base class.",
    needs=("usable",),
)
def starts_at_zero(subject: Subject) -> Iterator[str]:
    params = placed(subject.params, on_numpy, "float32")
    state = dict(subject.optimizer.init(params))
    if state.pop("step", None) != 0:
        yield "state['step'] does not start at 0"
    for slot in (*subject.optimizer.slots, *subject.optimizer.scalars):
        for name, x in params.items():
            kept = state.pop(f"{slot}/{name}", None)
            shape = () if slot in subject.optimizer.scalars else x.shape
            if getattr(kept, "shape", None) != shape or np.any(kept != 0):
                yield f"state['{slot}/{name}'] must start as zeros of shape {shape}, is {kept!r}"
    for name in state:
        yield f"state has {name!r}, which `slots` and `scalars` do not name"


@promise(
    FORM,
    "step returns all slots and scalars that the class names, and no others.",
    fix="Return a mapping with exactly the names in `slots` and `scalars`: what is left out keeps "
    "its old value in silence.",
    needs=("usable",),
)
def slots_are_named(subject: Subject) -> Iterator[str]:
    _, _, slots = subject.step(on_numpy, "float64", "query.W")
    named = {*subject.optimizer.slots, *subject.optimizer.scalars}
    if set(slots) != named:
        yield f"step returns {sorted(slots) or 'none'}, the class names {sorted(named) or 'none'}"


@promise(
    FORM,
    "Parameters keep library, device, dtype and shape; slots too, in float32 or wider.",
    fix="Use only functions of xp = namespace(parameter=parameter), none of NumPy; read numbers "
    "with plain(self.x), since a NumPy float64 widens float32; create arrays with "
    "zeros_like(parameter), or with dtype= and device=.",
    needs=("usable",),
)
def kinds_are_kept(subject: Subject) -> Iterator[str]:
    scalars = subject.optimizer.scalars
    for library, place in subject.places.items():
        for dtype in known(place):
            for name in ("query.W", "loss.scale"):
                where = f"{library}, {dtype}, shape {subject.shapes[name]}"
                try:
                    parameter, new, slots = subject.step(place, dtype, name)
                except Exception as error:
                    yield f"{where}: {explain(error)}"
                    continue
                for what, x in (("the parameter", new), *slots.items()):
                    shape = () if what in scalars else tuple(parameter.shape)
                    got, wanted = kind(x, tuple(x.shape)), kind(parameter, shape)
                    if got != wanted:
                        yield f"{where}: step returns {what} as {got}, must be {wanted}"
                params = {name: in_dtype(subject.params[name], place, dtype)}
                state = subject.bare.init(params)
                moved, _ = subject.bare.update(params, params, state)
                got, wanted = (kind(x, tuple(x.shape)) for x in (moved[name], params[name]))
                if got != wanted:
                    yield f"{where}: update returns the parameter as {got}, must be {wanted}"


@promise(
    FORM,
    "All array libraries of this machine give the same moves.",
    fix="Use only functions of the array API standard, from xp = namespace(parameter=...), and "
    "create arrays with device=.",
    needs=("usable", "kinds_are_kept", "inputs_are_kept", REPEATABLE),
)
def libraries(subject: Subject) -> Iterator[str]:
    optimizer = dataclasses.replace(subject.optimizer, learning_rate=RATE)
    turns = subject.gradients()
    expected = _moves(subject, *subject.walk(optimizer, turns))
    for library, place in subject.places.items():
        for dtype in [dtype for dtype in TOLERANCE if dtype in known(place)]:
            where = f"{library}, {dtype}"
            try:
                got = _moves(subject, *subject.walk(optimizer, turns, place, dtype))
            except Exception as error:
                yield f"{where}: {explain(error)}"
                continue
            for name, x in expected.items():
                gap = difference(got[name], x, 1e-3)
                if gap > TOLERANCE[dtype]:
                    yield f"{where}: {name} differs by {gap:.1g} of its largest entry"


def _moves(subject: Subject, params: Mapping[str, Any], state: Any) -> dict[str, Any]:
    """Return how far parameters went, since float32 shows little of that in where they are."""
    moved = {name: to_numpy(x) - subject.params[name] for name, x in params.items()}
    return everything(moved, state)


@promise(
    FORM,
    "Nothing that is given is written to; read-only arrays are accepted.",
    fix="Write x = x + y in place of x += y: on a device the trainer goes back to the old arrays.",
    needs=("usable", "slots_are_named", "kinds_are_kept"),
)
def inputs_are_kept(subject: Subject) -> Iterator[str]:
    for library, place in subject.places.items():
        writable: Place = np.array if library == "numpy" else place
        try:
            params = placed(subject.params, writable, "float32")
            grads = placed(subject.gradients()[0], writable, "float32")
            state = dict(subject.optimizer.init(params))
        except Exception:
            continue  # which kinds_are_kept explains
        given = {"params": params, "grads": grads, "state": state}
        before = {
            (what, name): np.array(to_numpy(x))
            for what, values in given.items()
            for name, x in values.items()
            if name != "step"
        }
        for _ in range(2):  # step alone, as a kernel may stand in for it in update
            subject.optimizer.update(params, grads, state)
        w = {k.partition("/")[0]: x for k, x in state.items() if k.endswith("/query.W")}
        subject.optimizer.step(params["query.W"], grads["query.W"], w, 1)
        for (what, name), x in before.items():
            if not np.array_equal(to_numpy(given[what][name]), x):
                yield f"{library}: {what}[{name!r}] was changed"
    subject.walk(subject.optimizer, subject.gradients())  # on read-only arrays


PROMISES = [*SHARED, *FORM, *steps.PROMISES, *manners.PROMISES]

KIT = kit.Kit("optimizers", Optimizer, Subject, PROMISES)
