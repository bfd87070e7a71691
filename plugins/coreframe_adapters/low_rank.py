"""The identity plus a product of two thin matrices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from coreframe import checks
from coreframe.adapter import Adapter, Pullback, squared_product
from coreframe.backend import Array, Params, device_of, namespace, to_numpy
from coreframe.errors import ArgumentError
from coreframe.scheduler import plain, require_resolved

INITIALIZATIONS = ("gaussian", "kaiming", "glorot")


@dataclass(frozen=True, kw_only=True)
class LowRank(Adapter):
    """The identity plus a low-rank product (LoRA).

        y = x + s (x A) B,   s = alpha / rank,   B = 0 at the start

    So a fresh adapter is the identity, to the bit. Both gradients are taken at the same A and B:
    dB = s (x A)^T dy, dA = x^T (s dy B^T). ``merge`` makes one of several.

    Args:
        rank: r >= 1, at most the width. Default: 16; of the usual 4 to 64 the middle.
        alpha: > 0. Default: None, alpha = rank, so that s = 1 at any rank (sqrt(rank) if
            rank_stabilized).
        initialization: how A is drawn. "gaussian": N(0, 1 / d); "kaiming": uniform between
            -1 / sqrt(d) and 1 / sqrt(d), which is the Kaiming bound with a = sqrt(5) that peft and
            torch.nn.Linear use; "glorot": N(0, 2 / (d + r)). Default: "gaussian", as Hu et al.,
            who name no variance.
        rank_stabilized: s = alpha / sqrt(rank) instead, with which the gradient keeps its size as
            the rank grows (rsLoRA). Default: False, as in Hu et al. and peft.

    Parameters: A (d, r) and B (r, d).

    Shapes: (n, d) to (n, d).

    Edges: a rank above the width is an error; all draws are finite. There is no quantised form.

    Cost: O(n d r) time, 2 d r numbers.

    References: Hu et al. 2021, arXiv 2106.09685, section 4.1; Kalajdzievski 2023, arXiv 2312.03732
    (rank_stabilized); He et al. 2015, arXiv 1502.01852 (kaiming); Glorot & Bengio 2010 (glorot).

    >>> from coreframe.random import stream
    >>> adapter = LowRank(rank=2, alpha=4)
    >>> params = adapter.init(stream(0, "x"), 8)
    >>> adapter.scaling, params["A"].shape, params["B"].any()
    (2.0, (8, 2), np.False_)
    """

    rank: int = 16
    alpha: float | None = None
    initialization: Literal["gaussian", "kaiming", "glorot"] = "gaussian"
    rank_stabilized: bool = False

    def __post_init__(self) -> None:
        checks.flag(self, "rank_stabilized")
        checks.number(self, "rank", minimum=1, integer=True)
        if self.alpha is not None:
            checks.number(self, "alpha", above=0)
        checks.choice(self, "initialization", INITIALIZATIONS)

    @property
    def scaling(self) -> float:
        rank = plain(self.rank)
        alpha = rank if self.alpha is None else plain(self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)

    def init(self, rng: Any, dim_in: int) -> Params:
        import numpy as np

        require_resolved(self)
        if self.rank > dim_in:
            raise ArgumentError(
                f"LowRank.rank must be at most the width {dim_in}, got {self.rank}; "
                "the adapter linear has a full matrix"
            )
        shape = (dim_in, self.rank)
        if self.initialization == "kaiming":
            a = (2 * rng.random(shape) - 1) / np.sqrt(dim_in)
        else:
            fan = dim_in if self.initialization == "gaussian" else (dim_in + self.rank) / 2
            a = rng.standard_normal(shape) / np.sqrt(fan)
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

    def squared_gradients(self, params: Params, x: Array, dy: Array, *, rng: Any = None) -> Params:
        xp = namespace(x=x, dy=dy)
        d_hidden = self.scaling * (dy @ xp.matrix_transpose(params["B"]))
        hidden = self.scaling * (x @ params["A"])
        return {"A": squared_product(x, d_hidden), "B": squared_product(hidden, dy)}

    def thin(self, params: Params) -> tuple[Array, Array, float] | None:
        return params["A"], params["B"], self.scaling

    def matrix(self, params: Params) -> tuple[Array, Array | None]:
        a = params["A"]
        xp = namespace(A=a)
        identity = xp.eye(a.shape[0], dtype=a.dtype, device=device_of(a))
        return identity + self.scaling * (a @ params["B"]), None


class Merged(NamedTuple):
    """What ``merge`` returns."""

    adapter: LowRank
    params: Params
    error: float
    """How far the product is from the exact one, relative to it, in the Frobenius norm."""


def merge(
    parts: Sequence[tuple[Adapter, Params]],
    weights: Sequence[float] | None = None,
    *,
    rank: int | None = None,
) -> Merged:
    """Merge low-rank adapters into one, whose product is the weighted sum of their products.

        y = x + x (w_1 s_1 A_1 B_1 + w_2 s_2 A_2 B_2 + ...)

    Averaging the As and the Bs apart would give other products: (A + A')(B + B') has the cross
    terms A B' and A' B. Without ``rank`` the merged rank is the sum of the ranks, or the width if
    that is less, and the result exact; with a smaller one, the sum is cut to its largest singular
    values, the best that rank can do (Eckart & Young 1936), each factor taking their square root.

    Args:
        parts: adapters with their parameters; any whose map is x + s (x A) B, so a chain of
            low-rank ones too.
        weights: one for each part, which need not sum to 1. Default: None, their mean.
        rank: of the result, at most the sum of the ranks and the width. Default: None, the lesser
            of the two.

    Shapes: A (d, sum of ranks) and B (sum of ranks, d), or of ``rank``, in the library and dtype
    of the parts.

    Edges: no part, parts of different widths, and a part without a thin form are errors. Where
    the sum is zero, the error is 0.

    Cost: without rank, a copy; with it O(d R^2) for the sum R of the ranks, on the host in
    float64.

    References: Hu et al. 2021, arXiv 2106.09685, section 4.1; Eckart & Young 1936.

    >>> from coreframe.random import stream
    >>> parts = [(LowRank(rank=r), LowRank(rank=r).init(stream(r, "x"), 8)) for r in (1, 2)]
    >>> adapter, params, error = merge(parts)
    >>> adapter.rank, params["A"].shape, error
    (3, (8, 3), 0.0)
    """
    import numpy as np

    thin = []
    for i, (adapter, params) in enumerate(parts):
        part = adapter.thin(params)
        if part is None:
            raise ArgumentError(
                f"parts[{i}] is a {type(adapter).__name__} without a low-rank form here; "
                "its matrix() can be averaged instead"
            )
        thin.append(part)
    if not thin:
        raise ArgumentError("parts must have at least one adapter, got none")
    weights = [1 / len(thin)] * len(thin) if weights is None else [float(w) for w in weights]
    if len(weights) != len(thin) or not all(map(math.isfinite, weights)):
        raise ArgumentError(
            f"weights must be {len(thin)} finite numbers, one a part, got {weights}"
        )
    widths = {a.shape[0] for a, _, _ in thin}
    if len(widths) > 1:
        raise ArgumentError(f"parts must have one width, got {sorted(widths)}")
    xp = namespace(**{f"parts_{i}": a for i, (a, _, _) in enumerate(thin)})
    a = xp.concat([part[0] for part in thin], axis=1)
    b = xp.concat([w * s * part for w, (_, part, s) in zip(weights, thin, strict=True)], axis=0)
    error = 0.0
    most = min(a.shape)
    if rank is None and most < a.shape[1]:
        rank = most
    if rank is not None:
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= most:
            raise ArgumentError(f"rank must be a whole number from 1 to {most}, got {rank!r}")
        # Through the thin factors, so that no (d, d) array is made.
        left, upper = np.linalg.qr(to_numpy(a).astype(np.float64))
        right, lower = np.linalg.qr(to_numpy(b).astype(np.float64).T)
        u, s, vh = np.linalg.svd(upper @ lower.T)
        root, whole = np.sqrt(s[:rank]), float(np.linalg.norm(s))
        error = float(np.linalg.norm(s[rank:])) / whole if whole > 0 else 0.0
        host = (left @ u[:, :rank]) * root, root[:, None] * (vh[:rank] @ right.T)
        a, b = (xp.asarray(x, dtype=a.dtype, device=device_of(a)) for x in host)
    return Merged(LowRank(rank=int(a.shape[1])), {"A": a, "B": b}, error)
