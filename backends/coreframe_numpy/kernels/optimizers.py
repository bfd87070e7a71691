"""Updates of parameters at the speed of memory, all parameters of a call together.

Large arrays are cut into blocks that stay in a core's cache through all operations of a formula;
the pool works on the blocks of all arrays. An entry depends on itself alone, so that neither the
blocks nor the threads change a bit. With the extra ``compiled``, a block is one compiled loop.

Arrays that the caller gives up are written in place, if nobody else can see their memory; the
others are copied block by block, on the way through the cache.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coreframe.backend import Array
from coreframe.optimizer import Slots, Task
from coreframe.scheduler import plain
from coreframe_numpy.kernels import threads
from coreframe_numpy.kernels.compiled import available, compiled
from coreframe_numpy.kernels.compiled import optimizers as loops

BLOCK_BYTES = 1 << 18
"""Of each array, in a block: about what a core's own cache holds of five. By measurement."""

COMPILED_FROM = 1 << 18
"""Entries of a call from which compiled loops are used: the import of numba takes a second."""

Result = tuple[Array, Slots]


Block = tuple[list[np.ndarray], list[tuple[np.ndarray, np.ndarray]], Any, int, int]
"""A part of one parameter: (arrays, sources, numbers, start, stop).

arrays are flat: parameter, gradient, slots; all but the gradient are written. sources are
(from, to) for those of them that have to be filled first. numbers are the formula's: a tuple for
NumPy, an array of the dtype for the compiled loop.
"""


@dataclass(frozen=True)
class Formula:
    """An optimizer as this file computes it."""

    slots: tuple[str, ...]
    counts: bool
    """Whether it counts the updates of each parameter, in the scalar ``updates``."""
    numbers: Callable[[Any, float], tuple[float, ...]]
    """From the optimizer, and the updates of the parameter with this one."""
    block: Callable[..., None]
    """With NumPy: (scratch, parameter, gradient, *slots, *numbers)."""
    loop: Callable[..., None]
    """To be compiled: (parameter, gradient, *slots, numbers, start, stop)."""


# The formulas -----------------------------------------------------------------------------------


def _adam_numbers(optimizer: Any, updates: float) -> tuple[float, ...]:
    """m^ / (sqrt(v^) + epsilon) = m / (sqrt(v) + epsilon') times a number: one pass less."""
    rate, decay = plain(optimizer.learning_rate), plain(optimizer.weight_decay)
    beta1, beta2 = plain(optimizer.beta1), plain(optimizer.beta2)
    decoupled = getattr(optimizer, "decoupled", True)
    root = math.sqrt(_filled(beta2, updates))
    return (
        beta1, 1 - beta1, beta2, 1 - beta2,
        0.0 if decoupled else decay, 1 - rate * decay if decoupled else 1.0,
        plain(optimizer.epsilon) * root, rate * root / _filled(beta1, updates),
    )  # fmt: skip


def _filled(beta: float, updates: float) -> float:
    """Return 1 - beta^t, without the loss of digits."""
    return -math.expm1(updates * math.log(beta)) if beta else 1.0


def _adam_block(
    scratch: np.ndarray, p: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray,
    beta1: float, rest1: float, beta2: float, rest2: float,
    coupled: float, kept: float, epsilon: float, rate: float,
) -> None:  # fmt: skip
    if coupled:
        g = g + coupled * p
    np.multiply(m, beta1, out=m)
    np.multiply(g, rest1, out=scratch)
    np.add(m, scratch, out=m)
    np.multiply(v, beta2, out=v)
    np.multiply(g, g, out=scratch)
    np.multiply(scratch, rest2, out=scratch)
    np.add(v, scratch, out=v)
    if kept != 1:
        np.multiply(p, kept, out=p)
    np.sqrt(v, out=scratch)
    np.add(scratch, epsilon, out=scratch)
    np.divide(m, scratch, out=scratch)
    np.multiply(scratch, rate, out=scratch)
    np.subtract(p, scratch, out=p)


def _sgd_numbers(optimizer: Any, updates: float) -> tuple[float, ...]:
    return (
        plain(optimizer.momentum), plain(optimizer.weight_decay), plain(optimizer.learning_rate),
        float(optimizer.nesterov),
    )  # fmt: skip


def _sgd_block(
    scratch: np.ndarray, p: np.ndarray, g: np.ndarray, v: np.ndarray,
    momentum: float, decay: float, rate: float, nesterov: float,
) -> None:  # fmt: skip
    if decay:
        g = g + decay * p
    np.multiply(v, momentum, out=v)
    np.add(v, g, out=v)
    if nesterov:
        np.multiply(v, momentum, out=scratch)
        np.add(g, scratch, out=scratch)
        np.multiply(scratch, rate, out=scratch)
    else:
        np.multiply(v, rate, out=scratch)
    np.subtract(p, scratch, out=p)


ADAM = Formula(("first_moment", "second_moment"), True, _adam_numbers, _adam_block, loops.adam)
SGD = Formula(("velocity",), False, _sgd_numbers, _sgd_block, loops.sgd)


