"""From what a user names to Pairs: texts are embedded, vectors are taken as they are."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.config import RunConfig, default
from coreframe.data import collection, seeing, sources
from coreframe.data.array_files import open_npy, read_labels
from coreframe.data.disk_cache import kept_on_disk
from coreframe.data.files import Rows
from coreframe.data.found import Found, as_vectors
from coreframe.data.joining import PARTS, Joined, Numbers, join
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Floats, Ints
from coreframe.data.spool import take_rows
from coreframe.data.vectors import Vectors, open_vectors
from coreframe.embedder import embed_both, embed_finite
from coreframe.errors import ArgumentError, DataError

__all__ = ["load_pairs"]

File = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Loaded:
    """Pairs, the files they came from, what is worth telling, and what made the vectors.

    Attributes:
        pairs: of all parts.
        files: that were read.
        notes: lines about the data: the columns, the vectors, and what is odd about them.
        base_model: of the vectors, if it is known.
        parts: (q,) the given part of each query, 0 train, 1 dev, 2 test; or None.
        times: (q,) the time of each query, or None.
        has_groups: whether a column said which queries belong together.
        query_ids, document_ids: of vectors from files, what a column of ids calls each query and
            each document: its row or its id in the file. None where there are no such files.
    """

    pairs: Pairs
    files: tuple[Path, ...]
    notes: tuple[str, ...]
    base_model: str | None
    parts: Ints | None = None
    times: Floats | None = None
    has_groups: bool = False
    query_ids: Sequence[Any] | None = None
    document_ids: Sequence[Any] | None = None

    def part(self, name: str) -> Pairs:
        """Return the queries of one given part: train, dev or test."""
        return self.pairs.take(self.rows_of(name))

    def rows_of(self, name: str) -> Ints:
        """Return which queries are in one given part."""
        if name not in PARTS:
            raise ArgumentError(f"name must be train, dev or test, got {name!r}")
        found: Any = [] if self.parts is None else np.nonzero(self.parts == PARTS.index(name))[0]
        if not len(found):
            raise DataError(f"the data has no given part {name!r}")
        return found  # type: ignore[no-any-return]


def load_pairs(
    data: Any,
    *,
    queries: File | None = None,
    documents: File | None = None,
    corpus: File | None = None,
    config: RunConfig | None = None,
) -> Loaded:
    """Load pairs of texts or ids, a set for retrieval, or labelled texts or vectors.

    docs/data.md has every form, with an example of each.

    Args:
        data: a path, an object with columns (a data set of Hugging Face, a data frame, a mapping
            of columns, a list of rows), or a list with one of them; or a list of two paths,
            X.npy with vectors and y.npy with labels.
        queries: a file of vectors. Row i goes with row i of the data, unless the data has a
            column of ids, which names rows or ids of this file. Default: the texts are embedded,
            unless the rows have vectors of their own.
        documents: likewise; those that no row names belong to the collection that is searched.
            Default: as ``queries``; the two go together.
        corpus: a file of more documents of the collection: texts, or with ``documents`` vectors.
            Default: none.
        config: its ``[data]`` names columns, its embedder makes vectors of texts. Default: that
            of a run without a file.

    Shapes: r rows become q queries (q, d) and c documents (c, d); see ``Pairs``.

    Edges: equal texts become one query or one document. Queries without a right document are left
        out, and told. What is broken or does not fit together raises DataError, which names the
        file and the line or row.

    Cost: each text is embedded once; vectors of files are mapped, or converted once block by block.

    References: our own.

    >>> loaded = load_pairs({"query": ["cats", "dogs"], "answer": ["felines", "canines"]})
    >>> loaded.notes[0]
    'columns query = anchor, answer = positive'
    >>> loaded.pairs.document_texts
    ['felines', 'canines']
    """
    config = config or default()
    config = replace(config, embedder=kept_on_disk(config.embedder, config.data.cache))
    given = list(data) if isinstance(data, list | tuple) and _are_sources(data) else [data]
    if len(given) == 2 and all(_is_npy(source) for source in given):
        return _labelled_vectors(given, queries, documents, corpus)
    if len(given) != 1 or (_is_npy(given[0]) and queries is None):
        raise ArgumentError(
            "DATA is one file of pairs (such as .jsonl, .csv or .parquet), one folder, or two: "
            f"X.npy with vectors and y.npy with labels; got {', '.join(map(str, given))}"
        )
    if (queries is None) != (documents is None):
        raise ArgumentError("--queries and --documents go together: vectors of both sides")
    seen = seeing.Notes()
    made: tuple[Pairs, Joined, str | None]
    ids: tuple[Sequence[Any] | None, Sequence[Any] | None] = (None, None)
    if _is_npy(given[0]):
        found = sources.of_numbers(open_npy(os.fspath(given[0])), os.fspath(given[0]))
    else:
        found = sources.read(given[0], config.data)
    for line in found.notes:
        seen.say(line)
    if found.classes is not None:
        if queries is not None or corpus is not None:
            raise ArgumentError("--queries, --documents and --corpus go with pairs, not classes")
        return _classes(found.classes, found, config, seen)
    files = [*map(Path, found.files)]
    if queries is not None and documents is not None:
        q, d = open_vectors(queries), open_vectors(documents)
        files += [Path(queries), Path(documents)]
        if corpus is not None:
            d = collection.more_vectors(d, open_vectors(corpus))
            files.append(Path(corpus))
        pairs, joined, ids = _with_vectors(found, q, d, config, seen)
        made = pairs, joined, None
    elif found.has_vectors:
        if corpus is not None:
            raise ArgumentError(
                "--corpus goes with texts, or with --queries and --documents; the rows of "
                f"{found.name} have vectors of their own"
            )
        made = _own_vectors(found, config, seen)
    else:
        texts = []
        if corpus is not None:
            texts = collection.corpus_texts(corpus)
            files.append(Path(corpus))
        made = _embedded(found, texts, config, seen)
    pairs, joined, base_model = made
    seen.of_pairs(pairs)
    return Loaded(
        pairs,
        tuple(files),
        tuple(seen.lines),
        base_model,
        joined.parts,
        joined.times,
        joined.groups is not None,
        *ids,
    )


def _are_sources(data: Sequence[Any]) -> bool:
    """Say whether a list holds sources, and not rows."""
    return not data or not all(isinstance(entry, Mapping) for entry in data)


def _is_npy(source: Any) -> bool:
    return isinstance(source, str | os.PathLike) and os.fspath(source).lower().endswith(".npy")


# Three ways to vectors --------------------------------------------------------------------------


def _embedded(
    found: Found, corpus: list[str], config: RunConfig, seen: seeing.Notes
) -> tuple[Pairs, Joined, str]:
    """Let the embedder make the vectors of all texts."""
    judged, left, right = found.by_text()
    known = set(right)
    right += [text for text in dict.fromkeys(corpus) if text not in known]
    joined = _join(judged, found, len(right), config, seen)
    texts = [left[i] for i in joined.source.tolist()]
    unique = list(dict.fromkeys(texts))
    q, d = embed_both(config.embedder, unique, right)
    if len(unique) < len(texts):
        place = {text: i for i, text in enumerate(unique)}
        q = np.asarray(q)[[place[text] for text in texts]]
    seen.of_cache(config.embedder)
    return _pairs(joined, q, d, texts, right), joined, config.embedder.base_model


def _with_vectors(
    found: Found, q: Vectors, d: Vectors, config: RunConfig, seen: seeing.Notes
) -> tuple[Pairs, Joined, tuple[Sequence[Any], Sequence[Any]]]:
    """Join rows with vectors of both sides, each by ids or row numbers, or by line; and say what
    each row of the pairs is called.
    """
    for side, vectors in (("queries", q), ("documents", d)):
        seen.of_vectors(side, vectors)
    _same_width(q, d)
    judged, left, right = found.by_vectors(q, d)
    documents, kept = d.array, right.rows
    if kept is not None:
        documents = take_rows(documents, kept)
    joined = _join(judged, found, len(documents), config, seen)
    rows = joined.source if left.rows is None else left.rows[joined.source]
    texts = None if left.texts is None else [left.texts[i] for i in joined.source.tolist()]
    pairs = _pairs(joined, take_rows(q.array, rows), documents, texts, right.texts)
    every = range(len(documents)) if kept is None else kept.tolist()
    return pairs, joined, (_called(q, rows.tolist()), _called(d, every))


def _same_width(q: Vectors, d: Vectors) -> None:
    widths = q.array.shape[1], d.array.shape[1]
    if widths[0] != widths[1]:
        one_file = q.path == d.path
        raise DataError(
            f"the queries of {q.path} have width {widths[0]}, but the documents"
            f"{'' if one_file else f' of {d.path}'} have {widths[1]}: they come of two models"
        )


def _called(x: Vectors, rows: Sequence[int]) -> Sequence[Any]:
    """Return what a column of ids calls some rows of a file of vectors."""
    return rows if x.ids is None else [x.ids[i] for i in rows]


def _own_vectors(found: Found, config: RunConfig, seen: seeing.Notes) -> tuple[Pairs, Joined, None]:
    """Take the vectors that stand in the rows themselves."""
    q, d = found.own_vectors()
    _same_width(q, d)
    for side, vectors in (("queries", q), ("documents", d)):
        seen.of_vectors(side, vectors)
    judged, left, right = found.by_own_vectors(q, d)
    assert left.rows is not None
    assert right.rows is not None
    documents = take_rows(d.array, right.rows)
    joined = _join(judged, found, len(documents), config, seen)
    texts = None if left.texts is None else [left.texts[i] for i in joined.source.tolist()]
    asked = take_rows(q.array, left.rows[joined.source])
    return _pairs(joined, asked, documents, texts, right.texts), joined, None


def _join(
    judged: Any, found: Found, documents: int, config: RunConfig, seen: seeing.Notes
) -> Joined:
    least = found.minimum_grade or config.data.minimum_score
    joined = join(judged, documents, minimum_grade=least, name=found.name)
    seen.of_judgements(joined, judged, least)
    return joined


def _pairs(
    joined: Joined,
    queries: Any,
    documents: Any,
    query_texts: list[str] | None,
    document_texts: Sequence[str] | None,
) -> Pairs:
    return Pairs(
        queries,
        documents,
        relevance=joined.relevance,
        query_texts=query_texts,
        document_texts=document_texts,
        groups=joined.groups,
        irrelevant=joined.irrelevant,
        weights=joined.weights,
        difficulty=joined.difficulty,
    )


# Classes ----------------------------------------------------------------------------------------


def _labelled_vectors(
    given: Sequence[File], queries: object, documents: object, corpus: object
) -> Loaded:
    if queries is not None or documents is not None or corpus is not None:
        raise ArgumentError("--queries and --documents go with a file of pairs, not with X, y")
    x = open_vectors(given[0])
    y = read_labels(given[1], len(x))
    seen = seeing.Notes()
    seen.say(f"columns {len(x):,} vectors with labels; equal labels belong together")
    seen.of_vectors("vectors", x)
    seen.of_classes(y)
    return Loaded(Pairs.labelled(x.array, y), tuple(map(Path, given)), tuple(seen.lines), None)


def _classes(rows: Rows, found: Found, config: RunConfig, seen: seeing.Notes) -> Loaded:
    """Make labelled data of texts, or of vectors, with a class in each row."""
    assert rows.labels is not None
    labels: NDArray[Any] = np.asarray(rows.labels)
    if labels.dtype.kind == "f" and (labels == np.round(labels)).all():
        labels = labels.astype(np.int64)
    if labels.dtype.kind == "f":
        raise DataError(
            f"{rows.name}: {rows.mapping['label']!r} must hold classes, whole numbers or texts, "
            f"got {labels[labels != np.round(labels)][0]:g}"
        )
    base_model = None
    if "text" in rows.vectors:
        own = as_vectors(rows.vectors["text"], rows.name)
        x = own.array
        seen.of_vectors("vectors", own)
    else:
        assert rows.texts is not None
        texts = list(dict.fromkeys(rows.texts))
        place = {text: i for i, text in enumerate(texts)}
        x = np.asarray(embed_finite(config.embedder, texts, None))[
            [place[text] for text in rows.texts]
        ]
        seen.of_cache(config.embedder)
        base_model = config.embedder.base_model
    seen.of_classes(labels)
    pairs = Pairs.labelled(
        x,
        labels,
        weights=None if rows.weights is None else [entry[0] for entry in rows.weights],
        difficulty=rows.difficulty,
    )
    if rows.group is not None:
        pairs = pairs.replaced(groups=Numbers().of(rows.group))
    files = tuple(map(Path, found.files))
    return Loaded(
        pairs,
        files,
        tuple(seen.lines),
        base_model,
        found.parts_of_rows(),
        None if rows.times is None else np.asarray(rows.times),
        rows.group is not None,
    )
