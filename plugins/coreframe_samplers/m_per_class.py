"""M rows of each of some classes in every batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from coreframe import checks
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import LabelRelevance
from coreframe.errors import ArgumentError, DataError
from coreframe.random import stream
from coreframe.sampler import Sampler

FEW = ("error", "repeat", "leave_out")


@dataclass(frozen=True, kw_only=True)
class MPerClass(Sampler):
    """M rows of each of some classes in every batch.

        batch of n = m rows of each of n / m classes

    Classes take turns in shuffled rounds, whatever their sizes, and so do the rows of a class: no
    class stands twice in a batch, and a row comes again only when all of its class have come. An
    epoch has as many batches as p rows fill.

    Args:
        m: >= 1, rows of a class in a batch; it must divide the batch size. Default: 4, a usual
            number in metric learning.
        few: what becomes of a class with fewer than m rows: "error"; "repeat", its rows stand
            more than once in a batch; "leave_out". Default: "error", since a repeated row is a
            positive of itself.

    Shapes: p labelled rows in; ceil(p / n) batches of n rows out, floor(p / n) with drop_last.

    Edges: pairs without labels, a batch size that m does not divide, fewer than n / m classes,
    and classes with fewer than m rows are errors that say how many.

    Cost: one permutation of each class an epoch, and O(p).

    References: Hermans et al. 2017, arXiv 1703.07737, section 2 (PK batches); pytorch-metric-
    learning's MPerClassSampler, which draws small classes with replacement.

    >>> from numpy import arange, ones
    >>> pairs = Pairs.labelled(ones((8, 2)), arange(8) % 2)
    >>> batches = MPerClass(m=2).epoch(pairs, batch_size=4, seed=0, epoch=1, drop_last=False)
    >>> [sorted((batch % 2).tolist()) for batch in batches]
    [[0, 0, 1, 1], [0, 0, 1, 1]]
    """

    m: int = 4
    few: Literal["error", "repeat", "leave_out"] = "error"

    def __post_init__(self) -> None:
        checks.number(self, "m", minimum=1, integer=True)
        checks.choice(self, "few", FEW)

    def size(self, pairs: Pairs, *, batch_size: int, seed: int, epoch: int, drop_last: bool) -> int:
        full, rest = divmod(len(pairs.examples), batch_size)
        return full + (rest > 0 and not drop_last)

    def epoch(
        self, pairs: Pairs, *, batch_size: int, seed: int, epoch: int, drop_last: bool
    ) -> Sequence[Any]:
        import numpy as np

        rows = self._classes(pairs, batch_size)
        rng = stream(seed, "m_per_class", epoch)
        at_once = batch_size // self.m
        turns = _rounds(np.arange(len(rows)), at_once, rng)
        draws = [_rounds(own, self.m, rng) for own in rows]
        count = self.size(pairs, batch_size=batch_size, seed=seed, epoch=epoch, drop_last=drop_last)
        return [np.concatenate([next(draws[c]) for c in next(turns)]) for _ in range(count)]

    def _classes(self, pairs: Pairs, batch_size: int) -> list[Any]:
        """Return the rows of each class that takes part."""
        import numpy as np

        if not isinstance(pairs.relevance, LabelRelevance):
            raise DataError(
                "m_per_class needs rows with class labels: Pairs.labelled(embeddings, labels), or "
                "X.npy and y.npy on the command line"
            )
        if batch_size % self.m:
            less, more = (batch_size // self.m) * self.m, (batch_size // self.m + 1) * self.m
            raise ArgumentError(
                f"MPerClass.m must divide batch_size, got m={self.m} and batch_size={batch_size}; "
                f"a batch_size of {f'{less} or {more}' if less else more} would do"
            )
        labels = pairs.relevance.query_labels
        _, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        rows = np.split(np.argsort(codes.reshape(-1), kind="stable"), np.cumsum(sizes)[:-1])
        small = sizes < self.m
        if small.any() and self.few == "error":
            names = ", ".join(
                f"{labels[rows[c][0]]} ({sizes[c]})" for c in np.flatnonzero(small)[:5]
            )
            more_names = ", ..." if small.sum() > 5 else ""
            raise DataError(
                f"MPerClass.m is {self.m}, but {int(small.sum())} of {len(sizes)} classes have "
                f"fewer rows: {names}{more_names}, numbered as their labels sort; use "
                "few='leave_out' or few='repeat', or a smaller m"
            )
        if self.few == "leave_out":
            rows = [own for own in rows if len(own) >= self.m]
        if len(rows) * self.m < batch_size:
            raise ArgumentError(
                f"MPerClass.m times the number of classes must be at least batch_size, got "
                f"{self.m} x {len(rows)} < {batch_size}; use a batch_size of at most "
                f"{len(rows) * self.m}"
            )
        return rows


def _rounds(items: Any, m: int, rng: Any) -> Iterator[Any]:
    """Yield m of some items at a time, in shuffled rounds; none twice in one yield if there are m.

    Those that stand at the end of the last round come late in the next one.
    """
    import numpy as np

    waiting = np.zeros(0, np.int64)
    while True:
        while len(waiting) < m:
            fresh = rng.permutation(items)
            again = np.isin(fresh, waiting)
            waiting = np.concatenate([waiting, fresh[~again], fresh[again]])
        yield waiting[:m]
        waiting = waiting[m:]
