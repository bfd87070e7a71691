"""The gate: what must be proven on unseen queries before an adapter is promoted, and why not.

An adapter passes where all of this holds:

    enough        there are enough test queries, in enough independent groups
    chosen        it was the best on dev, and is not what was there before
    proven        the whole 95% interval of its gain lies above the minimum, and chance alone
                  brings a difference as large at most once in twenty times
    covered       the share of queries that find anything right in the first ten does not fall
    remembered    no kept evaluation set is proven worse than allowed

The bootstrap alone is too sure where few queries change: four that got better and none that got
worse leave its interval above zero, though chance does that once in sixteen times. The
randomisation test of ``coreframe.evaluation.compare`` is right there, and the interval says how
large the gain may be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreframe.config.settings import GateSettings
from coreframe.evaluation.compare import Comparison, Gain
from coreframe.evaluation.retrieval import Evaluation

SATURATED = 0.95
FEW_PAIRS = 200
FEW_TEST_QUERIES = 100
COVERAGE_DEPTH = 10
CHANCE = 0.05
"""The largest p value, two-sided, that is proof."""


@dataclass(frozen=True)
class Gate:
    """The verdict: whether the gain over what was there before is proven on unseen queries."""

    passed: bool
    metric: str
    minimum_gain: float
    gain: float
    low: float
    high: float
    reason: str
    hint: str = ""
    p: float = 1.0
    """The p value of the randomisation test, two-sided."""
    coverage: tuple[float, float] = (0.0, 0.0)
    """The share of queries with a right document in the first ten, before and after."""


@dataclass(frozen=True)
class Evidence:
    """What the gate looks at: the candidate that was best on dev, beside what was there before.

    Args:
        before, after: evaluations of both on the test queries.
        gain: of after over before.
        groups: (q,) queries of one group are one piece of evidence.
        changed: whether the candidate is another than what was there before.
        train_queries: how many it was trained on.
        forgotten: names of kept evaluation sets that are proven worse than allowed, in words.
        against: what "before" is called in sentences.
    """

    before: Evaluation
    after: Evaluation
    gain: Comparison
    groups: NDArray[np.int64]
    changed: bool
    train_queries: int
    forgotten: tuple[str, ...] = ()
    against: str = "the base"


def decide(evidence: Evidence, settings: GateSettings) -> Gate:
    """Return the verdict on a candidate, with its reason, and a hint where it did not pass."""
    metric = settings.metric
    g = evidence.gain.gains[metric]
    coverage = (covered(evidence.before), covered(evidence.after))
    numbers = (
        f"{metric} {g.base:.3f} -> {g.adapted:.3f}, {g.gain:+.3f} [{g.low:+.3f}, {g.high:+.3f}]"
    )
    reason, hint = _refusal(evidence, settings, g, coverage, numbers)
    return Gate(
        passed=not reason,
        metric=metric,
        minimum_gain=settings.minimum_gain,
        gain=g.gain,
        low=g.low,
        high=g.high,
        reason=reason or numbers,
        hint=hint,
        p=g.p,
        coverage=coverage,
    )


def _refusal(
    evidence: Evidence,
    settings: GateSettings,
    g: Gain,
    coverage: tuple[float, float],
    numbers: str,
) -> tuple[str, str]:
    """Return why it does not pass and what to do about it, or two empty texts."""
    metric, queries = settings.metric, len(evidence.groups)
    independent = len(np.unique(evidence.groups))
    nothing = f"no candidate beat {evidence.against} on dev"
    told = numbers if evidence.changed else nothing
    if independent < settings.minimum_groups:
        return told, (
            f"{independent} independent groups of test queries prove nothing, "
            f"{settings.minimum_groups} are the least: hold out more, or collect more pairs"
        )
    if queries < settings.minimum_queries:
        return told, (
            f"{queries} test queries prove nothing, {settings.minimum_queries} are the least: "
            "hold out more, or collect more pairs"
        )
    if not evidence.changed:
        return nothing, _nothing_learned(evidence, g, metric)
    if not (g.low > settings.minimum_gain and g.p <= CHANCE):
        return numbers, _not_proven(evidence, settings, g, independent)
    if coverage[1] < coverage[0] - settings.maximum_coverage_loss - 1e-12:
        return (
            f"{numbers}, but the share of queries with a right document in the first "
            f"{COVERAGE_DEPTH} fell from {coverage[0]:.3f} to {coverage[1]:.3f}"
        ), (
            "it moves some queries away from all that is right for them: pull it to where it "
            "started ([[regularizers]] l2), or train less; "
            f"maximum_coverage_loss = {settings.maximum_coverage_loss:g} is what may be lost"
        )
    if evidence.forgotten:
        return (f"{numbers}, but it forgets: {'; '.join(evidence.forgotten)}"), (
            "pull harder to what was there before (continual.strengths), or train on some of the "
            f"old pairs too; maximum_forgetting = {settings.maximum_forgetting:g} is what may be "
            "lost"
        )
    return "", ""


def _nothing_learned(evidence: Evidence, g: Gain, metric: str) -> str:
    if g.base >= SATURATED:
        return _saturated(g, metric)
    if evidence.train_queries < FEW_PAIRS:
        return (
            f"{evidence.train_queries} training queries are few: label more, some hundreds usually "
            "show"
        )
    return "nothing beat the base on dev: try a lower learning rate or side = 'both'".replace(
        "the base", evidence.against
    )


def _not_proven(evidence: Evidence, settings: GateSettings, g: Gain, independent: int) -> str:
    metric, minimum = settings.metric, settings.minimum_gain
    queries, changed = len(evidence.groups), g.better + g.worse
    if g.low > minimum:  # by the interval alone it would pass
        return (
            f"only {changed} of {queries} test queries changed, and chance alone does as much in "
            f"{g.p:.0%} of all cases: hold out more of them"
        )
    if g.base >= SATURATED:
        return _saturated(g, metric)
    if minimum > 0 and g.low > 0:
        return (
            f"there is a gain, but not proven to be above minimum_gain = {minimum:g}: "
            "lower that, or label more"
        )
    if worse(g):
        return (
            "it makes unseen queries worse: it learned by heart, or the pairs contradict each "
            "other; train less, or look at the worst queries"
        )
    if evidence.train_queries < FEW_PAIRS:
        return (
            f"{evidence.train_queries} training queries are few: label more, some hundreds usually "
            "show"
        )
    above, half = g.gain - minimum, g.gain - g.low
    needed = math.inf if above <= 0 else queries * (half / above) ** 2
    if queries < FEW_TEST_QUERIES:
        more = f" (about {_rounded(needed)} would do)" if needed <= 20 * queries else ""
        return f"{queries} test queries leave a wide interval: hold out more of them{more}"
    if needed <= 4 * queries:
        return (
            f"if the gain is real, about {_rounded(needed)} test queries would prove it, "
            f"{queries} do not: hold out more, or collect more pairs"
        )
    if independent < queries / 4:
        return (
            f"the {queries} test queries are {independent} independent groups, and only those "
            "are evidence: collect more different ones"
        )
    return (
        f"the pairs may say little that {evidence.against} does not know: look at the worst queries"
    )


def _saturated(g: Gain, metric: str) -> str:
    return f"{metric} is {g.base:.2f} as it is: there is little left to win"


def _rounded(number: float) -> str:
    """Return a number as a multiple of a tenth of its size, upwards."""
    unit = 10 ** max(1, len(str(math.ceil(number))) - 2)
    return f"{math.ceil(number / unit) * unit:,}"


def covered(found: Evaluation) -> float:
    """Return the share of queries that have a right document in the first ten."""
    return float(((found.first > 0) & (found.first <= COVERAGE_DEPTH)).mean())


def worse(gain: Gain) -> bool:
    """Say whether a loss is proven."""
    return gain.high < 0 and gain.p <= CHANCE


def forgotten(gain: Gain, settings: GateSettings) -> bool:
    """Say whether a kept set is proven worse, and by more than is allowed."""
    return worse(gain) and gain.gain < -settings.maximum_forgetting
