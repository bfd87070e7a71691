"""What a loss promises, and how each promise is checked."""

from __future__ import annotations

from collections.abc import Iterator

from coreframe.loss import Loss
from coreframe.testing import kit
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
    "The value is 0-d (with reduction none one a row), and each gradient has its field's shape.",
    fix="Return LossResult(value, grads) with xp.sum or xp.mean over the rows, and in grads an "
    "array for each of anchors, references and negatives that the batch has.",
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
        if set(raw.grads) != set(case.embeddings):
            yield f"{case.name}: grads has {sorted(raw.grads)}, expected {case.embeddings}"
            continue
        for name, g in raw.grads.items():
            shape = case.floats[name].shape
            if not hasattr(g, "dtype"):
                yield f"{case.name}: grads[{name!r}] is a {type(g).__name__}, not an array"
            elif tuple(g.shape) != shape:
                yield f"{case.name}: grads[{name!r}] is {tuple(g.shape)}, but {name} is {shape}"


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
