"""Mining as the two older systems recorded it, and what is different on purpose.

Their miners draw the same numbers at each call (fault 39), which no option brings back: of what
was drawn, only how many and from where is compared.
"""

from __future__ import annotations

import numpy as np
import pytest
from goldens import case as golden_case
from goldens import fault, golden

from coreframe.batch import Batch
from coreframe.compose import Mined
from coreframe.miner import Miner
from coreframe.random import stream
from coreframe.relation import Listed
from coreframe_losses.info_nce import InfoNCE
from coreframe_miners.hardest import Hardest
from coreframe_miners.in_batch import InBatch
from coreframe_miners.random import Random
from coreframe_miners.semi_hard import SemiHard
from coreframe_miners.softmax_weighted import SoftmaxWeighted

DRAWS = 20_000


def reals(x) -> np.ndarray:
    return np.array(x, dtype=np.float64)


def select(miner: Miner, case, k: int, rng=None) -> list[int]:
    """Choose for the one anchor of a case; empty places are left out."""
    anchor, positive = (reals(case.inputs[name])[None] for name in ("anchor", "positive"))
    found = miner.select(anchor, positive, reals(case.inputs["candidates"]), k, rng=rng)
    assert found.shape == (1, k)
    return [int(j) for j in found[0] if j >= 0]


def drawn(miner: Miner, case, k: int = 1, seed: int = 0) -> np.ndarray:
    """Draw k for as many anchors as DRAWS, all alike, in one call."""
    anchor = reals(case.inputs["anchor"])
    positive = reals(case.inputs.get("positive", -anchor))
    a, p = (np.repeat(x[None], DRAWS, axis=0) for x in (anchor, positive))
    candidates = reals(case.inputs["candidates"])
    return miner.select(a, p, candidates, k, rng=stream(seed, "golden"))


def chi_square(counts: np.ndarray, shares: np.ndarray) -> float:
    expected = counts.sum() * shares / shares.sum()
    return float(np.sum((counts - expected) ** 2 / expected))


def mined(anchors: np.ndarray, positives: np.ndarray) -> list[int]:
    relation = Hardest(k=1).mine(Batch.pairs(anchors, positives), rng=None)
    assert isinstance(relation, Listed)
    return relation.negatives[:, 0].tolist()


# Hardest ------------------------------------------------------------------------------------


@golden(
    "rust",
    "mining/HardNegative_k0",
    "mining/HardNegative_k3",
    "mining/HardNegative_k10",
    "mining/HardNegative_k15",
)
def test_the_hardest_come_first_and_all_if_more_are_asked_for(case):
    assert select(Hardest(), case, case.params["num_negatives"]) == case.output["indices"]


@fault(41, "rust:mining/positive_among_candidates")
def test_the_positive_is_not_its_own_negative():
    case = golden_case("rust:mining/positive_among_candidates")
    assert case.output["indices"] == [0, 1]  # 0 is the positive
    assert select(Hardest(), case, 2) == [1, 2]
    assert select(Hardest(keep_equal=True), case, 2) == [0, 1]
    a, p, candidates = (reals(case.inputs[x]) for x in ("anchor", "positive", "candidates"))
    candidates[3] = a  # nor is the anchor
    assert Hardest().select(a[None], p[None], candidates, 4, rng=None).tolist() == [[1, 2, -1, -1]]


# Semi-hard ----------------------------------------------------------------------------------


@golden("rust", "mining/seed_test_semihard")
def test_semi_hard_by_the_strict_band(case):
    assert select(SemiHard(margin=1.0), case, 2) == case.output["indices"]


@golden("rust", "mining/SemiHard_k0", "mining/SemiHard_k3", "mining/SemiHard_k15")
def test_semi_hard_agrees_where_the_record_is_right(case):
    """The one of the band first, and of fifteen asked for, all ten."""
    k, recorded = case.params["num_negatives"], case.output["indices"]
    miner = SemiHard(margin=case.params["margin"])
    found = select(miner, case, k)
    assert found[:1] == recorded[:1]
    assert set(recorded) <= set(found)
    assert select(SemiHard(margin=case.params["margin"], fill="none"), case, k) == recorded[:1]


@fault(40, "rust:mining/SemiHard_k3", "rust:mining/SemiHard_k10", "rust:mining/semihard_short")
def test_semi_hard_fills_what_was_asked_for_by_one_measure():
    for name, short, want in (
        ("SemiHard_k3", 2, [0, 8, 5]),
        ("SemiHard_k10", 9, [0, 8, 5, 1, 9, 7, 6, 2, 3, 4]),
        ("semihard_short", 2, [0, 1, 2, 3]),
    ):
        case = golden_case(f"rust:mining/{name}")
        assert len(case.output["indices"]) == short
        k = case.params["num_negatives"]
        miner = SemiHard(margin=case.params["margin"])
        assert select(miner, case, k) == want
        # In order of distance: none of these candidates is nearer than the positive.
        candidates, anchor = (reals(case.inputs[x]) for x in ("candidates", "anchor"))
        assert want == np.argsort(np.linalg.norm(candidates - anchor, axis=1))[:k].tolist()
    # By cosine the band is another one: 0, 8, 1 and 9 lie in it.
    cosine = SemiHard(margin=0.6, similarity="cosine")
    assert select(cosine, golden_case("rust:mining/SemiHard_k3"), 3) == [0, 8, 1]


