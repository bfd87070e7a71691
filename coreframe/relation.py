"""Who goes with whom: which references are positives and which are negatives of an anchor.

A relation is asked tile by tile, so that no n x m array of pairs ever exists unless it was given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coreframe.backend import Array, is_array, namespace, on_host
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.ops import segment_sum

__all__ = ["Aligned", "Listed", "Masked", "Relation", "SameLabel"]

Tile = tuple[Array, Array]

_FEW = 16  # listed partners up to which comparing each with all columns is the fastest


class Relation(ABC):
    """Which references are positives and which are negatives of which anchors.

    A pair that is neither takes no part. No pair is both.
    """

    rows: int
    columns: int

    @abstractmethod
    def tile(self, rows: slice, cols: slice, xp: Any, device: Any) -> Tile:
        """Return (positive, negative), each bool of shape (rows, cols), on that device."""

    @abstractmethod
    def transpose(self) -> Relation:
        """Return the relation seen from the references."""

    def listed(self, rows: slice, xp: Any, device: Any) -> tuple[Array, Array, Array] | None:
        """Return (columns, positive, negative), each (rows, l), if the pairs are listed, or None.

        Columns are valid indices; a column that is false in both masks is padding. No column
        takes part twice in a row.
        """
        return None

    @property
    def width(self) -> int | None:
        """The number l of listed columns a row, or None."""
        return None

    @property
    def diagonal(self) -> bool:
        """Whether anchor i's one positive is reference i, and all others are its negatives."""
        return False

    @property
    def apart(self) -> bool:
        """Whether no row is a partner of its own, where the references are the anchors."""
        return False

    def check(self) -> None:
        """Raise ArgumentError for what cannot be a relation; asked once, by the batch."""
        return None


def _span(part: slice, xp: Any, device: Any) -> Array:
    return xp.arange(part.start, part.stop, dtype=xp.int32, device=device)


def codes(name: str, *lists: Any) -> tuple[Any, ...]:
    """Return lists of labels or ids as integers that are equal where the entries are equal.

    Arrays of integers stay as they are and where they are; strings are coded on the host.
    """
    import numpy as np

    found: list[Any] = []
    for values in lists:
        x = values if is_array(values) else np.asarray(values)
        if not isinstance(x, np.ndarray):
            xp = namespace(**{name: x})
            if not xp.isdtype(x.dtype, ("integral", "bool")):
                raise _bad_codes(name, x.dtype)
        elif x.dtype.kind not in "iubUSO":
            raise _bad_codes(name, x.dtype)
        elif x.dtype.kind == "O":
            missing = [i for i, value in enumerate(x.tolist()) if value is None or value != value]
            if missing:
                raise ArgumentError(
                    f"{name} has no value in row {missing[0]}; what is alone has a value of its "
                    "own, which no other row has"
                )
        found.append(x)
    text = [isinstance(x, np.ndarray) and x.dtype.kind in "USO" for x in found]
    if not any(text):
        return tuple(found)
    if not all(text):
        raise ArgumentTypeError(f"{name} and reference_{name} must both be integers or both text")
    joined = np.concatenate([x.astype(str) for x in found])
    numbers = np.unique(joined, return_inverse=True)[1].astype(np.int64)
    return tuple(np.split(numbers, np.cumsum([len(x) for x in found])[:-1]))


def _bad_codes(name: str, dtype: Any) -> ArgumentTypeError:
    return ArgumentTypeError(
        f"{name} must be integers or text, got {dtype}; they are compared for equality"
    )


def _here(values: Any, part: slice, xp: Any, device: Any) -> Array:
    return xp.asarray(values[part, ...], device=device)


def _indices(values: Any, part: slice, xp: Any, device: Any) -> Array:
    """Return rows of indices, signed and wide: a cell's number and -1 must fit."""
    x = _here(values, part, xp, device)
    if xp.isdtype(x.dtype, "signed integer") and xp.iinfo(x.dtype).bits >= 32:
        return x
    return xp.astype(x, xp.int32)


