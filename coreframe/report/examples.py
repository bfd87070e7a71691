"""Single queries: those that changed most, the hardest errors, and right answers nobody marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from coreframe.backend import to_numpy
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Ints, ListedRelevance
from coreframe.evaluation.ranks import Ranks
from coreframe.evaluation.retrieval import Evaluation
from coreframe.lazy import take
from coreframe.outcome import Candidate, Outcome
from coreframe.report.words import LONGEST, shorten

EXAMPLES = 20
ERRORS = 10
TOP = 3


def changed(
    outcome: Outcome, shown: Candidate, before: Ranks, after: Ranks
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the queries that gained and lost most in the gate's metric, worst and best first.

    Of equal changes, the larger one in 1 / rank comes first.
    """
    base, metric = outcome.candidates["identity"].test, outcome.gate.metric
    change = shown.test.values[metric] - base.values[metric]
    finer = 1 / np.maximum(after.rank, 1) - 1 / np.maximum(before.rank, 1)
    order = np.lexsort((np.arange(len(change)), -finer, -change))
    up = [int(i) for i in order if change[i] > 0][:EXAMPLES]
    down = [int(i) for i in order[::-1] if change[i] < 0][:EXAMPLES]

    def example(i: int) -> dict[str, Any]:
        return {
            **_query(outcome.test, i),
            "before": int(before.rank[i]),
            "after": int(after.rank[i]),
            "change": float(change[i]),
            "top_before": _top(base, outcome.test, i),
            "top_after": _top(shown.test, outcome.test, i),
        }

    return [example(i) for i in up], [example(i) for i in down]


def hardest(outcome: Outcome, shown: Candidate, after: Ranks) -> list[dict[str, Any]]:
    """Return the queries whose right document ranks worst under the shown candidate."""
    ranked = np.nonzero(after.rank > 1)[0]
    order = ranked[np.argsort(-after.rank[ranked], kind="stable")][:ERRORS]
    return [
        {
            **_query(outcome.test, int(i)),
            "rank": int(after.rank[i]),
            "right_score": float(after.right[i]),
            "wrong_score": float(after.wrong[i]),
            "top": _top(shown.test, outcome.test, int(i)),
        }
        for i in order
    ]


def suspects(
    outcome: Outcome, shown: Candidate, before: Ranks, after: Ranks
) -> list[dict[str, Any]]:
    """Return documents that are not marked as right, but that look so: likely false negatives.

    Base and shown candidate both put the document first, above every right one; those with the
    widest margin under the shown candidate come first. Labels are taken as they are.
    """
    pairs = outcome.test
    if not isinstance(pairs.relevance, ListedRelevance):
        return []
    first = shown.test.found[:, 0]
    same = first == outcome.candidates["identity"].test.found[:, 0]
    margin = after.wrong - after.right
    doubtful = same & (after.rank > 1) & (before.rank > 1) & (margin > 0)
    chosen = np.nonzero(doubtful)[0]
    chosen = chosen[np.argsort(-margin[chosen], kind="stable")][:ERRORS]
    if not len(chosen):
        return []
    right = np.array([_right(pairs, int(i))[0] for i in chosen])
    alike = _cosines(pairs, first[chosen], right)
    return [
        {
            **_query(pairs, int(i)),
            "document": _document(pairs, int(first[i])),
            "score": float(after.wrong[i]),
            "right_score": float(after.right[i]),
            "alike": float(cosine),
        }
        for i, cosine in zip(chosen, alike, strict=True)
    ]


def _query(pairs: Pairs, row: int) -> dict[str, Any]:
    texts = pairs.query_texts
    right = _right(pairs, row)
    return {
        "query": f"query {row}" if texts is None else shorten(texts[row]),
        "right": [_document(pairs, int(j)) for j in right[:TOP]],
        "more": max(0, len(right) - TOP),
    }


def _right(pairs: Pairs, row: int) -> Ints:
    """Return the right documents of a query, without a table of all documents where possible."""
    relevance = pairs.relevance
    if isinstance(relevance, ListedRelevance):
        first, last = np.searchsorted(relevance.pairs[:, 0], [row, row + 1])
        found: Ints = relevance.pairs[first:last, 1]
        return found
    count = int(pairs.documents.shape[0])
    return np.nonzero(relevance.take(np.array([row])).hits(np.arange(count)[None, :])[0])[0]


def _top(found: Evaluation, pairs: Pairs, query: int) -> list[tuple[str, bool]]:
    rows = found.found[query, :TOP]
    hits = pairs.relevance.take(np.array([query])).hits(rows[None, :])[0]
    longest = LONGEST * 2 // 3
    return [
        (_document(pairs, int(j), longest), bool(hit)) for j, hit in zip(rows, hits, strict=True)
    ]


def _document(pairs: Pairs, row: int, longest: int = LONGEST) -> str:
    texts = pairs.document_texts
    return f"document {row}" if texts is None else shorten(texts[row], longest)


def _cosines(pairs: Pairs, one: Ints, other: Ints) -> Sequence[float]:
    """Return the cosine of pairs of documents, in the vectors as they are."""
    a, b = (rows_of(pairs.documents, x) for x in (one, other))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found: list[float] = ((a * b).sum(axis=1) / np.maximum(lengths, 1e-30)).tolist()
    return found


def rows_of(x: Any, rows: Ints) -> Any:
    """Return some rows as float64 on the host; nothing else is read or copied."""
    return to_numpy(take(x, rows)).astype(np.float64)
