"""The adapters: pullbacks against differences and autograd, and what the closed forms solve."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_is_gradient, assert_near

from coreframe.adapter import Adapter, count_parameters
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.random import stream
from coreframe.scheduler import Scheduler
from coreframe_adapters.chain import Chain
from coreframe_adapters.linear import Linear
from coreframe_adapters.low_rank import LowRank, merge
from coreframe_adapters.micro_lora import MicroLoRA
from coreframe_adapters.procrustes import Procrustes
from coreframe_adapters.recomputed import Recomputed
from coreframe_adapters.whitening import Whitening

N, D = 19, 5
TRAINED = [
    Linear(),
    Linear(bias=True),
    LowRank(rank=2),
    LowRank(rank=3, alpha=6.0),
    LowRank(rank=2, alpha=3.0, rank_stabilized=True, initialization="kaiming"),
]
CHAIN = Chain(
    adapters={"first": LowRank(rank=2, alpha=1.0), "full": Linear(bias=True), "last": Linear()}
)
COMPOSED = [
    CHAIN,
    MicroLoRA(rank=2),
    Recomputed(adapter=CHAIN, segments=3),
    Recomputed(adapter=LowRank(rank=2)),
]
ALL = [*TRAINED, *COMPOSED, Procrustes(), Whitening()]


def some_params(adapter, rng, d=D):
    return {
        name: rng.standard_normal(p.shape) for name, p in adapter.init(stream(0, "x"), d).items()
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


@pytest.mark.parametrize(
    ("initialization", "deviation"),
    [
        ("gaussian", (1 / 400) ** 0.5),
        ("kaiming", (1 / 400 / 3) ** 0.5),
        ("glorot", (2 / (400 + 64)) ** 0.5),
    ],
)
def test_how_a_is_drawn(initialization, deviation):
    a = LowRank(rank=64, initialization=initialization).init(stream(0, "init"), 400)["A"]
    assert a.dtype == np.float32
    assert np.std(a) == pytest.approx(deviation, rel=0.02)
    assert np.mean(a) == pytest.approx(0, abs=0.02 * deviation * 4)
    if initialization == "kaiming":
        assert np.max(np.abs(a)) <= 1 / 20
        assert np.max(np.abs(a)) > 0.999 / 20


def test_the_kaiming_bound_is_torchs():
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    there = torch.nn.Linear(400, 64, bias=False).weight  # (r, d), drawn with a = sqrt(5)
    here = LowRank(rank=64, initialization="kaiming").init(stream(1, "init"), 400)["A"]
    for edge in (np.max, np.min, np.std):
        assert edge(here) == pytest.approx(edge(there.detach().numpy()), rel=0.01)


def test_scalings():
    assert LowRank(rank=8).scaling == 1
    assert LowRank(rank=8, alpha=4).scaling == 0.5
    assert LowRank(rank=16, alpha=8, rank_stabilized=True).scaling == 2
    assert type(LowRank(rank=2, alpha=np.float64(3)).scaling) is float


def test_parameters_are_counted():
    for adapter, count in ((LowRank(rank=2), 512), (Linear(bias=True), 128 * 128 + 128)):
        assert count_parameters(adapter.init(stream(0, "x"), 128)) == count


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
        by = adapter.rank**0.5 if adapter.rank_stabilized else adapter.rank
        scaling = 1.0 if adapter.alpha is None else adapter.alpha / by
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


# Squared gradients ------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ALL, ids=repr)
@settings(max_examples=5)
@given(n=st.sampled_from([1, 4]), d=st.sampled_from([3, 5]), seed=st.integers(0, 999))
def test_squared_gradients_are_those_of_single_rows(library, adapter, n, d, seed):
    rng = np.random.default_rng(seed)
    params = {k: library.asarray(p) for k, p in some_params(adapter, rng, d).items()}
    x, dy = (library.asarray(rng.standard_normal((n, d))) for _ in range(2))
    got = adapter.squared_gradients(params, x, dy)
    row_by_row = Adapter.squared_gradients(adapter, params, x, dy)
    assert sorted(got) == sorted(params) == sorted(row_by_row)
    for name, squares in got.items():
        assert_near(library.to_numpy(squares), library.to_numpy(row_by_row[name]), 1e-12)


@pytest.mark.parametrize("adapter", ALL, ids=repr)
def test_squared_gradients_against_differences(adapter, rng):
    params, x, dy = some_params(adapter, rng, 3), *rng.standard_normal((2, 4, 3))
    got = adapter.squared_gradients(params, x, dy)
    h = 1e-5
    for name, p in params.items():
        want = np.zeros_like(p)
        for i in np.ndindex(p.shape):
            step = np.zeros_like(p)
            step[i] = h
            up, down = (adapter.forward({**params, name: p + s}, x)[0] for s in (step, -step))
            want[i] = np.sum(np.sum((up - down) * dy, axis=1) ** 2) / (4 * h * h)
        assert_near(got[name], want, 1e-7)


def test_squares_of_single_rows_are_no_square_of_a_sum(rng):
    params, x, dy = some_params(Linear(), rng), *rng.standard_normal((2, N, D))
    summed = Linear().forward(params, x)[1](dy)[0]["W"]
    assert not np.allclose(Linear().squared_gradients(params, x, dy)["W"], summed**2, rtol=0.1)


# Merging ----------------------------------------------------------------------------------------


def exact(parts, weights):
    """Return the weighted sum of the products, from the matrices."""
    products = []
    for adapter, params in parts:
        w = adapter.matrix(params)[0]
        products.append(np.asarray(w, np.float64) - np.eye(w.shape[0]))
    return sum(w * product for w, product in zip(weights, products, strict=True))


@settings(max_examples=10)
@given(
    d=st.sampled_from([4, 6]),
    ranks=st.sampled_from([(1,), (2, 1), (2, 2, 1)]),
    seed=st.integers(0, 999),
)
def test_merging_adds_products(library, d, ranks, seed):
    rng = np.random.default_rng(seed)
    adapters = [LowRank(rank=r, alpha=float(rng.uniform(0.5, 3))) for r in ranks]
    parts = [(adapter, some_params(adapter, rng, d)) for adapter in adapters]
    weights = [float(w) for w in rng.standard_normal(len(parts))]
    here = [(a, {k: library.asarray(p) for k, p in params.items()}) for a, params in parts]
    adapter, params, error = merge(here, weights)
    assert adapter.rank == min(d, sum(ranks))
    assert params["A"].shape == (d, adapter.rank)
    assert error < 1e-12
    x = rng.standard_normal((3, d))
    y = library.to_numpy(adapter.forward(params, library.asarray(x))[0])
    assert_near(y, x + x @ exact(parts, weights), 1e-12)
    # Cut to a rank: no matrix of that rank is nearer, and the error is what is said.
    adapter, params, error = merge(here, weights, rank=1)
    assert adapter == LowRank(rank=1)
    product = library.to_numpy(params["A"]) @ library.to_numpy(params["B"])
    want = exact(parts, weights)
    s = np.linalg.svd(want, compute_uv=False)
    assert np.linalg.norm(want - product) == pytest.approx(np.linalg.norm(s[1:]), abs=1e-9)
    assert error == pytest.approx(np.linalg.norm(s[1:]) / np.linalg.norm(s), abs=1e-9)


def test_merging_means_by_default_and_keeps_the_dtype(library, rng):
    adapter = LowRank(rank=2)
    parts = [
        (adapter, {k: library.asarray(p, "float32") for k, p in some_params(adapter, rng).items()})
        for _ in range(2)
    ]
    for rank in (None, 3):
        merged, params, _ = merge(parts, rank=rank)
        assert all(p.dtype == library.xp.float32 for p in params.values())
        if rank is None:
            on_host = [(a, {k: library.to_numpy(p) for k, p in ps.items()}) for a, ps in parts]
            got = library.to_numpy(params["A"]) @ library.to_numpy(params["B"])
            assert_near(got, exact(on_host, [0.5, 0.5]), 1e-6)
        assert merged.scaling == 1


def test_merging_zero_and_more_than_the_width(rng):
    fresh = LowRank(rank=2).init(stream(0, "x"), D)
    adapter, params, error = merge([(LowRank(rank=2), fresh)], rank=1)
    assert error == 0
    assert np.all(params["A"] @ params["B"] == 0)
    parts = [(LowRank(rank=4), some_params(LowRank(rank=4), rng)) for _ in range(2)]
    adapter, params, error = merge(parts, rank=D)  # as many as the width: nothing is lost
    assert error < 1e-12
    assert_near(adapter.matrix(params)[0] - np.eye(D), exact(parts, [0.5, 0.5]), 1e-12)


def test_what_cannot_be_merged(rng):
    one = (LowRank(rank=2), some_params(LowRank(rank=2), rng))
    with pytest.raises(ArgumentError, match="at least one adapter, got none"):
        merge([])
    with pytest.raises(ArgumentError, match=r"parts\[1\] is a Linear without a low-rank form"):
        merge([one, (Linear(), some_params(Linear(), rng))])
    with pytest.raises(ArgumentError, match="weights must be 1 finite numbers"):
        merge([one], [1.0, 2.0])
    with pytest.raises(ArgumentError, match="weights must be 1 finite numbers"):
        merge([one], [float("nan")])
    with pytest.raises(ArgumentError, match=r"parts must have one width, got \[5, 7\]"):
        merge([one, (LowRank(rank=2), some_params(LowRank(rank=2), rng, 7))])
    for rank in (0, 3, True, 1.0):
        with pytest.raises(ArgumentError, match="rank must be a whole number from 1 to 2, got"):
            merge([one], rank=rank)


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
    with pytest.raises(ArgumentError, match=r"LowRank.initialization must be one of 'gaussian'"):
        LowRank(initialization="xavier")
    with pytest.raises(ArgumentError, match=r"LowRank.rank must be at most the width 3, got 4"):
        LowRank(rank=4).init(stream(0, "x"), 3)
    with pytest.raises(ArgumentError, match=r"Whitening.shrinkage must be above 0, got 0"):
        Whitening(shrinkage=0)


def test_a_scheduled_scaling_is_refused_by_name(rng):
    class Falling(Scheduler):
        def __call__(self, progress, /):
            return 1.0

    adapter = LowRank(rank=2, alpha=Falling())
    with pytest.raises(ArgumentTypeError, match=r"LowRank.alpha is scheduled"):
        adapter.init(stream(0, "x"), D)


def test_more_ranks_than_the_width_merge_to_the_width(rng):
    """Exactly, and so that the merged adapter can be made anew and trained on."""
    parts = [(LowRank(rank=4), {"A": a, "B": a.T}) for a in rng.standard_normal((3, 4, 4))]
    adapter, params, error = merge(parts)
    assert adapter.rank == 4
    assert error < 1e-12
    want = np.eye(4) + sum(p["A"] @ p["B"] for _, p in parts) / 3
    assert_near(adapter.matrix(params)[0], want)
    assert {k: x.shape for k, x in adapter.init(rng, 4).items()} == {"A": (4, 4), "B": (4, 4)}
