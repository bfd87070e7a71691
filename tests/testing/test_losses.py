"""The kit for losses: it passes what is right, and names what is wrong by the right promise."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from coreframe import Batch, Loss, LossResult, PairwiseLoss, namespace
from coreframe.backend import device_of, to_numpy
from coreframe.errors import ArgumentError
from coreframe.row_loss import RowLoss
from coreframe.testing import Check, arrays, check_loss, growth, report
from coreframe.testing.losses import values
from coreframe.testing.losses.promises import PROMISES
from coreframe.testing.losses.subject import Subject


def broken(loss: Loss) -> dict[str, str]:
    """Return the details of the promises that are broken, but for the docstring's."""
    return {c.name: c.detail for c in check_loss(loss) if not c and c.name != "documentation"}


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


@dataclass(frozen=True, kw_only=True)
class Scaled(Distance):
    """A plain loss with a parameter of its own: exp(log_scale) |anchor - reference|^2."""

    def init(self, rng: Any, dim: int) -> dict[str, Any]:
        return {"log_scale": np.asarray(rng.normal(), np.float32)}

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, wrt=wrt)
        xp = namespace(anchors=batch.anchors)
        scale = xp.exp(xp.astype(params["log_scale"], batch.anchors.dtype))
        value = scale * found.value
        grads = {k: scale * g for k, g in found.grads.items()}
        return LossResult(value, grads, {"log_scale": value})


@dataclass(frozen=True, kw_only=True)
class Listwise(Loss):
    """Reads scores of all anchors and references, (n, m), and refuses (n,)."""

    needs: ClassVar[tuple[str, ...]] = ("anchors", "references", "scores")
    off: float = 0.0

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        a, r, scores = batch.anchors, batch.references, batch.scores
        if scores.ndim != 2:
            raise ArgumentError("scores must be (n, m)")
        if batch.weights is not None:
            raise ArgumentError("a list has no weights")
        xp = namespace(anchors=a)
        apart = (a @ xp.matrix_transpose(r) - scores) / scores.shape[0]
        grads = {"anchors": apart @ r, "references": xp.matrix_transpose(apart) @ a}
        if batch.negatives is not None:
            grads["negatives"] = xp.zeros_like(batch.negatives)
        kept = {k: (1 + self.off) * g for k, g in grads.items() if wrt is None or k in wrt}
        return LossResult(xp.sum(apart * apart) * scores.shape[0] / 2, kept)


def test_a_loss_of_scores_of_all_pairs_gets_some(few_libraries: None) -> None:
    assert broken(Listwise()) == {}
    assert "scores of all" in broken(Listwise(off=0.01))["gradient"]


@pytest.mark.parametrize("loss", [Right(), Right(learnable_scale=True), Distance(), Scaled()])
def test_a_right_loss_passes(few_libraries: None, loss: Loss) -> None:
    assert broken(loss) == {}


def test_numpy_alone_is_enough(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "libraries", lambda: {"numpy": arrays.on_numpy})
    monkeypatch.setattr(arrays, "devices", dict)
    checks = {c.name: c for c in check_loss(Right())}
    assert "pip install array-api-strict" in checks["devices"].detail
    assert "(pip install array-api-strict), and " in checks["traceable"].detail
    assert ("no part" in checks["traceable"].detail) == bool(importlib.util.find_spec("jax"))
    assert [name for name, c in checks.items() if not c] == []


# Losses that are wrong: the gradient --------------------------------------------------------


class WrongGradient(Right):
    """One percent too steep."""

    def row_terms(self, *rows: Any) -> Any:
        losses, grads = super().row_terms(*rows)
        return losses, 1.01 * grads


class WrongByNegatives(Right):
    """One percent too steep in one of two terms."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(s=similarities)
        losses, grads = super().row_terms(similarities, positive, negative)
        return losses, xp.where(negative, 1.01 * grads, grads)


class WrongForReferences(Distance):
    """Right for anchors, and one percent too steep for references."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        grads = {k: g * (1.01 if k == "references" else 1) for k, g in found.grads.items()}
        return replace(found, grads=grads)


