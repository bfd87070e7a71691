"""Schedulers of coreframe as functions for ``torch.optim.lr_scheduler.LambdaLR``."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable

from coreframe import registry
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.scheduler import Progress, Scheduler

__all__ = ["lr_lambda"]


def lr_lambda(
    scheduler: Scheduler,
    *,
    base: float,
    steps: int | None = None,
    batch_size: int = 0,
    steps_per_epoch: int | None = None,
) -> Callable[[int], float]:
    """Return the function of the step that ``LambdaLR`` multiplies a learning rate by.

        factor = scheduler(step) / base

    LambdaLR multiplies the learning rate that the optimizer was made with, and a scheduler of
    coreframe says the learning rate itself; ``base`` is the first of the two, so that the product
    is the second. The factor at step t is for update t + 1, in both. Call ``step`` of the LambdaLR
    once an update.

    Args:
        scheduler: any ``coreframe.Scheduler`` with numbers for values.
        base: the learning rate of the optimizer, or of the group. Not 0: nothing makes another
            number of it by multiplying.
        steps: updates planned, for schedules that depend on it. Default: None, an open-ended run.
        batch_size: examples an update, for schedules that count them. Default: 0, none does.
        steps_per_epoch: updates an epoch, for schedules that count epochs. Default: None, none
            does.

    Edges: groups of other learning rates keep their ratio to ``base``; several groups with a
    schedule each take a list of functions. The function pickles, and has no state to save.

    Raises ArgumentError for a base of 0, and for a value that is no finite number.

    >>> import coreframe as cf
    >>> warm = cf.build("schedulers", "linear", start=0.0, end=0.1)
    >>> factor = lr_lambda(warm, base=0.1, steps=10)
    >>> [round(factor(step), 2) for step in (0, 5, 10)]
    [0.0, 0.5, 1.0]
    """
    if not isinstance(scheduler, Scheduler):
        raise ArgumentTypeError(f"scheduler must be a coreframe.Scheduler, got {scheduler!r}")
    if isinstance(base, bool) or not isinstance(base, numbers.Real):
        raise ArgumentTypeError(f"base must be a number, got {base!r}")
    if base == 0 or not math.isfinite(base):
        raise ArgumentError(
            f"base must be finite and not 0, got {base!r}: LambdaLR multiplies it; give the "
            "optimizer lr=1, and base=1, to have the scheduler's own values"
        )
    return functools.partial(_factor, scheduler, float(base), steps, batch_size, steps_per_epoch)


def _factor(
    scheduler: Scheduler,
    base: float,
    steps: int | None,
    batch_size: int,
    steps_per_epoch: int | None,
    step: int,
) -> float:
    epoch = step // steps_per_epoch if steps_per_epoch else 0
    progress = Progress(step=step, steps=steps, samples=step * batch_size, epoch=epoch)
    with registry.naming_plugins():
        value = scheduler(progress)
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ArgumentError(
            f"{type(scheduler).__name__} gives {value!r} at step {step}, which is no learning rate"
        )
    return float(value) / base
