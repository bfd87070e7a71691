"""Batches: the examples of some pairs, epoch by epoch, in an order that follows from a seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from coreframe import checks
from coreframe.backend import Array, device_of, namespace
from coreframe.batch import Batch
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Ints, LabelRelevance, ListedRelevance
from coreframe.dtypes import cast
from coreframe.errors import ArgumentError, ArgumentTypeError, DataError
from coreframe.lazy import take
from coreframe.miner import Miner
from coreframe.random import stream
from coreframe.relation import Aligned, Masked, Relation, SameLabel
from coreframe.sampler import Sampler, checked, cut
from coreframe.scheduler import Progress, Scheduler

__all__ = ["ORDERS", "Batches", "Order"]

ORDERS = ("quality", "difficulty")
_DRAWS = 100  # rounds of drawing for each place that own negatives leave free


@dataclass(frozen=True, kw_only=True)
class Order(Sampler):
    """In which order an epoch goes over the examples, and over how many of them.

        epoch e <= curriculum_epochs:  sorted by quality (falling) or difficulty (rising)
        examples of an epoch:          the first ceil(pool(e) p) of p in that order

    Examples that are equal in the sort are shuffled among each other, in another way each epoch.

    Args:
        shuffle: whether the order is drawn anew each epoch. Default: as everywhere.
        curriculum: None, quality (``Pairs.weights``, the best first) or difficulty
            (``Pairs.difficulty``, the easiest first). Default: no curriculum.
        curriculum_epochs: >= 1, epochs that are sorted; later ones are shuffled. Default: 5, as in
            the older JavaScript library.
        pool: in (0, 1], the share of the sorted examples that an epoch uses, or a scheduler over
            epochs, such as ``competence``: its step is the number of epochs done, its run
            ``curriculum_epochs`` long. Default: 1, all of them.

    Shapes: p examples in, the numbers of those of an epoch out.

    Edges: a quality of 0 is the worst, not the best. A curriculum without the column that it
        sorts by is an error, and so is a pool without a curriculum.

    Cost: one permutation an epoch, and one sort in the epochs of a curriculum.

    References: Bengio et al. 2009 (curricula); Platanios et al. 2019, arXiv 1903.09848 (the pool
    as competence).

    >>> pairs = Pairs(np.eye(4), np.eye(4), difficulty=[3, 0, 1, 2])
    >>> Order(curriculum="difficulty", pool=0.5).of(pairs, seed=0, epoch=1).tolist()
    [1, 2]
    """

    shuffle: bool = True
    curriculum: str | None = None
    curriculum_epochs: int = 5
    pool: float | Scheduler = 1.0

    def __post_init__(self) -> None:
        checks.flag(self, "shuffle")
        if self.curriculum is not None:
            checks.choice(self, "curriculum", ORDERS)
        checks.number(self, "curriculum_epochs", minimum=1, integer=True)
        checks.number(self, "pool", above=0, maximum=1)
        if self.curriculum is None and self.pool != 1.0:
            raise ArgumentError("Order.pool needs a curriculum: which examples come first")

    def epoch(
        self, pairs: Pairs, *, batch_size: int, seed: int, epoch: int, drop_last: bool
    ) -> list[Ints]:
        return cut(self.of(pairs, seed, epoch), batch_size, drop_last=drop_last)

    def size(self, pairs: Pairs, *, batch_size: int, seed: int, epoch: int, drop_last: bool) -> int:
        full, rest = divmod(self.count(len(pairs.examples), epoch), batch_size)
        return full + (rest > 0 and not drop_last)

    def of(self, pairs: Pairs, seed: int, epoch: int) -> Ints:
        """Return the numbers of the examples of an epoch (from 1), in order: a pure function."""
        order = np.arange(len(pairs.examples))
        if self.shuffle:
            order = stream(seed, "order", epoch).permutation(len(order))
        if self.curriculum is None or epoch > self.curriculum_epochs:
            return order
        by_quality = self.curriculum == "quality"
        keys = pairs.weights if by_quality else pairs.difficulty
        if keys is None:
            given = "weights" if by_quality else "difficulty"
            raise ArgumentError(
                f"a curriculum by {self.curriculum} needs Pairs(..., {given}=...), one a pair, "
                f"or a column {self.curriculum!r} in the file"
            )
        keys = keys[order]
        order = order[np.argsort(-keys if by_quality else keys, kind="stable")]
        return order[: self.count(len(order), epoch)]

    def count(self, examples: int, epoch: int) -> int:
        """Return how many of the examples an epoch (from 1) uses."""
        if self.curriculum is None or epoch > self.curriculum_epochs:
            return examples
        share = self.pool
        if isinstance(share, Scheduler):
            steps = self.curriculum_epochs
            share = float(share(Progress(step=epoch - 1, steps=steps, epoch=epoch - 1)))
            if not 0 < share <= 1:
                raise ArgumentError(f"Order.pool must be in (0, 1], got {share:g} in epoch {epoch}")
        return int(np.ceil(share * examples - 1e-9))


@dataclass(eq=False, kw_only=True)
class Batches:
    """Batches of pairs: ``for batch in batches`` is one epoch, the next loop is the next epoch.

    Each loop has a cursor of its own, so a loop that is left early, two loops at once, or ``zip``
    do not disturb each other. An epoch is a pure function of the seed and its number, so a run
    goes on in the middle: ``batches.epoch(**epoch.state)`` yields what was still to come.

    Args:
        pairs: what to go over: its relevant pairs, or its labelled rows.
        batch_size: examples a batch, >= 1. Default: 32, sentence-transformers' is 8 to 64.
        drop_last: whether the last batch is left out where it is short. Default: no, so that
            every example counts.
        order: shuffling and curriculum. Default: shuffled.
        sampler: which examples stand in a batch together, in place of an order; see
            ``coreframe list samplers``. Default: none, the order is cut as it comes.
        own_negatives: how many of the documents known to be wrong (``Pairs.irrelevant``) each
            anchor gets as its own (``Batch.negatives``); where fewer are known, documents drawn
            at random among those that are not right fill up. 0 gives the known ones of the whole
            batch to everyone. Default: 0.
        miner: narrows the relation of each batch, for example to hard negatives, by the vectors
            as they are. (That of ``fit`` goes by the adapted ones.) Default: none.
        seed: the order follows from it. Default: 42, as ``fit``.

    Shapes: a batch has anchors (n, d) and references (m, d), or anchors alone for labelled
    vectors; weights (n,) where the pairs have weights; negatives (n, own_negatives, d).

    Edges: a last batch of one pair has no negatives, and a loss over negatives is 0 there. No
    document that is right for a query is its negative, and an equal document is masked by its id.

    Cost: the order of an epoch is one permutation; a batch gathers its rows on the device.

    References: none needed.

    >>> pairs = Pairs(np.eye(5), np.eye(5))
    >>> batches = Batches(pairs=pairs, batch_size=2)
    >>> [batch.anchors.shape[0] for batch in batches], len(batches)
    ([2, 2, 1], 3)
    """

    pairs: Pairs
    batch_size: int = 32
    drop_last: bool = False
    order: Order = field(default_factory=Order)
    own_negatives: int = 0
    miner: Miner | None = None
    seed: int = 42
    sampler: Sampler | None = None

    def __post_init__(self) -> None:
        checks.flag(self, "drop_last")
        checks.number(self, "batch_size", minimum=1, integer=True)
        checks.number(self, "own_negatives", minimum=0, integer=True)
        checks.number(self, "seed", minimum=0, integer=True)
        if not isinstance(self.order, Order):
            raise ArgumentTypeError(f"Batches.order must be an Order, got {self.order!r}")
        if not isinstance(self.sampler, Sampler | None):
            raise ArgumentTypeError(f"Batches.sampler must be a sampler, got {self.sampler!r}")
        if self.sampler is not None and self.order != Order():
            raise ArgumentError(
                "Batches.order and Batches.sampler both say what comes when; give one of them "
                "(the sampler 'ordered' is a curriculum)"
            )
        if not isinstance(self.miner, Miner | None):
            raise ArgumentTypeError(f"Batches.miner must be a miner, got {self.miner!r}")
        self._next = 1
        if self.own_negatives and (self.pairs.has_labels or not len(self.pairs.irrelevant)):
            raise DataError(
                f"own_negatives is {self.own_negatives}, but no document is known to be wrong: "
                "Pairs(..., irrelevant=...), or a column 'negative'"
            )

    def __len__(self) -> int:
        """The batches of the next epoch."""
        return self.size(self._next)

    def size(self, epoch: int) -> int:
        """Return the number of batches of an epoch, which a curriculum's pool can change."""
        return self._source.size(self.pairs, **self._asked(epoch))

    @property
    def _source(self) -> Sampler:
        return self.order if self.sampler is None else self.sampler

    def _asked(self, epoch: int) -> dict[str, Any]:
        return {
            "batch_size": self.batch_size,
            "seed": self.seed,
            "epoch": epoch,
            "drop_last": self.drop_last,
        }

    def sampled(self, epoch: int) -> Sequence[Ints]:
        """Return the numbers of the examples of each batch of an epoch (from 1)."""
        found = self._source.epoch(self.pairs, **self._asked(epoch))
        if self.sampler is not None:
            checked(self.sampler, found, len(self.pairs.examples), self.batch_size)
        return found

    def __iter__(self) -> Epoch:
        return self.epoch(self._next)

    def epoch(self, epoch: int, done: int = 0) -> Epoch:
        """Return epoch number ``epoch`` (from 1), without its first ``done`` batches.

        The next loop over the batches is then the epoch after it.
        """
        if epoch < 1 or done < 0:
            raise ArgumentError(f"epochs count from 1 and done from 0, got {epoch} and {done}")
        self._next = epoch + 1
        return Epoch(self, epoch, done)


