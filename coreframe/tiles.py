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
from typing import Any

from coreframe.backend import Array, device_of, namespace
from coreframe.batch import Batch
from coreframe.blocks import (
    MEMORY_BUDGET,
    WORKING_ARRAYS,
    Memory,
    Plan,
    Rows,
    RowTerms,
    block_loop,
)
from coreframe.dtypes import computing_dtype
from coreframe.errors import ArgumentError
from coreframe.result import REDUCTIONS, LossResult, reduce_rows, wanted_fields
from coreframe.similarity import Pull, Similarity

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
    dtype = computing_dtype(batch.anchors, xp)
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


def similarity_rows(
    batch: Batch, similarity: str = "cosine", *, memory_budget: int = MEMORY_BUDGET
) -> Iterator[tuple[slice, Array, Array, Array]]:
    """Yield (rows, similarities, positive, negative) block by block: what miners look at.

    The blocks are those that a loss of this batch and similarity sees; own negatives are left
    out. The arrays are (r, m) and must not be written to.
    """
    xp = namespace(anchors=batch.anchors)
    kind = Similarity(similarity)
    dtype = computing_dtype(batch.anchors, xp)
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


def _itemsize(dtype: Any, xp: Any) -> int:
    return int(xp.finfo(dtype).bits) // 8


def _as(x: Array, dtype: Any, xp: Any) -> Array:
    return x if x.dtype == dtype else xp.astype(x, dtype)
