"""The Rust seed's spectral term: kept as the variance of variances, with its true gradient."""

from __future__ import annotations

import numpy as np
import pytest
from goldens import case as golden_case
from goldens import fault, golden
from support import assert_is_gradient

from coreframe_regularizers.graph_laplacian import GraphLaplacian
from coreframe_regularizers.variance_of_variances import VarianceOfVariances


def rows_of(case):
    if "rows" in case.inputs:  # the seed's own test: row i is i / 10 in all 32 dimensions
        return np.repeat(np.arange(10)[:, None] / 10, 32, axis=1)
    return np.asarray(case.inputs.get("embeddings", np.zeros((0, 4))), np.float64)


@golden("rust", "spectral/")
def test_the_value(case, on_numpy):
    rows = rows_of(case)
    term = VarianceOfVariances(strength=case.params["weight"], on="anchors")
    found = term.value_and_grad({"anchors": rows})
    assert float(found.value) == pytest.approx(case.output["compute_batch"], rel=1e-6, abs=1e-16)
    assert np.isfinite(found.grads["anchors"]).all()
    assert found.grads["anchors"].shape == rows.shape


def test_the_rows_may_be_of_all_fields(on_numpy):
    """The seed stacks the anchor, its positive and its negatives; so does on="all"."""
    case = golden_case("rust:spectral/batch")
    rows = rows_of(case)
    fields = {"anchors": rows[:1], "references": rows[1:2], "negatives": rows[None, 2:]}
    found = VarianceOfVariances(strength=case.params["weight"]).value_and_grad(fields)
    assert float(found.value) == pytest.approx(case.output["loss_with_gradients"], rel=1e-6)


@fault(36, "rust:spectral/batch")
def test_the_gradient_is_not_zero(on_numpy, rng):
    """Recorded: a gradient of zeros. Ours is the derivative of the value."""
    case = golden_case("rust:spectral/batch")
    rows = rows_of(case)
    assert case.output["grad_anchor"] == [0, 0, 0, 0]
    term = VarianceOfVariances(strength=1.0)
    gradient = term.value_and_grad({"anchors": rows}).grads["anchors"]
    assert np.abs(gradient[0]).min() > 1e-4
    assert_is_gradient(
        lambda x: float(term.value_and_grad({"anchors": x}).value), rows, gradient, rng
    )


@fault(36)
def test_the_graph_term_is_a_laplacian(on_numpy):
    """Zero for constant rows, and larger where neighbours differ more: on a ring of four."""
    ring = GraphLaplacian(strength=1.0, edges=np.array([[0, 1], [1, 2], [2, 3], [3, 0]]))
    laplacian = 2 * np.eye(4) - np.roll(np.eye(4), 1, 0) - np.roll(np.eye(4), -1, 0)
    values = []
    for wave in ([1.0, 1, 1, 1], [1.0, 0, -1, 0], [1.0, -1, 1, -1]):
        z = np.array(wave)[:, None]
        found = ring.value_and_grad({"anchors": z})
        assert float(found.value) == pytest.approx(np.trace(z.T @ laplacian @ z))
        np.testing.assert_allclose(found.grads["anchors"], 2 * laplacian @ z)
        values.append(float(found.value))
    assert values == [0.0, 4.0, 16.0]
