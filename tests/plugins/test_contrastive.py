"""The contrastive loss of pairs: masks, labels, edge lists, and rows with labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_is_gradient, assert_near, assert_result, dense_loss, random_case

from coreframe.batch import Batch
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.relation import masked
from coreframe.similarity import NAMES
from coreframe_losses.contrastive import Contrastive

N, M, D, K = 11, 13, 4, 2


def rows(margin, similarity):
    """The row terms in NumPy, pair by pair."""

    def terms(s, positive, negative):
        losses, g = np.zeros(len(s)), np.zeros_like(s)
        for i in range(len(s)):
            count = np.sum(positive[i] | negative[i])
            for j in np.flatnonzero(positive[i] | negative[i]):
                d = 1 - s[i, j] if similarity == "cosine" else -s[i, j]
                short = max(0.0, margin - d)
                losses[i] += (d**2 if positive[i, j] else short**2) / count
                g[i, j] = (-2 * d if positive[i, j] else 2 * short) / count
        return losses, g

    return terms


def pair(a, b, similar, margin=1.0):
    """The loss of one pair and its gradient by both rows, with Euclidean distance."""
    d = np.linalg.norm(a - b)
    if similar:
        return d**2, 2 * (a - b), 2 * (b - a)
    short = max(0.0, margin - d)
    along = -2 * short * (a - b) / d
    return short**2, along, -along


# Any relation -------------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", NAMES)
def test_against_the_oracle(library, similarity, rng):
    loss = Contrastive(similarity=similarity, margin=1.5)
    for case in (
        random_case(rng, N, M, D, K, weights=True),
        random_case(rng, N, None, D, weights=True),
    ):
        case.positive[0] = case.negative[0] = False  # without its own negatives, no pair at all
        case.positive[1] = False
        want = dense_loss(case, rows(1.5, similarity), similarity, needs_positive=False)
        assert_result(library, loss.value_and_grad(case.batch(library)), want, case, 1e-8)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**32))
def test_random_shapes(on_numpy, n, m, d, seed):
    rng = np.random.default_rng(seed)
    case = random_case(rng, n, m, d, 1, weights=True)
    result = Contrastive().value_and_grad(case.batch(on_numpy))
    want = dense_loss(case, rows(1.0, "euclidean"), "euclidean", needs_positive=False)
    assert_result(on_numpy, result, want, case, 1e-8)


def test_against_differences(on_numpy, rng):
    case = random_case(rng, N, M, D, K, weights=True)
    loss = Contrastive(margin=2.5)
    result = loss.value_and_grad(case.batch(on_numpy))
    for name in case.fields:
        assert_is_gradient(
            lambda x, name=name: float(
                loss.value_and_grad(case.replace(**{name: x}).batch(on_numpy), wrt=()).value
            ),
            getattr(case, name),
            result.grads[name],
            rng,
            1e-6,
        )


def test_by_autograd_on_labels(library, rng):
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    labels = rng.integers(0, 3, N)
    x = rng.standard_normal((N, D))
    leaf = torch.tensor(x, requires_grad=True)
    apart = (leaf[:, None] - leaf[None]).square().sum(-1).clamp_min(1e-300).sqrt()
    same = torch.as_tensor(labels[:, None] == labels[None, :])
    terms = torch.where(same, apart**2, torch.relu(2 - apart) ** 2)
    off = ~torch.eye(N, dtype=torch.bool)
    value = (terms * off).sum() / (N * (N - 1))
    value.backward()
    result = Contrastive(margin=2.0)(library.asarray(x), labels=labels)
    assert_near(library.to_numpy(result.value), value.item(), 1e-9)
    assert_near(library.to_numpy(result.grads["anchors"]), leaf.grad.numpy(), 1e-8)


def test_a_row_without_a_pair_does_not_count(library, rng):
    x = rng.standard_normal((4, D))
    positive, negative = np.zeros((2, 4, 4), bool)
    positive[0, 1] = negative[2, 3] = True
    batch = Batch(
        anchors=library.asarray(x),
        relation=masked(library.asarray(positive), library.asarray(negative)),
    )
    result = Contrastive(margin=9.0).value_and_grad(batch)
    want = (pair(x[0], x[1], True)[0] + pair(x[2], x[3], False, 9.0)[0]) / 2
    assert_near(library.to_numpy(result.value), want)


# Edges --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@given(st.integers(2, 9), st.integers(0, 2**32))
def test_a_mean_of_edges_is_the_mean_over_edges(on_numpy, reduction, n, seed):
    rng = np.random.default_rng(seed)
    every = np.array([(i, j) for i in range(n) for j in range(i + 1, n)])
    edges = every[rng.random(len(every)) < rng.uniform(0.2, 1)]
    if not len(edges):
        edges = every[:1]
    similar = rng.random(len(edges)) < 0.5
    edges = np.where(rng.random((len(edges), 1)) < 0.5, edges, edges[:, ::-1])
    x = rng.standard_normal((n, D))
    value, gradient = 0.0, np.zeros_like(x)
    for (i, j), kind in zip(edges, similar, strict=True):
        add, by_i, by_j = pair(x[i], x[j], kind, 3.0)
        value += add
        gradient[i] += by_i
        gradient[j] += by_j
    scale = 1 / len(edges) if reduction == "mean" else 1.0
    result = Contrastive(margin=3.0, reduction=reduction).value_and_grad(
        Batch.edges(x, edges, similar)
    )
    assert_near(result.value, value * scale, 1e-9)
    assert_near(result.grads["anchors"], gradient * scale, 1e-9)


def test_edges_on_every_library(library, rng):
    x = rng.standard_normal((70, D))  # enough rows for the engine to gather
    edges = np.stack([np.arange(69), np.arange(1, 70)], 1)
    similar = np.where(rng.random(69) < 0.5, 1, -1)
    terms = [pair(x[i], x[i + 1], kind > 0, 2.0) for i, kind in enumerate(similar)]
    gradient = np.zeros_like(x)
    for i, (_, by_i, by_j) in enumerate(terms):
        gradient[i] += by_i / 69
        gradient[i + 1] += by_j / 69
    kinds = (library.asarray, np.ndarray.tolist)
    for listed in kinds[:1] if library.name == "jax" else kinds:
        batch = Batch.edges(library.asarray(x), listed(edges), listed(similar))
        result = Contrastive(margin=2.0).value_and_grad(batch)
        assert_near(library.to_numpy(result.value), np.mean([t[0] for t in terms]), 1e-9)
        assert_near(library.to_numpy(result.grads["anchors"]), gradient, 1e-9)


def test_a_hub_costs_nothing(on_numpy, rng):
    star = np.stack([np.zeros(200, int), np.arange(1, 201)], 1)
    batch = Batch.edges(rng.standard_normal((201, D)), star, np.ones(200, bool))
    assert batch.relation.width == 1
    dense = np.argwhere(np.triu(rng.random((60, 60)) < 0.5, 1))
    batch = Batch.edges(rng.standard_normal((60, D)), dense, np.ones(len(dense), bool))
    assert batch.relation.width <= np.sqrt(2 * len(dense))


def test_an_edge_given_twice_counts_once(on_numpy, rng):
    x = rng.standard_normal((4, D))
    twice = Batch.edges(x, [[0, 1], [1, 0], [2, 3], [0, 1]], [1, 1, 0, 1])
    once = Batch.edges(x, [[0, 1], [2, 3]], [True, False])
    results = [Contrastive(margin=9.0).value_and_grad(batch) for batch in (twice, once)]
    assert_near(results[0].value, results[1].value)
    assert_near(results[0].grads["anchors"], results[1].grads["anchors"])


@pytest.mark.parametrize(
    ("edges", "similar", "error", "text"),
    [
        ([[0, 4]], [1], ArgumentError, r"edge 0 is \(0, 4\).*different rows of 0 to 3"),
        ([[0, 1], [2, 2]], [1, 1], ArgumentError, r"edge 1 is \(2, 2\)"),
        ([[-1, 2]], [1], ArgumentError, r"edge 0 is \(-1, 2\)"),
        ([[0, 1], [1, 0]], [1, 0], ArgumentError, "edge 1.*similar and as dissimilar"),
        ([[0, 1, 2]], [1], ArgumentError, r"edges must be \(e, 2\).*got \(1, 3\)"),
        (np.zeros((0, 2), int), [], ArgumentError, r"edges must be \(e, 2\)"),
        ([[0.0, 1.0]], [1], ArgumentTypeError, "edges must be integers, got float64"),
        ([[0, 1]], [1, 1], ArgumentError, r"similar must have shape \(1,\)"),
        ([[0, 1]], [2], ArgumentError, "similar must be 1 for similar.*got 2 in row 0"),
        ([[0, 1]], [0.5], ArgumentTypeError, "similar must be bool or integers.*got float64"),
    ],
)
def test_edges_that_cannot_be(edges, similar, error, text):
    with pytest.raises(error, match=text):
        Batch.edges(np.ones((4, 2)), edges, similar)


# Row by row ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bool", "zero", "minus"])
def test_rows_with_labels_are_twice_sentence_transformers(library, form, rng):
    """Its ContrastiveLoss: mean of y d^2 + (1 - y) max(0, m - d)^2, halved; cosine, m = 0.5."""
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    a, b = rng.standard_normal((2, 40, D))
    y = rng.random(40) < 0.5
    left, right = (torch.tensor(x, requires_grad=True) for x in (a, b))
    d = 1 - torch.nn.functional.cosine_similarity(left, right)
    kind = torch.as_tensor(y).double()
    value = (0.5 * (kind * d**2 + (1 - kind) * torch.relu(0.5 - d) ** 2)).mean()
    value.backward()
    labels = {"bool": y, "zero": y.astype(int), "minus": np.where(y, 1, -1)}[form]
    loss = Contrastive(similarity="cosine", margin=0.5)
    result = loss(library.asarray(a), library.asarray(b), labels=library.asarray(labels))
    assert_near(library.to_numpy(result.value) / 2, value.item(), 1e-9)
    for name, leaf in (("anchors", left), ("references", right)):
        assert_near(library.to_numpy(result.grads[name]) / 2, leaf.grad.numpy(), 1e-8)


def test_rows_with_weights(library, rng):
    a, b = rng.standard_normal((2, 5, D))
    w, y = rng.uniform(0.1, 2, 5), [1, 0, 0, 1, 0]
    result = Contrastive(margin=4.0)(
        library.asarray(a), library.asarray(b), labels=y, weights=library.asarray(w)
    )
    terms = [pair(a[i], b[i], y[i], 4.0)[0] for i in range(5)]
    assert_near(library.to_numpy(result.value), np.sum(w * terms) / np.sum(w))


def test_coinciding_negatives_cost_the_margin_and_do_not_move(library):
    x = library.asarray(np.ones((3, 2)), "float32")
    result = Contrastive(margin=0.5)(x, x, labels=[0, 0, 0])
    assert_near(library.to_numpy(result.value), 0.25)
    assert not library.to_numpy(result.grads["anchors"]).any()


def test_labels_of_other_values_are_an_error():
    a = np.ones((3, 2))
    with pytest.raises(ArgumentError, match=r"labels must be 1 for similar.*got 3 in row 2"):
        Contrastive()(a, a, labels=[0, 1, 3])
    with pytest.raises(ArgumentError, match="margin must be at least 0"):
        Contrastive(margin=-1.0)