class Epoch(Iterator[Batch]):
    """One pass over the batches. ``state`` says where it stands, for a run that goes on later."""

    def __init__(self, batches: Batches, number: int, done: int) -> None:
        self._source = batches
        self._batches = batches.sampled(number)
        self.number = number
        self.done = done
        self.count = len(self._batches)

    @property
    def remaining(self) -> int:
        """The batches that are still to come."""
        return max(0, self.count - self.done)

    @property
    def state(self) -> Mapping[str, int]:
        """What ``Batches.epoch`` takes to go on from here."""
        return {"epoch": self.number, "done": self.done}

    def __next__(self) -> Batch:
        if not self.remaining:
            raise StopIteration
        source, chosen = self._source, np.asarray(self._batches[self.done])
        rng = None
        if source.own_negatives or source.miner is not None:
            rng = stream(source.seed, f"negatives {self.number}", self.done)
        self.done += 1
        batch = gather(source.pairs, chosen, source.own_negatives, rng)
        if source.miner is None:
            return batch
        return replace(batch, relation=source.miner.mine(batch, rng=rng))


def gather(pairs: Pairs, chosen: Ints, own_negatives: int = 0, rng: Any = None) -> Batch:
    """Return the batch of some examples, given by their numbers; rng fills up own negatives.

    ids and reference_ids are the rows of queries and documents in the data. Documents known to be
    wrong for a query of the batch stand behind the right ones, as negatives of everyone, or are
    its own negatives. No document that is right for a query is its negative.
    """
    examples = pairs.examples[chosen]
    rows = examples[:, 0]
    weights = None
    if pairs.weights is not None:
        xp = namespace(queries=pairs.queries)
        weights = xp.asarray(
            pairs.weights[chosen], dtype=pairs.queries.dtype, device=device_of(pairs.queries)
        )
    queries = _take(pairs.queries, rows)
    if isinstance(pairs.relevance, LabelRelevance):
        xp = namespace(queries=queries)
        labels = xp.asarray(pairs.relevance.query_labels[rows], device=device_of(queries))
        return Batch(
            anchors=queries,
            relation=SameLabel(labels),
            labels=labels,
            ids=pairs.query_rows[rows],
            weights=weights,
        )
    assert isinstance(pairs.relevance, ListedRelevance)
    documents, negatives = examples[:, 1], None
    if own_negatives:
        own = _own_negatives(pairs, rows, own_negatives, rng)
        negatives = _take(pairs.documents, own, queries.dtype)
    elif len(pairs.irrelevant):
        wrong, _ = pairs.known_wrong.of_queries(np.unique(rows))
        documents = np.concatenate([documents, wrong])
    return Batch(
        anchors=queries,
        references=_take(pairs.documents, documents, queries.dtype),
        negatives=negatives,
        aligned=True,
        relation=_relation(pairs.relevance, rows, documents),
        ids=pairs.query_rows[rows],
        reference_ids=documents,
        weights=weights,
    )


