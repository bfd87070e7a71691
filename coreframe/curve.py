"""The learning curve: the same training on shares of the pairs. Would more labels help?

Shares are drawn by group from one seeded order, so that each holds the one before; dev and test are
the same for all. The last point is the run itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coreframe.config.settings import CurveSettings
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Ints
from coreframe.evaluation.compare import Gain, paired
from coreframe.evaluation.retrieval import Evaluation, Map, evaluate
from coreframe.random import stream

LITTLE = 0.01
"""A gain below this, in the metric, is not worth labelling for."""


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """What a share of the pairs brings."""

    share: float
    """Of the training queries, in (0, 1]."""
    queries: int
    pairs: int
    metrics: Mapping[str, float]
    """Of the adapter trained on them, on the test queries."""
    gain: Gain
    """Over what there was before training, in the metric of the gate."""
    step: Gain | None
    """Over the point before; None for the first."""


def subsets(train: Pairs, shares: Sequence[float], seed: int) -> list[Ints]:
    """Return the rows of queries of each share: whole groups, each share inside the next."""
    codes = np.unique(train.groups, return_inverse=True)[1].reshape(-1)
    place = np.argsort(stream(seed, "curve").permutation(int(codes.max()) + 1))
    rank = place[codes]  # of each query's group in the drawn order
    sizes = np.cumsum(np.bincount(rank))
    found = []
    for share in shares:
        groups = int(np.searchsorted(sizes, share * len(train), side="right"))
        found.append(np.flatnonzero(rank < max(1, groups)))
    return found


def left_out(train: Pairs, settings: CurveSettings) -> str:
    """Say why there is no curve, or nothing where there is one."""
    if settings.enabled == "never":
        return "turned off (curve.enabled)"
    if settings.enabled == "auto" and len(train.examples) > settings.maximum_pairs:
        return (
            f"{len(train.examples):,} pairs are more than curve.maximum_pairs = "
            f"{settings.maximum_pairs:,}; curve.enabled = 'always' would cost about "
            f"{sum(settings.shares):.0%} more training"
        )
    if not settings.shares or max(settings.shares) * len(train) < settings.minimum_queries:
        return (
            f"{len(train)} training queries are too few to take a part of "
            f"(curve.minimum_queries = {settings.minimum_queries})"
        )
    return ""


def learning_curve(
    train: Pairs,
    test: Pairs,
    fit_share: Callable[[str, Pairs], Map],
    settings: CurveSettings,
    *,
    before: Evaluation,
    after: Evaluation,
    metric: str,
    resamples: int,
    seed: int,
) -> tuple[CurvePoint, ...]:
    """Train on each share and evaluate on the test queries; the whole is ``after`` over ``before``.

    ``fit_share`` gets a name and some of the pairs, and returns the adapter. Shares below
    ``minimum_queries`` are left out; with ``left_out`` there is no curve.
    """
    if left_out(train, settings):
        return ()
    rows = subsets(train, settings.shares, seed)
    wanted = [
        (share, row)
        for share, row in zip(settings.shares, rows, strict=True)
        if settings.minimum_queries <= len(row) < len(train)
    ]
    names = tuple(after.values)
    points: list[CurvePoint] = []
    last: Evaluation | None = None
    for share, row in [*wanted, (1.0, None)]:
        if row is None:
            part, found = train, after
        else:
            part = train.take(row)
            found = evaluate(fit_share(f"curve-{share:g}", part), test, metrics=names)
        drawn = {"groups": test.groups, "resamples": resamples, "seed": seed}
        points.append(
            CurvePoint(
                share=share,
                queries=len(part),
                pairs=len(part.examples),
                metrics=found.mean(),
                gain=paired(before, found, **drawn).gains[metric],  # type: ignore[arg-type]
                step=None if last is None else paired(last, found, **drawn).gains[metric],  # type: ignore[arg-type]
            )
        )
        last = found
    return tuple(points) if len(points) > 1 else ()


def would_more_help(points: Sequence[CurvePoint], metric: str) -> str:
    """Answer in words whether more labels would help; empty without a curve."""
    if len(points) < 2:
        return ""
    part, whole = points[-2], points[-1]
    step = whole.step
    assert step is not None
    told = (
        f"from {part.pairs:,} to {whole.pairs:,} pairs {metric} changed by {step.gain:+.3f} "
        f"[{step.low:+.3f}, {step.high:+.3f}]"
    )
    doubling = step.gain / math.log2(max(whole.pairs / part.pairs, 1.01))
    if step.low > 0 and doubling >= LITTLE / 2:
        return f"More labels would help: {told}, about {doubling:+.3f} each time they doubled."
    if step.high < LITTLE:
        return f"More labels of this kind would bring little: {told}."
    return f"Whether more labels would help cannot be told: {told}."
