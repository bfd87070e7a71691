"""One pool of threads for the process, and BLAS held to one thread while it is at work.

The pool's size is COREFRAME_THREADS, else the processors this process may use. It is made on
first use and dropped in a forked child, whose threads are gone.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

from coreframe.errors import ArgumentError

S = TypeVar("S")
T = TypeVar("T")

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_pool_size = 0
_controller: ThreadpoolController | None = None
_limiter: Any = None
_users = 0
_here = threading.local()


def count() -> int:
    """Return how many threads to use: COREFRAME_THREADS, else the processors allowed."""
    setting = os.environ.get("COREFRAME_THREADS", "").strip()
    if setting:
        if not setting.isdigit() or int(setting) < 1:
            raise ArgumentError(f"COREFRAME_THREADS must be a whole number from 1, got {setting!r}")
        return int(setting)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def pool() -> ThreadPoolExecutor | None:
    """Return the pool, or None where threads are no help: one is asked for, or this is one."""
    global _pool, _pool_size
    size = count()
    if size == 1 or getattr(_here, "worker", False):
        return None
    with _lock:
        if _pool is None or size > _pool_size:
            # A smaller pool that is in use finishes its work and ends by itself.
            _pool = ThreadPoolExecutor(size, "coreframe", initializer=_mark)
            _pool_size = size
        return _pool


def in_order(run: Callable[[S], T], parts: Iterable[S], at_once: int | None = None) -> Iterator[T]:
    """Yield run(part) for each part in order, with up to ``at_once`` of them under way."""
    workers = pool() if at_once is None or at_once > 1 else None
    if workers is None:
        yield from map(run, parts)
        return
    ahead = count() + 1  # so that none of the threads waits for us
    if at_once is not None:
        ahead = min(ahead, at_once)
    waiting: deque[Future[T]] = deque()
    try:
        for part in parts:
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
            # The caller's context carries its floating-point error settings.
            waiting.append(workers.submit(contextvars.copy_context().run, run, part))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:  # one failed: let none go on behind the caller's back
            if not future.cancel():
                future.exception()


def each(run: Callable[[S], Any], parts: Iterable[S], at_once: int | None = None) -> None:
    """Call run(part) for each part, on the pool."""
    for _ in in_order(run, parts, at_once):
        pass


def _mark() -> None:
    _here.worker = True


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold BLAS to one thread a caller: the first in limits it, the last out restores it.

    Limits that overlap in several threads would otherwise restore each other's limit, and leave
    BLAS at one thread for ever.
    """
    global _controller, _limiter, _users
    with _lock:
        if _controller is None:
            _controller = ThreadpoolController()
        if _users == 0:
            _limiter = _controller.limit(limits=1, user_api="blas")
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                _limiter.restore_original_limits()
                _limiter = None


def _after_fork() -> None:
    global _lock, _pool, _limiter, _users
    _lock = threading.Lock()
    _pool = None
    if _limiter is not None:
        _limiter.restore_original_limits()
    _limiter, _users = None, 0
    _here.worker = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
