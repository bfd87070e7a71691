"""Which documents are right for which query: listed pairs, or equal labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreframe.errors import ArgumentError, DataError

Ints = NDArray[np.int64]


class Relevance(ABC):
    """A relation between queries and documents, on the host."""

    queries: int
    documents: int

    @abstractmethod
    def hits(self, found: Ints) -> NDArray[np.bool_]:
        """Say for each query (row) and document (entry, -1 = none) whether it is right."""

    @abstractmethod
    def counts(self) -> Ints:
        """Return the number of right documents of each query (q,)."""

    @abstractmethod
    def take(self, rows: Ints) -> Relevance:
        """Return the relation of some queries; the documents stay."""


@dataclass(frozen=True, eq=False)
class ListedRelevance(Relevance):
    """Pairs (p, 2) of query and document, sorted and without repetition."""

    pairs: Ints
    queries: int
    documents: int

    @classmethod
    def of(cls, pairs: object, queries: int, documents: int) -> ListedRelevance:
        """Check and sort pairs given as (p, 2), or as one document a query (q,)."""
        array = np.asarray(pairs)
        if array.dtype.kind not in "iu":
            raise DataError(f"relevant must be integers (row numbers), got {array.dtype}")
        if array.ndim == 1:
            if len(array) != queries:
                raise DataError(f"relevant has {len(array)} entries for {queries} queries")
            array = np.stack([np.arange(queries), array], axis=1)
        if array.ndim != 2 or array.shape[1] != 2 or not len(array):
            raise DataError(f"relevant must be (q,) or (p, 2), got shape {array.shape}")
        low, high = array.min(axis=0), array.max(axis=0)
        if low.min() < 0 or high[0] >= queries or high[1] >= documents:
            raise DataError(
                f"relevant names query {high[0]} and document {high[1]} at most and "
                f"{low.min()} at least, but there are {queries} queries and {documents} documents"
            )
        return cls(np.unique(array.astype(np.int64), axis=0), queries, documents)

    def contains(self, queries: Ints, documents: Ints) -> NDArray[np.bool_]:
        """Say of each query and document, which broadcast, whether they are a pair."""
        known = self.pairs[:, 0] * self.documents + self.pairs[:, 1]  # sorted, as the pairs are
        wanted = queries * self.documents + documents
        if not len(known):
            return np.zeros(wanted.shape, dtype=bool)
        place = np.searchsorted(known, wanted).clip(max=len(known) - 1)
        found: NDArray[np.bool_] = known[place] == wanted
        return found & (documents >= 0)

    def hits(self, found: Ints) -> NDArray[np.bool_]:
        return self.contains(np.arange(self.queries)[:, None], found)

    def counts(self) -> Ints:
        return np.bincount(self.pairs[:, 0], minlength=self.queries).astype(np.int64)

    def take(self, rows: Ints) -> ListedRelevance:
        first = np.searchsorted(self.pairs[:, 0], rows)
        sizes = np.searchsorted(self.pairs[:, 0], rows, side="right") - first
        place = np.repeat(np.arange(len(rows)), sizes)
        before = np.cumsum(sizes) - sizes
        found = np.arange(len(place)) + np.repeat(first - before, sizes)
        moved = np.stack([place, self.pairs[found, 1]], axis=1)
        return ListedRelevance(moved, len(rows), self.documents)


@dataclass(frozen=True, eq=False)
class LabelRelevance(Relevance):
    """A document is right if it has the query's label."""

    query_labels: Ints
    document_labels: Ints

    @property
    def queries(self) -> int:  # type: ignore[override]
        return len(self.query_labels)

    @property
    def documents(self) -> int:  # type: ignore[override]
        return len(self.document_labels)

    def hits(self, found: Ints) -> NDArray[np.bool_]:
        same: NDArray[np.bool_] = self.document_labels[found] == self.query_labels[:, None]
        return same & (found >= 0)

    def counts(self) -> Ints:
        values, sizes = np.unique(self.document_labels, return_counts=True)
        place = np.searchsorted(values, self.query_labels).clip(max=len(values) - 1)
        return np.where(values[place] == self.query_labels, sizes[place], 0).astype(np.int64)

    def take(self, rows: Ints) -> LabelRelevance:
        return LabelRelevance(self.query_labels[rows], self.document_labels)


def components(left: Ints, right: Ints, count: int) -> Ints:
    """Return a number for each of ``count`` nodes, equal for nodes that edges connect."""
    if len(left) != len(right):
        raise ArgumentError(f"edges need two ends, got {len(left)} and {len(right)}")
    label = np.arange(count)
    while True:
        low = np.minimum(label[left], label[right])
        new = label.copy()
        np.minimum.at(new, left, low)
        np.minimum.at(new, right, low)
        while True:  # each node takes the label of its label, down to the root
            shorter = new[new]
            if np.array_equal(shorter, new):
                break
            new = shorter
        if np.array_equal(new, label):
            return label
        label = new
