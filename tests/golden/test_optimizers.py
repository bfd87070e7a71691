"""The optimizers beside the Rust seed's recorded steps and the values that its tests state."""

from __future__ import annotations

import math

import numpy as np
import pytest
from goldens import case as golden_case
from goldens import fault, golden

from coreframe.errors import ArgumentError
from coreframe_optimizers.adam import Adam
from coreframe_optimizers.adamw import AdamW
from coreframe_optimizers.sgd import SGD

TOLERANCE = 5e-7  # of steps in float32


def optimizer_of(case):
    """Return our optimizer for a case: the seed's ``lr`` is learning_rate, and so on."""
    fields = dict(case.params)
    fields["learning_rate"] = fields.pop("lr")
    kind = case.name.partition("/")[2]
    if kind.startswith("sgd"):
        return SGD(**fields)
    if kind.startswith("adamw"):
        return AdamW(**fields)
    return Adam(**fields, decoupled=True)  # the seed's Adam decays apart from the moments


@golden("rust", "optimizer/", without=("optimizer/seed_tests", "optimizer/adam_resize"))
def test_each_step(case, on_numpy):
    for dtype in (np.float64, np.float32):
        optimizer = optimizer_of(case)
        params = {"W": np.array(case.inputs["params"], dtype)}
        state = optimizer.init(params)
        wanted = case.output["params_after_each_step"]
        for gradient, want in zip(case.inputs["gradients_per_step"], wanted, strict=True):
            params, state = optimizer.update(params, {"W": np.array(gradient, dtype)}, state)
            np.testing.assert_allclose(params["W"], want, rtol=0, atol=TOLERANCE)


def after(optimizer, start, gradient, steps, dtype=np.float64):
    """Return the parameters after steps with one and the same gradient."""
    params, grads = {"W": np.array(start, dtype)}, {"W": np.array(gradient, dtype)}
    state = optimizer.init(params)
    for _ in range(steps):
        params, state = optimizer.update(params, grads, state)
    return params["W"].tolist()


@golden("rust", "optimizer/seed_tests")
def test_the_seeds_own_tests(case, on_numpy):
    adam = ([0.5], [0.1], 100)
    adamw, sgd = ([1.0], [0.0], 100), ([1.0], [1.0], 5)
    exact = {
        "adam_0.5_after_100_steps_of_g0.1_lr0.001": (Adam(), *adam, 0.4),
        "adamw_1.0_after_100_steps_of_g0_lr0.001_wd0.01": (AdamW(), *adamw, (1 - 1e-5) ** 100),
        "sgd_momentum0.9_1.0_after_5_steps_of_g1_lr0.1": (
            SGD(learning_rate=0.1, momentum=0.9),
            *sgd,
            -0.31441,
        ),
    }
    assert set(exact) == set(case.output)
    for name, (optimizer, *run, value) in exact.items():
        # Adam's epsilon of 1e-8 beside a gradient of 0.1 shortens each step by 1e-7 of itself.
        assert after(optimizer, *run)[0] == pytest.approx(value, abs=2e-8)
        narrow = after(optimizer, *run, np.float32)[0]
        assert narrow == pytest.approx(case.output[name], abs=TOLERANCE)
    assert AdamW().weight_decay == 0.01


@fault(38, "rust:optimizer/adam_resize")
def test_a_parameter_that_grew_is_an_error_and_a_fresh_start_steps_in_full(on_numpy):
    """The seed cleared the moments and kept the count, so the first move was 29% short."""
    case = golden_case("rust:optimizer/adam_resize")
    rate, steps = case.params["lr"], case.inputs["steps_before"]
    for optimizer in (Adam(learning_rate=rate), AdamW(learning_rate=rate, weight_decay=0.0)):
        small = {"W": np.zeros(3)}
        state = optimizer.init(small)
        for _ in range(steps):
            small, state = optimizer.update(small, {"W": np.ones(3)}, state)
        grown, grads = {"W": np.zeros(5)}, {"W": np.ones(5)}
        with pytest.raises(ArgumentError) as caught:
            optimizer.update(grown, grads, state)
        assert str(caught.value) == ("state first_moment/W has shape (3,), its parameter (5,)")
        moved, _ = optimizer.update(grown, grads, optimizer.init(grown))
        first = case.output["first_move_of_a_fresh_optimizer"]
        np.testing.assert_allclose(-moved["W"], first, rtol=2e-6)
        assert np.all(-moved["W"] > case.output["first_move_after_resize"] * 1.4)


