"""Semi-hard mining: the band, what fills up, and how many were semi-hard."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import dense_similarity, random_case

from coreframe.batch import Batch
from coreframe.errors import ArgumentError
from coreframe.relation import Listed, masked
from coreframe.similarity import NAMES
from coreframe_miners.semi_hard import FILLS, SemiHard


def oracle(s, positive, negative, margin, fill):
    """Return the columns of each row in order, and how many of them are semi-hard."""
    rows, counts = [], []
    for i in range(len(s)):
        columns = np.flatnonzero(negative[i])
        columns = columns[np.argsort(-s[i, columns], kind="stable")]
        least = s[i, positive[i]].min() if positive[i].any() else np.inf
        band = [j for j in columns if least - margin < s[i, j] < least]
        below = [j for j in columns if s[i, j] <= least - margin]
        inside = [j for j in columns if s[i, j] >= least]
        rest = {"easier": below + inside[::-1], "hardest": inside + below, "none": []}[fill]
        rows.append([*band, *rest])
        counts.append(len(band))
    return rows, counts


@pytest.mark.parametrize(
    ("similarity", "fill"), [*zip(NAMES[:3], FILLS, strict=True), (NAMES[3], FILLS[0])]
)
def test_the_band_comes_first_and_the_rest_in_order(library, similarity, fill, rng):
    for m in (23, None):
        case = random_case(rng, 19, m, 5)
        case.positive[4] = False
        batch = case.batch(library)
        targets = case.anchors if m is None else case.references
        s = dense_similarity(case.anchors, targets, similarity)[0]
        other = np.ones_like(case.negative) if m else ~np.eye(19, dtype=bool)
        miner = SemiHard(margin=0.7, similarity=similarity, fill=fill)
        rows, counts = oracle(s, case.positive & other, case.negative & other, 0.7, fill)
        assert library.to_numpy(miner.count(batch)).tolist() == counts
        for k in (4, 30):
            found = library.to_numpy(miner.choose(batch, k, rng=None))
            assert found.shape == (19, min(k, s.shape[1]))
            for row, want in zip(found, rows, strict=True):
                want = want[: found.shape[1]]
                assert row.tolist() == want + [-1] * (found.shape[1] - len(want))


@given(
    st.integers(1, 8), st.integers(1, 12), st.integers(1, 4), st.floats(0.1, 2.0), st.integers(0)
)
def test_select_is_the_band_of_the_pair(n, m, d, margin, seed):
    rng = np.random.default_rng(seed)
    a, p = rng.standard_normal((2, n, d))
    c = rng.standard_normal((m, d))
    s = dense_similarity(a, c, "euclidean")[0]
    least = -np.linalg.norm(a - p, axis=1, keepdims=True)
    # The positive stands in front, as a column of its own.
    together = np.concatenate([least, s], axis=1)
    first = np.zeros((n, m + 1), dtype=bool)
    first[:, 0] = True
    rows, counts = oracle(together, first, ~first, margin, "easier")
    found = SemiHard(margin=margin).select(a, p, c, m, rng=None)
    assert found.tolist() == [[j - 1 for j in row] for row in rows]
    band = SemiHard(margin=margin, fill="none").select(a, p, c, m, rng=None)
    assert np.sum(band >= 0, axis=1).tolist() == counts


def test_the_band_is_open_at_both_ends(library):
    """Distances are whole numbers, so that the ends are met exactly."""
    a, p = np.zeros((1, 1)), np.full((1, 1), 2.0)
    candidates = library.asarray(np.asarray([[-2.0], [3.0], [4.0], [-3.0], [2.0]]))
    miner = SemiHard(margin=2.0, fill="none", keep_equal=True)
    found = miner.select(library.asarray(a), library.asarray(p), candidates, 5, rng=None)
    assert library.to_numpy(found).tolist() == [[1, 3, -1, -1, -1]]


def test_with_several_positives_the_farthest_counts(on_numpy):
    x = np.asarray([[0.0], [1.0], [3.0], [2.0], [3.5]])
    positive = np.zeros((5, 5), dtype=bool)
    positive[0, [1, 2]] = True
    negative = np.zeros((5, 5), dtype=bool)
    negative[0, [3, 4]] = True
    batch = Batch(anchors=x, relation=masked(positive, negative))
    miner = SemiHard(margin=1.0)
    assert miner.count(batch).tolist() == [1, 0, 0, 0, 0]
    assert miner.choose(batch, 2, rng=None)[0].tolist() == [4, 3]


def test_a_row_without_a_positive_takes_the_most_similar(library):
    x = library.asarray(np.asarray([[0.0], [4.0], [1.0], [2.0]]))
    nothing = library.asarray(np.full((4, 1), -1))
    batch = Batch(anchors=x, relation=Listed(nothing, None, 4))
    assert library.to_numpy(SemiHard().count(batch)).tolist() == [0] * 4
    assert library.to_numpy(SemiHard().choose(batch, 3, rng=None))[0].tolist() == [2, 3, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": 0.0}, "SemiHard.margin must be above 0"),
        ({"k": 0}, "SemiHard.k must be at least 1"),
        ({"fill": "easy"}, "SemiHard.fill must be one of 'easier', 'hardest', 'none'"),
        ({"similarity": "l2"}, "SemiHard.similarity must be one of"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        SemiHard(**options)
