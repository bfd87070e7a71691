"""Log lines: every number that a schedule gives to an update, by its path in a run.toml."""

from __future__ import annotations

import numpy as np
import pytest

from coreframe import Pairs, WeightedSum, fit
from coreframe.data.batches import Order
from coreframe.fields import described, differences
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.triplet import Triplet
from coreframe_miners.hardest import Hardest
from coreframe_optimizers.adamw import AdamW
from coreframe_regularizers.l2 import L2
from coreframe_schedulers.linear import Linear
from coreframe_schedulers.piecewise import Piecewise


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((32, 4))
    return Pairs(documents + 0.1, documents, difficulty=np.arange(32))


def fall(start, end=0.0):
    return Linear(start=start, end=end)


def test_every_scheduled_number_is_in_each_log_line(pairs):
    run = fit(
        pairs,
        loss=WeightedSum(
            losses={"near": InfoNCE(temperature=fall(0.5, 0.1)), "far": Triplet()},
            weights={"near": 1.0, "far": fall(1.0)},
        ),
        miner=Hardest(k=fall(6, 2)),
        optimizer=AdamW(learning_rate=fall(0.1), weight_decay=fall(0.2)),
        regularizers=[L2(), L2(strength=fall(0.4))],
        ema_decay=fall(0.9, 0.5),
        order=Order(
            curriculum="difficulty", curriculum_epochs=2,
            pool=Piecewise(values=(0.5, 1.0), boundaries=(1,)),
        ),
        epochs=3, batch_size=16,
    )  # fmt: skip
    lines = [line for line in run.history if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]  # of 1, 2 and 2 batches
    for i, line in enumerate(lines):

        def at(start, end=0.0, i=i):
            return start + (end - start) * i / 5

        want = {
            "losses.0.temperature": at(0.5, 0.1), "losses.1.weight": at(1.0),
            "miner.k": np.floor(at(6, 2) + 0.5), "learning_rate": at(0.1),
            "optimizer.weight_decay": at(0.2), "regularizers.1.strength": at(0.4),
            "train.ema_decay": at(0.9, 0.5),
        }  # fmt: skip
        if line["epoch"] <= 2:
            want["train.pool"] = (0.5, 1.0)[int(line["epoch"]) - 1]
        found = {k: x for k, x in line.items() if k not in ("step", "epoch", "loss", "grad_norm")}
        assert found == pytest.approx(want)


def test_settings_have_the_paths_of_a_file_and_differences_are_found():
    rng = np.random.default_rng(0)
    one = described({"losses": InfoNCE(temperature=0.05), "train": {"x": rng.random(3), "n": 2}})
    two = described({"losses": InfoNCE(temperature=0.07), "train": {"x": rng.random(3), "n": 2}})
    changed = differences(one, two)
    assert [name for name, _, _ in changed] == ["losses.0.temperature", "train.x"]
    assert changed[0][1:] == (0.05, 0.07)
    assert changed[1][1].startswith("sha256:")
    scheduled = described({"optimizer": AdamW(learning_rate=fall(0.1))})
    assert scheduled["optimizer.learning_rate"] == "Linear"
    assert scheduled["optimizer.learning_rate.start"] == 0.1
    assert differences({"a": 1}, {"b": 2}) == [("a", 1, "nothing"), ("b", "nothing", 2)]
    assert differences({"a": float("nan")}, {"a": float("nan")}) == []
