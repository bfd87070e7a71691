"""What a loss sees: a Batch of arrays, and the relation between them.

Shapes: n anchors, m references (the candidates), k own negatives an anchor, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coreframe import checks
from coreframe.backend import Array, device_of, is_array, namespace, to_numpy
from coreframe.errors import ArgumentError, ArgumentTypeError, CoreframeError
from coreframe.relation import Aligned, Listed, Relation, SameLabel, codes

__all__ = ["Batch", "similar_pairs"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """The arrays of one loss call. Build it with pairs, triplets, labelled or with_negatives.

    Embeddings are floating point, of one library and one device. Everything is checked once,
    here, so that losses and miners need not.

    Args:
        anchors: (n, d), the rows that the loss is a mean over.
        relation: which reference is positive, negative or neither for which anchor, (n, m).
        references: (m, d), the candidates. Default: the anchors themselves, where no row is its
            own partner.
        negatives: (n, k, d), each anchor's own, beside the relation. Default: none.
        weights: (n,), >= 0, in value and gradient. Default: all rows count alike.
        labels: (n,), for losses of classes. Default: none.
        scores: (n,) or (n, m), for losses of graded pairs. Default: none.
        ids: (n,), an equal id is the same item. Default: all items differ.
        reference_ids: (m,), likewise. Default: all items differ.
        aligned: whether reference i is the partner of anchor i, whatever else the relation says;
            losses of single rows go by it. Default: as an ``Aligned`` relation says.

    Shapes: n anchors, m references, k own negatives an anchor, width d.

    Edges: no rows, other widths, and arrays of two libraries or devices are errors; so are NaN,
    infinity and negative weights in host arrays (under COREFRAME_CHECKS=1, NaN and infinity in
    all). An anchor without a positive is allowed, and does not count in losses that need one.

    Cost: O((n + m + n k) d) to look through host arrays; embeddings are not copied.

    References: our own.

    >>> import numpy as np
    >>> batch = Batch.pairs(np.eye(3), np.eye(3))
    >>> batch.relation.rows, batch.relation.columns
    (3, 3)
    """

    anchors: Array
    relation: Relation
    references: Array | None = None
    negatives: Array | None = None
    weights: Array | None = None
    labels: Any = None
    scores: Array | None = None
    ids: Any = None
    reference_ids: Any = None
    aligned: bool = False

    def __post_init__(self) -> None:
        namespace(
            anchors=self.anchors,
            references=self.references,
            negatives=self.negatives,
            weights=self.weights,
            scores=self.scores,
        )
        anchors = checks.embeddings("anchors", self.anchors)
        n, d = anchors.shape
        object.__setattr__(self, "anchors", anchors)
        m = n
        if self.references is not None:
            references = checks.embeddings("references", self.references, width=d)
            object.__setattr__(self, "references", references)
            m = references.shape[0]
        if self.negatives is not None:
            negatives = checks.embeddings("negatives", self.negatives, width=d, ndim=3)
            object.__setattr__(self, "negatives", negatives)
            if negatives.shape[0] != n:
                raise ArgumentError(
                    f"negatives must have one group an anchor: ({n}, k, {d}), "
                    f"got {tuple(negatives.shape)}; negatives shared by all are (k, d)"
                )
        object.__setattr__(self, "weights", checks.weights(self.weights, n, of="anchors"))
        checks.vector("ids", self.ids, n, of="anchors")
        checks.vector("reference_ids", self.reference_ids, m, of="references")
        if (self.relation.rows, self.relation.columns) != (n, m):
            raise ArgumentError(
                f"relation is for {self.relation.rows} anchors and {self.relation.columns} "
                f"references, but there are {n} and {m}"
            )
        self.relation.check()
        if isinstance(self.relation, Aligned) and self.references is not None and m >= n:
            object.__setattr__(self, "aligned", True)
        if self.aligned and (self.references is None or m < n):
            raise ArgumentError(
                f"aligned=True says that reference i goes with anchor i, but there are {n} "
                f"anchors and {'no' if self.references is None else m} references"
            )
        dtypes = [x.dtype for x in (self.anchors, self.references, self.negatives) if x is not None]
        if any(dtype != dtypes[0] for dtype in dtypes):
            raise ArgumentTypeError(
                "anchors, references and negatives must share one dtype, "
                f"got {', '.join(sorted({str(dtype) for dtype in dtypes}))}"
            )

    @classmethod
    def pairs(
        cls,
        anchors: Array,
        positives: Array,
        *,
        ids: Any = None,
        reference_ids: Any = None,
        weights: Array | None = None,
    ) -> Batch:
        """Return a batch where anchor i goes with positive i: (n, d) and (n, d).

        ids (n,) name the item of each pair: others with the same id are no negatives.
        """
        return cls.with_negatives(
            anchors, positives, ids=ids, reference_ids=reference_ids, weights=weights
        )

    @classmethod
    def with_negatives(
        cls,
        anchors: Array,
        positives: Array,
        *,
        shared: Array | None = None,
        own: Array | None = None,
        in_batch: bool = True,
        ids: Any = None,
        reference_ids: Any = None,
        weights: Array | None = None,
    ) -> Batch:
        """Return a batch of pairs with extra negatives: shared (s, d) and own (n, k, d).

        Shared negatives stand behind the positives in ``references``. With ``in_batch=False``
        these are the only negatives, s may be 0, and the positives of other anchors are none.
        reference_ids is (n,), or (n + s,) when the shared negatives have ids too.
        """
        xp = namespace(anchors=anchors, positives=positives, shared=shared, own=own)
        n = anchors.shape[0] if anchors.ndim else 0
        if anchors.ndim != 2 or positives.ndim != 2 or positives.shape[0] != n:
            raise ArgumentError(
                f"anchors and positives must both be (n, d), row i with row i, "
                f"got {tuple(anchors.shape)} and {tuple(positives.shape)}"
            )
        references = positives
        if shared is not None and (in_batch or shared.ndim != 2 or shared.shape[0]):
            cls._check(anchors, positives)
            shared = checks.embeddings("shared negatives", shared, width=positives.shape[1])
            references = xp.concat([positives, shared], axis=0)
        m = references.shape[0]
        if ids is not None:
            checks.vector("ids", ids, n, of="anchors")
            if reference_ids is None:
                (ids,) = codes("ids", ids)
                reference_ids = ids
            else:
                ids, reference_ids = codes("ids", ids, reference_ids)
            if reference_ids.shape[0] != n:
                checks.vector("reference_ids", reference_ids, m, of="references")
        elif reference_ids is not None:
            raise ArgumentError("reference_ids needs ids: the ids of the anchors' own items")
        try:
            return cls(
                anchors=anchors,
                references=references,
                negatives=own,
                relation=Aligned(n, m, ids, reference_ids, in_batch),
                weights=weights,
                ids=ids,
                reference_ids=(
                    None if ids is None or reference_ids.shape[0] != m else reference_ids
                ),
            )
        except CoreframeError:
            cls._check(anchors, positives)
            raise

    @staticmethod
    def _check(anchors: Array, positives: Array) -> None:
        """Check two sides of pairs, and speak of them by the names that the caller knows."""
        checks.embeddings("anchors", anchors)
        checks.embeddings("positives", positives, width=anchors.shape[1])

    @classmethod
    def triplets(
        cls,
        anchors: Array,
        positives: Array,
        negatives: Array,
        *,
        weights: Array | None = None,
    ) -> Batch:
        """Return row-aligned triplets: (n, d), (n, d), and negatives (n, d) or (n, k, d)."""
        xp = namespace(anchors=anchors, positives=positives, negatives=negatives)
        n = anchors.shape[0]
        if positives.shape[0] != n or negatives.shape[0] != n:
            raise ArgumentError(
                "anchors, positives and negatives must have as many rows as each other, got "
                f"{n}, {positives.shape[0]} and {negatives.shape[0]}"
            )
        device = device_of(anchors)
        index = xp.arange(n, dtype=xp.int32, device=device)[:, None]
        nothing = xp.zeros((n, 0), dtype=xp.int32, device=device)
        return cls(
            anchors=anchors,
            aligned=True,
            references=positives,
            negatives=negatives[:, None, :] if negatives.ndim == 2 else negatives,
            relation=Listed(index, nothing, n),
            weights=weights,
        )

    @classmethod
    def labelled(
        cls, embeddings: Array, labels: Any, *, weights: Array | None = None, ids: Any = None
    ) -> Batch:
        """Return embeddings (n, d) with class labels (n,): equal labels are positives."""
        namespace(embeddings=embeddings)
        checks.vector("labels", labels, embeddings.shape[0], of="embeddings")
        (found,) = codes("labels", labels)
        return cls(
            anchors=embeddings, relation=SameLabel(found), labels=found, weights=weights, ids=ids
        )

    @classmethod
    def labelled_pairs(
        cls, anchors: Array, references: Array, labels: Any, *, weights: Array | None = None
    ) -> Batch:
        """Return row-aligned pairs, each similar or not: (n, d), (n, d) and labels (n,).

        Labels are bool, 1 and 0, or 1 and -1; reference i is the one positive or the one negative
        of anchor i.
        """
        xp = namespace(anchors=anchors, references=references)
        anchors = checks.embeddings("anchors", anchors)
        n, device = anchors.shape[0], device_of(anchors)
        if references.ndim != 2 or references.shape[0] != n:
            raise ArgumentError(
                f"anchors and references must both be (n, d), row i with row i, "
                f"got {tuple(anchors.shape)} and {tuple(references.shape)}"
            )
        found = xp.asarray(similar_pairs("labels", labels, n, of="anchors"), device=device)
        own = xp.arange(n, dtype=xp.int32, device=device)
        nobody = -xp.ones_like(own)
        positives, negatives = xp.where(found, own, nobody), xp.where(found, nobody, own)
        return cls(
            anchors=anchors,
            references=references,
            aligned=True,
            relation=Listed(positives[:, None], negatives[:, None], n),
            labels=found,
            weights=weights,
        )

    @classmethod
    def edges(cls, embeddings: Array, edges: Any, similar: Any) -> Batch:
        """Return embeddings (n, d) with a list of pairs of rows: edges (e, 2) int, similar (e,).

        ``similar`` is bool, 1 and 0, or 1 and -1. Each edge stands once, under its endpoint with
        fewer edges, so that a row lists at most sqrt(2 e) of them, a hub included; and a row
        weighs as many edges as it lists, so that a mean of row means is the mean over edges.
        Rows without an edge do not count; an edge given twice, in whatever direction, counts
        once. The list is read on the host.
        """
        import numpy as np

        xp = namespace(embeddings=embeddings)
        embeddings = checks.embeddings("embeddings", embeddings)
        n, device = embeddings.shape[0], device_of(embeddings)
        pairs = to_numpy(edges)
        if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
            raise ArgumentError(
                f"edges must be (e, 2), two rows of embeddings each, got {pairs.shape}"
            )
        if pairs.dtype.kind not in "iu":
            raise ArgumentTypeError(f"edges must be integers, got {pairs.dtype}")
        pairs = pairs.astype(np.int64)
        wrong = (pairs < 0).any(1) | (pairs >= n).any(1) | (pairs[:, 0] == pairs[:, 1])
        if wrong.any():
            bad = int(wrong.argmax())
            raise ArgumentError(
                f"edge {bad} is {tuple(pairs[bad].tolist())}, but an edge joins two different "
                f"rows of 0 to {n - 1}"
            )
        alike = to_numpy(similar_pairs("similar", similar, len(pairs), of="edges"))
        low, high = pairs.min(axis=1), pairs.max(axis=1)
        _, first, back = np.unique(low * n + high, return_index=True, return_inverse=True)
        if (other_way := alike != alike[first][back]).any():
            bad = int(other_way.argmax())
            raise ArgumentError(
                f"edge {bad}, {tuple(pairs[bad].tolist())}, is listed as similar and as dissimilar"
            )
        low, high, alike = low[first], high[first], alike[first]
        degree = np.bincount(np.concatenate([low, high]), minlength=n)
        under_low = degree[low] <= degree[high]
        owner, partner = np.where(under_low, low, high), np.where(under_low, high, low)
        positives, negatives = (
            xp.asarray(_table(owner[kind], partner[kind], n), device=device)
            for kind in (alike, ~alike)
        )
        counts = np.bincount(owner, minlength=n)
        return cls(
            anchors=embeddings,
            relation=Listed(positives, negatives, n),
            weights=xp.asarray(counts, dtype=embeddings.dtype, device=device),
        )

    @property
    def targets(self) -> Array:
        """The references, or the anchors themselves: (m, d)."""
        return self.anchors if self.references is None else self.references


def similar_pairs(name: str, values: Any, length: int, *, of: str) -> Array:
    """Return which pairs are similar, bool (length,), from bool, 1 and 0, or 1 and -1.

    Lists become NumPy arrays. Other integers are an error where looking costs no wait (see
    ``checks.visible``), and count as dissimilar elsewhere.
    """
    import numpy as np

    x = values if is_array(values) else np.asarray(values)
    checks.vector(name, x, length, of=of)
    xp = namespace(**{name: x})
    if xp.isdtype(x.dtype, "bool"):
        return x
    if not xp.isdtype(x.dtype, "integral"):
        raise ArgumentTypeError(
            f"{name} must be bool or integers, 1 for similar and 0 or -1 for dissimilar, "
            f"got {x.dtype}"
        )
    if checks.visible(x):
        wrong = (x > 1) | (x < -1) if xp.isdtype(x.dtype, "signed integer") else x > 1
        if bool(xp.any(wrong)):
            bad = int(xp.argmax(xp.astype(wrong, xp.int32)))
            raise ArgumentError(
                f"{name} must be 1 for similar and 0 or -1 for dissimilar, "
                f"got {int(x[bad])} in row {bad}"
            )
    return x == 1


def _table(rows: Any, entries: Any, n: int) -> Any:
    """Return the entries of each row side by side, (n, most), -1 in empty places."""
    import numpy as np

    order = np.argsort(rows, kind="stable")
    rows, entries = rows[order], entries[order]
    counts = np.bincount(rows, minlength=n)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    table = np.full((n, counts.max(initial=0)), -1, np.int32)
    table[rows, place] = entries
    return table
