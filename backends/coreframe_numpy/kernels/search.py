"""Exact search: a matrix product, and one pass over its scores.

Once a query has k documents, a tile of scores holds few that are better than the least of them.
One pass finds the largest score of each query in the tile; only queries whose largest is good
enough are looked at again. What is found waits until there is enough of it to be worth sorting.

Documents are prepared a stretch at a time and shared by all queries. All shapes follow from those
of the inputs, never from the number of threads. All tiles of documents have one shape, with rows
of zeros at the very end, since BLAS may add up in another order for another shape. Some of its
kernels (OpenBLAS's for Haswell) do so even within a product, so that equal documents differ in
the last digit of their scores: in a list they are put in the order of their rows at the end.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from coreframe.backend import Array
from coreframe.data.relevance import row_hashes
from coreframe.lazy import LazyRows
from coreframe.similarity import Similarity, unit_rows
from coreframe_numpy.kernels import threads
from coreframe_numpy.kernels.selection import padded, top_k

_STRETCH = 2**23  # entries of documents, and of queries, that are prepared at once
_QUERIES = 1024  # a tile: tall enough for the product, small enough for the processor's cache
_DOCUMENTS = 1024
_TASKS = 16  # where there are few queries, documents are shared out among the threads
_SMALL = 2**17  # scores of a search that is one tile, and chosen from without a bound


class _NotANumber(Exception):
    pass


def nearest_documents(
    queries: Array, documents: Array, center: Array | None, k: int, kind: Similarity, /
) -> Any:
    """Serve all but scores that are NaN, which the reference orders. Documents may be lazy."""
    n, d = queries.shape
    dtype = np.result_type(queries.dtype, documents.dtype, np.float32)
    if n * len(documents) <= _SMALL and documents.size <= _SMALL * 8:
        chosen = _small(queries, documents, center, k, kind, dtype)
        return chosen if chosen is NotImplemented else _in_order(chosen, documents)
    stretch = _Stretch(documents, center, kind, dtype)
    tall = min(_QUERIES if stretch.lanes > 1 else _QUERIES // 4, max(16, 2**19 // k))
    at_once = max(_STRETCH // d // tall, 1) * tall
    found = np.empty((n, k), np.int64)
    single = n <= tall and stretch.lanes == 1  # no threads of ours: BLAS may have them all
    try:
        with contextlib.nullcontext() if single else threads.one_blas_thread():
            for i in range(0, n, at_once):
                rows = slice(i, min(i + at_once, n))
                here = queries[rows]
                left = _prepare(here, center, kind, np.empty(here.shape, dtype))
                np.concatenate(_search(left, stretch, k, tall), out=found[rows])
    except _NotANumber:
        return NotImplemented
    return _in_order(found, documents)


def _in_order(found: Array, documents: Array) -> Array:
    """Return lists (n, k) in which equal documents stand in the order of their rows.

    They keep their places in the list, and the first of these gets the lowest row. Few columns
    tell most documents apart; only those alike in them are looked at whole.
    """
    while isinstance(documents, LazyRows):
        documents = documents.source  # equal rows give equal rows
    if found.shape[1] == 1:
        return found
    codes = row_hashes(documents[found.reshape(-1), :8]).reshape(found.shape)
    order = np.argsort(codes, axis=1, kind="stable")
    alike = np.diff(np.take_along_axis(codes, order, axis=1), axis=1) == 0
    if not alike.any():
        return found
    again = np.zeros(found.shape, bool)
    again[:, 1:] = alike
    again[:, :-1] |= alike
    mask = np.zeros_like(again)
    np.put_along_axis(mask, order, again, axis=1)
    rows, place = np.unique(found[mask], return_inverse=True)
    whole = [row_hashes(documents[rows[i : i + 4096]]) for i in range(0, len(rows), 4096)]
    codes[mask] = np.concatenate(whole)[place.reshape(-1)]
    places = np.argsort(codes, axis=1, kind="stable")  # of each kind, in turn
    by_row = np.lexsort((found, codes), axis=1)
    result = np.empty_like(found)
    np.put_along_axis(result, places, np.take_along_axis(found, by_row, axis=1), axis=1)
    return result


def _small(
    queries: Array, documents: Array, center: Array | None, k: int, kind: Similarity, dtype: Any
) -> Any:
    """Choose among all scores at once; the documents are filled up as tiles of them are."""
    count, d = documents.shape
    right = np.empty((_up(count, 16), d), dtype)
    right[count:] = 0
    norms = kind.squared_norms(_prepare(documents[:], center, kind, right[:count]))
    left = _prepare(queries, center, kind, np.empty(queries.shape, dtype))
    scores = (left @ right.T)[:, :count]
    own = kind.squared_norms(left)
    if norms is not None and own is not None:
        if not np.isfinite(norms).all() or not np.isfinite(own).all():
            return NotImplemented
        scores = kind.finish(scores, own[:, None], norms)
    if np.isnan(scores.max(initial=0)):
        return NotImplemented
    return top_k(scores, k)


def _search(left: Array, stretch: _Stretch, k: int, tall: int) -> list[Array]:
    """Return the rows found for prepared queries, in blocks of them."""
    n = len(left)
    blocks = -(-n // tall)
    tall = min(_up(-(-n // blocks), 16), n)
    # Each lane has a bound of its own, and finds k documents before it has one. So there are no
    # more of them than there are threads to keep busy; the result does not depend on them.
    busy = threads.count() * (2 if blocks > 1 else 1)
    lanes = min(stretch.lanes, -(-min(_TASKS, busy) // blocks))
    works = [
        [_Found(left[i : i + tall], stretch.kind, k) for _ in range(lanes)]
        for i in range(0, n, tall)
    ]
    tasks = [(work, lane) for work in works for lane in range(lanes)]
    local = threading.local()

    def run(task: tuple[list[_Found], int]) -> None:
        work, lane = task
        if not hasattr(local, "scores"):
            local.scores = _Scores(tall, stretch.width, left.dtype, stretch.kind)
        for i in stretch.offsets[lane::lanes]:
            work[lane].look(*stretch.tile(i), i, local.scores)

    for _ in stretch.walk():
        threads.each(run, tasks)
    return [_joined(work, k) for work in works]


class _Stretch:
    """Prepared documents, a stretch of tiles at a time."""

    def __init__(self, documents: Array, center: Array | None, kind: Similarity, dtype: Any):
        count, d = documents.shape
        self.documents, self.center, self.kind = documents, center, kind
        rows = min(max(_STRETCH // d, _DOCUMENTS), 32 * _DOCUMENTS)
        tiles = -(-count // min(_DOCUMENTS, rows // 4))
        self.width = _up(-(-count // tiles), 16)
        self.tiles = min(rows // self.width, tiles)
        # A lane starts with no bound, which costs as much as some tiles do later.
        self.lanes = max(1, min(self.tiles, tiles // 8))
        self.offsets = range(0)
        self.norms: dict[int, Array | None] = {}
        # What needs no preparing is used as it lies, but for a last tile that has to be filled up.
        ready = kind.name == "dot" and documents.dtype == dtype and _is_plain(documents)
        self._as_it_lies = count - count % self.width if ready else 0
        held = 0 if self._as_it_lies == count else self.tiles * self.width
        self._memory = np.empty((held, d), dtype)

    def walk(self) -> Iterator[None]:
        """Go from one stretch to the next."""
        count = len(self.documents)
        size = self.tiles * self.width
        for start in range(0, count, size):
            self.offsets = range(start, min(start + size, count), self.width)
            threads.each(self._load, self.offsets)
            yield

    def _load(self, i: int) -> None:
        if i < self._as_it_lies:
            self.norms[i] = None
            return
        part = self.documents[i : i + self.width]
        place = i - self.offsets.start
        out = self._memory[place : place + self.width]
        _prepare(part, self.center, self.kind, out[: len(part)])
        out[len(part) :] = 0
        self.norms[i] = _finite(self.kind.squared_norms(out[: len(part)]))

    def tile(self, i: int) -> tuple[Array, Array | None, int]:
        """Return the tile from row i on, squared norms where needed, and how many rows it has."""
        real = min(self.width, len(self.documents) - i)
        if i < self._as_it_lies:
            return self.documents[i : i + self.width], None, real
        place = i - self.offsets.start
        return self._memory[place : place + self.width], self.norms[i], real


class _Scores:
    """One thread's memory for the scores of a tile, and for what is compared in their place."""

    def __init__(self, height: int, width: int, dtype: Any, kind: Similarity) -> None:
        self.inner = np.empty(height * width, dtype)
        self.compared = np.empty_like(self.inner) if kind.is_distance else self.inner


