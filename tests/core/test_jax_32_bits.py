"""JAX as its users have it, without 64 bits: the one file that runs so."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_near

from coreframe.random import stream
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.triplet import MODES, Triplet
from coreframe_miners.hardest import Hardest
from coreframe_miners.random import Random
from coreframe_optimizers.adamw import AdamW

jax = pytest.importorskip("jax", reason="the package jax is not installed")


@pytest.fixture(autouse=True)
def narrow():
    with jax.enable_x64(False):
        yield


def test_losses_equal_those_on_numpy(rng):
    a, p = rng.standard_normal((2, 19, 5)).astype(np.float32)
    labels = rng.integers(0, 4, 19)
    for loss in (InfoNCE(), *(Triplet(mode=mode) for mode in MODES)):
        for call in (
            lambda x, y, loss=loss: loss(x, y, ids=labels),
            lambda x, y, loss=loss: loss(x, labels=labels),
        ):
            there, here = call(jax.numpy.asarray(a), jax.numpy.asarray(p)), call(a, p)
            assert there.value.dtype == np.float32
            assert_near(there.value, here.value, 2e-6)
            for name, g in here.grads.items():
                assert_near(there.grads[name], g, 1e-5)


def test_miners_choose_the_same(rng):
    a, p = rng.standard_normal((2, 19, 5)).astype(np.float32)
    for miner in (Hardest(), Random()):
        here, there = (
            np.asarray(miner.select(put(a), put(p), put(p), 4, rng=stream(0, "test")))
            for put in (np.asarray, jax.numpy.asarray)
        )
        assert np.array_equal(here, there)


def test_a_step_of_adamw(rng):
    p, g = rng.standard_normal((2, 3, 4)).astype(np.float32)
    results = []
    for put in (np.asarray, jax.numpy.asarray):
        optimizer, params = AdamW(learning_rate=0.1), {"W": put(p)}
        new, _ = optimizer.update(params, {"W": put(g)}, optimizer.init(params))
        results.append(new["W"])
    assert_near(results[1], results[0], 1e-6)
