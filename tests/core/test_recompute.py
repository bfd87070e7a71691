"""Gradient checkpointing: equal gradients, less memory, and what is reported about both."""

from __future__ import annotations

import gc
import math
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import LIBRARIES, assert_is_gradient

import coreframe
from coreframe.backend import device_of, namespace
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.random import stream
from coreframe.recompute import checkpointed, savings
from coreframe_adapters.chain import Chain
from coreframe_adapters.linear import Linear
from coreframe_adapters.low_rank import LowRank
from coreframe_adapters.micro_lora import MicroLoRA
from coreframe_adapters.recomputed import Recomputed

N, D = 6, 4


def tanh(x, rng):
    """A layer that keeps its output."""
    y = namespace(x=x).tanh(x)
    return y, lambda dy, need_dx=True: ({}, dy * (1 - y * y) if need_dx else None)


def dropout(x, rng):
    xp = namespace(x=x)
    keep = 2.0 * (rng.random(tuple(x.shape)) < 0.5)
    keep = xp.asarray(keep, dtype=x.dtype, device=device_of(x))
    return x * keep, lambda dy, need_dx=True: ({}, dy * keep if need_dx else None)


def adapters(library, count, rng):
    """Return layers of all kinds, in turn: low-rank, tanh, full with bias, dropout."""
    layers = []
    for i in range(count):
        kind = (LowRank(rank=2, alpha=1.0), None, Linear(bias=True), None)[i % 4]
        if kind is None:
            layers.append(tanh if i % 4 == 1 else dropout)
            continue
        fresh = kind.init(stream(i, "x"), D)
        params = {
            k: library.asarray(p + 0.1 * rng.standard_normal(p.shape)) for k, p in fresh.items()
        }
        layers.append((kind, params))
    return layers


def plainly(layers, x, dy, streams):
    """Return output and gradients of a pass that keeps everything: an independent loop."""
    pulls = []
    for i, layer in enumerate(layers):
        forward = layer if callable(layer) else None
        if forward is None:
            x, pull = layer[0].forward(layer[1], x, rng=streams(i))
        else:
            x, pull = forward(x, streams(i))
        pulls.append(pull)
    grads = {}
    for i, pull in reversed(list(enumerate(pulls))):
        own, dy = pull(dy)
        grads |= {f"{i}.{name}": g for name, g in own.items()}
    return x, grads, dy


def same(library, a, b):
    return np.array_equal(library.to_numpy(a), library.to_numpy(b))


# Gradients --------------------------------------------------------------------------------------


@settings(max_examples=6)
@given(
    count=st.integers(1, 11),
    segments=st.one_of(st.just("sqrt"), st.integers(1, 13)),
    seed=st.integers(0, 999),
)
def test_gradients_equal_those_of_the_plain_pass_in_every_bit(library, count, segments, seed):
    rng = np.random.default_rng(seed)
    layers = adapters(library, count, rng)
    x, dy = (library.asarray(rng.standard_normal((N, D))) for _ in range(2))
    key = int(stream(seed, "noise", 5).integers(1 << 62))
    want = plainly(layers, x, dy, lambda i: stream(key, f"layer {i}"))
    y, pullback, stats = checkpointed(layers, x, segments=segments, rng=stream(seed, "noise", 5))
    grads, dx = pullback(dy)
    assert same(library, y, want[0])
    assert same(library, dx, want[2])
    assert sorted(grads) == sorted(want[1])
    assert all(same(library, grads[name], want[1][name]) for name in grads)
    used = math.ceil(math.sqrt(count)) if segments == "sqrt" else min(segments, count)
    assert (stats.layers, stats.segments) == (count, used)
    assert stats.forward_calls == count
    # Balanced: the last segment is one of the longest, and is not run again.
    assert stats.recomputed_calls == (count - math.ceil(count / used) if used > 1 else 0)
    without, nothing = pullback(dy, need_dx=False)  # again, and without the input's gradient
    assert nothing is None
    assert all(same(library, without[name], grads[name]) for name in grads)


def test_gradients_against_differences(rng):
    layers = [(Linear(bias=True), {"W": np.eye(D), "b": np.zeros(D)}), tanh, tanh, tanh]
    x, dy = rng.standard_normal((2, N, D))
    grads, dx = checkpointed(layers, x, segments=3)[1](dy)

    def value(x, w):
        moved = [(layers[0][0], {**layers[0][1], "W": w}), *layers[1:]]
        return float(np.sum(checkpointed(moved, x)[0] * dy))

    assert_is_gradient(lambda v: value(v, np.eye(D)), x, dx, rng)
    assert_is_gradient(lambda v: value(x, v), np.eye(D), grads["0.W"], rng)


