"""The miners: what they may choose, and that they choose the same everywhere."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import assert_near, random_case

from coreframe.batch import Batch
from coreframe.compose import Mined, Symmetric
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.miner import RankingMiner, best
from coreframe.ops import top_k
from coreframe.random import stream
from coreframe.relation import Listed, Masked
from coreframe.similarity import NAMES
from coreframe_losses.info_nce import InfoNCE
from coreframe_miners.distance_weighted import DistanceWeighted
from coreframe_miners.hardest import Hardest
from coreframe_miners.in_batch import InBatch
from coreframe_miners.random import Random
from coreframe_miners.semi_hard import SemiHard
from coreframe_miners.softmax_weighted import SoftmaxWeighted

N, M, D = 19, 23, 5
RANKING = [
    Hardest(k=4),
    Random(k=4),
    SemiHard(k=4),
    SoftmaxWeighted(k=4, temperature=0.2),
    DistanceWeighted(k=4),
]
MINERS = [*RANKING, InBatch()]


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
        count = getattr(miner, "k", M)
        assert np.array_equal(mined_negative.sum(1), np.minimum(count, negative.sum(1)))


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


@pytest.mark.parametrize("miner", RANKING, ids=lambda m: type(m).__name__)
def test_more_than_there_are_keeps_all(library, miner, rng):
    every = batches(library, rng)
    for batch in every[1:3] if library.name == "jax" else every:
        mined = replace(miner, k=100).mine(batch, rng=stream(0, "test"))
        _, negative = masks(library, batch, batch.relation)
        if batch.references is None:
            negative = negative & ~np.eye(N, dtype=bool)
        assert np.array_equal(masks(library, batch, mined)[1], negative)


# Vectors that equal the positive --------------------------------------------------------------


def pairs_with_copies(rng):
    """Pairs of which 0, 3 and 7 have one positive, scaled, and where 5 is 2's anchor."""
    a, p = rng.standard_normal((2, N, D))
    p[3], p[7], p[5] = p[0], 2 * p[0], a[2]
    return a, p


@pytest.mark.parametrize("miner", MINERS, ids=lambda m: type(m).__name__)
def test_copies_of_the_positive_or_the_anchor_are_not_mined(library, miner, rng):
    a, p = (library.asarray(x, "float32") for x in pairs_with_copies(rng))
    by_direction = getattr(miner, "similarity", "cosine") == "cosine"
    same = {(0, 3), (3, 0), (2, 5)}
    if by_direction:
        same |= {(0, 7), (7, 0), (3, 7), (7, 3)}
    greedy = replace(miner, k=N) if isinstance(miner, RankingMiner) else miner
    index = library.asarray(np.arange(N)[:, None])
    for batch in (
        Batch.pairs(a, p),
        Batch.pairs(a, p, ids=library.asarray(np.arange(N))),
        Batch(anchors=a, references=p, relation=Listed(index, None, N)),
    ):
        mined = greedy.mine(batch, rng=stream(0, "test"))
        negative = masks(library, batch, mined)[1]
        assert {*map(tuple, np.argwhere(~negative))} == same | {(i, i) for i in range(N)}
        columns = library.to_numpy(greedy.choose(batch, N, rng=stream(0, "test")))
        assert not any(j in columns[i] for i, j in same)
        kept = replace(greedy, keep_equal=True)
        negative = masks(library, batch, kept.mine(batch, rng=stream(0, "test")))[1]
        assert np.array_equal(negative, ~np.eye(N, dtype=bool))


@pytest.mark.parametrize("miner", MINERS, ids=lambda m: type(m).__name__)
def test_labels_and_masks_say_themselves_what_is_a_negative(on_numpy, miner, rng):
    greedy = replace(miner, k=N) if isinstance(miner, RankingMiner) else miner
    x = rng.standard_normal((N, D))
    x[1] = x[0]
    batch = Batch.labelled(x, np.arange(N))
    negative = masks(on_numpy, batch, greedy.mine(batch, rng=stream(0, "test")))[1]
    assert negative[0, 1]
    assert negative[1, 0]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("similarity", NAMES)
def test_what_is_near_is_not_equal(on_numpy, similarity, scale, rng):
    """Two in a thousand apart are two; a part in ten million is rounding."""
    a, p = scale * rng.standard_normal((2, 4, 64))
    miner = Hardest(similarity=similarity)
    for apart, chosen in ((2e-3, True), (1e-7, False)):
        candidates = p + apart * scale * rng.standard_normal(p.shape)
        found = miner.select(a, p, candidates, 4, rng=None)
        assert np.all([(i in row) == chosen for i, row in enumerate(found)])


# Ranking ------------------------------------------------------------------------------------------


def test_later_scores_fill_what_earlier_ones_leave(library):
    none = -np.inf
    first = library.asarray([[none, 5.0, none, 1.0], [none, none, none, none]])
    second = library.asarray([[9.0, none, 2.0, none], [1.0, 1.0, 3.0, none]])
    allowed = library.asarray([[True, True, True, True], [True, True, True, False]])
    found = [library.to_numpy(best((first, second), allowed, k)).tolist() for k in (1, 3, 4)]
    assert found[0] == [[1], [2]]
    assert found[1] == [[1, 3, 0], [2, 0, 1]]
    assert found[2] == [[1, 3, 0, 2], [2, 0, 1, -1]]


