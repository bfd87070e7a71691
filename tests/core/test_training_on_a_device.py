"""Whole training runs on a device that refuses to be converted to NumPy, as a GPU does.

array-api-strict's second device is the stand-in: a run that passes here makes no trip to the host
but through its backend, and uses nothing that the standard lacks.
"""

from __future__ import annotations

import numpy as np
import pytest

from coreframe import get_backend
from coreframe.backend import to_numpy
from coreframe.data.pairs import Pairs
from coreframe.loop import Setup, Trainer
from coreframe_adapters.linear import Linear
from coreframe_adapters.low_rank import LowRank
from coreframe_adapters.procrustes import Procrustes
from coreframe_adapters.whitening import Whitening
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.sup_con import SupCon
from coreframe_losses.triplet import Triplet
from coreframe_miners.hardest import Hardest
from coreframe_miners.random import Random
from coreframe_optimizers.adamw import AdamW
from coreframe_regularizers.l2 import L2
from coreframe_schedulers.warmup_cosine import WarmupCosine

xp = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")


class StrictBackend:
    """array-api-strict on its second device."""

    name = "array_api_strict"

    def __init__(self, device: str = "device1") -> None:
        self.xp = xp
        self.device = xp.Device(device)

    def missing(self):
        return None

    def asarray(self, x, /, dtype=None):
        if not isinstance(x, xp.asarray(0).__class__):
            x = np.asarray(x)
        return xp.asarray(x, dtype=dtype, device=self.device)

    def to_numpy(self, x, /):
        return to_numpy(x)

    def synchronize(self):
        pass

    def memory(self):
        return 0


RUNS = {
    "both sides, linear, hardest": {
        "adapter": Linear(bias=True),
        "miner": Hardest(k=3),
        "loss": InfoNCE(symmetric=True),
        "side": "both",
    },
    "whitening first, low rank, random": {
        "adapter": LowRank(rank=3),
        "miner": Random(k=20),
        "loss": Triplet(mode="semi_hard"),
        "start": Whitening(),
    },
    "procrustes first, learnable scale": {
        "adapter": Linear(),
        "loss": InfoNCE(learnable_scale=True, temperature=WarmupCosine(peak=0.1, minimum=0.05)),
        "start": Procrustes(),
    },
    "labels": {"adapter": Linear(), "loss": SupCon(), "side": "both"},
    "weights, own negatives, windows of two, an average": {
        "adapter": Linear(),
        "loss": InfoNCE(),
        "side": "both",
        "own_negatives": 1,
        "gradient_accumulation_steps": 2,
        "max_grad_value": 0.1,
        "ema_decay": 0.9,
    },
}


def _data(name: str) -> Pairs:
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((60, 8)).astype(np.float32)
    if name == "labels":
        return Pairs.labelled(queries, np.arange(60) % 4)
    documents = (queries + rng.standard_normal((60, 8))).astype(np.float32)
    if name.startswith("weights"):
        rows = np.arange(60)
        wrong = np.stack([rows, 60 + rows], axis=1)
        documents = np.concatenate([documents, -documents[::-1]])
        return Pairs(queries, documents, rows, irrelevant=wrong, weights=rows)
    # Some queries have two right documents.
    relevant = [[i, i] for i in range(60)] + [[0, 5], [3, 7]]
    return Pairs(queries, documents, np.asarray(relevant))


@pytest.mark.parametrize("name", RUNS)
def test_a_run_equals_the_one_on_numpy(name):
    given = {"start": None, "miner": None, "side": "query"} | RUNS[name]
    setup = Setup(
        optimizer=AdamW(learning_rate=WarmupCosine(peak=1e-2)),
        regularizers=(L2(),),
        epochs=3,
        batch_size=16,
        max_grad_norm=1.0,
        metric="ndcg@10",
        seed=1,
        base_model=None,
        **given,
    )
    train, dev, _ = _data(name).split()
    losses = []
    for backend in (StrictBackend(), get_backend("numpy")):
        run = Trainer(setup, train, dev, backend, ()).run()
        assert run.skipped_steps == 0
        losses.append([line["loss"] for line in run.history if "loss" in line])
    updates = -(-len(train) // (16 * setup.gradient_accumulation_steps))
    assert len(losses[0]) == 3 * updates
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
