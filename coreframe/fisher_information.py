"""Fisher information: how much each parameter matters to what an adapter has learned."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from coreframe.adapter import Adapter
from coreframe.backend import Array, Params, device_of, namespace, to_numpy
from coreframe.batch import Batch
from coreframe.dtypes import computing_dtype
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.loss import Loss
from coreframe.per_example import Examples, add, each_row, fields_of
from coreframe.random import stream

__all__ = ["Fisher", "fisher"]

METHODS = ("exact", "row_wise")
SIDES = ("query", "both")


@dataclass(frozen=True, eq=False)
class Fisher:
    """The diagonal of a Fisher information, by parameter name.

    Args:
        diagonal: one array >= 0 a parameter, of its shape.
        examples: how many examples the mean was taken over.
        method: exact or row_wise.
    """

    diagonal: Params
    examples: int
    method: str

    def normalized(self, by: str = "max", over: str = "all") -> Fisher:
        """Return the same divided by its largest or its mean entry.

        ``over="all"`` divides all parameters by one number, and keeps what they are worth beside
        each other; ``over="tensor"`` divides each by its own. Where all is 0 it stays 0. A
        strength for a normalised Fisher means about the same whatever the scale of the loss.
        """
        for name, given, options in (
            ("by", by, ("max", "mean")),
            ("over", over, ("all", "tensor")),
        ):
            if given not in options:
                raise ArgumentError(f"{name} must be one of {', '.join(options)}, got {given!r}")
        xp = namespace(**self.diagonal)
        flat = {name: xp.reshape(x, (-1,)) for name, x in self.diagonal.items()}
        if over == "all":
            flat = dict.fromkeys(flat, xp.concat(list(flat.values())))
        sizes = {name: (xp.max if by == "max" else xp.mean)(x) for name, x in flat.items()}
        found = {
            name: x / xp.where(sizes[name] > 0, sizes[name], xp.ones_like(sizes[name]))
            for name, x in self.diagonal.items()
        }
        return replace(self, diagonal=found)


def fisher(
    adapter: Adapter,
    params: Params,
    loss: Loss,
    batches: Batch | Iterable[Batch],
    *,
    loss_params: Params | None = None,
    side: str = "query",
    samples: int | None = None,
    seed: int = 0,
    method: str = "exact",
    scale: float = 1.0,
) -> Fisher:
    """Return the diagonal of the empirical Fisher information of an adapter's parameters.

        F_p = (1 / n) sum_i (d l_i / d theta_p)^2

    l_i is the loss of example i alone, an anchor with its row of the relation, the references
    held as they are. It is the mean of squares over examples and not the square of a mean, so it
    does not depend on how examples are cut into batches, as long as their references are the
    same.

    Args:
        adapter, params: the adapter and its own parameters, named as its ``init`` names them
            (those of a run of ``fit``: ``coreframe.compose.under("adapter", run.params)``); they
            are brought to the library and dtype of each batch.
        loss: a loss with the reduction "none", which is set here, inside of a weighted sum too.
        batches: a ``Batch`` of vectors before the adapter, or an iterable of them. Without
            references, the anchors are each other's.
        loss_params: the parameters of the loss itself, brought likewise; they get no Fisher.
            Default: none.
        side: "query": anchors pass the adapter; references and own negatives are data, and a
            labelled batch's references are its adapted anchors, held. "both": references and own
            negatives pass the adapter too, and example i's gradient goes through all of them.
            Default: "query".
        samples: at most so many examples, drawn without replacement from all batches.
            Default: None, all of them.
        seed: of that draw. Default: 0.
        method: "exact", or "row_wise": with side="both", every vector counts as an example of
            its own with the gradient that it has in its batch; a fast approximation, which does
            depend on the batches. With side="query" both are the same. Default: "exact".
        scale: the loss is multiplied by it first. d / 2 makes a squared error that is a mean
            over d dimensions the negative log-likelihood of a unit normal. Default: 1.

    Shapes: anchors (n, d), references (m, d), negatives (n, k, d); the diagonal has the shapes
    of the parameters, and the batch's dtype, float32 for anything narrower.

    Edges: an example's weight multiplies its loss, so its square counts by the weight squared;
    n counts all examples drawn, those of weight 0 or without a positive with gradient 0. No
    examples, NaN, a loss without a value for each example: ArgumentError. A fresh low-rank
    adapter has B = 0, and so the Fisher 0 for A: take it after training. With side="query" the
    loss of a row must not depend on the other anchors, as no loss of rows does.

    Cost: with side="query" one call of the loss and about two products (n, d) x (d, d) a batch:
    the adapter's own, and one of squares. With side="both", exact, each example has a call of
    its own, O(m d) for a ``PairwiseLoss`` and O(n m d) else, and a pullback of all vectors of
    the batch. An iterator of batches costs the memory of one: each is dropped before the next is
    asked for. With ``samples`` all are held, since a draw has to know how many examples there are.

    References: Kirkpatrick et al. 2017, arXiv 1612.00796; van de Ven 2025, arXiv 2502.11756,
    on what else is called so.

    >>> import numpy as np
    >>> from coreframe import Batch, build
    >>> x, t = np.eye(4), np.ones((4, 4))
    >>> linear, loss = build("adapters", "linear"), build("losses", "info_nce")
    >>> found = fisher(linear, linear.init(None, 4), loss, Batch.pairs(x, t))
    >>> found.examples, found.diagonal["W"].shape
    (4, (4, 4))
    """
    for name, given, options in (("side", side, SIDES), ("method", method, METHODS)):
        if given not in options:
            raise ArgumentError(f"{name} must be one of {', '.join(options)}, got {given!r}")
    if not isinstance(adapter, Adapter):
        raise ArgumentTypeError(
            f"adapter must be a coreframe.Adapter, got {adapter!r}; by name: "
            "coreframe.build('adapters', name)"
        )
    if samples is not None and (
        isinstance(samples, bool) or not isinstance(samples, numbers.Integral) or samples < 1
    ):
        raise ArgumentError(f"samples must be a whole number from 1 or None, got {samples!r}")
    if not isinstance(scale, numbers.Real) or not 0 < scale < math.inf:
        raise ArgumentError(f"scale must be above 0 and finite, got {scale!r}")
    drawn = _drawn((batches,) if isinstance(batches, Batch) else batches, samples, seed)
    needs: set[str] = set()
    each = each_row(loss, needs)
    total: dict[str, Array] = {}
    count = 0
    for batch, rows in drawn:
        if not len(rows):
            continue
        if "references" in needs and batch.references is None:
            raise ArgumentError(
                f"{type(loss).__name__} needs references, row i with anchor i, and a batch has "
                "none; Batch.pairs(anchors, targets) has"
            )
        batch = _widened(batch)
        own = _brought(params, batch.anchors)
        _check_width(adapter, own, batch)
        theirs = None if loss_params is None else _brought(loss_params, batch.anchors)
        call = Examples(adapter, own, each, theirs, batch, rows)
        if side == "query":
            squares = call.query()
        else:
            squares = call.both() if method == "exact" else call.row_wise()
        add(total, squares)
        count += len(rows)
        del batch, call, squares  # not held while an iterator makes the next one
    if not count:
        raise ArgumentError("batches holds no examples, so there is no Fisher information")
    diagonal = {name: x * (scale * scale / count) for name, x in total.items()}
    xp = namespace(**diagonal)
    for name, x in diagonal.items():
        if not bool(xp.all(xp.isfinite(x))):
            raise ArgumentError(
                f"the Fisher information of {name!r} is not finite; look for NaN in the "
                "parameters and batches, or make scale smaller"
            )
    return Fisher(diagonal, count, method)


def _widened(batch: Batch) -> Batch:
    """Return a batch in float32, where it is narrower: squares of float16 would be 0."""
    xp = namespace(anchors=batch.anchors)
    dtype = computing_dtype(batch.anchors, xp)
    if batch.anchors.dtype == dtype:
        return batch
    return replace(batch, **{name: xp.astype(x, dtype) for name, x in fields_of(batch).items()})


def _drawn(batches: Iterable[Batch], samples: int | None, seed: int) -> Iterator[tuple[Batch, Any]]:
    """Yield each batch with its rows that count; hold them only where some are to be drawn."""
    if samples is None:
        for batch in _checked(batches):
            yield batch, np.arange(batch.anchors.shape[0])
            del batch
        return
    held = list(_checked(batches))
    sizes = [batch.anchors.shape[0] for batch in held]
    count, start = sum(sizes), 0
    rows = np.arange(count)
    if samples < count:
        rows = np.sort(stream(seed, "fisher").choice(count, samples, replace=False))
    for batch, size in zip(held, sizes, strict=True):
        first, last = np.searchsorted(rows, (start, start + size))
        yield batch, rows[first:last] - start
        start += size


def _checked(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches, each checked for its type, and to be of the library of the first."""
    first: Array = None
    number = 0
    for batch in batches:
        if not isinstance(batch, Batch):
            raise ArgumentTypeError(
                f"batches must be a coreframe.Batch or an iterable of them, got a "
                f"{type(batch).__name__} in it; Batch.pairs(anchors, targets) makes one"
            )
        xp = namespace(**{"batches_0": first, f"batches_{number}": batch.anchors})
        if first is None:  # one number stands for it, so that the batch need not be held
            first = xp.zeros((), dtype=batch.anchors.dtype, device=device_of(batch.anchors))
        yield batch
        del batch
        number += 1  # noqa: SIM113 - enumerate would hold the batch that it gave last


def _check_width(adapter: Adapter, params: Params, batch: Batch) -> None:
    """Raise ArgumentError unless these are the adapter's parameters, for vectors of this width."""
    try:
        thin = adapter.thin(params)
        first = adapter.matrix(params)[0] if thin is None else thin[0]
    except KeyError as missing:
        raise ArgumentError(
            f"params lacks {missing} of {type(adapter).__name__}, it has {', '.join(params)}; "
            'coreframe.compose.under("adapter", run.params) gives those of a run'
        ) from None
    if first.shape[0] != batch.anchors.shape[1]:
        raise ArgumentError(
            f"the anchors have width {batch.anchors.shape[1]}, but the parameters are of an "
            f"adapter of width {first.shape[0]}"
        )


def _brought(params: Params, like: Array) -> Params:
    """Return parameters in the library, device and dtype of an array."""
    xp, device = namespace(anchors=like), device_of(like)
    found: dict[str, Array] = {}
    for name, p in params.items():
        try:
            namespace(anchors=like, **{name: p})
        except ArgumentError:  # of another library or device
            p = xp.asarray(to_numpy(p), device=device)
        found[name] = p if p.dtype == like.dtype else xp.astype(p, like.dtype)
    return found
