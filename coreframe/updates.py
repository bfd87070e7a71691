"""One update of a run: gradients are clipped, and parameters, optimizer state and average move.

The arrays of a run are its own. On the host they are overwritten by the next update, so whoever
wants to keep them takes ``copy()``; on a device each update makes new ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from coreframe import checks
from coreframe.backend import Array, Params, namespace, to_numpy
from coreframe.compose import under
from coreframe.errors import ArgumentError
from coreframe.gradients import (
    MovingAverage,
    clip_by_global_norm,
    clip_by_value,
    global_norm,
)
from coreframe.guard import Skips
from coreframe.loss import Loss
from coreframe.optimizer import Optimizer, Rule
from coreframe.regularizer import Regularizer
from coreframe.scheduler import Progress, Scheduler, plain, resolve
from coreframe.step import named


class Updates:
    """The parameters of adapter and loss, and what moves them."""

    def __init__(
        self,
        params: Params,
        *,
        optimizer: Optimizer,
        loss: Loss,
        regularizers: Sequence[Regularizer] = (),
        max_grad_norm: float | None = None,
        max_grad_value: float | None = None,
        ema_decay: float | Scheduler | None = None,
        max_skipped_steps: int | None = None,
    ) -> None:
        if not optimizer.rules and hasattr(optimizer, "weight_decay"):
            no_decay = Rule(lambda _, x: x.ndim <= 1, {"weight_decay": 0.0})
            optimizer = replace(optimizer, rules=(no_decay,))
        self.optimizer = optimizer
        self.loss = loss
        self.max_grad_norm = max_grad_norm
        self.max_grad_value = max_grad_value
        self.xp = namespace(**params)
        self.params: Params = _copied(params, self.xp)
        self.state = optimizer.init(self.params)
        self.regularizers = [r.begin(under("adapter", self.copy())) for r in regularizers]
        self.average = None if ema_decay is None else MovingAverage(decay=ema_decay)
        self.smooth = {} if self.average is None else self.average.init(self.copy())
        self.done = 0
        self.skips = Skips(max_skipped_steps)
        self.lost = False
        """Whether the host has seen the last update to be left out."""

    @property
    def skipped(self) -> int:
        """How many updates were left out because loss or gradients were not finite."""
        return int(self.skips.total)

    def arrays(self) -> dict[str, Any]:
        """Return all that an update moves, by names that say what it is."""
        return {
            **named("params", self.params),
            **named("optimizer", self.state),
            **named("average", self.smooth),
        }

    def restore(self, arrays: Mapping[str, Any], done: int, skipped: int, streak: int) -> None:
        """Go on from ``arrays`` as they were after ``done`` updates.

        Raises ArgumentError unless they are of exactly these parameters and this optimizer.
        """
        now = self.arrays()
        wrong = [name for name in now if _kind(arrays.get(name)) != _kind(now[name])]
        if wrong or len(arrays) != len(now):
            names = wrong or [name for name in arrays if name not in now]
            raise ArgumentError(
                f"the saved {names[0]} is {_kind(arrays.get(names[0]))}, "
                f"the run's is {_kind(now.get(names[0]))}"
            )
        self.params, self.state = under("params", arrays), under("optimizer", arrays)
        self.smooth = under("average", arrays)
        self.done = done
        self.skips.restore(skipped, streak)

    def copy(self) -> Params:
        """Return the parameters as they are now, for keeping."""
        return _copied(self.params, self.xp)

    def averaged(self) -> Params:
        """Return the moving average if there is one, else the parameters; no update writes to it
        in the first case.
        """
        return self.params if self.average is None else self.average.params(self.smooth)

    def take(self, value: Array, grads: Params, progress: Progress) -> tuple[Array, Optimizer]:
        """Move everything by one batch's loss and gradients.

        Returns the norm of the gradients, and the optimizer with the numbers it had. A value or
        gradient that is not finite never reaches the parameters. The host looks, and leaves the
        update out; on a device a look is a wait, so there the choice is made between the arrays
        before and after.
        """
        xp = self.xp
        grads, norm = self._clipped(grads)
        sound = xp.isfinite(value) & xp.isfinite(norm)
        now = resolve(self.optimizer, progress)
        average = None if self.average is None else resolve(self.average, progress)
        seen = checks.visible(value)
        self.lost = seen and not bool(sound)
        if seen:
            self.skips.seen(not self.lost, self.done)
        else:
            sound = self.skips.allowed(sound)
            norm = xp.where(sound, norm, xp.nan * xp.ones_like(norm))
            self.skips.unseen(sound, self.done, xp)
        if self.lost:
            self.state = {**self.state, "step": self.state["step"] + 1}
        else:
            if self.done == 0:
                params, state = _checked_update(now, self.params, grads, self.state)
            else:
                params, state = now.update(self.params, grads, self.state, donate=seen)
            params = self._moved(params, now, progress)
            if not seen:
                params = _choose(sound, params, self.params, xp)
                state = _choose(sound, state, self.state, xp)
            self.params, self.state = params, state
            if average is not None:
                smooth = average.update(self.smooth, params)
                self.smooth = smooth if seen else _choose(sound, smooth, self.smooth, xp)
        self.done += 1
        return norm, now

    def _clipped(self, grads: Params) -> tuple[Params, Array]:
        """Return the gradients within their limits, and their norm before."""
        if self.max_grad_value is not None:
            grads = clip_by_value(grads, self.max_grad_value)
        if self.max_grad_norm is not None:
            return clip_by_global_norm(grads, self.max_grad_norm)
        return grads, global_norm(grads)

    def _moved(self, params: Params, optimizer: Optimizer, progress: Progress) -> Params:
        """Return the parameters after what follows an update: proximal steps, and the loss's
        parameters moved back to where they are allowed to be.
        """
        # NumPy's arithmetic turns arrays without dimensions into its scalars.
        own = {name: self.xp.asarray(x) for name, x in under("adapter", params).items()}
        terms = [r for r in self.regularizers if r.of == "parameters"]
        if terms:
            rates = {
                name: plain(optimizer.for_parameter(f"adapter.{name}", x).learning_rate)
                for name, x in own.items()
            }
            for term in terms:
                own = dict(resolve(term, progress).after_step(own, rates))
        loss = {name: self.xp.asarray(x) for name, x in under("loss", params).items()}
        return {**named("adapter", own), **named("loss", self.loss.project(loss))}


def _copied(params: Params, xp: Any) -> dict[str, Array]:
    return {name: xp.asarray(x, copy=True) for name, x in params.items()}


def _kind(x: Any) -> str:
    """Return what must agree: the shape and dtype of an array, the type of a number."""
    if hasattr(x, "dtype"):
        return f"{str(x.dtype).rpartition('.')[-1]} {tuple(x.shape)}"
    return "nothing" if x is None else f"a number ({type(x).__name__})"


def _checked_update(
    optimizer: Optimizer, params: Params, grads: Params, state: Mapping[str, Any]
) -> tuple[Params, Mapping[str, Any]]:
    """Update once, and make sure that the optimizer leaves its arguments as they are."""
    before = {name: to_numpy(x).copy() for name, x in params.items()}
    result = optimizer.update(params, grads, state)
    for name, x in params.items():
        if not np.array_equal(to_numpy(x), before[name], equal_nan=True):
            raise ArgumentError(
                f"{type(optimizer).__name__} writes to the parameter {name!r} that it was given; "
                "step must return new arrays, since the old ones are still needed"
            )
    return result


def _choose(ok: Array, new: Mapping[str, Any], old: Mapping[str, Any], xp: Any) -> dict[str, Any]:
    """Return new where the step was sound, else old, without looking at the flag on the host."""
    return {
        name: xp.where(ok, x, old[name]) if hasattr(x, "dtype") else x for name, x in new.items()
    }
