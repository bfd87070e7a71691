"""Pairs: vectors of queries and documents, and which goes with which."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from coreframe import checks
from coreframe.backend import Array, Backend, device_of, namespace, to_numpy
from coreframe.data.relevance import (
    Floats,
    Ints,
    LabelRelevance,
    ListedRelevance,
    Relevance,
    components,
    row_codes,
)
from coreframe.dtypes import cast
from coreframe.embedder import Embedder, embed_both
from coreframe.errors import ArgumentError, ArgumentTypeError, DataError
from coreframe.lazy import BLOCK_ROWS, LazyRows, is_large, take
from coreframe.random import stream

__all__ = ["Pairs"]


@dataclass(frozen=True, eq=False, init=False)
class Pairs:
    """Vectors of queries (q, d) and documents (c, d), and which documents are right for a query.

    Args:
        queries: (q, d) floating.
        documents: (c, d), of the same library and device: the collection that is searched.
        relevant: the row of the right document of each query (q,), or pairs of query row and
            document row (p, 2). Default: row i goes with row i.
        query_texts, document_texts: for reports. Default: none.
        groups: (q,) anything; queries of one group never stand on two sides of a split. Default:
            every query is a group.
        irrelevant: (p, 2) pairs of query row and document row known to be wrong; one that is
            relevant too is no negative. Default: none.
        weights: how much each entry of ``relevant`` (with labels: each query) counts in the loss,
            >= 0, for example its quality. Default: all the same.
        difficulty: a number for each, low is easy, for a curriculum. Default: none.
        relevance: a ready ``Relevance`` instead of ``relevant``, such as that of labels. Default:
            made from ``relevant``.

    Shapes: q queries and c documents of one width d.

    Edges: rows of documents that do not exist, other widths, and without ``relevant`` other
    counts, are errors. A query may have no right document: it counts 0 in the evaluation.

    Cost: vectors are not copied; O(p log p) for p pairs.

    References: our own.

    >>> import numpy as np
    >>> data = Pairs(np.eye(4), np.eye(4))
    >>> data.split(dev=0.25, test=0.25)[2]
    Pairs(1 query, 4 documents, 1 relevant pair, dim 4)
    """

    queries: Array
    documents: Array
    relevance: Relevance
    query_texts: Sequence[str] | None
    document_texts: Sequence[str] | None
    groups: Ints
    irrelevant: Ints
    query_rows: Ints
    """The rows of the queries in the data that this was taken from."""
    weights: Floats | None
    """One an example (see ``examples``), as are the difficulties."""
    difficulty: Floats | None

    def __init__(
        self,
        queries: Array,
        documents: Array,
        relevant: Any = None,
        *,
        query_texts: Sequence[str] | None = None,
        document_texts: Sequence[str] | None = None,
        groups: Any = None,
        irrelevant: Any = None,
        weights: Any = None,
        difficulty: Any = None,
        relevance: Relevance | None = None,
    ) -> None:
        namespace(queries=queries, documents=documents)
        same = documents is queries  # labelled vectors are one set, and looked at once
        queries = checks.embeddings("queries", queries)
        documents = (
            queries if same else checks.embeddings("documents", documents, width=queries.shape[1])
        )
        q, c = queries.shape[0], documents.shape[0]
        place = None
        if relevance is None:
            if relevant is None and q != c:
                raise DataError(
                    f"there are {q} queries and {c} documents; without relevant= row i goes with "
                    "row i, so the counts must be equal"
                )
            rows = np.arange(q) if relevant is None else to_numpy(relevant)
            relevance = ListedRelevance.of(rows, q, c)
            place = relevance.place(rows)
        for name, texts, count in (
            ("query_texts", query_texts, q),
            ("document_texts", document_texts, c),
        ):
            if texts is not None and len(texts) != count:
                raise DataError(f"{name} has {len(texts)} entries for {count} rows")
        if groups is not None and len(groups) != q:
            raise DataError(f"groups has {len(groups)} entries for {q} queries")
        group = np.arange(q) if groups is None else np.unique(groups, return_inverse=True)[1]
        if group.size != q:
            raise DataError(f"groups must hold one number or text a query ({q},)")
        wrong = np.zeros((0, 2), np.int64)
        if irrelevant is not None and len(irrelevant):
            wrong = ListedRelevance.of(irrelevant, q, c).pairs
        for name, value in (
            ("queries", queries),
            ("documents", documents),
            ("relevance", relevance),
            ("query_texts", query_texts),
            ("document_texts", document_texts),
            ("groups", group.reshape(-1).astype(np.int64)),
            ("irrelevant", wrong),
            ("query_rows", np.arange(q)),
            ("weights", None),
            ("difficulty", None),
        ):
            object.__setattr__(self, name, value)
        for name, numbers in (("weights", weights), ("difficulty", difficulty)):
            object.__setattr__(self, name, self._per_example(name, numbers, place))

    def _per_example(self, name: str, numbers: Any, place: Ints | None) -> Floats | None:
        """Check one number an example, given for the examples or for the entries of relevant."""
        if numbers is None:
            return None
        given = np.asarray(to_numpy(numbers))
        count = len(self.examples) if place is None else len(place)
        if given.shape != (count,) or given.dtype.kind not in "iuf":
            raise DataError(
                f"{name} must hold one number for each of {count} pairs, "
                f"got {given.dtype} {given.shape}"
            )
        found = given.astype(np.float64)
        bad = ~np.isfinite(found) | ((found < 0) & (name == "weights"))
        if bad.any():
            row = int(np.argmax(bad))
            wanted = "finite and not negative" if name == "weights" else "finite"
            raise DataError(f"{name} must be {wanted}, got {given[row]} for entry {row}")
        if place is None:
            return found
        joined = np.full(len(self.examples), -np.inf)  # of a pair that is given twice, the larger
        np.maximum.at(joined, place, found)
        return joined

    # Other ways to make them ---------------------------------------------------------------

    @classmethod
    def from_texts(
        cls,
        anchors: Sequence[str],
        positives: Sequence[str],
        embedder: Embedder,
        *,
        negatives: Sequence[str] | None = None,
        groups: Sequence[Any] | None = None,
        corpus: Sequence[str] = (),
        weights: Sequence[float] | None = None,
        difficulty: Sequence[float] | None = None,
    ) -> Pairs:
        """Embed rows of texts, each text once; equal texts become one query or one document."""
        for name, column in (
            ("positives", positives),
            ("negatives", negatives),
            ("groups", groups),
            ("weights", weights),
            ("difficulty", difficulty),
        ):
            if column is not None and len(column) != len(anchors):
                raise DataError(f"{len(anchors)} anchors, but {len(column)} {name}")
        query_of = {text: i for i, text in enumerate(dict.fromkeys(anchors))}
        every = dict.fromkeys([*positives, *(negatives or ()), *corpus])
        document_of = {text: i for i, text in enumerate(every)}
        rows = np.array([query_of[text] for text in anchors])
        pairs = np.stack([rows, [document_of[text] for text in positives]], axis=1)
        wrong = None
        if negatives is not None:
            wrong = np.stack([rows, [document_of[text] for text in negatives]], axis=1)
        query_groups = None if groups is None else join_groups(rows, groups, len(query_of))
        return cls(
            *embed_both(embedder, list(query_of), list(document_of)),
            pairs,
            query_texts=list(query_of),
            document_texts=list(document_of),
            groups=query_groups,
            irrelevant=wrong,
            weights=weights,
            difficulty=difficulty,
        )

    @classmethod
    def labelled(
        cls, embeddings: Array, labels: Any, *, weights: Any = None, difficulty: Any = None
    ) -> Pairs:
        """Return vectors (n, d) with class labels (n,): equal labels are right for each other."""
        embeddings = checks.embeddings("embeddings", embeddings)
        codes = np.unique(to_numpy(labels), return_inverse=True)[1].reshape(-1).astype(np.int64)
        if len(codes) != embeddings.shape[0]:
            raise DataError(f"labels has {len(codes)} entries for {embeddings.shape[0]} rows")
        if len(np.unique(codes)) == len(codes):
            raise DataError("no two rows share a label, so there is nothing to bring together")
        return cls(
            embeddings,
            embeddings,
            relevance=LabelRelevance(codes, codes, np.arange(len(codes))),
            weights=weights,
            difficulty=difficulty,
        )

    # Asking --------------------------------------------------------------------------------

    def __repr__(self) -> str:
        def some(count: int, noun: str) -> str:
            plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
            return f"{count:,} {noun if count == 1 else plural}"

        texts = [some(len(self), "query"), some(self.documents.shape[0], "document")]
        if isinstance(self.relevance, ListedRelevance):
            texts.append(some(len(self.relevance.pairs), "relevant pair"))
        return f"Pairs({', '.join(texts)}, dim {self.queries.shape[1]})"

    def __len__(self) -> int:
        return int(self.queries.shape[0])

    @property
    def has_labels(self) -> bool:
        return isinstance(self.relevance, LabelRelevance)

    @cached_property
    def examples(self) -> Ints:
        """What an epoch goes over: pairs of query and right document (p, 2), or rows (q, 1)."""
        if isinstance(self.relevance, ListedRelevance):
            return self.relevance.pairs
        return np.arange(len(self))[:, None]

    def to(self, backend: Backend) -> Pairs:
        """Return the same with the arrays moved to a backend, float16 widened to float32.

        On the host, many documents keep their dtype: those that are looked at are converted.
        """
        xp = namespace(queries=self.queries)
        dtype = backend.xp.float64 if self.queries.dtype == xp.float64 else backend.xp.float32
        if self.documents is self.queries:
            queries = documents = backend.asarray(self.queries, dtype=dtype)
            return self.replaced(queries=queries, documents=documents)
        documents = self.documents
        here = isinstance(documents, np.ndarray | LazyRows) and backend.name == "numpy"
        if not here or not is_large(documents):
            documents = backend.asarray(documents, dtype=dtype)
        return self.replaced(
            queries=backend.asarray(self.queries, dtype=dtype), documents=documents
        )

    def mapped(self, queries: Array, documents: Array | LazyRows) -> Pairs:
        """Return the same with other vectors, row by row; documents may be lazy."""
        for name, x, count in (
            ("queries", queries, len(self)),
            ("documents", documents, self.documents.shape[0]),
        ):
            if tuple(x.shape) != (count, queries.shape[1]):
                raise ArgumentError(
                    f"{name} must have shape ({count}, {queries.shape[1]}), got {tuple(x.shape)}"
                )
        return self.replaced(queries=queries, documents=documents)

    def replaced(self, **fields: Any) -> Pairs:
        """Return the same with some fields changed, whose values are known to be sound."""
        other = object.__new__(Pairs)
        for name in _FIELDS:
            object.__setattr__(other, name, fields.get(name, getattr(self, name)))
        return other

    def take(self, rows: Any) -> Pairs:
        """Return some of the queries, with all documents."""
        rows = np.arange(len(self))[rows]  # a list, an array or a mask
        wrong = self.known_wrong.take(rows).pairs
        listed = isinstance(self.relevance, ListedRelevance)
        chosen = self.relevance.pairs_of(rows)[0] if listed else rows  # type: ignore[attr-defined]
        return self.replaced(
            queries=take(self.queries, rows),
            relevance=self.relevance.take(rows),
            query_texts=None if self.query_texts is None else [self.query_texts[i] for i in rows],
            groups=self.groups[rows],
            irrelevant=wrong,
            query_rows=self.query_rows[rows],
            weights=None if self.weights is None else self.weights[chosen],
            difficulty=None if self.difficulty is None else self.difficulty[chosen],
        )

    @cached_property
    def known_wrong(self) -> ListedRelevance:
        """The documents known to be wrong, by query, without those that are right for it too."""
        wrong = self.irrelevant
        if isinstance(self.relevance, ListedRelevance):
            wrong = wrong[~self.relevance.contains(wrong[:, 0], wrong[:, 1])]
        return ListedRelevance(wrong, len(self), int(self.documents.shape[0]))

    @cached_property
    def codes(self) -> tuple[Ints, Ints]:
        """A number for each query (q,) and each document (c,), equal for equal text, or vector
        where there are no texts. Documents that no pair names have -1, and are not looked at.
        """
        named = [self.irrelevant[:, 1]]
        if isinstance(self.relevance, ListedRelevance):
            named.append(self.relevance.pairs[:, 1])
        rows = np.unique(np.concatenate(named))
        of_document = np.full(int(self.documents.shape[0]), -1)
        if self.query_texts is not None and self.document_texts is not None:
            place: dict[str, int] = {}
            own = np.array([place.setdefault(text, len(place)) for text in self.query_texts])
            texts = self.document_texts
            found = [place.setdefault(texts[i], len(place)) for i in rows.tolist()]
            of_document[rows] = np.array(found, np.int64)
        else:
            parts = [to_numpy(self.queries)]
            if len(rows):
                parts.append(to_numpy(take(self.documents, rows)))
            own, *rest = row_codes(*parts)
            if rest:
                of_document[rows] = rest[0]
        return own, of_document

    @cached_property
    def connected(self) -> Ints:
        """A number for each query (q,), equal for those that must stay on one side: of one group,
        of equal text (or vector), or with an equal right document.
        """
        q = len(self)
        own, of_document = self.codes
        queries = np.arange(q)
        first_group = q + int(max(own.max(), of_document.max())) + 1
        left = [queries, queries]
        right = [q + own, first_group + self.groups]
        if isinstance(self.relevance, ListedRelevance):
            left.append(self.relevance.pairs[:, 0])
            right.append(q + of_document[self.relevance.pairs[:, 1]])
        count = first_group + int(self.groups.max()) + 1
        return components(np.concatenate(left), np.concatenate(right), count)[:q]

    def split(
        self, dev: float = 0.1, test: float = 0.2, *, seed: int = 42
    ) -> tuple[Pairs, Pairs, Pairs]:
        """Return (train, dev, test) by shares of the queries, at random by group.

        Queries of one group, of equal text (or vector), or with an equal right document stay
        together, and wrong documents that are right ones of dev or test are left out of train, so
        nothing that is learned from stands on the other side. What stays together are the groups
        of the parts. All parts search all documents; with labels, dev and test
        search the train rows.
        """
        if not (0 < dev < 1 and 0 < test < 1 and dev + test < 1):
            raise ArgumentError(
                f"dev and test must be shares with a sum below 1, got {dev}, {test}"
            )
        q = len(self)
        group = self.connected
        names, sizes = np.unique(group, return_counts=True)
        order = stream(seed, "split").permutation(len(names))
        # A group that is larger than the part it might fill goes last, which is to train.
        large = sizes[order] > min(dev, test) * q
        order = np.concatenate([order[~large], order[large]])
        reached = np.cumsum(sizes[order])
        # A group goes where its middle falls, so that the shares come out about right.
        middle = (reached - sizes[order] / 2) / q
        side = np.empty(len(names), np.int64)
        side[order] = np.where(middle < test, 2, np.where(middle < test + dev, 1, 0))
        of_query = side[np.searchsorted(names, group)]
        for number, name in enumerate(("train", "dev", "test")):
            if not (of_query == number).any():
                raise DataError(
                    f"the {name} part is empty: {q} queries in {len(names)} groups that share no "
                    f"document are too few for dev={dev} and test={test}"
                )
        return self.parted(of_query)

    def parted(self, of_query: Ints) -> tuple[Pairs, Pairs, Pairs]:
        """Return (train, dev, test) by the part of each query: 0, 1, 2, or -1 for none.

        Wrong documents that are right ones of dev or test are left out of train. The groups of
        the parts are what ``split`` keeps together. With labels, dev and test search the train
        rows.
        """
        parts = [np.nonzero(of_query == i)[0] for i in range(3)]
        for name, rows in zip(("train", "dev", "test"), parts, strict=True):
            if not len(rows):
                raise DataError(f"the {name} part is empty")
        group = self.connected
        if not isinstance(self.relevance, LabelRelevance):
            train, held_out, last = (self.take(rows).replaced(groups=group[rows]) for rows in parts)
            of_document = self.codes[1]
            held = [part.relevance.pairs[:, 1] for part in (held_out, last)]  # type: ignore[attr-defined]
            known = np.isin(of_document[train.irrelevant[:, 1]], of_document[np.concatenate(held)])
            return train.replaced(irrelevant=train.irrelevant[~known]), held_out, last
        labels, train_rows = self.relevance.query_labels, parts[0]
        corpus, one_set = take(self.documents, train_rows), self.documents is self.queries
        train, held_out, last = (
            self.replaced(
                queries=corpus if one_set and rows is train_rows else take(self.queries, rows),
                documents=corpus,
                relevance=LabelRelevance(labels[rows], labels[train_rows]),
                groups=group[rows],
                irrelevant=self.irrelevant[:0],
                query_rows=np.arange(len(rows)),
                weights=None if self.weights is None else self.weights[rows],
                difficulty=None if self.difficulty is None else self.difficulty[rows],
            )
            for rows in parts
        )
        return train, held_out, last

    def aligned(self) -> tuple[Array, Array]:
        """Return queries and documents row by row, one row a relevant pair: (p, d) and (p, d).

        With labels, each query goes with the mean of its class, in place of all its pairs.
        """
        ((queries, documents),) = self.aligned_blocks(len(self.examples))
        return queries, documents

    def aligned_blocks(self, rows: int = BLOCK_ROWS) -> Iterator[tuple[Array, Array]]:
        """Yield what ``aligned`` returns, in blocks of rows, so that memory stays within one."""
        if isinstance(self.relevance, ListedRelevance):
            pairs = self.relevance.pairs
            for i in range(0, len(pairs), rows):
                part = pairs[i : i + rows]
                queries, documents = (
                    take(self.queries, part[:, 0]),
                    take(self.documents, part[:, 1]),
                )
                yield queries, cast(documents, queries.dtype, namespace(queries=queries))
            return
        means, of_query = self._class_means()
        for i in range(0, len(self), rows):
            part = self.queries[i : min(i + rows, len(self)), :]
            yield part, take(means, of_query[i : i + rows])

    def _class_means(self) -> tuple[Array, Ints]:
        """Return the mean document of each class, and the class of each query."""
        from coreframe.ops import segment_sum

        assert isinstance(self.relevance, LabelRelevance)
        values, codes = np.unique(self.relevance.document_labels, return_inverse=True)
        codes = codes.reshape(-1)
        sums: Any = None
        # Documents that are large go block by block: the reference of the sum copies its rows.
        rows = BLOCK_ROWS if is_large(self.documents) else len(codes)
        for i in range(0, len(codes), rows):
            part = self.documents[i : min(i + rows, len(codes)), :]
            xp = namespace(part=part)
            own = xp.asarray(codes[i : i + rows], device=device_of(part))
            found = segment_sum(part, own, len(values))
            sums = found if sums is None else sums + found
        sizes = xp.asarray(np.bincount(codes), dtype=sums.dtype, device=device_of(sums))
        return sums / sizes[:, None], np.searchsorted(values, self.relevance.query_labels)


_FIELDS = (
    "queries", "documents", "relevance", "query_texts", "document_texts", "groups", "irrelevant",
    "query_rows", "weights", "difficulty",
)  # fmt: skip


def join_groups(rows: Ints, groups: Sequence[Any], count: int) -> Ints:
    """Return the group of each of ``count`` queries, where entry i of groups is query rows[i]'s.

    Several groups that one query names are then one group; a query that names none is its own.
    """
    codes = np.unique(np.asarray(groups).astype(str), return_inverse=True)[1]
    return components(rows, count + codes, count + int(codes.max()) + 1)[:count]


def require_pairs(name: str, given: Any) -> None:
    """Raise ArgumentTypeError where something else, such as one array, stands for pairs."""
    if not isinstance(given, Pairs):
        raise ArgumentTypeError(
            f"{name} must be coreframe.Pairs, such as Pairs(queries, documents), got "
            f"{type(given).__name__}"
        )
