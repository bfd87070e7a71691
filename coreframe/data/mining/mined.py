"""What mining found: arrays, rows in the formats that people train with, and statistics."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.data.mining.rules import Rules
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Ints, ListedRelevance
from coreframe.data.row_writer import write_rows
from coreframe.errors import ArgumentError, nearest

FORMATS = ("triplet", "n-tuple", "labeled-pair", "labeled-list")
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Suspects:
    """Candidates that score above a right document of their query: perhaps right, not wrong."""

    query: Ints
    document: Ints
    score: Floats
    lowest: Floats
    """The score of the query's worst right document."""
    used: NDArray[np.bool_]
    """Whether it is one of the negatives."""
    total: int
    """How many there are among all candidates; of each query only the best are listed."""

    def __len__(self) -> int:
        return len(self.query)


@dataclass(frozen=True, eq=False)
class Mined:
    """Hard negatives of each query, and how they were found."""

    pairs: Pairs
    rules: Rules
    negatives: Ints
    """(q, k) rows of documents, the hardest first; -1 where there are too few."""
    scores: Floats
    """(q, k) their cosines, or what the cross-encoder says; -inf where there are none."""
    positive_scores: Floats
    """(p,) those of ``pairs.relevance.pairs``."""
    suspects: Suspects
    window: int
    """The ``range_max`` that was used."""
    search: str
    approximate: bool
    recall: float | None
    """Of an approximate search: the share of the exact candidates that it found, on a sample."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """How many candidates each filter dropped."""
    candidates: int = 0
    """How many there were, right documents left out."""
    query_ids: Sequence[Any] | None = None
    """What rows with ids call each query; None is its row."""
    document_ids: Sequence[Any] | None = None

    @property
    def right(self) -> Ints:
        """The pairs of query and right document (p, 2)."""
        assert isinstance(self.pairs.relevance, ListedRelevance)
        return self.pairs.relevance.pairs

    def as_pairs(self) -> Pairs:
        """Return the pairs with the negatives as known wrong documents, to train on."""
        queries, columns = np.nonzero(self.negatives >= 0)
        mined = np.stack([queries, self.negatives[queries, columns]], axis=1)
        given = self.pairs
        return Pairs(
            given.queries,
            given.documents,
            relevance=given.relevance,
            query_texts=given.query_texts,
            document_texts=given.document_texts,
            groups=given.groups,
            irrelevant=np.concatenate([given.irrelevant, mined]),
            weights=given.weights,
            difficulty=given.difficulty,
        )

    # Rows ----------------------------------------------------------------------------------

    def columns(
        self,
        output_format: str = "triplet",
        *,
        output_scores: bool = False,
        anchor_column: str = "anchor",
        positive_column: str = "positive",
        ids: bool = False,
    ) -> list[str]:
        """Return the names of the columns of ``rows`` with these options."""
        self._check(output_format, anchor_column, positive_column, ids)
        anchor, positive, negative = anchor_column, positive_column, "negative"
        if ids:  # several negatives are one list, as readers of ids have them
            anchor, positive, negative = "anchor_id", "positive_id", "negative_id"
        plural = "s" if output_format == "labeled-list" else ""
        if output_format == "triplet":
            found = [anchor, positive, negative]
        elif output_format == "n-tuple":
            numbers = range(1, self.rules.num_negatives + 1)
            several = ["negative_ids"] if ids else [f"{negative}_{i}" for i in numbers]
            found = [anchor, positive, *several]
        else:
            return [anchor, positive, ("score" if output_scores else "label") + plural]
        return [*found, "scores"] if output_scores else found

    def rows(
        self,
        output_format: str = "triplet",
        *,
        output_scores: bool = False,
        anchor_column: str = "anchor",
        positive_column: str = "positive",
        ids: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """Yield one mapping a row, in the formats of sentence-transformers.

        ``triplet``: a row for each right document and negative. ``n-tuple``: a row for each right
        document of the queries that have all their negatives. ``labeled-pair``: a row for each
        document, label 1 or 0. ``labeled-list``: a row for each right document, with lists.
        ``output_scores`` adds ``scores``, the right document's first; the labelled formats have
        them in place of labels. ``ids`` gives rows of the vectors instead of texts.
        """
        names = self.columns(
            output_format,
            output_scores=output_scores,
            anchor_column=anchor_column,
            positive_column=positive_column,
            ids=ids,
        )
        make = {
            "triplet": self._triplets,
            "n-tuple": self._tuples,
            "labeled-pair": self._labelled_pairs,
            "labeled-list": self._labelled_lists,
        }[output_format]
        for cells in make(output_scores, ids):
            yield dict(zip(names, cells, strict=True))

    def _triplets(self, scored: bool, ids: bool) -> Iterator[list[Any]]:
        for q, p, score in self._positives():
            for d, s in self._negatives(q):
                cells = [self._query(q, ids), self._document(p, ids), self._document(d, ids)]
                yield [*cells, [score, s]] if scored else cells

    def _tuples(self, scored: bool, ids: bool) -> Iterator[list[Any]]:
        for q, p, score in self._positives():
            found = self._negatives(q)
            if len(found) == self.rules.num_negatives:
                wrong = [self._document(d, ids) for d, _ in found]
                cells = [self._query(q, ids), self._document(p, ids)]
                cells += [wrong] if ids else wrong
                yield [*cells, [score, *(s for _, s in found)]] if scored else cells

    def _labelled_pairs(self, scored: bool, ids: bool) -> Iterator[list[Any]]:
        last = -1
        for q, p, score in [*self._positives(), (-1, -1, 0.0)]:
            if q != last and last >= 0:
                for d, s in self._negatives(last):
                    yield [self._query(last, ids), self._document(d, ids), s if scored else 0]
            if q >= 0:
                yield [self._query(q, ids), self._document(p, ids), score if scored else 1]
            last = q

    def _labelled_lists(self, scored: bool, ids: bool) -> Iterator[list[Any]]:
        for q, p, score in self._positives():
            if found := self._negatives(q):
                documents = [self._document(p, ids), *(self._document(d, ids) for d, _ in found)]
                scores = [score, *(s for _, s in found)]
                labels = [1] + [0] * len(found)
                yield [self._query(q, ids), documents, scores if scored else labels]

    def suspect_rows(self) -> Iterator[dict[str, Any]]:
        """Yield the suspected false negatives: query, document, their score, the lowest score of
        a right document, whether it is used as a negative, and texts where there are some.
        """
        found = self.suspects
        texts = self.pairs.query_texts is not None and self.pairs.document_texts is not None
        for i in range(len(found)):
            q, d = int(found.query[i]), int(found.document[i])
            best = self._worst_positive[q]
            row = {"anchor_id": self._query(q, True), "document_id": self._document(d, True)}
            if texts:
                row |= {
                    "anchor": self._query(q, False),
                    "positive": self._document(best, False),
                    "document": self._document(d, False),
                }
            yield row | {
                "positive_score": _number(found.lowest[i]),
                "score": _number(found.score[i]),
                "used": bool(found.used[i]),
            }

    @cached_property
    def _worst_positive(self) -> dict[int, int]:
        order = np.lexsort((-self.positive_scores, self.right[:, 0]))
        return {int(q): int(d) for q, d in self.right[order]}  # the last, and lowest, stays

    def _positives(self) -> Iterator[tuple[int, int, float]]:
        for (q, p), score in zip(self.right, self.positive_scores, strict=True):
            yield int(q), int(p), _number(score)

    def _negatives(self, query: int) -> list[tuple[int, float]]:
        found = zip(self.negatives[query], self.scores[query], strict=True)
        return [(int(d), _number(s)) for d, s in found if d >= 0]

    def _query(self, row: int, ids: bool) -> Any:
        if ids:
            return int(row) if self.query_ids is None else self.query_ids[row]
        return self.pairs.query_texts[row]  # type: ignore[index]

    def _document(self, row: int, ids: bool) -> Any:
        if ids:
            return int(row) if self.document_ids is None else self.document_ids[row]
        return self.pairs.document_texts[row]  # type: ignore[index]

    def _check(self, output_format: str, anchor: str, positive: str, ids: bool) -> None:
        if output_format not in FORMATS:
            raise ArgumentError(
                f"output_format must be one of {', '.join(map(repr, FORMATS))}, "
                f"got {output_format!r}.{nearest(str(output_format), FORMATS)}"
            )
        if self.rules.include_positives and output_format != "n-tuple":
            raise ArgumentError(
                "include_positives gives ranked lists, which only output_format='n-tuple' keeps "
                f"in order, got {output_format!r}"
            )
        if not ids and (self.pairs.query_texts is None or self.pairs.document_texts is None):
            raise ArgumentError("these pairs have no texts; ids=True gives rows of the vectors")
        taken = {"negative", "score", "scores", "label", "labels"}
        if anchor == positive or {anchor, positive} & taken or not (anchor and positive):
            raise ArgumentError(
                "anchor_column and positive_column must be two names of their own, "
                f"got {anchor!r} and {positive!r}"
            )

    def write(
        self, path: str | os.PathLike[str], output_format: str = "triplet", **options: Any
    ) -> int:
        """Write ``rows`` to a .jsonl or .parquet file, the whole or none; return how many."""
        columns = self.columns(output_format, **options)
        return write_rows(path, columns, self.rows(output_format, **options))

    # Statistics ----------------------------------------------------------------------------

    def statistics(self) -> dict[str, Any]:
        """Return counts, and how the scores are distributed."""
        asked = np.unique(self.right[:, 0])
        found = (self.negatives[asked] >= 0).sum(axis=1)
        mine = self.scores[self.right[:, 0]]
        differences = (self.positive_scores[:, None] - mine)[mine > -np.inf]
        return {
            "queries": len(asked),
            "queries_without_positive": len(self.negatives) - len(asked),
            "documents": int(self.pairs.documents.shape[0]),
            "pairs": len(self.right),
            "num_negatives": self.rules.num_negatives,
            "range_max": self.window,
            "negatives": int(found.sum()),
            "queries_short": int((found < self.rules.num_negatives).sum()),
            "queries_without_negative": int((found == 0).sum()),
            "candidates": self.candidates,
            "skipped": dict(self.skipped),
            "suspects": self.suspects.total,
            "suspects_listed": len(self.suspects),
            "suspects_used": int(self.suspects.used.sum()),
            "search": self.search,
            "approximate": self.approximate,
            "recall": self.recall,
            "positive": distribution(self.positive_scores),
            "negative": distribution(self.scores[asked][self.negatives[asked] >= 0]),
            "difference": distribution(differences),
        }


def distribution(scores: Floats) -> dict[str, float] | None:
    """Return the mean, the standard deviation and quartiles of some scores; None without any."""
    if not len(scores):
        return None
    x = scores.astype(np.float64)
    least, low, median, high, most = np.quantile(x, [0, 0.25, 0.5, 0.75, 1])
    return {
        "mean": float(x.mean()),
        "std": float(x.std(ddof=1)) if len(x) > 1 else 0.0,
        "min": float(least),
        "25%": float(low),
        "50%": float(median),
        "75%": float(high),
        "max": float(most),
    }


def _number(score: Any) -> float:
    return float(f"{float(score):.8g}")  # all that float32 holds, without its tail of digits
