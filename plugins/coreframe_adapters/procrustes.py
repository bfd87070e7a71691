"""The rotation that brings queries nearest to their documents, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from coreframe.adapter import ClosedForm, Pullback
from coreframe.backend import Array, Params, device_of, namespace, to_numpy
from coreframe_adapters.linear import Linear


@dataclass(frozen=True, kw_only=True)
class Procrustes(ClosedForm):
    """y = (x - mean of queries) W, with the orthogonal W that minimises |Q W - D|_F over
    row-aligned pairs, both centred: W = U V^T, where U S V^T is the singular value decomposition
    of Q^T D.

    It moves queries only, so an index of documents stays as it is. (The shift between the means
    would add the same number to all scores of a query, up to the documents' lengths.)

    Parameters: W (d, d), b (d,). References: Schönemann 1966; with centring, Gower 1975.
    """

    rebuilds_index: ClassVar[bool] = False

    def init(self, rng: Any, dim_in: int) -> Params:
        return Linear(bias=True).init(rng, dim_in)

    def solve(self, queries: Array, documents: Array) -> Params:
        import numpy as np

        xp = namespace(queries=queries, documents=documents)
        mean = xp.mean(queries, axis=0)
        product = xp.matrix_transpose(queries - mean) @ (documents - xp.mean(documents, axis=0))
        # On the host in float64, as the whitening's: small, and safe with few pairs.
        u, _, vh = np.linalg.svd(to_numpy(product).astype(np.float64))
        w = xp.asarray(u @ vh, dtype=queries.dtype, device=device_of(queries))
        return {"W": w, "b": -(mean @ w)}

    def forward(self, params: Params, x: Array, *, rng: Any = None) -> tuple[Array, Pullback]:
        return Linear(bias=True).forward(params, x)

    def matrix(self, params: Params) -> tuple[Array, Array | None]:
        return Linear(bias=True).matrix(params)
