"""The JavaScript seed's batches: sizes, lengths, epochs, and the order of a curriculum."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from goldens import Case, case, fault, golden

from coreframe.data import batches as module
from coreframe.data.batches import Batches, Order
from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError
from coreframe_miners.hardest import Hardest
from coreframe_miners.random import Random

PLAIN = Order(shuffle=False)


def pairs(n: int, **columns: object) -> Pairs:
    return Pairs(np.eye(n), np.eye(n), **columns)


def rows(loop: object) -> list[list[int]]:
    return [list(map(int, batch.ids)) for batch in loop]  # type: ignore[attr-defined]


@golden("js", "batches/counts")
def test_sizes_lengths_and_epochs(case: Case) -> None:
    for want in case.output:
        if want["n"] == 0:  # no pairs are an error, where the data is made
            with pytest.raises(ArgumentError, match="queries is empty"):
                Pairs(np.zeros((0, 3)), np.zeros((0, 3)))
            continue
        batches = Batches(
            pairs=pairs(want["n"]),
            batch_size=want["batchSize"],
            drop_last=want["dropLast"],
            order=PLAIN,
        )
        epoch = iter(batches)
        assert (len(batches), epoch.remaining) == (want["length"], want["remaining_start"])
        found, sizes = [len(ids) for ids in rows(epoch)], want["sizes"]
        if isinstance(sizes, dict):  # many batches, in short
            assert (len(found), found[0], found[-1]) == tuple(sizes.values())
        else:
            assert found == sizes
        assert epoch.remaining == want["remaining_end"] == 0


def test_batches_of_hard_negatives() -> None:
    """The cases of hardNegatives/ that are right, through the batches: mined within each."""
    for name in ("n6_bs6", "n6_bs4"):
        recorded = case(f"js:hardNegatives/{name}")
        vectors = (np.array(recorded.inputs[key], np.float64) for key in ("anchors", "positives"))
        batches = Batches(
            pairs=Pairs(*vectors),
            batch_size=recorded.params["batchSize"],
            order=PLAIN,
            miner=Hardest(k=1),
        )
        for batch, want in zip(batches, recorded.output["negative_indices_per_batch"], strict=True):
            n = len(want)
            _, negative = batch.relation.tile(slice(0, n), slice(0, n), np, None)
            rows_of_data = batch.reference_ids[negative.argmax(axis=1)]
            assert rows_of_data.tolist() == want
            assert negative.sum(axis=1).tolist() == [1] * n
    mined = Batches(pairs=pairs(30), miner=Random(k=2), order=PLAIN)
    draws = [
        next(iter(epoch)).relation.tile(slice(0, 30), slice(0, 30), np, None)[1].nonzero()[1]
        for epoch in (mined.epoch(1), mined.epoch(2), mined.epoch(1))
    ]
    assert (draws[0] == draws[2]).all()
    assert (draws[0] != draws[1]).any()


@fault(9, "js:batches/break_resumes")
def test_each_loop_is_a_whole_epoch_with_its_own_cursor() -> None:
    batches = Batches(pairs=pairs(8), batch_size=2, order=PLAIN)
    assert len(rows(itertools.islice(batches, 2))) == 2  # left early
    assert rows(batches) == [[0, 1], [2, 3], [4, 5], [6, 7]]  # the seed went on with 4
    assert rows(batches) == rows(batches)
    assert iter(batches).number == 5
    assert [a.ids[0] for a, b in zip(batches, batches, strict=True)] == [0, 2, 4, 6]


@fault(50, "js:batches/batch_size_zero")
def test_a_batch_size_of_zero_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"batch_size must be at least 1, got 0"):
        Batches(pairs=pairs(1), batch_size=0)


def fisher_yates(n: int, draws: object) -> list[int]:
    order = list(range(n))
    for i in range(n - 1, 0, -1):
        j = int(next(draws) * (i + 1))  # type: ignore[call-overload]
        order[i], order[j] = order[j], order[i]
    return order


@golden("js", "batches/curriculum_with_shuffle")
def test_a_curriculum_sorts_the_shuffled_rows(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the seed's own shuffles put in place of ours; its 0, which it read as 1, written so."""
    quality = [1.0 if q in (0, "undefined") else q for q in case.inputs["quality"]]
    draws = itertools.cycle(case.inputs["random_sequence_cycled"])

    class Generator:
        def permutation(self, n: int) -> np.ndarray:
            return np.array(fisher_yates(n, draws))

    monkeypatch.setattr(module, "stream", lambda *_: Generator())
    order = Order(curriculum="quality", curriculum_epochs=case.params["curriculumEpochs"])
    data = pairs(len(quality), weights=quality)
    for epoch, want in enumerate(case.output["order_by_epoch"], 1):
        assert order.of(data, 0, epoch).tolist() == want


@fault(45, "js:batches/curriculum_order")
@fault(6)
def test_a_curriculum_shuffles_among_equals_and_takes_zero_as_zero() -> None:
    quality = [0.5, 0, 1, 1, 0.9, 0.2, 2]
    data = pairs(len(quality), weights=quality)
    order = Order(curriculum="quality", curriculum_epochs=20)
    seen = [order.of(data, 0, epoch).tolist() for epoch in range(1, 21)]
    for found in seen:
        assert [quality[i] for i in found] == [2, 1, 1, 0.9, 0.5, 0.2, 0]  # 0 last, not as 1
    assert len(set(map(tuple, seen))) == 2  # both ways of the equal ones
    later = [order.of(data, 0, epoch).tolist() for epoch in range(21, 26)]
    assert len(set(map(tuple, later))) == 5
    easy = Order(curriculum="difficulty")
    with pytest.raises(ArgumentError, match=r"needs Pairs\(\.\.\., difficulty=\.\.\.\)"):
        easy.of(data, 0, 1)
    hard = pairs(3, difficulty=[0.5, -1, 0.1])
    assert easy.of(hard, 0, 1).tolist() == [1, 2, 0]


@fault(55, "js:batches/fisher_yates")
def test_shuffles_are_uniform_and_another_each_epoch() -> None:
    """The seed's draws come from the caller's random numbers; ours follow from seed and epoch."""
    data, order = pairs(4), Order()
    counts: dict[tuple[int, ...], int] = {}
    for epoch in range(1, 2401):
        found = tuple(order.of(data, 7, epoch).tolist())
        counts[found] = counts.get(found, 0) + 1
    assert len(counts) == 24
    chi_square = sum((c - 100) ** 2 / 100 for c in counts.values())
    assert chi_square < 49.7  # 23 degrees of freedom: one run in 1,000 is above
    assert order.of(data, 7, 3).tolist() == order.of(data, 7, 3).tolist()
