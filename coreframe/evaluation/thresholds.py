"""Score thresholds move with an adapter: where they were, and where they belong now."""

from __future__ import annotations

from typing import Any

import numpy as np

from coreframe.data.relevance import Floats
from coreframe.evaluation.ranks import Ranks

__all__ = ["moved_thresholds"]

SHARES = (50, 90, 95)
"""Percent of queries whose right document shall pass ..."""
WRONG_SHARES = (50, 5)
"""... and of those whose hardest negative may."""


def moved_thresholds(before: Ranks, after: Ranks) -> list[dict[str, Any]]:
    """Return cosine thresholds before and after: ``{"what": text, "before": x, "after": y}``.

    Those that let the right document of 50, 90 and 95% of the queries pass (a query's best one,
    where several are right), and those that let the hardest negative of 50 and 5% of them pass.
    A score passes if it is at least the threshold. What has no scores, before or after, is left
    out.

    Shares mean the same whatever the separation. The threshold of the best F1 does not: where hard
    negatives score as right documents do, it is below every score and lets all pass.
    """
    looks = (before, after)
    rows = [
        (f"lets {share}% of right documents pass", [_passing(x.right, share) for x in looks])
        for share in SHARES
    ]
    rows += [
        (f"lets {share}% of hardest negatives pass", [_passing(x.wrong, share) for x in looks])
        for share in WRONG_SHARES
    ]
    return [
        {"what": what, "before": old, "after": new}
        for what, (old, new) in rows
        if np.isfinite(old) and np.isfinite(new)
    ]


def _passing(scores: Floats, percent: int) -> float:
    """Return the largest threshold that at least a share of the scores passes; NaN without any."""
    found = np.sort(scores[np.isfinite(scores)])
    if not len(found):
        return float("nan")
    return float(found[len(found) - -(-len(found) * percent // 100)])
