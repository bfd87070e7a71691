"""The interface of samplers: which examples stand in a batch together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from coreframe.component import Component
from coreframe.errors import ArgumentError

if TYPE_CHECKING:
    from coreframe.data.pairs import Pairs

__all__ = ["Sampler", "cut"]


class Sampler(Component, ABC):
    """Cuts an epoch into batches: a pure function of the pairs, the seed and the epoch's number.

    Subclasses are frozen, keyword-only dataclasses without state. So a run that goes on in the
    middle of an epoch asks for the same batches again, and leaves out those that it has had.
    """

    @abstractmethod
    def epoch(
        self, pairs: Pairs, *, batch_size: int, seed: int, epoch: int, drop_last: bool
    ) -> Sequence[Any]:
        """Return the batches of an epoch (counted from 1), in order.

        Each is an integer array (n,), 1 <= n <= batch_size, of numbers of examples: rows of
        ``pairs.examples``. With ``drop_last`` there are no short batches. Draws come from
        ``coreframe.random.stream(seed, name, epoch)``.
        """

    def size(self, pairs: Pairs, *, batch_size: int, seed: int, epoch: int, drop_last: bool) -> int:
        """Return the number of batches of an epoch; a sampler that knows it at once says so."""
        found = self.epoch(
            pairs, batch_size=batch_size, seed=seed, epoch=epoch, drop_last=drop_last
        )
        return len(found)


def cut(order: Any, batch_size: int, *, drop_last: bool) -> list[Any]:
    """Cut an order of examples (p,) into batches; the last is short, or left out."""
    last = len(order) - len(order) % batch_size if drop_last else len(order)
    return [order[i : min(i + batch_size, last)] for i in range(0, last, batch_size)]


def checked(sampler: Sampler, batches: Sequence[Any], examples: int, batch_size: int) -> None:
    """Raise ArgumentError if a sampler returned what is no batch of examples."""
    import numpy as np

    for number, batch in enumerate(batches):
        x = np.asarray(batch)
        if x.dtype.kind not in "iu" or x.ndim != 1 or not 1 <= len(x) <= batch_size:
            raise ArgumentError(
                f"the sampler {type(sampler).__name__} gave as batch {number} an array of "
                f"{x.dtype} {x.shape}; it must hold from 1 to {batch_size} integers"
            )
        if x.min() < 0 or x.max() >= examples:
            raise ArgumentError(
                f"the sampler {type(sampler).__name__} gave in batch {number} the example "
                f"{x.min() if x.min() < 0 else x.max()}; there are {examples}, counted from 0"
            )
