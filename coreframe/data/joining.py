"""From judged rows to pairs: which queries there are, what is right and wrong for each, and how
much it counts. Nothing here knows files or vectors; queries and documents are numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coreframe.data.pairs import join_groups
from coreframe.data.relevance import Floats, Ints, ListedRelevance
from coreframe.errors import DataError

PARTS = ("train", "dev", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """Rows with their judgements, in numbers: r rows, p entries.

    Attributes:
        query: (r,) the query of each row.
        row, document: (p,) each document that a row names as its positive.
        wrong_row, wrong_document: (w,) those that it names as negatives.
        grade: (r,) how right the positives of a row are, from 0; None is 1.
        weight: (p,) how much an entry counts; None is 1.
        difficulty, time, part: (r,) or None; parts are numbers of PARTS.
        group: (r,) anything, or None.
    """

    query: Ints
    row: Ints
    document: Ints
    wrong_row: Ints
    wrong_document: Ints
    grade: Floats | None = None
    weight: Floats | None = None
    difficulty: Floats | None = None
    time: Floats | None = None
    part: Ints | None = None
    group: Sequence[Any] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Joined:
    """Queries that have a right document, and their judgements: q queries, p pairs.

    Attributes:
        source: (q,) the number of each query in the data; with parts, one may come twice.
        relevance: right pairs, with gains where grades differ.
        weights, difficulty: (p,) in the order of ``relevance.pairs``, or None.
        irrelevant: (w, 2) pairs known to be wrong.
        groups: (q,) or None.
        times, parts: (q,) or None.
        dropped: queries left out, since nothing is right for them.
        middling: entries left out, since they are graded neither right nor wrong.
    """

    source: Ints
    relevance: ListedRelevance
    weights: Floats | None
    difficulty: Floats | None
    irrelevant: Ints
    groups: Ints | None
    times: Floats | None
    parts: Ints | None
    dropped: int
    middling: int


def join(data: Judged, documents: int, *, minimum_grade: float, name: str) -> Joined:
    """Join rows of one query, and tell right from wrong by grade.

    An entry is right from ``minimum_grade`` on; one of grade 0 is known to be wrong, and one
    between is neither. The grade is the entry's gain in the evaluation, and its weight in the
    loss, times the weight that is given.
    """
    grade = np.ones(len(data.row)) if data.grade is None else data.grade[data.row]
    right, zero = grade >= minimum_grade, grade <= 0
    if not right.any():
        raise DataError(f"{name}: no row is right: all have grades below {minimum_grade:g}")
    parts = np.zeros(len(data.query), np.int64) if data.part is None else data.part
    key = parts * (int(data.query.max()) + 1) + data.query
    asked = np.unique(key[data.row[right]])
    place = np.searchsorted(asked, key).clip(max=len(asked) - 1)
    known = asked[place] == key  # rows of a query that has a right document
    of_row = np.where(known, place, -1)

    rows = data.row[right]
    found = np.stack([of_row[rows], data.document[right]], axis=1)
    gains = grade[right]
    graded = bool((gains != gains[0]).any())
    relevance = ListedRelevance.of(found, len(asked), documents, gains if graded else None)
    entry = relevance.place(found)
    weights = None
    if data.weight is not None or graded:
        given = np.ones(len(gains)) if data.weight is None else data.weight[right]
        largest = gains.max() if graded else 1.0
        weights = _joined(entry, given * gains / largest, len(relevance.pairs))
    difficulty = None
    if data.difficulty is not None:
        difficulty = _joined(entry, data.difficulty[rows], len(relevance.pairs))

    wrong = np.concatenate(
        [
            np.stack([of_row[data.wrong_row], data.wrong_document], axis=1),
            np.stack([of_row[data.row[zero]], data.document[zero]], axis=1),
        ]
    )
    wrong = wrong[wrong[:, 0] >= 0]
    in_use = np.nonzero(known)[0]
    groups = None
    if data.group is not None:
        groups = join_groups(of_row[in_use], [data.group[i] for i in in_use.tolist()], len(asked))
    times = None
    if data.time is not None:  # a query is as late as its latest row
        times = _joined(of_row[in_use], data.time[in_use], len(asked))
    first = np.full(len(asked), -1)
    first[of_row[in_use]] = in_use
    return Joined(
        source=data.query[first],
        relevance=relevance,
        weights=weights,
        difficulty=difficulty,
        irrelevant=np.unique(wrong, axis=0) if len(wrong) else wrong,
        groups=groups,
        times=times,
        parts=None if data.part is None else data.part[first],
        dropped=len(np.unique(key)) - len(asked),
        middling=int((~right & ~zero).sum()),
    )


def _joined(entry: Ints, values: Floats, count: int) -> Floats:
    """Return the largest value of each entry."""
    found = np.full(count, -np.inf)
    np.maximum.at(found, entry, values)
    return found


def flat(lists: Iterable[Sequence[Any]]) -> tuple[Ints, list[Any]]:
    """Return the items of lists one after the other, and the number of each one's list."""
    items: list[Any] = []
    sizes: list[int] = []
    for entry in lists:
        items.extend(entry)
        sizes.append(len(entry))
    return np.repeat(np.arange(len(sizes)), sizes), items


class Numbers(dict[Any, int]):
    """Gives each different key a number, in the order of arrival."""

    def of(self, keys: Iterable[Any]) -> Ints:
        return np.fromiter((self.setdefault(key, len(self)) for key in keys), np.int64)


def grades(labels: Sequence[float] | Sequence[str], by_id: bool, where: str) -> Floats | None:
    """Return scores as grades from 0, or None where all rows are plainly right.

    Whole scores of ids are grades of relevance, as in TREC's files. Scores of sentence pairs are
    taken to [0, 1]: as they are if none is above 1, else divided by the largest; -1 and 1 are 0
    and 1.
    """
    if isinstance(labels[0], str):
        raise DataError(f"{where} must hold numbers, got {labels[0]!r}: is it a class?")
    found = np.asarray(labels, np.float64)
    whole = bool((found == np.round(found)).all())
    if by_id and whole:
        return np.maximum(found, 0.0)
    if whole and set(np.unique(found)) <= {-1.0, 1.0}:
        return np.maximum(found, 0.0)
    if found.min() < 0:
        raise DataError(
            f"{where} has scores from {found.min():g} to {found.max():g}; grades of likeness start "
            "at 0: shift them, or drop the column"
        )
    return found / found.max() if found.max() > 1 else found
