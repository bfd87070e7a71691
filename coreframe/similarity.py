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
from typing import Any

from coreframe.backend import Array, namespace
from coreframe.dtypes import cast, computing_dtype, widened
from coreframe.errors import ArgumentError, nearest
from coreframe.ops import op

__all__ = ["NAMES", "Similarity", "unit_rows"]

NAMES = ("cosine", "dot", "euclidean", "squared_euclidean")

Pull = Callable[..., Array]
"""``pull(gradient, factor=None)``: the gradient of rows from that of their prepared form, times a
0-d factor."""


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
        return xp.mean(widened(references, xp), axis=0)

    def prepare(self, x: Array, center: Array | None) -> tuple[Array, Pull]:
        """Return the prepared rows of x (..., d), in the computing dtype, and the map from their
        gradient to that of x, in x's own.
        """
        xp = namespace(x=x)
        dtype, wide = x.dtype, computing_dtype(x, xp)
        if self.name == "cosine":
            unit, inverse = unit_rows(x, dtype=wide)

            def pull(gradient: Array, factor: Array | None = None) -> Array:
                scale = inverse if factor is None else inverse * factor
                return across(gradient, unit, scale, dtype=dtype)

            return unit, pull

        def same(gradient: Array, factor: Array | None = None) -> Array:
            return cast(gradient if factor is None else gradient * factor, dtype, xp)

        x = cast(x, wide, xp)
        return x if center is None else x - center, same

    def squared_norms(self, u: Array) -> Array | None:
        """Return the squared lengths of prepared rows (n,), or None where they are not needed."""
        if not self.is_distance:
            return None
        return namespace(u=u).sum(u * u, axis=-1)

    def finish(self, inner: Array, left: Array | None, right: Array | None) -> Array:
        """Turn inner products into similarities; left and right, squared norms, broadcast. The
        inner products may be overwritten.
        """
        if left is None or right is None:
            return inner
        return minus_distances(inner, left, right, squared=self.name == "squared_euclidean")

    def finish_differences(self, differences: Array) -> Array:
        """Turn differences of rows (..., d) into similarities: exact for listed partners."""
        xp = namespace(differences=differences)
        squared = xp.sum(differences * differences, axis=-1)
        return -squared if self.name == "squared_euclidean" else -xp.sqrt(squared)

    def chain(self, gradient: Array, similarities: Array) -> Array:
        """Return d loss / d (-squared distance) from d loss / d similarity; else unchanged."""
        if self.name != "euclidean":
            return gradient
        return by_squared_distances(gradient, similarities)


@op
def unit_rows(x: Array, /, dtype: Any = None) -> tuple[Array, Array]:
    """Return rows (..., d) scaled to length 1, and the inverses of their lengths (..., 1), in a
    dtype no narrower than theirs (default: theirs).

    A row of zeros, or of nothing above the smallest normal number, becomes zeros and has inverse 0.
    """
    xp = namespace(x=x)
    x = x if dtype is None else cast(x, dtype, xp)
    # Scaling by the largest entry first keeps tiny and huge rows from under- or overflowing.
    largest = xp.max(xp.abs(x), axis=-1, keepdims=True)
    zero = largest < float(xp.finfo(x.dtype).smallest_normal)
    scale = 1 / xp.where(zero, xp.ones_like(largest), largest)
    x = x * scale
    norm = xp.sqrt(xp.sum(x * x, axis=-1, keepdims=True))
    inverse = xp.where(zero, xp.zeros_like(norm), 1 / xp.where(zero, xp.ones_like(norm), norm))
    return x * inverse, inverse * scale


@op
def across(gradient: Array, unit: Array, inverse: Array, /, dtype: Any = None) -> Array:
    """Return the gradient by rows, given that by their unit vectors: what stands across them,
    times the inverse length; in a dtype (default: its own).
    """
    xp = namespace(gradient=gradient)
    along = xp.sum(gradient * unit, axis=-1, keepdims=True)
    found = (gradient - along * unit) * inverse
    return found if dtype is None else cast(found, dtype, xp)


@op
def minus_distances(inner: Array, left: Array, right: Array, /, *, squared: bool) -> Array:
    """Return minus the distances, or squared ones, of rows with squared lengths left and right
    and these inner products, which may be overwritten.
    """
    xp = namespace(inner=inner)
    total = left + right
    found = total - 2 * inner
    # Closer than rounding can tell apart counts as the same point.
    rounding = 4 * float(xp.finfo(inner.dtype).eps)
    found = xp.where(found <= rounding * total, xp.zeros_like(found), found)
    return -found if squared else -xp.sqrt(found)


@op
def by_squared_distances(gradient: Array, similarities: Array, /) -> Array:
    """Return the derivative by minus squared distances from that by minus distances; 0 where the
    points coincide.
    """
    xp = namespace(gradient=gradient)
    apart = similarities < 0
    safe = xp.where(apart, similarities, -xp.ones_like(similarities))
    return xp.where(apart, gradient / (-2 * safe), xp.zeros_like(gradient))
