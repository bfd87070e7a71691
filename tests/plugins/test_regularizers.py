"""The regularizers: values and gradients in dense linear algebra."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_is_gradient, assert_near

from coreframe import Progress, resolve
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe_regularizers.graph_laplacian import GraphLaplacian
from coreframe_regularizers.l2 import L2
from coreframe_regularizers.variance_of_variances import VarianceOfVariances
from coreframe_schedulers.constant import Constant

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
    both = (edges, library.asarray(edges))
    for same in both[1:] if library.name == "jax" else both:
        regularizer = GraphLaplacian(
            strength=0.4, edges=same, weights=weights, normalized=normalized
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


def coo(w):
    """A sparse matrix of anyone: all that is asked of it is tocoo()."""
    i, j = np.nonzero(w)
    found = SimpleNamespace(row=i, col=j, data=w[i, j], shape=w.shape)
    return SimpleNamespace(tocoo=lambda: found)


@given(seed=st.integers(0, 99), normalized=st.booleans(), loops=st.booleans())
def test_a_sparse_matrix_is_its_edges(seed, normalized, loops):
    """Every edge stands in it twice and counts once; the diagonal does not count."""
    rng = np.random.default_rng(seed)
    edges, weights, w = graph(rng, count=int(rng.integers(1, 60)))
    matrix = w + np.diag(rng.uniform(0, 3, N)) * loops
    z = rng.standard_normal((N, D))
    want = GraphLaplacian(strength=0.4, edges=edges, weights=weights, normalized=normalized)
    found = GraphLaplacian(strength=0.4, edges=coo(matrix), normalized=normalized)
    assert len(found.edges) == len(edges)
    one, other = (g.value_and_grad({"anchors": z}) for g in (want, found))
    assert_near(other.value, one.value)
    assert_near(other.grads["anchors"], one.grads["anchors"])


@pytest.mark.parametrize("form", ["coo_matrix", "csr_matrix", "csc_array", "coo_array"])
@pytest.mark.parametrize("normalized", [False, True])
def test_matrices_of_scipy(form, normalized, rng):
    """The value is the trace with scipy's Laplacian, which leaves self loops out as well."""
    sparse = pytest.importorskip("scipy.sparse")
    csgraph = pytest.importorskip("scipy.sparse.csgraph")
    _, _, w = graph(rng, count=50)
    assert (w.sum(1) > 0).all()
    w += np.diag(rng.uniform(0, 2, N))
    matrix = getattr(sparse, form)(w)
    laplacian = csgraph.laplacian(sparse.csr_matrix(w), normed=normalized).toarray()
    z = rng.standard_normal((N, D))
    found = GraphLaplacian(strength=1.0, edges=matrix, normalized=normalized)
    result = found.value_and_grad({"anchors": z})
    assert_near(result.value, np.trace(z.T @ laplacian @ z))
    assert_near(result.grads["anchors"], 2 * laplacian @ z)


def test_entries_in_parts_and_true_or_false(rng):
    """COO may hold an entry in parts, which add up; a matrix of bool has weights of 1."""
    parts = SimpleNamespace(
        row=np.array([0, 0, 1, 2, 2]),
        col=np.array([1, 1, 0, 3, 2]),
        data=np.array([0.5, 1.5, 2.0, 0.0, 9.0]),
        shape=(4, 4),
    )
    found = GraphLaplacian(edges=SimpleNamespace(tocoo=lambda: parts))
    assert dict(zip(map(tuple, found.edges), found.weights, strict=True))[0, 1] == 2.0
    assert found.weights.sum() == 2.0
    _, _, w = graph(rng)
    assert set(GraphLaplacian(edges=coo(w > 0)).weights) == {1.0}


def test_a_matrix_without_entries(on_numpy):
    found = GraphLaplacian(edges=coo(np.zeros((3, 3)))).value_and_grad({"anchors": np.ones((3, 2))})
    assert float(found.value) == 0
    assert not found.grads["anchors"].any()


