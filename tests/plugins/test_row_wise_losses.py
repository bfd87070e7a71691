"""Losses of single rows: MSE and cosine embedding; and what all of them get from RowLoss."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_is_gradient, assert_near

from coreframe.backend import library_of
from coreframe.batch import Batch
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.relation import Listed
from coreframe.row_loss import RowLoss
from coreframe_losses.cosine_embedding import CosineEmbedding
from coreframe_losses.mse import MSE
from coreframe_losses.triplet import Triplet

N, D = 9, 5
FIELDS = ("anchors", "references")


def torchs(formula, *arrays):
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    leaves = [torch.tensor(x, requires_grad=True) for x in arrays]
    value = formula(torch.nn.functional, torch, *leaves)
    value.sum().backward()
    return value.detach().numpy(), [x.grad.numpy() for x in leaves]


def assert_same(library, result, want, rtol=1e-12):
    value, gradients = want
    assert_near(library.to_numpy(result.value), value, rtol)
    for name, gradient in zip(FIELDS, gradients, strict=True):
        assert_near(library.to_numpy(result.grads[name]), gradient, rtol)


@pytest.mark.parametrize(("n", "d"), [(1, 1), (7, 1), (N, D)])
def test_mse_is_torchs(library, n, d, rng):
    arrays = rng.standard_normal((2, n, d))
    want = torchs(lambda f, torch, a, b: f.mse_loss(a, b), *arrays)
    assert_same(library, MSE()(*map(library.asarray, arrays)), want)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("margin", [-0.5, 0.0, 0.3])
def test_cosine_embedding_is_torchs(library, margin, reduction, rng):
    arrays, labels = rng.standard_normal((2, N, D)), np.where(rng.random(N) < 0.5, 1, -1)

    def formula(f, torch, a, b):
        y = torch.as_tensor(labels)
        return f.cosine_embedding_loss(a, b, y, margin=margin, reduction=reduction)

    want = torchs(formula, *arrays)
    loss = CosineEmbedding(margin=margin, reduction=reduction)
    a, b = map(library.asarray, arrays)
    for same in (labels, labels == 1, np.maximum(labels, 0)):
        for given_labels in (library.asarray(same), same.tolist()):
            assert_same(library, loss(a, b, labels=given_labels), want, 1e-9)


def test_cosine_embedding_without_labels_is_all_similar(library, rng):
    a, b = map(library.asarray, rng.standard_normal((2, N, D)))
    none, ones = CosineEmbedding()(a, b), CosineEmbedding()(a, b, labels=[1] * N)
    assert_near(library.to_numpy(none.value), library.to_numpy(ones.value))
    assert_near(library.to_numpy(none.grads["anchors"]), library.to_numpy(ones.grads["anchors"]))


@given(st.integers(1, 8), st.integers(2, 6), st.integers(0, 2**32))
def test_random_shapes_weights_and_reductions(on_numpy, n, d, seed):
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, n, d))
    w, y = rng.uniform(0.1, 2, n) * (rng.random(n) > 0.3), rng.random(n) < 0.5
    s = np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    for loss, rows, labels in (
        (MSE(), np.mean((a - b) ** 2, 1), {}),
        (CosineEmbedding(), np.where(y, 1 - s, np.maximum(0, s)), {"labels": y}),
    ):
        for reduction, total in (
            ("none", 1.0),
            ("sum", 1.0),
            ("mean", w.sum()),
            ("mean_active", w[rows > 0].sum()),
        ):
            result = replace(loss, reduction=reduction)(a, b, weights=w, **labels)
            want = w * rows if reduction == "none" else np.sum(w * rows) / (total or np.inf)
            assert_near(result.value, want, 1e-9)
            if reduction == "mean":
                assert_near(result.parts["active"], w[rows > 0].sum() / (total or np.inf))


@pytest.mark.parametrize("loss", [MSE(), CosineEmbedding(margin=0.2)])
def test_against_differences(on_numpy, loss, rng):
    arrays = dict(zip(FIELDS, rng.standard_normal((2, N, D)), strict=True))
    labels = {} if isinstance(loss, MSE) else {"labels": rng.random(N) < 0.5}
    w = rng.uniform(0.1, 2, N)

    def run(**changes):
        x = {**arrays, **changes}
        return loss(x["anchors"], x["references"], weights=w, **labels)

    for name in FIELDS:
        assert_is_gradient(
            lambda x, name=name: float(run(**{name: x}).value),
            arrays[name],
            run().grads[name],
            rng,
            1e-6,
        )


# What RowLoss does for all ------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [MSE(), CosineEmbedding()])
def test_shared_and_own_negatives_take_no_part(library, loss, rng):
    a, p, shared = (library.asarray(rng.standard_normal((n, D))) for n in (N, N, 4))
    own = library.asarray(rng.standard_normal((N, 2, D)))
    alone = loss(a, p)
    result = loss.value_and_grad(Batch.with_negatives(a, p, shared=shared, own=own))
    assert_near(library.to_numpy(result.value), library.to_numpy(alone.value))
    references = library.to_numpy(result.grads["references"])
    assert_near(references[:N], library.to_numpy(alone.grads["references"]))
    assert not references[N:].any()
    assert not library.to_numpy(result.grads["negatives"]).any()
    assert library.to_numpy(result.grads["negatives"]).shape == (N, 2, D)


def test_wrt_gives_only_what_is_asked(library, rng):
    a, b = map(library.asarray, rng.standard_normal((2, N, D)))
    for wrt in ((), ("references",), ("references", "anchors")):
        assert sorted(MSE()(a, b, wrt=wrt).grads) == sorted(wrt)
    with pytest.raises(ArgumentError, match="wrt names 'negatives'"):
        MSE()(a, b, wrt=("negatives",))


def test_results_live_where_the_arrays_live(library, rng):
    a, b = (library.asarray(x, "float32") for x in rng.standard_normal((2, N, D)))
    result = CosineEmbedding(margin=np.float64(0.1))(a, b, labels=[1, 0, -1] * 3)
    for x in (result.value, *result.grads.values()):
        assert x.dtype == a.dtype
        assert library_of(x) == library_of(a)


def test_float16_is_computed_in_float32(on_numpy, rng):
    a, b = (200 * rng.standard_normal((2, N, D))).astype(np.float16)  # squares overflow float16
    result = MSE()(a, b)
    assert result.value.dtype == np.float32
    assert result.grads["anchors"].dtype == np.float16
    assert_near(result.value, np.mean((a.astype(float) - b.astype(float)) ** 2), 1e-6)


def test_zero_vectors_have_cosine_and_gradient_zero(library, rng):
    a, b = rng.standard_normal((2, 3, D))
    a[0], b[1] = 0, 0
    result = CosineEmbedding(reduction="none")(*map(library.asarray, (a, b)))
    assert_near(library.to_numpy(result.value)[:2], [1.0, 1.0])
    assert not library.to_numpy(result.grads["anchors"])[0].any()
    assert not library.to_numpy(result.grads["references"])[1].any()


def test_weights_of_zero_are_zero(library, rng):
    a, b = map(library.asarray, rng.standard_normal((2, N, D)))
    result = MSE()(a, b, weights=library.asarray(np.zeros(N)))
    assert not library.to_numpy(result.value)
    assert not library.to_numpy(result.grads["anchors"]).any()


def test_jit(rng):
    jax = pytest.importorskip("jax", reason="the package jax is not installed")
    jax.config.update("jax_enable_x64", True)
    a, b = jax.numpy.asarray(rng.standard_normal((2, N, D)))

    def run(a, b, y):
        result = CosineEmbedding(margin=0.1)(a, b, labels=y)
        return result.value, dict(result.grads)

    y = jax.numpy.asarray(np.arange(N) % 2)
    for x, z in zip(*(jax.tree.leaves(f(a, b, y)) for f in (run, jax.jit(run))), strict=True):
        assert_near(x, z, 1e-12)


# What cannot be -----------------------------------------------------------------------------------

A = np.ones((4, 3))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: MSE()(A, A[:3]), ArgumentError, r"row i with row i, got \(4, 3\) and \(3, 3\)"),
        (lambda: MSE()(A, A[:, :2]), ArgumentError, "positives must have width 3"),
        (lambda: MSE()(A[:0], A[:0]), ArgumentError, "anchors is empty"),
        (lambda: MSE()(A[:, :0], A[:, :0]), ArgumentError, "anchors is empty"),
        (lambda: MSE()(A, labels=[0] * 4), ArgumentError, r"MSE needs references"),
        (lambda: MSE(reduction="max"), ArgumentError, "reduction must be one of"),
        (
            lambda: MSE().value_and_grad(
                Batch(
                    anchors=A[:3],
                    references=A,
                    relation=Listed(np.array([[3], [1], [2]]), np.zeros((3, 0), int), 4),
                )
            ),
            ArgumentError,
            "MSE reads row i of the references with anchor i, and this batch does not say",
        ),
        (
            lambda: CosineEmbedding()(A, A, labels=[0, 0.9, 1, 1]),
            ArgumentTypeError,
            "labels must be bool or integers.*got float64",
        ),
        (
            lambda: CosineEmbedding()(A, A, labels=[0, 1, 2, 1]),
            ArgumentError,
            "labels must be 1 for similar and 0 or -1 for dissimilar, got 2 in row 2",
        ),
        (lambda: CosineEmbedding()(A, A, labels=[1]), ArgumentError, r"labels must have shape"),
        (lambda: CosineEmbedding()(A, labels=[1] * 4), ArgumentError, "called with anchors, pos"),
        (lambda: CosineEmbedding(margin=2.0), ArgumentError, "at least -1 and at most 1"),
        (
            lambda: Triplet().value_and_grad(Batch.labelled_pairs(A, A[:3], [1, 1, 1, 0])),
            ArgumentError,
            "anchors and references must both be",
        ),
    ],
)
def test_calls_that_cannot_be(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize(
    ("losses", "slopes", "text"),
    [
        ((3,), {"anchor": (3, 2)}, "by 'anchor', which is none of its arrays. Did you mean 'anch"),
        (
            (3,),
            {"anchors": (1, 2)},
            "by anchors of Own.rows must have the shape (3, 2), got (1,",
        ),
        ((), {"anchors": (3, 2)}, "the losses of Own.rows must have the shape (3,), got ()"),
    ],
)
def test_rows_that_would_be_broadcast_or_lost_are_refused(losses, slopes, text) -> None:
    class Own(RowLoss):
        def rows(self, arrays, batch):
            return np.ones(losses), {name: np.ones(shape) for name, shape in slopes.items()}

    with pytest.raises(ArgumentError, match=re.escape(text)):
        Own().value_and_grad(Batch.pairs(np.ones((3, 2)), np.ones((3, 2))))
