"""What is known of candidates: which are right, which are the query itself, a second opinion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.backend import is_array, to_numpy
from coreframe.data.mining.rules import Mask, Scores
from coreframe.data.mining.search import pair_scores, take_rows
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Ints, ListedRelevance
from coreframe.errors import ArgumentError, ArgumentTypeError

CrossEncoder = Callable[[list[tuple[str, str]]], Any]
Rescore = Callable[[Ints, Ints], Scores]
"""Takes queries (r,) and documents (r, c), -1 = none; returns scores (r, c)."""

_SAME = 1e-9  # cosines of equal vectors differ by less; what is that near is compared itself
_TEXTS = 4096  # pairs of texts that a cross-encoder gets at once
_ROWS = 16_384


class RightDocuments:
    """The right documents of each query, and their scores."""

    def __init__(self, pairs: Pairs, relevance: ListedRelevance, rescore: Rescore | None) -> None:
        self.pairs, self.relevance = pairs, relevance
        both = relevance.pairs
        parts = [both[i : i + _ROWS] for i in range(0, len(both), _ROWS)]
        self.cosines = np.concatenate([_scores(pairs, part) for part in parts])
        self.scores = self.cosines
        if rescore is not None:
            found = [rescore(part[:, 0], part[:, 1:])[:, 0] for part in parts]
            self.scores = np.concatenate(found)
        self.lowest: Scores = np.full(len(pairs), np.inf)
        """(q,) the score of each query's worst right document."""
        np.minimum.at(self.lowest, both[:, 0], self.scores)

    def among(self, rows: Ints, found: Ints, cosines: Scores) -> Mask:
        """Say of candidates (r, c) whether they are right. Without texts, a document whose vector
        equals that of a right one in every number is right too.
        """
        right = self.relevance.contains(rows[:, None], found)
        if self.pairs.document_texts is not None:
            return right
        entries, place = self.relevance.pairs_of(rows)
        for i in range(0, len(entries), _ROWS):
            entry, row = entries[i : i + _ROWS], place[i : i + _ROWS]
            near = np.abs(cosines[row] - self.cosines[entry][:, None]) < _SAME
            at, column = np.nonzero(near & ~right[row] & (found[row] >= 0))
            other = self.relevance.pairs[entry[at], 1]
            same = _equal(self.pairs.documents, other, self.pairs.documents, found[row[at], column])
            right[row[at[same]], column[same]] = True
        return right


class OwnDocuments:
    """The document that is the query itself: of its text, or of its vector without texts."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.document: Ints | None = None
        """(q,) row of the document of the query's text, or -1; None without texts."""
        if pairs.query_texts is not None and pairs.document_texts is not None:
            place = {text: i for i, text in enumerate(pairs.document_texts)}
            self.document = np.array([place.get(text, -1) for text in pairs.query_texts])

    def leave_out(
        self, rows: Ints, found: Ints, near: Scores, right: Mask
    ) -> tuple[Ints, Scores, Mask]:
        """Return candidates without it, one column less; of those without it, without the last."""
        if self.document is not None:
            own = (found == self.document[rows][:, None]) & (found >= 0) & ~right
        else:
            own = (near > 1 - _SAME) & ~right
            row, column = np.nonzero(own)
            own[row, column] = _equal(
                self.pairs.queries, rows[row], self.pairs.documents, found[row, column]
            )
        order = np.argsort(own, axis=1, kind="stable")[:, :-1]
        found, near, right, own = (
            np.take_along_axis(x, order, axis=1) for x in (found, near, right, own)
        )
        return np.where(own, -1, found), np.where(own, -np.inf, near), right


def rescorer(cross_encoder: CrossEncoder | None, pairs: Pairs) -> Rescore | None:
    """Return what scores documents by a cross-encoder, a function or an object with predict."""
    if cross_encoder is None:
        return None
    ask = getattr(cross_encoder, "predict", cross_encoder)
    if not callable(ask):
        raise ArgumentTypeError(
            "cross_encoder must be a function of a list of (query, document), or have such a "
            f"predict, got {cross_encoder!r}"
        )
    if pairs.query_texts is None or pairs.document_texts is None:
        raise ArgumentError("a cross_encoder reads texts, and these pairs have none")
    queries, documents = pairs.query_texts, pairs.document_texts

    def rescore(rows: Ints, found: Ints) -> Scores:
        out = np.full(found.shape, -np.inf)
        at = np.argwhere(found >= 0)
        for i in range(0, len(at), _TEXTS):
            row, column = at[i : i + _TEXTS].T
            both = zip(rows[row].tolist(), found[row, column].tolist(), strict=True)
            texts = [(queries[q], documents[d]) for q, d in both]
            out[row, column] = _answers(ask(texts), len(texts))
        return out

    return rescore


def _answers(given: Any, count: int) -> NDArray[np.float64]:
    try:
        scores = np.asarray(to_numpy(given) if is_array(given) else given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"cross_encoder must return numbers, one a pair: {error}") from error
    if scores.shape not in ((count,), (count, 1)) or not np.isfinite(scores).all():
        what = "values that are not finite" if scores.size == count else f"shape {scores.shape}"
        raise ArgumentError(
            f"cross_encoder must return one finite score a pair, ({count},), got {what}"
        )
    return scores.reshape(-1)


def _scores(pairs: Pairs, both: Ints) -> Scores:
    queries = take_rows(pairs.queries, both[:, 0])
    return pair_scores(queries, pairs.documents, both[:, 1:])[:, 0]


def _equal(x: Any, rows: Ints, y: Any, others: Ints) -> Mask:
    """Say which rows of two arrays are equal in every number."""
    if not len(rows):
        return np.zeros(0, dtype=bool)
    return np.asarray((take_rows(x, rows) == take_rows(y, others)).all(axis=1))