def test_repeated_edges_add_up_and_self_loops_do_not_count(on_numpy, rng):
    edges = np.array([[0, 1], [1, 0], [0, 1], [2, 2], [1, 2]])
    weights = np.array([1.0, 2.0, 0.5, 7.0, 1.0])
    once = np.array([[0, 1], [1, 2]])
    z = rng.standard_normal((3, D))
    for normalized in (False, True):
        many = GraphLaplacian(edges=edges, weights=weights, normalized=normalized)
        few = GraphLaplacian(edges=once, weights=np.array([3.5, 1.0]), normalized=normalized)
        one, other = (g.value_and_grad({"anchors": z}) for g in (many, few))
        assert_near(one.value, other.value)
        assert_near(one.grads["anchors"], other.grads["anchors"])


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean"])
def test_divided_by_edges_or_weights(library, reduction, rng):
    """Of the batch's own edges: two of three here."""
    edges, weights = np.array([[0, 1], [1, 2], [2, 9]]), np.array([1.0, 3.0, 5.0])
    z = rng.standard_normal((3, D))
    divisor = 2 if reduction == "mean" else 4
    results = [
        GraphLaplacian(strength=0.3, edges=edges, weights=weights, reduction=r).value_and_grad(
            {"anchors": library.asarray(z)}
        )
        for r in ("sum", reduction)
    ]
    total, mean = results
    assert_near(library.to_numpy(mean.value), library.to_numpy(total.value) / divisor)
    assert_near(
        library.to_numpy(mean.grads["anchors"]), library.to_numpy(total.grads["anchors"]) / divisor
    )
    nothing = GraphLaplacian(edges=edges + 50, reduction=reduction)
    assert not library.to_numpy(nothing.value_and_grad({"anchors": library.asarray(z)}).value)


def test_a_scheduled_strength_of_a_graph(on_numpy, rng):
    _, _, w = graph(rng)
    z = {"anchors": rng.standard_normal((N, D))}
    fixed = GraphLaplacian(strength=0.2, edges=coo(w), normalized=True)
    planned = GraphLaplacian(strength=Constant(value=0.2), edges=coo(w), normalized=True)
    found = resolve(planned, Progress()).value_and_grad(z)
    assert_near(found.value, fixed.value_and_grad(z).value)


@pytest.mark.parametrize(
    ("matrix", "text"),
    [
        (np.triu(np.ones((3, 3))), r"entry \(0, 1\) is 1 and \(1, 0\) is 0; make it symmetric"),
        (np.array([[0, 1.0], [1.1, 0]]), r"is 1 and \(1, 0\) is 1\.1; .*W\.maximum\(W\.T\)"),
        (np.ones((2, 3)), r"square matrix \(n, n\), got \(2, 3\)"),
        (-np.ones((2, 2)), "weights must be >= 0"),
        (np.array([[0, np.nan], [np.nan, 0]]), "weights must be >= 0 and finite"),
    ],
)
def test_matrices_that_are_no_graph(matrix, text):
    with pytest.raises(ArgumentError, match=text):
        GraphLaplacian(edges=coo(matrix))
    with pytest.raises(ArgumentError, match="weights must be left out where edges is a matrix"):
        GraphLaplacian(edges=coo(np.ones((2, 2))), weights=np.ones(4))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({}, "GraphLaplacian needs edges"),
        ({"edges": np.array([[0, 1]]), "weights": [np.inf]}, "weights must be >= 0 and finite"),
        ({"edges": np.array([[0, 1]]), "reduction": "total"}, "GraphLaplacian.reduction must be"),
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


@pytest.mark.parametrize(
    ("ids", "error", "text"),
    [
        ([-1, 0, 1], ArgumentError, "ids must be node numbers from 0, got -1"),
        ([0.5, 1.5, 2.0], ArgumentTypeError, "ids must be node numbers, .*got float64"),
        (["a", "b", "c"], ArgumentTypeError, "ids must be node numbers, .*got <U1"),
    ],
)
def test_ids_that_name_no_node(ids, error, text):
    regularizer = GraphLaplacian(edges=np.array([[0, 1], [1, 2]]))
    with pytest.raises(error, match=text):
        regularizer.value_and_grad({"anchors": np.eye(3)}, ids={"anchors": np.array(ids)})


