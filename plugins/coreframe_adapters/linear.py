"""A full matrix, from the identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coreframe import checks
from coreframe.adapter import Adapter, Pullback, squared_product
from coreframe.backend import Array, Params, namespace


@dataclass(frozen=True, kw_only=True)
class Linear(Adapter):
    """A full matrix, which starts as the identity.

        y = x W + b

    Args:
        bias: whether there is a b. Default: False: a shift of all queries by one vector moves all
            their scores with a document alike, up to the lengths.

    Parameters: W (d, d), the identity at the start, and b (d,), zero.

    Shapes: (n, d) to (n, d).

    Edges: one row is a batch as any other. With few pairs and many dimensions a full matrix can
    learn the pairs by heart; ``low_rank`` has fewer parameters.

    Cost: O(n d^2) time for each of the forward pass, dW and dx; d^2 numbers.

    References: the pullbacks are those of torch.nn.Linear with W transposed, which the tests hold.

    >>> from numpy import ones
    >>> y, pullback = Linear().forward({"W": 2 * ones((2, 2))}, ones((1, 2)))
    >>> grads, dx = pullback(ones((1, 2)))
    >>> y.tolist(), grads["W"].tolist(), dx.tolist()
    ([[4.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]], [[4.0, 4.0]])
    """

    bias: bool = False

    def __post_init__(self) -> None:
        checks.flag(self, "bias")

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

    def squared_gradients(self, params: Params, x: Array, dy: Array, *, rng: Any = None) -> Params:
        xp = namespace(x=x, dy=dy)
        squares = {"W": squared_product(x, dy)}
        return squares | {"b": xp.sum(dy * dy, axis=0)} if self.bias else squares

    def matrix(self, params: Params) -> tuple[Array, Array | None]:
        return params["W"], params.get("b")
