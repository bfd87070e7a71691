"""The health of vectors: whether an adapter still uses its space, or has collapsed it.

Measured on samples of queries and documents of unit length, drawn by a seed, so that it costs the
same on a thousand rows and on a million:

    effective rank   exp of the entropy of the singular values, as shares of their sum
                     (Roy & Vetterli 2007): how many directions are in use
    alignment        mean of |u - v|^2 over queries and their right documents, 0 to 4
    uniformity       log of the mean of exp(-2 |u - v|^2) over pairs of rows; -4 where rows are
                     orthogonal, 0 where all are one (both: Wang & Isola 2020, arXiv 2005.10242)
    hubness          skewness of how often a document is among the 10 nearest of a query
                     (Radovanovic, Nanopoulos & Ivanovic 2010)
    distance from    |W - I| / |I| in Frobenius norm, of the map of a side: 0 is no change
    the identity
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from coreframe.artefact import SIDES, TrainedAdapter
from coreframe.backend import Array, to_numpy
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Floats, Ints, LabelRelevance, ListedRelevance
from coreframe.evaluation.retrieval import Map
from coreframe.lazy import take
from coreframe.random import stream

__all__ = ["health"]

SAMPLE = 2048
NEIGHBOURS = 10

SMALLEST_RANK = 1.5
RANK_LOSS = 0.1
CROWDED = -0.1


@dataclass(frozen=True, kw_only=True)
class Health:
    """The geometry of one adapter's vectors; NaN where there is nothing to measure.

    Names without a side are of queries, which every adapter moves; ``document_`` is the other.
    """

    effective_rank: float
    document_effective_rank: float
    alignment: float
    uniformity: float
    document_uniformity: float
    hubness: float
    distance_from_identity: float
    document_distance_from_identity: float
    sampled_queries: int
    sampled_documents: int
    collapsed: bool
    reason: str
    """What is wrong, in words; empty where nothing is."""

    def as_dict(self) -> dict[str, Any]:
        """Return the fields for JSON: None in place of NaN."""
        return {k: None if x != x else x for k, x in asdict(self).items()}


def health(
    adapter: Map | None,
    pairs: Pairs,
    *,
    base: Health | None = None,
    sample: int = SAMPLE,
    seed: int = 42,
) -> Health:
    """Measure the vectors of an adapter (None: those given) on a sample of queries and documents.

    ``base`` is the health of the vectors as given, measured with the same sample and seed: with
    it, an adapter that keeps less than a tenth of the directions counts as collapsed. So does one
    whose rows point nearly all the same way, which needs no comparison.
    """
    rows, columns, pair = _sampled(pairs, sample, seed)
    queries = _adapted(adapter, pairs.queries, rows, "query")
    documents = _adapted(adapter, pairs.documents, columns, "document")
    right = _adapted(adapter, pairs.documents, pair[:, 1], "document")
    asking = _adapted(adapter, pairs.queries, pair[:, 0], "query")
    ranks = {"query": effective_rank(queries), "document": effective_rank(documents)}
    crowding = {"query": uniformity(queries), "document": uniformity(documents)}
    distances = {side: distance_from_identity(adapter, side) for side in SIDES}
    possible = {"query": min(queries.shape), "document": min(documents.shape)}
    before = None if base is None else {
        "query": base.effective_rank, "document": base.document_effective_rank
    }  # fmt: skip
    reason = _reason(ranks, crowding, possible, before)
    own = isinstance(pairs.relevance, LabelRelevance) and pairs.relevance.own is not None
    return Health(
        effective_rank=ranks["query"],
        document_effective_rank=ranks["document"],
        alignment=alignment(asking, right),
        uniformity=crowding["query"],
        document_uniformity=crowding["document"],
        hubness=hubness(queries, documents, themselves=own),
        distance_from_identity=distances["query"],
        document_distance_from_identity=distances["document"],
        sampled_queries=len(rows),
        sampled_documents=len(columns),
        collapsed=bool(reason),
        reason=reason,
    )


def _reason(
    ranks: Mapping[str, float],
    crowding: Mapping[str, float],
    possible: Mapping[str, int],
    before: Mapping[str, float] | None,
) -> str:
    """Say what has collapsed, or nothing.

    Uniformity above -0.1 is a mean cosine of about 0.975 or more: that of real embedders, even of
    those whose cosines are all above 0.7, is below -0.5.
    """
    found = []
    for side, plural in (("query", "queries"), ("document", "documents")):
        rank = ranks[side]
        if possible[side] < 3:
            continue  # too few rows or directions to tell
        if crowding[side] > CROWDED:
            found.append(
                f"{plural} point nearly all the same way: uniformity {crowding[side]:.3f}, "
                f"above {CROWDED:g}"
            )
        elif rank < SMALLEST_RANK:
            found.append(
                f"{plural} lie on one line: effective rank {rank:.2f}, below {SMALLEST_RANK:g}"
            )
        elif before is not None and rank < RANK_LOSS * before[side]:
            found.append(
                f"{plural} lost most of their directions: effective rank {rank:.1f}, "
                f"below a tenth of the base's {before[side]:.1f}"
            )
    return "; ".join(found)


# Samples --------------------------------------------------------------------------------------


def _sampled(pairs: Pairs, sample: int, seed: int) -> tuple[Ints, Ints, Ints]:
    """Return rows of queries, rows of documents, and pairs of both that are right."""
    count, relevance = int(pairs.documents.shape[0]), pairs.relevance
    rng = stream(seed, "health")
    rows = _chosen(rng, len(pairs), sample)
    if isinstance(relevance, LabelRelevance) and relevance.own is not None:
        columns = relevance.own[rows]  # one set: what is asked is what is searched
    else:
        columns = _chosen(rng, count, sample)
    if isinstance(relevance, ListedRelevance):
        chosen = _chosen(rng, len(relevance.pairs), sample)
        return rows, columns, relevance.pairs[chosen]
    # With labels, pairs among the sampled rows: each with the next document of its class.
    found = relevance.take(rows).hits(np.broadcast_to(columns, (len(rows), len(columns))))
    if isinstance(relevance, LabelRelevance) and relevance.own is not None:
        np.fill_diagonal(found, False)
    with_one = np.flatnonzero(found.any(axis=1))
    return (
        rows,
        columns,
        np.stack([rows[with_one], columns[found[with_one].argmax(axis=1)]], axis=1),
    )


def _chosen(rng: np.random.Generator, count: int, sample: int) -> Ints:
    if count <= sample:
        return np.arange(count)
    return np.sort(rng.choice(count, size=sample, replace=False))


def _adapted(adapter: Map | None, x: Array, rows: Ints, side: str) -> Floats:
    """Return some rows, adapted and of unit length, in float64 on the host."""
    part = take(x, rows)
    found = to_numpy(part if adapter is None else adapter(part, side=side)).astype(np.float64)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    unit: Floats = np.divide(found, length, out=np.zeros_like(found), where=length > 0)
    return unit


# Measures of rows (n, d) of unit length ---------------------------------------------------------


def effective_rank(x: Floats) -> float:
    """Return exp of the entropy of the singular values of rows, as shares: from 1 to min(n, d).

    0 where all rows are zero, NaN without rows.
    """
    if not len(x):
        return math.nan
    gram = x.T @ x if x.shape[0] > x.shape[1] else x @ x.T
    values = np.linalg.eigvalsh(gram)
    # Below rounding, an eigenvalue of 0 would have a square root that counts.
    values = np.where(values > len(gram) * np.finfo(np.float64).eps * values[-1], values, 0.0)
    singular = np.sqrt(values)
    if not singular.sum() > 0:
        return 0.0
    shares = singular[singular > 0] / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def alignment(u: Floats, v: Floats) -> float:
    """Return the mean squared distance of rows that belong together; NaN without any."""
    return float(((u - v) ** 2).sum(axis=1).mean()) if len(u) else math.nan


def uniformity(x: Floats) -> float:
    """Return the log of the mean of exp(-2 |u - v|^2) over pairs of rows; NaN below two rows."""
    n = len(x)
    if n < 2:
        return math.nan
    squares = (x**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * (x @ x.T), 0.0)
    total = np.exp(-2 * distances).sum() - np.exp(-2 * np.diagonal(distances)).sum()
    return float(np.log(total / (n * (n - 1))))


def hubness(
    queries: Floats, documents: Floats, *, k: int = NEIGHBOURS, themselves: bool = False
) -> float:
    """Return the skewness of how often a document is among the k nearest of a query.

    With ``themselves``, row i of both is one item, which is no neighbour of its own. NaN where
    there are no more than k documents; 0 where all are found equally often.
    """
    if len(documents) - themselves <= k or not len(queries):
        return math.nan
    scores = queries @ documents.T
    if themselves:
        np.fill_diagonal(scores, -np.inf)
    nearest = np.argpartition(-scores, k - 1, axis=1)[:, :k]
    times = np.bincount(nearest.reshape(-1), minlength=len(documents)).astype(np.float64)
    centered = times - times.mean()
    spread = np.sqrt((centered**2).mean())
    return float((centered**3).mean() / spread**3) if spread > 0 else 0.0


def distance_from_identity(adapter: Map | None, side: str) -> float:
    """Return |W - I| / |I| of the map of a side; 0 without an adapter, NaN where W is not known
    or not square.
    """
    if adapter is None:
        return 0.0
    if not isinstance(adapter, TrainedAdapter):
        return math.nan
    w, _ = adapter.side(side).matrix(adapter.dimensions)
    if w.shape[0] != w.shape[1]:
        return math.nan
    return float(np.linalg.norm(w - np.eye(len(w))) / math.sqrt(len(w)))
