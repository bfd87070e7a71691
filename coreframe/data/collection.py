"""More documents of the collection that is searched, beside those of the pairs."""

from __future__ import annotations

import os

import numpy as np

from coreframe.data.opening import open_table
from coreframe.data.spool import blocks_of, collect
from coreframe.data.tables import cannot_read
from coreframe.data.vectors import Vectors, look_at
from coreframe.errors import DataError


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
            raise DataError(
                f"{name}: not UTF-8 text (byte {error.start + 1}); save the file as UTF-8"
            ) from None
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
