"""Blocks of rows: how a call of the row engine is cut, and what is done to one block.

The partition depends on shapes and on the memory budget, never on threads, and partial sums are
added in block order, so results are equal bit for bit at any number of threads.

The loop over blocks, ``block_loop``, is an operation: the reference below is functional and runs
under ``jax.jit``. A backend's own loop may do the products in another partition, in memory that it
uses again; what stands between the products, ``Rows.terms``, is the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from coreframe.backend import Array, device_of, namespace, on_host
from coreframe.errors import ArgumentError
from coreframe.ops import op, segment_sum
from coreframe.relation import Relation
from coreframe.similarity import Similarity

RowTerms = Callable[[Array, Array, Array], tuple[Array, Array]]

DiagonalTerms = Callable[[Array, int], tuple[Array, Array, Mapping[str, Array]]]
"""Like RowTerms, where row i's one positive is column first + i and all others are negatives; may
write to the similarities. Returns also what is to be added up over all rows, by name."""

HOST_BUDGET = 64 * 2**20
"""Default bytes for the blocks that are worked on at one time on a processor."""

DEVICE_BUDGET = 2**30
"""The same on a device of its own, where tall blocks are what keeps it busy."""

BLOCKS_AT_ONCE = 2
"""The budget holds this many blocks of the largest size; smaller blocks allow more threads."""

_LARGEST_BLOCK = 512  # rows on a processor; taller blocks gain nothing
_SMALLEST_BLOCK = 4  # rows, whatever the budget: a product over fewer is too slow
_FEWEST_BLOCKS = 8  # so that threads have something to share
WORKING_ARRAYS = 10
"""Block-sized arrays, in the computing dtype, that are alive at once in a plain row_terms."""


def budget_of(x: Array, asked: int | None) -> int:
    """Return the memory budget in bytes: what is asked for, else the default where x lives."""
    if asked is None:
        device = device_of(x)
        return HOST_BUDGET if device is None or on_host(x) else DEVICE_BUDGET
    if asked < 1:
        raise ArgumentError(f"memory_budget must be at least 1 byte, got {asked}")
    return asked


@dataclass(frozen=True)
class Plan:
    """How a call is cut into blocks of rows: a function of shapes and of the budget alone."""

    height: int
    at_once: int
    """Blocks that fit the budget together, whatever the number of threads."""

    @classmethod
    def of(cls, n: int, row_bytes: int, block_bytes: int = 0, budget: int = HOST_BUDGET) -> Plan:
        """Plan n rows that cost row_bytes each, in blocks that cost block_bytes more each."""
        fits = (budget // BLOCKS_AT_ONCE - block_bytes) // max(row_bytes, 1)
        shared = max(64, -(-n // _FEWEST_BLOCKS))
        height = max(1, min(n, max(_SMALLEST_BLOCK, fits), shared, _LARGEST_BLOCK))
        return cls(height, max(1, budget // (height * row_bytes + block_bytes)))

    @classmethod
    def on_device(cls, n: int, row_bytes: int, block_bytes: int, budget: int) -> Plan:
        """Plan for a device that works on one block at a time, which fills the budget."""
        fits = (budget - block_bytes) // max(row_bytes, 1)
        return cls(max(1, min(n, max(_SMALLEST_BLOCK, fits))), 1)

    def at_least(self, height: int, row_bytes: int, block_bytes: int, budget: int) -> Plan:
        """Return the plan with blocks that are this tall or taller."""
        if height <= self.height:
            return self
        return Plan(height, max(1, budget // (height * row_bytes + block_bytes)))

    def slices(self, n: int) -> list[slice]:
        return [slice(i, min(i + self.height, n)) for i in range(0, n, self.height)]


@dataclass(frozen=True, eq=False)
class Part:
    """The result of some rows: one block, or all blocks together."""

    losses: Array  # (r,)
    counted: Array  # (r,) bool
    left: Array | None  # (r, d), gradient of the prepared anchors
    own: Array | None  # (r, k, d), gradient of own negatives
    sums: Mapping[str, Array]
    """What is added over blocks: right (m, d) and, for distances, its weights right_weight (m,);
    scale and bias, 0-d."""


@dataclass(frozen=True, eq=False)
class Terms:
    """What stands between the products: losses of some rows, and their derivatives."""

    losses: Array  # (r,)
    counted: Array  # (r,) bool
    factor: Array  # (r,), weight and scale of a row; multiplies the thin side of the products
    slope: Array  # (r, m), derivative by the inner product, or by minus the squared distance
    left: Array | None  # (r, d), what own negatives add to the gradient of the prepared anchors
    own: Array | None  # (r, k, d)
    sums: Mapping[str, Array]  # scale and bias, 0-d, or those of diagonal_terms


@dataclass(frozen=True, eq=False)
class Rows:
    """All that the blocks of one call share. Arrays are prepared, in the computing dtype."""

    row_terms: RowTerms
    similarity: Similarity
    relation: Relation
    left: Array  # (n, d)
    right: Array  # (m, d)
    left_norms: Array | None  # (n,), squared, for distances
    right_norms: Array | None  # (m,)
    center: Array | None
    own: Array | None  # (n, k, d), not prepared
    weights: Array | None  # (n,)
    scale: Array | None  # exp(log_scale), 0-d
    bias: Array | None
    needs_positive: bool
    self_pairs: bool  # the references are the anchors
    wants: frozenset[str]  # of: left, right, own
    gathered: bool
    plan: Plan
    budget: int  # bytes
    working_arrays: int
    diagonal_terms: DiagonalTerms | None  # given only where every block is such a one

    @property
    def slices(self) -> list[slice]:
        return self.plan.slices(self.left.shape[0])

    def block(self, rows: slice) -> Part:
        """Compute one block of rows: similarities, the author's row_terms, products back."""
        if self.gathered:
            return self._gather(rows)
        u, v = self.left[rows, :], self.right
        xp = namespace(left=u)
        found = self.terms(rows, u @ xp.matrix_transpose(v))
        slope, left, sums = found.slope, None, dict(found.sums)
        if "left" in self.wants:
            left = slope @ v
            if self.similarity.is_distance:
                left = 2 * (left - xp.sum(slope, axis=1)[:, None] * u)
            left = found.factor[:, None] * left
            left = left if found.left is None else left + found.left
        if "right" in self.wants:
            turned = xp.matrix_transpose(slope)
            sums["right"] = turned @ (found.factor[:, None] * u)
            if self.similarity.is_distance:
                sums["right_weight"] = turned @ found.factor
        return Part(found.losses, found.counted, left, found.own, sums)

    def terms(self, rows: slice, inner: Array) -> Terms:
        """Return losses and derivatives of rows, from their inner products (r, m) with all
        references; a fused kernel may write to these.
        """
        if self.diagonal_terms is not None:
            losses, slope, sums = self.diagonal_terms(inner, rows.start)
            xp = namespace(inner=inner)
            every = xp.ones(losses.shape, dtype=xp.bool, device=device_of(inner))
            return Terms(losses, every, self._weights(every, rows), slope, None, None, sums)
        similarities = self.finished(rows, inner)
        positive, negative = self.pairs(rows, similarities)
        return self._terms(rows, similarities, positive, negative)

    def finished(self, rows: slice, inner: Array) -> Array:
        """Return the similarities of rows from inner products, which may be overwritten."""
        if self.left_norms is None or self.right_norms is None:
            return inner
        left, right = self.left_norms[rows, None], self.right_norms[None, :]
        return self.similarity.finish(inner, left, right)

    def pairs(self, rows: slice, like: Array) -> tuple[Array, Array]:
        """Return which columns are positives, and which negatives, of some rows: (r, m) bool."""
        xp, device, m = namespace(like=like), device_of(like), self.right.shape[0]
        positive, negative = self.relation.tile(rows, slice(0, m), xp, device)
        if self.self_pairs and not self.relation.apart:
            row = xp.arange(rows.start, rows.stop, device=device)[:, None]
            other = row != xp.arange(m, device=device)[None, :]
            positive, negative = positive & other, negative & other
        return positive, negative

    def _weights(self, counted: Array, rows: slice) -> Array:
        there = namespace(counted=counted).astype(counted, self.left.dtype)
        return there if self.weights is None else there * self.weights[rows]

    def _terms(self, rows: slice, seen: Array, positive: Array, negative: Array) -> Terms:
        """Call the author's row_terms on similarities (r, c), own negatives behind them."""
        xp, u, columns = namespace(seen=seen), self.left[rows, :], seen.shape[1]
        similarities, own = seen, None
        if self.own is not None:
            prepared, pull = self.similarity.prepare(self.own[rows, :, :], self.center)
            own = _Listed(self.similarity, u, prepared)
            every = xp.ones(own.similarities.shape, dtype=xp.bool, device=device_of(u))
            similarities = xp.concat([similarities, own.similarities], axis=1)
            positive = xp.concat([positive, ~every], axis=1)
            negative = xp.concat([negative, every], axis=1)
        z = similarities
        if self.scale is not None:
            z = similarities * self.scale + self.bias
        losses, gradient = self.row_terms(z, positive, negative)
        if tuple(losses.shape) != (z.shape[0],) or tuple(gradient.shape) != tuple(z.shape):
            raise ArgumentError(
                f"row_terms must return losses {(z.shape[0],)} and derivatives {tuple(z.shape)} "
                f"for this block, got {tuple(losses.shape)} and {tuple(gradient.shape)}"
            )
        counted = xp.any(positive if self.needs_positive else positive | negative, axis=1)
        losses = xp.where(counted, losses, xp.zeros_like(losses))
        gradient = keep_rows(gradient, counted)
        weights = factor = self._weights(counted, rows)
        sums: dict[str, Array] = {}
        if self.scale is not None:
            slopes = xp.sum(gradient, axis=1)
            sums["bias"] = xp.sum(weights * slopes)
            along = xp.sum(gradient * similarities, axis=1)
            sums["scale"] = xp.sum(weights * along) * self.scale
            factor = weights * self.scale
        slope = self.similarity.chain(gradient[:, :columns], similarities[:, :columns])
        if own is None:
            return Terms(losses, counted, factor, slope, None, None, sums)
        d_left, d_own = own.back(
            self.similarity.chain(gradient[:, columns:], own.similarities), factor
        )
        d_own = pull(d_own) if "own" in self.wants else None
        return Terms(losses, counted, factor, slope, d_left, d_own, sums)

    def _gather(self, rows: slice) -> Part:
        """Compute a block with only the listed references as columns: O(r l d)."""
        u = self.left[rows, :]
        xp, device = namespace(left=u), device_of(u)
        found = self.relation.listed(rows, xp, device)
        assert found is not None
        columns, positive, negative = found
        if self.self_pairs:
            row = xp.arange(rows.start, rows.stop, dtype=columns.dtype, device=device)[:, None]
            positive, negative = positive & (columns != row), negative & (columns != row)
        flat = xp.reshape(columns, (-1,))
        listed = xp.reshape(xp.take(self.right, flat, axis=0), (*columns.shape, u.shape[1]))
        pairs = _Listed(self.similarity, u, listed)
        terms = self._terms(rows, pairs.similarities, positive, negative)
        left, d_pairs = pairs.back(terms.slope, terms.factor)
        left = left if terms.left is None else left + terms.left
        sums = dict(terms.sums)
        if "right" in self.wants:
            used = xp.reshape(positive | negative, (-1,))
            target = xp.where(used, flat, -xp.ones_like(flat))
            d_pairs = xp.reshape(d_pairs, (-1, u.shape[1]))
            sums["right"] = segment_sum(d_pairs, target, self.right.shape[0])
        left = left if "left" in self.wants else None
        return Part(terms.losses, terms.counted, left, terms.own, sums)


