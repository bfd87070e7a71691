"""Exact ranks and scores over the whole collection, for reports and error analysis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.backend import to_numpy
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Ints, ListedRelevance, Relevance
from coreframe.evaluation.retrieval import Evaluation, Map, adapted_documents
from coreframe.similarity import Similarity

__all__ = ["exact_ranks"]

_QUERIES_AT_ONCE = 1024
_DOCUMENTS_AT_ONCE = 8192


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
    """Rank the first right document of each query in the whole collection, tile by tile.

    ``found`` is the evaluation of the same adapter; within its lists its ranks stand.
    """
    cosine = Similarity("cosine")
    queries = cosine.prepare(adapter(to_numpy(pairs.queries), side="query"), None)[0]
    documents = adapted_documents(adapter, to_numpy(pairs.documents))
    tiles = _Tiles(pairs.relevance, len(queries), int(documents.shape[0]))
    best, place = np.full(len(queries), -np.inf, queries.dtype), np.full(len(queries), tiles.count)
    ahead, wrong = np.zeros(len(queries), np.int64), np.full_like(best, -np.inf)
    for finding in (True, False):  # first the best right document, then what comes before it
        for columns in tiles.columns(only_right=finding):
            unit = cosine.prepare(documents[columns.start : columns.stop, :], None)[0]
            for rows in tiles.rows(columns, only_right=finding):
                scores = queries[rows] @ unit.T
                right = tiles.right(rows, columns)
                if finding:
                    scores[~right] = -np.inf
                    column = scores.argmax(axis=1)
                    score = scores[np.arange(len(rows)), column]
                    better = score > best[rows]  # of equals the lower row, which came before
                    best[rows] = np.where(better, score, best[rows])
                    place[rows] = np.where(better, column + columns.start, place[rows])
                else:
                    scores[right] = -np.inf
                    least = best[rows, None]
                    ahead[rows] += (scores > least).sum(axis=1)
                    # Equal scores rank by row of the document, as in the evaluation.
                    earlier = np.arange(columns.start, columns.stop) < place[rows, None]
                    ahead[rows] += ((scores == least) & earlier).sum(axis=1)
                    wrong[rows] = np.maximum(wrong[rows], scores.max(axis=1))
    # Within the list the evaluation's rank stands; rounding can differ in the last digit.
    rank = np.where(np.isfinite(best), ahead + 1, 0)
    outside = np.where(rank > 0, np.maximum(rank, found.found.shape[1] + 1), 0)
    best, wrong = (np.where(np.isfinite(x), x, np.nan) for x in (best, wrong))
    return Ranks(np.where(found.first > 0, found.first, outside), best, wrong)


class _Tiles:
    """Who is right for whom, in tiles of queries and documents."""

    def __init__(self, relevance: Relevance, queries: int, count: int) -> None:
        self.relevance, self.queries, self.count = relevance, queries, count
        self.pairs: Ints | None = None
        if isinstance(relevance, ListedRelevance):
            self.pairs = relevance.pairs[np.argsort(relevance.pairs[:, 1], kind="stable")]

    def columns(self, *, only_right: bool) -> Iterator[slice]:
        """Yield the tiles of documents, or those of them that hold a right one."""
        for j in range(0, self.count, _DOCUMENTS_AT_ONCE):
            columns = slice(j, min(j + _DOCUMENTS_AT_ONCE, self.count))
            if not only_right or self.pairs is None or len(self._within(columns)):
                yield columns

    def rows(self, columns: slice, *, only_right: bool) -> Iterator[Ints]:
        """Yield rows of queries, or of those that have a right document in the tile."""
        rows = np.arange(self.queries)
        # One tile has one product, whose scores are then the same to the last bit in both looks.
        if only_right and self.pairs is not None and self.count > _DOCUMENTS_AT_ONCE:
            rows = np.unique(self._within(columns)[:, 0])
        for i in range(0, len(rows), _QUERIES_AT_ONCE):
            yield rows[i : i + _QUERIES_AT_ONCE]

    def right(self, rows: Ints, columns: slice) -> NDArray[np.bool_]:
        """Say for some queries, and documents one after the other, which are right."""
        numbers = np.arange(columns.start, columns.stop)
        if self.pairs is None:
            shape = (len(rows), len(numbers))
            return self.relevance.take(rows).hits(np.broadcast_to(numbers, shape))
        table = np.zeros((len(rows), len(numbers)), dtype=bool)
        pairs = self._within(columns)
        row = np.searchsorted(rows, pairs[:, 0]).clip(max=len(rows) - 1)
        here = rows[row] == pairs[:, 0]
        table[row[here], pairs[here, 1] - columns.start] = True
        return table

    def _within(self, columns: slice) -> Ints:
        """Return the pairs whose document lies in a tile."""
        assert self.pairs is not None
        first, last = np.searchsorted(self.pairs[:, 1], [columns.start, columns.stop])
        return self.pairs[first:last]