# The values that the Rust seed's own tests state ------------------------------------------------


def test_sgd_steps_by_rate_times_gradient(on_numpy):
    plain = SGD(learning_rate=0.1)
    start, gradient = [1.0, 2.0, 3.0, 4.0], [0.1, 0.2, 0.3, 0.4]
    assert after(plain, start, gradient, 1) == pytest.approx([0.99, 1.98, 2.97, 3.96], abs=1e-15)
    square = after(plain, [[1.0, 2.0], [3.0, 4.0]], [[0.1, 0.2], [0.3, 0.4]], 1)
    assert np.ravel(square) == pytest.approx([0.99, 1.98, 2.97, 3.96], abs=1e-15)
    small = after(SGD(learning_rate=0.01), [1.0, 2.0, 3.0], [0.1, -0.2, 0.3], 1)
    assert small == pytest.approx([0.999, 2.002, 2.997], abs=1e-15)
    assert after(SGD(learning_rate=5), [10.0, 20.0, 30.0], [1.0, 2.0, 3.0], 1) == [5, 10, 15]
    assert after(plain, start, [0.0] * 4, 1) == start
    assert after(SGD(learning_rate=0), start, gradient, 1) == start


def test_momentum_begins_with_the_plain_step_and_then_goes_further(on_numpy):
    plain, heavy = SGD(learning_rate=0.1), SGD(learning_rate=0.1, momentum=0.9)
    assert after(heavy, [1.0], [1.0], 1) == after(plain, [1.0], [1.0], 1)
    assert after(heavy, [1.0], [1.0], 2)[0] == pytest.approx(1 - 0.1 - 0.19)
    assert after(heavy, [1.0], [1.0], 5)[0] == pytest.approx(-0.31441, abs=1e-12)


@pytest.mark.parametrize(
    ("optimizer", "end"),
    [(Adam(learning_rate=0.5), 3.6e-5), (SGD(learning_rate=0.01, momentum=0.9), 1.0e-5)],
)
def test_a_bowl_is_descended(optimizer, end, on_numpy):
    params = {"W": np.array([5.0, 5.0])}
    state = optimizer.init(params)
    for _ in range(200):
        params, state = optimizer.update(params, {"W": 2 * params["W"]}, state)
    assert np.max(np.abs(params["W"])) == pytest.approx(end, rel=0.05)


def test_lengths_that_differ_and_empty_arrays_are_errors_that_name_the_shapes(on_numpy):
    for optimizer in (SGD(), Adam(), AdamW()):
        params = {"W": np.zeros((2, 3))}
        for shape in ((6,), (3, 2), (2, 2)):
            with pytest.raises(ArgumentError) as caught:
                optimizer.update(params, {"W": np.zeros(shape)}, optimizer.init(params))
            assert str(caught.value) == (
                f"the gradient of 'W' must have its shape (2, 3), got {shape}"
            )
        with pytest.raises(ArgumentError, match=r"the parameter 'W' is empty: its shape is \(0,\)"):
            optimizer.init({"W": np.zeros(0)})


def test_what_the_seed_sets_in_place_is_a_new_optimizer_with_the_same_state(on_numpy):
    """Setting the rate is a scheduler, or ``replace``; resetting is ``init``."""
    from dataclasses import replace

    optimizer = Adam(learning_rate=0.1)
    params, grads = {"W": np.array([1.0])}, {"W": np.array([0.5])}
    moved, state = optimizer.update(params, grads, optimizer.init(params))
    slower = replace(optimizer, learning_rate=0.01)
    assert slower.learning_rate == 0.01
    next_fast, _ = optimizer.update(moved, grads, state)
    next_slow, _ = slower.update(moved, grads, state)
    ratio = (moved["W"] - next_slow["W"]) / (moved["W"] - next_fast["W"])
    assert math.isclose(ratio.item(), 0.1, rel_tol=1e-12)
    again, _ = optimizer.update(params, grads, optimizer.init(params))
    assert np.array_equal(again["W"], moved["W"])
