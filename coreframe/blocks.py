"""Blocks of rows: how a call of the row engine is cut, and what is done to one block.

The partition depends on shapes and on the memory budget, never on threads, and partial sums are
added in block order, so results are equal bit for bit at any number of threads.

The loop over blocks, ``block_loop``, is an operation: the reference below is functional and runs
under ``jax.jit``; backends offer loops with threads and reused memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from coreframe.backend import Array, device_of, namespace
from coreframe.errors import ArgumentError
from coreframe.ops import op, segment_sum
from coreframe.relation import Relation
from coreframe.similarity import Similarity

RowTerms = Callable[[Array, Array, Array], tuple[Array, Array]]

Back = tuple[Array | None, dict[str, Array]]
"""The gradient of a block's anchors, and those of its columns by name."""

MEMORY_BUDGET = 64 * 2**20
"""Default bytes for the blocks that are worked on at one time, over all threads."""

BLOCKS_AT_ONCE = 2
"""The budget holds this many blocks of the largest size; smaller blocks allow more threads."""

_LARGEST_BLOCK = 512  # rows; taller blocks gain nothing
_SMALLEST_BLOCK = 4  # rows, whatever the budget: a product over fewer is too slow
_FEWEST_BLOCKS = 8  # so that threads have something to share
WORKING_ARRAYS = 10
"""Block-sized arrays, in the computing dtype, that are alive at once in a plain row_terms."""


