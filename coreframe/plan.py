"""What a run would do, without doing it: its data, its steps, and about how much memory it takes.

The estimate adds up what a run holds on the host, part by part, from shapes alone. It is meant to
tell whether a run fits, and the tests hold it within a factor of two of measured runs. On another
backend, what lives on the device counts as if it were on the host.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coreframe import blocks, lazy
from coreframe.adapter import count_parameters
from coreframe.config import RunConfig, dump
from coreframe.data.batches import Batches, Order
from coreframe.data.pairs import Pairs
from coreframe.embedder import Embedder
from coreframe.evaluation.pool import pool_size
from coreframe.random import stream

FACTOR = 2
"""The estimate is within this factor of what a run takes (RssAnon), as the tests hold it."""

MIB = 2**20
_LIBRARIES = 30 * MIB  # what is imported after the data is read: the report, the evidence
_ASSUMED = 100 * MIB  # of a process that has read its data, where the system does not tell
_STRETCH = 2**23  # numbers of documents that a search prepares at a time
_TILE = 1024 * 1024  # scores that one thread of a search holds
_RANKS = 1024, 8192  # queries and documents of a tile of exact ranks


@dataclass(frozen=True, eq=False, kw_only=True)
class Plan:
    """A run that has not been started.

    Attributes:
        config: the resolved configuration as TOML, every default filled in.
        data: counts of queries, documents and pairs, by part, and the width.
        training: batches, updates, and what a look at dev searches.
        memory: bytes by what they are for; ``total`` is their sum.
    """

    config: str
    data: Mapping[str, Any]
    training: Mapping[str, Any]
    memory: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it in a form that JSON can hold."""
        return {
            "config": self.config,
            "data": dict(self.data),
            "training": dict(self.training),
            "memory": {**self.memory, "within_a_factor_of": FACTOR},
        }

    def lines(self) -> list[str]:
        """Return all of it to read."""
        data, training = self.data, self.training
        counts = " · ".join(f"{data[part]:,} {part}" for part in ("train", "dev", "test"))
        kind = "labelled rows" if data["labels"] else f"{data['pairs']:,} training pairs"
        found = [
            self.config.rstrip(),
            "",
            f"data      {counts} queries, {data['documents']:,} documents of {data['width']} "
            f"numbers; {kind}",
            f"training  {training['epochs']} epochs of {training['batches']:,} batches, "
            f"{training['updates']:,} updates; start: {training['start']}",
            f"dev       each look searches {training['dev_documents']:,} documents",
            "",
            f"memory    about {_told(self.memory['total'])}, within a factor of {FACTOR}",
        ]
        return [
            *found,
            *(
                f"  {_told(size):>10}  {what}"
                for what, size in self.memory.items()
                if what != "total"
            ),
            "",
            "dry run: nothing was trained, nothing was written",
        ]


def plan(train: Pairs, dev: Pairs, test: Pairs, config: RunConfig) -> Plan:
    """Return what a run on these parts would do."""
    settings = config.train
    order = Order(
        curriculum=settings.curriculum,
        curriculum_epochs=settings.curriculum_epochs,
        pool=settings.pool,
    )
    batches = Batches(
        pairs=train,
        batch_size=settings.batch_size,
        drop_last=settings.drop_last,
        order=order,
        sampler=config.sampler,
        own_negatives=settings.own_negatives,
        seed=settings.seed,
    )
    sizes = [batches.size(epoch) for epoch in range(1, settings.epochs + 1)]
    every, documents = settings.gradient_accumulation_steps, int(dev.documents.shape[0])
    return Plan(
        config=dump(config),
        data={
            "train": len(train),
            "dev": len(dev),
            "test": len(test),
            "documents": int(test.documents.shape[0]),
            "pairs": len(train.examples),
            "labels": train.has_labels,
            "width": int(train.queries.shape[1]),
        },
        training={
            "epochs": settings.epochs,
            "batches": sizes[0],
            "updates": sum(-(-size // every) for size in sizes),
            "start": settings.start,
            "side": settings.side,
            "dev_documents": pool_size(settings.eval_documents, documents) or documents,
        },
        memory=memory(train, dev, test, config),
    )


def memory(train: Pairs, dev: Pairs, test: Pairs, config: RunConfig) -> dict[str, int]:
    """Return about how many bytes of anonymous memory a run holds at most, by what for.

    The process is taken as it is now: with the data read, and split.
    """
    settings = config.train
    size = 8 if str(train.queries.dtype).endswith("64") else 4
    width, documents = int(train.queries.shape[1]), int(test.documents.shape[0])
    row, both = size * width, settings.side == "both"
    n = min(settings.batch_size, len(train.examples))
    known_wrong = 0 if settings.own_negatives else len(train.irrelevant) / max(1, len(train))
    m = 0 if train.has_labels else n + int(n * known_wrong)
    own = n * settings.own_negatives
    moved = n + (m + own if both else 0)
    # Gathered, adapted, prepared, and two gradients of what moves; one block of similarities.
    step = row * (2 * (n + m) + own + 3 * moved) + min(blocks.HOST_BUDGET, 4 * size * n * max(n, m))
    params = count_parameters(config.adapter.init(stream(settings.seed, "adapter"), width))
    asked = max(len(dev), len(test))
    adapted = documents * row if documents * row <= lazy.LARGE else 0
    threads = os.cpu_count() or 1
    height, across = (min(x, y) for x, y in zip(_RANKS, (asked, documents), strict=True))
    pool = pool_size(settings.eval_documents, documents)
    block = min(lazy.BLOCK_ROWS, len(train.examples)) * row
    return _summed(
        {
            "the process, with the data read": _anonymous() + _LIBRARIES,
            "a training step": step,
            "parameters, gradients and optimizer": 8 * params * size,
            "documents of each look at dev": 0 if pool is None else pool * row + 9 * documents,
            "search": min(documents * row, _STRETCH * size)
            + 2 * adapted
            + 3 * asked * row
            + 2 * threads * min(_TILE, asked * documents) * size,
            "ranks for the report": 2 * across * row + height * across * (2 * size + 3),
            "closed-form starts": 4 * block + 6 * 8 * width**2,
        }
    )


def _summed(parts: dict[str, int]) -> dict[str, int]:
    return {**parts, "total": sum(parts.values())}


def _anonymous() -> int:
    """Return the anonymous memory of this process, where the system tells it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return _ASSUMED
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")]
    return found[0] if found else _ASSUMED


def _told(size: float) -> str:
    """Return bytes in words: 12 MiB, 1.5 GiB."""
    power = min(3, int(math.log2(max(size, 1)) // 10))
    value = size / 2 ** (10 * power)
    return f"{value:,.{1 if value < 10 and power else 0}f} {('B', 'KiB', 'MiB', 'GiB')[power]}"


WIDTH = 384
"""What a vector of an embedder has that does not say it, in a plan."""


@dataclass(frozen=True, kw_only=True)
class StandIn(Embedder):
    """Vectors of the right shape that cost nothing, in place of those of an embedder."""

    dimensions: int = WIDTH

    @classmethod
    def of(cls, embedder: Embedder) -> Embedder:
        """Return the embedder itself where its vectors are cheap (and so not cached), else one in
        its place.
        """
        if embedder.fingerprint() is None:
            return embedder
        return cls(dimensions=getattr(embedder, "dimensions", None) or WIDTH)

    def embed(self, texts: Sequence[str]) -> Any:
        rng = np.random.default_rng(0)
        return rng.standard_normal((len(texts), self.dimensions), dtype=np.float32)
