"""What a loss promises, and how each promise is checked."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from coreframe.backend import library_of, to_numpy
from coreframe.errors import ArgumentError
from coreframe.loss import Loss, PairwiseLoss
from coreframe.relation import Aligned
from coreframe.row_loss import RowLoss
from coreframe.testing import arrays, checks, kit
from coreframe.testing.arrays import Case, Place, on_numpy
from coreframe.testing.checks import Check, NotApplicable, Promise, difference, explain
from coreframe.testing.shared import SHARED

DIRECTIONS = 20
STEPS = (1e-5, 1e-6, 1e-4)  # of central differences; the later ones in case a kink is near
TOLERANCE = {"float64": 1e-9, "float32": 2e-3}

PROMISES: list[Promise] = [*SHARED]


def check_loss(loss: Loss) -> list[Check]:
    """Check all promises of a loss on seeded batches and on every array library of this machine.

    Takes a few seconds. Of the batches, those are used that have the fields the loss needs, and
    that it does not refuse by an ArgumentError.
    """
    return KIT.check(loss)


@dataclass(frozen=True)
class Outcome:
    """What a loss returned, as it came and as NumPy arrays."""

    raw: Any
    value: Any
    grads: Mapping[str, Any]  # by Batch field, and by "params.<name>"

    @property
    def all(self) -> dict[str, Any]:
        return {"value": self.value, **{f"grads[{k!r}]": g for k, g in self.grads.items()}}


class Subject(kit.Subject):
    """A loss, and what it is checked on."""

    base = Loss

    @property
    def loss(self) -> Loss:
        found: Loss = self.component
        return found

    def exercise(self, component: Any, variant: int = 0) -> dict[str, Any]:
        rng = np.random.default_rng(18 + variant)
        found: dict[str, Any] = {}
        for case in self.cases:
            moved = {
                name: case.floats[name] + 0.1 * variant * rng.standard_normal(np.shape(x))
                for name, x in case.floats.items()
                if name in case.embeddings
            }
            outcome = self.run(case, loss=component, **moved)
            found |= {f"{case.name}: {name}": x for name, x in outcome.all.items()}
        return found

    @cached_property
    def params(self) -> dict[str, Any]:
        """The loss's own parameters, moved off their starting point, where much is symmetric."""
        rng = np.random.default_rng(12)
        start = self.loss.init(np.random.default_rng(13), 5)
        moved = {
            name: np.asarray(x, np.float64) + 0.1 * rng.standard_normal(np.shape(x))
            for name, x in start.items()
        }
        return dict(self.loss.project(moved)) if moved else {}

    @cached_property
    def places(self) -> dict[str, Place]:
        return arrays.libraries()

    @cached_property
    def cases(self) -> list[Case]:
        return self.usable(arrays.ordinary_cases())

    @cached_property
    def placed(self) -> list[tuple[Case, str, Place]]:
        """The cases on each library where they run; ``libraries`` explains where they do not."""
        found = []
        for case, (library, place) in itertools.product(self.cases, self.places.items()):
            with contextlib.suppress(Exception):
                self.run(case, place, np.float32)
                found.append((case, library, place))
        return found

    @cached_property
    def refusals(self) -> dict[str, str]:
        return {}

    def usable(self, cases: list[Case]) -> list[Case]:
        """Return the cases that the loss is made for."""
        found = []
        for case in cases:
            batch = case.batch()
            if any(getattr(batch, name) is None for name in self.loss.needs):
                self.refusals[case.name] = f"it needs {', '.join(self.loss.needs)}"
                continue
            try:
                self.run(case)
            except ArgumentError as error:
                self.refusals[case.name] = str(error)
                continue
            except Exception:
                pass  # which a promise will find and explain
            found.append(case)
        return found

    def run(
        self,
        case: Case,
        place: Place = on_numpy,
        dtype: Any = np.float64,
        *,
        loss: Loss | None = None,
        params: Mapping[str, Any] | None = None,
        wrt: tuple[str, ...] | None = None,
        **changed: Any,
    ) -> Outcome:
        """Call the loss on a case."""
        chosen = self.params if params is None else params
        placed = {name: place(np.asarray(x, dtype)) for name, x in chosen.items()}
        raw = (loss or self.loss).value_and_grad(
            case.batch(place, dtype, **changed), placed or None, wrt=wrt
        )
        grads = {name: to_numpy(g) for name, g in raw.grads.items()}
        grads |= {f"params.{name}": to_numpy(g) for name, g in raw.param_grads.items()}
        return Outcome(raw, to_numpy(raw.value), grads)

    @property
    def pairwise(self) -> PairwiseLoss:
        if not isinstance(self.loss, PairwiseLoss):
            raise NotApplicable("it is no PairwiseLoss")
        return self.loss

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> tuple[Any, Any]:
        """Call row_terms on NumPy arrays of its own, which it may spoil: see inputs_are_kept."""
        losses, grads = self.pairwise.row_terms(
            np.array(similarities), np.array(positive), np.array(negative)
        )
        return np.asarray(losses), np.asarray(grads)


