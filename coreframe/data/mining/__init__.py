"""Hard negatives from a whole collection: the documents that look right and are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from coreframe.data.mining.known import CrossEncoder, OwnDocuments, RightDocuments, rescorer
from coreframe.data.mining.mined import FORMATS, Mined, Suspects
from coreframe.data.mining.rules import Chosen, Rules, Scores, choose
from coreframe.data.mining.search import METHODS, Search, make_search
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Ints, ListedRelevance
from coreframe.errors import ArgumentError, ArgumentTypeError, DataError
from coreframe.lazy import take
from coreframe.random import stream

__all__ = ["FORMATS", "METHODS", "Mined", "Rules", "Suspects", "mine_hard_negatives"]

_QUERIES = 16_384  # at once: each time all documents are gone through
_SAMPLE = 100  # queries on which an approximate search is compared with the exact one
_CANDIDATES = 1 << 22  # at once: bounds the memory where range_max is large


def mine_hard_negatives(
    pairs: Pairs,
    *,
    num_negatives: int = 3,
    range_min: int = 0,
    range_max: int | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    sampling_strategy: str = "top",
    include_positives: bool = False,
    mask_anchors: bool = True,
    false_negative_margin: float = 0.0,
    cross_encoder: CrossEncoder | None = None,
    search: str = "exact",
    index: str | None = None,
    index_parameters: str | None = None,
    backend: str | None = None,
    seed: int = 42,
    queries_at_once: int = _QUERIES,
    progress: Callable[[int, int], None] | None = None,
) -> Mined:
    """Find for each query the documents that are most similar to it and not right.

        candidates of a query = its range_max + most positives nearest documents, by cosine
        dropped, in this order: right documents; by absolute_margin; by relative_margin; above
        max_score; below min_score.  Of the best range_max of the rest, the first range_min are
        skipped; then num_negatives are taken, from the top or at random

    With the same embeddings the negatives, their scores and rows equal those of
    sentence-transformers' ``mine_hard_negatives`` with the options of the same names, but for
    documents of equal score, and for ``mask_anchors``. ``relative_margin=0.05``, at most ten
    negatives, from the top, is the recipe of NV-Retriever.

    Args:
        pairs: queries, documents and which are right, for example ``Pairs.from_texts`` with a
            corpus. Equal texts are one document there, so no right text is a negative.
        num_negatives: >= 1, negatives a query. Default: 3, as sentence-transformers.
        range_min: >= 0, how many of the nearest are skipped. Default: 0.
        range_max: how many are looked at. Default: range_min + num_negatives + the most right
            documents of a query; with ten times num_negatives, where a filter may drop some.
        max_score, min_score: negatives above, or below, are dropped. Default: None are.
        absolute_margin: drop what scores above the lowest right document, less this. Default:
            None, nothing.
        relative_margin: the same as a share of the size of that score. Default: None, nothing.
        sampling_strategy: ``top`` or ``random``. Default: top, the hardest.
        include_positives: whether right documents stay, for ranked lists. Default: False.
        mask_anchors: whether a document with the query's own text, or with its vector where there
            are no texts, is dropped like a right one. Default: True; sentence-transformers keeps
            it.
        false_negative_margin: candidates that score above the lowest right document, less this,
            are listed as suspects. Default: 0.
        cross_encoder: takes a list of (query, document) and returns their scores, which then
            stand for the cosines; or an object with such a ``predict``. Used only where a margin,
            max_score or min_score is given, as sentence-transformers does. Default: none.
        search: ``exact``, or through an index of ``faiss`` or ``usearch``. Default: exact.
        index: of faiss, the text of its factory, such as ``IVF4096,Flat``. Default: ``Flat``,
            which is exact.
        index_parameters: such as ``nprobe=16`` of faiss, or ``expansion_search=256`` of usearch.
            Default: theirs.
        backend: where the exact search computes. Default: where the vectors are.
        seed: of the random choice, which is the same on every backend. Default: 42.
        queries_at_once: how many queries are searched for in one walk over the documents; the
            result does not depend on it. Default: 16,384.
        progress: called with how many queries are done, and of how many. Default: nothing.

    Returns: ``Mined``: negatives (q, k) int64 and scores (q, k), rows and statistics.

    Shapes: q queries and c documents of one width; of the documents only parts are held in
        memory, so they may be a mapped file, but for ``faiss`` and ``usearch``, whose index is.

    Edges: a query with fewer candidates than num_negatives has -1 in the rest. A query without a
    right document has no negatives and is counted. Labelled vectors, more negatives than there
    are documents, and texts that a cross-encoder would need and that are not there, are errors.

    Cost: q c d multiplications; q k and some blocks of memory, k the number of candidates.

    References: Moreira et al. 2024, arXiv 2407.15831 (NV-Retriever: the margins).

    >>> import numpy as np
    >>> from coreframe import Pairs
    >>> data = Pairs(np.eye(4)[:1], np.array([[1.0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]), [0])
    >>> mine_hard_negatives(data, num_negatives=2).negatives.tolist()
    [[1, 2]]
    """
    rules = Rules(
        num_negatives=num_negatives,
        range_min=range_min,
        range_max=range_max,
        max_score=max_score,
        min_score=min_score,
        absolute_margin=absolute_margin,
        relative_margin=relative_margin,
        sampling_strategy=sampling_strategy,
        include_positives=include_positives,
        mask_anchors=mask_anchors,
        false_negative_margin=false_negative_margin,
        seed=seed,
    )
    relevance = _check(pairs, rules, queries_at_once)
    asked = np.unique(relevance.pairs[:, 0])
    most = int(relevance.counts().max())
    rescore = rescorer(cross_encoder, pairs) if rules.filters else None
    window = rules.window(most, rescored=rescore is not None)
    wanted = min(window + most, int(pairs.documents.shape[0]))
    finder = make_search(
        pairs.documents,
        search,
        backend=backend,
        index=index,
        index_parameters=index_parameters,
        seed=seed,
    )
    at_once = max(1, min(queries_at_once, _CANDIDATES // wanted))
    own = OwnDocuments(pairs) if rules.mask_anchors else None
    right = RightDocuments(pairs, relevance, rescore)
    count = len(pairs)
    negatives = np.full((count, num_negatives), -1, np.int64)
    scores = np.full((count, num_negatives), -np.inf, np.float32)
    skipped: Counter[str] = Counter()
    suspects = []
    candidates = 0
    for start in range(0, len(asked), at_once):
        rows = asked[start : start + at_once]
        queries = take(pairs.queries, rows)
        found, near = finder.candidates(queries, wanted + (own is not None))
        positive = right.among(rows, found, near)
        if own is not None:
            found, near, positive = own.leave_out(rows, found, near, positive)
        if rescore is not None:
            near = rescore(rows, found)
        candidates += int(((found >= 0) & ~positive).sum())
        lowest = right.lowest[rows]
        chosen = choose(rules, found, near, positive, lowest, window=window, rows=rows)
        negatives[rows], scores[rows] = chosen.documents, chosen.scores
        skipped += chosen.skipped
        suspects.append(_suspects(rules, rows, found, near, lowest, chosen))
        if progress is not None:
            progress(min(start + at_once, len(asked)), len(asked))
    return Mined(
        pairs=pairs,
        rules=rules,
        negatives=negatives,
        scores=scores,
        positive_scores=right.scores.astype(np.float32),
        suspects=_join(suspects),
        window=window,
        search=finder.name,
        approximate=finder.approximate,
        recall=_recall(pairs, finder, asked, wanted, seed) if finder.approximate else None,
        skipped=dict(skipped),
        candidates=candidates,
    )


def _check(pairs: Pairs, rules: Rules, queries_at_once: int) -> ListedRelevance:
    """Return which documents are right, or say why these pairs cannot be mined."""
    if not isinstance(pairs, Pairs):
        raise ArgumentTypeError(
            "pairs must be coreframe.Pairs, such as Pairs.from_texts(anchors, positives, "
            f"embedder, corpus=corpus), got {type(pairs).__name__}"
        )
    relevance = pairs.relevance
    if not isinstance(relevance, ListedRelevance):
        raise DataError(
            "labelled vectors have no pairs to mine for: every vector of another label is a "
            "negative already, and the miners choose among them while training"
        )
    if not len(relevance.pairs):
        raise DataError("no query has a right document, so there is nothing to be harder than")
    count = int(pairs.documents.shape[0])
    most = count if rules.include_positives else count - 1
    if rules.num_negatives > most:
        raise ArgumentError(
            f"num_negatives must be at most {most}, since there are {count} documents and one is "
            f"right, got {rules.num_negatives}; add documents to the corpus"
        )
    if type(queries_at_once) is not int or queries_at_once < 1:
        raise ArgumentError(
            f"queries_at_once must be an integer of at least 1, got {queries_at_once!r}"
        )
    return relevance


def _suspects(
    rules: Rules, rows: Ints, found: Ints, near: Scores, lowest: Scores, chosen: Chosen
) -> Suspects:
    """List the best of the candidates that look right, as many as there are negatives, and
    those that are used as negatives.
    """
    order = np.argsort(np.where(chosen.above, -near, np.inf), axis=1, kind="stable")
    best = np.zeros(found.shape, dtype=bool)
    np.put_along_axis(best, order[:, : rules.num_negatives], True, axis=1)
    listed = chosen.above & (best | chosen.used)
    query, column = np.nonzero(np.take_along_axis(listed, order, axis=1))
    column = order[query, column]
    return Suspects(
        query=rows[query],
        document=found[query, column],
        score=near[query, column].astype(np.float32),
        lowest=lowest[query].astype(np.float32),
        used=chosen.used[query, column],
        total=int(chosen.above.sum()),
    )


def _join(parts: list[Suspects]) -> Suspects:
    names = ("query", "document", "score", "lowest", "used")
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Suspects(**columns, total=sum(part.total for part in parts))


def _recall(pairs: Pairs, finder: Search, asked: Ints, k: int, seed: int) -> float:
    """Return the share of the exact candidates that a search finds, on some queries."""
    some = min(_SAMPLE, len(asked))
    rows = np.sort(stream(seed, "recall").choice(asked, some, replace=False))
    queries = take(pairs.queries, rows)
    exact = make_search(pairs.documents, "exact").candidates(queries, k)[0]
    found = finder.candidates(queries, k)[0]
    same = [np.isin(a[a >= 0], b) for a, b in zip(exact, found, strict=True)]
    return float(np.concatenate(same).mean())