class WrongForItsParameter(Scaled):
    """The sign of the parameter's gradient."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        return replace(found, param_grads={"log_scale": -found.param_grads["log_scale"]})


class WrongForManyRows(Distance):
    """Takes another way above a hundred rows, and is half a percent off there."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        off = 1.005 if batch.anchors.shape[0] > 100 else 1
        return replace(found, grads={k: off * g for k, g in found.grads.items()})


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (WrongForManyRows(), ["many pairs: along a random direction of anchors"]),
        (WrongGradient(), ["derivatives are wrong", "along a random direction of anchors"]),
        (WrongByNegatives(), ["(0 by positives, ", ", a negative, the loss changes by "]),
        (WrongForReferences(), ["pairs: along a random direction of references"]),
        (WrongForItsParameter(), ["pairs: along a random direction of params.log_scale"]),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Loss) else "",
)
def test_a_wrong_gradient_is_named_and_nothing_else(
    few_libraries: None, loss: Loss, words: list[str]
) -> None:
    assert values.DIRECTIONS == 50
    found = broken(loss)
    assert list(found) == ["gradient"]
    assert all(part in found["gradient"] for part in words), found["gradient"]


class WrongWithWeights(Distance):
    """Right without weights, and half a percent off with them; takes no more references."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        if batch.references.shape[0] != batch.anchors.shape[0]:
            raise ArgumentError("one reference an anchor")
        found = super().value_and_grad(batch, params, wrt=wrt)
        off = 1 if batch.weights is None else 1.005
        return replace(found, grads={k: off * g for k, g in found.grads.items()})


class WrongByNegativesOfItsOwn(Loss):
    """Takes no more references than anchors; the gradient of its own negatives is not 0."""

    needs: ClassVar[tuple[str, ...]] = ("anchors", "references")

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        if batch.references.shape[0] != batch.anchors.shape[0]:
            raise ArgumentError("one reference an anchor")
        found = Distance().value_and_grad(batch, wrt=wrt)
        if batch.negatives is None or (wrt is not None and "negatives" not in wrt):
            return found
        xp = namespace(anchors=batch.anchors)
        return replace(found, grads={**found.grads, "negatives": xp.ones_like(batch.negatives)})


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (WrongWithWeights(), "pairs with weights: along a random direction of anchors"),
        (WrongByNegativesOfItsOwn(), "as many references: along a random direction of negatives"),
    ],
)
def test_gradients_are_looked_at_with_weights_and_negatives(
    fast: None, loss: Loss, words: str
) -> None:
    found = broken(loss)
    assert "gradient" in found, found
    assert words in found["gradient"]
    assert list(found) == ["gradient"] or isinstance(loss, WrongByNegativesOfItsOwn)


class Declared(Right):
    """Stops a gradient on purpose: that of positives."""

    detached: ClassVar[bool] = True

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        losses, grads = super().row_terms(similarities, positive, negative)
        return losses, self.left(grads, namespace(s=similarities).astype(negative, grads.dtype))

    def left(self, grads: Any, negative: Any) -> Any:
        return grads * negative


class DeclaredNothing(Declared):
    """Stops all gradients."""

    def left(self, grads: Any, negative: Any) -> Any:
        return 0 * grads


class DeclaredUphill(Declared):
    """Has the sign wrong."""

    def left(self, grads: Any, negative: Any) -> Any:
        return -grads


def test_a_declared_stop_gradient_is_honoured(fast: None) -> None:
    outcome = {c.name: c for c in check_loss(Declared())}["gradient"]
    assert outcome.ok
    assert "the loss declares detached = True: found out is only" in outcome.detail


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (DeclaredNothing(), "pairs: all gradients are 0, and the value changes"),
        (DeclaredUphill(), "on every batch a step against the gradients raises the value"),
    ],
)
def test_a_declaration_excuses_no_gradient_that_leads_nowhere(
    fast: None, loss: Loss, words: str
) -> None:
    found = broken(loss)
    assert list(found) == ["gradient"]
    assert words in found["gradient"]


# Losses that are wrong: functions of rows ---------------------------------------------------


class OtherShape(Right):
    """A column of losses."""

    def row_terms(self, *rows: Any) -> Any:
        losses, grads = super().row_terms(*rows)
        return losses[:, None], grads


class DependsOnTheBlock(Right):
    """Divides by the number of rows, which is the engine's to do."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        losses, grads = super().row_terms(similarities, positive, negative)
        return losses / similarities.shape[0], grads / similarities.shape[0]


