"""Is it better? A paired comparison with an interval, on queries that were not trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError, nearest
from coreframe.evaluation import METRICS
from coreframe.evaluation.retrieval import Evaluation, Map, evaluate
from coreframe.random import stream

__all__ = ["compare", "paired"]

RESAMPLES = 2000
_DRAWS_AT_ONCE = 1 << 16
_SIGNS_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Gain:
    """One metric of the base and of the adapted vectors, and the gain with its 95% interval."""

    base: float
    adapted: float
    gain: float
    low: float
    high: float
    better: int
    worse: int
    same: int
    p: float
    """Two-sided p value of a paired randomisation test: how often chance alone, which swaps base
    and adapted in each group, brings a difference as large."""


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
    metrics: Sequence[str] = METRICS,
    base: Map | None = None,
    similarity: str = "cosine",
    resamples: int = RESAMPLES,
    seed: int = 42,
) -> Comparison:
    """Evaluate the base and the adapter on the same queries, and compare them query by query."""
    return paired(
        evaluate(base, pairs, metrics=metrics, similarity=similarity),
        evaluate(adapter, pairs, metrics=metrics, similarity=similarity),
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
    """Compare two evaluations of the same queries, in the metrics that both have.

    Queries of one group are no independent evidence; without groups, each query is one. The
    interval is the percentile interval at 95% of a bootstrap over groups (Efron & Tibshirani
    1993, chapter 13); the p value is that of a randomisation test (Fisher 1935; for retrieval
    Smucker, Allan & Carterette 2007) whose draws are those of all groups where that are no more
    than ``resamples``.
    """
    if len(base.first) != len(adapted.first):
        raise ArgumentError(
            f"both evaluations must be of the same queries, got {len(base.first)} "
            f"and {len(adapted.first)}"
        )
    differences = {m: adapted.values[m] - x for m, x in base.values.items() if m in adapted.values}
    if not differences:
        raise ArgumentError("the two evaluations have no metric in common")
    units = np.arange(len(base.first)) if groups is None else groups
    table = np.stack(list(differences.values()))
    low, high = np.quantile(_resampled(table, units, resamples, seed), [0.025, 0.975], axis=1)
    p = _randomised(table, units, resamples, seed)
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
            p=float(p[i]),
        )
    return Comparison(gains, base, adapted, len(base.first))


def _resampled(
    differences: NDArray[np.float64], groups: NDArray[np.int64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Return the means of ``resamples`` bootstrap samples of groups, (metrics, resamples)."""
    if resamples < 100:
        raise ArgumentError(f"resamples must be at least 100 for an interval, got {resamples}")
    rng = stream(seed, "bootstrap")
    sums, sizes = _by_group(differences, groups)
    count = len(sizes)
    means = np.empty((len(differences), resamples))
    at_once = max(1, _DRAWS_AT_ONCE // count)
    for i in range(0, resamples, at_once):
        number = min(at_once, resamples - i)
        drawn = rng.integers(count, size=(number, count)) + count * np.arange(number)[:, None]
        times = np.bincount(drawn.reshape(-1), minlength=number * count).reshape(number, count)
        # Not by BLAS, whose threads cost more than such thin products.
        weights = times.astype(np.float64)
        total = np.einsum("mg,rg->mr", sums, weights)
        means[:, i : i + number] = total / np.einsum("g,rg->r", sizes, weights)
    return means


def _randomised(
    differences: NDArray[np.float64], groups: NDArray[np.int64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Return the p value of each metric: the share of sign flips of groups whose sum is as far
    from 0. Exact where all flips are no more than ``resamples``; else the observed one counts as
    one of the draws (Davison & Hinkley 1997, 4.2), so that p is never 0.
    """
    sums = _by_group(differences, groups)[0]
    count, total = sums.shape[1], sums.sum(axis=1)
    # What differs in rounding alone is a tie.
    wanted = np.abs(total) - 1e-9 * np.abs(sums).sum(axis=1)
    # Python's integers, since 2.0**count overflows from 1,024 groups on.
    exact = 2**count <= resamples
    draws = 2**count if exact else resamples
    rng, reached = stream(seed, "randomisation"), np.zeros(len(sums))
    bits: NDArray[Any]
    at_once = max(1, _SIGNS_AT_ONCE // count)
    for start in range(0, draws, at_once):
        number = min(at_once, draws - start)
        if exact:
            bits = np.arange(start, start + number)[:, None] >> np.arange(count) & 1
        else:
            octets = np.frombuffer(rng.bytes(number * -(-count // 8)), np.uint8)
            bits = np.unpackbits(octets.reshape(number, -1), axis=1, count=count)
        flipped = total - 2 * (bits.astype(np.float64) @ sums.T)
        reached += (np.abs(flipped) >= wanted).sum(axis=0)
    return reached / draws if exact else (reached + 1) / (draws + 1)


def _by_group(
    differences: NDArray[np.float64], groups: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the sums of each group (metrics, groups), and the groups' sizes."""
    codes = np.unique(groups, return_inverse=True)[1].reshape(-1)
    sums: Any = np.stack([np.bincount(codes, weights=row) for row in differences])
    return sums, np.bincount(codes).astype(np.float64)
