"""NumPy's kernels of labelled losses: equal to the reference, and to pytorch-metric-learning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_near, environment

from coreframe import Batch
from coreframe.ops import kernel
from coreframe.relation import SameLabel
from coreframe.similarity import NAMES
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.local_contrastive import LocalContrastive
from coreframe_losses.sup_con import SupCon
from coreframe_losses.triplet import MODES, Triplet
from coreframe_numpy.kernels import info_nce_many

LOSSES = [
    InfoNCE(temperature=0.3),
    InfoNCE(temperature=0.05, margin=0.2),
    SupCon(temperature=0.1),
    *(Triplet(mode=mode) for mode in MODES),
    Triplet(mode="all", margin=0.0),
    LocalContrastive(),
    LocalContrastive(over_negatives="sum"),
]
FREE = [replace(loss, similarity="dot") for loss in LOSSES]  # kernels may write to similarities


def named(loss):
    kind = type(loss).__name__
    return "-".join([kind, *(str(getattr(loss, f, "")) for f in ("mode", "margin"))])


def fused(loss, s, positive, negative):
    """Call the kernel of a loss, which must serve these rows."""
    if isinstance(loss, InfoNCE):
        result = info_nce_many.row_terms(loss, s, positive, negative)
    else:
        kind = type(loss)
        result = kernel(f"{kind.__module__}:{kind.__qualname__}", s)(loss, s, positive, negative)
    assert result is not NotImplemented
    return result


def assert_equals_the_reference(loss, s, positive, negative):
    """Rows without a positive are left to the engine, which drops them."""
    counted = positive.any(axis=1)
    want = loss.row_terms(s.copy(), positive, negative)
    got = fused(loss, s.copy(), positive, negative)
    rtol = 1e-4 if s.dtype == np.float32 else 1e-9
    for x, y in zip(got, want, strict=True):
        assert x.dtype == s.dtype
        assert_near(x[counted], y[counted], rtol, rtol)
    assert not got[1][counted][~(positive | negative)[counted]].any()


def masks(rng, shape, share, gap=0.2):
    kind = rng.random(shape)
    return kind < share, kind > share + gap * (1 - share)


@given(
    st.sampled_from(LOSSES + FREE),
    st.integers(1, 9),
    st.integers(1, 80),
    st.sampled_from(["float32", "float64"]),
    st.sampled_from([0.0, 0.03, 0.2, 0.6, 1.0]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_any_rows(loss, r, m, dtype, share, ties, seed):
    rng = np.random.default_rng(seed)
    s = rng.integers(-2, 3, (r, m)) if ties else rng.standard_normal((r, m))
    assert_equals_the_reference(loss, s.astype(dtype), *masks(rng, (r, m), share))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("share", [0.005, 0.03, 0.1, 0.5])  # each way of finding partners
@pytest.mark.parametrize("loss", FREE, ids=named)
def test_few_and_many_positives(loss, share, ties, rng):
    s = rng.integers(-9, 9, (70, 1000)) / 4 if ties else rng.standard_normal((70, 1000))
    assert_equals_the_reference(loss, s, *masks(rng, s.shape, share))


@pytest.mark.parametrize("loss", LOSSES + FREE, ids=named)
def test_inputs_that_are_kept(loss, rng):
    """Read-only, strided, and where the engine needs the similarities again."""
    wide = rng.standard_normal((6, 90))
    positive, negative = masks(rng, (6, 45), 0.2)
    want = fused(loss, np.ascontiguousarray(wide[:, ::2]), positive, negative)
    fixed = np.ascontiguousarray(wide[:, ::2])
    fixed.flags.writeable = False
    inputs = [wide[:, ::2], fixed, np.asfortranarray(fixed)]
    for s in inputs:
        for mask in (positive, np.asfortranarray(positive)):
            got = fused(loss, s, mask, negative)
            for x, y in zip(got, want, strict=True):
                np.testing.assert_array_equal(x, y)
        np.testing.assert_array_equal(s, fixed)
    for kept in (replace(loss, similarity="euclidean"), replace(loss, learnable_scale=True)):
        s = fixed.copy()
        _, gradient = fused(kept, s, positive, negative)
        np.testing.assert_array_equal(s, fixed)
        assert not np.shares_memory(gradient, s)


@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_a_column_in_neither_mask_may_hold_anything(loss, rng):
    s = rng.standard_normal((5, 60))
    positive, negative = masks(rng, s.shape, 0.2)
    neither = ~(positive | negative)
    assert neither.any(axis=1).all()
    want = fused(loss, s.copy(), positive, negative)
    for anything in (np.nan, np.inf, -np.inf):
        got = fused(loss, np.where(neither, anything, s), positive, negative)
        for x, y in zip(got, want, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("share", [0.05, 0.3])
@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_a_bad_number_stays_in_its_row(loss, share, rng):
    s = rng.standard_normal((4, 300))
    positive, negative = masks(rng, s.shape, share)
    want = fused(loss, s.copy(), positive, negative)
    for mask in (positive, negative):
        spoiled = s.copy()
        spoiled[1, np.flatnonzero(mask[1])[0]] = np.nan
        got = fused(loss, spoiled, positive, negative)
        for x, y in zip(got, want, strict=True):
            assert_near(np.delete(x, 1, axis=0), np.delete(y, 1, axis=0))
        if isinstance(loss, (SupCon, InfoNCE)):
            assert np.isnan(got[0][1])


# Through the engine ------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", NAMES)
@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_calls_equal_those_without_kernels(loss, similarity, rng):
    loss = replace(loss, similarity=similarity)
    labels, others = rng.integers(0, 9, 60), rng.integers(0, 10, 83)
    anchors, references = rng.standard_normal((60, 6)), rng.standard_normal((83, 6))
    anchors[:5] = references[others == labels[0]][0]  # points that coincide
    labels[:5] = labels[0]
    batches = [
        Batch.labelled(anchors, labels),
        Batch(
            anchors=anchors,
            references=references,
            negatives=rng.standard_normal((60, 2, 6)),
            weights=rng.uniform(0.5, 1, 60),
            relation=SameLabel(labels, others),
        ),
    ]
    for batch in batches:
        got = loss.value_and_grad(batch)
        with environment(COREFRAME_KERNELS="off"):
            want = loss.value_and_grad(batch)
        assert_near(got.value, want.value, 1e-9)
        for name in want.grads:
            assert_near(got.grads[name], want.grads[name], 1e-8)


@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_any_number_of_threads_gives_the_same_bits(loss, rng):
    x, labels = rng.standard_normal((900, 16)).astype(np.float32), rng.integers(0, 40, 900)
    results = []
    for threads in "123":
        with environment(COREFRAME_THREADS=threads):
            results.append(loss(x, labels=labels))
    for result in results[1:]:
        assert result.value == results[0].value
        np.testing.assert_array_equal(result.grads["anchors"], results[0].grads["anchors"])


# Against pytorch-metric-learning -----------------------------------------------------------------


def test_against_pytorch_metric_learning(rng):
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    pytest.importorskip(
        "pytorch_metric_learning", reason="the package pytorch-metric-learning is not installed"
    )
    from pytorch_metric_learning import distances, losses, miners, reducers

    labels = rng.permutation(np.arange(80) // 4)  # equal classes: all triplets weigh the same
    x = rng.standard_normal((80, 6))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    plain = distances.LpDistance(normalize_embeddings=False)
    triplet = losses.TripletMarginLoss(margin=0.5, distance=plain, reducer=reducers.MeanReducer())
    for ours, theirs, miner in (
        (SupCon(temperature=0.1), losses.SupConLoss(temperature=0.1), None),
        (InfoNCE(temperature=0.2), losses.NTXentLoss(temperature=0.2), None),
        (Triplet(mode="all", margin=0.5), triplet, None),
        (Triplet(mode="hardest", margin=0.5), triplet, miners.BatchHardMiner(distance=plain)),
    ):
        leaf, y = torch.tensor(x, requires_grad=True), torch.tensor(labels)
        value = theirs(leaf, y, miner(leaf, y)) if miner else theirs(leaf, y)
        value.backward()
        result = ours(x, labels=labels)
        assert_near(result.value, value.item(), 1e-6)
        assert_near(result.grads["anchors"], leaf.grad.numpy(), 1e-5)