@pytest.mark.parametrize("normalized", [False, True])
def test_nodes_far_beyond_the_graph_are_free(normalized):
    """A number is looked up in the graph, and takes no memory of its own size."""
    regularizer = GraphLaplacian(
        edges=np.array([[0, 1]]), weights=[4.0], strength=1.0, normalized=normalized
    )
    z = np.array([[1.0], [7.0], [3.0]])
    found = regularizer.value_and_grad({"anchors": z}, ids={"anchors": np.array([1, 10**15, 0])})
    assert float(found.value) == pytest.approx(4 if normalized else 16)
    assert found.grads["anchors"][1] == 0
    nothing = regularizer.value_and_grad({"anchors": z[:0]})
    assert float(nothing.value) == 0
    assert nothing.grads["anchors"].shape == (0, 1)


def test_graphs_compare_as_objects():
    one, other = (GraphLaplacian(edges=np.array([[0, 1], [1, 2]])) for _ in range(2))
    assert one == one
    assert one != other
    assert len({one, other}) == 2


def test_of_several_rows_of_a_node_the_first_counts(rng):
    regularizer = GraphLaplacian(edges=np.array([[0, 1]]), strength=1.0)
    z = rng.standard_normal((3, 2))
    found = regularizer.value_and_grad({"anchors": z}, ids={"anchors": np.array([0, 1, 1])})
    assert float(found.value) == pytest.approx(((z[0] - z[1]) ** 2).sum())
    assert not found.grads["anchors"][2].any()


# Variance of variances --------------------------------------------------------------------------


def spread(*sets):
    """The formula in NumPy's own variances."""
    return np.var(np.var(np.concatenate(sets), axis=0))


@pytest.mark.parametrize("on", ["anchors", "references", "negatives", "all"])
def test_variance_of_variances(library, on, rng):
    fields = {
        "anchors": rng.standard_normal((4, 3)) * [1, 2, 3],
        "references": rng.standard_normal((5, 3)),
        "negatives": rng.standard_normal((4, 2, 3)),
    }
    own = {name: library.asarray(x) for name, x in fields.items()}
    found = VarianceOfVariances(strength=0.3, on=on).value_and_grad(own)
    names = list(fields) if on == "all" else [on]
    assert list(found.grads) == names

    def value(name, x):
        given = fields | {name: x}
        return 0.3 * spread(*[given[key].reshape(-1, 3) for key in names])

    assert_near(library.to_numpy(found.value), value(on, fields.get(on)))
    for name in names:
        assert_is_gradient(
            lambda x, name=name: value(name, x),
            fields[name],
            library.to_numpy(found.grads[name]),
            rng,
        )


def test_variance_of_variances_of_torch(rng):
    torch = pytest.importorskip("torch")
    x = rng.standard_normal((6, 4))
    t = torch.tensor(x, requires_grad=True)
    want = 0.7 * t.var(0, correction=0).var(correction=0)
    want.backward()
    found = VarianceOfVariances(strength=0.7).value_and_grad({"anchors": x})
    assert_near(found.value, want.detach().numpy())
    assert_near(found.grads["anchors"], t.grad.numpy())


@pytest.mark.parametrize("shape", [(1, 4), (0, 4), (5, 1), (3, 4)])
def test_variances_of_nothing_and_of_equal_rows(library, shape):
    """One row, none, one dimension, and equal rows: 0 with gradient 0, in the same dtype."""
    x = np.broadcast_to(np.arange(shape[1]), shape)
    found = VarianceOfVariances().value_and_grad({"anchors": library.asarray(x, "float32")})
    assert not library.to_numpy(found.value)
    assert not library.to_numpy(found.grads["anchors"]).any()
    assert tuple(found.grads["anchors"].shape) == shape
    assert found.value.dtype == found.grads["anchors"].dtype == library.xp.float32


@pytest.mark.parametrize(
    ("fields", "on", "text"),
    [
        ({"anchors": np.ones((2, 2))}, "references", "on is 'references', but this batch has anch"),
        ({}, "all", "on is 'all', but this batch has nothing"),
    ],
)
def test_variances_of_what_is_not_there(fields, on, text):
    with pytest.raises(ArgumentError, match=text):
        VarianceOfVariances(on=on).value_and_grad(fields)
    with pytest.raises(ArgumentError, match="Did you mean 'anchors'"):
        VarianceOfVariances(on="anchor")
