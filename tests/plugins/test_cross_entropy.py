"""Cross entropy of logits, against torch, differences and exact values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_is_gradient, assert_near, environment

from coreframe.batch import Batch
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.relation import SameLabel
from coreframe_losses.cross_entropy import CrossEntropy

N, C = 7, 5


def torchs(logits, labels, smoothing, reduction):
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    leaf = torch.tensor(logits, requires_grad=True)
    value = torch.nn.functional.cross_entropy(
        leaf, torch.as_tensor(labels), label_smoothing=smoothing, reduction=reduction
    )
    value.sum().backward()
    return value.detach().numpy(), leaf.grad.numpy()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_is_torchs(library, smoothing, reduction, rng):
    logits, labels = 3 * rng.standard_normal((N, C)), rng.integers(0, C, N)
    value, gradient = torchs(logits, labels, smoothing, reduction)
    loss = CrossEntropy(label_smoothing=smoothing, reduction=reduction)
    for given_labels in (labels.tolist(), library.asarray(labels)):
        result = loss(library.asarray(logits), labels=given_labels)
        assert_near(library.to_numpy(result.value), value, 1e-12)
        assert_near(library.to_numpy(result.grads["anchors"]), gradient, 1e-12)


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.floats(0, 1),
    st.sampled_from([1.0, 30.0, 1000.0]),
    st.integers(0, 2**32),
)
def test_random_shapes_against_the_formula(on_numpy, n, c, smoothing, size, seed):
    rng = np.random.default_rng(seed)
    z, y, w = size * rng.standard_normal((n, c)), rng.integers(0, c, n), rng.uniform(0.1, 2, n)
    log_p = z - np.logaddexp.reduce(z, axis=1)[:, None]
    target = (1 - smoothing) * (y[:, None] == np.arange(c)) + smoothing / c
    result = CrossEntropy(label_smoothing=smoothing)(z, labels=y, weights=w)
    assert_near(result.value, np.sum(w * -(target * log_p).sum(1)) / w.sum(), 1e-11)
    want = (np.exp(log_p) - target) * (w / w.sum())[:, None]
    assert_near(result.grads["anchors"], want, 1e-9)


def test_against_differences(on_numpy, rng):
    z, y = rng.standard_normal((N, C)), rng.integers(0, C, N)
    loss = CrossEntropy(label_smoothing=0.2)
    assert_is_gradient(
        lambda x: float(loss(x, labels=y).value), z, loss(z, labels=y).grads["anchors"], rng, 1e-6
    )


def test_large_and_nearly_certain_logits(library):
    z = library.asarray(np.array([[1000.0, 0.0, -1000.0]]), "float32")
    assert_near(library.to_numpy(CrossEntropy()(z, labels=[1]).value), 1000.0)
    result = CrossEntropy()(z / 25, labels=[0])  # exp(-40): lost in the usual float32 softmax
    assert_near(library.to_numpy(result.value), np.exp(-40.0), 1e-5, 0)
    want = np.array([[-1.0, 1.0, 0.0]]) * np.exp(-40.0)
    assert_near(library.to_numpy(result.grads["anchors"]), want, 1e-5, 0)


def test_wrt_and_references_that_are_not_read(library, rng):
    z = library.asarray(rng.standard_normal((N, C)))
    labels = library.asarray(np.arange(N) % C)
    batch = Batch(anchors=z, references=z, relation=SameLabel(labels, labels), labels=labels)
    result = CrossEntropy().value_and_grad(batch)
    assert sorted(result.grads) == ["anchors", "references"]
    assert not library.to_numpy(result.grads["references"]).any()
    assert list(CrossEntropy().value_and_grad(batch, wrt=("references",)).grads) == ["references"]


# Masked classes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_masked_class_is_as_if_it_were_not_there(library, dtype, rng):
    z, y = rng.standard_normal((N, C)), rng.integers(0, C - 1, N)
    masked = np.concatenate([z[:, :2], np.full((N, 1), -np.inf), z[:, 2:]], 1)
    z, masked = z.astype(dtype), masked.astype(dtype)
    for smoothing in (0.0, 0.3):
        loss = CrossEntropy(label_smoothing=smoothing)
        want = loss(library.asarray(z), labels=y)
        got = loss(library.asarray(masked), labels=y + (y >= 2))
        assert_near(library.to_numpy(got.value), library.to_numpy(want.value), 1e-6)
        gradient = library.to_numpy(got.grads["anchors"])
        assert not gradient[:, 2].any()
        kept = np.delete(gradient, 2, axis=1)
        assert_near(kept, library.to_numpy(want.grads["anchors"]), 1e-6)


def test_without_smoothing_a_masked_class_is_torchs(library, rng):
    z, y = rng.standard_normal((N, C)), rng.integers(0, C - 1, N)
    z[:, C - 1] = -np.inf
    value, gradient = torchs(z, y, 0.0, "mean")
    result = CrossEntropy()(library.asarray(z), labels=y)
    assert_near(library.to_numpy(result.value), value)
    assert_near(library.to_numpy(result.grads["anchors"]), gradient)


def test_a_masked_label(library, rng):
    z = np.zeros((3, 2))
    z[1, 0] = -np.inf

    def call():
        return CrossEntropy(label_smoothing=0.1, reduction="none")(
            library.asarray(z), labels=[0, 0, 1]
        )

    if library.on_host:
        with pytest.raises(
            ArgumentError, match=r"labels name class 0 in row 1, whose logit is -inf"
        ):
            call()
        return
    result = call()
    assert_near(library.to_numpy(result.value)[[0, 2]], np.log([2.0, 2.0]))
    assert library.to_numpy(result.value)[1] == np.inf
    assert np.isfinite(library.to_numpy(result.grads["anchors"])).all()


# What cannot be -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "error", "text"),
    [
        ([0, 5, 1], ArgumentError, "from 0 to 1, since there are 2 logits a row, got 5 in row 1"),
        ([0, 1, -1], ArgumentError, "got -1 in row 2"),
        ([0, 1], ArgumentError, r"labels must have shape \(3,\)"),
        ([0.0, 1.0, 0.0], ArgumentTypeError, "labels must be class numbers.*got float64"),
        ([True, False, True], ArgumentTypeError, "got bool"),
        (["a", "b", "a"], ArgumentTypeError, r"numpy.unique\(labels, return_inverse=True\)"),
        (None, ArgumentError, "called with logits and labels="),
    ],
)
def test_labels_that_cannot_be(labels, error, text):
    with pytest.raises(error, match=text):
        CrossEntropy()(np.zeros((3, 2)), labels=labels)


def test_labels_on_a_device_are_looked_at_when_asked(library):
    z, labels = library.asarray(np.zeros((2, 3))), library.asarray(np.array([0, 3]))
    with (
        environment(COREFRAME_CHECKS="1"),
        pytest.raises(ArgumentError, match="got 3 in row 1"),
    ):
        CrossEntropy()(z, labels=labels)


def test_other_input_that_cannot_be():
    with pytest.raises(ArgumentError, match="logits is empty"):
        CrossEntropy()(np.zeros((0, 2)), labels=[])
    with pytest.raises(ArgumentError, match="NaN or infinite"):
        CrossEntropy()(np.array([[np.inf, 0.0]]), labels=[0])
    with pytest.raises(ArgumentTypeError, match="floating point"):
        CrossEntropy()(np.array([[1, 0]]), labels=[0])
    with pytest.raises(ArgumentError, match="label_smoothing must be at least 0 and at most 1"):
        CrossEntropy(label_smoothing=1.5)
