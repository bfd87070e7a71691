"""What the tests share: array libraries, dense float64 oracles in NumPy, and differences.

Oracles are written from the formulas, with whole (n, m, d) arrays, and share no code with the
package: they are slow, plain, and meant to be read.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from coreframe.batch import Batch
from coreframe.relation import Relation, masked

# Array libraries ----------------------------------------------------------------------------


class LibraryMissing(Exception):
    """A library, or the device that it needs, is not here; the text says why."""


@dataclass(frozen=True)
class Library:
    """One array library on one device, as the tests see it."""

    name: str
    xp: Any
    put: Callable[[np.ndarray], Any]
    get: Callable[[Any], np.ndarray]
    on_host: bool = True

    def asarray(self, x: Any, dtype: str | None = None) -> Any:
        """Bring a NumPy array (or None) here; ``dtype`` is a name such as "float32"."""
        if x is None:
            return None
        return self.put(np.array(x, dtype=dtype))

    def to_numpy(self, x: Any) -> np.ndarray:
        return self.get(x)

    def __repr__(self) -> str:
        return self.name


def _numpy() -> Library:
    import array_api_compat.numpy as xp

    return Library("numpy", xp, lambda x: x, np.asarray)


def _numpy_read_only() -> Library:
    import array_api_compat.numpy as xp

    def put(x: np.ndarray) -> np.ndarray:
        x.flags.writeable = False
        return x

    return Library("numpy-read-only", xp, put, np.asarray)


def _strict(second_device: bool) -> Library:
    try:
        import array_api_strict as xp
    except ImportError:
        raise LibraryMissing("the package array-api-strict is not installed") from None
    host = xp.Device("CPU_DEVICE")
    device = xp.Device("device1") if second_device else host
    return Library(
        "array-api-strict-device1" if second_device else "array-api-strict",
        xp,
        lambda x: xp.asarray(x, device=device),
        lambda x: np.asarray(x.to_device(host)),
        on_host=not second_device,
    )


def _torch() -> Library:
    try:
        import torch
    except ImportError:
        raise LibraryMissing("the package torch is not installed") from None
    import array_api_compat.torch as xp

    return Library("torch", xp, torch.asarray, lambda x: x.detach().cpu().numpy())


def _jax() -> Library:
    try:
        import jax
    except ImportError:
        raise LibraryMissing("the package jax is not installed") from None
    jax.config.update("jax_enable_x64", True)
    _share_the_compilers_context()
    return Library("jax", jax.numpy, jax.numpy.asarray, np.asarray)


@functools.cache
def _share_the_compilers_context() -> None:
    """Let JAX make its compiler's context once, not anew for each of thousands of operations.

    It saves a fifth of the time of all tests on JAX. A version that keeps it elsewhere is slower.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src.interpreters import mlir

        make, of_thread = mlir.make_ir_context, threading.local()

        def context() -> Any:
            if not hasattr(of_thread, "context"):
                of_thread.context = make()
            return of_thread.context

        mlir.make_ir_context = context


def _cupy() -> Library:
    try:
        import cupy
    except ImportError:
        raise LibraryMissing("the package cupy is not installed") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise LibraryMissing(f"no CUDA device ({error})") from None
    if not count:
        raise LibraryMissing("no CUDA device")
    import array_api_compat.cupy as xp

    return Library("cupy", xp, cupy.asarray, cupy.asnumpy, on_host=False)


LIBRARIES: dict[str, Callable[[], Library]] = {
    "numpy": _numpy,
    "numpy-read-only": _numpy_read_only,
    "array-api-strict": lambda: _strict(False),
    "array-api-strict-device1": lambda: _strict(True),
    "torch": _torch,
    "jax": _jax,
    "cupy": _cupy,
}


def load_example(name: str) -> ModuleType:
    """Import a script of examples/ by its name, anew."""
    path = Path(__file__).parents[1] / "examples" / f"{name}.py"
    spec = util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Comparing ----------------------------------------------------------------------------------