class _Found:
    """The best documents of a block of queries so far: (r, k), best first, fewer at the start.

    ``waiting`` holds lists of others that are better than the last: rows of queries, documents
    and scores. A query's documents come in the order of their rows.
    """

    def __init__(self, left: Array, kind: Similarity, k: int) -> None:
        self.left, self.kind, self.k = left, kind, k
        self.norms = _finite(kind.squared_norms(left))
        self.scores = np.empty((len(left), 0), left.dtype)
        self.documents = np.empty((len(left), 0), np.int64)
        self.waiting: list[tuple[Array, Array, Array]] = []
        self.number = 0

    def look(
        self, right: Array, norms: Array | None, real: int, first: int, memory: _Scores
    ) -> None:
        """Look through a tile of documents, of which ``real`` are there, from row ``first``."""
        shape = (len(self.left), len(right))
        inner = memory.inner[: shape[0] * shape[1]].reshape(shape)
        np.matmul(self.left, right.T, out=inner)
        inner = inner[:, :real]
        compared = inner
        if norms is not None:
            compared = memory.compared[: shape[0] * real].reshape(-1, real)
            np.subtract(inner, norms * inner.dtype.type(0.5), out=compared)
        most = compared.max(axis=1)
        if np.isnan(most).any():
            raise _NotANumber
        full = self.scores.shape[1] == self.k
        if full:
            bound = self._bound(norms)
            rows = np.flatnonzero(most > bound)
            if not len(rows):
                return
            some = len(rows) < shape[0]
            better = (compared[rows] if some else compared) > bound[rows, None]
            number = int(np.count_nonzero(better))
        else:
            rows, some, number = np.arange(shape[0]), False, shape[0] * real
        if full and number <= len(rows) * (4 * self.k + 64):
            row, column = np.divmod(np.flatnonzero(better), real)
            row = rows[row]
            scores = self._finish(inner[row, column], norms, row, column)
        else:
            few = inner[rows] if some else inner
            few = self._finish(few, norms, rows[:, None], slice(None))
            k = min(self.k, real)
            columns = top_k(few, k)
            scores = np.take_along_axis(few, columns, axis=1).reshape(-1)
            row, column = np.repeat(rows, k), columns.reshape(-1)
        self.waiting.append((row, column + first, scores))
        self.number += len(row)
        if not full or self.number > shape[0] * max(8, self.k // 2):
            self.sort()

    def _finish(self, inner: Array, norms: Array | None, rows: Array, columns: Any) -> Array:
        if norms is None or self.norms is None:
            return inner
        return self.kind.finish(inner, self.norms[rows], norms[columns])

    def _bound(self, norms: Array | None) -> Array:
        """Return what ``compared`` of a document that is better than the last must exceed.

        For distances that is inner - |v|^2 / 2, from which the similarity follows but for
        rounding; the bound is lower by more than that.
        """
        last = self.scores[:, -1]
        if norms is None or self.norms is None:
            return last
        least = last if self.kind.name == "squared_euclidean" else -last * last
        info = np.finfo(last.dtype)
        slack = 8 * float(info.eps) * (self.norms + norms.max() - least)
        return (least + self.norms) / 2 - slack - float(info.smallest_normal)

    def sort(self) -> None:
        """Bring in what waits."""
        if not self.waiting:
            return
        row, document, score = (np.concatenate(x) for x in zip(*self.waiting, strict=True))
        self.waiting, self.number = [], 0
        order = np.argsort(row.astype(np.uint16), kind="stable")
        counts = np.bincount(row, minlength=len(self.left))
        rows = np.flatnonzero(counts)
        row = np.repeat(np.arange(len(rows)), counts[rows])
        new = padded(counts[rows], row, score[order], document[order])
        scores = np.concatenate([self.scores[rows], new[0]], axis=1)
        documents = np.concatenate([self.documents[rows], new[1]], axis=1)
        chosen = top_k(scores, min(self.k, scores.shape[1]))
        scores = np.take_along_axis(scores, chosen, axis=1)
        documents = np.take_along_axis(documents, chosen, axis=1)
        if len(rows) == len(self.left):
            self.scores, self.documents = scores, documents
        else:
            self.scores[rows], self.documents[rows] = scores, documents


def _joined(lanes: list[_Found], k: int) -> Array:
    """Return the best documents (r, k) of all lanes of a block."""
    for lane in lanes:
        lane.sort()
    if len(lanes) == 1:
        return lanes[0].documents
    documents = np.concatenate([lane.documents for lane in lanes], axis=1)
    scores = np.concatenate([lane.scores for lane in lanes], axis=1)
    order = np.argsort(documents, axis=1)
    documents = np.take_along_axis(documents, order, axis=1)
    chosen = top_k(np.take_along_axis(scores, order, axis=1), k)
    return np.take_along_axis(documents, chosen, axis=1)


def _prepare(x: Array, center: Array | None, kind: Similarity, out: Array) -> Array:
    """Write prepared rows of x to ``out``, each as if it were alone, and return it."""
    if center is not None:
        return np.subtract(x, center, out=out, dtype=out.dtype)
    np.copyto(out, x)
    if kind.name == "dot" or not len(out):
        return out
    squares = np.einsum("ij,ij->i", out, out)
    info = np.finfo(out.dtype)
    # What is summed keeps its digits down to the smallest normal number, over eps.
    low = float(info.smallest_normal) / float(info.eps)
    unsafe = np.flatnonzero(~((squares > low) & (squares <= float(info.max))))
    saved = out[unsafe]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        out /= np.sqrt(squares)[:, None]  # so that a row of one entry becomes exactly 1 or -1
    if len(unsafe):
        out[unsafe] = unit_rows.reference(saved)[0]
    return out


def _finite(norms: Array | None) -> Array | None:
    if norms is not None and not np.isfinite(norms).all():
        raise _NotANumber
    return norms


def _is_plain(x: Array) -> bool:
    """Say whether tiles of an array can be multiplied as they lie; lazy rows are made first."""
    return isinstance(x, np.ndarray) and x.flags.c_contiguous


def _up(x: int, step: int) -> int:
    return -(-x // step) * step
