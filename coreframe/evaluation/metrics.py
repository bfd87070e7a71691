"""Metrics of ranked lists, by name and depth: ``recall@10``, ``ndcg@10``, ``r_precision``.

The definitions are trec_eval's. Of one query, with R right documents, h(i) = 1 where the document
at rank i is right, and gain g(i), which is h(i) unless relevance has grades:

    recall@k     h(1) + .. + h(k), over R                        recall_k
    precision@k  h(1) + .. + h(k), over k, however few there are  P_k
    accuracy@k   1 if any of the first k is right                success_k
    mrr@k        1 / rank of the first right one, 0 beyond k     recip_rank of k documents
    map@k        sum of h(i) precision@i for i <= k, over R      map_cut_k
    ndcg@k       sum of g(i) / log2(i + 1) for i <= k, over the best such sum   ndcg_cut_k
    r_precision  precision@R                                     Rprec

A query without a right document has 0 in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from coreframe.data.relevance import Floats, Ints, Relevance
from coreframe.errors import ArgumentError, ArgumentTypeError, nearest
from coreframe.evaluation import METRICS

__all__ = ["Judged", "measure"]

DEFAULT = METRICS
R_PRECISION = "r_precision"


@dataclass(frozen=True, eq=False)
class Judged:
    """Ranked lists of documents (q, n), and which of them are right."""

    hits: Floats
    """1 where the document is right, else 0 (q, n)."""
    counts: Ints
    """How many documents are right for each query (q,)."""
    relevance: Relevance
    found: Ints

    @classmethod
    def of(cls, found: Ints, relevance: Relevance) -> Judged:
        hits = relevance.hits(found).astype(np.float64)
        return cls(hits, relevance.counts(), relevance, found)

    @property
    def wanted(self) -> Floats:
        """The number of right documents, at least 1, to divide by."""
        return np.maximum(self.counts, 1).astype(np.float64)

    def first(self, k: int) -> Ints:
        """Return the rank of the first right document among the first k, from 1, or 0."""
        hits = self.hits[:, :k]
        return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0).astype(np.int64)


def _recall(lists: Judged, k: int) -> Any:
    return lists.hits[:, :k].sum(axis=1) / lists.wanted


def _precision(lists: Judged, k: int) -> Any:
    return lists.hits[:, :k].sum(axis=1) / k


def _accuracy(lists: Judged, k: int) -> Any:
    return lists.hits[:, :k].any(axis=1).astype(np.float64)


def _mrr(lists: Judged, k: int) -> Any:
    first = lists.first(k)
    return np.where(first > 0, 1 / np.maximum(first, 1), 0.0)


def _map(lists: Judged, k: int) -> Any:
    hits = lists.hits[:, :k]
    precision = hits.cumsum(axis=1) / np.arange(1, hits.shape[1] + 1)
    return (hits * precision).sum(axis=1) / lists.wanted


def _ndcg(lists: Judged, k: int) -> Any:
    gains = lists.relevance.gains_of(lists.found[:, :k])
    discount = 1 / np.log2(np.arange(k) + 2)
    ideal = lists.relevance.ideal(discount)
    # Added up in the order of the ideal, so that a perfect list has exactly 1.
    found = (gains * discount[: gains.shape[1]]).cumsum(axis=1)[:, -1]
    return found / np.where(ideal > 0, ideal, 1.0)


def _r_precision(lists: Judged) -> Any:
    inside = np.arange(lists.hits.shape[1]) < lists.counts[:, None]
    return (lists.hits * inside).sum(axis=1) / lists.wanted


FAMILIES: dict[str, Callable[[Judged, int], Any]] = {
    "recall": _recall,
    "precision": _precision,
    "accuracy": _accuracy,
    "mrr": _mrr,
    "map": _map,
    "ndcg": _ndcg,
}
_USUAL = [
    *(f"{family}@{k}" for family in FAMILIES for k in (1, 3, 5, 10, 20, 50, 100)),
    R_PRECISION,
]


@dataclass(frozen=True)
class Metric:
    """One metric by its name, such as ``ndcg@10``; ``parse`` makes them."""

    name: str
    family: str
    k: int | None
    """How many documents are looked at; None for as many as are right."""

    def depth(self, relevance: Relevance) -> int:
        """Return how long the ranked lists must be."""
        return self.k or max(1, int(relevance.counts().max(initial=1)))

    def __call__(self, lists: Judged) -> Any:
        """Return the metric of each query (q,), in [0, 1], of lists of that depth.

        Lists may be shorter where there are no more documents.
        """
        return _r_precision(lists) if self.k is None else FAMILIES[self.family](lists, self.k)


def parse(name: str) -> Metric:
    """Return the metric of a name, or raise ArgumentError with the nearest ones.

    >>> parse("ndcg@10").k
    10
    """
    if not isinstance(name, str):
        raise ArgumentTypeError(f"a metric must be a name such as 'ndcg@10', got {name!r}")
    if name == R_PRECISION:
        return Metric(name, name, None)
    family, at, k = name.partition("@")
    if family in FAMILIES and re.fullmatch(r"[1-9][0-9]{0,8}", k):
        return Metric(name, family, int(k))
    if family in FAMILIES and re.fullmatch(r"0*[0-9]*", k):
        wanted = f"{family}@{int(k)}" if k.strip("0") else f"{family}@10"
        what = "a depth from 1" if at else "a depth"
        raise ArgumentError(f"metric {name!r} needs {what}, such as {wanted!r}")
    from difflib import get_close_matches

    close = get_close_matches(name, _USUAL, n=1)
    known = f" Known: {', '.join(f'{f}@K' for f in FAMILIES)}, {R_PRECISION}."
    raise ArgumentError(f"there is no metric {name!r}.{nearest(name, _USUAL) if close else known}")


def several(*names: str | Iterable[str]) -> tuple[str, ...]:
    """Return the names of metrics, given alone or as lists, each once and checked.

    >>> several(("recall@1", "ndcg@10"), "map@100", "ndcg@10")
    ('recall@1', 'ndcg@10', 'map@100')
    """
    found: dict[str, None] = {}
    for given in names:
        for name in (given,) if isinstance(given, str) else given:
            found[parse(name).name] = None
    return tuple(found)


def depth_of(metrics: Iterable[str], relevance: Relevance) -> int:
    """Return how long the ranked lists of some metrics must be."""
    return max(parse(name).depth(relevance) for name in metrics)


def measure(lists: Judged, metrics: Iterable[str]) -> dict[str, Any]:
    """Return some metrics of each query, by name: arrays (q,) float64."""
    return {name: parse(name)(lists) for name in metrics}
