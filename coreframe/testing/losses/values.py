"""What a loss promises about its numbers: edges, the gradient, symmetries and weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from coreframe.errors import ArgumentError
from coreframe.loss import PairwiseLoss
from coreframe.testing import arrays
from coreframe.testing.arrays import Case, on_numpy
from coreframe.testing.checks import (
    NotApplicable,
    Promise,
    Remark,
    difference,
    promise,
    recorded_warnings,
)
from coreframe.testing.losses.subject import NUMBERS, Outcome, Subject, compare

DIRECTIONS = 50
MANY_ROWS, FEW_DIRECTIONS = 150, 3
"""Batches that are larger than any threshold at which a loss may take another way."""
STEPS = (1e-5, 1e-6, 1e-4)  # of central differences; the later ones in case a kink is near

PROMISES: list[Promise] = []


# Edges --------------------------------------------------------------------------------------


def _edge(name: str, sentence: str, *, fix: str, needs: tuple[str, ...] = ()) -> None:
    """Promise that the results are finite on the edge cases of one name."""

    def problems(subject: Subject) -> Iterator[str]:
        cases = subject.edge_cases(name)
        if not cases:
            raise NotApplicable("it takes no such batch")
        for case in cases:
            yield from _not_finite(subject, case)

    problems.__name__ = name
    promise(PROMISES, f"{sentence} give finite results.", fix=fix, needs=(*NUMBERS, *needs))(
        problems
    )


def _dtypes(subject: Subject, case: Case) -> list[Any]:
    """Return the dtypes that can hold the results.

    The square of a product of long vectors is right, and no number of float32.
    """
    largest = float(np.finfo(np.float32).max)
    wide = subject.run(case).all.values()
    fits = all(np.abs(x[np.isfinite(x)]).max(initial=0.0) < largest for x in wide)
    return [np.float64, np.float32] if fits else [np.float64]


def _not_finite(subject: Subject, case: Case) -> Iterator[str]:
    wide = subject.run(case).all
    for dtype in _dtypes(subject, case):
        for name, x in subject.run(case, dtype=dtype).all.items():
            if not np.isfinite(x).all():
                narrow = dtype == np.float32 and np.isfinite(wide[name]).all()
                if narrow and subject.overflows:
                    continue  # which is named already
                why = ", and in float64 it is: something on the way is too large" if narrow else ""
                yield f"{case.name}, {np.dtype(dtype).name}: {name} is not finite{why}"


@promise(
    PROMISES,
    "What is finite in float64 is finite in float32: nothing on the way is too large or too small.",
    fix="Take the largest exponent out before exp and put it back after log: log(sum e^z) = t + "
    "log(sum e^(z - t)) with t = max z; xp.log1p and xp.expm1 help near 1 and 0.",
    needs=NUMBERS,
)
def overflow(subject: Subject) -> Iterator[str]:
    yield from subject.overflows


_edge(
    "no_positives",
    "Rows without positives",
    fix="Take maxima and minima over positives through xp.where(positive, s, ...), and divide by "
    "their number only where it is not 0; the engine leaves such rows out.",
)
_edge(
    "no_negatives",
    "Rows without negatives",
    fix="Take maxima and sums over negatives through xp.where(negative, s, ...): the logarithm of "
    "an empty sum is not finite.",
)
_edge(
    "one_row",
    "Batches of one row",
    fix="Divide by no n - 1 and by no number of negatives without xp.where(count > 0, ...); a "
    "batch without meaning may be refused by an ArgumentError.",
    needs=("no_positives", "no_negatives"),
)
_edge(
    "duplicates",
    "Rows that equal each other",
    fix="Guard square roots and norms of differences: xp.where(d > 0, d, 1) before dividing by d, "
    "not after, since 0 * inf is NaN.",
)
_edge(
    "zero_vectors",
    "Zero vectors",
    fix="Guard denominators with xp.where before dividing, not after, since 0 * inf is NaN: the "
    "cosine of a zero vector is 0, and its gradient 0.",
    needs=("duplicates",),
)
_edge(
    "magnitudes",
    "Vectors 1e15 long, and 1e-15 short,",
    fix="Shift by the maximum before exp (logsumexp), and add no epsilon to norms.",
)


# The gradient -------------------------------------------------------------------------------


@promise(
    PROMISES,
    "The gradient is the derivative of the value: central differences in float64 agree.",
    fix="Derive the formula again for the array named here. A loss that stops some gradients on "
    "purpose declares `detached: ClassVar[bool] = True`.",
    needs=(*NUMBERS, "no_positives", "no_negatives"),
)
def gradient(subject: Subject) -> Iterator[str]:
    if subject.loss.detached:
        yield from _leads_nowhere(subject)
        yield Remark(
            "the loss declares detached = True: found out is only that its gradients lead down. "
            "Compare them with those of an autograd, with the same parts detached."
        )
        return
    found: list[str] = []
    for case in subject.cases:
        for name in [*case.embeddings, *(f"params.{key}" for key in subject.params)]:
            found += _gradient_problems(subject, case, name, DIRECTIONS)
    for case in subject.usable([arrays.tall_case(MANY_ROWS), arrays.tall_pairs(MANY_ROWS)]):
        for name in [*case.embeddings, *(f"params.{key}" for key in subject.params)]:
            # Among so many rows a kink is near: only what is wrong in all directions is wrong.
            wrong = list(_gradient_problems(subject, case, name, FEW_DIRECTIONS, most=99))
            found += wrong[:1] if len(wrong) == FEW_DIRECTIONS else []
    if found and isinstance(subject.loss, PairwiseLoss):
        yield from _wrong_derivative(subject)
    yield from found


def _gradient_problems(
    subject: Subject, case: Case, name: str, directions: int, most: int = 1
) -> Iterator[str]:
    """Compare the gradient of one array with central differences in random directions."""
    is_param = name.startswith("params.")
    key = name.removeprefix("params.")
    start = np.asarray((subject.params if is_param else case.floats)[key], np.float64)

    def value(x: Any) -> float:
        moved: Any = {"params": {**subject.params, key: x}} if is_param else {key: x}
        return float(np.sum(subject.run(case, **moved).value))

    g = subject.run(case).grads[name]
    rng = np.random.default_rng(14)
    for _ in range(directions):
        direction = rng.standard_normal(start.shape)
        got = float(np.sum(g * direction))
        slack = 1e-6 * float(np.linalg.norm(g)) + 1e-9 + 1e-5 * abs(got)
        slopes = []
        for step in STEPS:
            slope = (value(start + step * direction) - value(start - step * direction)) / 2 / step
            slopes.append(slope)
            if abs(slope - got) <= slack:
                break
        else:
            yield (
                f"{case.name}: along a random direction of {name} the value changes by "
                f"{slopes[0]:.6g} a unit, the gradient says {got:.6g}"
            )
            if (most := most - 1) == 0:
                return


def _leads_nowhere(subject: Subject) -> Iterator[str]:
    """Look at gradients that are in part stopped: some are left, and a step against them helps."""
    rises: list[bool] = []
    for case in subject.cases:
        starts = {name: np.asarray(case.floats[name]) for name in case.embeddings}
        starts |= {f"params.{name}": x for name, x in subject.params.items()}
        found = subject.run(case).grads
        if not any(np.any(found[name]) for name in case.embeddings):
            rng = np.random.default_rng(14)
            along = {
                name: rng.standard_normal(np.shape(x)) * (name in case.embeddings)
                for name, x in starts.items()
            }
            if abs(_slope(subject, case, starts, along)) > 1e-6:
                yield f"{case.name}: all gradients are 0, and the value changes with the embeddings"
            continue
        size = float(np.sqrt(sum(float(np.sum(g * g)) for g in found.values())))
        along = {name: found[name] / size for name in starts}
        rises.append(_slope(subject, case, starts, along) < -1e-6 * size)
    if rises and all(rises):
        yield "on every batch a step against the gradients raises the value"


def _slope(subject: Subject, case: Case, starts: Any, along: Any) -> float:
    """Return the change of the value a unit along a direction of all arrays at once."""
    values = []
    for step in (STEPS[0], -STEPS[0]):
        moved = {name: x + step * along[name] for name, x in starts.items()}
        params = {key: moved.pop(f"params.{key}") for key in subject.params}
        values.append(float(np.sum(subject.run(case, params=params, **moved).value)))
    return (values[0] - values[1]) / 2 / STEPS[0]


def _wrong_derivative(subject: Subject) -> Iterator[str]:
    """Name the derivative of row_terms that is farthest from differences of its losses."""
    s, positive, negative = arrays.rows_of_similarities(subject.pairwise.similarity)
    _, grads = subject.row_terms(s, positive, negative)
    used = positive | negative
    if subject.pairwise.needs_positive:
        used &= positive.any(axis=1)[:, None]
    step, slopes = 1e-6, np.zeros_like(s)
    for column in range(s.shape[1]):
        up, down = s.copy(), s.copy()
        up[:, column] += step
        down[:, column] -= step
        higher, lower = (subject.row_terms(x, positive, negative)[0] for x in (up, down))
        slopes[:, column] = (higher - lower) / (2 * step)
    gap = np.where(used, np.abs(slopes - grads), 0.0)
    wrong = gap > 1e-5 * np.abs(slopes).max() + 1e-7
    if wrong.any():
        row, column = divmod(int(gap.argmax()), gap.shape[1])
        kind = "positive" if positive[row, column] else "negative"
        yield (
            f"row_terms: {wrong.sum()} of {used.sum()} derivatives are wrong "
            f"({(wrong & positive).sum()} by positives, {(wrong & negative).sum()} by negatives); "
            f"by column {column} of row {row}, a {kind}, the loss changes by "
            f"{slopes[row, column]:.6g} a unit, the derivative says {grads[row, column]:.6g}"
        )


# Symmetries ---------------------------------------------------------------------------------


@promise(
    PROMISES,
    "The order of the batch does not matter: the value stays, and gradients move with their rows.",
    fix="Address rows by the relation, the labels or the masks, never by their number; what row i "
    "counts must not depend on i.",
    needs=(*NUMBERS, "rows_are_independent", "columns_in_any_order", "single_rows"),
)
def order_of_the_batch(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        moved, order = case.permuted()
        plain = subject.run(case)
        expected = Outcome(
            plain.raw,
            plain.value[order["rows"]] if plain.value.ndim else plain.value,
            {name: g[order[name]] if name in order else g for name, g in plain.grads.items()},
        )
        where = f"{case.name}, in another order"
        yield from compare(where, subject.run(moved), expected, 1e-9)


@promise(
    PROMISES,
    "Weights count relative to each other: scaling all changes no mean, and ones change nothing.",
    fix="Multiply each row's loss and gradient by its weight, and divide a mean by the sum of "
    "weights, not by n.",
    needs=NUMBERS,
)
def weights(subject: Subject) -> Iterator[str]:
    is_mean = subject.reduction in ("mean", "mean_active")
    for case in subject.cases:
        w = np.random.default_rng(15).random(case.rows) + 0.1
        try:
            once, thrice = (subject.run(case, weights=factor * w) for factor in (1, 3))
        except ArgumentError:
            continue
        for key, x in _own(subject, once).items():
            if difference(thrice.all[key], x if is_mean else 3 * x) > 1e-9:
                yield f"{case.name}: three times the weights change {key}"
        if "weights" not in case.floats:
            plain, ones = subject.run(case), subject.run(case, weights=np.ones(case.rows))
            for key, x in _own(subject, plain).items():
                if (gap := difference(ones.all[key], x)) > 1e-9:
                    yield f"{case.name}: with weights of 1 {key} differs by {gap:.1g}"


def _own(subject: Subject, outcome: Outcome) -> dict[str, Any]:
    """Return what no other promise holds: gradients follow the value, where that is checked."""
    return outcome.all if subject.loss.detached else {"value": outcome.value}


@promise(
    PROMISES,
    "The value is what the rows have by themselves, each multiplied by its weight.",
    fix="Multiply each row's loss and gradient by its weight; coreframe.result.reduce_rows does "
    "it for every reduction. Weights are those of anchors: where references do not go with them, a "
    "loss that looks from their side refuses weights.",
    needs=(*NUMBERS, "weights", "order_of_the_batch"),
)
def weighted_rows(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        try:
            alone = [subject.run(case, weights=w).value.sum() for w in np.eye(case.rows)]
        except ArgumentError:
            continue
        rows = np.asarray(alone)
        if np.any(rows) and np.ptp(rows) == 0:
            yield f"{case.name}: whichever row has all the weight, the value is {rows[0]:.6g}"
            continue
        # A row without a loss may not count; with weight 0 it does not matter which.
        w = np.where(rows == 0, 0.0, np.random.default_rng(15).random(case.rows) + 0.1)
        expected = float(w @ rows)
        if subject.reduction in ("mean", "mean_active") and w.any():
            expected /= w.sum()
        got = float(subject.run(case, weights=w).value.sum())
        if difference(got, expected) > 1e-9:
            yield (
                f"{case.name}: by their weights the losses of the rows make {expected:.6g}, "
                f"the value is {got:.6g}"
            )


# Ties, weights of 0, NaN and warnings -------------------------------------------------------


@promise(
    PROMISES,
    "With ties the results are finite, and it does not matter which of the equal ones comes first.",
    fix="Take the value of a maximum (xp.max), not what stands at its index in another array.",
    needs=(*NUMBERS, "order_of_the_batch", "duplicates", "zero_vectors"),
)
def ties(subject: Subject) -> Iterator[str]:
    for case in subject.edge_cases("ties"):
        yield from _not_finite(subject, case)
        here, moved = (np.sort(subject.run(x).value, axis=None) for x in (case, case.permuted()[0]))
        if difference(moved, here) > 1e-9:
            yield f"{case.name}: in another order the value is {moved}, and not {here}"


@promise(
    PROMISES,
    "If all weights are 0, value and gradients are 0.",
    fix="Divide by the sum of weights only where it is not 0: see coreframe.result.reduce_rows.",
    needs=(*NUMBERS, "weighted_rows"),
)
def zero_weights(subject: Subject) -> Iterator[str]:
    cases = subject.edge_cases("zero_weights")
    if not cases:
        raise NotApplicable("it takes no such batch")
    for case in cases:
        for name, x in subject.run(case).all.items():
            if np.any(x != 0):
                yield f"{case.name}: {name} is not 0"


@promise(
    PROMISES,
    "A NaN is not hidden: it is refused, or the value or a gradient is NaN.",
    fix="Delete nan_to_num; write xp.where(z <= 0, 0, z), which keeps a NaN, for "
    "xp.where(z > 0, z, 0); the training loop then skips the step and names the rows.",
    needs=NUMBERS,
)
def nan_is_reported(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        here = subject.run(case).value
        for name in case.embeddings:
            other: dict[str, Any] = {name: 1.5 * np.asarray(case.floats[name])[..., ::-1]}
            if np.array_equal(subject.run(case, **other).value, here):
                continue  # what the loss does not read, it need not report
            batch = subject.batch(case)
            spoiled = np.array(case.floats[name])
            spoiled[0] = np.nan
            object.__setattr__(batch, name, spoiled)  # as from a GPU, where no value is looked at
            params = {key: on_numpy(x) for key, x in subject.params.items()}
            try:
                outcome = Outcome.of(subject.loss.value_and_grad(batch, params or None))
            except ArgumentError:
                continue
            if all(np.isfinite(x).all() for x in outcome.all.values()):
                yield f"{case.name}: with NaN in row 0 of {name}, value and gradients are finite"


@promise(
    PROMISES,
    "No warning is raised, edge cases included.",
    fix="Guard the operation before it happens: xp.where around the argument of log, division "
    "and sqrt, not around the result.",
    needs=(*NUMBERS, "warning_filters", "overflow", *arrays.edges()),
)
def no_warnings(subject: Subject) -> Iterator[str]:
    for case in [*subject.cases, *subject.usable(arrays.edge_cases())]:
        for dtype in _dtypes(subject, case):
            with recorded_warnings() as caught:
                subject.run(case, dtype=dtype)
            for warning in caught:
                yield f"{case.name}, {np.dtype(dtype).name}: {warning.message}"
