"""Is it better? A paired comparison with an interval, on queries that were not trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError, nearest
from coreframe.evaluation import METRICS
from coreframe.evaluation.retrieval import Evaluation, Map, evaluate
from coreframe.random import stream

RESAMPLES = 2000


@dataclass(frozen=True)
class Gain:
    """One metric of the base and of the adapted vectors, and the gain with its interval."""

    base: float
    adapted: float
    gain: float
    low: float
    high: float
    better: int
    worse: int
    same: int


@dataclass(frozen=True, eq=False)
class Comparison:
    """The gain of each metric, and both evaluations query by query."""

    gains: Mapping[str, Gain]
    base: Evaluation
    adapted: Evaluation
    queries: int

    def better(self, metric: str = "ndcg@10", minimum: float = 0.0) -> bool:
        """Say whether the gain is proven: its whole 95% interval lies above ``minimum``."""
        if metric not in self.gains:
            raise ArgumentError(f"there is no metric {metric!r}.{nearest(metric, self.gains)}")
        return self.gains[metric].low > minimum

    def __str__(self) -> str:
        lines = [f"{self.queries:,} queries  base   adapted    gain   95% interval"]
        for name, g in self.gains.items():
            lines.append(
                f"{name:<12} {g.base:7.3f} {g.adapted:9.3f} {g.gain:+8.3f}"
                f"   [{g.low:+.3f}, {g.high:+.3f}]"
            )
        return "\n".join(lines)


def compare(
    adapter: Map,
    pairs: Pairs,
    *,
    base: Map | None = None,
    similarity: str = "cosine",
    resamples: int = RESAMPLES,
    seed: int = 42,
) -> Comparison:
    """Evaluate the base and the adapter on the same queries, and compare them query by query."""
    return paired(
        evaluate(base, pairs, similarity=similarity),
        evaluate(adapter, pairs, similarity=similarity),
        groups=pairs.groups,
        resamples=resamples,
        seed=seed,
    )


def paired(
    base: Evaluation,
    adapted: Evaluation,
    *,
    groups: NDArray[np.int64] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 42,
) -> Comparison:
    """Compare two evaluations of the same queries by a paired bootstrap over groups of queries.

    Queries of one group are no independent evidence; without groups, each query is one. The
    interval is the percentile interval at 95% (Efron & Tibshirani 1993, chapter 13).
    """
    differences = {m: adapted.values[m] - base.values[m] for m in METRICS}
    units = np.arange(len(base.first)) if groups is None else groups
    means = _resampled(np.stack(list(differences.values())), units, resamples, seed)
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    gains = {}
    for i, (name, difference) in enumerate(differences.items()):
        better, worse = int((difference > 0).sum()), int((difference < 0).sum())
        before, after = float(base.values[name].mean()), float(adapted.values[name].mean())
        gains[name] = Gain(
            base=before,
            adapted=after,
            gain=after - before,
            low=float(low[i]),
            high=float(high[i]),
            better=better,
            worse=worse,
            same=len(difference) - better - worse,
        )
    return Comparison(gains, base, adapted, len(base.first))


def _resampled(
    differences: NDArray[np.float64], groups: NDArray[np.int64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Return the means of ``resamples`` bootstrap samples of groups, (metrics, resamples)."""
    if resamples < 100:
        raise ArgumentError(f"resamples must be at least 100 for an interval, got {resamples}")
    rng = stream(seed, "bootstrap")
    codes = np.unique(groups, return_inverse=True)[1].reshape(-1)
    sizes = np.bincount(codes).astype(np.float64)
    count = len(sizes)
    sums = np.stack([np.bincount(codes, weights=row) for row in differences])
    means = np.empty((len(differences), resamples))
    for i in range(resamples):
        times = np.bincount(rng.integers(count, size=count), minlength=count)
        means[:, i] = (sums @ times) / (sizes @ times)
    return means