def _own_negatives(pairs: Pairs, rows: Ints, count: int, rng: Any) -> Ints:
    """Return documents (n, count) that are wrong for each query: those known, then any others."""
    known, relevance = pairs.known_wrong, pairs.relevance
    found, place = known.of_queries(rows)
    within = np.arange(len(place)) - np.searchsorted(place, place)
    kept = within < count
    own = np.full((len(rows), count), -1)
    own[place[kept], within[kept]] = found[kept]
    for _ in range(_DRAWS * count):
        row = np.nonzero(own[:, -1] < 0)[0]
        if not len(row):
            return own
        column = np.argmax(own[row] < 0, axis=1)  # one place a row and round
        drawn = rng.integers(relevance.documents, size=len(row))
        again = (own[row] == drawn[:, None]).any(axis=1)
        good = ~relevance.contains(rows[row], drawn) & ~again  # type: ignore[attr-defined]
        own[row[good], column[good]] = drawn[good]
    query = int(rows[row[0]])
    raise DataError(
        f"own_negatives is {count}, but query {query} has too few documents that are not right "
        f"among {relevance.documents}"
    )


def _take(x: Array, rows: Ints, dtype: Any = None) -> Array:
    found: Any = take(x, rows.reshape(-1))
    if dtype is not None:
        found = cast(found, dtype, namespace(x=found))
    return found if rows.ndim == 1 else namespace(x=found).reshape(found, (*rows.shape, x.shape[1]))


