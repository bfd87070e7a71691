"""The losses of the Rust seed, which computes in float32: one anchor, its positive, K negatives."""

from __future__ import annotations

import numpy as np
import pytest
from goldens import case as named
from goldens import fault, golden
from support import assert_is_gradient, assert_near

from coreframe.batch import Batch
from coreframe.errors import ArgumentError
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.local_contrastive import LocalContrastive

FIELDS = ("anchors", "references", "negatives")


def arrays(case):
    """Return the anchor (1, d), the positive (1, d) and the anchor's own negatives (1, K, d)."""
    a, p = (np.array([case.inputs[name]], np.float64) for name in ("anchor", "positive"))
    own = np.array(case.inputs.get("negatives", []), np.float64).reshape(1, -1, a.shape[1])
    return a, p, own


def assert_gradients(call, given, result, rng):
    """Assert the gradients of all three, by central differences."""
    for i, name in enumerate(FIELDS):
        assert_is_gradient(
            lambda x, i=i: float(np.sum(call(*given[:i], x, *given[i + 1 :]).value)),
            given[i],
            result.grads[name],
            rng,
            1e-6,
        )


# InfoNCE ------------------------------------------------------------------------------------------

FAULTY = ("infonce/hard_case_T0.01", "infonce/seed_test_vectors")


@golden("rust", "infonce/", without=(*FAULTY, "infonce/T0.001", "infonce/zero_anchor"))
def test_info_nce(case, rng):
    a, p, own = arrays(case)
    loss = InfoNCE(**case.params)
    result = loss(a, p, own)
    assert_near(result.value, case.output["loss"], 1e-5)
    assert_near(result.grads["anchors"][0], case.output["grad_anchor"], 1e-6, 1e-6)
    if own.size:
        assert_gradients(loss, (a, p, own), result, rng)
        shared = loss(a, p, own[0])  # for one anchor the same as shared negatives
        assert_near(shared.value, result.value)
        assert_near(shared.grads["references"][1:], result.grads["negatives"][0])


@fault(33, *(f"rust:{name}" for name in FAULTY))
def test_value_and_gradient_come_from_one_path(library):
    case = named("rust:infonce/hard_case_T0.01")
    for dtype in ("float32",) if library.name == "jax" else ("float32", "float64"):
        a, p, own = (library.asarray(x, dtype) for x in arrays(case))
        result = InfoNCE(temperature=0.01)(a, p, own)
        assert_near(library.to_numpy(result.value), 200.0, 1e-6)  # never Infinity
        case2 = named("rust:infonce/seed_test_vectors")
        a, p, own = (library.asarray(x, dtype) for x in arrays(case2))
        result = InfoNCE(temperature=0.07)(a, p, own)
        # In float32 the similarity itself is known to 6e-8, which is 1e-6 of this loss.
        assert_near(library.to_numpy(result.value), 1.3638588303e-6, 3e-6, 0)


@fault(34, "rust:infonce/zero_anchor")
def test_a_zero_anchor_has_gradient_zero(library):
    case = named("rust:infonce/zero_anchor")
    a, p, own = (library.asarray(x) for x in arrays(case))
    result = InfoNCE(**case.params)(a, p, own)
    assert_near(library.to_numpy(result.value), case.output["loss"], 1e-6)
    assert not library.to_numpy(result.grads["anchors"]).any()


@fault(35)
def test_all_three_have_gradients(rng):
    for case, kind in (("infonce/T0.5", InfoNCE), ("local/margin4_Mean", LocalContrastive)):
        given = arrays(named(f"rust:{case}"))
        loss = kind(temperature=0.5) if kind is InfoNCE else kind(margin=4.0)
        result = loss(*given)
        assert sorted(result.grads) == sorted(FIELDS)
        for name, x in zip(FIELDS, given, strict=True):
            assert result.grads[name].shape == x.shape
            assert np.abs(result.grads[name]).max() > 0.01
        assert_gradients(loss, given, result, rng)


@fault(37, "rust:infonce/T0.001")
def test_a_temperature_is_taken_as_it_is_or_refused():
    case = named("rust:infonce/T0.001")
    a, p, own = arrays(case)
    result = InfoNCE(**case.params)(a, p, own)
    clamped = InfoNCE(temperature=0.01)(a, p, own)
    assert_near(clamped.value, case.output["loss"], 1e-6)
    assert result.value > 9 * clamped.value
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ArgumentError, match=r"InfoNCE.temperature must be (above 0|finite)"):
            InfoNCE(temperature=temperature)


# LocalContrastive ---------------------------------------------------------------------------------


def local(case):
    over = case.params.get("reduction", "Mean").lower()
    reduction = "none" if over == "none" else "mean"
    return LocalContrastive(margin=case.params["margin"], over_negatives=over, reduction=reduction)


@golden("rust", "local/")
def test_local_contrastive(case, rng):
    """Values are those of its compute; gradients those of Sum and None, or of differences."""
    given, loss = arrays(case), local(case)
    result = loss(*given)
    if loss.over_negatives == "none":
        assert_near(result.value[0, 0], case.output["loss"], 1e-6)
        assert_near(np.mean(result.value), case.output["loss_with_gradients"], 1e-6)
    else:
        assert_near(result.value, case.output["loss"], 1e-6)
    if loss.over_negatives != "mean":
        assert_near(result.grads["anchors"][0], case.output["grad_anchor"], 1e-6)
    if not given[2].size:
        assert not result.grads["anchors"].any()
    elif (given[0] != given[1]).any():  # where they coincide the distance has a kink
        assert_gradients(loss, given, result, rng)


@fault(
    32,
    "rust:local/margin0.25_Mean",
    "rust:local/margin1_Mean",
    "rust:local/anchor_is_positive",
    "rust:local/margin1_None",
)
def test_a_mean_is_over_all_negatives_in_value_and_gradient():
    for name in ("margin0.25_Mean", "margin1_Mean", "anchor_is_positive"):
        case = named(f"rust:local/{name}")
        a, p, own = arrays(case)
        k = own.shape[1]
        each = LocalContrastive(
            margin=case.params["margin"], over_negatives="none", reduction="none"
        )(a, p, own)
        active = int(np.sum(each.value > 0))
        assert active < k
        result = local(case)(a, p, own)
        assert_near(result.value, np.sum(each.value) / k)
        assert_near(result.grads["anchors"], each.grads["anchors"] / k)
        # The seed's gradient, and its second value, are over the active ones.
        assert_near(result.value * k / active, case.output["loss_with_gradients"], 1e-6)
        assert_near(result.grads["anchors"][0] * k / active, case.output["grad_anchor"], 1e-6)


def test_single_anchor_form_is_the_batch_form(rng):
    """K negatives for one anchor, and the same as three rows of a batch."""
    a, p, own = (
        rng.standard_normal((3, 4)),
        rng.standard_normal((3, 4)),
        rng.standard_normal((3, 5, 4)),
    )
    whole = InfoNCE(reduction="none").value_and_grad(
        Batch.with_negatives(a, p, own=own, in_batch=False)
    )
    for i in range(3):
        one = InfoNCE()(a[i : i + 1], p[i : i + 1], own[i : i + 1])
        assert_near(one.value, whole.value[i])
        assert_near(one.grads["anchors"][0], whole.grads["anchors"][i])
        assert_near(one.grads["negatives"][0], whole.grads["negatives"][i])
