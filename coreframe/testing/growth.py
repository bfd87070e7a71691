"""How memory grows with the rows and the width of what is given."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

ROWS, WIDTHS = (64, 256), (32, 64)
SIDES = (64, 256)
"""Rows, or columns, of a block of similarities."""
LINEAR, SQUARE = 5.0, 20.0
"""How much more memory four times the rows may take: 4 and 16, and some for what is fixed."""

SMALL = 2**18  # bytes, below which nothing is said


def peak(call: Callable[[], Any]) -> int:
    """Return the most bytes that Python and NumPy held at once during a call, beyond those before.

    The call is made twice, and the first one not counted: it may import, and fill caches.
    """
    running = tracemalloc.is_tracing()
    given = os.environ.get("COREFRAME_THREADS")
    os.environ["COREFRAME_THREADS"] = "1"  # how many blocks threads hold at once is chance
    try:
        call()
        if not running:
            tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        call()
        return int(tracemalloc.get_traced_memory()[1] - before)
    finally:
        if not running:
            tracemalloc.stop()
        if given is None:
            del os.environ["COREFRAME_THREADS"]
        else:
            os.environ["COREFRAME_THREADS"] = given


def too_fast(call: Callable[[int, int], Callable[[], Any]], *, linear: bool) -> Iterator[str]:
    """Yield a sentence with the figures if memory grows faster than with the rows or their pairs.

    ``call`` makes inputs of so many rows and columns, which are not counted, and returns the
    call. An array of rows x rows x width shows in that more columns cost more than they must.
    """
    (few, many), (narrow, wide) = ROWS, WIDTHS
    took = {(n, d): peak(call(n, d)) for n in ROWS for d in WIDTHS}
    small, large = took[few, narrow], took[many, narrow]
    limit = LINEAR if linear else SQUARE
    if large > limit * small and large > SMALL:
        yield (
            f"{few} rows take {size(small)}, {many} rows {size(large)}: {large / small:.1f} times "
            f"as much for {many // few} times the rows, allowed are {limit:.1f}"
        )
    more = [max(1, took[n, wide] - took[n, narrow]) for n in ROWS]
    if more[1] > 8 * more[0] and more[1] > SMALL:
        yield (
            f"{wide - narrow} more columns of the embeddings take {size(more[0])} with {few} rows "
            f"and {size(more[1])} with {many}: an array of rows x rows x width"
        )


def per_row(call: Callable[[int], Callable[[], Any]], few: int, many: int) -> float:
    """Return the bytes that one more row takes, of the peak of calls with so many rows."""
    return (peak(call(many)) - peak(call(few))) / (many - few)


def size(count: float) -> str:
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"
