"""Any width works, and time grows with the products and no faster."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from coreframe import Batch, Listed
from coreframe.relation import SameLabel
from coreframe_losses.contrastive import Contrastive
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.local_contrastive import LocalContrastive
from coreframe_losses.sup_con import SupCon
from coreframe_losses.triplet import Triplet


@pytest.mark.parametrize(
    "loss",
    [InfoNCE(temperature=0.5), Triplet(), LocalContrastive(), Contrastive()],
    ids=lambda loss: type(loss).__name__,
)
@pytest.mark.parametrize("d", [1, 2, 3, 31, 384, 2048])
def test_any_width(loss, d, on_numpy, rng):
    a, p = rng.standard_normal((2, 5, d))
    result = loss(a, p)
    for x, name in ((a, "anchors"), (p, "references")):
        assert result.grads[name].shape == (5, d)
        along, h = rng.standard_normal((5, d)), 1e-6
        along /= np.linalg.norm(along)
        ends = [
            loss(*((x + s * along, p) if x is a else (a, x + s * along))).value for s in (h, -h)
        ]
        want = float(np.sum(result.grads[name] * along))
        assert float(ends[0] - ends[1]) / (2 * h) == pytest.approx(want, rel=1e-5, abs=1e-7)


def seconds(call: Callable[[], object]) -> float:
    """Return the least processor time of one call in a few."""
    times = []
    for _ in range(3):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def test_time_grows_with_the_products(monkeypatch, rng):
    """In n for listed negatives, in n n for the batch; bounds lie halfway to the next power.

    Other work on the machine may slow one of two measurements down, so it is tried a few times.
    """
    monkeypatch.setenv("COREFRAME_THREADS", "1")
    loss, calls = InfoNCE(), {}
    for n in (512, 4096):
        a, p = rng.standard_normal((2, n, 64)).astype(np.float32)
        rows = np.arange(n)[:, None]
        relation = Listed(positives=rows, negatives=(rows + np.arange(1, 5)) % n, columns=n)
        listed = Batch(anchors=a, references=p, relation=relation)
        calls[n] = (
            lambda batch=listed: loss.value_and_grad(batch),
            lambda a=a, p=p: loss(a, p),
        )
    # 8 if linear, 64 if quadratic; 64 if quadratic, 512 if cubic
    for few, many, most in zip(calls[512], calls[4096], (22, 180), strict=True):
        ratios = (seconds(many) / seconds(few) for _ in range(5))
        assert any(ratio < most for ratio in ratios)


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
@pytest.mark.parametrize(
    "loss",
    [
        InfoNCE(),
        InfoNCE(margin=0.2, learnable_scale=True),
        SupCon(learnable_scale=True),
        Triplet(mode="hardest", learnable_scale=True),
        Triplet(mode="semi_hard", learnable_scale=True),
        Triplet(mode="all", learnable_scale=True),
        LocalContrastive(over_negatives="sum", learnable_scale=True),
        Contrastive(learnable_scale=True),
    ],
    ids=repr,
)
def test_a_block_holds_no_more_arrays_than_its_height_was_planned_for(loss, similarity, rng):
    """Several positives a row, and a single block: what row_terms and engine have alive at once."""
    loss = replace(loss, similarity=similarity)
    n, m, d, k = 64, 4096, 4, 128
    anchors, references = rng.standard_normal((n, d)), rng.standard_normal((m, d))
    batch = Batch(
        anchors=anchors.astype(np.float32),
        references=references.astype(np.float32),
        negatives=rng.standard_normal((n, k, d)).astype(np.float32),
        relation=SameLabel(rng.integers(0, 50, n), rng.integers(0, 50, m)),
    )
    params = loss.init(rng, d)
    loss.value_and_grad(batch, params)
    tracemalloc.start()
    loss.value_and_grad(batch, params)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    beside = 4 * (n + m + 3 * n * k) * 4 * d  # prepared rows, gradients, temporaries of both
    assert (peak - beside) / (n * (m + k) * 4) <= loss.working_arrays
