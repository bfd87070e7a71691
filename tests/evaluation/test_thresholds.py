"""Score thresholds before and after, against counting by hand and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from coreframe.evaluation.ranks import Ranks
from coreframe.evaluation.thresholds import best_f1, moved_thresholds


def ranks(right, wrong):
    return Ranks(np.ones(len(right)), np.asarray(right, float), np.asarray(wrong, float))


def test_shares_pass_their_threshold(rng):
    old, new = ranks(rng.random(137), rng.random(137)), ranks(rng.random(137) / 2, rng.random(137))
    found = moved_thresholds(old, new)
    assert [row["what"] for row in found] == [
        "lets 50% of right documents pass",
        "lets 90% of right documents pass",
        "lets 95% of right documents pass",
        "best F1, right documents from hardest negatives",
        "median of hardest negatives",
    ]
    for share, row in zip((50, 90, 95), found[:3], strict=True):
        for key, look in (("before", old), ("after", new)):
            threshold = row[key]
            assert (look.right >= threshold).mean() >= share / 100
            # The next higher score would let too few pass.
            higher = look.right[look.right > threshold].min()
            assert (look.right >= higher).mean() < share / 100


def test_by_hand():
    found = moved_thresholds(
        ranks(np.arange(1, 11) / 10, np.zeros(10)), ranks(np.arange(1, 11) / 20, np.zeros(10))
    )
    values = {row["what"].split("%")[0]: (row["before"], row["after"]) for row in found}
    assert values["lets 50"] == (0.6, 0.3)
    assert values["lets 90"] == (0.2, 0.1)
    assert values["lets 95"] == (0.1, 0.05)
    assert values["best F1, right documents from hardest negatives"] == (0.05, 0.025)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_f1_is_that_of_all_thresholds(seed):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    right, wrong = rng.normal(0.6, 0.2, 60).round(1), rng.normal(0.4, 0.2, 80).round(1)
    threshold, f1 = best_f1(right, wrong)
    scores, good = np.concatenate([right, wrong]), np.repeat([1, 0], [60, 80])
    assert f1 == pytest.approx(metrics.f1_score(good, scores >= threshold))
    tried = [metrics.f1_score(good, scores >= t) for t in np.unique(scores)]
    assert f1 == pytest.approx(max(tried))


def test_scores_that_are_not_there():
    nothing = ranks([np.nan, np.nan], [0.1, 0.2])
    found = moved_thresholds(ranks([0.5, np.nan], [0.1, np.nan]), nothing)
    assert [row["what"] for row in found] == ["median of hardest negatives"]
    assert all(np.isnan(x) for x in best_f1(np.array([np.nan]), np.array([0.5])))
    assert all(np.isnan(x) for x in best_f1(np.array([0.5]), np.array([])))
    assert best_f1(np.array([0.5]), np.array([0.5])) == (0.5, pytest.approx(2 / 3))
