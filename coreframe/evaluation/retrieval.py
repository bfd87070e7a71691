"""Exact search over all documents, and the metrics of ranked lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.backend import Array, namespace, to_numpy
from coreframe.data.pairs import Pairs, require_pairs
from coreframe.data.relevance import Ints, LabelRelevance
from coreframe.dtypes import cast, computing_dtype
from coreframe.errors import ArgumentError
from coreframe.evaluation import METRICS
from coreframe.evaluation.metrics import Judged, depth_of, measure, several
from coreframe.lazy import LazyRows, lazily, mean
from coreframe.ops import op, top_k
from coreframe.similarity import Similarity

__all__ = ["Evaluation", "evaluate"]

Map = Callable[..., Array]
"""An adapter: ``adapter(x, side="query")``."""

_QUERIES_AT_ONCE = 512
_DOCUMENTS_AT_ONCE = 16384


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Metrics of each query (q,), and the ranked lists they came from."""

    values: Mapping[str, NDArray[np.float64]]
    found: Ints
    """The rows of the documents found, best first: (q, depth)."""
    first: Ints
    """The rank of each query's first right document, from 1, or 0 if it is not in the list."""

    def mean(self) -> dict[str, float]:
        return {name: float(x.mean()) for name, x in self.values.items()}

    def __str__(self) -> str:
        return "  ".join(f"{name} {value:.3f}" for name, value in self.mean().items())


def evaluate(
    adapter: Map | None,
    pairs: Pairs,
    *,
    metrics: Sequence[str] = METRICS,
    similarity: str = "cosine",
) -> Evaluation:
    """Search all documents for each query and return the metrics; adapter None is the base.

    Metrics are named as ``coreframe.evaluation.metrics`` defines them, which is trec_eval's way.
    The lists are as long as the deepest of them asks for. Equal scores rank by row of the
    document. Queries without any right document count 0.
    """
    metrics = several(metrics)
    if not metrics:
        raise ArgumentError("metrics must name at least one, such as 'ndcg@10'")
    require_pairs("pairs", pairs)
    queries, documents = pairs.queries, pairs.documents
    if adapter is not None:
        queries = adapter(queries, side="query")
        documents = adapted_documents(adapter, documents)
    own = pairs.relevance.own if isinstance(pairs.relevance, LabelRelevance) else None
    depth = min(depth_of(metrics, pairs.relevance) + (own is not None), documents.shape[0])
    found = search(queries, documents, depth, similarity=similarity)
    if own is not None:  # each row finds itself, which does not count
        itself = found == own[:, None]
        itself[:, -1] |= ~itself.any(axis=1)
        found = found[~itself].reshape(len(found), -1)
    lists = Judged.of(found, pairs.relevance)
    return Evaluation(measure(lists, metrics), found, lists.first(found.shape[1]))


def adapted_documents(adapter: Map, documents: Array) -> Array | LazyRows:
    """Return the documents as an adapter moves them: block by block where they are many."""
    serial = not getattr(adapter, "thread_safe", False)
    return lazily(documents, lambda x: adapter(x, side="document"), serial=serial)


def search(
    queries: Array, documents: Array | LazyRows, k: int, *, similarity: str = "cosine"
) -> Ints:
    """Return the rows of the k most similar documents of each query: (q, k) int64, best first.

    Exact, in tiles, so that memory does not grow with q times c, and vectors are never copied
    whole; documents may be made block by block (``coreframe.lazy``). Ties go to the lower row. A
    score that is NaN counts as -inf. float16 and bfloat16 are computed in float32.
    """
    if not isinstance(documents, LazyRows):
        namespace(queries=queries, documents=documents)
    count = documents.shape[0]
    if queries.ndim != 2 or documents.ndim != 2 or queries.shape[1] != documents.shape[1]:
        raise ArgumentError(
            "queries and documents must be (q, d) and (c, d), of one width, "
            f"got {tuple(queries.shape)} and {tuple(documents.shape)}"
        )
    if not 1 <= k <= count:
        raise ArgumentError(f"k must be from 1 to the number of documents {count}, got {k}")
    kind = Similarity(similarity)
    if isinstance(documents, LazyRows):
        center = mean(documents) if kind.is_distance else None
    else:
        center = kind.center(documents)
    found: Ints = to_numpy(nearest_documents(queries, documents, center, k, kind))
    return found.astype(np.int64, copy=False)


@op
def nearest_documents(
    queries: Array, documents: Array | LazyRows, center: Array | None, k: int, kind: Similarity, /
) -> Array:
    """Return the rows of the k most similar documents of each query, best first: (q, k) int.

    queries (q, d), documents (c, d), 1 <= k <= c; center as ``kind`` has it of the documents.
    """
    xp = namespace(queries=queries)
    dtype = xp.result_type(computing_dtype(queries, xp), computing_dtype(documents, xp))

    def prepared(x: Array, start: int, number: int) -> tuple[Array, Array | None]:
        part = x[start : min(start + number, x.shape[0]), :]
        rows, _ = kind.prepare(cast(part, dtype, xp), center)
        return rows, kind.squared_norms(rows)

    best: list[Any] = [None] * -(-queries.shape[0] // _QUERIES_AT_ONCE)
    for j in range(0, documents.shape[0], _DOCUMENTS_AT_ONCE):
        right, right_norms = prepared(documents, j, _DOCUMENTS_AT_ONCE)
        for i, before in enumerate(best):
            left, left_norms = prepared(queries, i * _QUERIES_AT_ONCE, _QUERIES_AT_ONCE)
            scores = kind.finish(
                left @ xp.matrix_transpose(right),
                None if left_norms is None else left_norms[:, None],
                None if right_norms is None else right_norms[None, :],
            )
            scores = xp.where(xp.isnan(scores), xp.full_like(scores, -math.inf), scores)
            # From one tile of documents to the next the lists stay in order of rows, so that
            # a stable choice among them still gives ties to the lower row.
            here = top_k(scores, min(k, right.shape[0]))
            pair = (xp.take_along_axis(scores, here, axis=1), here + j)
            if before is not None:
                both = tuple(xp.concat([a, b], axis=1) for a, b in zip(before, pair, strict=True))
                chosen = top_k(both[0], min(k, both[0].shape[1]))
                pair = tuple(xp.take_along_axis(x, chosen, axis=1) for x in both)
            best[i] = pair
    return xp.concat([rows for _, rows in best], axis=0)
