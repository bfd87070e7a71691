"""The regularizers: values and gradients in dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_is_gradient, assert_near

from coreframe.errors import ArgumentError
from coreframe_regularizers.graph_laplacian import GraphLaplacian
from coreframe_regularizers.l2 import L2

N, D = 12, 4


# L2 ---------------------------------------------------------------------------------------------


def test_l2_toward_zero(library, rng):
    params = {"A": rng.standard_normal((3, 4)), "b": rng.standard_normal(4)}
    here = {name: library.asarray(p) for name, p in params.items()}
    regularizer = L2(strength=0.3, toward="zero")
    for same in (regularizer, regularizer.begin(here)):
        result = same.value_and_grad(here)
        total = sum(np.sum(p * p) for p in params.values())
        assert_near(library.to_numpy(result.value), 0.15 * total)
        for name, p in params.items():
            assert_near(library.to_numpy(result.grads[name]), 0.3 * p)


def test_l2_toward_the_start(library, rng):
    start = {"A": rng.standard_normal((3, 4)), "b": rng.standard_normal(4)}
    params = {name: p + rng.standard_normal(p.shape) for name, p in start.items()}
    first, here = ({k: library.asarray(x) for k, x in p.items()} for p in (start, params))
    regularizer = L2(strength=0.3).begin(first)
    result = regularizer.value_and_grad(here)
    assert_near(
        library.to_numpy(result.value),
        0.15 * sum(np.sum((params[k] - start[k]) ** 2) for k in start),
    )
    for name in start:
        assert_near(library.to_numpy(result.grads[name]), 0.3 * (params[name] - start[name]))
    assert not library.to_numpy(regularizer.value_and_grad(first).value)


def test_l2_against_differences(on_numpy, rng):
    x = rng.standard_normal((3, 4))
    regularizer = L2(strength=0.7).begin({"A": rng.standard_normal((3, 4))})
    result = regularizer.value_and_grad({"A": x})
    assert_is_gradient(
        lambda a: float(regularizer.value_and_grad({"A": a}).value), x, result.grads["A"], rng
    )


# Graph Laplacian --------------------------------------------------------------------------------


def graph(rng, nodes=N, count=30):
    """Distinct undirected edges with weights, and the dense matrix W."""
    every = np.array([(i, j) for i in range(nodes) for j in range(i + 1, nodes)])
    edges = every[rng.permutation(len(every))[:count]]
    weights = rng.uniform(0.1, 2, len(edges))
    w = np.zeros((nodes, nodes))
    w[edges[:, 0], edges[:, 1]] = weights
    return edges, weights, w + w.T


def laplacian(w, degree, normalized):
    if not normalized:
        return np.diag(w.sum(1)) - w
    root = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0)
    return root[:, None] * (np.diag(w.sum(1)) - w) * root[None, :]


@pytest.mark.parametrize("normalized", [False, True])
def test_laplacian_is_the_trace(library, normalized, rng):
    edges, weights, w = graph(rng)
    z = rng.standard_normal((N, D))
    matrix = laplacian(w, w.sum(1), normalized)
    if normalized:
        assert_near(np.diag(matrix)[w.sum(1) > 0], np.ones(np.sum(w.sum(1) > 0)))
    for given in (edges, library.asarray(edges)):
        regularizer = GraphLaplacian(
            strength=0.4, edges=given, weights=weights, normalized=normalized
        )
        result = regularizer.value_and_grad({"anchors": library.asarray(z)})
        assert_near(library.to_numpy(result.value), 0.4 * np.trace(z.T @ matrix @ z))
        assert list(result.grads) == ["anchors"]
        assert_near(library.to_numpy(result.grads["anchors"]), 0.8 * matrix @ z)


@pytest.mark.parametrize("normalized", [False, True])
def test_only_edges_within_the_batch_count(library, normalized, rng):
    edges, weights, w = graph(rng)
    nodes = np.array([7, 2, 40, 9, 0])  # 40 is no node of the graph
    z = rng.standard_normal((5, D))
    padded = np.zeros((41, 41))
    padded[:N, :N] = w
    matrix = laplacian(padded[np.ix_(nodes, nodes)], padded.sum(1)[nodes], normalized)
    regularizer = GraphLaplacian(
        strength=1.0, edges=edges, weights=weights, normalized=normalized, on="references"
    )
    for ids in (nodes, library.asarray(nodes)):
        result = regularizer.value_and_grad(
            {"anchors": library.asarray(2 * z), "references": library.asarray(z)},
            ids={"references": ids},
        )
        assert_near(library.to_numpy(result.value), np.trace(z.T @ matrix @ z))
        assert_near(library.to_numpy(result.grads["references"]), 2 * matrix @ z)


def test_laplacian_against_differences(on_numpy, rng):
    edges, weights, _ = graph(rng)
    z = rng.standard_normal((N, D))
    for normalized in (False, True):
        regularizer = GraphLaplacian(edges=edges, weights=weights, normalized=normalized)
        result = regularizer.value_and_grad({"anchors": z})
        assert_is_gradient(
            lambda x, r=regularizer: float(r.value_and_grad({"anchors": x}).value),
            z,
            result.grads["anchors"],
            rng,
        )


def test_a_graph_without_edges_in_the_batch_is_zero(library):
    regularizer = GraphLaplacian(edges=np.array([[0, 1]]))
    result = regularizer.value_and_grad(
        {"anchors": library.asarray(np.ones((2, 3)), "float32")},
        ids={"anchors": np.array([5, 6])},
    )
    assert not library.to_numpy(result.value)
    assert not library.to_numpy(result.grads["anchors"]).any()
    assert result.value.dtype == result.grads["anchors"].dtype == library.xp.float32


def test_long_edge_lists_are_worked_off_in_parts(on_numpy, rng):
    edges = rng.integers(0, 200, (20_000, 2))
    z = rng.standard_normal((200, D))
    w = np.zeros((200, 200))
    np.add.at(w, (edges[:, 0], edges[:, 1]), 1)
    w = w + w.T
    result = GraphLaplacian(strength=1.0, edges=edges).value_and_grad({"anchors": z})
    matrix = np.diag(w.sum(1)) - w
    assert_near(result.value, np.trace(z.T @ matrix @ z))
    assert_near(result.grads["anchors"], 2 * matrix @ z)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "GraphLaplacian needs edges"),
        ({"edges": np.zeros((3, 3), int)}, r"edges must be integers \(e, 2\), got int64 \(3, 3\)"),
        ({"edges": np.zeros((3, 2))}, r"edges must be integers \(e, 2\), got float64 \(3, 2\)"),
        ({"edges": np.array([[0, -1]])}, "edges must name nodes from 0"),
        ({"edges": np.array([[0, 1]]), "weights": [-1.0]}, "weights must be >= 0"),
        ({"edges": np.array([[0, 1]]), "weights": [1.0, 1.0]}, r"\(1,\), got \(2,\)"),
        ({"edges": np.array([[0, 1]]), "on": "anchor"}, "Did you mean 'anchors'"),
    ],
)
def test_graphs_that_cannot_work(arguments, text):
    with pytest.raises(ArgumentError, match=text):
        GraphLaplacian(**arguments)


def test_batches_that_do_not_fit_the_graph(rng):
    regularizer = GraphLaplacian(edges=np.array([[0, 1]]), on="references")
    z = rng.standard_normal((3, 2))
    with pytest.raises(ArgumentError, match=r"on is 'references', but this batch has anchors"):
        regularizer.value_and_grad({"anchors": z})
    with pytest.raises(ArgumentError, match=r"ids must have shape \(3,\), got \(2,\)"):
        regularizer.value_and_grad({"references": z}, ids={"references": np.array([0, 1])})


def test_of_several_rows_of_a_node_the_first_counts(rng):
    regularizer = GraphLaplacian(edges=np.array([[0, 1]]), strength=1.0)
    z = rng.standard_normal((3, 2))
    found = regularizer.value_and_grad({"anchors": z}, ids={"anchors": np.array([0, 1, 1])})
    assert float(found.value) == pytest.approx(((z[0] - z[1]) ** 2).sum())
    assert not found.grads["anchors"][2].any()
