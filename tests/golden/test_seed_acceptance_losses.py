"""What the older systems' own tests ask of losses, as equalities with the exact float64 values.

Theirs are mostly "not negative"; the exact values were computed once, apart from this code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_is_gradient, assert_near

from coreframe.batch import Batch
from coreframe.errors import ArgumentError
from coreframe.loss import PairwiseLoss
from coreframe.relation import Listed
from coreframe.tiles import similarity_rows
from coreframe_losses.contrastive import Contrastive
from coreframe_losses.cosine_embedding import CosineEmbedding
from coreframe_losses.cross_entropy import CrossEntropy
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.local_contrastive import LocalContrastive
from coreframe_losses.mse import MSE
from coreframe_losses.sup_con import SupCon
from coreframe_losses.triplet import Triplet
from coreframe_optimizers.adamw import AdamW


def rows(*values):
    return np.array(values, np.float64)


A = rows([1, 0, 0])
NEAR = rows([0.9, 0.1, 0])
ORTHOGONAL = rows([0, 1, 0], [0, 0, 1])


# The Rust training module -------------------------------------------------------------------------


def test_1_info_nce():
    """The exact value is that of the float32 numbers that the older test has."""
    near, temperature = NEAR.astype(np.float32).astype(np.float64), float(np.float32(0.07))
    result = InfoNCE(temperature=temperature)(A, near, ORTHOGONAL)
    assert_near(result.value, 1.3638588303e-6, 1e-9, 0)


def test_2_info_nce_of_collinear_vectors():
    one = np.ones((1, 64))
    result = InfoNCE(temperature=0.1)(0.5 * one, 0.6 * one, 0.1 * np.ones((5, 64)))
    assert_near(result.value, 1.791759469228, 1e-12)  # ln 6
    assert_near(result.grads["anchors"], np.zeros((1, 64)))


def test_3_info_nce_with_an_optimizer(rng):
    anchor, positive = rng.standard_normal((2, 1, 128))
    negatives = rng.standard_normal((5, 128))
    optimizer = AdamW(learning_rate=0.01, weight_decay=0.0)
    params = {"x": anchor}
    state = optimizer.init(params)
    values = []
    for _ in range(20):
        result = InfoNCE(temperature=0.1)(params["x"], positive, negatives)
        assert result.grads["anchors"].shape == (1, 128)
        values.append(float(result.value))
        params, state = optimizer.update(params, {"x": result.grads["anchors"]}, state)
    assert (np.diff(values) < 0).all()


def test_4_local_contrastive():
    result = LocalContrastive(margin=1.0)(
        rows([0, 0]), rows([0.1, 0]), rows([2, 0], [0, 2])[None, :, :]
    )
    assert result.value == 0


# Its sibling for graphs ---------------------------------------------------------------------------


def test_26_shapes_that_disagree():
    loss, x = InfoNCE(), np.ones((3, 4))
    for call, texts in (
        (lambda: loss(x, x[:2]), ("(3, 4)", "(2, 4)")),
        (lambda: MSE()(x, x[:2]), ("(3, 4)", "(2, 4)")),
        (lambda: loss(x, x[:, :2]), ("width 4", "got 2")),
        (lambda: loss(x[:0], x[:0]), ("anchors is empty", "(0, 4)")),
    ):
        with pytest.raises(ArgumentError) as caught:
            call()
        for text in texts:
            assert text in str(caught.value)


def test_27_info_nce():
    def loss(positive, negatives, temperature=0.07):
        return float(InfoNCE(temperature=temperature)(A, positive, negatives).value)

    assert_near(loss(A, ORTHOGONAL), 1.24975e-6, 1e-5, 0)
    closer, farther = loss(NEAR, ORTHOGONAL[:1]), loss(rows([0.5, 0.5, 0]), ORTHOGONAL[:1])
    assert_near(closer, 6.8193e-7, 1e-4, 0)
    assert_near(farther, 4.1016e-5, 1e-4, 0)


def test_27_no_positives_are_zero_and_several_are_averaged():
    references = np.concatenate([NEAR, rows([0.5, 0.5, 0.1]), ORTHOGONAL])

    def loss(*positives):
        listed = Listed(np.array([[*positives, -1]]), np.array([[2, 3]]), 4)
        batch = Batch(anchors=A, references=references, relation=listed)
        return InfoNCE(temperature=0.5).value_and_grad(batch)

    none = loss()
    assert none.value == 0
    assert not none.grads["anchors"].any()
    assert_near(loss(0, 1).value, (loss(0).value + loss(1).value) / 2)


def test_27_local_contrastive_without_neighbours():
    assert LocalContrastive()(A, NEAR, np.zeros((1, 0, 3))).value == 0


def test_28_mse(rng):
    p = rows([1, 2, 3, 4])
    assert MSE()(p, p).value == 0
    assert not MSE()(p, p).grads["anchors"].any()
    assert MSE()(p, p + 1).value == 1.0
    result = MSE()(p, 0 * p)
    assert result.value == 7.5
    assert_near(result.grads["anchors"], 2 * p / 4)
    assert_is_gradient(
        lambda x: float(MSE()(x, 0 * p).value), p, result.grads["anchors"], rng, 1e-7
    )


def test_29_cross_entropy_of_good_and_wrong_rows():
    """There of probabilities; their logarithms are logits with the same softmax."""
    logits = np.log(rows([0.7, 0.2, 0.1], [0.1, 0.8, 0.1]))
    assert_near(CrossEntropy()(logits, labels=[0, 1]).value, -(np.log(0.7) + np.log(0.8)) / 2)
    assert CrossEntropy()(logits, labels=[2, 0]).value > 1


# The convolutional sibling ------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, -0.1])
def test_a_temperature_is_above_zero(temperature):
    for kind in (InfoNCE, SupCon):
        with pytest.raises(ArgumentError, match="temperature must be above 0"):
            kind(temperature=temperature)


def test_similarities_are_symmetric_with_a_unit_diagonal(library, rng):
    x = library.asarray(rng.standard_normal((6, 8)))
    blocks = [library.to_numpy(s) for _, s, _, _ in similarity_rows(Batch.pairs(x, x))]
    s = np.concatenate(blocks)
    assert_near(s, s.T, 1e-12)
    assert_near(np.diag(s), np.ones(6), 1e-12)


def test_identical_pairs_and_both_ends_of_temperature(rng):
    x = rng.standard_normal((4, 16))
    assert InfoNCE(temperature=0.07)(x, x).value < 1
    for temperature in (0.01, 1.0):
        result = InfoNCE(temperature=temperature)(x, rng.standard_normal((4, 16)))
        assert np.isfinite(result.value)
        assert np.isfinite(result.grads["anchors"]).all()


def test_triplets(rng):
    x = rows([1, 0])
    assert Triplet(margin=0.5)(x, x, -x).value == 0
    zero = rows([0, 0])
    assert Triplet(margin=1.0)(zero, rows([1, 0]), rows([3, 0])).value == 0
    assert_near(Triplet(margin=1.0)(zero, rows([1, 0]), rows([0.5, 0])).value, 1.5)
    a, p, n = rng.standard_normal((3, 20, 4))
    values = [float(Triplet(margin=margin)(a, p, n).value) for margin in (0.1, 0.5, 1.0, 2.0)]
    assert values == sorted(values)


def test_equal_similarities_are_the_logarithm_of_two():
    """Their soft margin at 0, and log-sum-exp of a pair of large equal values less one of them."""
    for x in (0.0, 1e3, 1e6):
        a, b = rows([x]), rows([1.0])
        loss = InfoNCE(similarity="dot", temperature=1.0)
        assert_near(loss(a, b, b).value, np.log(2))


# Any dimension, and the cost ----------------------------------------------------------------------


@given(st.one_of(st.integers(1, 40), st.integers(1, 2048)), st.integers(0, 2**32))
def test_any_dimension(on_numpy, d, seed):
    """Losses and gradients against formulas, for d = 1 to 2048."""
    rng = np.random.default_rng(seed)
    a, p, n = rng.standard_normal((3, 4, d))
    u, v = (x / np.linalg.norm(x, axis=1)[:, None] for x in (a, p))
    s = u @ v.T
    own, far = np.sqrt(((a - p) ** 2).sum(1)), np.sqrt(((a - n) ** 2).sum(1))
    hinge = np.maximum(0, own - far + 1)
    y = np.array([1, -1, 1, -1])
    c = rng.integers(0, d, 4)
    for result, want in (
        (
            InfoNCE(temperature=0.2)(a, p),
            np.mean(np.logaddexp.reduce(s / 0.2, 1) - np.diag(s) / 0.2),
        ),
        (Triplet(margin=1.0)(a, p, n), hinge.mean()),
        (LocalContrastive()(a, p, n), hinge.mean()),
        (Contrastive(margin=9.0)(a, p, labels=[1] * 4), np.mean(own**2)),
        (MSE()(a, p), np.mean((a - p) ** 2)),
        (
            CosineEmbedding()(a, p, labels=y),
            np.mean(np.where(y > 0, 1 - np.diag(s), np.maximum(0, np.diag(s)))),
        ),
        (CrossEntropy()(a, labels=c), np.mean(np.logaddexp.reduce(a, 1) - a[np.arange(4), c])),
    ):
        assert_near(result.value, want, 1e-9, 1e-9)
        assert result.grads["anchors"].shape == (4, d)
        assert np.isfinite(result.grads["anchors"]).all()


@dataclass(frozen=True, kw_only=True)
class Counted(PairwiseLoss):
    """A loss that counts the similarities it is given."""

    seen: list[int] = field(default_factory=list)

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> Any:
        self.seen.append(similarities.size)
        return np.zeros(len(similarities)), np.zeros_like(similarities)


def work(batch):
    loss = Counted(similarity="euclidean")
    loss.value_and_grad(batch)
    return sum(loss.seen)


def test_most_operations_are_linear_in_the_rows(rng):
    """Counted, not timed: pairs that are computed for n and for 2 n anchors."""
    n, k, d = 256, 3, 4

    def explicit(n):
        a, p, own = (
            rng.standard_normal((n, d)),
            rng.standard_normal((n, d)),
            rng.standard_normal((n, k, d)),
        )
        return Batch.triplets(a, p, own)

    def path(n):
        edges = np.stack([np.arange(n - 1), np.arange(1, n)], 1)
        return Batch.edges(rng.standard_normal((n, d)), edges, np.arange(n - 1) % 2)

    def in_batch(n):
        return Batch.pairs(*rng.standard_normal((2, n, d)))

    assert work(explicit(n)) == n * (1 + k)
    for build, ratio in ((explicit, 2), (path, 2), (in_batch, 4)):
        assert work(build(2 * n)) == ratio * work(build(n))
