"""Losses made of losses: weighted sums, both directions, and weights that share one batch."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_near

from coreframe.batch import Batch
from coreframe.compose import Symmetric, WeightedSum
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.loss import Loss, LossResult
from coreframe.registry import build
from coreframe_losses.contrastive import Contrastive
from coreframe_losses.cosine_embedding import CosineEmbedding
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.mse import MSE

N, D = 6, 4
PARTS = {"match": InfoNCE(temperature=0.3), "near": MSE()}
WEIGHTS = {"near": 0.25}


def test_value_parts_and_gradients_are_weighted_sums(library, rng):
    a, p, shared = (library.asarray(rng.standard_normal((n, D))) for n in (N, N, 3))
    own = library.asarray(rng.standard_normal((N, 2, D)))
    w = library.asarray(rng.uniform(0.1, 2, N))
    batch = Batch.with_negatives(a, p, shared=shared, own=own, weights=w)
    result = WeightedSum(losses=PARTS, weights=WEIGHTS).value_and_grad(batch)
    match, near = (PARTS[k].value_and_grad(batch) for k in ("match", "near"))
    get = library.to_numpy
    assert_near(get(result.value), get(match.value) + 0.25 * get(near.value))
    assert_near(get(result.parts["match"]), get(match.value))
    assert_near(get(result.parts["near"]), get(near.value))  # before its weight
    assert_near(get(result.parts["match.active"]), get(match.parts["active"]))
    for name in ("anchors", "references", "negatives"):
        want = get(match.grads[name]) + 0.25 * get(near.grads[name])
        assert_near(get(result.grads[name]), want)


@pytest.mark.parametrize("wrt", [(), ("anchors",), ("negatives",), ("negatives", "anchors")])
def test_wrt_holds_for_fields_that_a_part_does_not_read(library, wrt, rng):
    a, p = (library.asarray(x) for x in rng.standard_normal((2, N, D)))
    own = library.asarray(rng.standard_normal((N, 2, D)))
    batch = Batch.with_negatives(a, p, own=own)
    loss = WeightedSum(losses=PARTS)
    whole, some = loss.value_and_grad(batch), loss.value_and_grad(batch, wrt=wrt)
    assert sorted(some.grads) == sorted(wrt)
    for name in wrt:
        assert_near(library.to_numpy(some.grads[name]), library.to_numpy(whole.grads[name]))
    only = WeightedSum(losses={"near": MSE()}).value_and_grad(batch, wrt=("negatives",))
    assert not library.to_numpy(only.grads["negatives"]).any()


class AnchorsOnly(Loss):
    """A loss of somebody else that leaves out what it does not read."""

    def value_and_grad(self, batch, params=None, *, wrt=None):
        x = batch.anchors
        return LossResult((x * x).sum(), {"anchors": 2 * x} if "anchors" in (wrt or ()) else {})


def test_a_part_may_leave_out_gradients(rng):
    a, p = rng.standard_normal((2, N, D))
    loss = WeightedSum(losses={"other": AnchorsOnly()})
    result = loss.value_and_grad(Batch.pairs(a, p), wrt=("anchors", "references"))
    assert_near(result.grads["anchors"], 2 * a)
    assert_near(result.grads["references"], np.zeros((N, D)))


def test_rows_of_a_sum(library, rng):
    a, p = (library.asarray(x) for x in rng.standard_normal((2, N, D)))
    parts = {"match": InfoNCE(reduction="none"), "near": MSE(reduction="none")}
    result = WeightedSum(losses=parts, weights={"match": 2.0})(a, p)
    want = 2 * library.to_numpy(parts["match"](a, p).value)
    want = want + library.to_numpy(parts["near"](a, p).value)
    assert_near(library.to_numpy(result.value), want)
    with pytest.raises(ArgumentError, match=r"'near' has a value of shape \(6,\).*before it \(\)"):
        WeightedSum(losses={"match": InfoNCE(), "near": MSE(reduction="none")})(a, p)


def test_weights_of_numpy_do_not_widen(on_numpy, rng):
    a, p = rng.standard_normal((2, N, D)).astype(np.float32)
    result = WeightedSum(losses=PARTS, weights={"near": np.float64(0.5)})(a, p)
    assert result.value.dtype == result.grads["anchors"].dtype == np.float32


def test_learned_parameters_are_named_by_their_loss(library, rng):
    a, p = (library.asarray(x) for x in rng.standard_normal((2, N, D)))
    inner = InfoNCE(learnable_scale=True)
    loss = WeightedSum(losses={"match": inner, "near": MSE()}, weights={"match": 3.0})
    start = loss.init(None, D)
    assert sorted(start) == ["match.bias", "match.log_scale"]
    params = {name: library.asarray(np.full((), 0.1)) for name in start}
    result = loss(a, p, params=params)
    alone = inner(a, p, params={k: params[f"match.{k}"] for k in ("log_scale", "bias")})
    for k, g in alone.param_grads.items():
        assert_near(library.to_numpy(result.param_grads[f"match.{k}"]), 3 * library.to_numpy(g))


def test_sums_that_cannot_be():
    with pytest.raises(ArgumentError, match="must name at least one loss"):
        WeightedSum(losses={})
    with pytest.raises(ArgumentError, match=r"weights names \['far'\]"):
        WeightedSum(losses=PARTS, weights={"far": 1.0})
    with pytest.raises(ArgumentError, match="must be finite"):
        WeightedSum(losses=PARTS, weights={"near": float("nan")})
    with pytest.raises(ArgumentTypeError, match=r"weights\['near'\] must be a number, got '2'"):
        WeightedSum(losses=PARTS, weights={"near": "2"})
    with pytest.raises(ArgumentError, match="a dot parts"):
        WeightedSum(losses={"a.b": MSE()})


def test_it_is_registered():
    loss = build("losses", "weighted_sum", losses=PARTS, weights=WEIGHTS)
    assert loss == WeightedSum(losses=PARTS, weights=WEIGHTS)


def test_both_directions_of_labelled_pairs(library, rng):
    """The label of a pair is the same from either side."""
    a, p = (library.asarray(x) for x in rng.standard_normal((2, N, D)))
    loss, y = CosineEmbedding(), [1, -1, -1, 1, -1, 1]
    one = loss(a, p, labels=y)
    both = Symmetric(loss=loss).value_and_grad(Batch.labelled_pairs(a, p, y))
    assert_near(library.to_numpy(both.value), library.to_numpy(one.value))
    for name in ("anchors", "references"):
        assert_near(library.to_numpy(both.grads[name]), library.to_numpy(one.grads[name]))


def test_shared_negatives_take_no_part_in_the_second_direction(library, rng):
    """Of a loss, too, for which a row of negatives alone counts."""
    a, p, shared = (library.asarray(rng.standard_normal((n, D))) for n in (N, N, 3))
    loss = Contrastive()
    result = Symmetric(loss=loss)(a, p, shared)
    forth, back = loss(a, p, shared), loss(p, a)
    get = library.to_numpy
    assert_near(get(result.value), (get(forth.value) + get(back.value)) / 2)
    want = (get(forth.grads["anchors"]) + get(back.grads["references"])) / 2
    assert_near(get(result.grads["anchors"]), want)
