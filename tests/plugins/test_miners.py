"""The miners: what they may choose, and that they choose the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_near, random_case

from coreframe.batch import Batch
from coreframe.compose import Mined, Symmetric
from coreframe.errors import ArgumentError
from coreframe.random import stream
from coreframe.relation import Listed
from coreframe.similarity import NAMES
from coreframe_losses.info_nce import InfoNCE
from coreframe_miners.hardest import Hardest
from coreframe_miners.random import Random

N, M, D = 19, 23, 5
MINERS = [Hardest(k=4), Random(k=4)]


def masks(library, batch, relation):
    positive, negative = relation.tile(
        slice(0, relation.rows), slice(0, relation.columns), library.xp, batch.anchors.device
    )
    return library.to_numpy(positive), library.to_numpy(negative)


def batches(library, rng):
    a, p = map(library.asarray, rng.standard_normal((2, N, D)))
    shared = library.asarray(rng.standard_normal((M - N, D)))
    ids = library.asarray(np.arange(N) % 7)
    case = random_case(rng, N, M, D)
    lists = [library.asarray(rng.integers(-1, M, (N, width))) for width in (1, 6)]
    return [
        Batch.pairs(a, p),
        Batch.with_negatives(a, p, shared=shared, ids=ids),
        Batch.labelled(a, rng.integers(0, 4, N)),
        case.batch(library),
        case.batch(library, relation=Listed(*lists, M)),
    ]


# mine ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("miner", MINERS, ids=lambda m: type(m).__name__)
def test_the_result_is_a_part_of_the_relation(library, miner, rng):
    for batch in batches(library, rng):
        mined = miner.mine(batch, rng=stream(0, "test"))
        assert (mined.rows, mined.columns) == (batch.relation.rows, batch.relation.columns)
        positive, negative = masks(library, batch, batch.relation)
        if batch.references is None:
            negative = negative & ~np.eye(N, dtype=bool)
        mined_positive, mined_negative = masks(library, batch, mined)
        assert np.array_equal(mined_positive, positive)
        assert not (mined_negative & ~negative).any()
        assert np.array_equal(mined_negative.sum(1), np.minimum(4, negative.sum(1)))


@pytest.mark.parametrize("similarity", NAMES)
def test_hardest_are_the_most_similar(library, similarity, rng):
    for case in (random_case(rng, N, M, D), random_case(rng, N, None, D)):
        batch = case.batch(library)
        _, mined = masks(library, batch, Hardest(k=3, similarity=similarity).mine(batch, rng=None))
        a, r = case.anchors, case.anchors if case.references is None else case.references
        distance = np.linalg.norm(a[:, None] - r[None], axis=2)
        unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, r)]
        s = {"dot": a @ r.T, "cosine": unit[0] @ unit[1].T}.get(similarity, -distance)
        negative = case.negative
        if case.references is None:
            negative = negative & ~np.eye(N, dtype=bool)
        for i in range(N):
            candidates = np.flatnonzero(negative[i])
            best = candidates[np.argsort(-s[i, candidates], kind="stable")][:3]
            assert sorted(np.flatnonzero(mined[i])) == sorted(best)


def test_hardest_takes_the_lower_index_among_equals(library):
    a = library.asarray(np.ones((2, 3)))
    r = library.asarray(np.ones((6, 3)))
    case = random_case(np.random.default_rng(0), 2, 6, 3).replace(
        positive=np.zeros((2, 6), dtype=bool),
        negative=np.array([[1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 1, 1]], dtype=bool),
    )
    batch = Batch(anchors=a, references=r, relation=case.batch(library).relation)
    found = library.to_numpy(Hardest().choose(batch, 2, rng=None))
    assert found.tolist() == [[0, 1], [2, 4]]


def test_mined_pairs_give_the_loss_of_their_mask(library, rng):
    a, p = rng.standard_normal((2, N, D))
    batch = Batch.pairs(library.asarray(a), library.asarray(p))
    for miner in (Hardest(k=2), Random(k=2)):
        mined = Mined(miner=miner, loss=InfoNCE(), seed=3)
        result = mined.value_and_grad(batch)
        again = mined.value_and_grad(batch)
        relation = miner.mine(batch, rng=stream(3, "mined"))
        _, negative = masks(library, batch, relation)
        case = random_case(rng, N, N, D).replace(
            anchors=a, references=p, positive=np.eye(N, dtype=bool), negative=negative
        )
        want = InfoNCE().value_and_grad(case.batch(library))
        assert_near(library.to_numpy(result.value), library.to_numpy(want.value))
        assert_near(library.to_numpy(result.value), library.to_numpy(again.value), 0, 0)
        for name in ("anchors", "references"):
            assert_near(library.to_numpy(result.grads[name]), library.to_numpy(want.grads[name]))


def test_both_directions_of_mined_pairs_beside_shared_negatives(library, rng):
    """Seen from the references there are more rows than columns: the last have no partner."""
    a, p = map(library.asarray, rng.standard_normal((2, N, D)))
    batch = Batch.with_negatives(a, p, shared=library.asarray(rng.standard_normal((M - N, D))))
    loss = Symmetric(loss=Mined(miner=Hardest(k=2), loss=InfoNCE()))
    everything = Symmetric(loss=Mined(miner=Hardest(k=M), loss=InfoNCE()))
    assert np.isfinite(library.to_numpy(loss.value_and_grad(batch).value))
    got, want = (x.value_and_grad(batch) for x in (everything, InfoNCE(symmetric=True)))
    assert_near(library.to_numpy(got.value), library.to_numpy(want.value))


@pytest.mark.parametrize("miner", [Hardest(k=100), Random(k=100)], ids=["hardest", "random"])
def test_more_than_there_are_keeps_all(library, miner, rng):
    for batch in batches(library, rng):
        mined = miner.mine(batch, rng=stream(0, "test"))
        _, negative = masks(library, batch, batch.relation)
        if batch.references is None:
            negative = negative & ~np.eye(N, dtype=bool)
        assert np.array_equal(masks(library, batch, mined)[1], negative)


# select -------------------------------------------------------------------------------------------


def candidates_with_copies(rng):
    """Anchors, positives, and candidates with copies of both among them, some scaled."""
    a, p = rng.standard_normal((2, N, D))
    candidates = np.concatenate([rng.standard_normal((M, D)), a, 3 * p, p, 0.1 * a])
    return a, p, candidates[rng.permutation(len(candidates))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("miner", MINERS, ids=lambda m: type(m).__name__)
def test_select_never_takes_the_positive_itself_or_one_twice(library, miner, dtype, rng):
    a, p, candidates = candidates_with_copies(rng)
    found = library.to_numpy(
        miner.select(
            *(library.asarray(x, dtype) for x in (a, p, candidates)), 12, rng=stream(0, "test")
        )
    )
    assert found.shape == (N, 12)
    assert np.issubdtype(found.dtype, np.integer)
    for i in range(N):
        assert len(set(found[i])) == 12
        assert (found[i] >= 0).all()
        for j in found[i]:
            for own in (a[i], p[i]):
                cosine = own @ candidates[j] / np.linalg.norm(own) / np.linalg.norm(candidates[j])
                assert cosine < 1 - 1e-6


@pytest.mark.parametrize("miner", MINERS, ids=lambda m: type(m).__name__)
def test_select_fills_up_with_minus_one(library, miner, rng):
    a, p = rng.standard_normal((2, N, D))
    candidates = np.concatenate([rng.standard_normal((2, D)), a[:1], p[:2]])
    found = library.to_numpy(
        miner.select(*map(library.asarray, (a, p, candidates)), 9, rng=stream(0, "test"))
    )
    assert found.shape == (N, 9)
    assert sorted(found[0, :3]) == [0, 1, 4]
    assert sorted(found[1, :4]) == [0, 1, 2, 3]
    assert sorted(found[2, :5]) == [0, 1, 2, 3, 4]
    counts = np.sum(found >= 0, 1)
    assert counts.tolist() == [3, 4] + [5] * (N - 2)
    for row, count in zip(found, counts, strict=True):
        assert (row[count:] == -1).all()


def test_select_hardest_is_in_falling_order(library, rng):
    a, p = rng.standard_normal((2, N, D))
    candidates = rng.standard_normal((M, D))
    found = library.to_numpy(
        Hardest().select(*map(library.asarray, (a, p, candidates)), M, rng=None)
    )
    unit = candidates / np.linalg.norm(candidates, axis=1, keepdims=True)
    assert np.array_equal(found, np.argsort(-(a @ unit.T), axis=1))


def test_select_is_the_same_on_every_library(library, on_numpy, rng):
    a, p = rng.standard_normal((2, N, D))
    candidates = np.concatenate([rng.standard_normal((M, D)), a, p])  # without ties
    for miner in MINERS:
        here, there = (
            x.to_numpy(
                miner.select(*map(x.asarray, (a, p, candidates)), 6, rng=stream(5, "miner", 2))
            )
            for x in (library, on_numpy)
        )
        assert np.array_equal(here, there)


def test_mine_is_the_same_on_every_library(library, on_numpy):
    for miner in MINERS:
        here, there = (
            [
                masks(x, batch, miner.mine(batch, rng=stream(1, "miner", 4)))[1]
                for batch in batches(x, np.random.default_rng(3))
            ]
            for x in (library, on_numpy)
        )
        assert all(np.array_equal(x, y) for x, y in zip(here, there, strict=True))


def test_select_refuses_nonsense(on_numpy, rng):
    a, p = rng.standard_normal((2, N, D))
    with pytest.raises(ArgumentError, match="k must be at least 1, got 0"):
        Hardest().select(a, p, a, 0, rng=None)
    with pytest.raises(ArgumentError, match=r"one shape, got \(19, 5\) and \(4, 5\)"):
        Hardest().select(a, p[:4], a, 2, rng=None)


# Chance -------------------------------------------------------------------------------------------


def draws(step, k=3, n=40, m=30, blocks_of=None):
    batch = Batch(
        anchors=np.zeros((n, 2)),
        references=np.zeros((m, 2)),
        relation=Listed(np.full((n, 1), -1), None, m),
    )
    return Random().choose(batch, k, rng=stream(0, "negatives", step))


def test_each_step_draws_anew_and_the_same_step_the_same():
    assert np.array_equal(draws(3), draws(3))
    assert not np.array_equal(draws(3), draws(4))
    assert len({draws(step).tobytes() for step in range(20)}) == 20
    assert len({row.tobytes() for row in draws(0)}) > 30  # rows differ among themselves


def test_streams_are_named(rng):
    first = stream(0, "a").random()
    assert stream(0, "a").random() == first
    others = [stream(1, "a"), stream(0, "b"), stream(0, "a", 1)]
    assert len({first, *(x.random() for x in others)}) == 4


def test_every_candidate_is_equally_likely():
    """Chi-square over 200 steps, 40 rows and 30 candidates; its limit is at p = 1e-6."""
    counts = np.zeros((40, 30))
    for step in range(200):
        counts[np.arange(40)[:, None], draws(step)] += 1
    by_column, expected = counts.sum(0), 200 * 40 * 3 / 30
    # Drawing without replacement makes counts vary a little less than chi-square assumes.
    assert np.sum((by_column - expected) ** 2) / expected < 82
    assert counts.max() < 60 < 200 * 40 * 3 / 30  # no row has a favourite: 20 expected
    pairs = np.zeros((30, 30))
    for step in range(200):
        for row in draws(step):
            pairs[row[0], row[1]] += 1
    off = pairs[~np.eye(30, dtype=bool)]
    assert not np.diag(pairs).any()
    expected = off.mean()
    assert np.sum((off - expected) ** 2) / expected < len(off) + 6 * np.sqrt(2 * len(off))
