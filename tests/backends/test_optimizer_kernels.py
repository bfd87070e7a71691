"""NumPy's kernels of optimizers: what ``step`` gives, in place only where arrays are given up."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_near, environment

from coreframe.optimizer import Rule
from coreframe_numpy.kernels import optimizers as kernels
from coreframe_numpy.kernels.compiled import available
from coreframe_optimizers.adam import Adam
from coreframe_optimizers.adamw import AdamW
from coreframe_optimizers.sgd import SGD

SETTINGS = [
    AdamW(learning_rate=0.01),
    AdamW(learning_rate=0.1, beta1=0.0, beta2=0.5, epsilon=1e-3, weight_decay=0.2),
    Adam(learning_rate=0.02, weight_decay=0.3),
    Adam(learning_rate=0.02, weight_decay=0.3, decoupled=True),
    SGD(learning_rate=0.05),
    SGD(learning_rate=0.02, momentum=0.9, weight_decay=0.1),
    SGD(learning_rate=0.02, momentum=0.8, nesterov=True),
]
MODES = ["plain", "compiled"]


@contextlib.contextmanager
def kernel(mode, block_bytes=256):
    """Take one way for all sizes, with blocks so small that there are several."""
    if mode == "compiled" and not available():
        pytest.skip("numba is not installed")
    with (
        environment(COREFRAME_KERNELS={"compiled": ""}.get(mode, mode)),
        mock.patch.object(kernels, "COMPILED_FROM", 0),
        mock.patch.object(kernels, "BLOCK_BYTES", block_bytes),
    ):
        yield


def start(rng, shapes, dtype="float32"):
    return {f"p{i}": np.array(rng.standard_normal(s), dtype) for i, s in enumerate(shapes)}


def walk(optimizer, params, steps, donate=False, seed=1):
    """Return params and state after gradients that do not depend on where the params are."""
    rng = np.random.default_rng(seed)
    params = {name: p.copy() for name, p in params.items()}
    state = optimizer.init(params)
    for _ in range(steps):
        grads = {n: np.array(rng.standard_normal(p.shape), p.dtype) for n, p in params.items()}
        params, state = optimizer.update(params, grads, state, donate=donate)
    return params, state


def assert_same(got, want, tolerance):
    assert got[0].keys() == want[0].keys()
    assert got[1].keys() == want[1].keys()
    for ours, other in zip(got, want, strict=True):
        for name, x in other.items():
            if name == "step":
                assert ours[name] == x
                continue
            assert type(ours[name]) is np.ndarray
            assert ours[name].dtype == x.dtype
            assert_near(ours[name], x, tolerance, tolerance)


def assert_equal(got, want):
    for ours, other in zip(got, want, strict=True):
        assert all(np.array_equal(ours[name], x, equal_nan=True) for name, x in other.items())


SHAPES = st.lists(
    st.lists(st.integers(1, 20), min_size=0, max_size=3).map(tuple), min_size=1, max_size=4
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", SETTINGS, ids=repr)
@given(shapes=SHAPES, dtype=st.sampled_from(["float32", "float64"]), donate=st.booleans())
def test_two_hundred_steps_equal_the_reference(optimizer, mode, shapes, dtype, donate):
    steps = 200 if sum(map(np.prod, shapes)) < 500 else 20
    first = start(np.random.default_rng(0), shapes, dtype)
    with environment(COREFRAME_KERNELS="off"):
        want = walk(optimizer, first, steps)
    with kernel(mode):
        got = walk(optimizer, first, steps, donate)
    assert_same(got, want, 3e-6 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("optimizer", SETTINGS, ids=repr)
def test_compiled_and_plain_kernels_are_a_rounding_apart(optimizer, rng):
    first = start(rng, [(300, 7), (5,)])
    results = []
    for mode in MODES:
        with kernel(mode):
            results.append(walk(optimizer, first, 1))
    assert_same(*results, 3e-7)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", SETTINGS[:1] + SETTINGS[-1:], ids=repr)
def test_threads_and_blocks_do_not_change_a_bit(optimizer, mode, rng):
    first = start(rng, [(1000,), (3, 333), (), (17,)])
    with kernel(mode, block_bytes=1 << 20):
        want = walk(optimizer, first, 3)
    for count in "123":
        for block_bytes in (64, 260, 4096):
            with kernel(mode, block_bytes), environment(COREFRAME_THREADS=count):
                assert_equal(walk(optimizer, first, 3, donate=True), want)


# What is written to -----------------------------------------------------------------------------


def frozen(arrays):
    """Make arrays raise where they are written to."""
    for x in arrays:
        x.flags.writeable = False


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", SETTINGS[:1] + SETTINGS[-1:], ids=repr)
def test_nothing_is_written_unless_it_is_given_up(optimizer, mode, rng):
    params = start(rng, [(40, 5), (7,), ()])
    grads = start(rng, [(40, 5), (7,), ()])
    state = optimizer.init(params)
    before = {k: np.copy(x) for k, x in {**params, **state}.items()}
    with kernel(mode):
        new, new_state = optimizer.update(params, grads, state)
    for name, x in {**params, **state}.items():
        assert np.array_equal(x, before[name])
    after = {**new, **new_state}
    given = [*params.values(), *grads.values(), *state.values()]
    assert not any(np.shares_memory(x, y) for x in after.values() for y in given)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", SETTINGS[:1] + SETTINGS[-1:], ids=repr)
def test_what_is_given_up_is_used_again_and_gradients_are_not(optimizer, mode, rng):
    params = start(rng, [(40, 5), (7,), ()])
    grads = start(rng, [(40, 5), (7,), ()])
    frozen(grads.values())
    state = optimizer.init(params)
    with kernel(mode):
        want = optimizer.update(params, grads, state)
        got = optimizer.update(params, grads, state, donate=True)
    assert_equal(got, want)
    assert all(got[0][name] is p for name, p in params.items())
    slots = [k for k in state if k.partition("/")[0] in optimizer.slots]
    assert slots
    assert all(got[1][k] is state[k] for k in slots)


def test_the_reference_takes_donate_and_writes_nothing(library, rng):
    first = start(rng, [(4, 5), (7,)])
    params = {name: library.asarray(p, "float64") for name, p in first.items()}
    with environment(COREFRAME_KERNELS="off"):
        state = AdamW().init(params)
        AdamW().update(params, params, state, donate=True)
    for name, p in first.items():
        assert np.array_equal(library.to_numpy(params[name]), p.astype("float64"))


@pytest.mark.parametrize("mode", MODES)
def test_memory_that_is_seen_twice_is_not_written(mode, rng):
    """A gradient that is the parameter, tied parameters, and views of what others hold."""
    optimizer = AdamW(learning_rate=0.1)
    whole = rng.standard_normal((6, 10))
    tied = whole[:3]
    for params, grads in (
        ({"a": whole}, {"a": whole}),
        ({"a": whole}, {"a": whole[::-1]}),
        ({"a": whole, "b": whole}, {"a": np.ones((6, 10)), "b": -np.ones((6, 10))}),
        ({"a": whole, "b": tied}, {"a": np.ones((6, 10)), "b": -np.ones((3, 10))}),
        ({"b": tied}, {"b": -np.ones((3, 10))}),
    ):
        before = whole.copy()
        alone = {name: p.copy() for name, p in params.items()}
        apart = {name: g.copy() for name, g in grads.items()}
        with kernel(mode):
            want = optimizer.update(alone, apart, optimizer.init(alone))
            got = optimizer.update(params, grads, optimizer.init(params), donate=True)
        assert_equal(got, want)
        assert np.array_equal(whole, before)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", [AdamW(learning_rate=0.1), SGD(momentum=0.9)])
@pytest.mark.parametrize("shared", ["parameter", "slot", "borrowed parameter", "borrowed gradient"])
def test_what_is_given_up_may_be_seen_under_another_name(shared, optimizer, mode, rng):
    """By a parameter without a gradient, or through an object that is no NumPy array."""
    whole, ones = rng.standard_normal((6, 10)), np.ones((6, 10))
    part = np.lib.stride_tricks.as_strided(whole, (5, 10))  # whose base is such an object
    params, grads = {"a": whole, "b": ones[:5]}, {"a": ones}
    if "parameter" in shared:
        params["b"] = part if "borrowed" in shared else whole
    if "borrowed" in shared:
        grads["b"] = part if "gradient" in shared else ones[:5]
    state = dict(optimizer.init(params))
    if shared == "slot":
        for name in optimizer.slots:
            state[f"{name}/a"] = np.abs(rng.standard_normal((6, 10)))
            state[f"{name}/b"] = state[f"{name}/a"][:5]
    apart = [
        {k: x.copy() if k != "step" else x for k, x in arrays.items()}
        for arrays in (params, grads, state)
    ]
    with kernel(mode):
        want = optimizer.update(*apart)
        got = optimizer.update(params, grads, state, donate=True)
    assert_equal(got, want)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("donate", [False, True])
def test_arrays_of_any_layout(mode, donate, rng):
    optimizer = AdamW(learning_rate=0.1)
    plain = start(rng, [(12, 9)])
    grads = start(rng, [(12, 9)])
    read_only = plain["p0"].copy()
    frozen([read_only])
    wide = np.repeat(plain["p0"], 2, axis=1)
    unaligned = np.frombuffer(b"0" + plain["p0"].tobytes(), np.float32, offset=1).reshape(12, 9)
    layouts = [read_only, np.asfortranarray(plain["p0"]), wide[:, ::2], unaligned]
    with kernel(mode):
        want = optimizer.update(plain, grads, optimizer.init(plain))
        for p in layouts:
            for g in (grads["p0"], np.asfortranarray(grads["p0"])):
                before = p.copy()
                params = {"p0": p}
                state = optimizer.init(params)
                got = optimizer.update(params, {"p0": g}, state, donate=donate)
                assert_equal(got, want)
                assert np.array_equal(p, before)


# What stays as it was ---------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_narrow_parameters_keep_their_dtype_and_float32_slots(mode, rng):
    first = start(rng, [(33, 3), ()], "float16")
    with environment(COREFRAME_KERNELS="off"):
        want = walk(AdamW(), first, 20)
    with kernel(mode):
        got = walk(AdamW(), first, 20, donate=True)
    assert got[0]["p0"].dtype == np.float16
    assert got[1]["first_moment/p0"].dtype == np.float32
    assert_same(got, want, 2e-3)


@pytest.mark.parametrize("mode", MODES)
def test_dtypes_may_be_mixed_and_swapped(mode, rng):
    """What the kernel does not serve is left to ``step``."""
    first = {**start(rng, [(30,)]), "wide": rng.standard_normal(30)}
    swapped = {"p": rng.standard_normal(30).astype(">f8")}
    for params in (first, swapped):
        with environment(COREFRAME_KERNELS="off"):
            want = walk(AdamW(), params, 3)
        with kernel(mode):
            assert_same(walk(AdamW(), params, 3, donate=True), want, 3e-6)


@pytest.mark.parametrize("mode", MODES)
def test_rules_and_absent_gradients(mode, rng):
    optimizer = AdamW(
        learning_rate=0.1,
        weight_decay=0.5,
        rules=(Rule(lambda _, x: x.ndim <= 1, {"weight_decay": 0.0}), Rule("a", {"beta1": 0.5})),
    )
    first = {"a": rng.standard_normal((5, 4)), "b": rng.standard_normal(9), "c": np.ones(3)}
    grads = {"b": rng.standard_normal(9), "a": rng.standard_normal((5, 4))}

    def two_steps():
        params, state = {k: x.copy() for k, x in first.items()}, optimizer.init(first)
        params, state = optimizer.update(params, {"b": grads["b"]}, state)
        return optimizer.update(params, grads, state, donate=True)

    with environment(COREFRAME_KERNELS="off"):
        want = two_steps()
    with kernel(mode):
        got = two_steps()
    assert_same(got, want, 1e-14)
    assert np.array_equal(got[0]["c"], first["c"])
    assert got[1]["updates/b"] == 2
    assert got[1]["updates/a"] == 1


@pytest.mark.parametrize("mode", MODES)
def test_what_is_not_finite_stays_where_it_is(mode):
    params = {"W": np.ones(100, np.float32)}
    g = np.ones(100, np.float32)
    g[7], g[50] = np.nan, np.inf
    with environment(COREFRAME_KERNELS="off"), np.errstate(all="ignore"):
        want = AdamW().update(params, {"W": g}, AdamW().init(params))
    with kernel(mode), np.errstate(all="ignore"):
        got = AdamW().update(params, {"W": g}, AdamW().init(params))
    assert np.array_equal(np.isnan(got[0]["W"]), np.isnan(want[0]["W"]))
    assert np.isnan(got[0]["W"]).tolist() == [i in (7, 50) for i in range(100)]


def test_an_error_in_a_thread_reaches_the_caller():
    """The caller's floating-point settings hold in the pool."""
    params = {"W": np.ones(1000, np.float32)}
    huge = {"W": np.full(1000, 1e38, np.float32)}
    with kernel("plain"), environment(COREFRAME_THREADS="2"), np.errstate(over="raise"):
        state = AdamW().init(params)
        with pytest.raises(FloatingPointError, match="overflow"):
            AdamW().update(params, huge, state)