def _relation(relevance: ListedRelevance, queries: Ints, documents: Ints) -> Relation:
    n, m = len(queries), len(documents)
    if relevance.is_single:
        # One right document a query: a false negative is the same document again.
        return Aligned(n, m, documents[:n], documents)
    # The places of right documents are few, so they are kept as a list, sorted by row.
    order = np.argsort(documents, kind="stable")
    found, row = relevance.of_queries(queries)
    first = np.searchsorted(documents, found, sorter=order)
    times = np.searchsorted(documents, found, side="right", sorter=order) - first
    row = np.repeat(row, times)
    before = np.repeat(np.cumsum(times) - times - first, times)
    column = order[np.arange(len(row)) - before]

    def tile(rows: slice, cols: slice, xp: Any, device: Any) -> tuple[Array, Array]:
        shape = (rows.stop - rows.start, cols.stop - cols.start)
        part = slice(*np.searchsorted(row, [rows.start, rows.stop]))
        inside = (column[part] >= cols.start) & (column[part] < cols.stop)
        negative = np.ones(shape, dtype=bool)
        negative[row[part][inside] - rows.start, column[part][inside] - cols.start] = False
        positive = np.zeros(shape, dtype=bool)
        own = np.arange(max(rows.start, cols.start), min(rows.stop, cols.stop, n))
        positive[own - rows.start, own - cols.start] = True
        return xp.asarray(positive, device=device), xp.asarray(negative, device=device)

    return Masked(tile, n, m)
