"""Squared gradients, example by example: what a Fisher information is a mean of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from coreframe.adapter import Adapter, Pullback
from coreframe.backend import Array, Params, device_of, namespace
from coreframe.batch import Batch
from coreframe.compose import Symmetric
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.loss import Loss
from coreframe.relation import Masked, Relation


@dataclass(frozen=True, eq=False)
class Examples:
    """The examples of one batch, of which some count.

    Args:
        adapter, params: the adapter and its parameters, in the library of the batch.
        loss: with the reduction "none".
        loss_params: those of the loss itself.
        batch: vectors before the adapter.
        rows: the numbers of the rows that count.
    """

    adapter: Adapter
    params: Params
    loss: Loss
    loss_params: Params | None
    batch: Batch
    rows: Any

    def losses(self, batch: Batch, wrt: Sequence[str]) -> tuple[Array, Params]:
        """Return the loss of each row, and the gradients of their sum."""
        result = self.loss.value_and_grad(batch, self.loss_params, wrt=tuple(wrt))
        n = batch.anchors.shape[0]
        if tuple(result.value.shape) != (n,):
            raise ArgumentError(
                f"fisher needs the loss of each example: {type(self.loss).__name__} with "
                f'reduction="none" must return values ({n},), got {tuple(result.value.shape)}'
            )
        return result.value, result.grads

    def take(self, x: Array) -> Array:
        """Return the rows of x that count."""
        if len(self.rows) == x.shape[0]:
            return x
        xp = namespace(x=x)
        return xp.take(x, xp.asarray(self.rows, device=device_of(x)), axis=0)

    def query(self) -> Params:
        """Anchors alone move, so the gradient of the sum holds each example's own rows."""
        batch = self.batch
        anchors, _ = self.adapter.forward(self.params, batch.anchors)
        changes: dict[str, Any] = {"anchors": anchors}
        if batch.references is None:
            held = _relation(batch.relation, slice(0, anchors.shape[0]), True)
            changes |= {"references": anchors, "relation": held}
        _, grads = self.losses(_moved(batch, **changes), ("anchors",))
        x, dy = self.take(batch.anchors), self.take(grads["anchors"])
        return self.adapter.squared_gradients(self.params, x, dy)

    def adapted(self) -> tuple[Batch, dict[str, Pullback]]:
        """Return the batch behind the adapter, and the way back of each of its fields."""
        fields: dict[str, Any] = {}
        back: dict[str, Pullback] = {}
        for name, x in fields_of(self.batch).items():
            flat = namespace(x=x).reshape(x, (-1, x.shape[-1]))
            y, back[name] = self.adapter.forward(self.params, flat)
            fields[name] = namespace(y=y).reshape(y, (*x.shape[:-1], y.shape[-1]))
        return replace(self.batch, **fields), back

    def row_wise(self) -> Params:
        """Square the gradient of each vector as if it were an example of its own."""
        batch, _ = self.adapted()
        xp, n = namespace(anchors=batch.anchors), batch.anchors.shape[0]
        if len(self.rows) < n:
            used = xp.asarray(
                np.isin(np.arange(n), self.rows),
                dtype=batch.anchors.dtype,
                device=device_of(batch.anchors),
            )
            weights = used if batch.weights is None else used * batch.weights
            batch = replace(batch, weights=weights)
        given = fields_of(self.batch)
        _, grads = self.losses(batch, tuple(given))
        total: dict[str, Array] = {}
        for name, x in given.items():
            flat, dy = (xp.reshape(v, (-1, v.shape[-1])) for v in (x, grads[name]))
            add(total, self.adapter.squared_gradients(self.params, flat, dy))
        return total

    def both(self) -> Params:
        """One example at a time: its gradient goes through every vector of the batch."""
        batch, back = self.adapted()
        xp = namespace(anchors=batch.anchors)
        # A row of the relation is the example only where the loss goes by the relation.
        alone = "relation" in self.loss.needs
        whole, _ = self.losses(batch, ())
        total: dict[str, Array] = {}
        apart = xp.sum(xp.zeros_like(whole))
        for i in self.rows:
            i = int(i)
            value, grads = self._row(batch, back, i) if alone else self._weighted(batch, back, i)
            apart = apart + xp.abs(value - whole[i])
            add(total, {name: g * g for name, g in grads.items()})
        if float(apart) > 1e-3 * float(xp.sum(xp.abs(whole))) + 1e-6:
            raise ArgumentError(
                f"the examples of {type(self.loss).__name__} cannot be told apart: the loss of a "
                "row changes when the others are left out, or weights are ignored; use "
                "method='row_wise'"
            )
        return total

    def _row(self, batch: Batch, back: Mapping[str, Pullback], i: int) -> tuple[Array, Params]:
        """Return the loss and the gradient of row i, with the other anchors left out."""
        row = slice(i, i + 1)
        self_pairs = batch.references is None
        small = replace(
            batch,
            anchors=batch.anchors[row, :],
            references=batch.targets,
            relation=_relation(batch.relation, row, self_pairs),
            aligned=False,
            **{
                name: _some(getattr(batch, name), row)
                for name in ("negatives", "weights", "labels", "scores", "ids")
            },
        )
        value, grads = self.losses(small, tuple(fields_of(small)))
        own = [name for name in grads if name != "references"]
        slopes = {name: _among(getattr(batch, name), i, grads[name]) for name in own}
        if self_pairs:
            slopes["anchors"] = slopes["anchors"] + grads["references"]
        else:
            slopes["references"] = grads["references"]
        return value[0], _pulled(slopes, back)

    def _weighted(self, batch: Batch, back: Mapping[str, Pullback], i: int) -> tuple[Array, Params]:
        """Return the loss and the gradient of row i, with the other rows at weight 0."""
        xp, n = namespace(anchors=batch.anchors), batch.anchors.shape[0]
        only = xp.arange(n, device=device_of(batch.anchors)) == i
        weights = xp.astype(only, batch.anchors.dtype)
        if batch.weights is not None:
            weights = weights * batch.weights
        value, grads = self.losses(replace(batch, weights=weights), tuple(fields_of(batch)))
        return xp.sum(xp.abs(value)) + value[i] - xp.abs(value[i]), _pulled(grads, back)


