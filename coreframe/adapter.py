"""The interface of adapters: small maps that are trained on top of frozen embeddings."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from coreframe.backend import Array, Params, namespace
from coreframe.component import Component
from coreframe.ops import op

__all__ = ["Adapter", "Blocks", "ClosedForm", "Pullback", "squared_product"]

Pullback = Callable[..., tuple[Params, Array | None]]
"""``pullback(dy, need_dx=True) -> (gradients by parameter name, dx or None)``."""

Blocks = Callable[[], Iterator[tuple[Array, Array]]]
"""Begins a pass over blocks of rows: queries and documents, (n, d) each."""


@op
def squared_product(x: Array, y: Array, /) -> Array:
    """Return the sum over rows of their squared outer products: (n, d) and (n, e) to (d, e).

    result[p, q] = sum_i (x[i, p] y[i, q])^2, one matrix product of squares. It is what each row's
    own gradient x_i^T dy_i of a matrix, squared, sums up to.
    """
    xp = namespace(x=x, y=y)
    return xp.matrix_transpose(x * x) @ (y * y)


def count_parameters(params: Params) -> int:
    """Return how many numbers parameters hold: rank (d_in + d_out) for a low-rank map, say."""
    return sum(math.prod(x.shape) for x in params.values())


class Adapter(Component, ABC):
    """An affine map y = x W + b of embeddings, in whatever form its parameters have.

    Subclasses are frozen, keyword-only dataclasses without state: parameters are passed in.
    """

    @abstractmethod
    def init(self, rng: Any, dim_in: int) -> Params:
        """Return parameters as NumPy float32 arrays; a fresh trainable adapter is the identity."""

    @abstractmethod
    def forward(self, params: Params, x: Array, *, rng: Any = None) -> tuple[Array, Pullback]:
        """Return y (n, d_out) for x (n, d_in), and the map from dy to gradients."""

    def squared_gradients(self, params: Params, x: Array, dy: Array, *, rng: Any = None) -> Params:
        """Return the sum over rows of the squared gradient that each row alone has.

        x (n, d_in) and dy (n, d_out) are one row an example; the result has the shapes of the
        parameters. It is what a Fisher diagonal is made of, and is no square of a summed
        gradient. This form passes row by row; an adapter with a closed form overrides it.
        """
        xp = namespace(x=x, dy=dy)
        totals: dict[str, Array] = {name: xp.zeros_like(p) for name, p in params.items()}
        for i in range(x.shape[0]):
            _, pullback = self.forward(params, x[i : i + 1, :], rng=rng)
            for name, g in pullback(dy[i : i + 1, :], need_dx=False)[0].items():
                totals[name] = totals[name] + g * g
        return totals

    @abstractmethod
    def matrix(self, params: Params) -> tuple[Array, Array | None]:
        """Return the same map as a matrix W (d_in, d_out) and a bias b (d_out,), or None."""

    def thin(self, params: Params) -> tuple[Array, Array, float] | None:
        """Return A (d, r), B (r, d) and s where the map is y = x + s (x A) B, else None."""
        return None


class ClosedForm(Adapter):
    """An adapter whose parameters are computed from data at once, and not trained by gradients."""

    rebuilds_index: ClassVar[bool] = True
    """Whether it moves the documents too, so that their index must be built again."""

    @abstractmethod
    def solve(self, queries: Array, documents: Array) -> Params:
        """Return parameters from row-aligned pairs of queries and documents, (n, d) each."""

    def solve_blocks(self, blocks: Blocks) -> Params:
        """Return the same from blocks of rows, so that memory stays within one of them.

        ``blocks()`` begins a pass over (queries, documents). This form joins them all; a solver
        that goes by sums over rows overrides it.
        """
        queries, documents = zip(*blocks(), strict=True)
        xp = namespace(queries=queries[0])
        return self.solve(xp.concat(queries, axis=0), xp.concat(documents, axis=0))
