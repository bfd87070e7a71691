"""The kit for adapters: what is right passes, and what is wrong is named by the right promise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import array_api_strict
import numpy as np
import pytest

from coreframe import Adapter, namespace
from coreframe.adapter import ClosedForm
from coreframe.backend import to_numpy
from coreframe.errors import ArgumentError
from coreframe.registry import build
from coreframe.testing import arrays, check_adapter, report
from coreframe.testing.adapters.promises import KIT
from coreframe_adapters.linear import Linear
from coreframe_adapters.low_rank import LowRank
from coreframe_adapters.procrustes import Procrustes
from coreframe_adapters.whitening import Whitening


@pytest.fixture(autouse=True)
def few_libraries(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """NumPy and the strict library, without waiting for others to compile."""
    if "every_library" not in request.fixturenames:
        few = {"numpy": arrays.on_numpy, "array-api-strict": array_api_strict.asarray}
        monkeypatch.setattr(arrays, "libraries", lambda: few)


@pytest.fixture
def every_library() -> None:
    """Ask for all of them."""


def broken(adapter: Adapter, name: str) -> str:
    """Return what one promise finds, or what is said of all if it finds nothing."""
    found = next(p for p in KIT.promises if p.name == name).check(KIT.subject(adapter))
    return report(check_adapter(adapter)) if found else found.detail


@dataclass(frozen=True, kw_only=True)
class Shift(Adapter):
    """A vector that is added, and noise while it is trained.

        y = x + b + 0.1 noise

    Args:
        noisy: whether there is noise. Default: True, so that it is tried.
    """

    noisy: bool = True

    def init(self, rng: Any, dim_in: int) -> Any:
        return {"b": np.zeros(dim_in, np.float32)}

    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        xp = namespace(x=x, b=params["b"])
        y = x + params["b"]
        if self.noisy and rng is not None:
            y = y + 0.1 * xp.asarray(rng.standard_normal(x.shape), dtype=x.dtype, device=x.device)

        def pullback(dy: Any, need_dx: bool = True) -> Any:
            return {"b": xp.sum(dy, axis=0)}, (1.0 * dy if need_dx else None)

        return y, pullback

    def matrix(self, params: Any) -> Any:
        b = params["b"]
        return namespace(b=b).eye(b.shape[0], dtype=b.dtype, device=b.device), b


@pytest.mark.parametrize(
    "adapter",
    [Shift(), Linear(bias=True), LowRank(rank=2), Procrustes()],
    ids=lambda x: type(x).__name__,
)
def test_a_right_adapter_passes(adapter: Adapter) -> None:
    checks = check_adapter(adapter)
    assert all(checks), report([c for c in checks if not c])


def test_a_right_adapter_passes_on_every_library(every_library: None) -> None:
    chain = {"first": LowRank(rank=2), "second": Linear(bias=True)}
    checks = check_adapter(build("adapters", "chain", adapters=chain))
    assert all(checks), report([c for c in checks if not c])


def test_what_does_not_apply_says_why() -> None:
    found = {c.name: c.detail for c in check_adapter(Shift()) if not c.checked}
    assert found["thin"] == "not checked: it has no thin form"
    assert found["degenerate"] == "not checked: it is trained, and not computed in closed form"
    found = {c.name: c.detail for c in check_adapter(Whitening()) if not c.checked}
    assert found["fresh_identity"] == "not checked: it is computed in closed form"


# Adapters that are wrong --------------------------------------------------------------------


class TakesNothing(Shift):
    def init(self, rng: Any, dim_in: int) -> Any:
        raise ArgumentError("no width is right")


class StartsInFloat64(Shift):
    def init(self, rng: Any, dim_in: int) -> Any:
        return {"b": np.zeros(dim_in)}


class StartsElsewhere(Shift):
    def init(self, rng: Any, dim_in: int) -> Any:
        return {"b": np.full(dim_in, 0.1, np.float32)}


class ReturnsFloat64(Shift):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        y, pullback = super().forward(params, x, rng=rng)
        return namespace(y=y).astype(y, namespace(y=y).float64), pullback


class NamesAnotherGradient(Shift):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        y, pullback = super().forward(params, x, rng=rng)
        return y, lambda dy, need_dx=True: ({"bias": dy[0, :]}, pullback(dy, need_dx)[1])


class AlwaysGivesDx(Shift):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        y, pullback = super().forward(params, x, rng=rng)
        return y, lambda dy, need_dx=True: pullback(dy)


class SaysAnotherMatrix(Shift):
    def matrix(self, params: Any) -> Any:
        w, b = super().matrix(params)
        return w, 2 * b


class WrongGradient(Linear):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        y, pullback = super().forward(params, x, rng=rng)

        def wrong(dy: Any, need_dx: bool = True) -> Any:
            grads, dx = pullback(dy, need_dx)
            return {"W": namespace(dy=dy).matrix_transpose(grads["W"])}, dx

        return y, wrong


class WrongDx(Linear):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        y, pullback = super().forward(params, x, rng=rng)
        return y, lambda dy, need_dx=True: (pullback(dy)[0], dy if need_dx else None)


class OtherNoiseBackwards(Linear):
    """The mask of the forward pass is not the one of the pullback."""

    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        if rng is None:
            return super().forward(params, x)
        xp = namespace(x=x)

        def kept() -> Any:
            return xp.asarray(2.0 * (rng.random(x.shape) < 0.5), dtype=x.dtype, device=x.device)

        y, _ = super().forward(params, x * kept())
        return y, super().forward(params, x * kept())[1]


class TakesTheMeanOff(Shift):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        xp = namespace(x=x)
        y, pullback = super().forward(params, x - xp.sum(x, axis=0) / max(1, x.shape[0]), rng=rng)
        return y, pullback


class SquaresTheSum(Shift):
    def squared_gradients(self, params: Any, x: Any, dy: Any, *, rng: Any = None) -> Any:
        total = namespace(dy=dy).sum(dy, axis=0)
        return {"b": total * total}


class WrongThin(LowRank):
    def thin(self, params: Any) -> Any:
        a, b, scaling = super().thin(params)  # type: ignore[misc]
        return a, b, 2 * scaling


class HasItsOwnNoise(Shift):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        return super().forward(params, x, rng=rng and np.random.default_rng())


class KnowsOnlyNumPy(Shift):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        np.linalg.norm(x)
        return super().forward({"b": np.asarray(params["b"])}, np.asarray(x), rng=rng)


class WritesToItsInput(Shift):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        x += params["b"]
        return x, super().forward(params, x)[1]


class WritesToParameters(Shift):
    def matrix(self, params: Any) -> Any:
        params["b"] *= 1.5
        return super().matrix(params)


class DividesByTheLength(Shift):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        xp = namespace(x=x)
        y, pullback = super().forward(params, x, rng=rng)
        length = xp.sqrt(xp.sum(x * x, axis=1, keepdims=True))
        return y * length / length, pullback


class NeedsRows(Shift):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        if not x.shape[0]:
            raise IndexError("no row")
        return super().forward(params, x, rng=rng)


class RowsByRows(Shift):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        y, pullback = super().forward(params, x, rng=rng)
        gram = x @ namespace(x=x).matrix_transpose(x)
        return y, lambda dy, need_dx=True: pullback(dy + 0 * gram[:, :1], need_dx)


class Centres(Shift):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        y, pullback = super().forward(params, x, rng=rng)
        xp = namespace(x=x)
        return (
            y - xp.mean(y, axis=0, keepdims=True),
            lambda dy, need_dx=True: pullback(dy - xp.mean(dy, axis=0, keepdims=True), need_dx),
        )


class RowsByWidthByWidth(Shift):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        y, pullback = super().forward(params, x, rng=rng)

        def back(dy: Any, need_dx: bool = True) -> Any:
            outer = x[:, :, None] * dy[:, None, :]
            return pullback(dy + 0 * namespace(x=x).sum(outer, axis=2), need_dx)

        return y, back


class ForgetsTheDevice(Shift):
    def matrix(self, params: Any) -> Any:
        b = params["b"]
        return namespace(b=b).eye(b.shape[0], dtype=b.dtype) + 0 * b[None, :], b


class WritesToItsGradient(Shift):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        y, pullback = super().forward(params, x, rng=rng)

        def back(dy: Any, need_dx: bool = True) -> Any:
            found = pullback(dy, need_dx)
            if isinstance(dy, np.ndarray) and dy.flags.writeable:
                dy *= 0
            return found

        return y, back


@dataclass(frozen=True, kw_only=True)
class Halves(Shift):
    """A matrix that is right, and that a file does not hold.

    Args:
        noisy: as there. Default: True.
    """

    def thin(self, params: Any) -> Any:
        b = params["b"]
        return 0 * b[:, None], 0 * b[None, :], 1.0


@pytest.mark.parametrize(
    ("adapter", "name", "text"),
    [
        (TakesNothing(), "accepts", "6 numbers a row: no width is right"),
        (StartsInFloat64(), "initial", "b is of ndarray and float64"),
        (StartsElsewhere(), "fresh_identity", "y differs from x"),
        (ReturnsFloat64(), "shapes", "y is numpy float64"),
        (NamesAnotherGradient(), "shapes", "gradients of ['bias'], expected ['b']"),
        (AlwaysGivesDx(), "without_dx", "dx is not None"),
        (SaysAnotherMatrix(), "affine", "y and x W + b differ"),
        (WrongGradient(), "gradient", "along a random direction of W"),
        (WrongDx(), "gradient", "along a random direction of x"),
        (OtherNoiseBackwards(), "gradient", "along a random direction of W, with noise"),
        (TakesTheMeanOff(), "rows_are_independent", "row 0 of y is another without"),
        (SquaresTheSum(), "squares", "b differs by"),
        (WrongThin(rank=2), "thin", "it differs from forward"),
        (HasItsOwnNoise(), "noise", "y is another in a second pass with an rng"),
        (KnowsOnlyNumPy(), "libraries", "array-api-strict"),
        (WritesToItsInput(), "inputs_are_kept", "numpy: x was changed"),
        (WritesToParameters(), "inputs_are_kept", "b was changed"),
        (DividesByTheLength(), "edge_cases", "zeros, float64: y is not finite"),
        (NeedsRows(), "edge_cases", "IndexError: no row"),
        (RowsByRows(), "memory", "a row more takes"),
        (RowsByWidthByWidth(), "memory", "where they have 80: an array of rows x width x width"),
        (ForgetsTheDevice(), "libraries", "the second device of array-api-strict, float64: "),
        (Halves(), "stored", "the artefact that is loaded differs"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_a_wrong_adapter_is_named(adapter: Adapter, name: str, text: str) -> None:
    found = broken(adapter, name)
    assert text in found
    assert "To fix: " in found


class LooksAtValues(Shift):
    def forward(self, params: Any, x: Any, *, rng: Any = None) -> Any:
        if bool(namespace(x=x).any(x > 10)):
            raise ArgumentError("too long")
        return super().forward(params, x, rng=rng)


def test_a_look_at_values_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    jax = pytest.importorskip("jax")
    monkeypatch.setattr(arrays, "libraries", lambda: {"jax": jax.numpy.asarray})
    assert "TracerBoolConversionError" in broken(LooksAtValues(), "traceable")


def test_a_look_at_values_is_named_without_jax(few_libraries: None) -> None:
    assert "bool() or `if` of an array asks for its value" in broken(LooksAtValues(), "traceable")


@pytest.mark.parametrize(
    ("adapter", "name"),
    [
        (Centres(), "rows_are_independent"),
        (WrongGradient(), "gradient"),
        (WritesToItsGradient(), "inputs_are_kept"),
        (ForgetsTheDevice(), "libraries"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_one_fault_is_one_broken_promise(few_libraries: None, adapter: Adapter, name: str) -> None:
    found = [c.name for c in check_adapter(adapter) if not c and c.name != "documentation"]
    assert found == [name]


# In closed form -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Centring(ClosedForm):
    """Take the mean of the queries off.

    y = x - mean
    """

    rebuilds_index: ClassVar[bool] = False

    def init(self, rng: Any, dim_in: int) -> Any:
        return {"b": np.zeros(dim_in, np.float32)}

    def solve(self, queries: Any, documents: Any) -> Any:
        return {"b": -namespace(queries=queries).mean(queries, axis=0)}

    forward, matrix = Shift.forward, Shift.matrix
    noisy: ClassVar[bool] = False


def test_a_right_solver_passes() -> None:
    checks = check_adapter(Centring())
    assert all(checks), report([c for c in checks if not c])


class SolvesOnTheHost(Centring):
    def solve(self, queries: Any, documents: Any) -> Any:
        return {"b": -np.mean(to_numpy(queries), axis=0)}


class SolvesOtherShapes(Centring):
    def solve(self, queries: Any, documents: Any) -> Any:
        return {"bias": super().solve(queries, documents)["b"], "b": queries[0, :]}


class TakesTheMeanOfBlocks(Centring):
    def solve_blocks(self, blocks: Any) -> Any:
        means = [self.solve(*block)["b"] for block in blocks()]
        return {"b": sum(means) / len(means)}


class DividesBySpread(Centring):
    def solve(self, queries: Any, documents: Any) -> Any:
        b = super().solve(queries, documents)["b"]
        spread = namespace(queries=queries).std(queries, axis=0)
        return {"b": b * spread / spread}


class ShufflesTheQueries(Centring):
    def solve(self, queries: Any, documents: Any) -> Any:
        if hasattr(queries, "sort"):
            queries.sort(axis=0)
        return super().solve(queries, documents)


@pytest.mark.parametrize(
    ("adapter", "name", "text"),
    [
        (SolvesOnTheHost(), "solved", "array-api-strict: b is of numpy"),
        (SolvesOtherShapes(), "solved", "solve returns"),
        (TakesTheMeanOfBlocks(), "blocks", "blocks of 4 rows"),
        (DividesBySpread(), "degenerate", "one pair"),
        (ShufflesTheQueries(), "inputs_are_kept", "solve changed its argument queries"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_a_wrong_solver_is_named(adapter: Adapter, name: str, text: str) -> None:
    assert text in broken(adapter, name)


@dataclass(frozen=True, kw_only=True)
class NoMatrix(Shift):
    """A map that says it has no matrix."""

    def matrix(self, params: Any) -> Any:
        raise NotImplementedError("no matrix")


def test_what_raises_everywhere_is_named_once() -> None:
    named = [c.name for c in check_adapter(NoMatrix()) if not c]
    assert named == ["usable"]
