"""The loop over blocks of rows, with threads, and memory that is used again."""

from __future__ import annotations

import contextvars
import threading
from collections import deque
from concurrent.futures import Future
from typing import Any

import numpy as np

from coreframe.backend import Array
from coreframe.blocks import Memory, Part, Rows
from coreframe_numpy.kernels import threads


class ReusedMemory(Memory):
    """One buffer a thread for the products of blocks, kept for the length of a call."""

    def __init__(self) -> None:
        self._buffer: np.ndarray | None = None

    def product(self, a: Array, b: Array, xp: Any) -> Array:
        shape = (a.shape[0], b.shape[1])
        size = shape[0] * shape[1]
        if self._buffer is None or self._buffer.size < size:
            self._buffer = np.empty(size, a.dtype)
        return np.matmul(a, b, out=self._buffer[:size].reshape(shape))

    def keep_rows(self, keep: Array, x: Array, xp: Any) -> Array:
        return x if keep.all() else np.where(keep[:, None], x, 0)


def block_loop(left: Array, rows: Rows) -> Part:
    """Run the blocks on the pool. Every sum over blocks is added in block order, whatever the
    number of threads; each block runs with one BLAS thread.
    """
    slices = rows.slices
    if len(slices) == 1:
        return rows.block(slices[0], Memory())

    n, d = left.shape
    losses, counted = np.empty(n, left.dtype), np.empty(n, bool)
    d_left = np.empty((n, d), left.dtype) if "left" in rows.wants else None
    d_own = np.empty_like(rows.own) if "own" in rows.wants and rows.own is not None else None
    local = threading.local()

    def run(part: slice) -> Part:
        memory = getattr(local, "memory", None)
        if memory is None:
            memory = local.memory = ReusedMemory()
        result = rows.block(part, memory)
        # Copied before the next block of this thread uses the memory that it may look into.
        losses[part], counted[part] = result.losses, result.counted
        if d_left is not None:
            d_left[part] = result.left
        if d_own is not None:
            d_own[part] = result.own
        return Part(losses[:0], counted[:0], None, None, result.sums)

    sums: dict[str, Any] = {}
    with threads.one_blas_thread():
        for part in _in_order(run, slices, rows.plan.at_once):
            for name, x in part.sums.items():
                before = sums.get(name)
                out = before if x.ndim else None  # each block's sums are its own to write to
                sums[name] = x if before is None else np.add(before, x, out=out)
    return Part(losses, counted, d_left, d_own, sums)


def _in_order(run: Any, slices: list[slice], at_once: int) -> Any:
    """Yield run(part) for each part in order, with up to ``at_once`` of them under way."""
    pool = threads.pool() if at_once > 1 else None
    if pool is None:
        yield from map(run, slices)
        return
    ahead = min(threads.count(), at_once)
    waiting: deque[Future[Part]] = deque()
    try:
        for part in slices:
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
            # The caller's context carries its floating-point error settings.
            waiting.append(pool.submit(contextvars.copy_context().run, run, part))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:  # one failed: let none go on behind the caller's back
            if not future.cancel():
                future.exception()
