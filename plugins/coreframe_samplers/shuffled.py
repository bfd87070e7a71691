"""Every example once an epoch, in another order each time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coreframe.data.batches import Order
from coreframe.data.pairs import Pairs
from coreframe.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class Shuffled(Sampler):
    """Every example once an epoch, in another order each time.

        batch j of epoch e = permutation(seed, e)[j n : (j + 1) n]

    It is what a run without a sampler does, batch by batch.

    Shapes: p examples in, ceil(p / n) batches of n out; the last is short, or dropped.

    Edges: fewer examples than a batch make one short batch.

    Cost: one permutation an epoch.

    References: none needed.

    >>> from numpy import eye
    >>> batches = Shuffled().epoch(
    ...     Pairs(eye(5), eye(5)), batch_size=2, seed=0, epoch=1, drop_last=False
    ... )
    >>> sorted(int(i) for batch in batches for i in batch), [len(batch) for batch in batches]
    ([0, 1, 2, 3, 4], [2, 2, 1])
    """

    def epoch(
        self, pairs: Pairs, *, batch_size: int, seed: int, epoch: int, drop_last: bool
    ) -> Sequence[Any]:
        return Order().epoch(
            pairs, batch_size=batch_size, seed=seed, epoch=epoch, drop_last=drop_last
        )

    def size(self, pairs: Pairs, *, batch_size: int, seed: int, epoch: int, drop_last: bool) -> int:
        return Order().size(
            pairs, batch_size=batch_size, seed=seed, epoch=epoch, drop_last=drop_last
        )
