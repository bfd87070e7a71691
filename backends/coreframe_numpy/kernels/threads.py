"""One pool of threads for the process, and BLAS held to one thread while it is at work.

The pool's size is COREFRAME_THREADS, else the processors this process may use. It is made on
first use and dropped in a forked child, whose threads are gone.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
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
        if not setting.isdecimal() or int(setting) < 1:
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


def together(work: Callable[[], None], most: int) -> None:
    """Run ``work`` on up to ``most`` threads at once, this one included, and wait for all.

    It is to take pieces of work from somewhere until none is left. The first error is raised, when
    all have ended.
    """
    workers = pool() if most > 1 else None
    if workers is None:
        work()
        return
    # The caller's context carries its floating-point error settings.
    others = [
        workers.submit(contextvars.copy_context().run, work) for _ in range(min(count(), most) - 1)
    ]
    _here.worker = True  # what is called from here has its threads
    try:
        work()
    finally:
        _here.worker = False
        started = [other for other in others if not other.cancel()]
        wait(started)
    for other in started:
        other.result()


def each(run: Callable[[S], T], parts: Sequence[S]) -> list[T]:
    """Return run(part) for each part, worked on by all threads."""
    results: list[Any] = [None] * len(parts)
    waiting = deque(enumerate(parts))

    def work() -> None:
        while True:
            try:
                i, part = waiting.popleft()
            except IndexError:
                return
            try:
                results[i] = run(part)
            except BaseException:
                waiting.clear()  # let none go on behind the caller's back
                raise

    together(work, len(parts))
    return results


def in_order(run: Callable[[S], T], parts: Sequence[S], at_once: int) -> Iterator[T]:
    """Yield run(part) for each part in order, with at most ``at_once`` of them under way."""
    workers = pool() if at_once > 1 and len(parts) > 1 else None
    if workers is None:
        yield from map(run, parts)
        return
    ahead = min(count() + 1, at_once)  # one more, so that none of the threads waits for us
    waiting: deque[Future[T]] = deque()
    try:
        for part in parts:
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
            waiting.append(workers.submit(contextvars.copy_context().run, run, part))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:  # one failed: let none go on behind the caller's back
            if not future.cancel():
                future.exception()


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
