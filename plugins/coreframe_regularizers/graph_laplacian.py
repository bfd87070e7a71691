"""Smoothness of embeddings along the edges of a graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from coreframe import checks
from coreframe.backend import Params, device_of, namespace, to_numpy
from coreframe.errors import ArgumentError
from coreframe.ops import segment_sum
from coreframe.regularizer import Regularizer
from coreframe.scheduler import Scheduler, require_resolved
from coreframe.tiles import LossResult

_EDGES_AT_ONCE = 8192


@dataclass(frozen=True, kw_only=True)
class GraphLaplacian(Regularizer):
    """strength * sum over edges (i, j) of w_ij |z_i - z_j|^2 = strength * tr(Z^T L Z).

    L = D - W is the graph's Laplacian; with normalized=True rows are divided by sqrt(degree)
    first, which makes L the symmetric normalised Laplacian. The gradient is 2 strength L Z, in
    closed form over the edge list: never a dense n x n matrix. Of each step's batch, only edges
    with both ends in it count; degrees are those of the whole graph.

    Args:
        strength: >= 0.
        edges: (e, 2) int, each undirected edge once; node numbers are the ids of the data.
        weights: (e,) >= 0, or None for 1.
        normalized: divide rows by the square root of their degree.
        on: which embeddings of the batch: anchors or references.

    References: Belkin & Niyogi 2003; Chung 1997, section 1.2.
    """

    strength: float | Scheduler = 0.01
    edges: Any = None
    weights: Any = None
    normalized: bool = False
    on: str = "anchors"
    _degree: Any = field(default=None, init=False, repr=False, compare=False)

    of: ClassVar[Literal["parameters", "embeddings"]] = "embeddings"

    def __post_init__(self) -> None:
        import numpy as np

        checks.number(self, "strength", minimum=0)
        checks.choice(self, "on", ("anchors", "references"))
        if self.edges is None:
            raise ArgumentError("GraphLaplacian needs edges: an integer array (e, 2)")
        edges = np.asarray(to_numpy(self.edges))
        if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
            raise ArgumentError(
                f"GraphLaplacian.edges must be integers (e, 2), got {edges.dtype} {edges.shape}"
            )
        if edges.size and edges.min() < 0:
            raise ArgumentError("GraphLaplacian.edges must name nodes from 0")
        weights = (
            np.ones(len(edges)) if self.weights is None else np.asarray(to_numpy(self.weights))
        )
        if weights.shape != (len(edges),) or not (weights >= 0).all():
            raise ArgumentError(
                f"GraphLaplacian.weights must be >= 0, one an edge ({len(edges)},), "
                f"got {weights.shape}"
            )
        object.__setattr__(self, "edges", edges.astype(np.int64))
        object.__setattr__(self, "weights", weights.astype(np.float64))
        nodes = int(edges.max()) + 1 if edges.size else 0
        degree = np.bincount(edges.ravel(), weights=np.repeat(weights, 2), minlength=nodes)
        object.__setattr__(self, "_degree", degree)

    def value_and_grad(self, arrays: Params, *, ids: Mapping[str, Any] | None = None) -> LossResult:
        """Return the term for arrays[on] (n, d); ids[on] (n,) are the rows' nodes, by
        default 0..n-1. Of several rows of one node, the first counts.
        """
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
        return LossResult(self.strength * value, {self.on: self.strength * gradient})

    def _edges_within(self, n: int, ids: Any) -> tuple[Any, Any, Any, Any]:
        """Return row numbers of both ends, weights, and row scales, for the edges in a batch."""
        import numpy as np

        nodes = np.arange(n) if ids is None else np.asarray(to_numpy(ids)).astype(np.int64)
        if nodes.shape != (n,):
            raise ArgumentError(f"ids must have shape ({n},), got {nodes.shape}")
        size = max(len(self._degree), int(nodes.max()) + 1)
        row_of = np.full(size, -1)
        row_of[nodes[::-1]] = np.arange(n)[::-1]  # of several rows of a node, the first
        left, right = row_of[self.edges[:, 0]], row_of[self.edges[:, 1]]
        inside = (left >= 0) & (right >= 0)
        scale = None
        if self.normalized:
            degree = np.pad(self._degree, (0, size - len(self._degree)))[nodes]
            scale = np.where(degree > 0, 1 / np.sqrt(np.where(degree > 0, degree, 1)), 0.0)
        return left[inside], right[inside], self.weights[inside], scale
