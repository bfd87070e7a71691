"""How much memory a call takes, and how that grows with what it is given."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any


def peak(call: Callable[[], Any]) -> int:
    """Return the most bytes that Python and NumPy held at once during a call, beyond those before.

    The call is made twice, and the first one not counted: it may import and fill caches.
    """
    call()
    gc.collect()
    running = tracemalloc.is_tracing()
    if not running:
        tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not running:
            tracemalloc.stop()


def growth(call: Callable[[int], Callable[[], Any]], small: int, large: int) -> float:
    """Return the bytes of the peak that one more row takes, between two numbers of rows.

    ``call`` makes the inputs for so many rows, which are not counted, and returns the call.
    """
    first, last = peak(call(small)), peak(call(large))
    return (last - first) / (large - small)