@fault(40)
def test_semi_hard_says_how_many_were_and_takes_nearer_ones_last():
    a, p = np.zeros((1, 2)), np.asarray([[0.5, 0.0]])
    candidates = np.asarray([[0.1, 0], [0.3, 0], [0.6, 0], [0.9, 0], [5, 0], [4.0, 0]])
    found = SemiHard(margin=0.5).select(a, p, candidates, 6, rng=None)
    assert found.tolist() == [[2, 3, 5, 4, 1, 0]]
    batch = Batch(
        anchors=a,
        references=np.concatenate([p, candidates]),
        relation=Listed(np.zeros((1, 1), int), None, 7),
    )
    assert SemiHard(margin=0.5).count(batch).tolist() == [2]


# Draws --------------------------------------------------------------------------------------

WEIGHTED = [f"mining/DistanceWeighted_k{k}" for k in (0, 3, 10, 15)]
UNIFORM = [f"mining/Random_k{k}" for k in (0, 3, 10, 15)]


@golden("rust", *WEIGHTED, *UNIFORM)
def test_draws_are_as_many_and_never_one_twice(case, rng):
    softmax = SoftmaxWeighted(temperature=case.params["temperature"])
    miner = softmax if case.params["strategy"] == "DistanceWeighted" else Random()
    found = select(miner, case, case.params["num_negatives"], rng)
    assert len(found) == len(set(found)) == len(case.output["indices"])
    if len(found) == 10:
        assert set(found) == set(case.output["indices"]) == set(range(10))


@fault(39, *(f"rust:{name}" for name in UNIFORM))
def test_random_draws_differ_and_are_uniform():
    case = golden_case("rust:mining/Random_k3")
    assert case.output["second_call_same"]
    rng = stream(0, "steps")
    assert len({tuple(select(Random(), case, 3, rng)) for _ in range(20)}) > 15
    for place in range(3):  # 9 degrees of freedom: 45 is p = 1e-6
        counts = np.bincount(drawn(Random(), case, 3)[:, place], minlength=10)
        assert chi_square(counts, np.ones(10)) < 45


@fault(39, *(f"rust:{name}" for name in WEIGHTED))
def test_weighted_draws_differ_and_follow_the_softmax():
    case = golden_case("rust:mining/DistanceWeighted_k3")
    assert case.output["second_call_same"]
    miner = SoftmaxWeighted(temperature=case.params["temperature"])
    rng = stream(0, "steps")
    assert len({tuple(select(miner, case, 3, rng)) for _ in range(20)}) > 15
    a, c = (reals(case.inputs[name]) for name in ("anchor", "candidates"))
    cosines = c @ a / np.linalg.norm(c, axis=1) / np.linalg.norm(a)
    shares = np.exp(cosines / case.params["temperature"])
    found = drawn(miner, case, 2)
    assert chi_square(np.bincount(found[:, 0], minlength=10), shares) < 45
    # The second, after the first: renormalised over what is left.
    p = shares / shares.sum()
    second = np.asarray(
        [sum(p[i] * p[j] / (1 - p[i]) for i in range(10) if i != j) for j in range(10)]
    )
    assert chi_square(np.bincount(found[:, 1], minlength=10), second) < 45


@fault(39, "rust:mining/distance_weighted_1000_draws")
def test_a_thousand_draws_have_more_than_one_outcome():
    case = golden_case("rust:mining/distance_weighted_1000_draws")
    assert case.output["counts"] == [1000, 0, 0, 0]
    # The first candidate is the anchor itself, which counted there.
    miner = SoftmaxWeighted(temperature=1.0, keep_equal=True)
    counts = np.bincount(drawn(miner, case)[:, 0], minlength=4)
    shares = np.exp([1.0, 0.0, -1.0, 0.0])
    assert np.round(shares / shares.sum(), 3).tolist() == [0.534, 0.197, 0.072, 0.197]
    assert chi_square(counts, shares) < 31  # 3 degrees of freedom: p = 1e-6
    without = drawn(SoftmaxWeighted(temperature=1.0), case)
    assert 0 not in without


# In the batch -------------------------------------------------------------------------------


