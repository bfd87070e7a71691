"""The row engine: value and gradients of any loss that is a function of rows of similarities.

The author of such a loss writes ``row_terms``, one block of rows in, losses and their derivatives
out. The engine walks the matrix of similarities in row blocks within a memory budget, and
multiplies the derivatives back to gradients of anchors, references and own negatives:

    prepare rows -> [ block: product -> similarities -> row_terms -> two products ] -> pull back

Whatever the loss, this costs three matrix products and memory linear in the batch. The partition
into blocks depends on shapes and on the budget, never on threads, and partial sums are added in
block order, so results are equal bit for bit at any number of threads.

The loop over blocks, ``block_loop``, is an operation: the reference below is functional and runs
under ``jax.jit``; backends offer loops with threads and reused memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from coreframe.backend import Array, Params, device_of, namespace
from coreframe.batch import Batch
from coreframe.errors import ArgumentError
from coreframe.ops import op, segment_sum
from coreframe.relation import Relation
from coreframe.similarity import Pull, Similarity

RowTerms = Callable[[Array, Array, Array], tuple[Array, Array]]

Back = tuple[Array | None, dict[str, Array]]
"""The gradient of a block's anchors, and those of its columns by name."""

REDUCTIONS = ("mean", "sum", "mean_active", "none")
MEMORY_BUDGET = 64 * 2**20
"""Default bytes for the blocks that are worked on at one time, over all threads."""

BLOCKS_AT_ONCE = 2
"""The budget holds this many blocks of the largest size; smaller blocks allow more threads."""

_LARGEST_BLOCK = 512  # rows; taller blocks gain nothing
_SMALLEST_BLOCK = 4  # rows, whatever the budget: a product over fewer is too slow
_FEWEST_BLOCKS = 8  # so that threads have something to share
_GATHER = 32  # gathering l listed rows beats a product with all m from about m = 32 l
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


@dataclass(frozen=True, eq=False)
class LossResult:
    """What a loss returns.

    value: 0-d (or (n,) for reduction "none"), on the device. grads: keyed by Batch field, each of
    that field's shape and dtype. param_grads: for losses with parameters. parts: 0-d, to log.
    """

    value: Array
    grads: Params
    param_grads: Params = field(default_factory=dict)
    parts: Params = field(default_factory=dict)


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


# The public call ----------------------------------------------------------------------------