def test_layers_may_have_names(rng):
    x = rng.standard_normal((N, D))
    layers = {"low": (LowRank(rank=1), {"A": np.ones((D, 1)), "B": np.ones((1, D))}), "end": tanh}
    assert sorted(checkpointed(layers, x)[1](x)[0]) == ["low.A", "low.B"]


def test_segments_are_balanced():
    """Ten layers in four segments are 2, 3, 2, 3: not 2, 2, 2 and the remainder of 4."""
    calls = []

    def layer(i):
        def forward(x, rng):
            calls.append(i)
            return 1 * x, lambda dy, need_dx=True: ({}, dy)

        return forward

    _, pullback, _ = checkpointed([layer(i) for i in range(10)], np.ones((1, 1)), segments=4)
    assert calls == list(range(10))
    calls.clear()
    pullback(np.ones((1, 1)))
    assert calls == [5, 6, 2, 3, 4, 0, 1]


# Memory -----------------------------------------------------------------------------------------


def keeping(times):
    """Return a layer that keeps its input and ``times`` more arrays of its size."""

    def forward(x, rng):
        more = [x + i for i in range(times)]
        return 1 * x, lambda dy, need_dx=True: ({}, dy + 0 * sum(more) + 0 * x)

    return forward


@pytest.mark.parametrize(("count", "segments"), [(16, 4), (16, 16), (17, 3), (9, 1), (64, 8)])
def test_what_is_held_is_counted(library, count, segments):
    x = library.asarray(np.ones((N, D)))
    one = N * D * 8
    _, pullback, stats = checkpointed([keeping(0)] * count, x, segments=segments)
    longest = math.ceil(count / segments)
    assert stats.stored_bytes == (segments + longest - 1) * one
    pullback(x)
    assert stats.peak_bytes == (segments + longest - 1) * one
    assert stats.peak_bytes == savings(count, one, segments).stored
    plain = checkpointed([keeping(0)] * count, x, enabled=False)[2]
    assert plain.peak_bytes == count * one
    assert (plain.segments, plain.recomputed_calls) == (1, 0)


def test_what_is_counted_is_what_python_holds():
    """tracemalloc, which knows nothing of closures, finds the same."""
    x, one = np.ones((256, 64)), 256 * 64 * 8
    checkpointed([keeping(2)] * 16, x, segments=4)[1](x)  # modules are imported
    gc.freeze()  # what other tests left is not gone over again and again
    tracemalloc.start()
    try:
        for segments in (1, 4, 16):
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            y, pullback, stats = checkpointed([keeping(2)] * 16, x, segments=segments)
            gc.collect()
            held = tracemalloc.get_traced_memory()[0] - before + x.nbytes - y.nbytes
            assert held == pytest.approx(stats.stored_bytes, abs=0.3 * one)
            tracemalloc.reset_peak()
            pullback(x)
            peak = tracemalloc.get_traced_memory()[1] - before + x.nbytes - y.nbytes
            # Besides what is held: gradients, and what a layer makes on its way.
            assert stats.peak_bytes <= peak <= stats.peak_bytes + 6 * one
            del pullback, y
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] - before < one  # nothing needs clearing
    finally:
        tracemalloc.stop()
        gc.unfreeze()


def test_parameters_are_no_activations(rng):
    chain = [(Linear(), {"W": rng.standard_normal((D, D))}) for _ in range(4)]
    x = rng.standard_normal((N, D))
    assert checkpointed(chain, x, segments=1)[2].peak_bytes == 4 * x.nbytes
    arrays = {"weights": rng.standard_normal((D, D))}

    def closed(x, rng):
        return x @ arrays["weights"], lambda dy, need_dx=True: ({}, dy @ arrays["weights"].T)

    assert checkpointed([closed], x)[2].peak_bytes == x.nbytes


