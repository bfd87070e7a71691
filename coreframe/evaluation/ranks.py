"""Exact ranks and scores over the whole collection, for reports and error analysis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from coreframe.backend import to_numpy
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Ints, ListedRelevance
from coreframe.evaluation import DEPTH
from coreframe.evaluation.retrieval import Evaluation, Map
from coreframe.similarity import Similarity

_SCORES_AT_ONCE = 1 << 24


@dataclass(frozen=True, eq=False)
class Ranks:
    """How each test query fares under one adapter, over the whole collection; NumPy arrays."""

    rank: Any
    """Exact rank of the first right document, from 1; 0 where no document is right."""
    right: Any
    """Cosine of that document; NaN where there is none."""
    wrong: Any
    """Cosine of the hardest negative: the best document that is not right; NaN without one."""


def exact_ranks(adapter: Map, pairs: Pairs, found: Evaluation) -> Ranks:
    """Rank the first right document of each query in the whole collection.

    ``found`` is the evaluation of the same adapter; within its lists its ranks stand.
    """
    cosine = Similarity("cosine")
    queries, documents = (
        cosine.prepare(adapter(to_numpy(x), side=side), None)[0]
        for x, side in ((pairs.queries, "query"), (pairs.documents, "document"))
    )
    count = len(documents)
    block = max(1, min(512, _SCORES_AT_ONCE // count))
    looks = []
    for i in range(0, len(queries), block):
        rows = np.arange(i, min(i + block, len(queries)))
        scores = queries[rows] @ documents.T
        right = right_documents(pairs, rows)
        among = np.where(right, scores, -np.inf)
        place = among.argmax(axis=1)
        best = among[np.arange(len(rows)), place]
        # Equal scores rank by row of the document, as in the evaluation.
        ahead = (scores > best[:, None]).sum(axis=1)
        ahead += ((scores == best[:, None]) & (np.arange(count) < place[:, None])).sum(axis=1)
        wrong = np.where(right, -np.inf, scores).max(axis=1)
        looks.append((np.where(right.any(axis=1), ahead + 1, 0), best, wrong))
    rank, best, wrong = (np.concatenate(x) for x in zip(*looks, strict=True))
    # Within the list the evaluation's rank stands; rounding can differ in the last digit.
    first = found.first
    outside = np.where(rank > 0, np.maximum(rank, min(DEPTH, count) + 1), 0)
    best, wrong = (np.where(np.isfinite(x), x, np.nan) for x in (best, wrong))
    return Ranks(np.where(first > 0, first, outside), best, wrong)


def right_documents(pairs: Pairs, rows: Ints) -> Any:
    """Say for some queries and all documents which are right: (rows, documents)."""
    count, part = int(pairs.documents.shape[0]), pairs.relevance.take(rows)
    if not isinstance(part, ListedRelevance):
        return part.hits(np.broadcast_to(np.arange(count), (len(rows), count)))
    table = np.zeros((len(rows), count), dtype=bool)
    table[part.pairs[:, 0], part.pairs[:, 1]] = True
    return table