def compare(name: str, got: Outcome, expected: Outcome, tolerance: float) -> Iterator[str]:
    """Yield a sentence for each result that differs.

    Gradients are measured by the largest of all, since one of them may be zero but for rounding.
    """
    largest = max([1e-6, *(float(np.abs(g).max(initial=0.0)) for g in expected.grads.values())])
    for key, wanted in expected.all.items():
        if key not in got.all:
            yield f"{name}: {key} is missing"
            continue
        gap = difference(got.all[key], wanted, 1e-6 if key == "value" else largest)
        if gap > tolerance:
            yield f"{name}: {key} differs by {gap:.1g} of its largest entry"


# Form ---------------------------------------------------------------------------------------


@checks.promise(
    PROMISES,
    "It accepts at least one kind of batch.",
    fix="Name in `needs` the Batch fields that are read; raise ArgumentError only for batches "
    "that have no meaning for the loss.",
)
def accepts(subject: Subject) -> Iterator[str]:
    if not subject.cases:
        yield from (f"{name}: {reason}" for name, reason in subject.refusals.items())
    for case in subject.cases:
        subject.run(case)


@checks.promise(
    PROMISES,
    "Value and gradients have the shapes, dtypes and library of the batch; wrt is honoured.",
    fix="Build arrays with xp = namespace(anchors=...) and with dtype= and device= of the inputs; "
    "return in grads the fields named in wrt (None: all), and no others.",
)
def shapes(subject: Subject) -> Iterator[str]:
    reduction = getattr(subject.loss, "reduction", "mean")
    for case, library, place in subject.placed:
        for dtype in (np.float32, np.float64, np.float16):
            if dtype is np.float16 and library != "numpy":
                continue  # not in the standard
            batch = case.batch(place, dtype)
            raw = subject.run(case, place, dtype).raw
            where = f"{case.name}, {library}, {np.dtype(dtype).name}"
            rows = tuple(batch.anchors.shape[:1]) if reduction == "none" else ()
            if library_of(raw.value) != library_of(batch.anchors):
                yield f"{where}: value is of library {library_of(raw.value)}"
            if tuple(raw.value.shape) != rows:
                yield f"{where}: value has shape {tuple(raw.value.shape)}, expected {rows}"
            if set(raw.grads) != set(case.embeddings):
                yield f"{where}: grads has {sorted(raw.grads)}, expected {case.embeddings}"
                continue
            for name, g in raw.grads.items():
                got, wanted = (
                    f"{library_of(x)} {x.dtype} {tuple(x.shape)}" for x in (g, getattr(batch, name))
                )
                if got != wanted:
                    yield f"{where}: grads[{name!r}] is {got}, but {name} is {wanted}"
    for case in subject.cases:
        whole = subject.run(case)
        for name in case.embeddings:
            part = subject.run(case, wrt=(name,))
            if set(part.raw.grads) != {name}:
                yield f"{case.name}: wrt=({name!r},) returns grads of {sorted(part.raw.grads)}"
            elif difference(part.grads[name], whole.grads[name]) > 1e-12:
                yield f"{case.name}: grads[{name!r}] changes with wrt"


# The mathematics ----------------------------------------------------------------------------


@checks.promise(
    PROMISES,
    "The gradient is the derivative of the value: central differences in float64 agree.",
    fix="Derive the formula again for the array named here. A loss that stops gradients on "
    "purpose declares `detached: ClassVar[bool] = True`.",
)
def gradient(subject: Subject) -> Iterator[str]:
    if subject.loss.detached:
        raise NotApplicable("the loss declares detached = True")
    for case in subject.cases:
        for name in [*case.embeddings, *(f"params.{key}" for key in subject.params)]:
            yield from _gradient_problems(subject, case, name)


def _gradient_problems(subject: Subject, case: Case, name: str) -> Iterator[str]:
    """Compare the gradient of one array with central differences in random directions."""
    is_param = name.startswith("params.")
    key = name.removeprefix("params.")
    start = np.asarray((subject.params if is_param else case.floats)[key], np.float64)

    def value(x: Any) -> float:
        moved: Any = {"params": {**subject.params, key: x}} if is_param else {key: x}
        return float(np.sum(subject.run(case, **moved).value))

    g = subject.run(case).grads.get(name)
    if g is None:
        yield f"{case.name}: there is no gradient of {name}"
        return
    rng = np.random.default_rng(14)
    for _ in range(DIRECTIONS):
        direction = rng.standard_normal(start.shape)
        got = float(np.sum(g * direction))
        slack = 1e-6 * float(np.linalg.norm(g)) + 1e-9
        slopes = []
        for step in STEPS:
            slope = (value(start + step * direction) - value(start - step * direction)) / 2 / step
            slopes.append(slope)
            if abs(slope - got) <= slack + 1e-5 * abs(got):
                break
        else:
            yield (
                f"{case.name}: along a random direction of {name} the value changes by "
                f"{slopes[0]:.6g} a unit, the gradient says {got:.6g}"
            )
            return


