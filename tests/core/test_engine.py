"""The row engine: everything a pairwise loss gets for writing ``row_terms`` and nothing else.

The loss under test is new, and 15 lines long. Each result is held against an oracle that has
whole (n, m, d) arrays in float64 NumPy.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import (
    Case,
    Library,
    assert_is_gradient,
    assert_near,
    assert_result,
    dense_loss,
    environment,
    random_case,
)

from coreframe.backend import library_of, namespace
from coreframe.batch import Batch
from coreframe.errors import ArgumentTypeError
from coreframe.loss import PairwiseLoss
from coreframe.relation import Aligned, Listed, SameLabel, masked
from coreframe.result import REDUCTIONS
from coreframe.similarity import NAMES
from coreframe.tiles import pairwise, similarity_rows


@dataclass(frozen=True, kw_only=True)
class SoftMargin(PairwiseLoss):
    """softplus(s) of negatives plus softplus(-s) of positives, summed over the row."""

    def row_terms(self, similarities, positive, negative):
        xp = namespace(similarities=similarities)
        sign = xp.astype(negative, similarities.dtype) - xp.astype(positive, similarities.dtype)
        x = sign * similarities
        softplus = xp.where(x > 0, x, 0 * x) + xp.log1p(xp.exp(-xp.abs(x)))
        losses = xp.sum(xp.where(positive | negative, softplus, 0 * x), axis=1)
        return losses, sign * (1 + xp.tanh(x / 2)) / 2


def soft_margin(s, positive, negative):
    """The same in NumPy, for the oracle."""
    losses = np.sum(np.where(negative, np.logaddexp(0, s), 0), 1)
    losses += np.sum(np.where(positive, np.logaddexp(0, -s), 0), 1)
    up, down = 1 / (1 + np.exp(-s)), 1 / (1 + np.exp(s))
    return losses, negative * up - positive * down


@dataclass(frozen=True, kw_only=True)
class Hinge(PairwiseLoss):
    """max(0, best negative - worst positive + 0.2): rows that are exactly 0, for mean_active."""

    def row_terms(self, similarities, positive, negative):
        xp = namespace(similarities=similarities)
        low = xp.full_like(similarities, -1e30)
        far = xp.argmax(xp.where(positive, -similarities, low), axis=1, keepdims=True)
        near = xp.argmax(xp.where(negative, similarities, low), axis=1, keepdims=True)
        gap = xp.take_along_axis(similarities, near, axis=1) + 0.2
        gap = gap - xp.take_along_axis(similarities, far, axis=1)
        active = (gap > 0) & xp.any(negative, axis=1, keepdims=True)
        span = xp.arange(similarities.shape[1], device=similarities.device)[None, :]
        gradient = xp.astype(span == near, gap.dtype) - xp.astype(span == far, gap.dtype)
        return xp.where(active, gap, 0 * gap)[:, 0], xp.where(active, gradient, 0 * gradient)


def hinge(s, positive, negative):
    losses, g = np.zeros(len(s)), np.zeros_like(s)
    for i, row in enumerate(s):
        if positive[i].any() and negative[i].any():
            p = min(np.flatnonzero(positive[i]), key=lambda j: row[j])
            q = max(np.flatnonzero(negative[i]), key=lambda j: row[j])
            if row[q] - row[p] + 0.2 > 0:
                losses[i], g[i, q], g[i, p] = row[q] - row[p] + 0.2, 1, -1
    return losses, g


N, M, D, K = 19, 23, 5, 3  # one shape for most tests: JAX compiles each operation for each shape


MANY = 160  # references enough for four listed ones to be gathered


class OnlyGathered(Listed):
    def tile(self, rows, cols, xp, device):
        raise AssertionError("a short list must be gathered, not turned into masks")


def scale_params(library: Library, log_scale: float = 0.7, bias: float = -0.3):
    return {"log_scale": library.asarray(log_scale), "bias": library.asarray(bias)}


def with_listed(rng, n, m, d, k=None) -> tuple[Case, np.ndarray, np.ndarray]:
    """A case whose relation is lists, with empty places, repeats, and indices on both sides."""
    case = random_case(rng, n, m, d, k, weights=True)
    positives = rng.integers(-1, m, (n, 1))
    negatives = rng.integers(-1, m, (n, 3))
    negatives[:, 2] = negatives[:, 0]
    negatives[::3, 1] = positives[::3, 0]
    span = np.arange(m)
    positive = (positives[:, :, None] == span).any(1)
    negative = (negatives[:, :, None] == span).any(1) & ~positive
    return case.replace(positive=positive, negative=negative), positives, negatives


# Against the oracle, on every library ---------------------------------------------------------


def test_a_new_loss_is_at_most_fifteen_lines():
    import inspect

    assert len(inspect.getsource(SoftMargin).splitlines()) <= 15
    assert [f.name for f in fields(SoftMargin)] == [f.name for f in fields(PairwiseLoss)]


@pytest.mark.parametrize("similarity", NAMES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_references_and_own_negatives(library, similarity, reduction, rng):
    case = random_case(rng, N, M, D, K, weights=True)
    for loss, rows in ((SoftMargin, soft_margin), (Hinge, hinge)):
        result = loss(similarity=similarity, reduction=reduction).value_and_grad(
            case.batch(library)
        )
        assert_result(library, result, dense_loss(case, rows, similarity, reduction), case)


@pytest.mark.parametrize("similarity", NAMES)
def test_anchors_as_their_own_references(library, similarity, rng):
    case = random_case(rng, N, None, D, weights=True)
    result = SoftMargin(similarity=similarity).value_and_grad(case.batch(library))
    assert_result(library, result, dense_loss(case, soft_margin, similarity), case)


@pytest.mark.parametrize("similarity", NAMES)
def test_anchors_as_their_own_references_beside_own_negatives(library, similarity, rng):
    case = random_case(rng, N, None, D, K)
    result = SoftMargin(similarity=similarity).value_and_grad(case.batch(library))
    assert_result(library, result, dense_loss(case, soft_margin, similarity), case)


@pytest.mark.parametrize("similarity", NAMES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_learnable_scale(library, similarity, reduction, rng):
    case = random_case(rng, N, M, D, K, weights=True)
    loss = SoftMargin(similarity=similarity, reduction=reduction, learnable_scale=True)
    params = scale_params(library)
    result = loss.value_and_grad(case.batch(library), params)
    want = dense_loss(case, soft_margin, similarity, reduction, log_scale=0.7, bias=-0.3)
    assert_result(library, result, want, case)
    assert sorted(result.param_grads) == ["bias", "log_scale"]
    for name in params:
        assert_near(library.to_numpy(result.param_grads[name]), want[name])


def test_learnable_scale_starts_as_no_scale(library, rng):
    case = random_case(rng, N, M, D)
    loss = SoftMargin(learnable_scale=True)
    params = {name: library.asarray(x) for name, x in loss.init(rng, 4).items()}
    result = loss.value_and_grad(case.batch(library), params)
    assert_result(library, result, dense_loss(case, soft_margin, "cosine"), case, 1e-6)
    for name, x in params.items():
        assert result.param_grads[name].dtype == x.dtype
    assert SoftMargin().init(rng, 4) == {}


@pytest.mark.parametrize("similarity", NAMES)
def test_listed_relation_is_gathered_with_the_same_result(library, similarity, rng):
    for m, kind in ((MANY, OnlyGathered), (M, Listed)):
        if library.name == "jax" and similarity != "cosine" and m == M:
            continue  # every shape is compiled
        case, positives, negatives = with_listed(rng, N, m, D, K)
        relation = kind(library.asarray(positives), library.asarray(negatives), m)
        result = SoftMargin(similarity=similarity).value_and_grad(
            case.batch(library, relation=relation)
        )
        assert_result(library, result, dense_loss(case, soft_margin, similarity), case)


def test_listed_relation_among_the_anchors_themselves(library, rng):
    case, positives, negatives = with_listed(rng, MANY, MANY, D)
    case = case.replace(references=None)
    relation = OnlyGathered(library.asarray(positives), library.asarray(negatives), MANY)
    result = SoftMargin().value_and_grad(case.batch(library, relation=relation))
    assert_result(library, result, dense_loss(case, soft_margin, "cosine"), case)


def test_listed_without_negatives_means_all_others(library, rng):
    case, positives, _ = with_listed(rng, N, M, D)
    case = case.replace(negative=~case.positive)
    relation = Listed(library.asarray(positives), None, M)
    result = SoftMargin().value_and_grad(case.batch(library, relation=relation))
    assert_result(library, result, dense_loss(case, soft_margin, "cosine"), case)


def test_float32_is_near_and_keeps_its_type(library, rng):
    case = random_case(rng, N, M, D, K, weights=True)
    for similarity in ("cosine", "euclidean") if library.name == "jax" else NAMES:
        result = SoftMargin(similarity=similarity).value_and_grad(case.batch(library, "float32"))
        want = dense_loss(case, soft_margin, similarity)
        assert_result(library, result, want, case, 2e-5)
        for g in (result.value, *result.grads.values()):
            assert g.dtype == library.xp.float32


def test_results_live_where_the_arrays_live(library, rng):
    batch = random_case(rng, N, M, D, K).batch(library)
    result = SoftMargin(learnable_scale=True).value_and_grad(batch, scale_params(library))
    arrays = [result.value, *result.grads.values(), *result.param_grads.values()]
    for x in [*arrays, *result.parts.values()]:
        assert library_of(x) == library_of(batch.anchors)
        assert x.device == batch.anchors.device
    assert result.value.ndim == 0
    for name, g in result.grads.items():
        assert tuple(g.shape) == tuple(getattr(batch, name).shape)


def test_inputs_are_left_as_they_were(library, rng):
    case = random_case(rng, N, M, D, K, weights=True)
    batch = case.batch(library)
    budget = 2**26 if library.name == "jax" else 1  # where nothing can be written to
    for similarity in ("cosine", "euclidean"):
        SoftMargin(similarity=similarity, memory_budget=budget).value_and_grad(batch)
    for name in (*case.fields, "weights"):
        assert np.array_equal(library.to_numpy(getattr(batch, name)), getattr(case, name))


def test_labels_and_aligned_relations_equal_their_masks(library, rng):
    labels = rng.integers(0, 4, N)
    same = labels[:, None] == labels[None, :]
    case = random_case(rng, N, None, D).replace(positive=same, negative=~same)
    for given_labels in (library.asarray(labels), labels, [f"class {i}" for i in labels]):
        batch = Batch.labelled(library.asarray(case.anchors), given_labels)
        assert_result(
            library,
            SoftMargin().value_and_grad(batch),
            dense_loss(case, soft_margin, "cosine"),
            case,
        )
    case = random_case(rng, N, M, D)
    batch = Batch.with_negatives(
        library.asarray(case.anchors),
        library.asarray(case.references[:N]),
        shared=library.asarray(case.references[N:]),
    )
    case = case.replace(positive=np.eye(N, M, dtype=bool), negative=~np.eye(N, M, dtype=bool))
    assert_result(
        library, SoftMargin().value_and_grad(batch), dense_loss(case, soft_margin, "cosine"), case
    )


def test_triplets(library, rng):
    for k in (1, 3):
        case = random_case(rng, N, N, D, k).replace(
            positive=np.eye(N, dtype=bool), negative=np.zeros((N, N), dtype=bool)
        )
        own = case.negatives[:, 0] if k == 1 else case.negatives
        batch = Batch.triplets(
            library.asarray(case.anchors), library.asarray(case.references), library.asarray(own)
        )
        assert_result(
            library,
            SoftMargin().value_and_grad(batch),
            dense_loss(case, soft_margin, "cosine"),
            case,
        )


def test_similarity_rows_are_what_a_loss_sees(library, rng):
    case = random_case(rng, N, None, D)
    batch = case.batch(library)
    seen = []
    for rows, similarities, positive, negative in similarity_rows(
        batch, "euclidean", memory_budget=1
    ):
        seen.append(rows)
        for got, want in ((positive, case.positive), (negative, case.negative)):
            want = want & ~np.eye(N, dtype=bool)
            assert np.array_equal(library.to_numpy(got), want[rows])
        distances = np.linalg.norm(case.anchors[rows, None] - case.anchors[None], axis=2)
        assert_near(library.to_numpy(similarities), -distances, atol=1e-7)
    assert len(seen) > 1
    assert [r.start for r in seen[1:]] == [r.stop for r in seen[:-1]]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "uint32"])
@pytest.mark.parametrize("m", [2000, 3000])  # turned into masks, and gathered
def test_indices_of_narrow_integers_are_not_wrapped_around(on_numpy, dtype, m, rng):
    """-1 and the number of a cell of a block need not fit into what indices come in."""
    case = random_case(rng, N, m, D)
    positives = rng.permuted(np.tile(np.arange(100), (N, 1)), axis=1)[:, :40]
    negatives = (positives + 50) % 100
    results = [
        SoftMargin().value_and_grad(
            case.batch(on_numpy, relation=Listed(positives.astype(t), negatives.astype(t), m))
        )
        for t in (dtype, "int64")
    ]
    narrow, wide = results
    assert np.array_equal(narrow.value, wide.value)
    for name in case.fields:
        assert np.array_equal(narrow.grads[name], wide.grads[name])


def test_masks_are_bool(rng):
    with pytest.raises(ArgumentTypeError, match="negative must be a bool array, got int64"):
        masked(np.eye(3, dtype=bool), 1 - np.eye(3, dtype=np.int64))


# Degenerate batches ---------------------------------------------------------------------------


def zero_result(result) -> bool:
    return all(not np.any(np.asarray(x)) for x in (result.value, *result.grads.values()))


@pytest.mark.parametrize("similarity", NAMES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nothing_that_counts_is_zero(on_numpy, similarity, reduction, rng):
    loss = SoftMargin(similarity=similarity, reduction=reduction)
    case = random_case(rng, N, M, D, K)
    none = np.zeros_like(case.positive)
    assert zero_result(loss.value_and_grad(case.replace(positive=none).batch(on_numpy)))
    assert zero_result(loss.value_and_grad(case.replace(weights=np.zeros(N)).batch(on_numpy)))
    assert zero_result(
        loss.value_and_grad(
            Batch(anchors=case.anchors[:1], relation=SameLabel(np.zeros(1, dtype=int)))
        )
    )


def test_a_relation_without_a_single_place_is_zero(library, rng):
    nothing = library.asarray(np.zeros((N, 0)), "int32")
    batch = Batch(
        anchors=library.asarray(rng.standard_normal((N, D))),
        references=library.asarray(rng.standard_normal((M, D))),
        relation=Listed(nothing, nothing, M),
    )
    result = SoftMargin().value_and_grad(batch)
    assert not np.any(library.to_numpy(result.value))
    assert not np.any(library.to_numpy(result.grads["references"]))


@pytest.mark.parametrize("similarity", NAMES)
def test_zero_and_identical_rows_have_finite_gradients(library, similarity, rng):
    case = random_case(rng, N, M, D, K)
    a = case.anchors.copy()
    a[0] = 0
    references = np.concatenate([a, a[: M - N]])
    case = case.replace(anchors=a, references=references, negatives=np.stack([a, 0 * a, a], 1))
    result = SoftMargin(similarity=similarity).value_and_grad(case.batch(library))
    want = dense_loss(case, soft_margin, similarity)
    assert_result(library, result, want, case, 1e-7)


def test_cosine_of_tiny_and_huge_rows(library, rng):
    case = random_case(rng, N, M, D)
    want = dense_loss(case, soft_margin, "cosine")
    for factor in (1e-30, 1e30):  # squares leave the range of float32
        scaled = case.replace(anchors=case.anchors * factor)
        result = SoftMargin().value_and_grad(scaled.batch(library, "float32"))
        assert_near(library.to_numpy(result.value), want["value"], 1e-5)
        got = np.asarray(library.to_numpy(result.grads["anchors"]), np.float64) * factor
        assert_near(got, want["anchors"], 2e-5)


def test_distances_far_from_the_origin_keep_their_precision(library, rng):
    case = random_case(rng, N, M, D, K)
    far = np.full(D, 1024.0)  # exact in float32 for rows rounded to 1/64
    rounded = {name: np.round(getattr(case, name) * 64) / 64 for name in case.fields}
    case = case.replace(**rounded)
    moved = case.replace(**{name: x + far for name, x in rounded.items()})
    for similarity in ("euclidean", "squared_euclidean"):
        result = SoftMargin(similarity=similarity).value_and_grad(moved.batch(library, "float32"))
        assert_result(library, result, dense_loss(case, soft_margin, similarity), case, 1e-4)


# Weights and reductions -----------------------------------------------------------------------


def test_scaling_all_weights_changes_nothing_for_means(library, rng):
    case = random_case(rng, N, M, D, K, weights=True)
    for reduction in ("mean", "mean_active"):
        loss = Hinge(reduction=reduction)
        one = loss.value_and_grad(case.batch(library))
        other = loss.value_and_grad(case.replace(weights=1000 * case.weights).batch(library))
        assert_near(library.to_numpy(other.value), library.to_numpy(one.value), 1e-12)
        for name, g in one.grads.items():
            assert_near(library.to_numpy(other.grads[name]), library.to_numpy(g), 1e-12)


def test_a_weight_of_zero_leaves_the_row_out(library, rng):
    case = random_case(rng, N, M, D, K, weights=True)
    keep = case.weights > 0
    assert not keep.all()
    short = Case(
        anchors=case.anchors[keep],
        references=case.references,
        negatives=case.negatives[keep],
        positive=case.positive[keep],
        negative=case.negative[keep],
        weights=case.weights[keep],
    )
    for reduction in ("mean", "sum", "mean_active"):
        loss = Hinge(reduction=reduction)
        one, other = (loss.value_and_grad(c.batch(library)) for c in (case, short))
        assert_near(library.to_numpy(one.value), library.to_numpy(other.value))
        for name in ("anchors", "negatives"):
            g = library.to_numpy(one.grads[name])
            assert not g[~keep].any()
            assert_near(g[keep], library.to_numpy(other.grads[name]))
        assert_near(
            library.to_numpy(one.grads["references"]), library.to_numpy(other.grads["references"])
        )


def test_reductions_by_their_definitions(on_numpy, rng):
    case = random_case(rng, N, M, D, weights=True)
    case.positive[3] = False  # a row without a defined loss
    case.negative[:4] = False  # rows with a loss of 0
    batch = case.batch(on_numpy)
    results = {r: Hinge(reduction=r).value_and_grad(batch) for r in REDUCTIONS}
    losses, _ = hinge(*_masked_similarities(case))
    w = case.weights * case.positive.any(1)
    active = w * (losses > 0)
    assert 0 < np.count_nonzero(active) < np.count_nonzero(w)
    assert_near(results["none"].value, w * losses)
    assert_near(results["sum"].value, np.sum(w * losses))
    assert_near(results["mean"].value, np.sum(w * losses) / np.sum(w))
    assert_near(results["mean_active"].value, np.sum(w * losses) / np.sum(active))
    for name in case.fields:
        total = results["sum"].grads[name]
        assert_near(results["none"].grads[name], total)
        assert_near(results["mean"].grads[name], total / np.sum(w))
        assert_near(results["mean_active"].grads[name], total / np.sum(active))
    for result in results.values():
        assert_near(result.parts["active"], np.sum(active) / np.sum(w))


def _masked_similarities(case):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (case.anchors, case.references)]
    return unit[0] @ unit[1].T, case.positive, case.negative


def test_rows_count_without_a_positive_where_a_loss_says_so(on_numpy, rng):
    case = random_case(rng, N, M, D)
    case.positive[:] = False
    result = pairwise(
        SoftMargin().row_terms, case.batch(on_numpy), needs_positive=False, reduction="mean"
    )
    losses, _ = soft_margin(*_masked_similarities(case))
    assert_near(result.value, np.mean(losses))


# Fields -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrt", [(), ("anchors",), ("references",), ("negatives",), ("negatives", "anchors")]
)
def test_wrt_gives_only_what_is_asked_and_the_same(library, wrt, rng):
    case = random_case(rng, N, M, D, K, weights=True)
    for similarity in NAMES:
        loss = SoftMargin(similarity=similarity)
        full, some = (
            loss.value_and_grad(case.batch(library)),
            loss.value_and_grad(case.batch(library), wrt=wrt),
        )
        assert sorted(some.grads) == sorted(wrt)
        assert_near(library.to_numpy(some.value), library.to_numpy(full.value), 1e-14)
        for name in wrt:
            assert_near(
                library.to_numpy(some.grads[name]), library.to_numpy(full.grads[name]), 1e-14
            )


def test_wrt_among_the_anchors_themselves(library, rng):
    case = random_case(rng, N, None, D, K)
    full = SoftMargin().value_and_grad(case.batch(library))
    for wrt in (("anchors",), ("negatives",)):
        some = SoftMargin().value_and_grad(case.batch(library), wrt=wrt)
        assert list(some.grads) == list(wrt)
        assert_near(library.to_numpy(some.grads[wrt[0]]), library.to_numpy(full.grads[wrt[0]]))


def test_the_easy_call_is_the_same_call(library, rng):
    a, p, s, own = (
        library.asarray(rng.standard_normal(shape))
        for shape in ((N, D), (N, D), (M - N, D), (N, K, D))
    )
    loss, labels = SoftMargin(), [i % 3 for i in range(N)]
    for easy, batch in (
        (loss(a, p), Batch.pairs(a, p)),
        (loss(a, p, s), Batch.with_negatives(a, p, shared=s)),
        (loss(a, p, own), Batch.with_negatives(a, p, own=own)),
        (loss(a, labels=labels), Batch.labelled(a, labels)),
    ):
        want = loss.value_and_grad(batch)
        assert np.array_equal(library.to_numpy(easy.value), library.to_numpy(want.value))
        assert sorted(easy.grads) == sorted(want.grads)


# Narrow types -----------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", NAMES)
def test_float16_is_computed_in_float32(on_numpy, similarity, rng):
    case = random_case(rng, 300, 310, 8, 2)
    halves = case.batch(on_numpy, "float16")
    rounded = Case(
        positive=case.positive,
        negative=case.negative,
        **{name: np.float64(np.float16(getattr(case, name))) for name in case.fields},
    )
    loss = SoftMargin(similarity=similarity, reduction="sum")
    got, want = loss.value_and_grad(halves), loss.value_and_grad(rounded.batch(on_numpy, "float32"))
    assert got.value.dtype == np.float32
    assert_near(got.value, want.value, 1e-6)
    for name, g in got.grads.items():
        assert g.dtype == np.float16
        assert np.array_equal(g, want.grads[name].astype(np.float16))


def test_bfloat16_is_computed_in_float32(rng):
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    a, p = (torch.asarray(rng.standard_normal((9, 4))).to(torch.bfloat16) for _ in range(2))
    got, want = SoftMargin()(a, p), SoftMargin()(a.float(), p.float())
    assert got.value.dtype == torch.float32
    assert torch.equal(got.value, want.value)
    for name, g in got.grads.items():
        assert torch.equal(g, want.grads[name].to(torch.bfloat16))


def test_torch_arrays_with_a_graph_are_cut_off(rng):
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    a, p = (torch.asarray(rng.standard_normal((9, 4))).requires_grad_() for _ in range(2))
    result = SoftMargin()(a, p, weights=torch.ones(9).double().requires_grad_())
    assert not any(x.requires_grad for x in (result.value, *result.grads.values()))


# Random shapes ----------------------------------------------------------------------------------

shapes = st.tuples(
    st.integers(1, 40),
    st.one_of(st.none(), st.integers(1, 40)),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(0, 4)),
    st.integers(0, 2**32),
)


@given(shapes, st.sampled_from(NAMES), st.sampled_from(REDUCTIONS), st.booleans(), st.booleans())
def test_random_shapes(library, shape, similarity, reduction, weights, small):
    n, m, d, k, seed = shape
    if library.name == "jax":  # it compiles each operation for each shape
        n, m, d, k = ((N, M, D, K), (1, 1, 1, None))[seed % 2]
        small = False
    case = random_case(np.random.default_rng(seed), n, m, d, k, weights=weights)
    loss = SoftMargin(
        similarity=similarity, reduction=reduction, memory_budget=1 if small else 2**26
    )
    want = dense_loss(case, soft_margin, similarity, reduction)
    assert_result(library, loss.value_and_grad(case.batch(library)), want, case, 1e-8)


@given(shapes, st.sampled_from(NAMES))
def test_central_differences(on_numpy, shape, similarity):
    n, m, d, k, seed = shape
    rng = np.random.default_rng(seed)
    case = random_case(rng, n, m, d, k, weights=True)
    loss = SoftMargin(similarity=similarity, learnable_scale=True)
    params = {"log_scale": np.asarray(0.3), "bias": np.asarray(0.1)}
    result = loss.value_and_grad(case.batch(on_numpy), params)
    for name in case.fields:

        def value(x, name=name):
            changed = case.replace(**{name: x}).batch(on_numpy)
            return float(loss.value_and_grad(changed, params, wrt=()).value)

        # One number has its direction in the radius alone, where a cosine is flat or jumps.
        if d > 1 or similarity != "cosine":
            assert_is_gradient(value, getattr(case, name), result.grads[name], rng, 1e-6)
    for name in params:

        def value(x, name=name):
            return float(loss.value_and_grad(case.batch(on_numpy), {**params, name: x}).value)

        assert_is_gradient(value, params[name], result.param_grads[name], rng)


# Blocks, threads, kernels, jit ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_any_block_size_is_equal_within_rounding(library, dtype, similarity, rng):
    if library.name == "jax" and (dtype == "float32") != (similarity == "cosine"):
        pytest.skip("one of each is enough where every shape is compiled")
    n = N if library.name == "jax" else 203
    cases = [random_case(rng, n, M, D, K, weights=True), random_case(rng, n, None, D)]
    tolerance = 8 * np.finfo(dtype).eps * np.sqrt(n)
    for case in cases:
        results = [
            SoftMargin(
                similarity=similarity, learnable_scale=True, memory_budget=budget
            ).value_and_grad(
                case.batch(library, dtype),
                {name: library.asarray(x, dtype) for name, x in (("log_scale", 0.5), ("bias", 0))},
            )
            for budget in (1, 2**30)
        ]
        for other in results[:-1]:
            for name in (None, *case.fields, "log_scale", "bias"):
                got, want = (
                    r.value if name is None else {**r.grads, **r.param_grads}[name]
                    for r in (other, results[-1])
                )
                assert_near(library.to_numpy(got), library.to_numpy(want), tolerance, 0)


def test_blocks_do_not_depend_on_threads(on_numpy, monkeypatch, rng):
    case = random_case(rng, 1000, 900, 16, 2, weights=True)
    lists = Listed(rng.integers(-1, 900, (1000, 2)), rng.integers(-1, 900, (1000, 20)), 900)
    itself = random_case(rng, 700, None, 16)
    for dtype in ("float32", "float64"):
        batches = [
            case.batch(on_numpy, dtype),
            case.batch(on_numpy, dtype, lists),
            itself.batch(on_numpy, dtype),
        ]
        for batch in batches:
            for similarity in ("cosine", "euclidean"):
                found = []
                for threads in ("1", "2", "3", "2"):
                    monkeypatch.setenv("COREFRAME_THREADS", threads)
                    result = SoftMargin(similarity=similarity, memory_budget=2**22).value_and_grad(
                        batch
                    )
                    found.append([result.value, *result.grads.values()])
                for other in found[1:]:
                    for x, y in zip(found[0], other, strict=True):
                        assert x.tobytes() == y.tobytes()


def test_runs_repeat_bit_for_bit(library, rng):
    case = random_case(rng, N, M, D, K, weights=True)
    one, other = (SoftMargin(memory_budget=1).value_and_grad(case.batch(library)) for _ in range(2))
    for name in case.fields:
        assert np.array_equal(
            library.to_numpy(one.grads[name]), library.to_numpy(other.grads[name])
        )


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_references_and_kernels_agree(library, similarity, monkeypatch, rng):
    n = N if library.name == "jax" else 203
    case, positives, negatives = with_listed(rng, n, MANY, D, K)
    relation = Listed(library.asarray(positives), library.asarray(negatives), MANY)
    itself = random_case(rng, n, None, D)
    batches = [case.batch(library), case.batch(library, relation=relation), itself.batch(library)]
    for batch in batches:
        loss = SoftMargin(similarity=similarity)
        fast = loss.value_and_grad(batch)
        monkeypatch.setenv("COREFRAME_KERNELS", "off")
        plain = loss.value_and_grad(batch)
        monkeypatch.delenv("COREFRAME_KERNELS")
        tolerance = 8 * np.finfo("float64").eps * np.sqrt(n)
        assert_near(library.to_numpy(fast.value), library.to_numpy(plain.value), tolerance)
        for name, g in plain.grads.items():
            assert_near(library.to_numpy(fast.grads[name]), library.to_numpy(g), tolerance)


@given(shapes)
def test_an_author_who_writes_to_fresh_arrays_only_sees_no_difference(on_numpy, shape):
    """Blocks may reuse memory: what a row_terms returned for one block must not change later."""
    n, m, d, k, seed = shape
    case = random_case(np.random.default_rng(seed), 3 * n, m, d, k)
    seen = []

    def row_terms(similarities, positive, negative):
        losses, gradient = SoftMargin().row_terms(similarities, positive, negative)
        seen.append((losses, losses.copy()))
        return losses, gradient

    with environment(COREFRAME_THREADS="1"):
        result = pairwise(row_terms, case.batch(on_numpy), memory_budget=1)
    assert_result(on_numpy, result, dense_loss(case, soft_margin, "cosine"), case, 1e-8)
    for losses, copy in seen:
        assert np.array_equal(losses, copy)


@pytest.mark.parametrize("similarity", ["cosine", "euclidean"])
def test_jit_equals_eager(similarity, rng):
    jax = pytest.importorskip("jax", reason="the package jax is not installed")
    jax.config.update("jax_enable_x64", True)
    case, positives, negatives = with_listed(rng, N, MANY, D, K)
    relations = [
        masked(case.positive, case.negative),
        Listed(positives, negatives, MANY),
        Aligned(N, MANY),
        SameLabel(rng.integers(0, 5, N), rng.integers(0, 5, MANY)),
    ]

    def run(relation, anchors, references, own, weights, params):
        batch = Batch(
            anchors=anchors,
            references=references,
            negatives=own,
            weights=weights,
            relation=relation,
        )
        budget = 1 if relation is relations[0] else 2**26  # blocks, which are compiled each
        loss = SoftMargin(similarity=similarity, learnable_scale=True, memory_budget=budget)
        result = loss.value_and_grad(batch, params)
        return result.value, dict(result.grads), dict(result.param_grads)

    arrays = [case.anchors, case.references, case.negatives, case.weights]
    arrays = [jax.numpy.asarray(x) for x in arrays]
    params = {"log_scale": jax.numpy.asarray(0.2), "bias": jax.numpy.asarray(0.1)}
    for relation in relations if similarity == "cosine" else relations[1:2]:
        eager = run(relation, *arrays, params)
        jitted = jax.jit(lambda *x, relation=relation: run(relation, *x))(*arrays, params)
        for x, y in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
            assert_near(x, y, 1e-10)


# Memory -----------------------------------------------------------------------------------------

PEAK = """
import resource, sys
import numpy as np
from dataclasses import dataclass
from coreframe.blocks import HOST_BUDGET
sys.path.insert(0, sys.argv[1])
from test_engine import SoftMargin

def peak():
    # The high-water mark of this program alone: ru_maxrss is inherited from who started it.
    try:
        with open("/proc/self/status") as lines:
            return next(int(x.split()[1]) * 1024 for x in lines if x.startswith("VmHWM"))
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

n, d = 16384, 128
rng = np.random.default_rng(0)
a, p = (rng.standard_normal((n, d), dtype=np.float32) for _ in range(2))
loss = SoftMargin()
loss(a[:64], p[:64])
before = peak()
result = loss(a, p)
rise = peak() - before
extra = rise - sum(g.nbytes for g in result.grads.values()) - 3 * a.nbytes
assert np.isfinite(result.value)
print(extra, HOST_BUDGET)
"""


@pytest.mark.slow
def test_extra_memory_stays_within_the_budget():
    """One (n, n) matrix would be 1 GiB."""
    pytest.importorskip("resource", reason="this system does not tell the peak memory")
    import os

    run = subprocess.run(
        [sys.executable, "-c", PEAK, os.path.dirname(__file__)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert run.returncode == 0, run.stderr
    extra, budget = map(int, run.stdout.split())
    assert budget == 64 * 2**20
    assert extra <= budget, f"{extra / 2**20:.0f} MiB"