# Which way is taken -----------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Backwards(AdamW):
    """Steps the other way."""

    def step(self, parameter, gradient, slots, count):
        return super().step(parameter, -gradient, slots, count)


def test_a_subclass_does_not_inherit_a_kernel(rng):
    params = start(rng, [(4, 4)])
    grads = {"p0": np.ones((4, 4), np.float32)}
    optimizer = Backwards(weight_decay=0.0)
    new, _ = optimizer.update(params, grads, optimizer.init(params), donate=True)
    assert np.all(new["p0"] > params["p0"])


def test_the_environment_chooses_at_each_call(rng):
    if not available():
        pytest.skip("numba is not installed")
    params = start(rng, [(40,)])
    found = []

    def note(name):
        original = getattr(kernels, name)

        def noted(*args):
            found.append(name)
            return original(*args)

        return mock.patch.object(kernels, name, noted)

    for mode, want in (
        ("", ["_compiled_worker"]),
        ("plain", ["_worker"]),
        ("off", []),
    ):
        with note("_worker"), note("_compiled_worker"), kernel("compiled"):
            found.clear()
            with environment(COREFRAME_KERNELS=mode):
                AdamW().update(params, params, AdamW().init(params))
            assert found == want


def test_small_updates_do_not_wait_for_the_import_of_numba():
    code = (
        "import sys, numpy as np\n"
        "from coreframe_optimizers.adamw import AdamW\n"
        "p = {'W': np.ones((16, 16))}\n"
        "AdamW().update(p, p, AdamW().init(p))\n"
        "print('numba' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False", done.stderr