class CountsUnusedColumns(Right):
    """Divides by the number of columns."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        losses, grads = super().row_terms(similarities, positive, negative)
        return losses / similarities.shape[1], grads / similarities.shape[1]


class SumsUnusedColumns(Right):
    """Sums over all columns."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        losses, grads = super().row_terms(similarities, positive, negative)
        return losses + xp.sum(similarities, axis=1), grads + 1


class PrefersTheFirst(Right):
    """Weighs columns by their number."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        columns = xp.astype(xp.cumulative_sum(xp.ones_like(similarities), axis=1), xp.float64)
        weight = xp.astype(1 / columns, similarities.dtype) * xp.astype(
            negative, similarities.dtype
        )
        losses, grads = super().row_terms(similarities, positive, negative)
        return losses + xp.sum(weight * similarities, axis=1), grads + weight


class LooksAtValues(Right):
    """Decides on the host."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        if bool(xp.any(similarities > 10)):
            return xp.zeros_like(similarities[:, 0]), xp.zeros_like(similarities)
        return super().row_terms(similarities, positive, negative)


class DividesByTheRows(RowLoss):
    """A function of single rows that is none."""

    needs: ClassVar[tuple[str, ...]] = ("anchors", "references")

    def rows(self, arrays: Any, batch: Batch) -> tuple[Any, dict[str, Any]]:
        apart = arrays["anchors"] - arrays["references"]
        xp, n = namespace(apart=apart), apart.shape[0]
        slope = 2 * apart / n
        return xp.sum(apart * apart, axis=1) / n, {"anchors": slope, "references": -slope}


# Losses that are wrong: form and symmetries -------------------------------------------------


class Refuses(Distance):
    """Needs what no batch has."""

    needs = ("anchors", "references", "labels", "ids")


class ReturnsATuple(Distance):
    """Returns value and gradients, but no LossResult."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> Any:
        found = super().value_and_grad(batch, params, wrt=wrt)
        return found.value, found.grads


class ReturnsAFloat(Distance):
    """Takes the value out of its library."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        return replace(found, value=float(found.value))


class ReturnsLists(Distance):
    """Takes gradients out of their library."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        return replace(found, grads={k: list(g) for k, g in found.grads.items()})


class ForgetsReferences(Distance):
    """Has no gradient of references."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        return replace(found, grads={"anchors": found.grads["anchors"]})


class IgnoresWrt(Distance):
    """Returns all gradients whatever is asked for."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        return super().value_and_grad(batch, params)


class PrefersTheFirstRow(Distance):
    """Counts row 0 twice."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        xp = namespace(anchors=batch.anchors)
        first = xp.concat([xp.ones_like(batch.anchors[:1, 0]), xp.zeros_like(batch.anchors[1:, 0])])
        weights = xp.ones_like(first) if batch.weights is None else batch.weights
        return super().value_and_grad(replace(batch, weights=weights * (1 + first)), wrt=wrt)


class IgnoresWeights(Distance):
    """Counts all rows alike."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        return super().value_and_grad(replace(batch, weights=None), wrt=wrt)


class IgnoresTheSumOfWeights(Distance):
    """A sum that calls itself a mean."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        if batch.weights is None:
            return found
        total = namespace(weights=batch.weights).sum(batch.weights)
        grads = {k: g * total for k, g in found.grads.items()}
        return LossResult(found.value * total, grads)