def pairwise(
    row_terms: RowTerms,
    batch: Batch,
    *,
    similarity: str = "cosine",
    reduction: str = "mean",
    needs_positive: bool = True,
    params: Mapping[str, Array] | None = None,
    wrt: tuple[str, ...] | None = None,
    memory_budget: int = MEMORY_BUDGET,
    working_arrays: int = WORKING_ARRAYS,
) -> LossResult:
    """Return value and gradients of the loss that ``row_terms`` defines on a batch.

    ``row_terms(similarities, positive, negative)`` gets (r, m) floating, bool and bool arrays and
    returns losses (r,) and their derivatives (r, m) by the similarities. Its contract:

    - a larger similarity is more alike; row i of the result depends on row i alone;
    - a column false in both masks must not influence the result, and has derivative 0;
    - with no references, the self pair is false in both masks;
    - inputs are never written to.

    Own negatives stand as columns m..m+k. Rows without a pair, and if ``needs_positive`` those
    without a positive, are zeroed here and do not count. float16 and bfloat16 are computed in
    float32; gradients come back in the dtype of their field. The reductions, for losses l and
    weights w of the rows that count:

        mean         sum(w l) / sum(w)
        sum          sum(w l)
        mean_active  sum(w l) / sum(w where l > 0)
        none         w l, (n,); the gradients are those of its sum

    Args:
        row_terms: the loss of a block of rows, as above.
        batch: the arrays, and the relation between them.
        similarity: cosine, dot, euclidean or squared_euclidean (minus the distance). Default:
            what text and image embeddings are compared by.
        reduction: mean, sum, mean_active or none. Default: torch's.
        needs_positive: whether rows without a positive are left out. Default: true of most
            losses.
        params: ``log_scale`` and ``bias``: row_terms gets exp(log_scale) s + bias, and
            param_grads has both gradients. Default: the similarities as they are.
        wrt: the Batch fields to differentiate by, so that a frozen index costs no gradient.
            Default: all that are there.
        memory_budget: bytes for the blocks that are worked on at one time. Default: 64 MiB; see
            ``PairwiseLoss``.
        working_arrays: how many arrays of a block's size row_terms has alive at once, its own
            and the engine's; blocks are made small enough for them to stay within the budget.
            Default: enough for a loss in plain array operations.

    Shapes: anchors (n, d); references (m, d); own negatives (n, k, d); each gradient as its
    field; value 0-d, or (n,) with reduction="none".

    Edges: where no row counts, or the weights sum to 0, value and gradients are 0. A zero vector
    has cosine 0 and gradient 0; coinciding points have distance 0 and gradient 0.

    Cost: three matrix products of n m d, and O((n + m) d) memory beside the budget; a relation
    that lists k partners is gathered in O(n k d) instead.

    References: our own; Cheng et al. 2024, arXiv 2410.17243, do it for InfoNCE in a kernel.

    >>> import numpy as np
    >>> def attract(similarities, positive, negative):
    ...     return -(similarities * positive).sum(axis=1), -1.0 * positive
    >>> float(pairwise(attract, Batch.pairs(np.eye(3), np.eye(3))).value)
    -1.0
    """
    if reduction not in REDUCTIONS:
        raise ArgumentError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    wanted = frozenset(wanted_fields(batch, wrt))

    xp = namespace(anchors=batch.anchors, **(params or {}))
    kind = Similarity(similarity)
    dtype = computing_dtype(batch.anchors)
    (left, pull_left), (right, pull_right), center = _prepare(batch, kind, dtype, xp)
    own = None if batch.negatives is None else _as(batch.negatives, dtype, xp)
    wants = {"left"} if "anchors" in wanted else set()
    if "references" in wanted or (batch.references is None and wants):
        wants.add("right")
    if "negatives" in wanted:
        wants.add("own")

    n, d = left.shape
    m, k = right.shape[0], 0 if own is None else own.shape[1]
    width = batch.relation.width
    gathered = width is not None and 0 < _GATHER * width <= m
    size = _itemsize(dtype, xp)
    columns = (width or 0) if gathered else m
    row_bytes = size * (working_arrays * (columns + k) + 4 * d * (k + gathered * columns))
    params = params or {}
    log_scale = params.get("log_scale")
    rows = Rows(
        row_terms=row_terms,
        similarity=kind,
        relation=batch.relation,
        left=left,
        right=right,
        center=center,
        own=own,
        weights=None if batch.weights is None else _as(batch.weights, dtype, xp),
        scale=None if log_scale is None else xp.exp(_as(log_scale, dtype, xp)),
        bias=None if log_scale is None else _as(params["bias"], dtype, xp),
        needs_positive=needs_positive,
        self_pairs=batch.references is None,
        wants=frozenset(wants),
        gathered=gathered,
        plan=Plan.of(n, row_bytes, size * m * d, memory_budget),
    )
    totals = block_loop(left, rows)

    value, factor, active = reduce_rows(totals.losses, totals.counted, rows.weights, reduction)
    d_right = totals.sums.get("right")
    if "right_weight" in totals.sums:  # the part of distances that needs no product a block
        d_right = 2 * (d_right - totals.sums["right_weight"][:, None] * right)
    grads: dict[str, Array] = {}
    if "anchors" in wanted:
        gradient: Array = totals.left
        if batch.references is None:
            gradient = gradient + d_right
        grads["anchors"] = _as(pull_left(gradient * factor), batch.anchors.dtype, xp)
    if "references" in wanted:
        grads["references"] = _as(pull_right(d_right * factor), batch.targets.dtype, xp)
    if "negatives" in wanted and batch.negatives is not None:
        grads["negatives"] = _as(totals.own * factor, batch.negatives.dtype, xp)
    param_grads: dict[str, Array] = {}
    if log_scale is not None:
        param_grads["log_scale"] = _as(totals.sums["scale"] * factor, log_scale.dtype, xp)
        param_grads["bias"] = _as(totals.sums["bias"] * factor, params["bias"].dtype, xp)
    return LossResult(value, grads, param_grads, {"active": active})


