"""Very small low-rank adapters with names."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_near

from coreframe.adapter import count_parameters
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.random import stream
from coreframe_adapters.chain import Chain
from coreframe_adapters.low_rank import LowRank
from coreframe_adapters.micro_lora import MicroLoRA

NAMES = ("query", "value", "key", "dense")


@pytest.mark.parametrize(("dim", "count"), [(384, 12_288), (128, 4096), (4, 128)])
def test_how_many_parameters(dim, count):
    params = MicroLoRA().init(stream(0, "x"), dim)
    assert count_parameters(params) == count
    assert list(params) == [f"{name}.{key}" for name in NAMES for key in "AB"]


def test_it_is_a_chain_of_low_rank_adapters(library, rng):
    adapter = MicroLoRA(rank=3, alpha=2.0, initialization="kaiming")
    layer = LowRank(rank=3, alpha=2.0, initialization="kaiming")
    chain = Chain(adapters=dict.fromkeys(NAMES, layer))
    fresh, want = (a.init(stream(4, "x"), 8) for a in (adapter, chain))
    assert all(np.array_equal(fresh[name], want[name]) for name in want)
    params = {name: library.asarray(rng.standard_normal(p.shape)) for name, p in fresh.items()}
    x, dy = (library.asarray(rng.standard_normal((5, 8))) for _ in range(2))
    (y, pull), (want_y, want_pull) = (a.forward(params, x) for a in (adapter, chain))
    assert np.array_equal(library.to_numpy(y), library.to_numpy(want_y))
    grads, want_grads = pull(dy)[0], want_pull(dy)[0]
    for name in params:
        got = library.to_numpy(grads[name])
        assert np.array_equal(got, library.to_numpy(want_grads[name]))
    assert library.to_numpy(pull(dy, need_dx=False)[0]["query.A"]).any()


def test_it_is_what_the_formula_says(library, rng):
    adapter = MicroLoRA(rank=2)  # alpha 8: a scaling of 4
    params = {k: rng.standard_normal(p.shape) for k, p in adapter.init(stream(0, "x"), 5).items()}
    x = y = rng.standard_normal((3, 5))
    for name in NAMES:
        y = y + 4 * (y @ params[f"{name}.A"]) @ params[f"{name}.B"]
    here = {name: library.asarray(p) for name, p in params.items()}
    assert_near(library.to_numpy(adapter.forward(here, library.asarray(x))[0]), y, 1e-12)


@settings(max_examples=20)
@given(d=st.integers(1, 40), seed=st.integers(0, 999))
def test_a_fresh_one_is_the_identity_at_any_width(d, seed):
    rng = np.random.default_rng(seed)
    adapter = MicroLoRA(rank=min(2, d))
    params = {k: p.astype(np.float64) for k, p in adapter.init(stream(seed, "x"), d).items()}
    x = rng.standard_normal((3, d))
    y, pull = adapter.forward(params, x)
    assert np.array_equal(y, x)
    grads, _ = pull(rng.standard_normal((3, d)))
    assert all(not grads[f"{name}.A"].any() for name in NAMES)  # B is zero
    assert all(grads[f"{name}.B"].any() for name in NAMES)


def test_the_first_draw_is_glorots():
    a = MicroLoRA(rank=64).init(stream(0, "x"), 400)["key.A"]
    assert np.std(a) == pytest.approx((2 / 464) ** 0.5, rel=0.02)


def test_it_pickles_and_compares():
    adapter = MicroLoRA(rank=2, modules=("a", "b"))
    assert pickle.loads(pickle.dumps(adapter)) == adapter
    assert MicroLoRA() != adapter


def test_fields_that_cannot_work():
    with pytest.raises(ArgumentError, match=r"MicroLoRA.rank must be at least 1, got 0"):
        MicroLoRA(rank=0)
    with pytest.raises(ArgumentError, match=r"MicroLoRA.alpha must be above 0, got 0"):
        MicroLoRA(alpha=0)
    with pytest.raises(ArgumentError, match=r"MicroLoRA.modules must be names that differ"):
        MicroLoRA(modules=("a", "a"))
    with pytest.raises(ArgumentError, match=r"MicroLoRA.modules must be names that differ"):
        MicroLoRA(modules="query")
    with pytest.raises(ArgumentError, match=r"MicroLoRA.modules must name at least one adapter"):
        MicroLoRA(modules=())
    with pytest.raises(ArgumentError, match=r"MicroLoRA.modules: 'a\.b' cannot name a layer"):
        MicroLoRA(modules=("a.b",))
    with pytest.raises(ArgumentError, match=r"MicroLoRA.rank must be at most the width 3, got 4"):
        MicroLoRA().init(stream(0, "x"), 3)
    with pytest.raises(ArgumentTypeError, match=r"MicroLoRA.rank must be an integer, got 1.5"):
        MicroLoRA(rank=1.5)
