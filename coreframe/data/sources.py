"""What a user names as data, in one form: rows, sets for retrieval, or numbers of rows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from coreframe.data.files import read_rows
from coreframe.data.found import ANY_GRADE, Found, Side
from coreframe.data.joining import PARTS, Judged, Numbers
from coreframe.data.retrieval_sets import (
    RetrievalSet,
    is_beir,
    llama_index_of,
    read_beir,
    read_llama_index,
)
from coreframe.data.row_sources import FromRows
from coreframe.data.split_folders import parts_of, read_parts
from coreframe.data.tables import cannot_read
from coreframe.data.vectors import Vectors
from coreframe.errors import DataError

if TYPE_CHECKING:
    from coreframe.config import DataSettings


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
    return FromRows(rows, files)


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