class DividesByTheSumOfWeights(Distance):
    """Divides 0 by 0 where no row counts."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        if batch.weights is None:
            return found
        total = namespace(weights=batch.weights).sum(batch.weights)
        grads = {k: g * total / total for k, g in found.grads.items()}
        return LossResult(found.value * total / total, grads)


class HidesNaN(Distance):
    """Replaces NaN by 0."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        xp = namespace(anchors=batch.anchors)
        known = {
            name: xp.where(xp.isnan(x := getattr(batch, name)), xp.zeros_like(x), x)
            for name in ("anchors", "references")
        }
        return super().value_and_grad(replace(batch, **known), params, wrt=wrt)


# Losses that are wrong: edges ---------------------------------------------------------------


class DividesByZero(Right):
    """Divides a loss by itself."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        losses, grads = super().row_terms(similarities, positive, negative)
        xp = namespace(losses=losses)
        return losses / xp.astype(losses != 0, losses.dtype), grads


class NeedsTwoRows(Distance):
    """Divides by n - 1."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        xp, n = namespace(value=found.value), batch.anchors.shape[0]
        factor = xp.full_like(found.value, n) / xp.full_like(found.value, n - 1)
        return LossResult(found.value * factor, {k: g * factor for k, g in found.grads.items()})


class NeedsDistance(Distance):
    """A distance whose gradient divides by it."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        xp = namespace(anchors=batch.anchors)
        apart = batch.anchors - batch.references
        w = xp.ones_like(apart[:, 0]) if batch.weights is None else batch.weights
        total = xp.sum(w)
        w = w / xp.where(total > 0, total, xp.ones_like(total))
        size = xp.sqrt(xp.sum(apart * apart, axis=1))
        slope = w[:, None] * apart / size[:, None]
        grads = {"anchors": slope, "references": -slope}
        kept = {k: g for k, g in grads.items() if wrt is None or k in wrt}
        return LossResult(xp.sum(w * size), kept)


class Explodes(Right):
    """An exponential of similarities that nobody shifts."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        n = _shares(negative, similarities)
        raised = xp.where(negative, xp.exp(similarities), xp.zeros_like(similarities))
        return xp.sum(n * raised, axis=1), n * raised


class CountsPositives(Right):
    """Divides by the number of positives."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        here = xp.astype(positive, similarities.dtype)
        p = here / xp.sum(here, axis=1, keepdims=True)
        return -xp.sum(p * similarities, axis=1), -p


class LogOfNegatives(PairwiseLoss):
    """The logarithm of a sum over negatives."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        raised = xp.where(negative, xp.exp(similarities), xp.zeros_like(similarities))
        total = xp.sum(raised, axis=1)
        return xp.log(total), raised / total[:, None]


class Warns(Right):
    """Warns."""

    def row_terms(self, *rows: Any) -> Any:
        import warnings

        warnings.warn("careful", stacklevel=1)
        return super().row_terms(*rows)


# Losses that are wrong: manners -------------------------------------------------------------


class KnowsOnlyNumPy(Right):
    """Takes arrays out of their library."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        return super().row_terms(*(np.asarray(x) for x in (similarities, positive, negative)))


class ForgetsTheDevice(Right):
    """Makes zeros wherever the library makes arrays by default."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        losses, grads = super().row_terms(similarities, positive, negative)
        return losses + xp.zeros(losses.shape, dtype=losses.dtype), grads


class BringsATable(Right):
    """Brings an array of NumPy to the library, and not to the device."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        table = xp.asarray(np.ones(similarities.shape[1]), dtype=similarities.dtype)
        losses, grads = super().row_terms(similarities, positive, negative)
        return losses, grads * table[None, :]


class ReturnsDoubles(Distance):
    """Widens the gradients."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        xp = namespace(value=found.value)
        return replace(found, grads={k: xp.astype(g, xp.float64) for k, g in found.grads.items()})


class MultipliesByAScalarOfNumPy(Distance):
    """Widens what is float32 by a number that is an array."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        if not isinstance(batch.anchors, np.ndarray):
            return found
        return replace(found, value=np.float64(1.0) * found.value)


class WritesToItsInput(Right):
    """Works in place in what the engine lends."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        rows = super().row_terms(similarities, positive, negative)
        similarities *= 2.0
        return rows


