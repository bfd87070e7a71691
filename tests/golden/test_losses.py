"""The losses of the JavaScript seed: values to its own precision, faults put right.

Its cosine adds 1e-8 to the product of the lengths, and its contrastive loss 1e-8 to the
denominator; ours add nothing, so values agree to 1e-6 there and to rounding elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from goldens import case as named
from goldens import fault, golden
from support import assert_near

from coreframe.batch import Batch
from coreframe.compose import WeightedSum
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.loss import Loss, LossResult
from coreframe.tiles import similarity_rows
from coreframe_losses.cosine_embedding import CosineEmbedding
from coreframe_losses.cross_entropy import CrossEntropy
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.mse import MSE
from coreframe_losses.triplet import Triplet

EPS = 1e-8  # what the seed adds


def arrays(case, *names):
    return [np.array(case.inputs[name], np.float64) for name in names]


def renamed(params, **names):
    """Return the seed's parameters by our names."""
    return {names.get(key, key): value for key, value in params.items()}


def refused(call, text, error=ArgumentError):
    with pytest.raises(error, match=text):
        call()


# Similarity ---------------------------------------------------------------------------------------


def similarity(a, b, name):
    batch = Batch.pairs(a[None, :], b[None, :])
    ((_, s, _, _),) = similarity_rows(batch, name)
    return float(s[0, 0])


@golden("js", "similarity/", without=("similarity/length_mismatch",))
def test_similarity(case):
    a, b = arrays(case, "a", "b")
    product = np.linalg.norm(a) * np.linalg.norm(b)
    ours = similarity(a, b, "cosine") * product / (product + EPS)
    assert_near(ours, case.output["cosine"], 1e-12)
    assert_near(-similarity(a, b, "euclidean"), case.output["euclidean"], 1e-12, 1e-25)


def test_tiny_vectors_keep_their_angle():
    """Which the seed crushes to 4e-17."""
    a, b = arrays(named("js:similarity/tiny"), "a", "b")
    want, want_b = arrays(named("js:similarity/general"), "a", "b")
    general = similarity(want, want_b, "cosine")
    assert abs(similarity(a, b, "cosine") - general) < 1e-12


@fault(47, "js:similarity/length_mismatch", "js:mse/length_mismatch")
def test_lengths_must_agree():
    a, b = arrays(named("js:similarity/length_mismatch"), "a", "b")
    refused(lambda: similarity(a, b, "cosine"), "positives must have width 8.*got 5")
    p, t = arrays(named("js:mse/length_mismatch"), "predictions", "targets")
    refused(lambda: MSE()(p, t), "positives must have width 3.*got 2")
    refused(lambda: MSE()(p[[0, 0]], p), "row i with row i")


# Contrastive: InfoNCE in a batch, and with explicit negatives -------------------------------------


def info_nce_batch(case):
    a, p = arrays(case, "anchors", "positives")
    given = case.inputs.get("negatives")
    if given is None:
        return Batch.pairs(a, p)
    shared = np.reshape(np.array(given, np.float64), (-1, a.shape[1]))
    return Batch.with_negatives(a, p, shared=shared, in_batch=False)


def info_nce(case, **changes):
    loss = InfoNCE(**{**case.params, **changes})
    return loss.value_and_grad(info_nce_batch(case))


def true_info_nce(case, temperature=0.07, margin=0.0):
    """The formula in log-sum-exp form: the negatives are those of the case."""
    batch = info_nce_batch(case)
    a, r = (x / np.linalg.norm(x, axis=1)[:, None] for x in (batch.anchors, batch.references))
    n = len(a)
    s = a @ r.T
    positive = np.eye(n, len(r), dtype=bool)
    negative = ~positive if case.inputs.get("negatives") is None else np.arange(len(r)) >= n
    gaps = (s - s[positive][:, None] + margin) / temperature
    gaps = np.where(positive, 0.0, np.where(negative & ~positive, gaps, -np.inf))
    return np.mean(np.logaddexp.reduce(gaps, axis=1))


MARGINS = (
    "contrastive/inbatch_T0.07_margin0.2",
    "contrastive/inbatch_T0.07_margin0.5",
    "contrastive/inbatch_T0.5_margin0.2",
    "contrastive/inbatch_T0.5_margin0.5",
    "contrastive/explicit5_margin0.3",
)
UNSTABLE = (
    "contrastive/eps_bias_single_opposite",
    "contrastive/explicit_empty_list",
    "contrastive/overflow_T0.0014",
    "contrastive/overflow_T0.001",
    "contrastive/underflow_opposite",
    "contrastive/underflow_opposite_T0.0013",
)
OTHER = ("contrastive/empty_batch", "contrastive/hard_negatives_batch_n12_d16")


@golden("js", "contrastive/", without=(*MARGINS, *UNSTABLE, *OTHER))
def test_contrastive(case):
    result = info_nce(case)
    assert_near(result.value, case.output["loss"], 1e-6, 1e-9)
    if "per_anchor" in case.output:
        assert_near(info_nce(case, reduction="none").value, case.output["per_anchor"], 1e-6)
    assert np.isfinite(result.grads["anchors"]).all()


