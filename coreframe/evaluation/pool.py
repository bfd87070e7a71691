"""Fewer documents to search while training goes on, so that a look at dev stays cheap.

A pool holds every right document of the queries, the nearest documents of each as they were found
once among all, and others at random. Metrics on it are higher than on the whole collection, and
are there to tell epochs apart; whatever is reported or decided is measured on all documents.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np

from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Ints, LabelRelevance, ListedRelevance, Relevance
from coreframe.errors import ArgumentError
from coreframe.lazy import take
from coreframe.random import stream

MANY, POOL = 200_000, 100_000


def pool_size(setting: int | Literal["auto", "all"], documents: int) -> int | None:
    """Return how many of the documents are searched while training, or None for all of them."""
    if setting == "auto":
        return POOL if documents > MANY else None
    if setting == "all" or setting >= documents:
        return None
    return setting


def pooled(pairs: Pairs, size: int, *, nearest: Ints | None = None, seed: int = 42) -> Pairs:
    """Return the same queries with a pool of about ``size`` of the documents, gathered.

    Args:
        pairs: queries and all documents.
        size: documents of the pool, >= 1; right and nearest ones are in it even if they are more.
        nearest: lists of documents of the queries (q, k), -1 is none, such as ``Evaluation.found``.
        seed: of the others.

    Shapes: the pool (about size, d) is a copy; documents stand in the order of their rows.
    """
    if size < 1:
        raise ArgumentError(f"size must be at least 1 document, got {size}")
    count = int(pairs.documents.shape[0])
    chosen = np.zeros(count, dtype=bool)
    relevance = pairs.relevance
    if isinstance(relevance, ListedRelevance):
        chosen[relevance.pairs[:, 1]] = True
    elif isinstance(relevance, LabelRelevance) and relevance.own is not None:
        chosen[relevance.own] = True
    if nearest is not None:
        chosen[nearest[nearest >= 0]] = True
    order = stream(seed, "pool").permutation(count)
    free = order[~chosen[order]]
    chosen[free[: max(0, size - int(chosen.sum()))]] = True
    rows = np.flatnonzero(chosen)
    texts = pairs.document_texts
    return pairs.replaced(
        documents=take(pairs.documents, rows),
        relevance=_within(relevance, chosen, rows),
        document_texts=None if texts is None else [texts[i] for i in rows.tolist()],
        irrelevant=pairs.irrelevant[:0],
    )


def _within(relevance: Relevance, chosen: Ints, rows: Ints) -> Relevance:
    """Return the relation of the queries to the chosen rows."""
    place = np.cumsum(chosen) - 1
    if isinstance(relevance, ListedRelevance):
        pairs = np.stack([relevance.pairs[:, 0], place[relevance.pairs[:, 1]]], axis=1)
        return replace(relevance, pairs=pairs, documents=len(rows))
    assert isinstance(relevance, LabelRelevance)
    own = None if relevance.own is None else place[relevance.own]
    return LabelRelevance(relevance.query_labels, relevance.document_labels[rows], own)
