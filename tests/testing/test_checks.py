"""The conformance kit: it passes what is right, and names what is wrong by the right promise."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from coreframe import Batch, Loss, LossResult, Masked, Miner, PairwiseLoss, Relation, namespace
from coreframe.miner import similarity_rows, with_negatives
from coreframe.row_loss import RowLoss
from coreframe.testing import Check, arrays, check_loss, check_miner, report


@pytest.fixture
def few_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy and the strict library, without waiting for others to compile."""
    found = {k: v for k, v in arrays.libraries().items() if k.startswith(("numpy", "array-api"))}
    monkeypatch.setattr(arrays, "libraries", lambda: found)


# Losses that are right ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Right(PairwiseLoss):
    """The mean over negatives of s^2, less the mean over positives of s."""

    needs_positive: ClassVar[bool] = False

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        s, zero = similarities, xp.zeros_like(similarities)
        p, n = _shares(positive, s), _shares(negative, s)
        losses = xp.sum(xp.where(negative, n * s * s, zero) - p * s, axis=1)
        return losses, 2 * n * s - p


def _shares(mask: Any, s: Any) -> Any:
    xp = namespace(s=s)
    here = xp.astype(mask, s.dtype)
    count = xp.sum(here, axis=1, keepdims=True)
    return here / xp.where(count > 0, count, xp.ones_like(count))


@dataclass(frozen=True, kw_only=True)
class Distance(Loss):
    """A plain loss: the weighted mean of |anchor - reference|^2."""

    needs: ClassVar[tuple[str, ...]] = ("anchors", "references", "scores")

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        xp = namespace(anchors=batch.anchors)
        apart = batch.anchors - batch.references
        w = batch.weights
        w = xp.ones_like(apart[:, 0]) if w is None else w
        total = xp.sum(w)
        w = w / xp.where(total > 0, total, xp.ones_like(total))
        grads = {"anchors": 2 * w[:, None] * apart, "references": -2 * w[:, None] * apart}
        kept = {k: g for k, g in grads.items() if wrt is None or k in wrt}
        return LossResult(xp.sum(w * xp.sum(apart * apart, axis=1)), kept)


@pytest.mark.parametrize("loss", [Right(), Right(learnable_scale=True), Distance()])
def test_a_right_loss_passes(few_libraries: None, loss: Loss) -> None:
    checks = check_loss(loss)
    assert all(checks), report(checks)


def test_the_report_is_readable(few_libraries: None) -> None:
    text = report(check_loss(Distance()))
    assert "ok    gradient: The gradient is the derivative of the value" in text
    assert "not checked: it is no PairwiseLoss" in text
    assert text.endswith("promises kept, 0 broken")
    broken = Check("gradient", "It is right.", False, "it is 2\nTo fix: make it 1")
    assert report([broken]) == (
        "FAIL  gradient: It is right.\n        it is 2\n        To fix: make it 1\n"
        "0 promises kept, 1 broken"
    )


# Losses that are wrong ----------------------------------------------------------------------


class WrongGradient(Right):
    def row_terms(self, *rows: Any) -> Any:
        losses, grads = super().row_terms(*rows)
        return losses, 1.01 * grads


class WritesToItsInput(Right):
    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        rows = super().row_terms(similarities, positive, negative)
        similarities *= 2.0
        return rows


class CountsUnusedColumns(Right):
    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        losses, grads = super().row_terms(similarities, positive, negative)
        return losses / similarities.shape[1], grads / similarities.shape[1]


class SumsUnusedColumns(Right):
    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        losses, grads = super().row_terms(similarities, positive, negative)
        return losses + xp.sum(similarities, axis=1), grads + 1


class DependsOnTheBlock(Right):
    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        losses, grads = super().row_terms(similarities, positive, negative)
        return losses / similarities.shape[0], grads / similarities.shape[0]


class DividesByZero(Right):
    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        losses, grads = super().row_terms(similarities, positive, negative)
        return losses / (losses != 0), grads


class UsesGlobalRandomness(Right):
    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        losses, grads = super().row_terms(similarities, positive, negative)
        return losses + 0 * np.random.rand(), grads


