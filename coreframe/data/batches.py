"""What a step sees: the vectors of some pairs, and who goes with whom among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from coreframe.backend import Array, device_of, namespace
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Ints, LabelRelevance, ListedRelevance
from coreframe.relation import Aligned, Relation, SameLabel, masked


@dataclass(frozen=True, eq=False)
class Inputs:
    """The vectors of one step, before any adapter."""

    queries: Array  # (n, d)
    references: Array | None  # (m, d): documents; None for labelled vectors
    relation: Relation
    labels: Array | None  # (n,)
    query_rows: Ints  # (n,) rows in the data that the pairs were taken from
    document_rows: Ints | None  # (m,)


def examples(pairs: Pairs) -> Ints:
    """Return what an epoch goes over: relevant pairs (p, 2), or rows with labels (q, 1)."""
    if isinstance(pairs.relevance, ListedRelevance):
        return pairs.relevance.pairs
    return np.arange(len(pairs))[:, None]


def gather(pairs: Pairs, chosen: Ints) -> Inputs:
    """Gather the vectors of some examples.

    Documents known to be wrong for a query of the batch stand behind the right ones, as negatives
    of everyone. No document that is right for a query is its negative.
    """
    xp, device = namespace(queries=pairs.queries), device_of(pairs.queries)
    rows = chosen[:, 0]
    queries = xp.take(pairs.queries, xp.asarray(rows, device=device), axis=0)
    if isinstance(pairs.relevance, LabelRelevance):
        labels = xp.asarray(pairs.relevance.query_labels[rows], device=device)
        return Inputs(queries, None, SameLabel(labels), labels, pairs.query_rows[rows], None)
    assert isinstance(pairs.relevance, ListedRelevance)
    documents = chosen[:, 1]
    if len(pairs.irrelevant):
        wrong, _ = pairs.known_wrong.of_queries(np.unique(rows))
        documents = np.concatenate([documents, wrong])
    references = xp.take(pairs.documents, xp.asarray(documents, device=device), axis=0)
    relation = _relation(pairs.relevance, rows, documents)
    return Inputs(queries, references, relation, None, pairs.query_rows[rows], documents)


def _relation(relevance: ListedRelevance, queries: Ints, documents: Ints) -> Relation:
    n, m = len(queries), len(documents)
    if relevance.is_single:
        # One right document a query: a false negative is the same document again.
        return Aligned(n, m, documents[:n], documents)
    also_right = relevance.contains(queries[:, None], documents[None, :])
    return masked(np.eye(n, m, dtype=bool), ~also_right)
