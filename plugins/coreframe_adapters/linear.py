"""A full matrix, from the identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coreframe.adapter import Adapter, Pullback
from coreframe.backend import Array, Params, namespace


@dataclass(frozen=True, kw_only=True)
class Linear(Adapter):
    """y = x W + b, with W the identity and b zero at the start.

    Args:
        bias: whether there is a b.

    Parameters: W (d, d), b (d,). Cost of a step: two matrix products (n, d) x (d, d).
    """

    bias: bool = False

    def init(self, rng: Any, dim_in: int) -> Params:
        import numpy as np

        params = {"W": np.eye(dim_in, dtype=np.float32)}
        return params | {"b": np.zeros(dim_in, np.float32)} if self.bias else params

    def forward(self, params: Params, x: Array, *, rng: Any = None) -> tuple[Array, Pullback]:
        xp = namespace(x=x, W=params["W"])
        y = x @ params["W"]
        if self.bias:
            y = y + params["b"]

        def pullback(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            grads = {"W": xp.matrix_transpose(x) @ dy}
            if self.bias:
                grads["b"] = xp.sum(dy, axis=0)
            return grads, dy @ xp.matrix_transpose(params["W"]) if need_dx else None

        return y, pullback

    def matrix(self, params: Params) -> tuple[Array, Array | None]:
        return params["W"], params.get("b")