def reduce_rows(
    losses: Array, counted: Array, weights: Array | None, reduction: str
) -> tuple[Array, Array, Array]:
    """Return the value, the factor for gradients of the weighted sum, and the active share.

    losses (n,); counted (n,) bool: rows that have a loss; weights (n,) or None. The reductions
    are those of ``pairwise``.
    """
    xp = namespace(losses=losses)
    there = xp.astype(counted, losses.dtype)
    w = there if weights is None else there * weights
    active = w * xp.astype(losses > 0, losses.dtype)
    total, total_active = xp.sum(w), xp.sum(active)
    one = xp.ones_like(total)

    def over(numerator: Array, denominator: Array) -> Array:
        empty = denominator == 0
        return xp.where(empty, xp.zeros_like(one), numerator / xp.where(empty, one, denominator))

    share = over(total_active, total)
    weighted = w * losses
    if reduction == "none":
        return weighted, one, share
    if reduction == "sum":
        return xp.sum(weighted), one, share
    denominator = total if reduction == "mean" else total_active
    return over(xp.sum(weighted), denominator), over(one, denominator), share


def wanted_fields(batch: Batch, wrt: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the embedding fields to differentiate by: those named in wrt, or all present."""
    present = [f for f in ("anchors", "references", "negatives") if getattr(batch, f) is not None]
    for name in wrt or ():
        if name not in present:
            raise ArgumentError(f"wrt names {name!r}, but this batch has {', '.join(present)}")
    return tuple(present if wrt is None else dict.fromkeys(wrt))


def similarity_rows(
    batch: Batch, similarity: str = "cosine", *, memory_budget: int = MEMORY_BUDGET
) -> Iterator[tuple[slice, Array, Array, Array]]:
    """Yield (rows, similarities, positive, negative) block by block: what miners look at.

    The blocks are those that a loss of this batch and similarity sees; own negatives are left
    out. The arrays are (r, m) and must not be written to.
    """
    xp = namespace(anchors=batch.anchors)
    kind = Similarity(similarity)
    dtype = computing_dtype(batch.anchors)
    (left, _), (right, _), center = _prepare(batch, kind, dtype, xp)
    n, m = left.shape[0], right.shape[0]
    rows = Rows(
        row_terms=_no_terms,
        similarity=kind,
        relation=batch.relation,
        left=left,
        right=right,
        center=center,
        own=None,
        weights=None,
        scale=None,
        bias=None,
        needs_positive=False,
        self_pairs=batch.references is None,
        wants=frozenset(),
        gathered=False,
        plan=Plan.of(n, WORKING_ARRAYS * _itemsize(dtype, xp) * m, 0, memory_budget),
    )
    memory, device = Memory(), device_of(left)
    for part in rows.slices:
        columns = rows._all(left[part, :], part, memory, xp, device)
        yield part, columns.similarities, columns.positive, columns.negative


def _prepare(
    batch: Batch, kind: Similarity, dtype: Any, xp: Any
) -> tuple[tuple[Array, Pull], tuple[Array, Pull], Array | None]:
    """Prepare anchors and references, each once; without references they are one."""
    references = _as(batch.targets, dtype, xp)
    center = kind.center(references)
    right = kind.prepare(references, center)
    if batch.references is None:
        return right, right, center
    return kind.prepare(_as(batch.anchors, dtype, xp), center), right, center


def _no_terms(similarities: Array, positive: Array, negative: Array) -> tuple[Array, Array]:
    raise AssertionError("only similarities are asked for")


def computing_dtype(x: Array) -> Any:
    """float32 for anything narrower, else the dtype itself."""
    xp = namespace(x=x)
    return xp.float32 if _itemsize(x.dtype, xp) < 4 else x.dtype


def _itemsize(dtype: Any, xp: Any) -> int:
    return int(xp.finfo(dtype).bits) // 8


def _as(x: Array, dtype: Any, xp: Any) -> Array:
    return x if x.dtype == dtype else xp.astype(x, dtype)