def assert_near(got: Any, want: Any, rtol: float = 1e-9, atol: float = 1e-12) -> None:
    """Assert one shape, and a largest difference within rtol of the largest entry."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape
    if want.size:
        worst = float(np.max(np.abs(got - want)))
        assert worst <= atol + rtol * float(np.max(np.abs(want))), f"differs by {worst}"


def slope(f: Callable[[np.ndarray], float], x: np.ndarray, along: np.ndarray) -> float:
    """Return the central difference of f at x in one direction."""
    h = 1e-6
    return (f(x + h * along) - f(x - h * along)) / (2 * h)


def assert_is_gradient(
    f: Callable[[np.ndarray], float],
    x: np.ndarray,
    gradient: np.ndarray,
    rng: np.random.Generator,
    tolerance: float = 1e-6,
) -> None:
    """Assert that ``gradient`` predicts the central differences of f in random directions.

    The tolerance is relative to the gradient's length; the rest is what differences lose by
    rounding.
    """
    assert gradient.shape == x.shape
    size = float(np.sqrt(np.sum(gradient * gradient)))
    rounding = 2e-9 * (1 + abs(f(x)))
    for _ in range(3):
        along = rng.standard_normal(x.shape)
        along /= np.sqrt(np.sum(along * along))
        error = abs(slope(f, x, along) - float(np.sum(gradient * along)))
        assert error <= tolerance * size + rounding


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set variables for a block; for hypothesis, where monkeypatch lives too long."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


# A batch in NumPy ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Case:
    """The arrays of a batch in float64, with the relation as two dense masks."""

    anchors: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    references: np.ndarray | None = None
    negatives: np.ndarray | None = None
    weights: np.ndarray | None = None

    def batch(
        self, library: Library, dtype: str = "float64", relation: Relation | None = None
    ) -> Batch:
        if relation is None:
            relation = masked(library.asarray(self.positive), library.asarray(self.negative))
        return Batch(
            anchors=library.asarray(self.anchors, dtype),
            references=library.asarray(self.references, dtype),
            negatives=library.asarray(self.negatives, dtype),
            weights=library.asarray(self.weights, dtype),
            relation=relation,
        )

    def replace(self, **changes: Any) -> Case:
        return replace(self, **changes)

    @property
    def fields(self) -> list[str]:
        names = ("anchors", "references", "negatives")
        return [name for name in names if getattr(self, name) is not None]


def random_case(
    rng: np.random.Generator,
    n: int,
    m: int | None,
    d: int,
    k: int | None = None,
    *,
    weights: bool = False,
) -> Case:
    """Return a batch with random masks; with ``m=None`` the references are the anchors."""
    columns = n if m is None else m
    kind = rng.random((n, columns))
    return Case(
        anchors=rng.standard_normal((n, d)),
        references=None if m is None else rng.standard_normal((m, d)),
        negatives=None if k is None else rng.standard_normal((n, k, d)),
        positive=kind < 0.25,
        negative=kind > 0.5,
        weights=rng.uniform(0.1, 2.0, n) * (rng.random(n) > 0.2) if weights else None,
    )


# Oracles ------------------------------------------------------------------------------------

Rows = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def dense_similarity(
    a: np.ndarray, b: np.ndarray, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return similarities (n, m) and their derivatives by both rows, (n, m, d) each.

    a (n, d); b (m, d), or (n, m, d) where each anchor has its own.
    """
    a, b = np.broadcast_arrays(a[:, None, :], b if b.ndim == 3 else b[None])
    if name == "dot":
        return np.sum(a * b, -1), b, a
    if name == "cosine":
        length_a = np.sqrt(np.sum(a * a, -1, keepdims=True))
        length_b = np.sqrt(np.sum(b * b, -1, keepdims=True))
        there_a, there_b = length_a > 0, length_b > 0
        length_a, length_b = np.where(there_a, length_a, 1), np.where(there_b, length_b, 1)
        u, v = a / length_a, b / length_b
        s = np.sum(u * v, -1, keepdims=True)
        by_a, by_b = (v - s * u) / length_a * there_a, (u - s * v) / length_b * there_b
        return s[..., 0], by_a, by_b
    apart = a - b
    squared = np.sum(apart * apart, -1)
    if name == "squared_euclidean":
        return -squared, -2 * apart, 2 * apart
    assert name == "euclidean"
    distance = np.sqrt(squared)[..., None]
    direction = np.where(distance > 0, apart / np.where(distance > 0, distance, 1), 0.0)
    return -distance[..., 0], -direction, direction


def dense_loss(
    case: Case,
    rows: Rows,
    similarity: str,
    reduction: str = "mean",
    *,
    log_scale: float | None = None,
    bias: float = 0.0,
    needs_positive: bool = True,
) -> dict[str, np.ndarray]:
    """Return value and gradients of a pairwise loss with everything held in whole arrays.

    Keys: value, a key for each embedding field, log_scale and bias. ``rows`` returns losses and
    derivatives for all rows; rows without a positive (or without any pair) do not count.
    """
    a = case.anchors
    targets = a if case.references is None else case.references
    s, by_left, by_right = dense_similarity(a, targets, similarity)
    positive, negative = case.positive, case.negative
    if case.references is None:
        other = ~np.eye(len(a), dtype=bool)
        positive, negative = positive & other, negative & other
    m = s.shape[1]
    if case.negatives is not None:
        s_own, own_by_left, own_by_own = dense_similarity(a, case.negatives, similarity)
        s = np.concatenate([s, s_own], 1)
        positive = np.concatenate([positive, np.zeros_like(s_own, dtype=bool)], 1)
        negative = np.concatenate([negative, np.ones_like(s_own, dtype=bool)], 1)
    scale = 1.0 if log_scale is None else np.exp(log_scale)
    losses, g = rows(scale * s + bias, positive, negative)
    counted = (positive if needs_positive else positive | negative).any(1)
    losses, g = np.where(counted, losses, 0), np.where(counted[:, None], g, 0)
    w = counted * (np.ones(len(a)) if case.weights is None else case.weights)
    if reduction == "none":
        value, factor = w * losses, 1.0
    elif reduction == "sum":
        value, factor = np.sum(w * losses), 1.0
    else:
        total = np.sum(w) if reduction == "mean" else np.sum(w[losses > 0])
        factor = 1 / total if total > 0 else 0.0
        value = np.sum(w * losses) * factor
    g = factor * w[:, None] * g
    out = {
        "value": np.asarray(value),
        "log_scale": np.sum(g * s) * scale,
        "bias": np.sum(g),
    }
    g = scale * g
    out["anchors"] = np.einsum("nm,nmd->nd", g[:, :m], by_left)
    by_target = np.einsum("nm,nmd->md", g[:, :m], by_right)
    if case.references is None:
        out["anchors"] = out["anchors"] + by_target
    else:
        out["references"] = by_target
    if case.negatives is not None:
        out["anchors"] = out["anchors"] + np.einsum("nk,nkd->nd", g[:, m:], own_by_left)
        out["negatives"] = g[:, m:, None] * own_by_own
    return out


def assert_result(
    library: Library, result: Any, want: dict[str, np.ndarray], case: Case, rtol: float = 1e-9
) -> None:
    """Assert value and gradients against those of ``dense_loss``."""
    assert_near(library.to_numpy(result.value), want["value"], rtol)
    assert sorted(result.grads) == sorted(case.fields)
    for name in case.fields:
        assert_near(library.to_numpy(result.grads[name]), want[name], rtol)