@fault(1, *(f"js:{name}" for name in MARGINS))
def test_a_margin_changes_the_loss():
    for name in MARGINS:
        case = named(f"js:{name}")
        result, without = info_nce(case), info_nce(case, margin=0.0)
        assert_near(result.value, true_info_nce(case, **case.params))
        assert result.value > without.value + 1e-3
        assert np.abs(result.grads["anchors"] - without.grads["anchors"]).max() > 1e-6


@fault(2, *(f"js:{name}" for name in UNSTABLE))
def test_no_temperature_overflows_and_nothing_is_added():
    for name in UNSTABLE[2:4]:
        case = named(f"js:{name}")
        result = info_nce(case)
        assert_near(result.value, true_info_nce(case, **case.params), 1e-9, 1e-300)
        assert np.isfinite(result.grads["anchors"]).all()
    for name in UNSTABLE[4:]:
        case = named(f"js:{name}")
        assert_near(info_nce(case).value, 2 / case.params["temperature"])
    for name in UNSTABLE[:2]:  # no negatives: exactly 0
        result = info_nce(named(f"js:{name}"))
        assert result.value == 0
        assert not result.grads["anchors"].any()


def test_opposite_pairs_at_any_temperature(library):
    a = library.asarray(np.array([[1.0, 0.0]]))
    for dtype in ("float32",) if library.name == "jax" else ("float32", "float64"):
        a = library.asarray(np.array([[1.0, 0.0]]), dtype)
        for temperature in (1.0, 1e-2, 1e-4, 1e-8, 1e-20):
            batch = Batch.with_negatives(a, -a, shared=a, in_batch=False)
            result = InfoNCE(temperature=temperature).value_and_grad(batch)
            small = np.log1p(np.exp(-2 / temperature))
            assert_near(library.to_numpy(result.value), 2 / temperature + small, 1e-6)
            assert np.isfinite(library.to_numpy(result.grads["anchors"])).all()


@fault(3, "js:contrastive/hard_negatives_batch_n12_d16")
def test_a_mined_negative_is_its_anchors_own():
    """Shared with all, mined negatives hold the positives of 8 of these 12 anchors."""
    case = named("js:contrastive/hard_negatives_batch_n12_d16")
    a, p = arrays(case, "anchors", "positives")
    mined = np.array(case.inputs["negative_indices"])
    assert len(set(mined)) == case.output["distinct_negatives"]
    batch = Batch.with_negatives(a, p, own=p[mined][:, None, :], in_batch=False)
    result = InfoNCE(reduction="none").value_and_grad(batch)
    u, v = (x / np.linalg.norm(x, axis=1)[:, None] for x in (a, p))
    gap = (np.sum(u * v[mined], 1) - np.sum(u * v, 1)) / 0.07
    assert_near(result.value, np.logaddexp(0, gap))
    assert float(np.mean(result.value)) < case.output["loss"]


@fault(4)
def test_an_equal_item_is_no_negative(library, rng):
    """Rows 0 and 2 have one document: with ids it is nobody's negative there."""
    a, p = rng.standard_normal((2, 4, 5))
    p[2] = p[0]
    a, p = library.asarray(a), library.asarray(p)
    loss = InfoNCE(temperature=0.5, reduction="none")
    plain, known = loss(a, p), loss(a, p, ids=["x", "y", "x", "z"])
    without = InfoNCE(temperature=0.5, reduction="none")(a, p, ids=[0, 1, 0, 3])
    plain, known, without = (library.to_numpy(x.value) for x in (plain, known, without))
    assert (known[[0, 2]] < plain[[0, 2]] - 1e-6).all()
    assert_near(known[[1, 3]], plain[[1, 3]])
    assert_near(known, without)
    # and with explicit negatives alone
    batch = Batch.with_negatives(
        a, p, shared=p, ids=[0, 1, 0, 3], reference_ids=[0, 1, 0, 3] * 2, in_batch=False
    )
    assert_near(library.to_numpy(loss.value_and_grad(batch).value), known)


@fault(
    49,
    "js:contrastive/empty_batch",
    "js:crossEntropy/empty",
    "js:mse/zero_dim",
)
def test_an_empty_batch_is_an_error():
    nothing = np.zeros((0, 8))
    refused(lambda: InfoNCE()(nothing, nothing), "anchors is empty")
    refused(lambda: CrossEntropy()(nothing, labels=[]), "logits is empty")
    refused(lambda: MSE()(nothing, nothing), "anchors is empty")
    refused(lambda: MSE()(np.zeros((1, 0)), np.zeros((1, 0))), "anchors is empty")
    refused(lambda: CosineEmbedding()(nothing, nothing), "anchors is empty")
    refused(lambda: Triplet()(nothing, nothing, nothing), "anchors is empty")


# Triplet ------------------------------------------------------------------------------------------


@golden("js", "triplet/", without=("triplet/missing_negatives",))
def test_triplet(case):
    a, p, n = arrays(case, "anchors", "positives", "negatives")
    result = Triplet(**case.params)(a, p, n)
    assert_near(result.value, case.output["loss"], 1e-12)
    for g in result.grads.values():
        assert np.isfinite(g).all()


