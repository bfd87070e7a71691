"""What a loss sees: a Batch of arrays, and the relation between them.

Shapes: n anchors, m references (the candidates), k own negatives an anchor, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coreframe import checks
from coreframe.backend import Array, device_of, namespace
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.relation import Aligned, Listed, Relation, SameLabel, codes


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """The arrays of one loss call. Build it with pairs, triplets, labelled or with_negatives.

    anchors (n, d); references (m, d), or None for the anchors themselves (self pairs excluded);
    negatives (n, k, d), each anchor's own; weights (n,) >= 0; labels (n,); scores (n,) or (n, m);
    ids (n,) and reference_ids (m,). Embeddings are floating point, of one library and device.
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
        dtypes = {
            str(x.dtype) for x in (self.anchors, self.references, self.negatives) if x is not None
        }
        if len(dtypes) > 1:
            raise ArgumentTypeError(
                "anchors, references and negatives must share one dtype, "
                f"got {', '.join(sorted(dtypes))}"
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
        ids: Any = None,
        reference_ids: Any = None,
        weights: Array | None = None,
    ) -> Batch:
        """Return a batch of pairs with extra negatives: shared (s, d) and own (n, k, d).

        Shared negatives stand behind the positives in ``references``. reference_ids is (n,), or
        (n + s,) when the shared negatives have ids too.
        """
        xp = namespace(anchors=anchors, positives=positives, shared=shared, own=own)
        n = anchors.shape[0] if anchors.ndim else 0
        if anchors.ndim != 2 or positives.ndim != 2 or positives.shape[0] != n:
            raise ArgumentError(
                f"anchors and positives must both be (n, d), row i with row i, "
                f"got {tuple(anchors.shape)} and {tuple(positives.shape)}"
            )
        # Checked here too, to speak of them by the names that the caller knows.
        anchors = checks.embeddings("anchors", anchors)
        references = checks.embeddings("positives", positives, width=anchors.shape[1])
        if shared is not None:
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
        return cls(
            anchors=anchors,
            references=references,
            negatives=own,
            relation=Aligned(n, m, ids, reference_ids),
            weights=weights,
            ids=ids,
            reference_ids=None if ids is None or reference_ids.shape[0] != m else reference_ids,
        )

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

    @property
    def targets(self) -> Array:
        """The references, or the anchors themselves: (m, d)."""
        return self.anchors if self.references is None else self.references
