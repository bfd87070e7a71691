"""Batches in which nothing stands twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coreframe.data.batches import Order
from coreframe.data.pairs import Pairs
from coreframe.sampler import Sampler


@dataclass(frozen=True, kw_only=True)
class NoDuplicates(Sampler):
    """Batches in which nothing stands twice.

        batch = the first n of the examples still to come, in shuffled order, that share no text
                with one that is in it already

    No text stands twice among the anchors and positives of a batch, not even once as an anchor
    and once as a positive; vectors without texts are told apart by all their bits, labelled rows
    likewise. An example that does not fit goes to the next batch that it fits into, so every
    example comes once an epoch. In a loss over the batch's negatives a copy would be a false
    negative; where the pairs say what is right for what, the trainer masks those anyway.

    Equals sentence-transformers' ``BatchSamplers.NO_DUPLICATES`` on the same order.

    Shapes: p examples in; batches of at most n.

    Edges: leftovers that repeat each other make short batches at the end; with drop_last they
    are left out.

    Cost: O(p) an epoch, in Python: about a second for a million pairs.

    References: none needed.

    >>> from numpy import eye
    >>> pairs = Pairs(eye(4), -eye(4)[:2], [[0, 0], [1, 0], [2, 1], [3, 1]])
    >>> batches = NoDuplicates().epoch(pairs, batch_size=2, seed=0, epoch=1, drop_last=False)
    >>> [sorted(pairs.examples[batch, 1].tolist()) for batch in batches]
    [[0, 1], [0, 1]]
    """

    def epoch(
        self, pairs: Pairs, *, batch_size: int, seed: int, epoch: int, drop_last: bool
    ) -> Sequence[Any]:
        order = Order().of(pairs, seed, epoch)
        return first_fit(keys_of(pairs)[order], order, batch_size, drop_last=drop_last)


def keys_of(pairs: Pairs) -> Any:
    """Return the codes of the texts or vectors of each example: (p, 1 or 2) integers."""
    import numpy as np

    own, of_document = pairs.codes
    examples = pairs.examples
    if pairs.has_labels:
        return own[examples]
    return np.stack([own[examples[:, 0]], of_document[examples[:, 1]]], axis=1)


def first_fit(keys: Any, order: Any, batch_size: int, *, drop_last: bool) -> list[Any]:
    """Put each example into the first batch that has room and none of its keys.

    That gives the batches that filling one after the other from what is left gives: batch 1 takes
    an example if and only if it fits when its turn comes, and so on for those that it leaves.
    """
    import numpy as np

    batches: list[list[int]] = []
    held: dict[int, set[int]] = {}  # by key: the batches that have it
    least: dict[int, int] = {}  # by key: every batch with room before this one has it
    later: list[int] = []  # by full batch: one that may have room; itself where it has
    for example, row in zip(order.tolist(), keys.tolist(), strict=True):
        mine = set(row)
        place = max(least.get(key, 0) for key in mine)
        while True:
            place = _room(later, place)
            if not any(place in held.get(key, ()) for key in mine):
                break
            place += 1
        if place == len(batches):
            batches.append([])
            later.append(place)
        batches[place].append(example)
        if len(batches[place]) == batch_size:
            later[place] = place + 1
        for key in mine:
            having = held.setdefault(key, set())
            having.add(place)
            low = _room(later, least.get(key, 0))
            while low in having:
                low = _room(later, low + 1)
            least[key] = low
    return [
        np.array(batch, np.int64) for batch in batches if len(batch) == batch_size or not drop_last
    ]


def _room(later: list[int], place: int) -> int:
    """Return the first batch from ``place`` on that is not full, and shorten the way there."""
    found = place
    while found < len(later) and later[found] != found:
        found = later[found]
    while place < found:
        later[place], place = found, later[place]
    return found