def fields_of(batch: Batch) -> dict[str, Array]:
    """Return the embeddings of a batch, by field."""
    names = ("anchors", "references", "negatives")
    return {name: getattr(batch, name) for name in names if getattr(batch, name) is not None}


def _moved(batch: Batch, *, anchors: Array, **changes: Any) -> Batch:
    """Return a batch with anchors that an adapter moved, without a second look at what was
    checked when the batch was made, as long as their shape and dtype are as they were.
    """
    given, changes = batch.anchors, changes | {"anchors": anchors}
    if anchors.shape != given.shape or anchors.dtype != given.dtype:
        return replace(batch, **changes)
    moved = copy(batch)
    for name, x in changes.items():
        object.__setattr__(moved, name, x)
    return moved


def _some(x: Any, rows: slice) -> Any:
    """Return rows of an array, of a list, or of nothing."""
    if x is None:
        return None
    return x[rows, ...] if hasattr(x, "ndim") else x[rows]


def _among(like: Array, i: int, row: Array) -> Array:
    """Return zeros like an array, with one row of it given."""
    zeros = namespace(like=like).zeros_like(like)
    return namespace(like=like).concat([zeros[:i, ...], row, zeros[i + 1 :, ...]], axis=0)


def _pulled(slopes: Params, back: Mapping[str, Pullback]) -> Params:
    """Return the gradient of the parameters, through every field."""
    total: dict[str, Array] = {}
    for name, dy in slopes.items():
        flat = namespace(dy=dy).reshape(dy, (-1, dy.shape[-1]))
        add(total, back[name](flat, need_dx=False)[0])
    return total


def add(total: dict[str, Array], more: Params) -> None:
    for name, x in more.items():
        total[name] = total[name] + x if name in total else x


def _relation(relation: Relation, part: slice, self_pairs: bool) -> Relation:
    """Return some rows of a relation; where the references are the anchors, without self pairs."""

    def function(rows: slice, cols: slice, xp: Any, device: Any) -> tuple[Array, Array]:
        first, last = rows.start + part.start, rows.stop + part.start
        positive, negative = relation.tile(slice(first, last), cols, xp, device)
        if not self_pairs:
            return positive, negative
        own = xp.arange(first, last, device=device)[:, None]
        other = own != xp.arange(cols.start, cols.stop, device=device)[None, :]
        return positive & other, negative & other

    return Masked(function, part.stop - part.start, relation.columns)


def each_row(loss: Any, needs: set[str]) -> Any:
    """Return a loss that gives the value of each row, the losses inside of it included, and add
    what they need.
    """
    if isinstance(loss, Symmetric) or getattr(loss, "symmetric", False):
        raise ArgumentError(
            "a symmetric loss has no loss of one example, since its second direction is of the "
            "references; give fisher one direction: the inner loss, or symmetric=False"
        )
    if not isinstance(loss, Loss):
        raise ArgumentTypeError(f"loss must be a coreframe.Loss, got {loss!r}")
    changes: dict[str, Any] = {}
    for name in getattr(loss, "__dataclass_fields__", ()):
        value = getattr(loss, name)
        if name == "reduction":
            changes[name] = "none"
            needs |= set(loss.needs)
        elif isinstance(value, Loss):
            changes[name] = each_row(value, needs)
        elif isinstance(value, Mapping) and any(isinstance(x, Loss) for x in value.values()):
            changes[name] = {key: each_row(x, needs) for key, x in value.items()}
    if not changes:
        raise ArgumentError(
            f"fisher needs the loss of each example: {type(loss).__name__} has no field "
            '"reduction" that could be "none"'
        )
    return replace(loss, **changes)  # type: ignore[type-var]
