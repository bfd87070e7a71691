"""A curriculum: the best or the easiest examples first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from coreframe import checks
from coreframe.data.batches import ORDERS, Order
from coreframe.data.pairs import Pairs
from coreframe.sampler import Sampler
from coreframe.scheduler import Scheduler


@dataclass(frozen=True, kw_only=True)
class Ordered(Sampler):
    """A curriculum: the best or the easiest examples first.

        epoch e <= epochs:  sorted by quality (falling) or difficulty (rising), the first
                            ceil(pool(e) p) of p
        later epochs:       all, shuffled

    It is the curriculum of ``Order`` and of ``[train]``, as a sampler. Examples that are equal in
    the sort are shuffled among each other, in another way each epoch.

    Args:
        by: "quality" (``Pairs.weights``, the best first) or "difficulty" (``Pairs.difficulty``,
            the easiest first). Default: "difficulty".
        epochs: >= 1, those that are sorted. Default: 5, as in the older JavaScript
            library.
        pool: in (0, 1], the share of the sorted examples that an epoch uses, or a scheduler over
            the sorted epochs, such as ``competence``. Default: 1, all of them.

    Shapes: p examples in; of those of the epoch, batches of n.

    Edges: pairs without the column that is sorted by are an error. A quality of 0 is the worst.

    Cost: one permutation and one sort an epoch.

    References: Bengio et al. 2009 (curricula); Platanios et al. 2019, arXiv 1903.09848 (the pool
    as competence).

    >>> from numpy import eye
    >>> pairs = Pairs(eye(4), eye(4), difficulty=[3, 0, 1, 2])
    >>> batches = Ordered().epoch(pairs, batch_size=2, seed=0, epoch=1, drop_last=False)
    >>> [batch.tolist() for batch in batches]
    [[1, 2], [3, 0]]
    """

    by: Literal["quality", "difficulty"] = "difficulty"
    epochs: int = 5
    pool: float | Scheduler = 1.0

    def __post_init__(self) -> None:
        checks.choice(self, "by", ORDERS)
        checks.number(self, "epochs", minimum=1, integer=True)
        checks.number(self, "pool", above=0, maximum=1)

    @property
    def _order(self) -> Order:
        return Order(curriculum=self.by, curriculum_epochs=self.epochs, pool=self.pool)

    def epoch(
        self, pairs: Pairs, *, batch_size: int, seed: int, epoch: int, drop_last: bool
    ) -> Sequence[Any]:
        return self._order.epoch(
            pairs, batch_size=batch_size, seed=seed, epoch=epoch, drop_last=drop_last
        )

    def size(self, pairs: Pairs, *, batch_size: int, seed: int, epoch: int, drop_last: bool) -> int:
        return self._order.size(
            pairs, batch_size=batch_size, seed=seed, epoch=epoch, drop_last=drop_last
        )
