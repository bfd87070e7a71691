"""The least that the work costs: its matrix products alone."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import ThreadpoolController

from benchmarks.case import Call, Inputs, Side

ROWS = 512
WHOLE, BLOCKS = "three products", "three products, in blocks"
FLOOR = (WHOLE, BLOCKS)


def threads() -> int:
    return int(os.environ.get("COREFRAME_THREADS") or len(os.sched_getaffinity(0)))


def _two(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    return (inputs["a"], inputs["b"]) if "a" in inputs else (inputs["x"], inputs["x"])


def whole(inputs: Inputs) -> Call:
    """The three products of the whole arrays, with the threads of BLAS."""
    a, b = _two(inputs)

    def run() -> None:
        s = a @ b.T
        s @ b
        s.T @ a

    return run


def blocks(inputs: Inputs) -> Call:
    """The three products in blocks of rows over threads that have one BLAS thread each."""
    a, b = _two(inputs)
    count, controller = threads(), ThreadpoolController()
    pool = ThreadPoolExecutor(count)

    def worker(first: int) -> np.ndarray:
        total, part = np.zeros_like(b), np.empty_like(b)
        s = np.empty((ROWS, len(b)), b.dtype)
        left = np.empty((ROWS, a.shape[1]), a.dtype)
        for i in range(first * ROWS, len(a), count * ROWS):
            rows = a[i : i + ROWS]
            here = np.matmul(rows, b.T, out=s[: len(rows)])
            np.matmul(here, b, out=left[: len(rows)])
            total += np.matmul(here.T, rows, out=part)
        return total

    def run() -> None:
        with controller.limit(limits=1, user_api="blas"):
            sum(pool.map(worker, range(count)))

    return run


def three_products() -> tuple[Side, Side]:
    """Both forms: whichever is faster is the floor."""
    return Side(WHOLE, whole, memory=False), Side(BLOCKS, blocks, memory=False)


def only_blocks() -> tuple[Side, ...]:
    """For sizes at which the whole similarities do not fit."""
    return (Side(BLOCKS, blocks, memory=False),)
