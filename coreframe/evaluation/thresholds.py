"""Score thresholds move with an adapter: where they were, and where they belong now."""

from __future__ import annotations

from typing import Any

import numpy as np

from coreframe.data.relevance import Floats
from coreframe.evaluation.ranks import Ranks

SHARES = (50, 90, 95)
"""Percent of queries whose right document shall pass."""


def moved_thresholds(before: Ranks, after: Ranks) -> list[dict[str, Any]]:
    """Return cosine thresholds before and after: ``{"what": text, "before": x, "after": y}``.

    Those that let the right document of 50, 90 and 95% of the queries pass (a query's best one,
    where several are right), the one with the best F1 of telling these from each query's hardest
    negative, and the median of the hardest negatives. A score passes if it is at least the
    threshold. What has no scores, before or after, is left out.
    """
    looks = (before, after)
    rows = [
        (f"lets {share}% of right documents pass", [_passing(x.right, share) for x in looks])
        for share in SHARES
    ]
    rows.append(
        (
            "best F1, right documents from hardest negatives",
            [best_f1(x.right, x.wrong)[0] for x in looks],
        )
    )
    rows.append(("median of hardest negatives", [_passing(x.wrong, 50) for x in looks]))
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


def best_f1(right: Floats, wrong: Floats) -> tuple[float, float]:
    """Return the threshold with the best F1 and that F1, of scores that should and should not pass.

    Midway between the two scores that it separates; of equals, the highest. NaN without any right
    score or any wrong one.
    """
    right, wrong = (x[np.isfinite(x)].astype(np.float64) for x in (right, wrong))
    if not len(right) or not len(wrong):
        return float("nan"), float("nan")
    scores = np.concatenate([right, wrong])
    good = np.concatenate([np.ones(len(right)), np.zeros(len(wrong))])
    order = np.argsort(-scores, kind="stable")
    scores, good = scores[order], good[order]
    hits = np.cumsum(good)
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + len(right))
    ends = np.append(scores[1:] < scores[:-1], True)  # equal scores pass together
    best = int(np.argmax(np.where(ends, f1, -1.0)))
    below = scores[best + 1] if best + 1 < len(scores) else scores[best]
    return float((scores[best] + below) / 2), float(f1[best])
