"""The interface of adapters: small maps that are trained on top of frozen embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from coreframe.backend import Array, Params

Pullback = Callable[..., tuple[Params, Array | None]]
"""``pullback(dy, need_dx=True) -> (gradients by parameter name, dx or None)``."""


class Adapter(ABC):
    """An affine map y = x W + b of embeddings, in whatever form its parameters have.

    Subclasses are frozen, keyword-only dataclasses without state: parameters are passed in.
    """

    @abstractmethod
    def init(self, rng: Any, dim_in: int) -> Params:
        """Return parameters as NumPy float32 arrays; a fresh trainable adapter is the identity."""

    @abstractmethod
    def forward(self, params: Params, x: Array, *, rng: Any = None) -> tuple[Array, Pullback]:
        """Return y (n, d_out) for x (n, d_in), and the map from dy to gradients."""

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