@given(
    st.integers(1, 6),
    st.integers(64, 90),
    st.integers(0, 90),
    st.integers(1, 4),
    st.integers(0, 2**32),
)
def test_the_fast_top_k_is_the_reference(n, m, k, levels, seed):
    """With few levels, so that nearly all entries are ties, and many of -inf."""
    rng = np.random.default_rng(seed)
    values = np.floor(levels * rng.standard_normal((n, m)))
    values[rng.random((n, m)) < rng.random()] = -np.inf
    k = min(k, m)
    assert np.array_equal(top_k(values, k), top_k.reference(values, k))


def test_a_miner_of_one_line_is_a_whole_miner(library, rng):
    """Third parties write scores alone."""

    @dataclass(frozen=True, kw_only=True)
    class Easiest(RankingMiner):
        def scores(self, rows):
            return -rows.similarities

    a, p = rng.standard_normal((2, N, D))
    found = Easiest(k=2).select(*map(library.asarray, (a, p, p)), N, rng=None)
    unit = p / np.linalg.norm(p, axis=1, keepdims=True)
    order = np.argsort(a @ unit.T, axis=1)
    for i, row in enumerate(library.to_numpy(found)):
        assert row.tolist() == [*order[i][order[i] != i], -1]


@pytest.mark.parametrize("miner", MINERS, ids=lambda m: type(m).__name__)
def test_memory_stays_within_the_budget_also_where_pairs_come_from_a_function(miner, rng):
    n = 2500
    a, p = rng.standard_normal((2, n, 8)).astype(np.float32)
    labels = Batch.labelled(a, rng.integers(0, 50, n))

    def function(rows, cols, xp, device):
        i, j = np.arange(n)[rows, None], np.arange(n)[None, cols]
        return i == j, (i + j) % 3 > 0

    for batch in (
        Batch.pairs(a, p),
        labels,
        Batch(anchors=a, references=p, relation=Masked(function, n, n)),
        replace(labels, relation=miner.mine(labels, rng=stream(0, "first"))),
    ):
        tracemalloc.start()
        miner.mine(batch, rng=stream(0, "test"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 64 * 2**20


# select -------------------------------------------------------------------------------------------


def candidates_with_copies(rng):
    """Anchors, positives, and candidates with copies of both among them, some scaled."""
    a, p = rng.standard_normal((2, N, D))
    candidates = np.concatenate([rng.standard_normal((M, D)), a, 3 * p, p, 0.1 * a])
    return a, p, candidates[rng.permutation(len(candidates))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("miner", MINERS, ids=lambda m: type(m).__name__)
def test_select_never_takes_the_positive_itself_or_one_twice(library, miner, dtype, rng):
    if library.name == "jax" and dtype == "float64":
        pytest.skip("one type is enough where every shape is compiled")
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
                if getattr(miner, "similarity", "cosine") == "cosine":
                    assert cosine < 1 - 1e-6
                else:  # by value: a multiple is another vector
                    assert np.linalg.norm(own - candidates[j]) > 1e-6


@pytest.mark.parametrize("miner", MINERS, ids=lambda m: type(m).__name__)
def test_select_of_none(library, miner, rng):
    a, p = map(library.asarray, rng.standard_normal((2, N, D)))
    found = miner.select(a, p, p, 0, rng=stream(0, "test"))
    assert found.shape == (N, 0)
    assert found.dtype == miner.select(a, p, p, 1, rng=stream(0, "test")).dtype


@pytest.mark.parametrize("miner", MINERS, ids=lambda m: type(m).__name__)
def test_select_fills_up_with_minus_one(library, miner, rng):
    a, p = rng.standard_normal((2, N, D))
    candidates = np.concatenate([rng.standard_normal((2, D)), a[:1], p[:2]])
    found = library.to_numpy(
        miner.select(*map(library.asarray, (a, p, candidates)), 9, rng=stream(0, "test"))
    )
    assert found.shape == (N, 9)
    # The anchor of row 0 is candidate 2; the positives of rows 0 and 1 are 3 and 4.
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
    with pytest.raises(ArgumentError, match="k must be at least 0, got -1"):
        Hardest().select(a, p, a, -1, rng=None)
    with pytest.raises(ArgumentTypeError, match=r"k must be an integer, got 2\.0"):
        Hardest().select(a, p, a, 2.0, rng=None)
    with pytest.raises(ArgumentError, match=r"candidates must have width 5 .*, got 4"):
        Hardest().select(a, p, a[:, :4], 2, rng=None)
    with pytest.raises(ArgumentError, match=r"one shape, got \(19, 5\) and \(4, 5\)"):
        Hardest().select(a, p[:4], a, 2, rng=None)


# Chance -------------------------------------------------------------------------------------------


def draws(step, k=3, n=40, m=30, blocks_of=None):
    batch = Batch(
        anchors=np.ones((n, 2)),
        references=np.random.default_rng(0).standard_normal((m, 2)),
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


def test_k_may_be_an_integer_of_numpy(rng):
    x = rng.standard_normal((9, D))
    for miner in RANKING:
        batch, found = Batch.pairs(x, x[::-1].copy()), []
        for k in (3, np.int32(3)):
            of_k = replace(miner, k=k)
            relation = of_k.mine(batch, rng=stream(0, "k"))
            found.append((relation.negatives, of_k.select(x, x, x, k, rng=stream(0, "k"))))
        for one, other in zip(*found, strict=True):
            assert np.array_equal(one, other)
