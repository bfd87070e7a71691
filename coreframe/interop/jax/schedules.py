"""Schedulers of coreframe as schedules of optax, which are functions of the count of updates.

A scheduler is plain Python on numbers, and under ``jax.jit`` the count is none. So its values are
computed once, for all counts of the run, and looked up.
"""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coreframe import registry
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.scheduler import Progress, Scheduler

__all__ = ["schedule"]


def schedule(
    scheduler: Scheduler,
    *,
    steps: int | None = None,
    batch_size: int = 0,
    steps_per_epoch: int | None = None,
) -> Schedule:
    """Return a scheduler as a schedule of optax, a function of the count of updates.

    The value at count t is for update t + 1, in both libraries.

    Args:
        scheduler: any ``coreframe.Scheduler`` with numbers for values.
        steps: updates planned, at least 1. Default: None, an open-ended run, whose values can be
            asked for outside of ``jax.jit`` only.
        batch_size: examples an update, for schedules that count them. Default: 0, none does.
        steps_per_epoch: updates an epoch, for schedules that count epochs. Default: None, none
            does.

    Shapes: a count goes in, of any shape; the value has its shape, and is a plain float where the
    count is one number that is known.

    Dtypes: float32, or float64 under ``jax_enable_x64``.

    Edges: a count that JAX traces, or that has a shape, is looked up in a table of the values at
    0 to ``steps``, made once by as many calls of Python; counts past it have its last value, those
    below 0 its first. A scheduler that is ``endless`` needs all steps that are ever asked for.

    Raises ArgumentError for a count that is traced without ``steps``, and for a value that is no
    finite number.

    >>> import coreframe as cf
    >>> rate = schedule(cf.build("schedulers", "linear", start=0.0, end=0.1), steps=10)
    >>> round(float(jax.jit(rate)(5)), 6), rate(10)
    (0.05, 0.1)
    """
    if not isinstance(scheduler, Scheduler):
        raise ArgumentTypeError(f"scheduler must be a coreframe.Scheduler, got {scheduler!r}")
    for name, x in (("steps", steps), ("steps_per_epoch", steps_per_epoch)):
        whole = isinstance(x, numbers.Integral) and not isinstance(x, bool)
        if x is not None and not (whole and x >= 1):
            raise ArgumentError(f"{name} must be a whole number of at least 1, or None, got {x!r}")
    return Schedule(scheduler, steps, batch_size, steps_per_epoch)


@dataclass(frozen=True)
class Schedule:
    """What ``schedule`` returns."""

    scheduler: Scheduler
    steps: int | None = None
    batch_size: int = 0
    steps_per_epoch: int | None = None

    def __call__(self, count: Any) -> Any:
        if not isinstance(count, jax.core.Tracer) and np.ndim(count) == 0:
            return self._value(int(count))
        table = jnp.asarray(self.table)
        return table[jnp.clip(count, 0, len(table) - 1)]

    @cached_property
    def table(self) -> Any:
        """The values at 0 to ``steps``: a NumPy array of float64."""
        if self.steps is None:
            raise ArgumentError(
                f"{type(self.scheduler).__name__} is asked for its value while JAX traces, where "
                "the count is no number yet; give steps= (the updates of the run), so that its "
                "values can be looked up"
            )
        return np.asarray([self._value(step) for step in range(self.steps + 1)])

    def progress(self, step: int) -> Progress:
        """Return where a run is after so many updates."""
        epoch = step // self.steps_per_epoch if self.steps_per_epoch else 0
        return Progress(step=step, steps=self.steps, samples=step * self.batch_size, epoch=epoch)

    def _value(self, step: int) -> float:
        with registry.naming_plugins():
            value = self.scheduler(self.progress(step))
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ArgumentError(
                f"{type(self.scheduler).__name__} gives {value!r} at step {step}, which is no "
                "finite number"
            )
        return float(value)