@checks.promise(
    PROMISES,
    "row_terms returns losses (r,) and derivatives (r, m); row i depends on row i alone.",
    fix="Reduce over axis=1 only, and divide by no number of rows: blocks of rows come in any "
    "height, and the engine applies the reduction.",
)
def rows_are_independent(subject: Subject) -> Iterator[str]:
    rows = arrays.rows_of_similarities(subject.pairwise.similarity)
    losses, grads = subject.row_terms(*rows)
    r, m = rows[0].shape
    if losses.shape != (r,) or grads.shape != (r, m):
        yield (
            f"for {r} rows of {m} columns the losses have shape {losses.shape}, expected {(r,)}, "
            f"the derivatives {grads.shape}, expected {(r, m)}"
        )
        return
    for i in range(r):
        if subject.pairwise.needs_positive and not rows[1][i].any():
            continue  # the engine zeroes it
        alone = subject.row_terms(*(x[i : i + 1] for x in rows))
        for what, one, all_rows in (("loss", alone[0], losses), ("derivative", alone[1], grads)):
            if difference(one, all_rows[i : i + 1]) > 1e-9:
                yield f"the {what} of row {i} changes when it is computed without the other rows"


@checks.promise(
    PROMISES,
    "rows of a RowLoss gives row i from row i alone.",
    fix="Reduce over axis=1 only, and divide by no number of rows: RowLoss applies the reduction.",
)
def single_rows(subject: Subject) -> Iterator[str]:
    if not isinstance(subject.loss, RowLoss):
        raise NotApplicable("it is no RowLoss")
    loss = dataclasses.replace(subject.loss, reduction="none")
    for case in subject.cases:
        half = len(case.floats["anchors"]) // 2
        shorter = dataclasses.replace(
            case,
            floats={name: x[:half] for name, x in case.floats.items()},
            relation=functools.partial(_aligned, half),
            labels=None if case.labels is None else case.labels[:half],
        )
        whole, alone = subject.run(case, loss=loss), subject.run(shorter, loss=loss)
        expected = Outcome(
            whole.raw, whole.value[:half], {name: g[:half] for name, g in whole.grads.items()}
        )
        yield from compare(f"{case.name}, half of the rows", alone, expected, 1e-9)


def _aligned(n: int, place: Place) -> Aligned:
    return Aligned(n, n)


@checks.promise(
    PROMISES,
    "A column that is false in both masks has no influence and derivative 0.",
    fix="Mask with xp.where(positive | negative, ...) before every maximum, sum, sort and count "
    "over columns; an anchor is no partner of itself, and blocks may be padded.",
)
def unused_columns(subject: Subject) -> Iterator[str]:
    similarity = subject.pairwise.similarity
    s, positive, negative = arrays.rows_of_similarities(similarity)
    unused = ~(positive | negative)
    defined = positive.any(axis=1) | (not subject.pairwise.needs_positive)
    losses, grads = subject.row_terms(s, positive, negative)
    if np.any(grads[unused & defined[:, None]] != 0):
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


@checks.promise(
    PROMISES,
    "row_terms looks at no value on the host, so it runs under jax.jit.",
    fix="Replace `if`, float() and .item() on array values by xp.where; Python decisions may "
    "depend on fields and shapes.",
)
def traceable(subject: Subject) -> Iterator[str]:
    if "jax" not in subject.places:
        raise NotApplicable("jax is not installed")
    import jax

    rows = arrays.rows_of_similarities(subject.pairwise.similarity)
    expected = subject.row_terms(*(x[:3] for x in rows))
    placed = [jax.numpy.asarray(x[:3]) for x in (rows[0].astype(np.float32), *rows[1:])]
    got = jax.jit(subject.pairwise.row_terms)(*placed)
    for what, ours, wanted in zip(("losses", "derivatives"), got, expected, strict=True):
        if difference(ours, wanted) > TOLERANCE["float32"]:
            yield f"the {what} are others under jax.jit"


@checks.promise(
    PROMISES,
    "The result does not depend on the height of the blocks.",
    fix="See rows_are_independent; a loss that walks blocks itself must add up all of them.",
)
def blocks(subject: Subject) -> Iterator[str]:
    if not hasattr(subject.loss, "memory_budget"):
        raise NotApplicable("the loss has no memory_budget")
    small = dataclasses.replace(subject.loss, memory_budget=1)  # type: ignore[type-var]
    for case in subject.usable([arrays.tall_case(), arrays.tall_pairs()]):
        yield from compare(case.name, subject.run(case, loss=small), subject.run(case), 1e-9)