def adam(tasks: Sequence[Task], donate: bool) -> Any:
    """Adam and AdamW."""
    return _run(ADAM, tasks, donate)


def sgd(tasks: Sequence[Task], donate: bool) -> Any:
    """Stochastic gradient descent."""
    return _run(SGD, tasks, donate)


# The walk over blocks ---------------------------------------------------------------------------


def _run(formula: Formula, tasks: Sequence[Task], donate: bool) -> Any:
    dtype = tasks[0].parameter.dtype
    kinds = {(type(t.parameter), type(t.gradient), t.parameter.dtype) for t in tasks}
    if kinds != {(np.ndarray, np.ndarray, dtype)} or not dtype.isnative:
        return NotImplemented
    total = sum([task.parameter.size for task in tasks])
    compile_it = total >= COMPILED_FROM and dtype.char in "fd" and available()
    length = BLOCK_BYTES // dtype.itemsize * (2 if compile_it else 1)
    results: list[Result] = []
    blocks: deque[Block] = deque()
    known: dict[tuple[int, float], Any] = {}  # numbers, which parameters mostly share
    given: list[int] = []  # ids of what is written in place
    seen: set[int] = set()  # and of what else is in the call
    names = ("", *formula.slots)
    for optimizer, parameter, gradient, slots, _ in tasks:  # plain code: there may be many small
        seen.add(_owner(gradient))
        if not gradient.flags.carray or _borrowed(gradient):  # numba's loops take no other
            gradient = np.array(gradient, order="C")
        arrays: list[np.ndarray] = []
        sources: list[tuple[np.ndarray, np.ndarray]] = []
        after: Slots = {}
        for name in names:
            x = out = slots[name] if name else parameter
            if donate and x.base is None and x.flags.carray:
                given.append(id(x))
            else:
                seen.add(_owner(x))
                if _borrowed(x):  # copied before anything is written
                    x = np.array(x, order="C")
                out = np.empty(x.shape, dtype)
                sources.append((_flat(x), _flat(out)))
            after[name] = out
            arrays.append(out if out.ndim == 1 else out.reshape(-1))
        arrays.insert(1, _flat(gradient))
        updates = slots["updates"].item() + 1 if formula.counts else 0
        found = known.get((id(optimizer), updates))
        if found is None:
            numbers: Any = formula.numbers(optimizer, updates)
            numbers = np.asarray(numbers, dtype) if compile_it else numbers
            found = known[id(optimizer), updates] = numbers, np.asarray(updates, dtype)
        if formula.counts:
            after["updates"] = found[1].copy()
        results.append((after.pop(""), after))
        size = parameter.size
        if size <= length:
            blocks.append((arrays, sources, found[0], 0, size))
            continue
        step = -(-size // -(-size // length))  # blocks of about one size
        for start in range(0, size, step):
            blocks.append((arrays, sources, found[0], start, min(start + step, size)))
    alone = set(given)
    if len(alone) < len(given) or not alone.isdisjoint(seen):  # memory of two arrays of the call
        return _run(formula, tasks, donate=False)
    work = _compiled_worker(formula) if compile_it else _worker(formula, dtype)
    threads.together(lambda: work(blocks), len(blocks))
    return results


def _owner(x: np.ndarray) -> int:
    """Return the id of the array that owns the memory."""
    return id(x if x.base is None else x.base)


def _borrowed(x: np.ndarray) -> bool:
    """Say whether the memory is somebody's who is no NumPy array: it may be that of another."""
    return x.base is not None and type(x.base) is not np.ndarray


def _flat(x: np.ndarray) -> np.ndarray:
    """Return an array in one dimension: a view where it is contiguous."""
    return x if x.ndim == 1 else x.reshape(-1)


def _worker(formula: Formula, dtype: Any) -> Callable[[deque[Block]], None]:
    """Return what one thread does with NumPy: take blocks until none is left."""

    def work(blocks: deque[Block]) -> None:
        scratch = np.empty(BLOCK_BYTES // dtype.itemsize, dtype)
        while (block := _next(blocks)) is not None:
            arrays, sources, numbers, start, stop = block
            _fill(sources, start, stop)
            formula.block(scratch[: stop - start], *[x[start:stop] for x in arrays], *numbers)

    return work


def _compiled_worker(formula: Formula) -> Callable[[deque[Block]], None]:
    """Return what one thread does with the compiled loop."""
    loop = compiled(formula.loop)

    def work(blocks: deque[Block]) -> None:
        while (block := _next(blocks)) is not None:
            arrays, sources, numbers, start, stop = block
            _fill(sources, start, stop)
            loop(*arrays, numbers, start, stop)

    return work


def _fill(sources: list[tuple[np.ndarray, np.ndarray]], start: int, stop: int) -> None:
    for source, target in sources:
        target[start:stop] = source[start:stop]


def _next(blocks: deque[Block]) -> Block | None:
    try:
        return blocks.popleft()
    except IndexError:
        return None
