"""What a user names as data, in one form: judged queries and documents, by text or by number."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coreframe.data.files import Rows, read_rows
from coreframe.data.joining import PARTS, Judged, Numbers, flat, grades
from coreframe.data.opening import open_table
from coreframe.data.relevance import Ints, row_codes
from coreframe.data.retrieval_sets import (
    RetrievalSet,
    is_beir,
    llama_index_of,
    read_beir,
    read_llama_index,
)
from coreframe.data.split_folders import parts_of, read_parts
from coreframe.data.spool import blocks_of, collect, computable
from coreframe.data.tables import cannot_read
from coreframe.data.vectors import Vectors, look_at
from coreframe.errors import DataError

if TYPE_CHECKING:
    from coreframe.config import DataSettings

ANY_GRADE = float(np.nextafter(0.0, 1.0))
"""The least grade that is right where grades are judgements: all above 0."""


@dataclass(frozen=True)
class Side:
    """The queries or documents that judgements number.

    ``rows`` are those of the vectors that are theirs, or None if they are numbered as the vectors.
    """

    texts: list[str] | None
    rows: Ints | None = None


class Found:
    """Data of one source. The three ways to judgements are by text, by the row or id of given
    vectors, and by the vectors in the rows.
    """

    name: str
    files: tuple[str, ...]
    notes: tuple[str, ...]
    classes: Rows | None = None
    has_vectors = False
    minimum_grade: float | None = None

    def by_text(self) -> tuple[Judged, list[str], list[str]]:
        raise DataError(
            f"{self.name} has ids but no texts; give their vectors with --queries and --documents"
        )

    def by_vectors(self, q: Vectors, d: Vectors) -> tuple[Judged, Side, Side]:
        raise NotImplementedError

    def own_vectors(self) -> tuple[Vectors, Vectors]:
        raise NotImplementedError

    def by_own_vectors(self, q: Vectors, d: Vectors) -> tuple[Judged, Side, Side]:
        raise NotImplementedError

    def parts_of_rows(self) -> Ints | None:
        return None


def read(source: Any, settings: DataSettings) -> Found:
    """Read a path or an object, whatever its form."""
    if isinstance(source, str | os.PathLike):
        path = os.fspath(source)
        if is_beir(path):
            return _Retrieval(read_beir(path))
        try:
            content = llama_index_of(path)
        except OSError as error:
            raise cannot_read(path, error) from error
        if content is not None:
            return _Retrieval(read_llama_index(path, content))
        files: tuple[str, ...] = (path,)
    else:
        path, files = None, ()
    parts = parts_of(source)
    if parts is not None:
        rows, files = read_parts(source, parts, settings.columns)
    else:
        rows = read_rows(source, columns=settings.columns)
        if path is not None and os.path.isdir(path):
            files = tuple(sorted(os.path.join(path, n) for n in os.listdir(path)
                                 if os.path.isfile(os.path.join(path, n))))  # fmt: skip
    return _FromRows(rows, files)


# Rows -------------------------------------------------------------------------------------------


class _FromRows(Found):
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


def as_vectors(x: NDArray[Any], name: str) -> Vectors:
    """Return vectors of rows, looked at."""
    array = computable(x)
    return Vectors(path=name, array=array, stored=x.dtype.name, facts=look_at(array, name))


# Numbers ----------------------------------------------------------------------------------------


def of_numbers(array: NDArray[Any], name: str) -> Found:
    """Take an array of row numbers: (q,) the right document of each query, or (p, 2) pairs."""
    if array.dtype.kind not in "iu" or array.ndim > 2 or (array.ndim == 2 and array.shape[1] != 2):
        raise DataError(
            f"{name} beside --queries and --documents must hold whole numbers: the row of the "
            f"right document of each query (q,), or pairs of rows (p, 2); got {array.dtype} "
            f"{array.shape}"
        )
    return _OfNumbers(array, name)


class _OfNumbers(Found):
    def __init__(self, array: NDArray[Any], name: str) -> None:
        self.array, self.name, self.files = array, name, (name,)
        self.notes = (f"columns {len(array):,} pairs of row numbers",)

    def by_vectors(self, q: Vectors, d: Vectors) -> tuple[Judged, Side, Side]:
        pairs = np.asarray(self.array, np.int64)
        if pairs.ndim == 1:
            pairs = np.stack([np.arange(len(pairs)), pairs], axis=1)
        for column, x in ((0, q), (1, d)):
            bad = (pairs[:, column] < 0) | (pairs[:, column] >= len(x))
            if bad.any():
                row = int(np.argmax(bad))
                raise DataError(
                    f"{self.name}, row {row} (from 0): names row {pairs[row, column]} of {x.path}, "
                    f"which has {len(x)}"
                )
        none = pairs[:0, 0]
        judged = Judged(
            query=pairs[:, 0],
            row=np.arange(len(pairs)),
            document=pairs[:, 1],
            wrong_row=none,
            wrong_document=none,
        )
        return judged, Side(None), Side(None)


# Sets for retrieval -----------------------------------------------------------------------------


class _Retrieval(Found):
    minimum_grade = ANY_GRADE

    def __init__(self, data: RetrievalSet) -> None:
        self.data, self.name, self.files = data, data.name, data.files
        counts = f"{len(data.queries):,} queries, {len(data.corpus):,} documents"
        judged = ", ".join(f"{len(j):,} {part}".strip() for part, j in data.judgements.items())
        self.notes = (f"columns {data.format}: {counts}, judgements: {judged}",)

    def _judged(self, queries: Mapping[str, int], documents: Mapping[str, int]) -> Judged:
        every = [(part, *entry) for part, found in self.data.judgements.items() for entry in found]
        parts = None
        if "" not in self.data.judgements:
            parts = np.array([PARTS.index(part) for part, *_ in every])
        none = np.zeros(0, np.int64)
        return Judged(
            query=np.array([queries[q] for _, q, _, _ in every]),
            row=np.arange(len(every)),
            document=np.array([documents[d] for _, _, d, _ in every]),
            wrong_row=none,
            wrong_document=none,
            grade=np.maximum([grade for *_, grade in every], 0.0),
            part=parts,
        )

    def by_text(self) -> tuple[Judged, list[str], list[str]]:
        left, right = Numbers(), Numbers()
        of_query = left.of(self.data.queries.values()).tolist()
        of_document = right.of(self.data.corpus.values()).tolist()
        judged = self._judged(
            dict(zip(self.data.queries, of_query, strict=True)),
            dict(zip(self.data.corpus, of_document, strict=True)),
        )
        return judged, list(left), list(right)

    def by_vectors(self, q: Vectors, d: Vectors) -> tuple[Judged, Side, Side]:
        queries, left = self._side("queries", self.data.queries, q)
        documents, right = self._side("documents", self.data.corpus, d)
        return self._judged(queries, documents), left, right

    def _side(self, side: str, texts: Mapping[str, str], x: Vectors) -> tuple[dict[str, int], Side]:
        """Return the row of each id; vectors without ids are in the order of the file."""
        if x.ids is None:
            if len(x) != len(texts):
                raise DataError(
                    f"--{side} has {len(x)} vectors for {len(texts)} {side} of {self.name}; row i "
                    "goes with line i, unless the vectors have ids"
                )
            return {id_: row for row, id_ in enumerate(texts)}, Side(list(texts.values()))
        place = {id_: row for row, id_ in enumerate(x.ids)}
        missing = [id_ for id_ in texts if id_ not in place]
        if missing:
            raise DataError(
                f"{x.path} has no vector for {len(missing):,} of {len(texts):,} {side} of "
                f"{self.name}, such as {missing[0]!r} ({x.ids_from})"
            )
        return place, Side([texts.get(id_, "") for id_ in x.ids])


# The collection ---------------------------------------------------------------------------------


def corpus_texts(path: str | os.PathLike[str]) -> list[str]:
    """Return the texts of a collection: a file of rows with a column text (and title, or the only
    other column), or .txt with one a line.
    """
    name = os.fspath(path)
    if name.lower().endswith(".txt"):
        try:
            with open(name, encoding="utf-8-sig") as file:
                return [line.strip() for line in file if line.strip()]
        except UnicodeDecodeError as error:
            raise DataError(f"{name}: not UTF-8 text (byte {error.start + 1})") from None
        except OSError as error:
            raise cannot_read(name, error) from error
    table = open_table(name)
    known = [c for c in ("text", "document", "positive", "content") if c in table.columns]
    others = [c for c in table.columns if c not in ("_id", "id", "title", "metadata")]
    if not known and len(others) != 1:
        raise DataError(
            f"{name} has no column 'text'. Its columns: {', '.join(map(repr, table.columns))}"
        )
    column = (known or others)[0]
    wanted = [column, *(["title"] if "title" in table.columns else [])]
    found: list[str] = []
    for chunk in table.chunks(wanted):
        titles = chunk.values("title") if len(wanted) == 2 else [None] * len(chunk.places)
        for place, text, title in zip(chunk.places, chunk.values(column), titles, strict=True):
            if not isinstance(text, str) or not (text := f"{title or ''} {text}".strip()):
                raise DataError(f"{name}, {table.place(place)}: {column!r} must be a text")
            found.append(text)
    return found


def more_vectors(d: Vectors, more: Vectors) -> Vectors:
    """Return the documents and, behind them, more of the collection."""
    if d.array.shape[1] != more.array.shape[1]:
        raise DataError(
            f"{more.path} has width {more.array.shape[1]}, but {d.path} has {d.array.shape[1]}"
        )
    if (d.ids is None) != (more.ids is None):
        raise DataError(f"of {d.path} and {more.path}, one has ids and the other has none")
    ids = None
    if d.ids is not None and more.ids is not None:
        ids = [*d.ids, *more.ids]
        both = set(d.ids) & set(more.ids)
        if both:
            raise DataError(f"the id {min(both)!r} is in {d.path} and in {more.path}")
    dtype = np.result_type(d.array, more.array)
    blocks = (b.astype(dtype, copy=False) for x in (d, more) for b in blocks_of(x.array))
    array = collect(blocks)
    assert array is not None
    return Vectors(
        path=f"{d.path} and {more.path}",
        array=array,
        stored=d.stored,
        ids=ids,
        ids_from=d.ids_from,
        facts=look_at(array, d.path),
    )
