"""Rows as judged queries and documents: by text, by line or id of given vectors, by their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.data.files import Rows
from coreframe.data.found import ANY_GRADE, Found, Side, as_vectors
from coreframe.data.joining import PARTS, Judged, Numbers, flat, grades
from coreframe.data.relevance import Ints, row_codes
from coreframe.data.spool import blocks_of, collect
from coreframe.data.vectors import Vectors
from coreframe.errors import DataError


class FromRows(Found):
    def __init__(self, rows: Rows, files: tuple[str, ...]) -> None:
        self.rows, self.name, self.files = rows, rows.name, files
        self.notes = _notes(rows)
        self.by_id = rows.positive_ids is not None and rows.positives is None
        if "text" in rows.mapping or "text_vector" in rows.mapping:
            self.classes = rows
        self.has_vectors = bool(rows.vectors) and self.classes is None
        if self.by_id and rows.labels is not None and not isinstance(rows.labels[0], str):
            whole = all(label == round(label) for label in rows.labels)
            self.minimum_grade = ANY_GRADE if whole else None

    def parts_of_rows(self) -> Ints | None:
        if self.rows.splits is None:
            return None
        return np.array([PARTS.index(part) for part in self.rows.splits])

    def by_text(self) -> tuple[Judged, list[str], list[str]]:
        rows = self.rows
        if rows.anchors is None or rows.positives is None:
            return super().by_text()
        asked = rows.anchors
        if rows.prompts is not None:
            asked = [prompt + text for prompt, text in zip(rows.prompts, asked, strict=True)]
        left, right = Numbers(), Numbers()
        query = left.of(asked)
        row, texts = flat(rows.positives)
        document = right.of(texts)
        wrong_row, wrong = flat(rows.negatives or ())
        judged = self._judged(query, row, document, wrong_row, right.of(wrong))
        return judged, list(left), list(right)

    def _judged(
        self, query: Ints, row: Ints, document: Ints, wrong_row: Ints, wrong: Ints
    ) -> Judged:
        rows = self.rows
        grade = weight = None
        if rows.labels is not None:
            where = f"{rows.name}: column {rows.mapping['label']!r}"
            grade = grades(rows.labels, self.by_id, where)
        if rows.weights is not None:
            sizes = np.bincount(row, minlength=rows.count)
            weight = np.concatenate(
                [
                    w if len(w) == size else np.repeat(w, size)
                    for w, size in zip(rows.weights, sizes.tolist(), strict=True)
                ]
            )
        return Judged(
            query=query,
            row=row,
            document=document,
            wrong_row=wrong_row,
            wrong_document=wrong,
            grade=grade,
            weight=weight,
            difficulty=None if rows.difficulty is None else np.asarray(rows.difficulty),
            time=None if rows.times is None else np.asarray(rows.times),
            part=self.parts_of_rows(),
            group=rows.group,
        )

    def by_vectors(self, q: Vectors, d: Vectors) -> tuple[Judged, Side, Side]:
        rows = self.rows
        if rows.anchor_ids is not None:
            query = _places(rows.anchor_ids, q, rows, "anchor_id", np.arange(rows.count))
            texts = None
            if rows.anchors is not None:
                texts = [""] * len(q)
                for place, text in zip(query.tolist(), rows.anchors, strict=True):
                    texts[place] = text
            left = Side(texts)
        else:
            _same_count("--queries", q, rows)
            query, left = _by_line(rows.anchors, q.array)
        if rows.positive_ids is not None:
            row, ids = flat(rows.positive_ids)
            document, right = _places(ids, d, rows, "positive_id", row), Side(None)
        else:
            _same_count("--documents", d, rows)
            row = np.arange(rows.count)
            document, right = _by_line(_single(rows), d.array)
        wrong_row, wrong = row[:0], document[:0]
        if rows.negative_ids is not None and rows.positive_ids is not None:
            wrong_row, ids = flat(rows.negative_ids)
            wrong = _places(ids, d, rows, "negative_id", wrong_row)
        elif rows.negatives is not None or rows.negative_ids is not None:
            raise DataError(
                f"{rows.name} has a column of negatives, but --documents holds one vector a row: "
                "that of the positive; name positives and negatives by positive_id and "
                "negative_id, drop the column, or let the texts be embedded"
            )
        return self._judged(query, row, document, wrong_row, wrong), left, right

    def own_vectors(self) -> tuple[Vectors, Vectors]:
        rows = self.rows
        for side in ("anchor", "positive"):
            if side not in rows.vectors:
                has = " and ".join(rows.vectors)
                raise DataError(
                    f"{rows.name} has vectors of the {has}, but none of the {side}: expected a "
                    f"column {rows.mapping.get(side, side)}_embedding"
                )
        own = [rows.vectors[role] for role in rows.vectors if role.startswith("negative")]
        if len(own) < sum(role.startswith("negative") and "vector" not in role
                          for role in rows.mapping):  # fmt: skip
            raise DataError(
                f"{rows.name} has negatives without vectors; add a column such as "
                "negative_embedding, or drop the negatives"
            )
        right = [rows.vectors["positive"], *own]
        blocks = (block for x in right for block in blocks_of(x))
        documents = right[0] if len(right) == 1 else collect(blocks)
        assert documents is not None
        return as_vectors(rows.vectors["anchor"], rows.name), as_vectors(documents, rows.name)

    def by_own_vectors(self, q: Vectors, d: Vectors) -> tuple[Judged, Side, Side]:
        rows = self.rows
        query, left = _by_line(rows.anchors, q.array)
        every = _single(rows)
        negatives = len(d) // rows.count - 1
        if every is not None and negatives:
            if rows.negatives is None or any(len(n) != negatives for n in rows.negatives):
                every = None  # then rows are told apart by their vectors
            else:
                every = every + [n[k] for k in range(negatives) for n in rows.negatives]
        document, right = _by_line(every, d.array)
        row = np.arange(rows.count)
        wrong_row = np.tile(row, negatives)
        judged = self._judged(query, row, document[: rows.count], wrong_row, document[rows.count :])
        return judged, left, right


def _notes(rows: Rows) -> tuple[str, ...]:
    line = "columns " + ", ".join(f"{column} = {role}" for role, column in rows.mapping.items())
    if rows.unused:
        line += f"; not used: {', '.join(rows.unused)}"
    notes = [line]
    scores = [c for r, c in rows.mapping.items() if r in ("positive_score", "negative_score")]
    if scores:
        notes.append(
            f"scores  {' and '.join(scores)} are a teacher's and are not trained on; "
            "data.weight = 'pos_scores' makes weights of them"
        )
    return tuple(notes)


def _single(rows: Rows) -> list[str] | None:
    """Return the one positive text of each row, or None if there are no texts."""
    if rows.positives is None:
        return None
    for row, texts in enumerate(rows.positives):
        if len(texts) != 1:
            raise DataError(
                f"{rows.name}, {rows.places[row]}: {rows.mapping['positive']!r} has {len(texts)} "
                "texts, but there is one vector a row; write one row a pair, or use positive_id"
            )
    return [texts[0] for texts in rows.positives]


def _same_count(option: str, x: Vectors, rows: Rows) -> None:
    if len(x) != rows.count:
        raise DataError(
            f"{option} has {len(x)} vectors for {rows.count} rows of {rows.name}; line i goes "
            "with row i, unless columns anchor_id and positive_id name rows or ids"
        )


def _by_line(texts: Sequence[str] | None, x: NDArray[Any]) -> tuple[Ints, Side]:
    """Number rows so that those of equal text (or vector) are one."""
    if texts is not None:
        numbers = Numbers()
        of_row = numbers.of(texts)
        kept: list[str] | None = list(numbers)
        count = len(numbers)
    else:
        first, codes = np.unique(row_codes(x)[0], return_index=True, return_inverse=True)[1:]
        rank = np.argsort(np.argsort(first))
        of_row, kept, count = rank[codes.reshape(-1)], None, len(first)
    rows = np.full(count, -1)
    rows[of_row[::-1]] = np.arange(len(of_row))[::-1]  # the first of each
    return of_row, Side(kept, rows)


def _places(ids: Sequence[Any], x: Vectors, rows: Rows, role: str, of_row: Ints) -> Ints:
    """Return the rows of vectors that ids name: by their ids if they have some, else by number."""
    column = rows.mapping[role]
    if x.ids is not None:
        place = dict.fromkeys(map(str, ids), -1)
        for row, id_ in enumerate(x.ids):
            if id_ in place:
                place[id_] = row
        found = [place[str(id_)] for id_ in ids]
        if -1 in found:
            i = found.index(-1)
            raise DataError(
                f"{rows.name}, {rows.places[int(of_row[i])]}: {column} {ids[i]!r} is not among "
                f"the {len(x):,} ids of {x.path} ({x.ids_from})"
            )
        return np.asarray(found, np.int64)
    found = []
    for i, id_ in enumerate(ids):
        number = int(id_) if isinstance(id_, str) and id_.isdecimal() else id_
        if not isinstance(number, int) or not 0 <= number < len(x):
            raise DataError(
                f"{rows.name}, {rows.places[int(of_row[i])]}: {column} must be a row number from "
                f"0 to {len(x) - 1}, since {x.path} has no ids, got {id_!r}"
            )
        found.append(number)
    return np.asarray(found, np.int64)