class _Listed:
    """Each row of u (r, d) with partners of its own, v (r, l, d), and the way back."""

    def __init__(self, kind: Similarity, u: Array, v: Array) -> None:
        self._u, self._v, self._xp = u, v, namespace(u=u)
        self._differences = u[:, None, :] - v if kind.is_distance else None
        self.similarities = (
            self._xp.matmul(v, u[:, :, None])[:, :, 0]
            if self._differences is None
            else kind.finish_differences(self._differences)
        )

    def back(self, slope: Array, factor: Array) -> tuple[Array, Array]:
        """Return the gradients of u (r, d) and v (r, l, d)."""
        slope = factor[:, None] * slope
        if self._differences is None:
            left = self._xp.matmul(slope[:, None, :], self._v)[:, 0, :]
            return left, slope[:, :, None] * self._u[:, None, :]
        pairs = 2 * slope[:, :, None] * self._differences
        return -self._xp.sum(pairs, axis=1), pairs


@op
def keep_rows(x: Array, keep: Array, /) -> Array:
    """Return x (r, c) with zeros in the rows that are not kept, keep (r,) bool."""
    xp = namespace(x=x)
    return xp.where(keep[:, None], x, xp.zeros_like(x))


@op
def block_loop(left: Array, rows: Rows) -> Part:
    """Run all blocks of a call. ``left`` stands first so that its library picks the kernel."""
    return join(list(map_blocks(rows)), namespace(left=left))


def map_blocks(rows: Rows) -> Iterator[Part]:
    """Compute the blocks one after the other."""
    for part in rows.slices:
        yield rows.block(part)


def join(parts: list[Part], xp: Any) -> Part:
    """Join the rows of all blocks and add their sums, in block order."""
    if len(parts) == 1:
        return parts[0]

    def joined(name: str) -> Array | None:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else xp.concat(found, axis=0)

    sums = dict(parts[0].sums)
    for part in parts[1:]:
        for name, x in part.sums.items():
            sums[name] = sums[name] + x
    return Part(joined("losses"), joined("counted"), joined("left"), joined("own"), sums)