class Warns(Right):
    def row_terms(self, *rows: Any) -> Any:
        warnings.warn("careful", stacklevel=1)
        return super().row_terms(*rows)


class KnowsOnlyNumPy(Right):
    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        return super().row_terms(*(np.asarray(x) for x in (similarities, positive, negative)))


class LooksAtValues(Right):
    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        if bool(xp.any(similarities > 10)):
            return xp.zeros_like(similarities[:, 0]), xp.zeros_like(similarities)
        return super().row_terms(similarities, positive, negative)


class OtherShape(Right):
    def row_terms(self, *rows: Any) -> Any:
        losses, grads = super().row_terms(*rows)
        return losses[:, None], grads


@dataclass(frozen=True, kw_only=True)
class HoldsAFunction(Right):
    function: Callable[[], int] = field(default_factory=lambda: lambda: 1)


@dataclass
class CanBeChanged(Loss):
    strength: float = 1.0

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        return Distance().value_and_grad(batch, params, wrt=wrt)

    needs = Distance.needs


class NeedsTooMuch(Distance):
    needs = ("anchors", "references", "labels", "ids")


class IgnoresWrt(Distance):
    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        return super().value_and_grad(batch, params)


class ReturnsDoubles(Distance):
    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        xp = namespace(value=found.value)
        return replace(found, grads={k: xp.astype(g, xp.float64) for k, g in found.grads.items()})


class IgnoresTheSumOfWeights(Distance):
    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        if batch.weights is None:
            return found
        total = namespace(weights=batch.weights).sum(batch.weights)
        grads = {k: g * total for k, g in found.grads.items()}
        return LossResult(found.value * total, grads)


class WritesToItsBatch(Distance):
    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        if getattr(getattr(batch.anchors, "flags", None), "writeable", False):
            batch.anchors[...] = 0.0
        return found


class DividesByTheRows(RowLoss):
    needs: ClassVar[tuple[str, ...]] = ("anchors", "references")

    def rows(self, arrays: Any, batch: Batch) -> tuple[Any, dict[str, Any]]:
        apart = arrays["anchors"] - arrays["references"]
        xp, n = namespace(apart=apart), apart.shape[0]
        slope = 2 * apart / n
        return xp.sum(apart * apart, axis=1) / n, {"anchors": slope, "references": -slope}


