"""The in-batch miner: all but the positive, its copies, and what a threshold suspects."""

from __future__ import annotations

import numpy as np
import pytest
from support import assert_near, dense_similarity

from coreframe.batch import Batch
from coreframe.compose import Mined
from coreframe.errors import ArgumentError
from coreframe.relation import Aligned, Listed, masked
from coreframe.similarity import NAMES
from coreframe_losses.info_nce import InfoNCE
from coreframe_miners.in_batch import InBatch

N, M, D = 13, 17, 4


def negatives(library, batch, miner):
    mined = miner.mine(batch, rng=None)
    whole = slice(0, mined.rows), slice(0, mined.columns)
    return library.to_numpy(mined.tile(*whole, library.xp, batch.anchors.device)[1])


@pytest.mark.parametrize("similarity", NAMES)
def test_what_is_too_like_the_positive_is_left_out(library, similarity, rng):
    a, r = rng.standard_normal((N, D)), rng.standard_normal((M, D))
    index = np.stack([np.arange(N), rng.integers(-1, M, N)], axis=1)
    s = dense_similarity(r, r, similarity)[0]
    between = np.sort(s[np.triu_indices(M, 1)])[67:69]
    threshold = float(between.mean())
    for relation, positives in (
        (Aligned(N, M), index[:, :1]),
        (Listed(library.asarray(index), None, M), index),
    ):
        batch = Batch(anchors=library.asarray(a), references=library.asarray(r), relation=relation)
        miner = InBatch(threshold=threshold, similarity=similarity)
        suspected = np.zeros((N, M), dtype=bool)
        for i, row in enumerate(positives):
            for p in row[row >= 0]:
                suspected[i] |= s[p] > threshold
                suspected[i, p] = True
        assert np.array_equal(negatives(library, batch, miner), ~suspected)
        # The same by indices, in rising order.
        found = library.to_numpy(miner.choose(batch, M, rng=None))
        for i, row in enumerate(found):
            left = np.flatnonzero(~suspected[i])
            assert row.tolist() == [*left, *[-1] * (M - len(left))]


def test_select_knows_the_positive_beside_the_candidates(library, rng):
    a, p = rng.standard_normal((2, N, D))
    c = rng.standard_normal((M, D))
    s = dense_similarity(p, c, "cosine")[0]
    arrays = [library.asarray(x) for x in (a, p, c)]
    found = library.to_numpy(InBatch(threshold=0.3).select(*arrays, M, rng=None))
    for i, row in enumerate(found):
        assert row[row >= 0].tolist() == np.flatnonzero(s[i] <= 0.3).tolist()


def test_included_positives_stand_in_the_list_and_never_in_the_relation(library, rng):
    a, p = rng.standard_normal((2, N, D))
    p[4] = p[2]
    batch = Batch.pairs(library.asarray(a), library.asarray(p))
    found = library.to_numpy(InBatch(include_positive=True).choose(batch, N, rng=None))
    assert found[2].tolist() == [*(j for j in range(N) if j != 4), -1]
    assert found[0].tolist() == list(range(N))
    for include in (False, True):
        mined = negatives(library, batch, InBatch(include_positive=include))
        assert not np.diag(mined).any()
        assert not mined[2, 4]
        assert mined.sum() == N * N - N - 2


def test_the_loss_on_the_mined_relation_leaves_copies_out(library, rng):
    a, p = rng.standard_normal((2, N, D))
    p[4] = p[2]
    batch = Batch.pairs(library.asarray(a), library.asarray(p))
    keep = np.ones((N, N), dtype=bool)
    np.fill_diagonal(keep, False)
    keep[2, 4] = keep[4, 2] = False
    want = InfoNCE().value_and_grad(
        Batch(
            anchors=batch.anchors,
            references=batch.references,
            relation=masked(library.asarray(np.eye(N, dtype=bool)), library.asarray(keep)),
        )
    )
    got = Mined(miner=InBatch(), loss=InfoNCE()).value_and_grad(batch)
    assert_near(library.to_numpy(got.value), library.to_numpy(want.value))
    for name, g in want.grads.items():
        assert_near(library.to_numpy(got.grads[name]), library.to_numpy(g))


def test_with_nothing_to_drop_the_relation_stays_as_it_is(on_numpy, rng):
    labels = Batch.labelled(rng.standard_normal((N, D)), np.arange(N) % 3)
    assert InBatch().mine(labels, rng=None) is labels.relation
    pairs = Batch.pairs(*rng.standard_normal((2, N, D)))
    assert InBatch(keep_equal=True).mine(pairs, rng=None) is pairs.relation


def test_a_threshold_needs_named_positives(on_numpy, rng):
    batch = Batch.labelled(rng.standard_normal((N, D)), np.arange(N) % 3)
    with pytest.raises(ArgumentError, match=r"InBatch\.threshold needs pairs or listed positives"):
        InBatch(threshold=0.9).mine(batch, rng=None)
    with pytest.raises(ArgumentError, match=r"InBatch\.similarity must be one of"):
        InBatch(similarity="cos")
