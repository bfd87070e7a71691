"""Candidates: the documents that are nearest to each query, exact or through an index.

Whatever finds them, their scores are computed here, in float64 and one pair at a time, so that
scores and order do not depend on tiles, threads, or the library that searched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.backend import (
    Array,
    choose_backend,
    device_of,
    library_of,
    on_host,
    to_numpy,
)
from coreframe.data.relevance import Ints
from coreframe.errors import ArgumentError, MissingExtra, nearest
from coreframe.evaluation.retrieval import nearest_documents
from coreframe.lazy import take
from coreframe.similarity import Similarity, unit_rows

METHODS = ("exact", "faiss", "usearch")

_SLACK = 8  # more candidates than wanted, since products of matrices round
_ENTRIES = 1 << 22  # numbers of documents that are looked at, or brought to an index, at once
_ON_DEVICE = 1 << 26  # numbers of documents that are on a device at once

Find = Callable[[Array, int], Ints]
"""Takes queries (r, d), and k; returns rows of documents (r, k), -1 where there are none."""


@dataclass(frozen=True, eq=False)
class Search:
    """A way to the nearest documents by cosine."""

    documents: Array
    find: Find
    name: str
    approximate: bool

    def candidates(self, queries: Array, k: int) -> tuple[Ints, NDArray[np.float64]]:
        """Return rows of documents (r, k) and their cosines, best first; ties by lower row.

        Where there are fewer, -1 and -inf.
        """
        count = int(self.documents.shape[0])
        found = self.find(queries, min(k + _SLACK, count))
        scores = pair_scores(queries, self.documents, found)
        found, scores = ranked(found, scores, min(k, count))
        short = ((0, 0), (0, k - found.shape[1]))
        return (
            np.pad(found, short, constant_values=-1),
            np.pad(scores, short, constant_values=-np.inf),
        )


def make_search(
    documents: Array,
    method: str,
    *,
    backend: str | None = None,
    index: str | None = None,
    index_parameters: str | None = None,
    seed: int = 42,
) -> Search:
    """Return a search over documents; an index is built here. See ``mine_hard_negatives``."""
    if method not in METHODS:
        raise ArgumentError(
            f"search must be one of {', '.join(map(repr, METHODS))}, got {method!r}."
            f"{nearest(str(method), METHODS)}"
        )
    if method == "exact":
        if index is not None or index_parameters is not None:
            raise ArgumentError("index and index_parameters go with search='faiss' or 'usearch'")
        return Search(documents, _exact(documents, backend), "exact", False)
    if backend is not None:
        raise ArgumentError(f"backend goes with search='exact'; {method} has its own devices")
    build = _faiss if method == "faiss" else _usearch
    return build(documents, index, index_parameters, seed)


def ranked(found: Ints, scores: NDArray[np.float64], k: int) -> tuple[Ints, NDArray[np.float64]]:
    """Return the k best of each row: the largest score first, then the lower row; -1 last."""
    scores = np.where(found >= 0, scores, -np.inf)
    order = np.lexsort((np.where(found >= 0, found, np.iinfo(np.int64).max), -scores), axis=1)
    order = order[:, :k]
    return np.take_along_axis(found, order, axis=1), np.take_along_axis(scores, order, axis=1)


def pair_scores(queries: Array, documents: Array, found: Ints) -> NDArray[np.float64]:
    """Return the cosine of each query and its documents (r, k), in float64; of -1, -inf."""
    rows, k = found.shape
    out = np.empty((rows, k))
    height = max(1, _ENTRIES // (max(k, 1) * int(queries.shape[1])))
    for i in range(0, rows, height):
        part = found[i : i + height]
        left = unit_rows(to_numpy(queries[i : min(i + height, rows), :]).astype(np.float64))[0]
        right = take_rows(documents, part.clip(min=0).reshape(-1)).astype(np.float64)
        right = unit_rows(right)[0].reshape(*part.shape, -1)
        out[i : i + height] = np.einsum("rd,rkd->rk", left, right)
    return np.where(found >= 0, out, -np.inf)


def take_rows(x: Array, rows: Ints) -> NDArray[Any]:
    """Return some rows of an array of any library, on the host."""
    if library_of(x) == "numpy":
        return np.asarray(x[rows])
    taken: NDArray[Any] = to_numpy(take(x, rows))
    return taken


# Exact ----------------------------------------------------------------------------------------


def _exact(documents: Array, backend: str | None) -> Find:
    """Search all documents, on the backend; a mapped file is brought there a part at a time."""
    kind = Similarity("cosine")
    chosen = choose_backend(backend, like=documents).backend
    count, width = (int(size) for size in documents.shape)
    same = library_of(documents) == chosen.name and str(device_of(documents)) == str(chosen.device)
    if same or not on_host(documents):

        def find(queries: Array, k: int) -> Ints:
            rows: Ints = to_numpy(nearest_documents(queries, documents, None, k, kind))
            return rows.astype(np.int64, copy=False)

        return find

    def find_by_parts(queries: Array, k: int) -> Ints:
        left = chosen.asarray(to_numpy(queries))
        height = max(k, _ON_DEVICE // width)
        rows = int(queries.shape[0])
        best, scores = np.zeros((rows, 0), np.int64), np.zeros((rows, 0))
        for start in range(0, count, height):
            part = to_numpy(documents[start : min(start + height, count), :])
            right = chosen.asarray(part, dtype=left.dtype)
            here = to_numpy(nearest_documents(left, right, None, min(k, len(part)), kind))
            here = here.astype(np.int64) + start
            scores = np.concatenate([scores, pair_scores(queries, documents, here)], axis=1)
            best, scores = ranked(np.concatenate([best, here], axis=1), scores, k)
        return best

    return find_by_parts


# Through an index -----------------------------------------------------------------------------


def _parts(documents: Array) -> Any:
    """Yield the documents as unit rows in float32, a part at a time, with where each starts."""
    count, width = (int(size) for size in documents.shape)
    height = max(1, _ENTRIES // width)
    for start in range(0, count, height):
        yield start, _unit(documents[start : min(start + height, count), :])


def _unit(x: Array) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = unit_rows(to_numpy(x).astype(np.float32))[0]
    return np.ascontiguousarray(rows)


def _faiss(documents: Array, index: str | None, parameters: str | None, seed: int) -> Search:
    """Build an index of faiss from its factory's text, such as "IVF1024,Flat" or "HNSW32"."""
    try:
        import faiss
    except ImportError:
        raise MissingExtra("faiss-cpu", "faiss", "search='faiss'") from None
    from coreframe.random import stream

    name = index or "Flat"
    count, width = (int(size) for size in documents.shape)
    try:
        built = faiss.index_factory(width, name, faiss.METRIC_INNER_PRODUCT)
        if not built.is_trained:
            some = min(count, 1 << 18)
            rows = np.sort(stream(seed, "faiss").choice(count, some, replace=False))
            built.train(_unit(take_rows(documents, rows)))
        for _, part in _parts(documents):
            built.add(part)
        if parameters:
            faiss.ParameterSpace().set_index_parameters(built, parameters)
    except RuntimeError as error:  # faiss raises nothing else, with a text of its own
        text = str(error).strip().splitlines()[-1]
        raise ArgumentError(
            f"faiss cannot make index={name!r} with index_parameters={parameters!r}: {text}"
        ) from error

    def find(queries: Array, k: int) -> Ints:
        rows: Ints = built.search(_unit(queries), k)[1]
        return rows.astype(np.int64, copy=False)

    told = f"faiss {name}" + (f" {parameters}" if parameters else "")
    return Search(documents, find, told, name != "Flat")