@settings(max_examples=10)
@given(
    keeps=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    share=st.floats(0.2, 1.2),
)
def test_a_budget_takes_the_fewest_segments_that_fit(library, keeps, share):
    x = library.asarray(np.ones((N, D)))
    layers = [keeping(times) for times in keeps]
    peaks = []
    for segments in range(1, len(keeps) + 1):
        _, pullback, stats = checkpointed(layers, x, segments=segments)
        pullback(x)
        peaks.append(stats.peak_bytes)
    budget = int(share * peaks[0])
    if budget < min(peaks):
        with pytest.raises(ArgumentError) as error:
            checkpointed(layers, x, budget_bytes=budget)
        assert f"the least is {min(peaks)}, with" in str(error.value)
        budget = min(peaks)
    _, pullback, stats = checkpointed(layers, x, budget_bytes=budget)
    pullback(x)
    assert stats.peak_bytes <= budget
    assert stats.segments == 1 + next(i for i, peak in enumerate(peaks) if peak <= budget)
    assert stats.probe_calls == len(keeps)


# Contracts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["numpy", "numpy-read-only", "torch"])
def test_a_layer_that_writes_to_its_input_is_found(name):
    def in_place(x, rng):
        x[...] = 2 * x
        return 1 * x, lambda dy, need_dx=True: ({}, 2 * dy)

    if name == "torch":
        pytest.importorskip("torch", reason="the package torch is not installed")
    x = LIBRARIES[name]().asarray(np.ones((N, D)))
    for segments in (1, 2):
        with pytest.raises(ArgumentError, match=r"layer '1' writes to its input, which is still"):
            checkpointed([tanh, in_place], x, segments=segments)


def test_a_numpy_input_stays_as_it_was_and_the_layer_is_named():
    def in_place(x, rng):
        x *= 2
        return x, lambda dy, need_dx=True: ({}, 2 * dy)

    x = np.ones((N, D))
    with pytest.raises(ArgumentError, match=r"layer 'second' writes to its input"):
        checkpointed({"first": tanh, "second": in_place}, x, segments=1)
    assert np.all(x == 1)
    assert x.flags.writeable


def test_an_error_of_a_layer_is_passed_on():
    def broken(x, rng):
        raise ValueError("mine")

    with pytest.raises(ValueError, match=r"^mine$"):
        checkpointed([broken], np.ones((N, D)))


def test_a_layer_that_draws_elsewhere_is_found():
    own = np.random.default_rng(0)

    def careless(x, rng):
        return x * own.random(x.shape), lambda dy, need_dx=True: ({}, dy)

    x = np.ones((N, D))
    _, pullback, _ = checkpointed([tanh, careless, tanh, tanh], x, segments=2)
    with pytest.raises(ArgumentError, match=r"layers 0\.\.1 gave another output"):
        pullback(x)


def test_an_input_that_is_changed_in_between_is_found():
    x = np.ones((N, D))
    _, pullback, _ = checkpointed([tanh] * 4, x, segments=2)
    x[0, 0] = 99
    with pytest.raises(ArgumentError, match="gave another output"):
        pullback(np.ones((N, D)))


def test_nan_is_no_difference():
    x = np.ones((N, D))
    x[0, 0] = np.nan
    _, pullback, _ = checkpointed([tanh] * 4, x, segments=2)
    assert np.isnan(pullback(np.ones((N, D)))[1][0, 0])


def test_what_cannot_be_checkpointed():
    x = np.ones((N, D))
    with pytest.raises(ArgumentError, match="at least one layer, got none"):
        checkpointed([], x)
    with pytest.raises(ArgumentTypeError, match=r"layer '0' must be a pair .* write \(adapter, p"):
        checkpointed([Linear()], x)
    with pytest.raises(ArgumentTypeError, match="x must be an array, got list"):
        checkpointed([tanh], [[1.0]])
    for segments in (0, -1, 1.5, True, "root"):
        with pytest.raises(ArgumentError, match="segments must be 'sqrt' or a whole number from 1"):
            checkpointed([tanh], x, segments=segments)
    with pytest.raises(ArgumentError, match="budget_bytes must be a whole number from 1"):
        checkpointed([tanh], x, budget_bytes=0)
    with pytest.raises(ArgumentError, match=r"give it without segments=2"):
        checkpointed([tanh], x, segments=2, budget_bytes=10)


# The component ----------------------------------------------------------------------------------


