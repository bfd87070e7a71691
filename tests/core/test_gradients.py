"""Clipping, accumulation and the moving average: against plain NumPy, optax' form and torch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_near

from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.gradients import (
    Accumulation,
    MovingAverage,
    clip_by_global_norm,
    clip_by_value,
    global_norm,
)
from coreframe.scheduler import Progress, Scheduler, resolve
from coreframe_losses.info_nce import InfoNCE
from coreframe_optimizers.adamw import AdamW

SHAPES = {"adapter.A": (4, 3), "adapter.b": (3,), "loss.log_scale": ()}


def draw(rng, scale=1.0):
    return {name: np.asarray(scale * rng.standard_normal(s)) for name, s in SHAPES.items()}


def on(library, arrays, dtype=None):
    return {name: library.asarray(x, dtype) for name, x in arrays.items()}


def back(library, arrays):
    return {name: library.to_numpy(x) for name, x in arrays.items()}


def flat(arrays):
    return np.concatenate([np.ravel(x) for x in arrays.values()])


# The norm ---------------------------------------------------------------------------------------


def test_the_norm_is_that_of_all_entries_together(library, rng):
    grads = draw(rng)
    norm = global_norm(on(library, grads))
    assert norm.shape == ()
    assert_near(library.to_numpy(norm), np.linalg.norm(flat(grads)), 1e-14)
    assert global_norm(on(library, grads, "float32")).dtype == library.xp.float32
    mixed = {**on(library, grads), "b": library.asarray(grads["adapter.b"], "float32")}
    want = np.linalg.norm(np.append(flat(grads), grads["adapter.b"]))
    assert_near(library.to_numpy(global_norm(mixed)), want, 1e-7)


@given(exponent=st.integers(-305, 305), seed=st.integers(0, 9))
def test_neither_huge_nor_tiny_entries_are_lost(exponent, seed):
    unit = draw(np.random.default_rng(seed))
    grads = {name: x * 10.0**exponent for name, x in unit.items()}
    want = np.linalg.norm(flat(unit))
    assert float(global_norm(grads)) / 10.0**exponent == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_float32_does_not_overflow_in_its_squares(library, size):
    grads = {"W": library.asarray(size * np.array([[3.0, 0.0]]), "float32")}
    grads["b"] = library.asarray(np.array([-4.0 * size]), "float32")
    norm = global_norm(grads)
    assert norm.dtype == library.xp.float32
    assert_near(library.to_numpy(norm) / size, 5.0, 1e-6)
    clipped, _ = clip_by_global_norm(grads, 2.5 * size)
    assert_near(library.to_numpy(clipped["W"]) / size, [[1.5, 0.0]], 1e-6)


def test_float16_is_added_in_float32(on_numpy):
    grads = {"W": np.full(4096, 100.0, np.float16)}  # the square alone is beyond float16
    norm = global_norm(grads)
    assert norm.dtype == np.float32
    assert float(norm) == 6400.0
    clipped, _ = clip_by_global_norm(grads, 64.0)
    assert clipped["W"].dtype == np.float16
    assert np.all(clipped["W"] == 1.0)


def test_zeros_empty_arrays_and_nothing(library):
    zeros = on(library, {"W": np.zeros((2, 3)), "none": np.zeros((0, 3))})
    assert float(library.to_numpy(global_norm(zeros))) == 0.0
    clipped, _ = clip_by_global_norm(zeros, 1.0)
    assert_near(library.to_numpy(clipped["W"]), np.zeros((2, 3)))
    assert float(library.to_numpy(global_norm({"none": zeros["none"]}))) == 0.0
    with pytest.raises(ArgumentError, match="grads is empty: there is no norm of nothing"):
        global_norm({})


# Clipping ---------------------------------------------------------------------------------------


@given(limit=st.floats(1e-6, 1e6), scale=st.floats(1e-6, 1e6), seed=st.integers(0, 9))
def test_clipped_to_the_limit_or_left_as_they_are(limit, scale, seed):
    grads = draw(np.random.default_rng(seed), scale)
    clipped, norm = clip_by_global_norm(grads, limit)
    want = np.linalg.norm(flat(grads))
    assert float(norm) == pytest.approx(want, rel=1e-13)
    if float(norm) <= limit:
        assert all(np.array_equal(clipped[name], g) for name, g in grads.items())
    else:
        assert np.linalg.norm(flat(clipped)) <= limit * (1 + 1e-13)
        assert_near(flat(clipped), flat(grads) / want * limit, 1e-13)


def test_every_library_clips_alike(library, rng):
    grads = draw(rng)
    want = np.linalg.norm(flat(grads))
    for limit in (0.1, 100.0):
        clipped, norm = clip_by_global_norm(on(library, grads), limit)
        assert_near(library.to_numpy(norm), want, 1e-14)
        for name, g in grads.items():
            assert_near(library.to_numpy(clipped[name]), g * min(1.0, limit / want), 1e-14)


def test_gradients_at_the_limit_are_not_touched():
    """PyTorch divides by norm + 1e-6, and so shrinks them."""
    grads = {"W": np.array([3.0, 4.0])}
    clipped, norm = clip_by_global_norm(grads, 5.0)
    assert float(norm) == 5.0
    assert clipped["W"].tolist() == [3.0, 4.0]


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_is_never_hidden_by_clipping(library, bad):
    """PyTorch and optax return NaN there and zeros elsewhere, as if that were a step."""
    grads = {"W": np.array([1.0, bad]), "b": np.array([2.0])}
    clipped, norm = clip_by_global_norm(on(library, grads), 1.0)
    assert not np.isfinite(library.to_numpy(norm))
    assert all(np.isnan(library.to_numpy(x)).all() for x in clipped.values())
    held = back(library, clip_by_value(on(library, grads), 1.5))
    np.testing.assert_array_equal(held["W"], [1.0, bad])
    np.testing.assert_array_equal(held["b"], [1.5])


def test_values_are_clipped_as_by_torch(library, rng):
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    grads = draw(rng)
    held = back(library, clip_by_value(on(library, grads, "float32"), 0.4))
    for name, g in grads.items():
        parameter = torch.nn.Parameter(torch.zeros(g.shape))
        parameter.grad = torch.tensor(g, dtype=torch.float32)
        torch.nn.utils.clip_grad_value_([parameter], 0.4)
        np.testing.assert_array_equal(held[name], parameter.grad.numpy())
    narrow = clip_by_value({"W": np.array([1.0, -6e4], np.float16)}, 1e6)
    assert narrow["W"].tolist() == [1.0, -6e4]
    assert narrow["W"].dtype == np.float16


@pytest.mark.parametrize("clip", [clip_by_global_norm, clip_by_value])
def test_limits_that_cannot_work(clip):
    grads = {"W": np.ones(2)}
    for limit in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ArgumentError, match=r"limit must be finite and above 0, got"):
            clip(grads, limit)
    with pytest.raises(ArgumentTypeError, match=r"limit must be a number, got None"):
        clip(grads, None)


# Accumulation -----------------------------------------------------------------------------------


def squares(w, x, y, weights):
    """The weighted mean of (x w - y)^2 / 2, its gradient, and the sum of the weights."""
    residual = x @ w - y
    return x.T @ (weights * residual) / np.sum(weights), np.sum(weights)


def test_micro_batches_of_any_size_give_the_gradient_of_the_whole(library, rng):
    x, y, w = rng.standard_normal((10, 3)), rng.standard_normal(10), rng.standard_normal(3)
    weights = rng.uniform(0.5, 2.0, 10)
    whole, _ = squares(w, x, y, weights)
    window = Accumulation(steps=3)
    params = {"W": library.asarray(w)}
    state = window.init(params)
    parts = []
    for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):  # the last is short
        assert not window.full(state)
        g, total = squares(w, x[rows], y[rows], weights[rows])
        parts.append(g)
        # A number from the host, or an array on the device: the same.
        weight = float(total) if rows.start else library.asarray(total)
        state = window.add(state, {"W": library.asarray(g)}, weight)
    assert window.full(state)
    assert_near(library.to_numpy(window.mean(state)["W"]), whole, 1e-13)
    assert np.max(np.abs(np.mean(parts, axis=0) - whole)) > 1e-3  # the mean of means is not


def test_a_window_that_is_cut_short_is_the_mean_of_what_it_holds(on_numpy, rng):
    window, grads = Accumulation(steps=8), [draw(rng) for _ in range(3)]
    state = window.init(grads[0])
    for weight, g in zip((1, 2, 5), grads, strict=True):
        state = window.add(state, g, weight)
        assert not window.full(state)
    for name, got in window.mean(state).items():
        want = (grads[0][name] + 2 * grads[1][name] + 5 * grads[2][name]) / 8
        assert_near(got, want, 1e-14)
        assert got.shape == SHAPES[name]


def test_adding_leaves_the_window_before_as_it_was(on_numpy, rng):
    window, g = Accumulation(steps=2), draw(rng)
    empty = window.init(g)
    one = window.add(empty, g)
    window.add(one, g)
    assert window.mean(one).keys() == g.keys()
    assert_near(flat(window.mean(one)), flat(g), 1e-15)
    with pytest.raises(ArgumentError, match="the window is empty: add a gradient"):
        window.mean(empty)


def test_absent_gradients_zero_weights_and_narrow_dtypes(on_numpy):
    window = Accumulation(steps=2)
    params = {"W": np.zeros(1, np.float16), "b": np.zeros(1)}
    state = window.add(window.init(params), {"W": np.array([6e4], np.float16)}, 100)
    state = window.add(state, {"b": np.array([8.0])}, 300)
    mean = window.mean(state)
    assert mean["W"].dtype == np.float32
    assert [mean["W"].item(), mean["b"].item()] == [15000.0, 6.0]
    state = window.add(window.init(params), {"b": np.ones(1)}, 0.0)
    assert window.mean(state)["b"].tolist() == [0.0]
    state = window.add(window.init(params), {"b": np.array([np.nan])})
    state = window.add(state, {"b": np.ones(1)})
    assert np.isnan(window.mean(state)["b"]).all()


def test_accumulation_errors(rng):
    window, g = Accumulation(steps=2), draw(rng)
    state = window.init(g)
    with pytest.raises(ArgumentError, match=r"no parameter 'adapter.B'. Did you mean 'adapter.b'"):
        window.add(state, {"adapter.B": np.zeros(3)})
    with pytest.raises(ArgumentError, match=r"'adapter.b' has shape \(4,\), its state has \(3,\)"):
        window.add(state, {"adapter.b": np.zeros(4)})
    for weight in (-1.0, float("nan")):
        with pytest.raises(ArgumentError, match="weight must be finite and at least 0, got"):
            window.add(state, g, weight)
    for weight in (True, "2", np.ones(2)):
        with pytest.raises(ArgumentTypeError, match="weight must be a number or a 0-d array"):
            window.add(state, g, weight)
    with pytest.raises(ArgumentError, match=r"Accumulation.steps must be at least 1, got 0"):
        Accumulation(steps=0)


def test_accumulation_is_not_a_larger_batch_for_in_batch_losses(on_numpy, rng):
    """As the docstring says: the negatives of the other micro-batch are not met."""
    anchors, positives = rng.standard_normal((2, 8, 4))
    loss = InfoNCE(temperature=0.2)
    whole = loss(anchors, positives).grads["anchors"] * 8
    halves = [loss(anchors[r], positives[r]).grads["anchors"] for r in (slice(4), slice(4, 8))]
    assert np.max(np.abs(np.concatenate(halves) * 4 - whole)) > 0.05


# Moving average ---------------------------------------------------------------------------------


def test_it_equals_torchs_averaged_model(library, rng):
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    first = draw(rng)
    model = torch.nn.ParameterDict(
        {name.replace(".", "_"): torch.nn.Parameter(torch.tensor(x)) for name, x in first.items()}
    )
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(model)  # the first is a copy, as our init
    average = MovingAverage(decay=0.9)
    state = average.init(on(library, first))
    for _ in range(20):
        params = draw(rng)
        for name, x in params.items():
            model[name.replace(".", "_")].data = torch.tensor(x)
        theirs.update_parameters(model)
        state = average.update(state, on(library, params))
    assert state["updates"] == 20
    ours = back(library, average.params(state))
    for name, x in ours.items():
        assert_near(x, theirs.module[name.replace(".", "_")].detach().numpy(), 1e-13)
        assert x.shape == SHAPES[name]


@pytest.mark.parametrize("most", [0.3, 0.999])
def test_the_warm_up_forgets_faster_at_first(on_numpy, rng, most):
    average, values = MovingAverage(decay=most, warmup=True), [draw(rng) for _ in range(12)]
    state, want = average.init(values[0]), values[0]["adapter.A"]
    for t, params in enumerate(values[1:], 1):
        state = average.update(state, params)
        d = min(most, (1 + t) / (10 + t))
        want = d * want + (1 - d) * params["adapter.A"]
    assert_near(average.params(state)["adapter.A"], want, 1e-13)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_parameters_that_stay_are_their_own_average(on_numpy, rng, decay):
    average, params = MovingAverage(decay=decay), draw(rng)
    state = average.init(params)
    for _ in range(5):
        state = average.update(state, params)
    assert all(np.array_equal(x, params[name]) for name, x in average.params(state).items())
    other = draw(rng)
    after = average.params(average.update(state, other))
    if not decay:
        assert_near(flat(after), flat(other), 1e-15)


class Rising(Scheduler):
    """step / 10."""

    def __call__(self, progress):
        return progress.step / 10


def test_the_decay_may_be_scheduled(on_numpy, rng):
    average, p, q = MovingAverage(decay=Rising()), draw(rng), draw(rng)
    state = average.init(p)
    with pytest.raises(ArgumentTypeError, match=r"MovingAverage.decay is scheduled"):
        average.update(state, q)
    now = resolve(average, Progress(step=4))
    got = flat(now.params(now.update(state, q)))
    assert_near(got, 0.4 * flat(p) + 0.6 * flat(q), 1e-14)


def test_narrow_parameters_are_averaged_in_float32(on_numpy):
    average = MovingAverage(decay=0.999)
    state = average.init({"W": np.ones(1, np.float16)})
    for _ in range(10):
        state = average.update(state, {"W": np.full(1, 1.5, np.float16)})
    got = average.params(state)["W"]
    assert got.dtype == np.float32
    assert got.item() == pytest.approx(1.5 - 0.5 * 0.999**10, rel=1e-6)


def test_averages_of_other_parameters_are_refused(rng):
    average, params = MovingAverage(), draw(rng)
    state = average.init(params)
    renamed = {name.replace("log_scale", "scale"): x for name, x in params.items()}
    with pytest.raises(ArgumentError, match=r"params lacks 'loss.log_scale'. Did you mean 'loss.s"):
        average.update(state, renamed)
    with pytest.raises(ArgumentError, match=r"this state knows no parameter 'more'"):
        average.update(state, {**params, "more": np.zeros(2)})
    with pytest.raises(ArgumentError, match=r"'adapter.b' has shape \(5,\), its state has \(3,\)"):
        average.update(state, {**params, "adapter.b": np.zeros(5)})
    with pytest.raises(ArgumentError, match=r"MovingAverage.decay must be at least 0 and below 1"):
        MovingAverage(decay=1.0)


# Together ---------------------------------------------------------------------------------------


def test_clip_the_mean_of_a_window_then_step(library, rng):
    """Accumulate, clip, step and average once a window, as NumPy does it by hand."""
    params, grads = draw(rng), [draw(rng, 3.0) for _ in range(4)]
    window, average, optimizer = Accumulation(steps=2), MovingAverage(decay=0.5), AdamW()
    here = on(library, params)
    state, averaged, pending = optimizer.init(here), average.init(here), window.init(here)
    for g in grads:
        pending = window.add(pending, on(library, g))
        if window.full(pending):
            clipped, _ = clip_by_global_norm(window.mean(pending), 1.0)
            here, state = optimizer.update(here, clipped, state)
            averaged, pending = average.update(averaged, here), window.init(here)
    want, steps, mean = params, optimizer.init(params), params
    for i in (0, 2):
        g = {name: (grads[i][name] + grads[i + 1][name]) / 2 for name in params}
        norm = np.linalg.norm(flat(g))
        want, steps = optimizer.update(want, {n: x / norm for n, x in g.items()}, steps)
        mean = {name: (mean[name] + want[name]) / 2 for name in params}
    assert state["step"] == averaged["updates"] == 2
    for name in params:
        assert_near(library.to_numpy(here[name]), want[name], 1e-12)
        assert_near(library.to_numpy(average.params(averaged)[name]), mean[name], 1e-12)
