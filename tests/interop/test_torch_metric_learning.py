"""Our losses beside pytorch-metric-learning's, called in its way: with its miners too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from coreframe import build

pytest.importorskip("pytorch_metric_learning")
torch = pytest.importorskip("torch")

from pytorch_metric_learning import distances, losses, miners, reducers  # noqa: E402

from coreframe.interop.torch import MetricLearningLoss  # noqa: E402

pytestmark = pytest.mark.integration

LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
OTHERS = torch.tensor([2, 1, 0, 0, 1, 2])


def rows(n: int, seed: int) -> tuple[Any, Any]:
    """Return vectors, and the same at unit length, which theirs makes of them anyway."""
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((n, 4))).requires_grad_()
    return x, torch.nn.functional.normalize(x)


def loss(name: str, **fields: Any) -> Any:
    return MetricLearningLoss(build("losses", name, **fields))


COSINE, EUCLIDEAN = distances.CosineSimilarity(), distances.LpDistance()
# Classes of one size, so that a mean over triplets is one over anchors.
PAIRS = {
    "sup_con": (
        loss("sup_con", temperature=0.1, reduction="mean_active"),
        losses.SupConLoss(temperature=0.1),
    ),
    "sup_con, euclidean": (
        loss("sup_con", temperature=0.1, reduction="mean_active", similarity="euclidean"),
        losses.SupConLoss(temperature=0.1, distance=EUCLIDEAN),
    ),
    "info_nce": (
        loss("info_nce", temperature=0.1),
        losses.NTXentLoss(
            temperature=0.1, reducer=reducers.PerAnchorReducer(reducers.MeanReducer())
        ),
    ),
    "triplet": (
        loss("triplet", margin=0.2, mode="all"),
        losses.TripletMarginLoss(margin=0.2, reducer=reducers.MeanReducer()),
    ),
    "triplet, cosine": (
        loss("triplet", margin=0.2, mode="all", similarity="cosine"),
        losses.TripletMarginLoss(margin=0.2, reducer=reducers.MeanReducer(), distance=COSINE),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("with_references", [False, True])
def test_labels(name: str, with_references: bool) -> None:
    ours, theirs = PAIRS[name]
    (x, e), (y, r) = rows(9, 0), rows(6, 1)
    more = {"ref_emb": r, "ref_labels": OTHERS} if with_references else {}
    compare(ours(e, LABELS, **more), theirs(e, LABELS, **more), x, y)


@pytest.mark.parametrize(
    ("name", "miner"),
    [
        ("sup_con", miners.MultiSimilarityMiner(0.1)),
        ("sup_con", miners.TripletMarginMiner(0.2)),
        ("sup_con, euclidean", miners.MultiSimilarityMiner(0.1)),
        # NTXent counts a pair as often as triplets name it, which ours does not.
        ("info_nce", miners.MultiSimilarityMiner(0.1)),
    ],
)
def test_pairs_of_their_miners(name: str, miner: Any) -> None:
    ours, theirs = PAIRS[name]
    (x, e), (y, r) = rows(9, 0), rows(6, 1)
    found = miner(e, LABELS, r, OTHERS)
    assert any(len(index) for index in found)
    for without in (False, True):
        labels = (None, None) if without else (LABELS, OTHERS)
        got = ours(e, labels[0], found, ref_emb=r, ref_labels=labels[1])
        compare(got, theirs(e, labels[0], found, ref_emb=r, ref_labels=labels[1]), x, y)


def test_triplets_of_their_miners() -> None:
    (x, e), (y, r) = rows(9, 0), rows(6, 1)
    found = miners.TripletMarginMiner(0.2)(e, LABELS, r, OTHERS)
    assert len(found) == 3
    assert len(found[0]) > 2
    for name in ("triplet", "triplet, cosine"):
        ours, theirs = PAIRS[name]
        got = ours(e, LABELS, found, ref_emb=r, ref_labels=OTHERS)
        compare(got, theirs(e, LABELS, found, ref_emb=r, ref_labels=OTHERS), x, y)


def compare(got: Any, want: Any, *tensors: Any) -> None:
    assert want > 0
    torch.testing.assert_close(got, want)
    for a, b in zip(
        torch.autograd.grad(got, tensors, allow_unused=True, retain_graph=True),
        torch.autograd.grad(want, tensors, allow_unused=True, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
