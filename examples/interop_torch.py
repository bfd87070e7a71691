"""One loss line of a PyTorch training script swapped, cached steps, and an adapter for the index.

A small encoder learns in PyTorch to bring noisy views of a vector together, first with the usual
cross entropy over similarities, then with coreframe's InfoNCE in its place: the same curve. Then
a batch of 512 goes through the encoder 64 rows at a time, and at last a low-rank adapter is
trained on the frozen encoder by torch and served without it.

    python examples/interop_torch.py

Needs PyTorch (extra "torch"), and takes some seconds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import coreframe as cf
from coreframe.interop.torch import AdapterModule, LossModule, cached_step, lr_lambda

STEPS, BATCH, WIDTH = 40, 64, 32


def made_encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh(), nn.Dropout(0.1), nn.Linear(64, 16))


def views(seed: int, rows: int = BATCH, noise: float = 0.7) -> tuple[Tensor, Tensor]:
    """Return two noisy views of the same vectors."""
    draws = torch.Generator().manual_seed(seed)
    base, first, second = (torch.randn(rows, WIDTH, generator=draws) for _ in range(3))
    return base + noise * first, base + noise * second


def usual(anchors: Tensor, positives: Tensor) -> Tensor:
    """What stands in many scripts: it holds n x n similarities and their gradient."""
    similarities = nn.functional.normalize(anchors) @ nn.functional.normalize(positives).T
    return nn.functional.cross_entropy(similarities / 0.1, torch.arange(len(anchors)))


def train(loss_fn: Callable[[Tensor, Tensor], Tensor], model: nn.Module) -> list[float]:
    """A training loop as it is in PyTorch; it does not know whose loss it has."""
    torch.manual_seed(1)  # of dropout
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    schedule = cf.build("schedulers", "warmup_cosine", peak=0.01, warmup_steps=0.1)
    factor = lr_lambda(schedule, base=0.01, steps=STEPS)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    values = []
    for step in range(STEPS):
        one, other = views(step)
        optimizer.zero_grad()
        loss = loss_fn(model(one), model(other))
        loss.backward()
        optimizer.step()
        rates.step()
        values.append(loss.item())
    return values


def cached(model: nn.Module) -> tuple[float, float]:
    """Return the loss of a large batch before and after steps that see it in parts."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    one, other = views(1000, rows=512)
    values = []
    for _ in range(10):
        optimizer.zero_grad()
        inputs = {"anchors": one, "positives": other}
        loss = cached_step(model, "info_nce", inputs, mini_batch_size=64)
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    return values[0], values[-1]


def adapted(model: nn.Module, folder: Path) -> tuple[float, float]:
    """Return recall@1 of frozen and of adapted queries, whose views are turned; served by NumPy."""
    model.eval()
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))[0]
    with torch.no_grad():
        queries, documents = (model(x) for x in views(2000, rows=400, noise=0.3))
    queries = queries @ turn  # another model's space, say
    adapter, loss_fn = AdapterModule("low_rank", 16), LossModule("info_nce", miner="hardest")
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=0.02)
    for step in range(100):
        rows = torch.randperm(300, generator=torch.Generator().manual_seed(step))[:BATCH]
        optimizer.zero_grad()
        loss_fn(adapter(queries[rows]), documents[rows]).backward()
        optimizer.step()
    adapter.save(folder, side="query")
    stored = cf.load(folder)
    sides = stored(queries[300:].numpy()), stored(documents.numpy(), side="document")
    return recall(queries[300:], documents), recall(*map(torch.from_numpy, sides))


def recall(queries: Tensor, documents: Tensor) -> float:
    """Return the share of queries 300, 301, ... that find the document of their row first."""
    unit = nn.functional.normalize
    best = (unit(queries) @ unit(documents).T).argmax(dim=1)
    return (best == torch.arange(300, 300 + len(queries))).float().mean().item()


def main() -> dict[str, list[float] | tuple[float, float]]:
    ours = LossModule(cf.build("losses", "info_nce", temperature=0.1))
    model = made_encoder()
    found: dict[str, list[float] | tuple[float, float]] = {
        "usual": train(usual, made_encoder()),
        "ours": train(ours, model),
        "cached": cached(model),
    }
    with tempfile.TemporaryDirectory() as folder:
        found["recall@1"] = adapted(model, Path(folder))
    return found


if __name__ == "__main__":
    for name, values in main().items():
        print(f"{name:10s} {values[0]:.4f} -> {values[-1]:.4f}")