@pytest.mark.parametrize("segments", ["sqrt", 1, 2, 99])
def test_a_recomputed_adapter_is_that_adapter_in_every_bit(library, segments, rng):
    inner = MicroLoRA(rank=2)
    adapter = Recomputed(adapter=inner, segments=segments)
    fresh = adapter.init(stream(1, "x"), D)
    assert all(np.array_equal(p, inner.init(stream(1, "x"), D)[k]) for k, p in fresh.items())
    params = {k: library.asarray(rng.standard_normal(p.shape)) for k, p in fresh.items()}
    x, dy = (library.asarray(rng.standard_normal((N, D))) for _ in range(2))
    y, pull, stats = adapter.run(params, x)
    (want, want_pull), (grads, dx) = inner.forward(params, x), pull(dy)
    want_grads, want_dx = want_pull(dy)
    assert same(library, y, want)
    assert same(library, dx, want_dx)
    assert sorted(grads) == sorted(want_grads)
    assert all(same(library, grads[name], want_grads[name]) for name in grads)
    assert stats.recomputed_calls == {"sqrt": 2, 1: 0, 2: 2, 99: 3}[segments]


def test_one_layer_is_run_once(rng):
    adapter = Recomputed(adapter=LowRank(rank=2))
    params = {k: rng.standard_normal(p.shape) for k, p in adapter.init(stream(0, "x"), D).items()}
    x = rng.standard_normal((N, D))
    _, pullback, stats = adapter.run(params, x)
    assert sorted(pullback(x)[0]) == ["A", "B"]
    assert (stats.layers, stats.segments, stats.recomputed_calls) == (1, 1, 0)


@pytest.mark.parametrize("budget", [None, 40_000])
def test_training_is_the_same_run(budget):
    rng = np.random.default_rng(0)
    q, d = rng.standard_normal((2, 96, 12)).astype(np.float32)
    data = coreframe.Pairs(q, d)
    chain = Chain(adapters={str(i): LowRank(rank=2) for i in range(6)})
    options = {"side": "both", "epochs": 2, "batch_size": 32}
    plain = coreframe.fit(data, data, adapter=chain, **options)
    ours = coreframe.fit(
        data, data, adapter=Recomputed(adapter=chain, budget_bytes=budget), **options
    )
    for name, p in plain.params.items():
        assert np.array_equal(ours.params[name], p)
    assert ours.dev == plain.dev


def test_it_pickles_and_refuses_what_cannot_be():
    adapter = Recomputed(adapter=MicroLoRA(), segments=3)
    assert pickle.loads(pickle.dumps(adapter)) == adapter
    with pytest.raises(ArgumentError, match=r"Recomputed.segments must be 'sqrt' or a whole"):
        Recomputed(adapter=MicroLoRA(), segments=0)
    with pytest.raises(ArgumentError, match=r"Recomputed.budget_bytes must be a whole number"):
        Recomputed(adapter=MicroLoRA(), budget_bytes=1.5)
    adapter = Recomputed(adapter=MicroLoRA(), budget_bytes=8)
    params = adapter.init(stream(0, "x"), D)
    with pytest.raises(ArgumentError, match=r"budget_bytes=8 is too little for 4 layers and 6 ro"):
        adapter.forward(params, np.ones((N, D)))


# The estimate -----------------------------------------------------------------------------------


@given(st.integers(1, 200), st.integers(1, 200), st.floats(1, 1e9))
def test_what_is_estimated_is_never_worse_than_nothing(layers, segments, size):
    segments = min(segments, layers)
    found = savings(layers, size, segments)
    assert found.without == layers * size
    assert 0 <= found.fraction < 1
    assert found.stored <= savings(layers, size, segments, rule="textbook").stored + size


def test_the_square_root_is_near_the_best():
    for layers in (1, 2, 3, 10, 24, 100, 1000):
        best = min(savings(layers, 1, s).stored for s in range(1, layers + 1))
        assert savings(layers, 1).stored <= best + 1


def test_estimates_that_cannot_be():
    for layers in (0, -1, 2.5, math.nan, True):
        with pytest.raises(ArgumentError, match="layers must be a whole number from 1"):
            savings(layers, 1)
    for size in (0, -1, math.nan, math.inf, "1"):
        with pytest.raises(ArgumentError, match="activation_bytes must be a finite number above 0"):
            savings(4, size)
    with pytest.raises(ArgumentError, match="segments must be at most the 4 layers, got 5"):
        savings(4, 1, 5)
    with pytest.raises(ArgumentError, match="segments must be 'sqrt' or a whole number from 1"):
        savings(4, 1, 0)
    with pytest.raises(ArgumentError, match="rule must be 'held' or 'textbook', got 'seed'"):
        savings(4, 1, rule="seed")