@pytest.mark.parametrize(
    ("loss", "name", "words"),
    [
        (WrongGradient(), "gradient", "along a random direction of anchors"),
        (WritesToItsInput(), "inputs_are_kept", "row_terms changed its argument similarities"),
        (CountsUnusedColumns(), "unused_columns", "when three such columns"),
        (SumsUnusedColumns(), "unused_columns", "such a column is not 0"),
        (DependsOnTheBlock(), "rows_are_independent", "the loss of row 0 changes"),
        (DependsOnTheBlock(), "blocks", "value differs"),
        (DividesByZero(), "edge_cases", "zero vectors, float64: value is not finite"),
        (DividesByZero(), "no_warnings", "invalid value encountered"),
        (UsesGlobalRandomness(), "no_hidden_state", "a global random generator was used"),
        (Warns(), "no_warnings", "careful"),
        (KnowsOnlyNumPy(), "libraries", "pairs, array-api-strict"),
        (OtherShape(), "rows_are_independent", "expected (6,)"),
        (HoldsAFunction(), "copies", "pickle"),
        (CanBeChanged(), "form", "can be changed after it is made"),
        (CanBeChanged(), "form", "'strength' can be given by position"),
        (NeedsTooMuch(), "accepts", "it needs anchors, references, labels, ids"),
        (IgnoresWrt(), "shapes", "wrt=('anchors',) returns grads of ['anchors', 'references']"),
        (ReturnsDoubles(), "shapes", "grads['anchors'] is numpy float64 (6, 5)"),
        (IgnoresTheSumOfWeights(), "weights", "three times the weights change value"),
        (WritesToItsBatch(), "inputs_are_kept", "anchors was changed"),
        (DividesByTheRows(), "single_rows", "pairs, half of the rows: value differs"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Loss) else "",
)
def test_a_wrong_loss_is_named(few_libraries: None, loss: Loss, name: str, words: str) -> None:
    outcome = {c.name: c for c in check_loss(loss)}[name]
    assert not outcome.ok
    assert words in outcome.detail, outcome.detail
    assert "To fix: " in outcome.detail


def test_a_loss_that_looks_at_values_cannot_be_traced() -> None:
    pytest.importorskip("jax")
    outcome = {c.name: c for c in check_loss(LooksAtValues())}
    assert [name for name, c in outcome.items() if not c] == ["traceable"]


def test_a_wrong_gradient_breaks_no_other_promise(few_libraries: None) -> None:
    assert [c.name for c in check_loss(WrongGradient()) if not c] == ["gradient"]


def test_a_declared_stop_gradient_is_honoured(few_libraries: None) -> None:
    class Declared(WrongGradient):
        detached: ClassVar[bool] = True

    outcome = {c.name: c for c in check_loss(Declared())}["gradient"]
    assert outcome.ok
    assert outcome.detail == "not checked: the loss declares detached = True"


# Miners -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Nearest(Miner):
    """Right: the k nearest negatives, by a plain sort."""

    k: int = 2

    def columns(self, similarities: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        scores = xp.where(negative, similarities, xp.full_like(similarities, -1e9))
        order = xp.argsort(scores, axis=1, descending=True, stable=True)
        order = order[:, : min(self.k, order.shape[1])]
        real = xp.take_along_axis(negative, order, axis=1)
        return xp.where(real, order, -xp.ones_like(order))

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        xp = namespace(anchors=batch.anchors)
        found = [self.columns(s, n) for _, s, _, n in similarity_rows(batch)]
        return with_negatives(batch, xp.concat(found, axis=0))


class InventsPairs(Nearest):
    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        def everything(rows: slice, cols: slice, xp: Any, device: Any) -> Any:
            shape = (rows.stop - rows.start, cols.stop - cols.start)
            yes = xp.ones(shape, dtype=xp.bool, device=device)
            return ~yes, yes

        return Masked(everything, batch.relation.rows, batch.relation.columns)


class IgnoresItsSeed(Nearest):
    def columns(self, similarities: Any, negative: Any) -> Any:
        noise = np.random.rand(*similarities.shape)
        return super().columns(namespace(s=similarities).asarray(noise), negative)


class KnowsOnlyRows(Nearest):
    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        n, m = batch.relation.rows, batch.relation.columns

        def function(rows: slice, cols: slice, xp: Any, device: Any) -> Any:
            return tuple(
                x[:, : cols.stop - cols.start]
                for x in batch.relation.tile(rows, slice(0, m), xp, device)
            )

        return Masked(function, n, m)


class DataDependentShapes(Nearest):
    def columns(self, similarities: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        found = super().columns(similarities, negative)
        return found[:, :1] if bool(xp.any(similarities < 0)) else found


class WantsTooMany(Nearest):
    def columns(self, similarities: Any, negative: Any) -> Any:
        found = super().columns(similarities, negative)
        if self.k > found.shape[1]:
            raise IndexError("not so many")
        return found


class MinesWithNumPy(Nearest):
    def columns(self, similarities: Any, negative: Any) -> Any:
        return super().columns(np.asarray(similarities), np.asarray(negative))


def test_a_right_miner_passes(few_libraries: None) -> None:
    checks = check_miner(Nearest())
    assert all(checks), report(checks)


@pytest.mark.parametrize(
    ("miner", "name", "words"),
    [
        (InventsPairs(), "part_of_the_relation", "pairs: (0, 0) is a negative of the result"),
        (IgnoresItsSeed(), "deterministic", "a global random generator was used"),
        (IgnoresItsSeed(), "deterministic", "gives other pairs"),
        (KnowsOnlyRows(), "consistent", "tiles of 3 x 3"),
        (DataDependentShapes(), "fixed_shapes", "varies with the values"),
        (WantsTooMany(), "more_than_there_are", "IndexError: not so many"),
        (MinesWithNumPy(), "libraries", "array-api-strict"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Miner) else "",
)
def test_a_wrong_miner_is_named(few_libraries: None, miner: Miner, name: str, words: str) -> None:
    outcome = {c.name: c for c in check_miner(miner)}[name]
    assert not outcome.ok
    assert words in outcome.detail, outcome.detail
