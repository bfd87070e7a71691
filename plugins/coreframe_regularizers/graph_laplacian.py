"""Smoothness of embeddings along the edges of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from coreframe import checks
from coreframe.backend import Params, device_of, namespace, to_numpy
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.ops import segment_sum
from coreframe.regularizer import Regularizer
from coreframe.result import LossResult
from coreframe.scheduler import Scheduler, plain, require_resolved

_EDGES_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True, eq=False)
class GraphLaplacian(Regularizer):
    """Smoothness along a graph: embeddings of nodes with an edge are drawn together.

        strength * sum over edges (i, j) of w_ij |z_i - z_j|^2 = strength * tr(Z^T L Z)
        gradient = 2 strength L Z

    L = D - W is the graph's Laplacian; with normalized=True rows are divided by sqrt(degree)
    first, which makes L the symmetric normalised Laplacian. The gradient is computed over the
    edge list: never a dense n x n matrix. Of each step's batch, only edges with both ends in it
    count; degrees are those of the whole graph. Equals the trace with
    scipy.sparse.csgraph.laplacian on graphs without isolated nodes.

    Args:
        strength: >= 0. Default: 0.01, small beside a loss of order 1.
        edges: (e, 2) int, each undirected edge once; or a sparse symmetric matrix (n, n), any
            object with ``tocoo()``, where the entries (i, j) and (j, i) are one edge and their
            value its weight. Node numbers are the ids of the data. Default: none, which is an
            error.
        weights: (e,) >= 0; with a matrix they are its entries. Default: 1 for each edge.
        normalized: divide rows by the square root of their degree. Default: False.
        reduction: "sum"; "mean" divides by the number of edges in the batch; "weighted_mean" by
            the sum of their weights. Default: "sum", the trace.
        on: which embeddings of the batch: "anchors" or "references". Default: "anchors".

    Shapes: embeddings (n, d); ids (n,), by default 0..n-1.

    Edges: a self loop adds nothing, to degrees neither. An edge that is listed more than once,
    in either direction, has the sum of its weights, and counts as often in reduction="mean". A
    batch without edges gives 0 with gradient 0. A node without edges is free. Of several rows of
    one node, the first counts.

    Cost: O(e + n) on the host to find the batch's edges, and O(e_b d) for the e_b of them, in
    parts of 8192 edges.

    References: Belkin & Niyogi 2003, doi 10.1162/089976603321780317; Chung 1997, Spectral Graph
    Theory, section 1.2.

    >>> import numpy as np
    >>> smooth = GraphLaplacian(strength=1.0, edges=np.array([[0, 1], [1, 2]]))
    >>> float(smooth.value_and_grad({"anchors": np.array([[0.0], [1.0], [3.0]])}).value)
    5.0
    """

    strength: float | Scheduler = 0.01
    edges: Any = None
    weights: Any = None
    normalized: bool = False
    reduction: str = "sum"
    on: str = "anchors"
    _degree: Any = field(default=None, init=False, repr=False, compare=False)

    of: ClassVar[Literal["parameters", "embeddings"]] = "embeddings"

    def __post_init__(self) -> None:
        checks.flag(self, "normalized")
        import numpy as np

        checks.number(self, "strength", minimum=0)
        checks.choice(self, "reduction", ("sum", "mean", "weighted_mean"))
        checks.choice(self, "on", ("anchors", "references"))
        if self.edges is None:
            raise ArgumentError("GraphLaplacian needs edges: an integer array (e, 2)")
        given_weights = self.weights
        if hasattr(self.edges, "tocoo"):
            if given_weights is not None:
                raise ArgumentError(
                    "GraphLaplacian.weights must be left out where edges is a matrix: its "
                    "entries are the weights"
                )
            edges, given_weights = _edges_of(self.edges)
        else:
            edges = np.asarray(to_numpy(self.edges))
        if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
            raise ArgumentError(
                f"GraphLaplacian.edges must be integers (e, 2), got {edges.dtype} {edges.shape}"
            )
        if edges.size and edges.min() < 0:
            raise ArgumentError("GraphLaplacian.edges must name nodes from 0")
        weights = (
            np.ones(len(edges)) if given_weights is None else np.asarray(to_numpy(given_weights))
        )
        if weights.shape != (len(edges),) or not (np.isfinite(weights) & (weights >= 0)).all():
            raise ArgumentError(
                f"GraphLaplacian.weights must be >= 0 and finite, one an edge ({len(edges)},), "
                f"got {weights.shape}"
            )
        nodes = int(edges.max()) + 1 if edges.size else 0
        loop = edges[:, 0] == edges[:, 1]
        edges, weights = edges[~loop].astype(np.int64), weights[~loop].astype(np.float64)
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "weights", weights)
        degree = np.bincount(edges.ravel(), weights=np.repeat(weights, 2), minlength=nodes)
        object.__setattr__(self, "_degree", degree)

    def value_and_grad(self, arrays: Params, *, ids: Mapping[str, Any] | None = None) -> LossResult:
        """Return the term for arrays[on] (n, d); ids[on] (n,) are the nodes of its rows."""
        require_resolved(self)
        if self.on not in arrays:
            raise ArgumentError(
                f"GraphLaplacian.on is {self.on!r}, but this batch has {', '.join(arrays)}"
            )
        z = arrays[self.on]
        xp, device = namespace(**{self.on: z}), device_of(z)
        left, right, weights, scale = self._edges_within(z.shape[0], (ids or {}).get(self.on))
        if scale is not None:
            scale = xp.asarray(scale, dtype=z.dtype, device=device)[:, None]
            z = z * scale
        value = xp.sum(z[:0, :])
        gradient = xp.zeros_like(z)
        for start in range(0, len(left), _EDGES_AT_ONCE):
            part = slice(start, start + _EDGES_AT_ONCE)
            i = xp.asarray(left[part], device=device)
            j = xp.asarray(right[part], device=device)
            w = xp.asarray(weights[part], dtype=z.dtype, device=device)[:, None]
            apart = xp.take(z, i, axis=0) - xp.take(z, j, axis=0)
            value = value + xp.sum(w * apart * apart)
            move = 2 * w * apart
            both = xp.concat([move, -move], axis=0)
            gradient = gradient + segment_sum(both, xp.concat([i, j]), z.shape[0])
        if scale is not None:
            gradient = gradient * scale
        factor = plain(self.strength)
        if self.reduction != "sum":
            size = float(len(left) if self.reduction == "mean" else weights.sum())
            factor = factor / size if size > 0 else 0.0
        return LossResult(factor * value, {self.on: factor * gradient})

    def _edges_within(self, n: int, ids: Any) -> tuple[Any, Any, Any, Any]:
        """Return row numbers of both ends, weights, and row scales, for the edges in a batch."""
        import numpy as np

        nodes = np.arange(n) if ids is None else np.asarray(to_numpy(ids))
        if nodes.shape != (n,):
            raise ArgumentError(f"ids must have shape ({n},), got {nodes.shape}")
        if nodes.dtype.kind not in "iu":
            raise ArgumentTypeError(
                f"ids must be node numbers, integers from 0 as in edges, got {nodes.dtype}"
            )
        if n and nodes.min() < 0:
            raise ArgumentError(f"ids must be node numbers from 0, got {nodes.min()}")
        rows = np.nonzero(nodes < len(self._degree))[0]  # nodes beyond have no edges
        row_of = np.full(len(self._degree), -1)
        row_of[nodes[rows[::-1]]] = rows[::-1]  # of several rows of a node, the first
        left, right = row_of[self.edges[:, 0]], row_of[self.edges[:, 1]]
        inside = (left >= 0) & (right >= 0)
        scale = None
        if self.normalized:
            degree = np.zeros(n)
            degree[rows] = self._degree[nodes[rows]]
            scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0.0)
        return left[inside], right[inside], self.weights[inside], scale


def _edges_of(matrix: Any) -> tuple[Any, Any]:
    """Return the edges (e, 2) and weights (e,) of a symmetric sparse matrix, each edge once."""
    import numpy as np

    coo = matrix.tocoo()
    if len(coo.shape) != 2 or coo.shape[0] != coo.shape[1]:
        raise ArgumentError(
            f"GraphLaplacian.edges must be a square matrix (n, n), got {tuple(coo.shape)}"
        )
    rows, columns = (to_numpy(x).astype(np.int64) for x in (coo.row, coo.col))
    values, n = to_numpy(coo.data).astype(np.float64), coo.shape[0]
    keys, place = np.unique(rows * n + columns, return_inverse=True)  # an entry may be in parts
    entries = np.bincount(place.reshape(-1), weights=values, minlength=len(keys))
    i, j = keys // n, keys % n
    turned = np.minimum(np.searchsorted(keys, j * n + i), max(len(keys) - 1, 0))
    opposite = np.where(keys[turned] == j * n + i, entries[turned], 0.0)
    wrong = ~np.isclose(entries, opposite, rtol=1e-6, atol=0.0, equal_nan=True)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ArgumentError(
            f"GraphLaplacian.edges must be a symmetric matrix, but entry ({i[at]}, {j[at]}) is "
            f"{entries[at]:g} and ({j[at]}, {i[at]}) is {opposite[at]:g}; "
            "make it symmetric, for example by (W + W.T) / 2 or W.maximum(W.T)"
        )
    upper = i <= j
    return np.stack([i, j], axis=1)[upper], entries[upper]
