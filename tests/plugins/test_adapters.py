"""The adapters: pullbacks against differences and autograd, and what the closed forms solve."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_is_gradient, assert_near

from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.random import stream
from coreframe_adapters.linear import Linear
from coreframe_adapters.low_rank import LowRank
from coreframe_adapters.procrustes import Procrustes
from coreframe_adapters.whitening import Whitening

N, D = 19, 5
TRAINED = [Linear(), Linear(bias=True), LowRank(rank=2), LowRank(rank=3, alpha=6.0)]
ALL = [*TRAINED, Procrustes(), Whitening()]


def some_params(adapter, rng):
    return {
        name: rng.standard_normal(p.shape) for name, p in adapter.init(stream(0, "x"), D).items()
    }


@pytest.mark.parametrize("adapter", ALL, ids=repr)
def test_a_fresh_adapter_is_the_identity(library, adapter, rng):
    params = adapter.init(stream(0, "init"), D)
    assert all(p.dtype == np.float32 for p in params.values())
    x = library.asarray(rng.standard_normal((N, D)), "float32")
    y, _ = adapter.forward({name: library.asarray(p) for name, p in params.items()}, x)
    assert_near(library.to_numpy(y), library.to_numpy(x), 0, 0)
    assert y.dtype == library.xp.float32


def test_init_follows_from_the_generator():
    one, other = (LowRank(rank=3).init(stream(7, "init"), D) for _ in range(2))
    assert np.array_equal(one["A"], other["A"])
    assert one["A"].shape == (D, 3)
    assert one["B"].shape == (3, D)
    wide = LowRank(rank=64).init(stream(0, "init"), 400)["A"]
    assert np.std(wide) == pytest.approx(1 / 20, rel=0.05)


@pytest.mark.parametrize("adapter", ALL, ids=repr)
def test_forward_is_the_matrix(library, adapter, rng):
    params = some_params(adapter, rng)
    x = rng.standard_normal((N, D))
    here = {name: library.asarray(p) for name, p in params.items()}
    y, _ = adapter.forward(here, library.asarray(x))
    w, b = adapter.matrix(here)
    want = x @ library.to_numpy(w) + (0 if b is None else library.to_numpy(b))
    assert_near(library.to_numpy(y), want)
    if isinstance(adapter, LowRank):
        scaling = 1.0 if adapter.alpha is None else adapter.alpha / adapter.rank
        assert_near(want, x + scaling * (x @ params["A"]) @ params["B"])


@pytest.mark.parametrize("adapter", ALL, ids=repr)
def test_pullbacks_against_differences(library, adapter, rng):
    params, x, dy = (
        some_params(adapter, rng),
        rng.standard_normal((N, D)),
        rng.standard_normal((N, D)),
    )

    def value(params, x):
        here = {name: library.asarray(p) for name, p in params.items()}
        y, _ = adapter.forward(here, library.asarray(x))
        return float(np.sum(library.to_numpy(y) * dy))

    here = {name: library.asarray(p) for name, p in params.items()}
    _, pullback = adapter.forward(here, library.asarray(x))
    grads, dx = pullback(library.asarray(dy))
    assert sorted(grads) == sorted(params)
    assert_is_gradient(lambda v: value(params, v), x, library.to_numpy(dx), rng)
    for name, p in params.items():
        assert_is_gradient(
            lambda v, name=name: value({**params, name: v}, x),
            p,
            library.to_numpy(grads[name]),
            rng,
        )
    without, nothing = pullback(library.asarray(dy), need_dx=False)
    assert nothing is None
    for name, g in grads.items():
        assert np.array_equal(library.to_numpy(without[name]), library.to_numpy(g))


@pytest.mark.parametrize("adapter", TRAINED, ids=repr)
def test_pullbacks_are_autograds(library, adapter, rng):
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    params, x, dy = (
        some_params(adapter, rng),
        rng.standard_normal((N, D)),
        rng.standard_normal((N, D)),
    )
    leaves = {name: torch.tensor(p, requires_grad=True) for name, p in params.items()}
    there = torch.tensor(x, requires_grad=True)
    if isinstance(adapter, LowRank):
        y = there + adapter.scaling * there @ leaves["A"] @ leaves["B"]
    else:
        y = there @ leaves["W"] + leaves.get("b", 0)
    want = torch.autograd.grad(torch.sum(y * torch.tensor(dy)), [there, *leaves.values()])
    _, pullback = adapter.forward(
        {name: library.asarray(p) for name, p in params.items()}, library.asarray(x)
    )
    grads, dx = pullback(library.asarray(dy))
    assert_near(library.to_numpy(dx), want[0].numpy(), 1e-12)
    for name, g in zip(leaves, want[1:], strict=True):
        assert_near(library.to_numpy(grads[name]), g.numpy(), 1e-12)


# Whitening --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shrinkage", [1e-9, 0.1, 1.0])
def test_whitening_levels_the_covariance(library, shrinkage, rng):
    mix = rng.standard_normal((D, D))
    queries, documents = rng.standard_normal((50, D)) @ mix + 3, rng.standard_normal((80, D)) @ mix
    adapter = Whitening(shrinkage=shrinkage)
    params = adapter.solve(library.asarray(queries), library.asarray(documents))
    both = np.concatenate([queries, documents])
    y = library.to_numpy(adapter.forward(params, library.asarray(both))[0])
    assert_near(np.mean(y, 0), np.zeros(D), atol=1e-9)
    variances, directions = np.linalg.eigh(np.cov(both.T, bias=True))
    want = variances / (variances + shrinkage * variances.mean())
    got = np.cov(y.T, bias=True)
    # Up to one factor for all directions, which no cosine sees.
    assert_near(got / np.trace(got), (directions * want) @ directions.T / np.sum(want), 1e-7)
    w = library.to_numpy(params["W"])
    assert_near(w, w.T)  # turns the space as little as possible
    assert adapter.rebuilds_index


def test_whitening_of_identical_and_of_flat_data_is_finite(library, rng):
    for x in (np.ones((6, D)), np.outer(rng.standard_normal(9), np.ones(D)), np.ones((1, D))):
        here = library.asarray(x)
        params = Whitening().solve(here, here)
        assert all(np.isfinite(library.to_numpy(p)).all() for p in params.values())


# Procrustes -------------------------------------------------------------------------------------


def test_procrustes_finds_a_rotation(library, rng):
    rotation = np.linalg.qr(rng.standard_normal((D, D)))[0]
    queries = rng.standard_normal((40, D)) + 2
    params = Procrustes().solve(library.asarray(queries), library.asarray(queries @ rotation))
    assert_near(library.to_numpy(params["W"]), rotation, 1e-10)
    assert not Procrustes().rebuilds_index


def test_procrustes_is_orthogonal_and_the_best(library, rng):
    queries, documents = rng.standard_normal((2, 30, 2))
    params = Procrustes().solve(library.asarray(queries), library.asarray(documents))
    w = library.to_numpy(params["W"])
    assert_near(w.T @ w, np.eye(2), 1e-12)
    q, d = (x - x.mean(0) for x in (queries, documents))
    best = np.inf
    for angle in np.linspace(0, 2 * np.pi, 2001):  # all rotations and reflections of the plane
        c, s = np.cos(angle), np.sin(angle)
        for turn in (np.array([[c, -s], [s, c]]), np.array([[c, s], [s, -c]])):
            best = min(best, np.sum((q @ turn - d) ** 2))
    ours = np.sum((q @ w - d) ** 2)
    assert ours <= best + 1e-9
    assert ours >= best - 1e-3


def test_procrustes_beats_random_rotations_in_more_dimensions(library, rng):
    queries, documents = rng.standard_normal((2, 30, D))
    params = Procrustes().solve(library.asarray(queries), library.asarray(documents))
    w = library.to_numpy(params["W"])
    assert_near(w.T @ w, np.eye(D), 1e-12)
    q, d = (x - x.mean(0) for x in (queries, documents))
    ours = np.sum((q @ w - d) ** 2)
    for _ in range(200):
        near = np.linalg.qr(w + 0.3 * rng.standard_normal((D, D)))[0]
        for turn in (near, np.linalg.qr(rng.standard_normal((D, D)))[0]):
            assert ours <= np.sum((q @ turn - d) ** 2)


def test_fields_that_cannot_work():
    with pytest.raises(ArgumentError, match=r"LowRank.rank must be at least 1, got 0"):
        LowRank(rank=0)
    with pytest.raises(ArgumentTypeError, match=r"LowRank.rank must be an integer, got 2.5"):
        LowRank(rank=2.5)
    with pytest.raises(ArgumentError, match=r"LowRank.alpha must be above 0, got 0"):
        LowRank(alpha=0.0)
    with pytest.raises(ArgumentError, match=r"Whitening.shrinkage must be above 0, got 0"):
        Whitening(shrinkage=0)
