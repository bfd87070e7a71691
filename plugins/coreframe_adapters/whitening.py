"""Decorrelate the embeddings and level their variances, in closed form."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

from coreframe import checks
from coreframe.adapter import Blocks, ClosedForm, Pullback
from coreframe.backend import Array, Params, device_of, namespace, to_numpy
from coreframe_adapters.linear import Linear


@dataclass(frozen=True, kw_only=True)
class Whitening(ClosedForm):
    """Decorrelate the embeddings and level their variances, in closed form.

        y = (x - mean) W,   W = V diag(s / m + shrinkage)^(-1/2) V^T

    V diag(s) V^T is the covariance of queries and documents together, and m the mean of s. This is
    ZCA whitening, which turns the space as little as possible; dividing by m keeps the scale. It
    does not use which query goes with which document. It moves both sides, so an index of
    documents has to be rebuilt.

    Args:
        shrinkage: > 0, how far the variances are pulled to their mean before they are levelled;
            small values trust directions that the data hardly uses. Default: 0.5, half
            the mean variance: with few pairs the small variances are mostly noise.

    Parameters: W (d, d) and b (d,), solved from the training pairs at once.

    Shapes: (n, d) to (n, d); queries (n, d) and documents (m, d) of ``solve``.

    Edges: directions without variance are stretched by shrinkage^(-1/2); vectors that are all the
    same give a finite W.

    Cost: O((n + m) d^2) for the covariance and O(d^3) for its decomposition, on the host in
    float64; ``solve_blocks`` holds one block of rows at a time, and goes over them twice.

    References: Kessy et al. 2018, arXiv 1512.00809; Su et al. 2021, arXiv 2103.15316 (for
    retrieval).

    >>> from numpy import array
    >>> x = array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> params = Whitening(shrinkage=1e-9).solve(x, x)
    >>> (x @ params["W"]).std(axis=0).round(3).tolist()
    [1.581, 1.581]
    """

    shrinkage: float = 0.5

    rebuilds_index: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.number(self, "shrinkage", above=0)

    def init(self, rng: Any, dim_in: int) -> Params:
        return Linear(bias=True).init(rng, dim_in)

    def solve(self, queries: Array, documents: Array) -> Params:
        namespace(queries=queries, documents=documents)
        return self.solve_blocks(lambda: iter([(queries, documents)]))

    def solve_blocks(self, blocks: Blocks) -> Params:
        import numpy as np

        count, total = 0, 0.0  # a sum of arrays, from the first on
        for x in itertools.chain.from_iterable(blocks()):
            xp = namespace(x=x)
            count, total = count + x.shape[0], total + xp.sum(x, axis=0)
        mean: Any = total / count
        covariance: Any = 0.0
        for x in itertools.chain.from_iterable(blocks()):
            centred = x - mean
            product = xp.matrix_transpose(centred) @ centred
            covariance = covariance + to_numpy(product).astype(np.float64)
        # The small decomposition is made on the host in float64: in float32 it can fail where
        # there are fewer vectors than dimensions.
        variances, directions = np.linalg.eigh(covariance / count)
        level = variances.mean()
        level = level if level > 0 else 1.0  # all vectors the same
        stretch = (variances.clip(min=0) / level + self.shrinkage) ** -0.5
        host = (directions * stretch) @ directions.T
        w = xp.asarray(host, dtype=mean.dtype, device=device_of(mean))
        return {"W": w, "b": -(mean @ w)}

    def forward(self, params: Params, x: Array, *, rng: Any = None) -> tuple[Array, Pullback]:
        return Linear(bias=True).forward(params, x)

    def squared_gradients(self, params: Params, x: Array, dy: Array, *, rng: Any = None) -> Params:
        return Linear(bias=True).squared_gradients(params, x, dy)

    def matrix(self, params: Params) -> tuple[Array, Array | None]:
        return Linear(bias=True).matrix(params)
