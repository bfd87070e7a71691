"""The kit for regularizers: it passes what is right, and names what is wrong.

That the shipped ones keep its promises: test_shipped.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from coreframe import LossResult, Regularizer, Scheduler, checks, namespace
from coreframe.registry import build
from coreframe.scheduler import plain, require_resolved
from coreframe.testing import Check, arrays, report
from coreframe.testing.regularizers.promises import KIT, PROMISES, check_regularizer
from coreframe.testing.shared import SHARED
from coreframe_regularizers.ewc import EWC

EDGES = np.asarray([[0, 1], [1, 2], [2, 3], [3, 4], [0, 5], [5, 8]])


@dataclass(frozen=True, kw_only=True)
class Shrink(Regularizer):
    """A pull to zero.

        strength / 2 * sum p^2

    Args:
        strength: >= 0. Default: 0.5.

    Shapes: parameters of any shapes.

    Edges: none.

    Cost: that of reading the parameters.

    References: none.

    >>> import numpy as np
    >>> float(Shrink().value_and_grad({"W": np.ones(4)}).value)
    1.0
    """

    strength: float | Scheduler = 0.5

    def __post_init__(self) -> None:
        checks.number(self, "strength", minimum=0)

    def value_and_grad(
        self, arrays: Mapping[str, Any], *, ids: Mapping[str, Any] | None = None
    ) -> LossResult:
        require_resolved(self)
        xp, strength = namespace(**arrays), plain(self.strength)
        value = sum(0.5 * strength * xp.sum(x * x) for x in arrays.values())
        return LossResult(value, {name: strength * x for name, x in arrays.items()})


@dataclass(frozen=True, kw_only=True)
class Steps(Shrink):
    __doc__ = str(Shrink.__doc__).replace("Shrink()", "Steps()")

    def value_and_grad(
        self, arrays: Mapping[str, Any], *, ids: Mapping[str, Any] | None = None
    ) -> LossResult:
        return LossResult(super().value_and_grad(arrays).value, {})

    def after_step(self, params: Any, learning_rates: Any) -> Any:
        strength = plain(self.strength)
        return {k: x / (1 + learning_rates[k] * strength) for k, x in params.items()}


@dataclass(frozen=True, kw_only=True)
class Within(Shrink):
    """Keeps each parameter in a ball: no value, and a projection after each update.

        p = p min(1, strength / |p|)

    Args:
        strength: > 0. Default: 0.5.

    References: none.
    """

    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        found = super().value_and_grad(arrays)
        return LossResult(0 * found.value, {})

    def after_step(self, params: Any, learning_rates: Any) -> Any:
        require_resolved(self)
        xp, most = namespace(**params), plain(self.strength)
        norms = {name: xp.sqrt(xp.sum(x * x)) for name, x in params.items()}
        return {
            k: x * (most / xp.maximum(norms[k], most + 0 * norms[k])) for k, x in params.items()
        }


@dataclass(frozen=True, kw_only=True)
class Apart(Regularizer):
    """How far rows of one batch are from their mean.

        strength * sum |e_i - mean|^2

    Args:
        strength: >= 0. Default: 0.5.

    Shapes: anchors (n, d).

    Edges: one row gives 0.

    Cost: that of reading the rows.

    References: none.

    >>> import numpy as np
    >>> float(Apart().value_and_grad({"anchors": np.ones((3, 2))}).value)
    0.0
    """

    strength: float | Scheduler = 0.5

    of: ClassVar[Literal["parameters", "embeddings"]] = "embeddings"

    def __post_init__(self) -> None:
        checks.number(self, "strength", minimum=0)

    def value_and_grad(
        self, arrays: Mapping[str, Any], *, ids: Mapping[str, Any] | None = None
    ) -> LossResult:
        require_resolved(self)
        e, strength = arrays["anchors"], plain(self.strength)
        xp = namespace(anchors=e)
        away = e - xp.mean(e, axis=0, keepdims=True)
        return LossResult(strength * xp.sum(away * away), {"anchors": 2 * strength * away})


@pytest.mark.parametrize(
    "regularizer",
    [
        Shrink(),
        Shrink(strength=build("schedulers", "linear", start=0.0, end=1.0)),
        Steps(),
        Within(),
        Apart(),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_right_regularizer_passes(few_libraries: None, regularizer: Regularizer) -> None:
    found = check_regularizer(regularizer)
    assert all(found), report([c for c in found if not c])


def test_one_that_is_made_for_certain_arrays_gets_them(few_libraries: None) -> None:
    rng = np.random.default_rng(0)
    rows = {"anchors": rng.standard_normal((4, 3))}
    far = build("regularizers", "graph_laplacian", edges=EDGES + 100)
    assert not outcome_of("accepts", far)
    found = check_regularizer(far, arrays=rows, ids={"anchors": np.asarray([101, 103, 100, 102])})
    assert all(found), report([c for c in found if not c])
    start = {"W": rng.standard_normal((3, 2))}
    bound = EWC(strength=1.0).learned(start, {"W": rng.random((3, 2))})
    assert "which these lack" in outcome_of("accepts", bound).detail
    found = check_regularizer(bound, arrays=start)
    assert all(found), report([c for c in found if not c])


# Regularizers that are wrong ------------------------------------------------------------------


class OfSomethingElse(Shrink):
    of: ClassVar[Any] = "gradients"


class RefusesAll(Shrink):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        checks.finite("W", arrays["W"] if "W" in arrays else np.full(1, np.nan))
        return super().value_and_grad(arrays)


class NotALossResult(Shrink):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> Any:
        found = super().value_and_grad(arrays)
        return SimpleNamespace(value=found.value, grads=found.grads)


class ByRow(Apart):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        found = super().value_and_grad(arrays)
        return LossResult(found.value + 0 * arrays["anchors"][:, 0], {"rows": found.value})


class Widens(Shrink):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        found = super().value_and_grad(arrays)
        if type(found.value).__module__ != "numpy":
            return found
        return LossResult(found.value * np.float64(1), found.grads)


class AFloat(Shrink):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        found = super().value_and_grad(arrays)
        return LossResult(float(found.value), found.grads)


class WrongGradient(Shrink):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        found = super().value_and_grad(arrays)
        return LossResult(found.value, {**found.grads, "scale": 1.01 * found.grads["scale"]})


class ForgetsAGradient(Apart):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        found = super().value_and_grad(arrays)
        return LossResult(found.value, {})


class StepsTooFar(Steps):
    def after_step(self, params: Any, learning_rates: Any) -> Any:
        strength = plain(self.strength)
        return {k: x * (1 - learning_rates[k] * strength) for k, x in params.items()}


class OneRateForAll(Steps):
    def after_step(self, params: Any, learning_rates: Any) -> Any:
        rate = next(iter(learning_rates.values()))
        return super().after_step(params, dict.fromkeys(params, rate))


class LosesAName(Steps):
    def after_step(self, params: Any, learning_rates: Any) -> Any:
        moved = super().after_step(params, learning_rates)
        return {name: x for name, x in moved.items() if name != "scale"}


class StepsInPlace(Shrink):
    def after_step(self, params: Any, learning_rates: Any) -> Any:
        for x in params.values():
            if type(x) is np.ndarray and x.flags.writeable:
                x *= 0.9
        return params


class ByPosition(Apart):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        e = arrays["anchors"]
        xp = namespace(anchors=e)
        first = xp.zeros_like(e)
        first[0, :] = plain(self.strength)
        return LossResult(xp.sum(first * e * e), {"anchors": 2 * first * e})


class HalfScaled(Shrink):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        found = super().value_and_grad(arrays)
        more = Shrink(strength=0.1).value_and_grad(arrays)
        both = {name: g + more.grads[name] for name, g in found.grads.items()}
        return LossResult(found.value + more.value, both)


class RemembersTheStart(Shrink):
    def begin(self, params: Any) -> Regularizer:
        self.__dict__["_start"] = dict(params)
        return self

    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        start = self.__dict__["_start"]
        xp, s = namespace(**arrays), plain(self.strength)
        away = {name: x - start[name] for name, x in arrays.items()}
        value = sum(0.5 * s * xp.sum(x * x) for x in away.values())
        return LossResult(value, {name: s * x for name, x in away.items()})


class BeginsAsNothing(Shrink):
    def begin(self, params: Any) -> Any:
        return SimpleNamespace(
            value_and_grad=self.value_and_grad, after_step=self.after_step, of=self.of
        )


class KnowsOnlyNumPy(Apart):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        e, strength = arrays["anchors"], plain(self.strength)
        away = e - e.mean(0)
        return LossResult(strength * (away * away).sum(), {"anchors": 2 * strength * away})


class LooksAtValues(Shrink):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        found = super().value_and_grad(arrays)
        return found if float(found.value) > 0 else LossResult(found.value, {})


class ForgetsTheDevice(Shrink):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        found, xp = super().value_and_grad(arrays), namespace(**arrays)
        return LossResult(found.value + xp.asarray(0.0, dtype=found.value.dtype), found.grads)


VALUES: dict[int, Any] = {}


class CachesById(Shrink):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        found = super().value_and_grad(arrays)
        key = id(next(iter(arrays.values())))
        return LossResult(VALUES.setdefault(key, found.value), found.grads)


class DividesByTheNorm(Shrink):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        xp, s = namespace(**arrays), plain(self.strength)
        norms = {name: xp.sqrt(xp.sum(x * x)) for name, x in arrays.items()}
        return LossResult(s * sum(norms.values()), {k: s * x / norms[k] for k, x in arrays.items()})


class HidesNaN(Shrink):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        xp = namespace(**arrays)
        clean = {k: xp.where(xp.isfinite(x), x, xp.zeros_like(x)) for k, x in arrays.items()}
        return super().value_and_grad(clean)


class NeedsIds(Apart):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        assert ids["anchors"].shape[0]
        return super().value_and_grad(arrays)


class TakesAnyIds(Apart):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        e = arrays["anchors"]
        xp, known = namespace(anchors=e), (ids or {}).get("anchors")
        w = xp.ones_like(e[:, 0])
        if known is not None:
            first = known[:1] if known.shape[0] == e.shape[0] else known[:1] * 0
            w = w * (1 + xp.astype(first, e.dtype))
        grads = 2 * plain(self.strength) * w[:, None] * e
        return LossResult(plain(self.strength) * xp.sum(w[:, None] * e * e), {"anchors": grads})


class WritesToItsInput(Shrink):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        found = super().value_and_grad(arrays)
        x = arrays["query.A"]
        if type(x) is np.ndarray and x.flags.writeable:
            x *= 2.0
        return found


class AllPairs(Apart):
    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        e = arrays["anchors"]
        xp, s = namespace(anchors=e), plain(self.strength)
        value = xp.sum(e * e) - xp.sum(e @ e.T) / e.shape[0]
        return LossResult(s * value, {"anchors": 2 * s * (e - xp.mean(e, axis=0, keepdims=True))})


@dataclass(frozen=True, kw_only=True)
class OnlyANumber(Shrink):
    strength: float = 0.5

    def __post_init__(self) -> None:
        if self.strength < 0:
            raise ValueError("strength must not be negative")


@dataclass(frozen=True, kw_only=True)
class ForgetsToAsk(Shrink):
    center: float | Scheduler = 0.0

    def __post_init__(self) -> None:
        pass

    def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
        found = Shrink().value_and_grad(arrays)
        return LossResult(0.5 * found.value, {k: 0.5 * g for k, g in found.grads.items()})


WRONG: list[tuple[Regularizer, str, str]] = [
    (OfSomethingElse(), "accepts", "of is 'gradients'"),
    (RefusesAll(), "accepts", "parameters: W has 1 values that are NaN or infinite"),
    (Shrink(strength=0.0), "accepts", "the value is 0 on every input"),
    (NotALossResult(), "shapes", "it returns a SimpleNamespace"),
    (ByRow(), "shapes", "pairs: value has shape (6,)"),
    (ByRow(), "shapes", "grads has 'rows', the arrays are anchors, references"),
    (Widens(), "kinds_are_kept", "parameters, numpy, float32: value is numpy float64"),
    (AFloat(), "kinds_are_kept", "value is a float, must be numpy float64 ()"),
    (ForgetsTheDevice(), "kinds_are_kept", "parameters, the second device of array-api-strict, "),
    (CachesById(), "looks_anew", "other values in the same arrays: value differs"),
    (LooksAtValues(), "traceable", "float() of an array asks for its value (test_regularizers.py:"),
    (WrongGradient(), "gradient", "along a random direction of scale"),
    (ForgetsAGradient(), "gradient", "along a random direction of anchors"),
    (StepsTooFar(), "proximal_step", "where query.A is moved to, the value still falls"),
    (OneRateForAll(), "own_rates", "is moved by a rate of 0 where query.A alone has"),
    (LosesAName(), "after_step", "it returns ['query.A', 'query.B', 'query.b']"),
    (StepsInPlace(), "after_step", "query.A, as it was given, was changed"),
    (ByPosition(), "order", "pairs, rows in another order: value differs"),
    (HalfScaled(), "strength", "at 0 times the strength value is not as much"),
    (RemembersTheStart(), "begin", "after another begin, value of an earlier run is another"),
    (BeginsAsNothing(), "begin", "begin returns a SimpleNamespace"),
    (KnowsOnlyNumPy(), "libraries", "pairs, array-api-strict, float64"),
    (DividesByTheNorm(), "edge_cases", "parameters, all zero, float64: grads['query.A'] is not"),
    (DividesByTheNorm(), "no_warnings", "parameters, all zero: invalid value encountered"),
    (HidesNaN(), "nan_comes_out", "with NaN everywhere the value is 0"),
    (NeedsIds(), "ids_may_be_missing", "ids=None: TypeError"),
    (TakesAnyIds(), "ids_may_be_missing", "one id too few is taken without a word"),
    (WritesToItsInput(), "inputs_are_kept", "parameters, numpy: query.A was changed"),
    (AllPairs(), "memory", "times its own memory"),
    (OnlyANumber(), "schedules", "strength cannot follow a schedule: TypeError"),
    (ForgetsToAsk(), "schedules", "center is used while it still is a scheduler"),
    (OnlyANumber(), "fields_are_checked", "strength=nan is taken without a word"),
]


def outcome_of(name: str, regularizer: Regularizer) -> Check:
    """Check one promise alone."""
    return {p.name: p for p in PROMISES}[name].check(KIT.subject(regularizer))


@pytest.mark.parametrize(
    ("regularizer", "name", "words"), WRONG, ids=[f"{type(r).__name__}-{n}" for r, n, _ in WRONG]
)
def test_a_wrong_regularizer_is_named(
    few_libraries: None, regularizer: Regularizer, name: str, words: str
) -> None:
    outcome = outcome_of(name, regularizer)
    assert not outcome.ok
    assert words in outcome.detail, outcome.detail
    assert "To fix: " in outcome.detail


def test_a_cache_by_id_is_named_once(few_libraries: None) -> None:
    broken = [c.name for c in check_regularizer(CachesById()) if not c]
    assert [name for name in broken if name != "documentation"] == ["looks_anew"]


def test_one_that_looks_at_values_cannot_be_traced() -> None:
    if "jax" not in arrays.libraries():
        pytest.skip("jax is not installed")
    assert outcome_of("traceable", Shrink())
    assert not outcome_of("traceable", LooksAtValues())


def test_every_promise_can_be_broken() -> None:
    broken = {name for _, name, _ in WRONG} | {"traceable"}
    assert {p.name for p in PROMISES} - {p.name for p in SHARED} <= broken


def test_a_proximal_step_stands_for_a_gradient(few_libraries: None) -> None:
    found = {c.name: c for c in check_regularizer(Steps())}
    assert found["gradient"].detail.startswith("not checked: it takes a step after the update")
    assert found["proximal_step"].checked
    assert found["own_rates"].checked
    assert outcome_of("proximal_step", Shrink()).detail.startswith("not checked: ")