@dataclass(frozen=True, eq=False)
class Aligned(Relation):
    """Anchor i goes with reference i; all other references are its negatives.

    References beyond the number of anchors are negatives of everyone. With ids, a reference of
    the same id as the anchor's own is the same item, and is left out as a false negative. With
    ``in_batch=False`` the other anchors' references are left out too.
    """

    rows: int
    columns: int
    ids: Any = None
    reference_ids: Any = None
    in_batch: bool = True

    def tile(self, rows: slice, cols: slice, xp: Any, device: Any) -> Tile:
        columns = _span(cols, xp, device)[None, :]
        positive = _span(rows, xp, device)[:, None] == columns
        negative = ~positive
        if self.ids is not None:
            negative = negative & self._differ(rows, cols, xp, device)
        if not self.in_batch:
            negative = negative & (columns >= self.rows)
        return positive, negative

    @property
    def diagonal(self) -> bool:
        return self.ids is None and self.in_batch and self.rows <= self.columns

    def _differ(self, rows: slice, cols: slice, xp: Any, device: Any) -> Array:
        """Compare ids; rows and columns beyond the ids have none, and equal nothing."""
        parts = []
        for ids, part in ((self.ids, rows), (self._others, cols)):
            named = slice(part.start, min(part.stop, max(part.start, ids.shape[0])))
            parts.append((_here(ids, named, xp, device), part.stop - named.stop))
        (left, more_left), (right, more_right) = parts
        different = left[:, None] != right[None, :]
        r, c = different.shape
        if more_right:
            beyond = xp.ones((r, more_right), dtype=xp.bool, device=device)
            different = xp.concat([different, beyond], axis=1)
        if more_left:
            beyond = xp.ones((more_left, c + more_right), dtype=xp.bool, device=device)
            different = xp.concat([different, beyond], axis=0)
        return different

    @property
    def _others(self) -> Any:
        return self.ids if self.reference_ids is None else self.reference_ids

    def transpose(self) -> Relation:
        if not self.in_batch:
            return _turned(self)
        if self.ids is None:
            return Aligned(self.columns, self.rows)
        return Aligned(self.columns, self.rows, self._others, self.ids)


@dataclass(frozen=True, eq=False)
class SameLabel(Relation):
    """Equal labels are positives, other labels negatives. Without reference labels, the
    references are the anchors themselves, and a row is no partner of its own.
    """

    labels: Any
    reference_labels: Any = None

    @property
    def rows(self) -> int:  # type: ignore[override]
        return int(self.labels.shape[0])

    @property
    def columns(self) -> int:  # type: ignore[override]
        others = self.labels if self.reference_labels is None else self.reference_labels
        return int(others.shape[0])

    @property
    def apart(self) -> bool:
        return self.reference_labels is None

    def tile(self, rows: slice, cols: slice, xp: Any, device: Any) -> Tile:
        others = self.labels if self.reference_labels is None else self.reference_labels
        own = _here(self.labels, rows, xp, device)[:, None]
        same = own == _here(others, cols, xp, device)[None, :]
        if self.reference_labels is not None:
            return same, ~same
        other = _span(rows, xp, device)[:, None] != _span(cols, xp, device)[None, :]
        return same & other, ~same

    def transpose(self) -> Relation:
        if self.reference_labels is None:
            return self
        return SameLabel(self.reference_labels, self.labels)