class WritesToItsBatch(Distance):
    """Centres its anchors in place, when it has done with them."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        if isinstance(batch.anchors, np.ndarray):
            batch.anchors[...] -= batch.anchors.mean(axis=0)
        return found


MEANS: dict[int, Any] = {}


class CachesById(Distance):
    """Keeps a part of its work by the number of an array."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        key, value = id(batch.anchors), found.value
        kept = MEANS.setdefault(key, (batch.anchors, value))  # held, so that its number stays
        return replace(found, value=kept[1])


class KeepsARunningMean(Right):
    """Subtracts more, the more it has seen."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        losses, grads = super().row_terms(similarities, positive, negative)
        mean = 0.9 * getattr(self, "mean", 0.0) + 0.1
        object.__setattr__(self, "mean", mean)
        return losses - mean, grads


FIRST: dict[str, Any] = {}


class CalibratesOnce(Distance):
    """Multiplies by what the first value ever was."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        scale = FIRST.setdefault("scale", 1 + abs(float(found.value)))
        grads = {k: scale * g for k, g in found.grads.items()}
        return replace(found, value=scale * found.value, grads=grads)


class DrawsItsStart(Scaled):
    """Draws its parameter from nobody's generator."""

    def init(self, rng: Any, dim: int) -> dict[str, Any]:
        return {"log_scale": np.asarray(np.random.default_rng().normal(), np.float32)}


class ProjectsFurther(Scaled):
    """Halves its parameter in place of bounding it."""

    def project(self, params: Any) -> Any:
        return {name: 0.5 * x for name, x in params.items()}


class KeepsAList(Scaled):
    """Has a parameter that no file takes."""

    def init(self, rng: Any, dim: int) -> Any:
        return {"log_scale": np.asarray(0.5, np.complex64).real.astype("O")}