@dataclass(frozen=True)
class Plan:
    """How a call is cut into blocks of rows: a function of shapes and of the budget alone."""

    height: int
    at_once: int
    """Blocks that fit the budget together, whatever the number of threads."""

    @classmethod
    def of(cls, n: int, row_bytes: int, block_bytes: int = 0, budget: int = MEMORY_BUDGET) -> Plan:
        """Plan n rows that cost row_bytes each, in blocks that cost block_bytes more each."""
        if budget < 1:
            raise ArgumentError(f"memory_budget must be at least 1 byte, got {budget}")
        fits = (budget // BLOCKS_AT_ONCE - block_bytes) // max(row_bytes, 1)
        shared = max(64, -(-n // _FEWEST_BLOCKS))
        height = max(1, min(n, max(_SMALLEST_BLOCK, fits), shared, _LARGEST_BLOCK))
        return cls(height, max(1, budget // (height * row_bytes + block_bytes)))

    def slices(self, n: int) -> list[slice]:
        return [slice(i, min(i + self.height, n)) for i in range(0, n, self.height)]


class Memory:
    """Where a block gets its large arrays from. This one allocates; a backend may reuse."""

    def product(self, a: Array, b: Array, xp: Any) -> Array:
        """Return a @ b, valid until the next block."""
        return a @ b

    def keep_rows(self, keep: Array, x: Array, xp: Any) -> Array:
        """Return x with zeros in the rows that are not kept."""
        return xp.where(keep[:, None], x, xp.zeros_like(x))


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
class Rows:
    """All that the blocks of one call share. Arrays are prepared, in the computing dtype."""

    row_terms: RowTerms
    similarity: Similarity
    relation: Relation
    left: Array  # (n, d)
    right: Array  # (m, d)
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

    @property
    def slices(self) -> list[slice]:
        return self.plan.slices(self.left.shape[0])

    # One block ----------------------------------------------------------------------------

    def block(self, rows: slice, memory: Memory) -> Part:
        """Compute one block of rows: similarities, the author's row_terms, products back."""
        xp = namespace(left=self.left)
        device = device_of(self.left)
        u = self.left[rows, :]
        weights = None if self.weights is None else self.weights[rows]
        shared = (
            self._gather(u, rows, xp, device)
            if self.gathered
            else self._all(u, rows, memory, xp, device)
        )
        similarities, positive, negative = shared.similarities, shared.positive, shared.negative
        own = None
        if self.own is not None:
            own = self._own(u, self.own[rows, :, :], xp)
            every = xp.ones(own.similarities.shape, dtype=xp.bool, device=device)
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
        gradient = memory.keep_rows(counted, gradient, xp)

        w = (
            xp.astype(counted, u.dtype)
            if weights is None
            else weights * xp.astype(counted, u.dtype)
        )
        factor = w
        sums: dict[str, Array] = {}
        if self.scale is not None:
            slopes = xp.sum(gradient, axis=1)
            sums["bias"] = xp.sum(w * slopes)
            sums["scale"] = xp.sum(w * xp.sum(gradient * similarities, axis=1)) * self.scale
            factor = w * self.scale
        m = shared.similarities.shape[1]
        slope = self.similarity.chain(gradient[:, :m], shared.similarities)
        d_left, found = shared.back(slope, factor)
        sums |= found
        d_own = None
        if own is not None:
            slope = self.similarity.chain(gradient[:, m:], own.similarities)
            more, found = own.back(slope, factor)
            d_own = found.get("own")
            d_left = None if d_left is None else d_left + more
        return Part(losses, counted, d_left, d_own, sums)

    def _all(self, u: Array, rows: slice, memory: Memory, xp: Any, device: Any) -> _Columns:
        """All references as columns: one product forth, two back."""
        v, kind = self.right, self.similarity
        m = v.shape[0]
        u_norms, v_norms = kind.squared_norms(u), kind.squared_norms(v)
        inner = memory.product(u, xp.matrix_transpose(v), xp)
        similarities = kind.finish(
            inner,
            None if u_norms is None else u_norms[:, None],
            None if v_norms is None else v_norms[None, :],
        )
        positive, negative = self.relation.tile(rows, slice(0, m), xp, device)
        if self.self_pairs:
            row = xp.arange(rows.start, rows.stop, device=device)[:, None]
            other = row != xp.arange(m, device=device)[None, :]
            positive, negative = positive & other, negative & other

        def back(gradient: Array, factor: Array) -> Back:
            d_left, sums = None, {}
            if "left" in self.wants:
                d_left = gradient @ v
                if kind.is_distance:
                    d_left = 2 * (d_left - xp.sum(gradient, axis=1)[:, None] * u)
                d_left = factor[:, None] * d_left
            if "right" in self.wants:
                turned = xp.matrix_transpose(gradient)
                sums["right"] = turned @ (factor[:, None] * u)
                if kind.is_distance:
                    sums["right_weight"] = turned @ factor
            return d_left, sums

        return _Columns(similarities, positive, negative, back)

    def _gather(self, u: Array, rows: slice, xp: Any, device: Any) -> _Columns:
        """Only the listed references as columns: O(n l d)."""
        found = self.relation.listed(rows, xp, device)
        assert found is not None
        columns, positive, negative = found
        if self.self_pairs:
            other = (
                columns
                != xp.arange(rows.start, rows.stop, dtype=columns.dtype, device=device)[:, None]
            )
            positive, negative = positive & other, negative & other
        shape = (*columns.shape, u.shape[1])
        flat = xp.reshape(columns, (-1,))
        v = xp.reshape(xp.take(self.right, flat, axis=0), shape)
        pairs = self._pairs(u, v, xp)

        def back(gradient: Array, factor: Array) -> Back:
            d_left, d_pairs = pairs.back(gradient, factor)
            if "right" not in self.wants:
                return d_left, {}
            used = xp.reshape(positive | negative, (-1,))
            target = xp.where(used, flat, -xp.ones_like(flat))
            d_pairs = xp.reshape(d_pairs["pairs"], (-1, u.shape[1]))
            return d_left, {"right": segment_sum(d_pairs, target, self.right.shape[0])}

        return _Columns(pairs.similarities, positive, negative, back)

    def _own(self, u: Array, own: Array, xp: Any) -> _Columns:
        """Each anchor's own negatives as columns, with their preparation inside the block."""
        prepared, pull = self.similarity.prepare(own, self.center)
        pairs = self._pairs(u, prepared, xp)

        def back(gradient: Array, factor: Array) -> Back:
            d_left, d_pairs = pairs.back(gradient, factor)
            return d_left, {"own": pull(d_pairs["pairs"])} if "own" in self.wants else {}

        return _Columns(pairs.similarities, pairs.positive, pairs.negative, back)

    def _pairs(self, u: Array, v: Array, xp: Any) -> _Columns:
        """Similarities of each row of u (r, d) with its own rows v (r, l, d)."""
        kind = self.similarity
        differences = None
        if kind.is_distance:
            differences = u[:, None, :] - v
            similarities = kind.finish_differences(differences)
        else:
            similarities = xp.matmul(v, u[:, :, None])[:, :, 0]

        def back(gradient: Array, factor: Array) -> Back:
            gradient = factor[:, None] * gradient
            if differences is None:
                d_left = xp.matmul(gradient[:, None, :], v)[:, 0, :]
                return d_left, {"pairs": gradient[:, :, None] * u[:, None, :]}
            d_pairs = 2 * gradient[:, :, None] * differences
            return -xp.sum(d_pairs, axis=1), {"pairs": d_pairs}

        nothing = xp.zeros(similarities.shape, dtype=xp.bool, device=device_of(u))
        return _Columns(similarities, nothing, nothing, back)


@dataclass(frozen=True, eq=False)
class _Columns:
    """One group of columns of a block, and how its gradient goes back to rows."""

    similarities: Array
    positive: Array
    negative: Array
    back: Callable[[Array, Array], Back]


@op
def block_loop(left: Array, rows: Rows) -> Part:
    """Run all blocks of a call. ``left`` stands first so that its library picks the kernel."""
    xp = namespace(left=left)
    return join(list(map_blocks(rows)), xp)


def map_blocks(rows: Rows) -> Iterator[Part]:
    """Compute the blocks one after the other."""
    memory = Memory()
    for part in rows.slices:
        yield rows.block(part, memory)


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