def _usearch(documents: Array, index: str | None, parameters: str | None, seed: int) -> Search:
    """Build a graph of usearch; ``index_parameters`` such as "connectivity=32"."""
    try:
        from usearch.index import Index
    except ImportError:
        raise MissingExtra("usearch", "usearch", "search='usearch'") from None
    if index is not None:
        raise ArgumentError(f"index goes with search='faiss'; usearch has one kind, got {index!r}")
    given = {"connectivity": 16, "expansion_add": 128, "expansion_search": 64}
    for item in filter(None, (parameters or "").split(",")):
        name, _, value = item.partition("=")
        if name.strip() not in given or not value.strip().isdigit():
            raise ArgumentError(
                f"index_parameters of usearch are {'=N, '.join(given)}=N, got {item!r}"
            )
        given[name.strip()] = int(value)
    count, width = (int(size) for size in documents.shape)
    built = Index(ndim=width, metric="ip", dtype="f32", **given)
    for start, part in _parts(documents):
        built.add(np.arange(start, start + len(part), dtype=np.uint64), part)

    def find(queries: Array, k: int) -> Ints:
        left = _unit(queries)
        found = built.search(left, min(k, count))
        keys = np.asarray(found.keys).reshape(len(left), -1).astype(np.int64)
        counts = np.asarray(found.counts if hasattr(found, "counts") else [keys.shape[1]])
        return np.where(np.arange(keys.shape[1]) < counts.reshape(-1, 1), keys, -1)

    told = "usearch" + (f" {parameters}" if parameters else "")
    return Search(documents, find, told, True)
