"""The rotation that brings queries nearest to their documents, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from coreframe.adapter import ClosedForm, Pullback
from coreframe.backend import Array, Params, namespace
from coreframe_adapters.linear import Linear


@dataclass(frozen=True, kw_only=True)
class Procrustes(ClosedForm):
    """The orthogonal W that minimises |Q W - D|_F over row-aligned pairs: W = U V^T, where
    U S V^T is the singular value decomposition of Q^T D.

    It moves queries only, so an index of documents stays as it is.

    Parameters: W (d, d). References: Schönemann 1966.
    """

    rebuilds_index: ClassVar[bool] = False

    def init(self, rng: Any, dim_in: int) -> Params:
        return Linear().init(rng, dim_in)

    def solve(self, queries: Array, documents: Array) -> Params:
        xp = namespace(queries=queries, documents=documents)
        u, _, vh = xp.linalg.svd(xp.matrix_transpose(queries) @ documents, full_matrices=False)
        return {"W": u @ vh}

    def forward(self, params: Params, x: Array, *, rng: Any = None) -> tuple[Array, Pullback]:
        return Linear().forward(params, x)

    def matrix(self, params: Params) -> tuple[Array, Array | None]:
        return Linear().matrix(params)
