"""What a loss promises, and how each promise is checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from coreframe.loss import Loss
from coreframe.testing import kit
from coreframe.testing.arrays import Case
from coreframe.testing.checks import REPEATABLE, Check, Promise, difference, promise
from coreframe.testing.losses import engine, manners, values
from coreframe.testing.losses.subject import Subject
from coreframe.testing.shared import SHARED

FORM: list[Promise] = []


def check_loss(loss: Loss) -> list[Check]:
    """Check all promises of a loss on seeded batches and on every array library of this machine.

    Takes a few seconds. Of the batches, those are used that have the fields the loss needs, and
    that it does not refuse by an ArgumentError.
    """
    return KIT.check(loss)


@promise(
    FORM,
    "It accepts at least one kind of batch.",
    fix="Name in `needs` the Batch fields that are read; raise ArgumentError only for batches "
    "that have no meaning for the loss.",
    needs=("usable",),
)
def accepts(subject: Subject) -> Iterator[str]:
    if not subject.cases:
        yield from (f"{name}: {reason}" for name, reason in subject.refusals.items())


@promise(
    FORM,
    "The value is 0-d (with reduction none one a row), and each gradient has the shape of its "
    "field or parameter.",
    fix="Return LossResult(value, grads, param_grads) with xp.sum or xp.mean over the rows, in "
    "grads an array for each of anchors, references and negatives that the batch has, and in "
    "param_grads one for each parameter.",
    needs=("usable", "accepts"),
)
def shapes(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        raw = subject.run(case).raw
        wanted = (case.rows,) if subject.reduction == "none" else ()
        if not hasattr(raw.value, "dtype"):
            yield f"{case.name}: value is a {type(raw.value).__name__}, not an array"
        elif tuple(raw.value.shape) != wanted:
            yield f"{case.name}: value has shape {tuple(raw.value.shape)}, expected {wanted}"
        fields = {name: case.floats[name] for name in case.embeddings}
        yield from _other_shapes(f"{case.name}: grads", raw.grads, fields)
        yield from _other_shapes(f"{case.name}: param_grads", raw.param_grads, subject.params)


def _other_shapes(what: str, grads: Mapping[str, Any], of: Mapping[str, Any]) -> Iterator[str]:
    if set(grads) != set(of):
        yield f"{what} has {sorted(grads)}, expected {list(of)}"
        return
    for name, g in grads.items():
        shape = np.shape(of[name])
        if not hasattr(g, "dtype"):
            yield f"{what}[{name!r}] is a {type(g).__name__}, not an array"
        elif tuple(g.shape) != shape:
            yield f"{what}[{name!r}] is {tuple(g.shape)}, but {name} is {shape}"


@promise(
    FORM,
    "What comes in float64 is computed in float64.",
    fix="Cast nothing to xp.float32: compute in the dtype of what comes in. The engine widens what "
    "is narrower than float32.",
    needs=("row_terms_shapes", "usable", "accepts", "shapes", REPEATABLE),
)
def precision(subject: Subject) -> Iterator[str]:
    for case in subject.cases:

        def moved_by(step: float, case: Case = case) -> float:
            rng = np.random.default_rng(24)
            moved = {
                name: case.floats[name] * (1 + step * rng.uniform(0.5, 1, case.floats[name].shape))
                for name in case.embeddings
            }
            return float(np.sum(subject.run(case, **moved).value))

        still = moved_by(0.0)
        near, far = ([moved_by(step), moved_by(-step)] for step in (1e-11, 1e-5))
        if near == [still, still] and still not in far:
            yield (
                f"{case.name}: the value is the same to the last bit where embeddings change by "
                "a hundred billionth, as if they were float32"
            )


@promise(
    FORM,
    "grads has the fields named in wrt and no others, and they are the same as without wrt.",
    fix="Return in grads the fields named in wrt (None: all), for example those of "
    "coreframe.result.wanted_fields(batch, wrt).",
    needs=("usable", "accepts", "shapes", REPEATABLE),
)
def wrt(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        whole = subject.run(case)
        for name in case.embeddings:
            part = subject.run(case, wrt=(name,))
            if set(part.raw.grads) != {name}:
                yield f"{case.name}: wrt=({name!r},) returns grads of {sorted(part.raw.grads)}"
            elif difference(part.grads[name], whole.grads[name]) > 1e-12:
                yield f"{case.name}: grads[{name!r}] changes with wrt"


ENGINE, TRACEABLE = engine.PROMISES[:-1], engine.PROMISES[-1:]

PROMISES = [
    *engine.FIRST,
    *SHARED,
    *FORM,
    *ENGINE,
    *values.PROMISES,
    *manners.PROMISES,
    *TRACEABLE,
]

KIT = kit.Kit("losses", Loss, Subject, PROMISES)
