"""Which references are, as vectors, the anchor or a positive of a row: no negatives of it.

Comparing all coordinates would cost another matrix product. Instead each row is told by three
fixed projections, and two rows are the same where all three agree up to rounding. Rows that are
apart by a tenth of their length are taken for one with a chance of about 1e-11.
"""

from __future__ import annotations

from dataclasses import dataclass

from coreframe.backend import Array, device_of, namespace
from coreframe.batch import Batch
from coreframe.dtypes import widened
from coreframe.random import hash_keys
from coreframe.relation import Aligned, Listed
from coreframe.similarity import Similarity

_PROJECTIONS = 3
_ROUNDING = 1e-5  # of a row's length: what float32 adapters and products leave, with room


@dataclass(frozen=True, eq=False)
class Partners:
    """The positives of each row, where they can be named: pool (q, d), index (n, p), -1 none."""

    pool: Array
    index: Array

    @classmethod
    def of(cls, batch: Batch, positives: Array | None = None) -> Partners | None:
        """Return those of an aligned or listed relation, or the given (n, d); else None.

        Labels and masks say of each pair what it is, and are not second-guessed.
        """
        xp, device = namespace(anchors=batch.anchors), device_of(batch.anchors)
        relation = batch.relation
        own = xp.arange(relation.rows, dtype=xp.int32, device=device)[:, None]
        if positives is not None:
            return cls(positives, own)
        if isinstance(relation, Aligned):
            return cls(batch.targets, xp.where(own < relation.columns, own, -xp.ones_like(own)))
        if isinstance(relation, Listed):
            return cls(batch.targets, xp.asarray(relation.positives, device=device))
        return None

    def rows(self, values: Array, place: int, part: slice) -> tuple[Array, Array]:
        """Return (rows of values (q, ...), and which of them there are) for one place of a row."""
        xp = namespace(values=values)
        index = self.index[part, place]
        there = index >= 0
        return xp.take(values, xp.where(there, index, xp.zeros_like(index)), axis=0), there

    @property
    def places(self) -> int:
        return int(self.index.shape[1])


@dataclass(frozen=True, eq=False)
class Duplicates:
    """Says, tile by tile, which references equal the anchor or a positive of a row.

    Equal means to a similarity: by direction for cosine, by value for the others. Costs
    O((n + m) d) once, and three comparisons a pair and partner.
    """

    columns: Array  # (m, 4): three projections and a tolerance, as all below
    anchors: Array
    pool: Array
    partners: Partners

    @classmethod
    def of(cls, batch: Batch, similarity: str, positives: Array | None = None) -> Duplicates | None:
        """Return the duplicates of a batch, or None where its relation settles each pair."""
        partners = Partners.of(batch, positives)
        if partners is None:
            return None
        xp, kind = namespace(anchors=batch.anchors), Similarity(similarity)
        targets = widened(batch.targets, xp)
        center = kind.center(targets)
        columns, anchors = (_told(x, kind, center) for x in (targets, widened(batch.anchors, xp)))
        pool = columns if positives is None else _told(widened(positives, xp), kind, center)
        return cls(columns, anchors, pool, partners)

    def tile(self, rows: slice, cols: slice) -> Array:
        """Return (rows, cols) bool."""
        columns = self.columns[cols, :]
        found = _same(self.anchors[rows, :], columns)
        for place in range(self.partners.places):
            told, there = self.partners.rows(self.pool, place, rows)
            found = found | (_same(told, columns) & there[:, None])
        return found


def _told(x: Array, kind: Similarity, center: Array | None) -> Array:
    xp = namespace(x=x)
    x, _ = kind.prepare(x, center)
    draws = hash_keys((1, 2), slice(0, _PROJECTIONS), x.shape[1], xp, device_of(x))
    directions = xp.astype(draws, x.dtype) - 0.5
    length = xp.sqrt(xp.sum(x * x, axis=1, keepdims=True))
    return xp.concat([x @ xp.matrix_transpose(directions), _ROUNDING * length], axis=1)


def _same(rows: Array, columns: Array) -> Array:
    xp = namespace(rows=rows)
    tolerance = rows[:, _PROJECTIONS][:, None]
    found = xp.abs(rows[:, 0][:, None] - columns[:, 0][None, :]) <= tolerance
    for i in range(1, _PROJECTIONS):
        found = found & (xp.abs(rows[:, i][:, None] - columns[:, i][None, :]) <= tolerance)
    return found