@checks.promise(
    PROMISES,
    "Edge cases (one row, duplicates, no positives, zero vectors, ...) give finite results.",
    fix="Guard denominators with xp.where before dividing (not after: 0 * inf is NaN), and shift "
    "by the maximum before exp. A batch without meaning may be refused by an ArgumentError.",
)
def edge_cases(subject: Subject) -> Iterator[str]:
    for case in subject.usable(arrays.edge_cases()):
        for dtype in (np.float64, np.float32):
            outcome = subject.run(case, dtype=dtype)
            for name, x in outcome.all.items():
                if not np.isfinite(x).all():
                    yield f"{case.name}, {np.dtype(dtype).name}: {name} is not finite"
            if case.name == "all weights zero" and any(np.any(x) for x in outcome.all.values()):
                yield f"{case.name}: value and gradients must be 0"


@checks.promise(
    PROMISES,
    "Weights count relative to each other: scaling all changes no mean, and ones change nothing.",
    fix="Multiply each row's loss and gradient by its weight, and divide a mean by the sum of "
    "weights, not by n.",
)
def weights(subject: Subject) -> Iterator[str]:
    is_mean = getattr(subject.loss, "reduction", "mean") in ("mean", "mean_active")
    for case in subject.cases:
        n = len(case.floats["anchors"])
        w = np.random.default_rng(15).random(n) + 0.1
        try:
            once, thrice = (subject.run(case, weights=factor * w) for factor in (1, 3))
        except ArgumentError:
            continue
        for key, x in once.all.items():
            if difference(thrice.all[key], x if is_mean else 3 * x) > 1e-9:
                yield f"{case.name}: three times the weights change {key}"
        if "weights" not in case.floats:
            plain, ones = subject.run(case), subject.run(case, weights=np.ones(n))
            yield from compare(f"{case.name}, with weights of 1", ones, plain, 1e-9)


# Good manners -------------------------------------------------------------------------------


@checks.promise(
    PROMISES,
    "All array libraries of this machine give the same result.",
    fix="Use only functions of the array API standard, from xp = namespace(...), and create "
    "arrays with device=.",
)
def libraries(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        expected = subject.run(case)
        for library, place in subject.places.items():
            for dtype, tolerance in TOLERANCE.items():
                where = f"{case.name}, {library}, {dtype}"
                if dtype not in str(place(np.zeros(1, dtype)).dtype):
                    continue  # JAX without 64 bits
                try:
                    got = subject.run(case, place, dtype)
                except Exception as error:
                    yield f"{where}: {explain(error)}"
                    continue
                yield from compare(where, got, expected, tolerance)


@checks.promise(
    PROMISES,
    "Inputs are not written to; read-only arrays are accepted.",
    fix="Write x = x + y in place of x += y, and xp.where in place of assignments to a mask.",
)
def inputs_are_kept(subject: Subject) -> Iterator[str]:
    for case, library, place in subject.placed:
        batch = case.batch(np.array if library == "numpy" else place)
        before = {name: np.array(to_numpy(getattr(batch, name))) for name in case.floats}
        params = {name: place(x) for name, x in subject.params.items()}
        subject.loss.value_and_grad(batch, params or None)
        for name, x in before.items():
            if not np.array_equal(to_numpy(getattr(batch, name)), x):
                yield f"{case.name}, {library}: {name} was changed"
    for case in subject.cases:
        subject.run(case)  # on read-only arrays
    if isinstance(subject.loss, PairwiseLoss):
        rows = arrays.rows_of_similarities(subject.loss.similarity)
        given = [np.array(x) for x in rows]
        subject.loss.row_terms(*given)
        for name, x, y in zip(("similarities", "positive", "negative"), given, rows, strict=True):
            if not np.array_equal(x, y):
                yield f"row_terms changed its argument {name}"
        subject.loss.row_terms(*(on_numpy(x) for x in rows))


@checks.promise(
    PROMISES,
    "No warning is raised, edge cases included.",
    fix="Guard the operation before it happens: xp.where around the argument of log, division "
    "and sqrt, not around the result.",
)
def no_warnings(subject: Subject) -> Iterator[str]:
    for case in [*subject.cases, *subject.usable(arrays.edge_cases())]:
        for dtype in (np.float64, np.float32):
            with checks.recorded_warnings() as caught:
                subject.run(case, dtype=dtype)
            for warning in caught:
                yield f"{case.name}, {np.dtype(dtype).name}: {warning.message}"


KIT = kit.Kit("losses", Loss, Subject, PROMISES)
