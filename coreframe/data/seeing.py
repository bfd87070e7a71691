"""What is worth telling about data: vectors as they are, and what is odd about pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.data.disk_cache import told
from coreframe.data.joining import Joined, Judged
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Ints, ListedRelevance, row_codes
from coreframe.data.vectors import Vectors
from coreframe.embedder import Embedder
from coreframe.errors import DataError
from coreframe.lazy import take


class Notes:
    """Lines about data, gathered while it is read."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def of_vectors(self, side: str, x: Vectors) -> None:
        facts = x.facts
        dtype = x.array.dtype.name
        kind = dtype if x.stored == dtype else f"{x.stored}, computed in {dtype}"
        if facts.normalised:
            norm = "normalised"
        else:
            norm = f"not normalised (norms {facts.low:.3g} to {facts.high:.3g})"
        ids = f", ids from {x.ids_from}" if x.ids is not None else ""
        self.say(f"vectors {side}: {facts.rows:,} x {facts.width} {kind}, {norm}{ids}")
        if facts.zero_rows:
            self.say(
                f"zeros   {some(facts.zero_rows, 'row')} of the {side} "
                f"{'is' if facts.zero_rows == 1 else 'are'} all zeros, the first in row "
                f"{facts.first_zero} (from 0): their similarity to anything is 0"
            )

    def of_cache(self, embedder: Embedder) -> None:
        if line := told(embedder):
            self.say(line)

    def of_judgements(self, joined: Joined, judged: Judged, least: float) -> None:
        relevance = joined.relevance
        if relevance.gains is not None:
            low, high = relevance.gains.min(), relevance.gains.max()
            self.say(
                f"grades  {low:g} to {high:g}: weights in training, gains in nDCG; "
                "above 0 is right" if least < 1e-9 else
                f"grades  {low:g} to {high:g}: weights in training, gains in nDCG; "
                f"right from {least:g} on (data.minimum_score)"
            )  # fmt: skip
        wrong = 0 if judged.grade is None else int((judged.grade[judged.row] <= 0).sum())
        if wrong:
            self.say(f"rows    {wrong:,} graded 0 are known wrong documents")
        if joined.middling:
            self.say(f"rows    {joined.middling:,} graded between 0 and {least:g} are left out")
        if joined.dropped:
            self.say(f"queries {joined.dropped:,} without a right document are left out")
        if judged.grade is None:
            repeated = len(judged.row) - len(relevance.pairs)
            if repeated > 0:
                self.say(f"rows    {repeated:,} repeat a pair that is there already")

    def of_classes(self, labels: NDArray[Any]) -> None:
        """Tell of classes with one row; raise DataError if there is one class only."""
        values, sizes = np.unique(labels, return_counts=True)
        if len(values) == 1:
            raise DataError(
                f"all {len(labels):,} rows have the class {values[0]}: there is nothing to tell "
                "apart"
            )
        single = int((sizes == 1).sum())
        if single:
            self.say(
                f"classes {single:,} of {len(sizes):,} have one row, which has no right partner"
            )

    def of_pairs(self, pairs: Pairs) -> None:
        """Look for documents that are there twice, and queries that are documents too."""
        if pairs.has_labels:
            also: Ints = np.zeros((0, 2), np.int64)
        elif pairs.query_texts is not None and pairs.document_texts is not None:
            place = {text: row for row, text in enumerate(pairs.document_texts)}
            found = [(i, place.get(text, -1)) for i, text in enumerate(pairs.query_texts)]
            also = np.array([pair for pair in found if pair[1] >= 0], np.int64).reshape(-1, 2)
        else:
            also = _same_vector(pairs.queries, pairs.documents)
        if isinstance(pairs.relevance, ListedRelevance):
            also = also[~pairs.relevance.contains(also[:, 0], also[:, 1])]
        twice = 0 if pairs.document_texts is not None else repeated_rows(pairs.documents)
        if twice:
            self.say(
                f"twice   {some(twice, 'document')} {'has' if twice == 1 else 'have'} the vector "
                "of another one: a right document may rank behind its double"
            )
        if len(also):
            self.say(
                f"corpus  {some(len(also), 'query')} {'is' if len(also) == 1 else 'are'} in the "
                "collection too, as a document that is not right: it is found first"
            )


def some(count: int, noun: str) -> str:
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count:,} {noun if count == 1 else plural}"


def _keys(x: NDArray[Any]) -> NDArray[np.uint64]:
    """Return a number a row from a few of its columns: rows that are equal have equal ones."""
    columns = np.unique(np.linspace(0, x.shape[1] - 1, min(8, x.shape[1])).astype(int))
    found = np.zeros(len(x), np.uint64)
    height = 1 << 16
    for start in range(0, len(x), height):
        part = np.ascontiguousarray(x[start : start + height][:, columns]) + 0.0  # -0 is 0
        bits = part.view(f"u{part.itemsize}").astype(np.uint64)
        key = np.zeros(len(part), np.uint64)
        for j in range(bits.shape[1]):
            key = (key ^ bits[:, j]) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        found[start : start + height] = key
    return found


def _among(x: NDArray[Any], values: NDArray[Any]) -> NDArray[np.bool_]:
    """Say of each number whether it is one of some; sorting is faster than NumPy's own way."""
    values = np.sort(values)
    place = np.searchsorted(values, x).clip(max=len(values) - 1)
    found: NDArray[np.bool_] = values[place] == x
    return found


def repeated_rows(x: NDArray[Any]) -> int:
    """Count the rows that are equal to an earlier one."""
    keys = _keys(x)
    in_order = np.sort(keys)
    twice = in_order[1:][in_order[1:] == in_order[:-1]]
    if not len(twice):
        return 0
    suspects = np.nonzero(_among(keys, twice))[0]
    codes = np.concatenate(row_codes(*_blocks(x, suspects)))
    return len(suspects) - len(np.unique(codes))


def _same_vector(queries: NDArray[Any], documents: NDArray[Any]) -> Ints:
    """Return queries and a document of the same vector, where there is one: (n, 2)."""
    none = np.zeros((0, 2), np.int64)
    if queries.dtype != documents.dtype:
        return none
    q, d = _keys(queries), _keys(documents)
    left, right = np.nonzero(_among(q, d))[0], np.nonzero(_among(d, q))[0]
    if not len(left):
        return none
    own, *parts = row_codes(take(queries, left), *_blocks(documents, right))
    codes, first = np.unique(np.concatenate(parts), return_index=True)
    place = np.searchsorted(codes, own).clip(max=len(codes) - 1)
    same = codes[place] == own
    return np.stack([left[same], right[first[place[same]]]], axis=1)


def _blocks(x: NDArray[Any], rows: Ints) -> list[NDArray[Any]]:
    return [take(x, rows[i : i + 65536]) for i in range(0, len(rows), 65536)]