@dataclass(frozen=True, eq=False)
class Listed(Relation):
    """Partners by index: positives (n, p) and negatives (n, k) int, -1 for an empty place.

    ``negatives=None`` means every reference that is not listed as a positive. An index listed
    twice counts once; one listed on both sides is a positive.
    """

    positives: Any
    negatives: Any
    columns: int

    @property
    def rows(self) -> int:  # type: ignore[override]
        return int(self.positives.shape[0])

    @property
    def width(self) -> int | None:
        if self.negatives is None:
            return None
        return int(self.positives.shape[1] + self.negatives.shape[1])

    def check(self) -> None:
        for name, x in (("positives", self.positives), ("negatives", self.negatives)):
            if x is None:
                continue
            xp = namespace(**{name: x})
            if not xp.isdtype(x.dtype, "integral"):
                raise ArgumentTypeError(f"listed {name} must be integers, got {x.dtype}")
            if x.ndim != 2 or x.shape[0] != self.rows:
                raise ArgumentError(
                    f"listed {name} must be ({self.rows}, k), one row an anchor, "
                    f"got {tuple(x.shape)}"
                )
            if on_host(x) and 0 not in x.shape and int(xp.max(x)) >= self.columns:
                raise ArgumentError(
                    f"listed {name} name reference {int(xp.max(x))}, but there are {self.columns}; "
                    "-1 is an empty place"
                )

    def tile(self, rows: slice, cols: slice, xp: Any, device: Any) -> Tile:
        span = _span(cols, xp, device)[None, :]

        def mask(indices: Any) -> Array:
            here = _indices(indices, rows, xp, device)
            r, c = here.shape[0], span.shape[1]
            if here.shape[1] <= _FEW:
                found = xp.zeros((r, c), dtype=xp.bool, device=device)
                for place in range(here.shape[1]):
                    found = found | (here[:, place][:, None] == span)
                return found
            inside = (here >= cols.start) & (here < cols.stop)
            row = xp.arange(r, dtype=here.dtype, device=device)[:, None]
            cell = xp.where(inside, row * c + here - cols.start, -xp.ones_like(here))
            ones = xp.ones((r * here.shape[1], 1), dtype=xp.float32, device=device)
            counts = segment_sum(ones, xp.reshape(cell, (-1,)), r * c)
            return xp.reshape(counts, (r, c)) > 0

        positive = mask(self.positives)
        negative = ~positive if self.negatives is None else mask(self.negatives) & ~positive
        return positive, negative

    def listed(self, rows: slice, xp: Any, device: Any) -> tuple[Array, Array, Array] | None:
        if self.negatives is None:
            return None
        first = _indices(self.positives, rows, xp, device)
        second = _indices(self.negatives, rows, xp, device)
        columns = xp.concat([first, second], axis=1)
        real = columns >= 0
        repeated = [xp.zeros_like(real[:, :1])]
        for place in range(1, columns.shape[1]):
            before = columns[:, :place] == columns[:, place][:, None]
            repeated.append(xp.any(before, axis=1, keepdims=True))
        real = real & ~xp.concat(repeated[: columns.shape[1]], axis=1)
        is_first = xp.arange(columns.shape[1], device=device)[None, :] < first.shape[1]
        return (
            xp.where(columns < 0, xp.zeros_like(columns), columns),
            real & is_first,
            real & ~is_first,
        )

    def transpose(self) -> Relation:
        return _turned(self)


@dataclass(frozen=True, eq=False)
class Masked(Relation):
    """Any relation: a function ``(rows, cols, xp, device) -> (positive, negative)``."""

    function: Callable[[slice, slice, Any, Any], Tile]
    rows: int
    columns: int

    def tile(self, rows: slice, cols: slice, xp: Any, device: Any) -> Tile:
        positive, negative = self.function(rows, cols, xp, device)
        return positive, negative & ~positive

    def transpose(self) -> Relation:
        return _turned(self)


def _turned(relation: Relation) -> Masked:
    """Return any relation seen from the references: each tile, transposed."""

    def function(rows: slice, cols: slice, xp: Any, device: Any) -> Tile:
        positive, negative = relation.tile(cols, rows, xp, device)
        return xp.matrix_transpose(positive), xp.matrix_transpose(negative)

    return Masked(function, relation.columns, relation.rows)


def masked(positive: Array, negative: Array) -> Masked:
    """Return a relation from two bool arrays of shape (n, m)."""
    for name, mask in (("positive", positive), ("negative", negative)):
        if mask.ndim != 2 or tuple(mask.shape) != tuple(positive.shape):
            raise ArgumentError(
                f"{name} must be a bool array (n, m) like positive {tuple(positive.shape)}, "
                f"got {tuple(mask.shape)}"
            )
        if not namespace(**{name: mask}).isdtype(mask.dtype, "bool"):
            raise ArgumentTypeError(f"{name} must be a bool array, got {mask.dtype}")

    def function(rows: slice, cols: slice, xp: Any, device: Any) -> Tile:
        return (
            xp.asarray(positive[rows, cols], device=device),
            xp.asarray(negative[rows, cols], device=device),
        )

    return Masked(function, *positive.shape)
