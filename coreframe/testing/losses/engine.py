"""What a loss promises that is a function of rows: of similarities, or single ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from coreframe.loss import PairwiseLoss
from coreframe.row_loss import RowLoss
from coreframe.testing import arrays, host
from coreframe.testing.arrays import Place
from coreframe.testing.checks import (
    REPEATABLE,
    NotApplicable,
    Promise,
    difference,
    promise,
)
from coreframe.testing.losses.subject import NUMBERS, Outcome, Subject, compare

FIRST: list[Promise] = []
"""What is asked before the loss is called as a whole."""

PROMISES: list[Promise] = []
ROWS = ("row_terms_shapes", REPEATABLE, "precision")


@promise(
    FIRST,
    "row_terms takes (r, m) similarities and two masks; it returns losses (r,) and derivatives "
    "(r, m).",
    fix="Reduce over axis=1 without keepdims for the losses, and return as the second the "
    "derivative of each row's loss by each of its similarities.",
)
def row_terms_shapes(subject: Subject) -> Iterator[str]:
    rows = arrays.rows_of_similarities(subject.pairwise.similarity)
    found = subject.pairwise.row_terms(*(np.array(x) for x in rows))
    if not isinstance(found, tuple) or len(found) != 2:
        yield f"it returns a {type(found).__name__}, expected a tuple (losses, derivatives)"
        return
    r, m = rows[0].shape
    for what, x, wanted in zip(("losses", "derivatives"), found, ((r,), (r, m)), strict=True):
        if (shape := np.shape(x)) != wanted:
            yield f"for {r} rows of {m} columns the {what} have shape {shape}, expected {wanted}"


@promise(
    PROMISES,
    "row_terms gives row i from row i alone.",
    fix="Reduce over axis=1 only, and divide by no number of rows: blocks of rows come in any "
    "height, and the engine applies the reduction.",
    needs=ROWS,
)
def rows_are_independent(subject: Subject) -> Iterator[str]:
    rows = arrays.rows_of_similarities(subject.pairwise.similarity)
    losses, grads = subject.row_terms(*rows)
    for i in range(len(losses)):
        if subject.pairwise.needs_positive and not rows[1][i].any():
            continue  # the engine zeroes it
        alone = subject.row_terms(*(x[i : i + 1] for x in rows))
        for what, one, all_rows in (("loss", alone[0], losses), ("derivative", alone[1], grads)):
            if difference(one, all_rows[i : i + 1]) > 1e-9:
                yield f"the {what} of row {i} changes when it is computed without the other rows"


@promise(
    PROMISES,
    "rows of a RowLoss gives row i from row i alone.",
    fix="Reduce over axis=1 only, and divide by no number of rows: RowLoss applies the reduction.",
    needs=NUMBERS,
)
def single_rows(subject: Subject) -> Iterator[str]:
    if not isinstance(subject.loss, RowLoss):
        raise NotApplicable("it is no RowLoss")
    loss = dataclasses.replace(subject.loss, reduction="none")
    for case in subject.cases:
        half = case.rows // 2
        whole = subject.run(case, loss=loss)
        alone = subject.run(case.head(half), loss=loss)
        expected = Outcome(
            whole.raw, whole.value[:half], {name: g[:half] for name, g in whole.grads.items()}
        )
        yield from compare(f"{case.name}, half of the rows", alone, expected, 1e-9)


@promise(
    PROMISES,
    "A column that is false in both masks has no influence and derivative 0.",
    fix="Mask with xp.where(positive | negative, ...) before every maximum, sum, sort and count "
    "over columns; an anchor is no partner of itself, and blocks may be padded.",
    needs=ROWS,
)
def unused_columns(subject: Subject) -> Iterator[str]:
    similarity = subject.pairwise.similarity
    s, positive, negative = arrays.rows_of_similarities(similarity)
    unused = ~(positive | negative)
    defined = positive.any(axis=1) | (not subject.pairwise.needs_positive)
    losses, grads = subject.row_terms(s, positive, negative)
    if np.any(np.nan_to_num(grads[unused & defined[:, None]]) != 0):
        yield "the derivative by such a column is not 0"
    for extreme in arrays.extremes(similarity):
        other, other_grads = subject.row_terms(np.where(unused, extreme, s), positive, negative)
        if difference(other[defined], losses[defined]) > 1e-9:
            yield f"the loss changes when such a similarity becomes {extreme:g}"
        used = ~unused & defined[:, None]
        if difference(other_grads[used], grads[used]) > 1e-9:
            yield f"derivatives of other columns change when such a similarity becomes {extreme:g}"
        no = np.zeros((len(s), 3), np.bool_)
        wide = (
            np.concatenate([s, np.full((len(s), 3), extreme)], axis=1),
            np.concatenate([positive, no], axis=1),
            np.concatenate([negative, no], axis=1),
        )
        if difference(subject.row_terms(*wide)[0][defined], losses[defined]) > 1e-9:
            yield f"the loss changes when three such columns of {extreme:g} are added"


@promise(
    PROMISES,
    "row_terms does not care in which order the columns stand.",
    fix="Address columns by the masks, never by their number: the diagonal of a block is not that "
    "of the batch.",
    needs=ROWS,
)
def columns_in_any_order(subject: Subject) -> Iterator[str]:
    rows = arrays.rows_of_similarities(subject.pairwise.similarity)
    losses, grads = subject.row_terms(*rows)
    order = np.random.default_rng(19).permutation(rows[0].shape[1])
    defined = rows[1].any(axis=1) | (not subject.pairwise.needs_positive)
    moved, moved_grads = subject.row_terms(*(x[:, order] for x in rows))
    if difference(moved[defined], losses[defined]) > 1e-9:
        yield "the losses change when the columns are put into another order"
    if difference(moved_grads[defined], grads[:, order][defined]) > 1e-9:
        yield "the derivatives do not follow when the columns are put into another order"


@promise(
    PROMISES,
    "row_terms, or rows, looks at no value on the host: no GPU is waited for, and it runs under "
    "jax.jit.",
    fix="Replace `if`, float(), .item() and a mask as an index by xp.where; Python decisions may "
    "depend on fields and shapes.",
    needs=(*ROWS, "libraries", "devices"),
)
def traceable(subject: Subject) -> Iterator[str]:
    loss = subject.loss
    if not isinstance(loss, PairwiseLoss | RowLoss):
        raise NotApplicable("it is no PairwiseLoss and no RowLoss")
    yield from host.looks(subject.places, lambda place: _written(subject, place))
    if "jax" in subject.places and isinstance(loss, PairwiseLoss):
        yield from _others_under_jit(subject)


def _written(subject: Subject, place: Place) -> Callable[[], Any]:
    """Return a call of what the author of a loss of rows has written, on all that it takes."""
    loss: Any = subject.loss
    if isinstance(loss, PairwiseLoss):
        rows = [place(x) for x in arrays.rows_of_similarities(loss.similarity)]
        return lambda: loss.row_terms(*rows)
    given = []
    for case in subject.cases:
        batch = case.batch(place)
        fields = {name: getattr(batch, name) for name in case.embeddings if name in loss.needs}
        if "references" in fields:
            fields["references"] = fields["references"][: case.rows, :]
        given.append((fields, batch))
    return lambda: [loss.rows(*each) for each in given]


def _others_under_jit(subject: Subject) -> Iterator[str]:
    import jax

    rows = arrays.rows_of_similarities(subject.pairwise.similarity)
    expected = subject.row_terms(*(x[:3] for x in rows))
    placed = [jax.numpy.asarray(x[:3]) for x in (rows[0].astype(np.float32), *rows[1:])]
    got = jax.jit(subject.pairwise.row_terms)(*placed)
    for what, ours, wanted in zip(("losses", "derivatives"), got, expected, strict=True):
        if difference(ours, wanted) > 2e-3:
            yield f"the {what} are others under jax.jit"