@golden("rust", "mining/in_batch")
def test_the_indices_of_the_batch(case, rng):
    n, i, p = (case.inputs[x] for x in ("batch_size", "anchor_idx", "positive_idx"))
    positives = np.full((n, 1), -1)
    positives[i] = p
    batch = Batch(anchors=rng.standard_normal((n, 3)), relation=Listed(positives, None, n))
    for include, want in case.output.items():
        miner = InBatch(include_positive=include == "include_positive")
        row = miner.choose(batch, n, rng=None)[i]
        assert row[row >= 0].tolist() == want
        positive, negative = miner.mine(batch, rng=None).tile(
            slice(i, i + 1), slice(0, n), np, "cpu"
        )
        assert np.flatnonzero(positive[0]).tolist() == [p]
        assert set(np.flatnonzero(negative[0])) - {i} == set(case.output["exclude_positive"])


@golden("js", "hardNegatives/n6_bs6", "hardNegatives/n6_bs4")
def test_one_hard_negative_an_anchor_in_each_batch(case):
    a, p = (reals(case.inputs[name]) for name in ("anchors", "positives"))
    size = case.params["batchSize"]
    for start, want in zip(
        range(0, len(a), size), case.output["negative_indices_per_batch"], strict=True
    ):
        here = slice(start, start + size)
        assert [start + j for j in mined(a[here], p[here])] == want


@fault(5, "js:hardNegatives/n6_bs1")
@pytest.mark.parametrize("miner", [Hardest(k=1), SemiHard(), Random(), InBatch()], ids=repr)
def test_a_batch_of_one_has_no_negative_and_no_loss(miner):
    case = golden_case("js:hardNegatives/n6_bs1")
    for a, p in zip(case.inputs["anchors"], case.inputs["positives"], strict=True):
        batch = Batch.pairs(reals([a]), reals([p]))
        assert miner.choose(batch, 1, rng=stream(0, "one")).tolist() == [[-1]]
        result = Mined(miner=miner, loss=InfoNCE()).value_and_grad(batch)
        assert result.value == 0
        assert not result.grads["anchors"].any()
        assert not result.grads["references"].any()


@fault(4, "js:hardNegatives/duplicates")
def test_an_equal_positive_at_another_index_is_not_mined():
    case = golden_case("js:hardNegatives/duplicates")
    assert case.output["negative_indices"] == [2, 3, 0, 1]
    a, p = (reals(case.inputs[name]) for name in ("anchors", "positives"))
    assert mined(a, p) == [1, 0, 1, 0]
    batch = Batch.pairs(a, p)
    assert InBatch().choose(batch, 3, rng=None).tolist() == [
        [1, 3, -1],
        [0, 2, -1],
        [1, 3, -1],
        [0, 2, -1],
    ]
    # By id, where the vectors differ.
    a, p = np.random.default_rng(0).standard_normal((2, 4, 8))
    p[2] = p[0] + 0.01
    relation = Hardest(k=1).mine(Batch.pairs(a, p, ids=np.asarray([7, 8, 7, 9])), rng=None)
    assert not {(0, 2), (2, 0)} & set(enumerate(relation.negatives[:, 0].tolist()))
    # By a threshold, where there are no ids.
    close = InBatch(threshold=0.95).choose(Batch.pairs(a, p), 4, rng=None)
    assert close.tolist()[0] == [1, 3, -1, -1]
    assert close.tolist()[2] == [1, 3, -1, -1]


@fault(3, "js:contrastive/hard_negatives_batch_n12_d16")
def test_each_anchor_meets_the_negative_that_was_mined_for_it():
    case = golden_case("js:contrastive/hard_negatives_batch_n12_d16")
    a, p = (reals(case.inputs[name]) for name in ("anchors", "positives"))
    indices, t = case.inputs["negative_indices"], case.params["temperature"]
    assert mined(a, p) == indices
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, p)]
    s = unit[0] @ unit[1].T
    own = np.diag(s)

    # The record: every anchor against the negatives of all, its own positive among them.
    shared = np.log(np.exp(own / t) + np.sum(np.exp(s[:, indices] / t), 1)) - own / t
    assert abs(shared.mean() - case.output["loss"]) < 1e-6
    assert sum(i in indices for i in range(12)) == 8

    result = Mined(miner=Hardest(k=1), loss=InfoNCE(temperature=t)).value_and_grad(
        Batch.pairs(a, p)
    )
    right = np.log1p(np.exp((s[np.arange(12), indices] - own) / t)).mean()
    assert abs(float(result.value) - right) < 1e-12
    assert right < case.output["loss"]


# The older systems' own tests -----------------------------------------------------------------


def test_acceptance_checks_of_mining(rng):
    a, p = rng.standard_normal((2, 1, 8))
    found = Random().select(a, p, rng.standard_normal((20, 8)), 5, rng=rng)[0]  # check 18
    assert len(set(found.tolist())) == 5
    assert found.min() >= 0
    found = SoftmaxWeighted(temperature=0.5).select(  # check 21
        a, p, rng.standard_normal((10, 8)), 3, rng=rng
    )[0]
    assert len(set(found.tolist())) == 3
    assert found.min() >= 0
    # Checks 19, 20 and 22 are goldens: positive_among_candidates, seed_test_semihard, in_batch.
