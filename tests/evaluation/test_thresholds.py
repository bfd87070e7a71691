"""Score thresholds before and after, against counting by hand."""

from __future__ import annotations

import numpy as np

from coreframe.evaluation.ranks import Ranks
from coreframe.evaluation.thresholds import moved_thresholds


def ranks(right, wrong):
    return Ranks(np.ones(len(right)), np.asarray(right, float), np.asarray(wrong, float))


def test_shares_pass_their_threshold(rng):
    old, new = ranks(rng.random(137), rng.random(137)), ranks(rng.random(137) / 2, rng.random(137))
    found = moved_thresholds(old, new)
    assert [row["what"] for row in found] == [
        "lets 50% of right documents pass",
        "lets 90% of right documents pass",
        "lets 95% of right documents pass",
        "lets 50% of hardest negatives pass",
        "lets 5% of hardest negatives pass",
    ]
    for i, (share, row) in enumerate(zip((50, 90, 95, 50, 5), found, strict=True)):
        for key, look in (("before", old), ("after", new)):
            threshold, scores = row[key], look.right if i < 3 else look.wrong
            assert (scores >= threshold).mean() >= share / 100
            # The next higher score would let too few pass.
            higher = scores[scores > threshold].min()
            assert (scores >= higher).mean() < share / 100


def test_by_hand():
    found = moved_thresholds(
        ranks(np.arange(1, 11) / 10, np.zeros(10)), ranks(np.arange(1, 11) / 20, np.zeros(10))
    )
    values = {row["what"]: (row["before"], row["after"]) for row in found}
    assert values["lets 50% of right documents pass"] == (0.6, 0.3)
    assert values["lets 90% of right documents pass"] == (0.2, 0.1)
    assert values["lets 95% of right documents pass"] == (0.1, 0.05)
    assert values["lets 5% of hardest negatives pass"] == (0.0, 0.0)


def test_the_strict_threshold_is_among_the_scores_where_nothing_is_told_apart(rng):
    """There the best F1 lets all pass, 2/3 of which is as good as it gets."""
    look = ranks(rng.random(200), rng.random(200) + 0.1)
    strict = moved_thresholds(look, look)[-1]["before"]
    assert (look.wrong >= strict).mean() == 0.05
    assert (look.right >= strict).mean() < 0.05


def test_scores_that_are_not_there():
    nothing = ranks([np.nan, np.nan], [0.1, 0.2])
    found = moved_thresholds(ranks([0.5, np.nan], [0.1, np.nan]), nothing)
    assert [row["what"] for row in found] == [
        "lets 50% of hardest negatives pass",
        "lets 5% of hardest negatives pass",
    ]
