"""What calls cost beside their matrix products: ``python -m benchmarks [NAME ...]``.

Each line is a ratio of medians of interleaved runs, never a bare time. The floor of a pairwise
loss with gradients is its three matrix products, by the same BLAS on the same arrays.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.sup_con import SupCon
from coreframe_losses.triplet import Triplet

ROUNDS = 7


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ratio(call: Callable[[], object], floor: Callable[[], object]) -> float:
    """Return the median of call / floor over interleaved pairs of runs."""
    call(), floor()
    return statistics.median(seconds(call) / seconds(floor) for _ in range(ROUNDS))


def vectors(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    anchors = rng.standard_normal((n, d)).astype(np.float32)
    noise = rng.standard_normal((n, d)).astype(np.float32)
    return anchors, anchors + noise


def products(a: np.ndarray, b: np.ndarray, rows: int = 512) -> Callable[[], None]:
    """Return the three products of a loss with gradients, in blocks of rows."""

    def run() -> None:
        total = np.zeros_like(b)
        for i in range(0, len(a), rows):
            s = a[i : i + rows] @ b.T
            s @ b
            total += s.T @ a[i : i + rows]

    return run


def in_batch() -> None:
    for n, d in ((1024, 128), (4096, 256), (8192, 384)):
        a, b = vectors(n, d)
        found = ratio(lambda a=a, b=b: InfoNCE()(a, b), products(a, b))
        print(f"InfoNCE, n = {n}, d = {d}: {found:.2f} x its three products")


def labelled() -> None:
    a, _ = vectors(4096, 128)
    labels = np.arange(4096) // 4
    losses = {
        "SupCon": SupCon(),
        "Triplet, hardest": Triplet(),
        "Triplet, semi-hard": Triplet(mode="semi_hard"),
        "Triplet, all": Triplet(mode="all"),
    }
    for name, loss in losses.items():
        found = ratio(lambda loss=loss: loss(a, labels=labels), products(a, a))
        print(f"{name}, n = 4096, d = 128, 4 a class: {found:.2f} x three products")


def torch() -> None:
    try:
        import torch
    except ImportError:
        print("torch: not installed, left out")
        return
    from torch.nn.functional import cross_entropy, normalize

    for n, d in ((32, 128), (1024, 128), (4096, 256)):
        a, b = vectors(n, d)
        x, y = (torch.tensor(v, requires_grad=True) for v in (a, b))
        target = torch.arange(n)

        def eager(x=x, y=y, target=target) -> None:
            x.grad = y.grad = None
            cross_entropy(normalize(x) @ normalize(y).T / 0.07, target).backward()

        found = ratio(lambda a=a, b=b: InfoNCE()(a, b), eager)
        print(f"InfoNCE, n = {n}, d = {d}: {found:.2f} x torch {torch.__version__} eager")


ALL = {"in_batch": in_batch, "labelled": labelled, "torch": torch}

if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in ALL]
    if unknown:
        sys.exit(f"no benchmark is named {unknown[0]!r}; known: {', '.join(ALL)}")
    for name in sys.argv[1:] or ALL:
        ALL[name]()