@dataclass(frozen=True, kw_only=True)
class ForgetsTheLastBlock(Distance):
    """Walks blocks itself, and only whole ones."""

    memory_budget: int = 2**20

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        n = batch.anchors.shape[0]
        height = max(1, min(n, self.memory_budget // 1500))
        xp = namespace(anchors=batch.anchors)
        weights = xp.ones_like(batch.anchors[:, 0])
        row = xp.cumulative_sum(weights)
        weights = xp.where(row <= n - n % height, weights, xp.zeros_like(weights))
        if n % height == 0 or batch.weights is not None:
            return found
        return super().value_and_grad(replace(batch, weights=weights), wrt=wrt)


class CountsThreads(Distance):
    """Rounds in another way with every number of threads."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        count = int(os.environ.get("COREFRAME_THREADS", "1"))
        return replace(found, value=found.value * (1 + 4 * count * 2.0**-52))


class ComparesColumns(Right):
    """Builds all pairs of the columns of a row."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        losses, grads = super().row_terms(similarities, positive, negative)
        apart = similarities[:, :, None] - similarities[:, None, :]
        return losses + 0 * xp.sum(apart, axis=(1, 2)), grads


class ComputesInFloat32(Right):
    """Narrows what comes, and widens what goes."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        narrow = xp.astype(similarities, xp.float32)
        found = super().row_terms(narrow, positive, negative)
        return tuple(xp.astype(x, similarities.dtype) for x in found)


class Overflows(PairwiseLoss):
    """The logarithm of 1 and a sum of powers, which nobody shifts."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        raised = xp.where(negative, xp.exp(100 * similarities), xp.zeros_like(similarities))
        total = 1 + xp.sum(raised, axis=1)
        return xp.log(total), 100 * raised / total[:, None]


class FailsInFloat32(Distance):
    """Multiplies what has another dtype, as torch refuses it."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        xp = namespace(anchors=batch.anchors)
        if batch.anchors.dtype == xp.float32 and not isinstance(batch.anchors, np.ndarray):
            raise RuntimeError("expected m1 and m2 to have the same dtype")
        return super().value_and_grad(batch, params, wrt=wrt)


class ForgetsItsParameter(Scaled):
    """Has no gradient of its parameter."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        return replace(super().value_and_grad(batch, params, wrt=wrt), param_grads={})


class ReshapesItsParameter(Scaled):
    """Has a vector as the gradient of a number."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        xp = namespace(anchors=batch.anchors)
        one = xp.reshape(found.param_grads["log_scale"], (1,))
        return replace(found, param_grads={"log_scale": one})


class WidensItsParameter(Scaled):
    """Has a gradient in float64 whatever the parameter is."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        xp = namespace(anchors=batch.anchors)
        wide = xp.astype(found.param_grads["log_scale"], xp.float64)
        return replace(found, param_grads={"log_scale": wide})


class ParameterInNumPy(Scaled):
    """Takes the gradient of its parameter out of the library."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        host = {name: to_numpy(g) for name, g in found.param_grads.items()}
        return replace(found, param_grads=host)


class Squares:
    """A cache that nobody can look into."""

    kept: dict[int, Any]
    __slots__ = ("kept",)

    def __init__(self) -> None:
        self.kept = {}


SQUARES = Squares()


class KeepsAPartById(Distance):
    """Keeps a part of its work by the number of an array, where the kit cannot empty it."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        found = super().value_and_grad(batch, params, wrt=wrt)
        xp, key = namespace(anchors=batch.anchors), id(batch.anchors)
        now = xp.mean(batch.anchors * batch.anchors)
        kept = SQUARES.kept.setdefault(key, now)
        return replace(found, value=found.value + kept - now)


class SyncsInRows(RowLoss):
    """Decides on the host."""

    needs: ClassVar[tuple[str, ...]] = ("anchors", "references")

    def rows(self, arrays: Any, batch: Batch) -> tuple[Any, dict[str, Any]]:
        apart = arrays["anchors"] - arrays["references"]
        xp = namespace(apart=apart)
        losses = xp.sum(apart * apart, axis=1)
        scale = 2.0 if float(xp.max(losses)) < 1e30 else 0.0
        return losses, {"anchors": scale * apart, "references": -scale * apart}


class MasksByAnIndex(Right):
    """Makes a shape that depends on values."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        losses, grads = super().row_terms(similarities, positive, negative)
        return losses + 0 * xp.sum(similarities[negative]), grads


class GoesThroughNumPy(Right):
    """Takes its derivatives to the host and back."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        losses, grads = super().row_terms(similarities, positive, negative)
        return losses, xp.asarray(to_numpy(grads), device=device_of(similarities))


FAULTS: list[tuple[Loss, str, str]] = [
    (ComputesInFloat32(), "precision", "pairs: the value is the same to the last bit"),
    (Overflows(), "overflow", "labels: value is finite in float64, and not in float32"),
    (FailsInFloat32(), "dtypes", "pairs, array-api-strict, float32: RuntimeError: expected m1"),
    (ForgetsItsParameter(), "shapes", "param_grads has [], expected ['log_scale']"),
    (ReshapesItsParameter(), "shapes", "param_grads['log_scale'] is (1,), but log_scale is ()"),
    (WidensItsParameter(), "dtypes", "param_grads['log_scale'] is float64, expected float32"),
    (ParameterInNumPy(), "libraries", "param_grads['log_scale'] is of numpy"),
    (KeepsAPartById(), "looks_anew", "other values in the same arrays: value differs"),
    (SyncsInRows(), "traceable", "float() of an array asks for its value (test_losses.py:"),
    (MasksByAnIndex(), "traceable", "a mask as an index makes a shape that depends on values"),
    (GoesThroughNumPy(), "traceable", "a NumPy copy of an array asks for its value (test_losses"),
    (OtherShape(), "row_terms_shapes", "the losses have shape (6, 1), expected (6,)"),
    (DependsOnTheBlock(), "rows_are_independent", "the loss of row 0 changes"),
    (CountsUnusedColumns(), "unused_columns", "when three such columns"),
    (SumsUnusedColumns(), "unused_columns", "such a column is not 0"),
    (PrefersTheFirst(), "columns_in_any_order", "the losses change when the columns are put"),
    (DividesByTheRows(), "single_rows", "pairs, half of the rows: value differs"),
    (Refuses(), "accepts", "it needs anchors, references, labels, ids"),
    (ReturnsATuple(), "usable", "value_and_grad returns a tuple, expected a LossResult"),
    (ReturnsAFloat(), "shapes", "value is a float, not an array"),
    (ReturnsLists(), "shapes", "grads['anchors'] is a list, not an array"),
    (ForgetsReferences(), "shapes", "grads has ['anchors'], expected ['anchors', 'references']"),
    (IgnoresWrt(), "wrt", "wrt=('anchors',) returns grads of ['anchors', 'references']"),
    (PrefersTheFirstRow(), "order_of_the_batch", "pairs, in another order: value differs"),
    (IgnoresWeights(), "weighted_rows", "whichever row has all the weight, the value is "),
    (IgnoresTheSumOfWeights(), "weights", "three times the weights change value"),
    (DividesByTheSumOfWeights(), "zero_weights", "all weights zero: value is not 0"),
    (HidesNaN(), "nan_is_reported", "with NaN in row 0 of anchors, value and gradients are finite"),
    (DividesByZero(), "zero_vectors", "zero vectors, float64: value is not finite"),
    (NeedsTwoRows(), "one_row", "one row, float64: value is not finite"),
    (NeedsDistance(), "duplicates", "all rows alike, float64: grads['anchors']"),
    (Explodes(similarity="dot"), "magnitudes", "long vectors, float64: value is not finite"),
    (CountsPositives(), "no_positives", "no row has a positive, float64: value is not finite"),
    (LogOfNegatives(), "no_negatives", "no row has a negative, float64: value is not finite"),
    (Warns(), "no_warnings", "careful"),
    (KnowsOnlyNumPy(), "libraries", "pairs, array-api-strict"),
    (ForgetsTheDevice(), "devices", "pairs, the second device of array-api-strict: "),
    (BringsATable(), "devices", "pairs, the second device of array-api-strict: "),
    (ReturnsDoubles(), "dtypes", "grads['anchors'] is float64, expected float32"),
    (MultipliesByAScalarOfNumPy(), "dtypes", "numpy, float32: value is float64"),
    (WritesToItsInput(), "inputs_are_kept", "row_terms changed its argument similarities"),
    (WritesToItsBatch(), "inputs_are_kept", "pairs, numpy: anchors was changed"),
    (CachesById(), "looks_anew", "other values in the same arrays: value differs"),
    (KeepsARunningMean(), "no_hidden_state", "since its first use this is another: mean of the"),
    (CalibratesOnce(), "no_hidden_state", "FIRST of the module tests.testing.test_losses"),
    (DrawsItsStart(), "parameters", "init gives another log_scale for the same rng"),
    (ProjectsFurther(), "parameters", "project changes log_scale a second time"),
    (KeepsAList(), "state_round_trip", "log_scale"),
    (ForgetsTheLastBlock(), "blocks", "many pairs, memory_budget=20000: value differs"),
    (ComparesColumns(), "row_terms_memory", "64 columns take 2.2 MiB, 256 take"),
    (CountsThreads(), "threads", "threads value is another than with 1"),
]


@pytest.mark.parametrize(
    ("loss", "name", "words"), FAULTS, ids=lambda x: type(x).__name__ if isinstance(x, Loss) else ""
)
def test_each_fault_is_named_and_no_other(fast: None, loss: Loss, name: str, words: str) -> None:
    if name in ("libraries", "devices", "traceable") or isinstance(loss, FailsInFloat32):
        pytest.importorskip("array_api_strict")
    found = broken(loss)
    assert list(found) == [name], found
    assert words in found[name], found[name]
    assert "\nTo fix: " in found[name]


def test_what_looks_at_values_cannot_be_traced(fast: None, monkeypatch: Any) -> None:
    jax = pytest.importorskip("jax")
    monkeypatch.setattr(arrays, "libraries", lambda: {"jax": jax.numpy.asarray})
    promise = next(p for p in PROMISES if p.name == "traceable")
    assert "TracerBoolConversionError" in promise.check(Subject(LooksAtValues())).detail
    assert promise.check(Subject(Right())).ok


# Memory -------------------------------------------------------------------------------------


class Broadcasts(Distance):
    """Compares all with all, coordinate by coordinate."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        xp = namespace(anchors=batch.anchors)
        apart = batch.anchors[:, None, :] - batch.references[None, :, :]
        everyone = xp.sum(apart * apart, axis=2)
        found = super().value_and_grad(batch, params, wrt=wrt)
        return replace(found, value=found.value + 0 * xp.sum(everyone))


class ComparesAllWithAll(Distance):
    """Builds one matrix of similarities, which a plain loss may."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        xp = namespace(anchors=batch.anchors)
        everyone = batch.anchors @ xp.matrix_transpose(batch.references)
        found = super().value_and_grad(batch, params, wrt=wrt)
        return replace(found, value=found.value + 0 * xp.sum(everyone))


class BroadcastsProxies(Distance):
    """Has a point of the embeddings' width, and compares all with all for its gradient alone."""

    def init(self, rng: Any, dim: int) -> dict[str, Any]:
        return {"point": rng.normal(size=dim).astype(np.float32)}

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        xp = namespace(anchors=batch.anchors)
        found = super().value_and_grad(batch, wrt=wrt)
        apart = batch.anchors[:, None, :] - batch.references[None, :, :]
        grad = 0 * xp.sum(apart, axis=(0, 1)) * xp.astype(params["point"], apart.dtype)
        return replace(found, param_grads={"point": grad})


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (BroadcastsProxies(), "MiB with 256: an array of rows x rows x width"),
        (Broadcasts(), "MiB with 256: an array of rows x rows x width"),
        (ComparesAllWithAll(), ""),
    ],
)
def test_memory_that_grows_too_fast_is_named(few_libraries: None, loss: Loss, words: str) -> None:
    subject = Subject(loss)
    check = next(p for p in PROMISES if p.name == "memory").check(subject)
    assert check.ok == (not words), check.detail
    assert words in check.detail, check.detail


