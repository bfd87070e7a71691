"""The row engine: value and gradients of any loss that is a function of rows of similarities.

The author of such a loss writes ``row_terms``, one block of rows in, losses and their derivatives
out. The engine walks the matrix of similarities in row blocks within a memory budget, and
multiplies the derivatives back to gradients of anchors, references and own negatives:

    prepare rows -> [ block: product -> similarities -> row_terms -> two products ] -> pull back

Whatever the loss, this costs three matrix products and memory linear in the batch. What happens in
the brackets is in ``coreframe.blocks``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from coreframe.backend import Array, device_of, namespace, on_host
from coreframe.batch import Batch
from coreframe.blocks import (
    WORKING_ARRAYS,
    DiagonalTerms,
    Plan,
    Rows,
    RowTerms,
    block_loop,
    budget_of,
)
from coreframe.dtypes import cast, computing_dtype
from coreframe.errors import ArgumentError
from coreframe.result import REDUCTIONS, LossResult, reduce_rows, wanted_fields
from coreframe.similarity import Pull, Similarity

__all__ = ["pairwise"]

_ADDS = 8  # blocks of listed pairs, whatever the budget: few enough to add up
_GATHER = 32  # gathering l listed rows beats a product with all m from about m = 32 l


def pairwise(
    row_terms: RowTerms,
    batch: Batch,
    *,
    similarity: str = "cosine",
    reduction: str = "mean",
    needs_positive: bool = True,
    params: Mapping[str, Array] | None = None,
    wrt: tuple[str, ...] | None = None,
    memory_budget: int | None = None,
    working_arrays: int = WORKING_ARRAYS,
    diagonal_terms: DiagonalTerms | None = None,
) -> LossResult:
    """Return value and gradients of the loss that ``row_terms`` defines on a batch.

    ``row_terms(similarities, positive, negative)`` gets (r, m) floating, bool and bool arrays and
    returns losses (r,) and their derivatives (r, m) by the similarities. Its contract:

    - a larger similarity is more alike; row i of the result depends on row i alone;
    - a column false in both masks must not influence the result, and has derivative 0;
    - with no references, the self pair is false in both masks;
    - inputs are never written to, and not kept: their memory is that of the next rows.

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
        memory_budget: bytes for the blocks that are worked on at one time. Default: None, as in
            ``PairwiseLoss``.
        working_arrays: how many arrays of a block's size row_terms has alive at once, its own
            and the engine's; blocks are made small enough for them to stay within the budget.
            Default: enough for a loss in plain array operations.
        diagonal_terms: a faster form of row_terms for batches of pairs without ids or own
            negatives: ``(similarities, first)``, where row i's one positive is column first + i,
            and all other columns are negatives; it may write to the similarities, and returns
            as a third what is to be added up over rows, by name. Default: none.

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
    dtype = computing_dtype(batch.anchors, xp)
    (left, pull_left), (right, pull_right), center = prepare(batch, kind)
    own = None if batch.negatives is None else cast(batch.negatives, dtype, xp)
    wants = {"left"} if "anchors" in wanted else set()
    if "references" in wanted or (batch.references is None and wants):
        wants.add("right")
    if "negatives" in wanted:
        wants.add("own")

    log_scale = (params or {}).get("log_scale")
    rows = rows_of(
        row_terms,
        batch,
        kind,
        prepared=(left, right, center, own),
        weights=None if batch.weights is None else cast(batch.weights, dtype, xp),
        scale=None if log_scale is None else xp.exp(cast(log_scale, dtype, xp)),
        bias=None if params is None or log_scale is None else cast(params["bias"], dtype, xp),
        needs_positive=needs_positive,
        wants=frozenset(wants),
        memory_budget=memory_budget,
        working_arrays=working_arrays,
        diagonal_terms=diagonal_terms,
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
        grads["anchors"] = pull_left(gradient, factor)
    if "references" in wanted:
        grads["references"] = pull_right(d_right, factor)
    if "negatives" in wanted and batch.negatives is not None:
        grads["negatives"] = cast(totals.own * factor, batch.negatives.dtype, xp)
    param_grads: dict[str, Array] = {}
    if params is not None and log_scale is not None:
        param_grads["log_scale"] = cast(totals.sums["scale"] * factor, log_scale.dtype, xp)
        param_grads["bias"] = cast(totals.sums["bias"] * factor, params["bias"].dtype, xp)
    return LossResult(value, grads, param_grads, {"active": active})


def similarity_rows(
    batch: Batch, similarity: str = "cosine", *, memory_budget: int | None = None
) -> Iterator[tuple[slice, Array, Array, Array]]:
    """Yield (rows, similarities, positive, negative) block by block: what miners look at.

    The blocks are those that a loss of this batch and similarity sees; own negatives are left
    out. The arrays are (r, m) and must not be written to.
    """
    xp = namespace(anchors=batch.anchors)
    kind = Similarity(similarity)
    (left, _), (right, _), center = prepare(batch, kind)
    rows = rows_of(
        _no_terms, batch, kind, prepared=(left, right, center, None), memory_budget=memory_budget
    )
    for part in rows.slices:
        similarities = rows.finished(part, left[part, :] @ xp.matrix_transpose(right))
        yield part, similarities, *rows.pairs(part, similarities)


def rows_of(
    row_terms: RowTerms,
    batch: Batch,
    kind: Similarity,
    *,
    prepared: tuple[Array, Array, Array | None, Array | None],
    weights: Array | None = None,
    scale: Array | None = None,
    bias: Array | None = None,
    needs_positive: bool = False,
    wants: frozenset[str] = frozenset(),
    memory_budget: int | None,
    working_arrays: int = WORKING_ARRAYS,
    diagonal_terms: DiagonalTerms | None = None,
) -> Rows:
    """Plan the blocks of a call; with ``_no_terms`` they are for looking at similarities."""
    left, right, center, own = prepared
    xp, relation, self_pairs = namespace(left=left), batch.relation, batch.references is None
    (n, d), m, k = left.shape, right.shape[0], 0 if own is None else own.shape[1]
    width = relation.width
    looking = row_terms is _no_terms
    gathered = not looking and width is not None and 0 < _GATHER * width <= m
    columns = (width or 0) if gathered else m
    size = int(xp.finfo(left.dtype).bits) // 8
    row_bytes = size * (working_arrays * (columns + k) + 4 * d * (k + gathered * columns))
    block_bytes = size * m * d if "right" in wants else 0
    budget = budget_of(left, memory_budget)
    host = device_of(left) is None or on_host(left)
    plan = (Plan.of if host else Plan.on_device)(n, row_bytes, block_bytes, budget)
    if gathered and block_bytes:
        # Each block adds all of the references' gradient, which is more than its own work.
        plan = plan.at_least(min(n, -(-m // (_ADDS * columns))), row_bytes, block_bytes, budget)
    diagonal = relation.diagonal and not self_pairs and own is None and scale is None and m > 1
    return Rows(
        row_terms=row_terms,
        similarity=kind,
        relation=relation,
        left=left,
        right=right,
        left_norms=kind.squared_norms(left),
        right_norms=kind.squared_norms(right),
        center=center,
        own=own,
        weights=weights,
        scale=scale,
        bias=bias,
        needs_positive=needs_positive,
        self_pairs=self_pairs,
        wants=wants,
        gathered=gathered,
        plan=plan,
        budget=budget,
        working_arrays=working_arrays,
        diagonal_terms=diagonal_terms if diagonal and not kind.is_distance else None,
    )


def prepare(
    batch: Batch, kind: Similarity
) -> tuple[tuple[Array, Pull], tuple[Array, Pull], Array | None]:
    """Prepare anchors and references, each once; without references they are one."""
    center = kind.center(batch.targets)
    right = kind.prepare(batch.targets, center)
    left = right if batch.references is None else kind.prepare(batch.anchors, center)
    return left, right, center


def _no_terms(similarities: Array, positive: Array, negative: Array) -> tuple[Array, Array]:
    raise AssertionError("only similarities are asked for")
