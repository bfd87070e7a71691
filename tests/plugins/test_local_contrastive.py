"""The local contrastive loss: a hinge for each negative of an anchor."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_is_gradient, assert_near, assert_result, dense_loss, random_case

from coreframe.batch import Batch
from coreframe.errors import ArgumentError
from coreframe.relation import Listed
from coreframe_losses.local_contrastive import LocalContrastive

N, M, D, K = 9, 12, 4, 3
EACH = LocalContrastive(over_negatives="none", reduction="none")


def rows(margin, over_negatives):
    """The row terms in NumPy: mean over positives, and mean or sum over negatives."""

    def terms(s, positive, negative):
        losses, g = np.zeros(len(s)), np.zeros_like(s)
        for i in range(len(s)):
            ps, ns = np.flatnonzero(positive[i]), np.flatnonzero(negative[i])
            share = 1 / max(1, len(ps))
            if over_negatives == "mean":
                share /= max(1, len(ns))
            for p in ps:
                for n in ns:
                    slack = s[i, n] - s[i, p] + margin
                    if slack > 0:
                        losses[i] += share * slack
                        g[i, n] += share
                        g[i, p] -= share
        return losses, g

    return terms


@pytest.mark.parametrize("over_negatives", ["mean", "sum"])
def test_against_the_oracle(library, over_negatives, rng):
    for similarity in ("euclidean",) if library.name == "jax" else ("euclidean", "cosine"):
        loss = LocalContrastive(over_negatives=over_negatives, similarity=similarity)
        case = random_case(rng, N, M, D, K, weights=True)
        want = dense_loss(case, rows(1.0, over_negatives), similarity)
        assert_result(library, loss.value_and_grad(case.batch(library)), want, case, 1e-8)


@given(
    st.sampled_from(["mean", "sum"]),
    st.integers(1, 8),
    st.integers(1, 9),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.3, 2.0]),
    st.integers(0, 2**32),
)
def test_random_shapes(on_numpy, over_negatives, n, m, d, margin, seed):
    rng = np.random.default_rng(seed)
    case = random_case(rng, n, m, d, 2, weights=True)
    loss = LocalContrastive(over_negatives=over_negatives, margin=margin)
    want = dense_loss(case, rows(margin, over_negatives), "euclidean")
    assert_result(on_numpy, loss.value_and_grad(case.batch(on_numpy)), want, case, 1e-8)


@pytest.mark.parametrize("over_negatives", ["mean", "sum", "none"])
def test_triplets_by_autograd(library, over_negatives, rng):
    if library.name == "jax" and over_negatives == "sum":
        pytest.skip("the mean and each are enough where every shape is compiled")
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    arrays = [rng.standard_normal(s) for s in ((N, D), (N, D), (N, K, D))]
    w = rng.uniform(0.1, 2, N)
    a, p, q = leaves = [torch.tensor(x, requires_grad=True) for x in arrays]
    near, far = (a - p).norm(dim=1), (a[:, None] - q).norm(dim=2)
    terms = torch.relu(near[:, None] - far + 1)
    if over_negatives != "none":
        terms = getattr(terms, over_negatives)(dim=1)
    value = terms * torch.as_tensor(w if terms.ndim == 1 else w[:, None])
    value.sum().backward()
    loss = LocalContrastive(over_negatives=over_negatives, reduction="none")
    result = loss(*map(library.asarray, arrays), weights=library.asarray(w))
    assert_near(library.to_numpy(result.value), value.detach().numpy(), 1e-9)
    for name, leaf in zip(("anchors", "references", "negatives"), leaves, strict=True):
        assert_near(library.to_numpy(result.grads[name]), leaf.grad.numpy(), 1e-8)


@pytest.mark.parametrize("over_negatives", ["mean", "sum", "none"])
def test_against_differences(on_numpy, over_negatives, rng):
    case = random_case(rng, N, N, D, K)
    reduction = "none" if over_negatives == "none" else "mean"
    loss = LocalContrastive(over_negatives=over_negatives, reduction=reduction)

    def run(**changes):
        c = case.replace(**changes)
        return loss(c.anchors, c.references, c.negatives)

    result = run()
    for name in case.fields:
        assert_is_gradient(
            lambda x, name=name: float(np.sum(run(**{name: x}).value)),
            getattr(case, name),
            result.grads[name],
            rng,
            1e-6,
        )


# Each negative by itself --------------------------------------------------------------------------


def test_each_of_listed_negatives(library, rng):
    a, r = rng.standard_normal((N, D)), rng.standard_normal((40, D))
    positives = rng.integers(0, 20, (N, 1))
    negatives = np.stack([rng.permutation(np.arange(20, 40))[:K] for _ in range(N)])
    negatives[2, 1] = negatives[5] = -1  # empty places
    positives[7] = -1  # no positive
    relation = Listed(library.asarray(positives), library.asarray(negatives), 40)
    batch = Batch(anchors=library.asarray(a), references=library.asarray(r), relation=relation)
    want = np.zeros((N, K))
    for i, k in np.ndindex(N, K):
        if positives[i, 0] >= 0 and negatives[i, k] >= 0:
            near = np.linalg.norm(a[i] - r[positives[i, 0]])
            want[i, k] = max(0, near - np.linalg.norm(a[i] - r[negatives[i, k]]) + 1)
    result = EACH.value_and_grad(batch)
    assert_near(library.to_numpy(result.value), want)
    # The gradients are those of the sum, so those of over_negatives="sum".
    total = LocalContrastive(over_negatives="sum", reduction="none").value_and_grad(batch)
    for name in ("anchors", "references"):
        got, same = (library.to_numpy(x.grads[name]) for x in (result, total))
        assert_near(got, same, 1e-9)
    only = EACH.value_and_grad(batch, wrt=("references",))
    assert list(only.grads) == ["references"]


def test_the_first_negative_is_the_first_column(library, rng):
    """What the older system calls the reduction None."""
    a, p = (library.asarray(x) for x in rng.standard_normal((2, N, D)))
    own = library.asarray(rng.standard_normal((N, K, D)))
    first = LocalContrastive(reduction="none")(a, p, own[:, :1, :])
    each = EACH(a, p, own)
    assert_near(library.to_numpy(each.value)[:, 0], library.to_numpy(first.value))


@pytest.mark.parametrize(
    "call",
    [
        lambda a: EACH(a, a),
        lambda a: EACH(a, labels=[0, 0, 1]),
        lambda a: EACH.value_and_grad(
            Batch(
                anchors=a,
                references=a,
                negatives=a[:, None, :],
                relation=Listed(np.array([[0], [1], [2]]), np.array([[1], [2], [0]]), 3),
            )
        ),
    ],
)
def test_what_each_negative_cannot_do(call):
    with pytest.raises(ArgumentError, match="takes row-aligned triplets"):
        call(np.eye(3))


def test_settings_that_cannot_be():
    with pytest.raises(ArgumentError, match="needs reduction='none', got 'mean'"):
        LocalContrastive(over_negatives="none")
    with pytest.raises(ArgumentError, match="over_negatives must be one of 'mean', 'sum', 'none'"):
        LocalContrastive(over_negatives="first")
    with pytest.raises(ArgumentError, match="at least one negative"):
        EACH(np.eye(3), np.eye(3), np.zeros((3, 0, 3)))


# Edges --------------------------------------------------------------------------------------------


def test_no_negatives_are_zero(library, rng):
    a, p = (library.asarray(x) for x in rng.standard_normal((2, N, D)))
    none = library.asarray(np.zeros((N, 0, D)))
    for over_negatives in ("mean",) if library.name == "jax" else ("mean", "sum"):
        result = LocalContrastive(over_negatives=over_negatives)(a, p, none)
        assert not library.to_numpy(result.value)
        assert not library.to_numpy(result.grads["anchors"]).any()


def test_inactive_negatives_count_in_the_mean(library):
    a, p = library.asarray(np.zeros((1, 2))), library.asarray(np.array([[0.5, 0.0]]))
    own = library.asarray(np.array([[[1.0, 0.0], [0.0, 50.0]]]))
    result = LocalContrastive()(a, p, own)
    assert_near(library.to_numpy(result.value), 0.25)  # (0.5 + 0) / 2
    assert_near(library.to_numpy(result.grads["anchors"]), [[0.0, 0.0]])  # (-1 + 1) / 2
    assert_near(library.to_numpy(result.grads["references"]), [[0.5, 0.0]])
