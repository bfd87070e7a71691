"""Cached steps: a batch as large as the loss wants, through an encoder a part at a time.

A contrastive loss wants many rows at once; an encoder's activations are what they cost. But the
loss needs embeddings only, and the encoder, given their gradients, can go row by row (GradCache):

    1. y_i = forward(x_i)       part by part, and nothing is kept but the embeddings
    2. dy  = d loss / d y       on all of them together
    3. forward(x_i) again, and its pullback of dy_i, part by part; the gradients add up

``cached`` is steps 1 and 3 as one forward and its pullback, so that it goes wherever an encoder
goes; ``cached_step`` is all three.
"""

from __future__ import annotations

import copy
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from coreframe import checks
from coreframe.adapter import Pullback
from coreframe.backend import Array, Params, namespace
from coreframe.batch import Batch
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.loss import Loss
from coreframe.recompute import Forward
from coreframe.result import LossResult

__all__ = ["cached_step"]


def cached(
    forward: Forward, x: Array, *, mini_batch_size: int, rng: Any = None
) -> tuple[Array, Pullback]:
    """Run an encoder on parts of its rows, keep no activations, and run it again for gradients.

        y = forward(x);   held for the gradients: x, and the state of rng before each part

    The pullback runs part after part again, with the same draws, and adds up the gradients. They
    equal those of the plain pass but for the order of the sum. Noise: the parts take their draws
    from ``rng`` one after the other, so that an encoder that draws once, row by row, has the same
    noise in any parts, and none; another has other noise than in one pass, and the same in both
    of its passes here. An encoder whose rows depend on each other (batch normalisation) has no
    parts: it would be another function.

    Args:
        forward: ``forward(x, rng) -> (y, pullback)`` with
            ``pullback(dy, need_dx=True) -> (gradients by name, dx or None)``.
        x: the input, rows first, of any dtype: embeddings, or tokens.
        mini_batch_size: rows a part, >= 1.
        rng: a ``numpy.random.Generator``. Default: None, the encoder gets None.

    Shapes: x (n, ...) to y (n, d); gradients as the encoder's parameters; dx as x.

    Edges: with no more rows than a part has, it is the plain pass, and nothing is run again. On
    the host (everywhere under COREFRAME_CHECKS=1) a part that gives something else the second
    time is an error.

    Cost: one more forward pass; memory of one part's activations, in place of all.

    References: Gao et al. 2021, arXiv 2101.06983 (GradCache).

    >>> from numpy import ones
    >>> double = lambda x, rng: (2 * x, lambda dy, need_dx=True: ({}, 2 * dy))
    >>> y, pullback = cached(double, ones((5, 1)), mini_batch_size=2)
    >>> y[:, 0].tolist(), pullback(ones((5, 1)))[1][:, 0].tolist()
    ([2.0, 2.0, 2.0, 2.0, 2.0], [2.0, 2.0, 2.0, 2.0, 2.0])
    """
    whole = isinstance(mini_batch_size, numbers.Integral) and not isinstance(mini_batch_size, bool)
    if not whole or mini_batch_size < 1:
        raise ArgumentError(
            f"mini_batch_size must be a whole number from 1, got {mini_batch_size!r}"
        )
    xp, n = namespace(x=x), int(x.shape[0])
    if n <= mini_batch_size:
        return forward(x, rng)
    parts = [slice(i, min(i + mini_batch_size, n)) for i in range(0, n, mini_batch_size)]
    states, made = [], []
    for part in parts:
        states.append(copy.deepcopy(rng))
        made.append(forward(x[part, ...], rng)[0])
    y = xp.concat(made, axis=0)
    del made

    def pullback(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
        total: dict[str, Array] = {}
        slopes = []
        for part, state in zip(parts, states, strict=True):
            again, back = forward(x[part, ...], copy.deepcopy(state))
            _check_again(again, y[part, ...], part)
            own, dx = back(dy[part, ...], need_dx=need_dx)
            for name, g in own.items():
                total[name] = total[name] + g if name in total else g
            slopes.append(dx)
        return total, xp.concat(slopes, axis=0) if need_dx else None

    return y, pullback


def cached_step(
    forward: Forward | Mapping[str, Forward],
    loss: Loss | Callable[[Mapping[str, Array]], LossResult],
    inputs: Mapping[str, Array],
    *,
    mini_batch_size: int,
    rng: Any = None,
) -> tuple[LossResult, Params]:
    """Return a loss on a whole batch, and the gradients of the encoder that made it, by parts.

        result = loss(forward(inputs));   gradients = sum over parts of pullback(d loss / d part)

    Any encoder will do that comes with its pullback, of any library: two towers too.

    Args:
        forward: ``forward(x, rng) -> (y, pullback)``, for all inputs; or one for each input, by
            its name. An input without one is taken as it is: embeddings that stay frozen.
        loss: a ``Loss`` on pairs, for inputs "anchors", "references" and maybe "negatives"; or a
            function from embeddings by name to a ``LossResult`` whose ``grads`` have those names.
        inputs: what the encoder takes, by name: (n, ...), rows first. Negatives have (n, k, ...).
        mini_batch_size: rows a part, >= 1.
        rng: a ``numpy.random.Generator``. Default: None, the encoder gets None.

    Returns:
        the loss's result, with its gradients by the embeddings; and the gradients by the names of
        the encoder's parameters, added up over the inputs. Of several encoders the names are
        ``<input>.<parameter>``.

    Shapes: embeddings (n, d), negatives (n, k, d).

    Edges: an encoder for an input that is not there is an error, and so is a loss whose value is
    not one number.

    Cost: as ``cached``, for each input, and the loss.

    References: Gao et al. 2021, arXiv 2101.06983.

    >>> import numpy as np
    >>> from coreframe_losses.info_nce import InfoNCE
    >>> def encoder(x, rng):
    ...     return x @ W, lambda dy, need_dx=True: ({"W": x.T @ dy}, dy @ W.T)
    >>> W, x = np.eye(4), np.eye(4)
    >>> result, grads = cached_step(
    ...     encoder, InfoNCE(), {"anchors": x, "references": x}, mini_batch_size=2
    ... )
    >>> grads["W"].shape
    (4, 4)
    """
    several = isinstance(forward, Mapping)
    encoders = dict(forward) if isinstance(forward, Mapping) else dict.fromkeys(inputs, forward)
    if unknown := sorted(set(encoders) - set(inputs)):
        raise ArgumentError(
            f"forward names {unknown[0]!r}, but inputs has {', '.join(sorted(inputs))}"
        )
    embeddings: dict[str, Array] = {}
    pullbacks: dict[str, Pullback] = {}
    for name, x in inputs.items():
        if name not in encoders:
            embeddings[name] = x
            continue
        xp = namespace(**{name: x})
        nested = name == "negatives"
        flat = xp.reshape(x, (-1, *x.shape[2:])) if nested else x
        y, pullbacks[name] = cached(encoders[name], flat, mini_batch_size=mini_batch_size, rng=rng)
        embeddings[name] = xp.reshape(y, (*x.shape[:2], y.shape[-1])) if nested else y
    if isinstance(loss, Loss):
        batch = Batch.with_negatives(
            embeddings["anchors"], embeddings["references"], own=embeddings.get("negatives")
        )
        result = loss.value_and_grad(batch, wrt=tuple(pullbacks))
    elif callable(loss):
        result = loss(embeddings)
    else:
        raise ArgumentTypeError(f"loss must be a Loss or a function, got {loss!r}")
    if getattr(result.value, "ndim", 0):
        raise ArgumentError("a cached step needs a loss with one value: a reduction but 'none'")
    total: dict[str, Array] = {}
    for name, pullback in pullbacks.items():
        slope = result.grads[name]
        slope = namespace(slope=slope).reshape(slope, (-1, slope.shape[-1]))
        for key, g in pullback(slope, need_dx=False)[0].items():
            key = f"{name}.{key}" if several else key
            total[key] = total[key] + g if key in total else g
    return result, total


def _check_again(again: Array, before: Array, part: slice) -> None:
    """Make sure that a part gave what it gave before, where looking is cheap."""
    if not checks.visible(again):
        return
    xp = namespace(again=again)
    # Rows may be added up in another order at another place in memory; noise is far larger.
    close = 1e3 * float(xp.finfo(again.dtype).eps) * xp.max(xp.abs(before))
    same = (xp.abs(again - before) <= close) | (again == before) | (again != again)
    if again.shape != before.shape or not bool(xp.all(same)):
        raise ArgumentError(
            f"the encoder gave another output for rows {part.start} to {part.stop - 1} when it was "
            "run again: it must draw from the rng that it is given, and keep no state"
        )