# All at once --------------------------------------------------------------------------------


class EverythingAtOnce(ComparesColumns):
    """A hidden state, a slope that is 1% off, arrays without a device, and (r, m, m)."""

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        losses, grads = super().row_terms(similarities, positive, negative)
        object.__setattr__(self, "seen", getattr(self, "seen", 0.0) + 0.1)
        losses = losses + self.seen + xp.zeros(losses.shape, dtype=losses.dtype)
        return losses, 1.01 * grads


def test_several_faults_are_each_named(few_libraries: None) -> None:
    pytest.importorskip("array_api_strict")
    found = broken(EverythingAtOnce())
    assert list(found) == ["no_hidden_state", "gradient", "devices", "row_terms_memory"]


# The report ---------------------------------------------------------------------------------


def test_every_promise_has_a_fault_that_it_names() -> None:
    from coreframe.testing.shared import SHARED

    named = {name for _, name, _ in FAULTS} | {"gradient", "traceable", "memory", "ties"}
    own = [p.name for p in PROMISES if p not in SHARED]
    assert set(own) <= named
    assert len(own) == len(set(own))


def test_the_report_is_readable(fast: None) -> None:
    text = report(check_loss(Distance()))
    assert "not checked: it is no PairwiseLoss" in text
    assert "promises kept, 0 broken, " in text.splitlines()[-1]


def test_a_check_is_true_if_it_is_kept() -> None:
    broken = Check("gradient", "It is right.", False, "it is 2\nTo fix: make it 1")
    assert not broken
    assert "it is 2" in report([broken])


def test_memory_is_measured_with_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COREFRAME_THREADS", "3")
    seen: list[str] = []
    growth.peak(lambda: seen.append(os.environ["COREFRAME_THREADS"]))
    assert seen == ["1", "1"]
    assert os.environ["COREFRAME_THREADS"] == "3"