@golden("js", "triplet/missing_negatives")
def test_triplets_without_their_negatives(case):
    n = [np.ones((case.inputs[name], 3)) for name in ("anchors", "positives", "negatives")]
    assert "throws" in case.output
    refused(lambda: Triplet()(*n), "must have as many rows as each other, got 2, 2 and 1")


# Cross entropy ------------------------------------------------------------------------------------

OUT_OF_RANGE = (
    "crossEntropy/target_out_of_range",
    "crossEntropy/target_out_of_range_smoothed",
    "crossEntropy/target_negative",
)


def cross_entropy(case):
    loss = CrossEntropy(**renamed(case.params, labelSmoothing="label_smoothing"))
    return loss(*arrays(case, "predictions"), labels=case.inputs["targets"])


@golden(
    "js",
    "crossEntropy/",
    without=(*OUT_OF_RANGE, "crossEntropy/masked_logit_smoothed", "crossEntropy/empty"),
)
def test_cross_entropy(case):
    assert_near(cross_entropy(case).value, case.output["loss"], 1e-12)


@golden("js", "crossEntropy/masked_logit_smoothed")
def test_a_masked_class_takes_no_part_in_the_smoothing(case):
    """Ours deviates: the seed and torch spread the target over the masked class too: infinite."""
    assert case.output["loss"] == np.inf
    two = CrossEntropy(label_smoothing=0.1)(np.array([[1.0, 2.0]]), labels=[0])
    result = cross_entropy(case)
    assert_near(result.value, two.value)
    assert_near(result.grads["anchors"], [[*two.grads["anchors"][0], 0.0]])


@fault(46, *(f"js:{name}" for name in OUT_OF_RANGE))
def test_a_target_out_of_range_is_an_error():
    for name, got in zip(OUT_OF_RANGE, (2, 2, -1), strict=True):
        refused(
            lambda name=name: cross_entropy(named(f"js:{name}")),
            f"labels must be from 0 to 1, since there are 2 logits a row, got {got} in row 0",
        )


# MSE and cosine embedding -------------------------------------------------------------------------


@golden("js", "mse/", without=("mse/length_mismatch", "mse/zero_dim"))
def test_mse(case):
    p, t = arrays(case, "predictions", "targets")
    result = MSE()(p, t)
    assert_near(result.value, case.output["loss"], 1e-12)
    assert_near(result.grads["anchors"], 2 * (p - t) / p.size)
    assert_near(result.grads["references"], 2 * (t - p) / p.size)


@golden("js", "cosineEmbedding/", without=("cosineEmbedding/label_zero_and_soft",))
def test_cosine_embedding(case):
    p, t = arrays(case, "predictions", "targets")
    result = CosineEmbedding(**case.params)(p, t, labels=case.inputs.get("labels"))
    assert_near(result.value, case.output["loss"], 1e-7)


@fault(48, "js:cosineEmbedding/label_zero_and_soft")
def test_labels_that_say_nothing_are_an_error():
    case = named("js:cosineEmbedding/label_zero_and_soft")
    p, t = arrays(case, "predictions", "targets")
    refused(
        lambda: CosineEmbedding()(p, t, labels=case.inputs["labels"]),
        "labels must be bool or integers, 1 for similar and 0 or -1",
        ArgumentTypeError,
    )
    zero, minus, truth = (
        CosineEmbedding()(p, t, labels=labels).value
        for labels in ([0, 1, 1], [-1, 1, 1], [False, True, True])
    )
    assert zero == minus == truth


# Combining ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Fixed(Loss):
    """A loss of a known value."""

    loss: float
    components: dict = None

    def value_and_grad(self, batch, params=None, *, wrt=None):
        return LossResult(np.float64(self.loss), {"anchors": 0 * batch.anchors})


@golden("js", "combine/", without=("combine/empty",))
def test_combine(case):
    """Parts are named once and hold values before their weights; the seed's hold them after."""
    given = case.inputs["losses"]
    names = [f"{i}" for i in range(len(given))]
    total = WeightedSum(
        losses={name: Fixed(**x["loss"]) for name, x in zip(names, given, strict=True)},
        weights={name: x["weight"] for name, x in zip(names, given, strict=True)},
    )
    result = total.value_and_grad(Batch.labelled(np.ones((1, 1)), [0]))
    assert_near(result.value, case.output["loss"], 1e-12)
    weighted: dict[str, float] = {}
    for name, x in zip(names, given, strict=True):
        for component in x["loss"].get("components", {}):
            more = float(result.parts[name]) * x["weight"]
            weighted[component] = weighted.get(component, 0) + more
    assert weighted == pytest.approx(case.output["components"], rel=1e-12)


@golden("js", "combine/empty")
def test_combining_nothing_is_an_error(case):
    """Ours deviates: a sum of no losses is a mistake in a configuration, and not a loss of 0."""
    assert case.output == {"loss": 0, "components": {}}
    refused(lambda: WeightedSum(losses={}), "must name at least one loss")
