"""The rotation that brings queries nearest to their documents, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from coreframe.adapter import Blocks, ClosedForm, Pullback
from coreframe.backend import Array, Params, device_of, namespace, to_numpy
from coreframe_adapters.linear import Linear


@dataclass(frozen=True, kw_only=True)
class Procrustes(ClosedForm):
    """The rotation that brings queries nearest to their documents, in closed form.

        y = (x - mean of Q) W,   W = U V^T,   U S V^T = the SVD of Q^T D

    W is the orthogonal matrix that minimises |Q W - D|_F over row-aligned pairs of queries Q and
    documents D, both centred. It moves queries only, so an index of documents stays as it is.
    (The shift between the means would add the same number to all scores of a query, up to the
    documents' lengths.)

    Parameters: W (d, d) and b (d,), solved from the training pairs at once.

    Shapes: (n, d) to (n, d); queries and documents of ``solve`` (n, d) each, row i with row i.

    Edges: W is orthogonal with fewer pairs than dimensions too; what it does to directions in
    which there are no pairs is then arbitrary. One pair has no spread: any rotation fits.

    Cost: O(n d^2) for the product and O(d^3) for its decomposition, on the host in float64;
    ``solve_blocks`` holds one block of rows at a time, and goes over them twice.

    References: Schönemann 1966; with centring, Gower 1975.

    >>> from numpy import array
    >>> q = array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> params = Procrustes().solve(q, q @ array([[0.0, 1.0], [-1.0, 0.0]]))
    >>> (params["W"].round(6) + 0.0).tolist()
    [[0.0, 1.0], [-1.0, 0.0]]
    """

    rebuilds_index: ClassVar[bool] = False

    def init(self, rng: Any, dim_in: int) -> Params:
        return Linear(bias=True).init(rng, dim_in)

    def solve(self, queries: Array, documents: Array) -> Params:
        namespace(queries=queries, documents=documents)
        return self.solve_blocks(lambda: iter([(queries, documents)]))

    def solve_blocks(self, blocks: Blocks) -> Params:
        import numpy as np

        count, totals = 0, None
        for pair in blocks():
            xp = namespace(queries=pair[0], documents=pair[1])
            parts = [xp.sum(x, axis=0) for x in pair]
            count += pair[0].shape[0]
            totals = (
                parts if totals is None else [a + b for a, b in zip(totals, parts, strict=True)]
            )
        assert totals is not None  # at least one row
        mean, mean_document = (x / count for x in totals)
        product: Any = 0.0
        for queries, documents in blocks():
            part = xp.matrix_transpose(queries - mean) @ (documents - mean_document)
            product = product + to_numpy(part).astype(np.float64)
        # On the host in float64, as the whitening's: small, and safe with few pairs.
        u, _, vh = np.linalg.svd(product)
        w = xp.asarray(u @ vh, dtype=mean.dtype, device=device_of(mean))
        return {"W": w, "b": -(mean @ w)}

    def forward(self, params: Params, x: Array, *, rng: Any = None) -> tuple[Array, Pullback]:
        return Linear(bias=True).forward(params, x)

    def squared_gradients(self, params: Params, x: Array, dy: Array, *, rng: Any = None) -> Params:
        return Linear(bias=True).squared_gradients(params, x, dy)

    def matrix(self, params: Params) -> tuple[Array, Array | None]:
        return Linear(bias=True).matrix(params)
