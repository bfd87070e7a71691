"""The updates of a run: what is not finite is left out, and what others hold is never written."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_near, environment

from coreframe import Pairs, fit
from coreframe.scheduler import Progress
from coreframe.updates import Updates
from coreframe_losses.info_nce import InfoNCE
from coreframe_optimizers.adamw import AdamW
from coreframe_optimizers.sgd import SGD
from coreframe_regularizers.l2 import L2


def start(rng):
    return {"adapter.W": rng.standard_normal((5, 4)), "adapter.b": rng.standard_normal(4)}


def taken(library, first, all_grads, **options):
    """Return the updates after a list of gradients."""
    xp = library.xp
    params = {name: library.asarray(p) for name, p in first.items()}
    updates = Updates(params, loss=InfoNCE(), **options)
    for grads in all_grads:
        ours = {name: library.asarray(g) for name, g in grads.items()}
        updates.take(xp.sum(ours["adapter.b"]), ours, Progress(step=updates.done))
    return updates


@pytest.mark.parametrize("optimizer", [AdamW(learning_rate=0.1), SGD(momentum=0.9)])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 2])
def test_an_update_that_is_not_finite_changes_nothing(library, optimizer, broken, place, rng):
    """Whether the host looks, or the choice is made on the device."""
    first = start(rng)
    good = [start(rng) for _ in range(4)]
    bad = {name: g.copy() for name, g in good[0].items()}
    bad["adapter.W"][1, 2] = broken
    with np.errstate(invalid="ignore"):
        got = taken(
            library, first, [*good[:place], bad, *good[place:]], optimizer=optimizer, ema_decay=0.5
        )
    want = taken(library, first, good, optimizer=optimizer, ema_decay=0.5)
    assert (got.skipped, want.skipped) == (1, 0)
    assert (got.done, got.state["step"]) == (5, 5)
    for kept, other in (
        (got.params, want.params),
        (got.state, want.state),
        (got.averaged(), want.averaged()),
    ):
        for name, x in other.items():
            if name != "step":
                assert np.array_equal(library.to_numpy(kept[name]), library.to_numpy(x))


def test_arrays_of_others_and_copies_are_never_written(library, rng):
    first = start(rng)
    given = {name: library.asarray(p.copy()) for name, p in first.items()}
    updates = Updates(
        given, loss=InfoNCE(), optimizer=AdamW(), regularizers=[L2(toward="start")], ema_decay=0.9
    )
    copies = []
    for step in range(4):
        held = (updates.copy(), updates.averaged(), updates.regularizers[0].center)
        copies.append([{k: (x, library.to_numpy(x).copy()) for k, x in p.items()} for p in held])
        # The first update that is done checks the optimizer, and writes to nothing.
        loss = np.asarray(1.0 if step else np.nan)
        grads = {name: library.asarray(np.ones(p.shape)) for name, p in first.items()}
        updates.take(library.asarray(loss), grads, Progress(step=step))
    for held in copies:
        for params in held:
            assert params
            assert all(np.array_equal(library.to_numpy(x), y) for x, y in params.values())
    for name, x in given.items():
        assert np.array_equal(library.to_numpy(x), first[name])
        assert not np.array_equal(library.to_numpy(updates.params[name]), first[name])


RUNS = {
    "plain": {},
    "too fast, so that an early epoch is best": {"optimizer": AdamW(learning_rate=0.7)},
    "toward the start": {"regularizers": [L2(toward="start", strength=0.1)]},
    "average": {"ema_decay": 0.8},
    "accumulation": {"gradient_accumulation_steps": 3, "max_grad_norm": 0.1},
    "learnable scale": {"loss": InfoNCE(learnable_scale=True)},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_that_of_the_reference_which_writes_nothing(name, on_numpy, rng):
    queries, documents = rng.standard_normal((2, 90, 6))
    train, dev, _ = Pairs(documents + 0.5 * queries, documents).split(dev=0.3, test=0.1)
    initial = fit(train, epochs=1, **RUNS[name]).params
    before = {k: x.copy() for k, x in initial.items()}

    def run():
        options = {"epochs": 6, "batch_size": 16, "initial": initial, **RUNS[name]}
        return fit(train, dev, **options)

    got = run()
    with environment(COREFRAME_KERNELS="off"):
        want = run()
    assert got.best_epoch == want.best_epoch
    for key, x in want.params.items():
        assert_near(got.params[key], x, 1e-8, 1e-9)
        assert np.array_equal(initial[key], before[key])
    assert_near(got.adapter(queries), want.adapter(queries), 1e-8)
