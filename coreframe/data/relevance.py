"""Which documents are right for which query: listed pairs, or equal labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from coreframe.errors import ArgumentError, DataError

__all__ = ["LabelRelevance", "ListedRelevance"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


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

    def gains_of(self, found: Ints) -> Floats:
        """Return how right each found document is, in the form of ``hits``: 1 and 0 if ungraded."""
        return self.hits(found).astype(np.float64)

    def ideal(self, discount: Floats) -> Floats:
        """Return the best sum of discounted gains of each query (q,): its largest gains first."""
        sums = np.concatenate([[0.0], np.cumsum(discount)])
        return sums[np.minimum(self.counts(), len(discount))]


@dataclass(frozen=True, eq=False)
class ListedRelevance(Relevance):
    """Pairs (p, 2) of query and document, sorted and without repetition.

    ``gains`` (p,) says how right each is, > 0, where relevance has grades.
    """

    pairs: Ints
    queries: int
    documents: int
    gains: Floats | None = None

    @classmethod
    def of(
        cls, pairs: object, queries: int, documents: int, gains: object = None
    ) -> ListedRelevance:
        """Check and sort pairs given as (p, 2), or as one document a query (q,).

        Of a pair that is given twice, the larger gain counts.
        """
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
        listed = cls(np.unique(array.astype(np.int64), axis=0), queries, documents)
        if gains is None:
            return listed
        given = np.asarray(gains)
        if given.shape != (len(array),) or given.dtype.kind not in "iuf":
            raise DataError(
                f"gains must hold one number for each of {len(array)} pairs, "
                f"got {given.dtype} {given.shape}"
            )
        if (bad := ~(np.isfinite(given) & (given > 0))).any():
            row = int(np.argmax(bad))
            raise DataError(
                f"gains must be finite and above 0, got {given[row]} for entry {row}; "
                "leave out pairs that are not right"
            )
        joined = np.zeros(len(listed.pairs))
        np.maximum.at(joined, listed.place(array), given)
        return cls(listed.pairs, queries, documents, joined)

    def place(self, pairs: object) -> Ints:
        """Return where each given pair, in a form that ``of`` takes, stands in ``pairs``."""
        array = np.asarray(pairs).astype(np.int64)
        if array.ndim == 1:
            array = np.stack([np.arange(self.queries), array], axis=1)
        return np.searchsorted(self._keys, array[:, 0] * self.documents + array[:, 1])

    @cached_property
    def _keys(self) -> Ints:
        return self.pairs[:, 0] * self.documents + self.pairs[:, 1]  # sorted, as the pairs are

    @cached_property
    def is_single(self) -> bool:
        """Whether each query has at most one right document."""
        return bool((self.counts() <= 1).all())

    def of_queries(self, rows: Ints) -> tuple[Ints, Ints]:
        """Return the documents of some queries one after the other, and whose each is."""
        found, place = self.pairs_of(rows)
        return self.pairs[found, 1], place

    def pairs_of(self, rows: Ints) -> tuple[Ints, Ints]:
        """Return the numbers of the pairs of some queries, in turn, and whose each is."""
        first = np.searchsorted(self.pairs[:, 0], rows)
        sizes = np.searchsorted(self.pairs[:, 0], rows, side="right") - first
        place = np.repeat(np.arange(len(rows)), sizes)
        before = np.cumsum(sizes) - sizes
        return np.arange(len(place)) + np.repeat(first - before, sizes), place

    def contains(self, queries: Ints, documents: Ints) -> NDArray[np.bool_]:
        """Say of each query and document, which broadcast, whether they are a pair."""
        wanted = queries * self.documents + documents
        if not len(self._keys):
            return np.zeros(wanted.shape, dtype=bool)
        place = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        found: NDArray[np.bool_] = self._keys[place] == wanted
        return found & (documents >= 0)

    def hits(self, found: Ints) -> NDArray[np.bool_]:
        return self.contains(np.arange(self.queries)[:, None], found)

    def counts(self) -> Ints:
        return np.bincount(self.pairs[:, 0], minlength=self.queries).astype(np.int64)

    def take(self, rows: Ints) -> ListedRelevance:
        chosen, place = self.pairs_of(rows)
        pairs = np.stack([place, self.pairs[chosen, 1]], axis=1)
        gains = None if self.gains is None else self.gains[chosen]
        return ListedRelevance(pairs, len(rows), self.documents, gains)

    def gains_of(self, found: Ints) -> Floats:
        hits = self.hits(found)
        if self.gains is None or not len(self.pairs):
            return hits.astype(np.float64)
        wanted = np.arange(self.queries)[:, None] * self.documents + found
        place = np.searchsorted(self._keys, wanted).clip(max=len(self._keys) - 1)
        return np.where(hits, self.gains[place], 0.0)

    def ideal(self, discount: Floats) -> Floats:
        if self.gains is None:
            return super().ideal(discount)
        rows = self.pairs[:, 0]
        order = np.lexsort((-self.gains, rows))  # of each query, the largest gain first
        place = np.arange(len(rows)) - np.searchsorted(rows, rows)
        inside = place < len(discount)
        terms = self.gains[order][inside] * discount[place[inside]]
        sums = np.bincount(rows[inside], weights=terms, minlength=self.queries)
        return sums.astype(np.float64, copy=False)


@dataclass(frozen=True, eq=False)
class LabelRelevance(Relevance):
    """A document is right if it has the query's label.

    ``own`` is the row of each query among the documents, where it is one of them: a row is not
    its own answer.
    """

    query_labels: Ints
    document_labels: Ints
    own: Ints | None = None

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
        found = np.where(values[place] == self.query_labels, sizes[place], 0).astype(np.int64)
        return found if self.own is None else found - 1

    def take(self, rows: Ints) -> LabelRelevance:
        own = None if self.own is None else self.own[rows]
        return LabelRelevance(self.query_labels[rows], self.document_labels, own)


def components(left: Ints, right: Ints, count: int) -> Ints:
    """Return a number for each of ``count`` nodes, equal for nodes that edges connect."""
    if len(left) != len(right):
        raise ArgumentError(f"edges need two ends, got {len(left)} and {len(right)}")
    label = np.arange(count)
    while True:
        low = np.minimum(label[left], label[right])
        new = label.copy()
        np.minimum.at(new, label[left], low)  # the roots are joined, so few rounds are needed
        np.minimum.at(new, label[right], low)
        while True:  # each node takes the label of its label, down to the root
            shorter = new[new]
            if np.array_equal(shorter, new):
                break
            new = shorter
        if np.array_equal(new, label):
            return label
        label = new


def row_codes(*arrays: NDArray[np.floating]) -> list[Ints]:
    """Return a number for each row of each array, equal where the rows are equal in every bit."""
    hashes = [row_hashes(x) for x in arrays]
    codes = np.unique(np.concatenate(hashes), return_inverse=True)[1].reshape(-1).astype(np.int64)
    return np.split(codes, np.cumsum([len(h) for h in hashes])[:-1])


def row_hashes(x: NDArray[np.floating]) -> NDArray[np.uint64]:
    """Return a 64-bit hash of the bits of each row of x (n, d), a block of rows at a time."""
    multipliers = np.random.Generator(np.random.Philox(key=1)).integers(
        2**63, size=x.shape[1], dtype=np.uint64
    )
    found = np.empty(len(x), np.uint64)
    for i in range(0, len(x), 4096):
        part = np.ascontiguousarray(x[i : i + 4096])
        bits = part.view(f"u{part.itemsize}").astype(np.uint64)
        bits ^= bits >> np.uint64(17)
        found[i : i + 4096] = (bits * (2 * multipliers + 1)).sum(axis=1, dtype=np.uint64)
    return found
