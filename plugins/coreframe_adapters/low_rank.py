"""The identity plus a product of two thin matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coreframe import checks
from coreframe.adapter import Adapter, Pullback
from coreframe.backend import Array, Params, device_of, namespace
from coreframe.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class LowRank(Adapter):
    """y = x + scaling (x A) B, with scaling = alpha / rank; B is zero at the start.

    Args:
        rank: >= 1.
        alpha: > 0; None means alpha = rank, a scaling of 1.

    Parameters: A (d, r), drawn from N(0, 1 / d), and B (r, d).

    References: Hu et al. 2021, arXiv 2106.09685, section 4.1.
    """

    rank: int = 16
    alpha: float | None = None

    def __post_init__(self) -> None:
        checks.number(self, "rank", minimum=1, integer=True)
        if self.alpha is not None:
            checks.number(self, "alpha", above=0)

    @property
    def scaling(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def init(self, rng: Any, dim_in: int) -> Params:
        import numpy as np

        if self.rank > dim_in:
            raise ArgumentError(
                f"LowRank.rank must be at most the width {dim_in}, got {self.rank}; "
                "the adapter linear has a full matrix"
            )
        a = rng.standard_normal((dim_in, self.rank)) / np.sqrt(dim_in)
        return {"A": a.astype(np.float32), "B": np.zeros((self.rank, dim_in), np.float32)}

    def forward(self, params: Params, x: Array, *, rng: Any = None) -> tuple[Array, Pullback]:
        xp = namespace(x=x, A=params["A"])
        a, b = params["A"], params["B"]
        hidden = x @ a
        y = x + self.scaling * (hidden @ b)

        def pullback(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            d_hidden = self.scaling * (dy @ xp.matrix_transpose(b))
            grads = {
                "A": xp.matrix_transpose(x) @ d_hidden,
                "B": self.scaling * (xp.matrix_transpose(hidden) @ dy),
            }
            return grads, dy + d_hidden @ xp.matrix_transpose(a) if need_dx else None

        return y, pullback

    def thin(self, params: Params) -> tuple[Array, Array, float] | None:
        return params["A"], params["B"], self.scaling

    def matrix(self, params: Params) -> tuple[Array, Array | None]:
        a = params["A"]
        xp = namespace(A=a)
        identity = xp.eye(a.shape[0], dtype=a.dtype, device=device_of(a))
        return identity + self.scaling * (a @ params["B"]), None
