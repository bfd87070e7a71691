"""The four similarities and their gradients, written so that one matrix product does the work.

A larger similarity is always more alike: Euclidean similarities are minus the distance. All four
are an inner product of prepared rows, with something elementwise before and after:

    cosine              rows scaled to unit length (a zero row stays zero: similarity 0, gradient 0)
    dot                 nothing
    squared_euclidean   s = -|u - v|^2 = 2 u.v - |u|^2 - |v|^2, rows moved to the references' mean,
                        which changes no distance and keeps the subtraction precise
    euclidean           s = -|u - v|; gradient 0 where the rows coincide
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coreframe.backend import Array, namespace
from coreframe.errors import ArgumentError, nearest

NAMES = ("cosine", "dot", "euclidean", "squared_euclidean")

Pull = Callable[[Array], Array]


@dataclass(frozen=True)
class Similarity:
    """One of the four, by name."""

    name: str

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ArgumentError(
                f"similarity must be one of {', '.join(NAMES)}, got {self.name!r}."
                + nearest(str(self.name), NAMES)
            )

    @property
    def is_distance(self) -> bool:
        return self.name in ("euclidean", "squared_euclidean")

    def center(self, references: Array) -> Array | None:
        """Return the point that distances are measured around, (d,), or None."""
        if not self.is_distance:
            return None
        xp = namespace(references=references)
        return xp.mean(references, axis=0)

    def prepare(self, x: Array, center: Array | None) -> tuple[Array, Pull]:
        """Return the prepared rows of x (..., d), and the map from their gradient to that of x."""
        if center is not None:
            return x - center, _same
        if self.name == "dot":
            return x, _same
        xp = namespace(x=x)
        # Scaling by the largest entry first keeps tiny and huge rows from under- or overflowing.
        largest = xp.max(xp.abs(x), axis=-1, keepdims=True)
        zero = largest < float(xp.finfo(x.dtype).smallest_normal)
        scale = 1 / xp.where(zero, xp.ones_like(largest), largest)
        x = x * scale
        norm = xp.sqrt(xp.sum(x * x, axis=-1, keepdims=True))
        inverse = xp.where(zero, xp.zeros_like(norm), 1 / xp.where(zero, xp.ones_like(norm), norm))
        unit = x * inverse
        inverse = inverse * scale

        def pull(gradient: Array) -> Array:
            along = xp.sum(gradient * unit, axis=-1, keepdims=True)
            return (gradient - along * unit) * inverse

        return unit, pull

    def squared_norms(self, u: Array) -> Array | None:
        """Return the squared lengths of prepared rows (n,), or None where they are not needed."""
        if not self.is_distance:
            return None
        return namespace(u=u).sum(u * u, axis=-1)

    def finish(self, inner: Array, left: Array | None, right: Array | None) -> Array:
        """Turn inner products into similarities; left and right, squared norms, broadcast."""
        if left is None or right is None:
            return inner
        xp = namespace(inner=inner)
        total = left + right
        squared = total - 2 * inner
        # Closer than rounding can tell apart counts as the same point.
        rounding = 4 * float(xp.finfo(inner.dtype).eps)
        squared = xp.where(squared <= rounding * total, xp.zeros_like(squared), squared)
        return -squared if self.name == "squared_euclidean" else -xp.sqrt(squared)

    def finish_differences(self, differences: Array) -> Array:
        """Turn differences of rows (..., d) into similarities: exact for listed partners."""
        xp = namespace(differences=differences)
        squared = xp.sum(differences * differences, axis=-1)
        return -squared if self.name == "squared_euclidean" else -xp.sqrt(squared)

    def chain(self, gradient: Array, similarities: Array) -> Array:
        """Return d loss / d (-squared distance) from d loss / d similarity; else unchanged."""
        if self.name != "euclidean":
            return gradient
        xp = namespace(gradient=gradient)
        apart = similarities < 0
        safe = xp.where(apart, similarities, -xp.ones_like(similarities))
        return xp.where(apart, gradient / (-2 * safe), xp.zeros_like(gradient))


def _same(gradient: Array) -> Array:
    return gradient
