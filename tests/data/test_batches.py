"""Batches: which rows, in which order, with which weights and negatives; and going on later."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Library

from coreframe.data.batches import Batches, Order
from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError, DataError
from coreframe_losses.info_nce import InfoNCE
from coreframe_schedulers.constant import Constant
from coreframe_schedulers.linear import Linear
from coreframe_text.sha256 import Sha256


def ids(loop: Any) -> list[list[int]]:
    return [[int(i) for i in batch.ids] for batch in loop]


def some(n: int = 7, **columns: Any) -> Pairs:
    rng = np.random.default_rng(0)
    return Pairs(rng.standard_normal((n, 3)), rng.standard_normal((n, 3)), **columns)


@given(
    n=st.integers(1, 20),
    size=st.integers(1, 7),
    drop=st.booleans(),
    done=st.integers(0, 8),
    epoch=st.integers(1, 4),
)
def test_a_run_goes_on_in_the_middle_of_an_epoch(
    n: int, size: int, drop: bool, done: int, epoch: int
) -> None:
    options = {"pairs": some(n), "batch_size": size, "drop_last": drop, "seed": 3}
    whole = ids(Batches(**options).epoch(epoch))
    assert len(whole) == Batches(**options).size(epoch)
    assert all(len(batch) == size for batch in (whole if drop else whole[:-1]))
    seen = [i for batch in whole for i in batch]
    assert len(set(seen)) == len(seen) == (n // size * size if drop else n)
    first = Batches(**options).epoch(epoch)
    head = list(itertools.islice(first, done))
    state = pickle.loads(pickle.dumps(dict(first.state)))
    fresh = Batches(**options)
    rest = fresh.epoch(**state)
    assert rest.remaining == max(0, len(whole) - done)
    assert ids(head) + ids(rest) == whole
    assert ids(fresh) == ids(Batches(**options).epoch(epoch + 1))


def test_weights_of_pairs_reach_the_batch(library: Library) -> None:
    relevant = np.array([[1, 0], [0, 1], [0, 0], [0, 1]])  # one pair twice: the larger counts
    vectors = library.asarray(np.eye(2), "float32")
    data = Pairs(vectors, vectors, relevant, weights=[0.5, 0.25, 0, 2])
    assert data.weights.tolist() == [0, 2, 0.5]
    (batch,) = Batches(pairs=data, order=Order(shuffle=False))
    assert library.to_numpy(batch.weights).tolist() == [0, 2, 0.5]
    assert batch.weights.dtype == vectors.dtype
    kept = data.take([1])
    assert kept.weights.tolist() == [0.5]
    assert data.take([1, 0]).weights.tolist() == [0.5, 0, 2]


def test_weights_and_difficulty_stay_with_their_rows_in_a_split() -> None:
    n = 40
    data = some(n, weights=np.arange(n), difficulty=-np.arange(n))
    for part in data.split():
        assert part.weights.tolist() == part.query_rows.tolist()
        assert part.difficulty.tolist() == (-part.query_rows).tolist()
    labels = np.arange(n) % 4
    marked = Pairs.labelled(np.asarray(data.queries), labels, weights=np.arange(1, n + 1))
    train, dev, test = marked.split()
    assert sorted(w for part in (train, dev, test) for w in part.weights) == list(range(1, n + 1))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"weights": [1, 2]},
            r"weights must hold one number for each of 7 pairs, got int64 \(2,\)",
        ),
        (
            {"weights": [1] * 6 + [-1]},
            "weights must be finite and not negative, got -1 for entry 6",
        ),
        ({"weights": [1] * 6 + [float("nan")]}, "weights must be finite and not negative, got nan"),
        ({"difficulty": ["easy"] * 7}, "difficulty must hold one number for each of 7 pairs"),
        ({"difficulty": [float("inf")] * 7}, "difficulty must be finite, got inf for entry 0"),
    ],
)
def test_bad_weights_are_named(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        some(7, **columns)


def test_a_pool_takes_the_easiest_first() -> None:
    data = some(10, difficulty=np.arange(10)[::-1])

    class Pace(Constant):  # a third, two thirds, all: by epoch
        def __call__(self, progress: Any, /) -> float:
            return min(1.0, (progress.step + 1) / 3)

    order = Order(curriculum="difficulty", curriculum_epochs=3, pool=Pace(value=1.0))
    batches = Batches(pairs=data, batch_size=4, order=order)
    assert [len(batches)] == [1]
    epochs = [sorted(i for batch in ids(batches) for i in batch) for _ in range(4)]
    assert epochs == [[6, 7, 8, 9], [3, 4, 5, 6, 7, 8, 9], list(range(10)), list(range(10))]
    # A schedule over the whole of its run has the sorted epochs for a run.
    paced = Order(curriculum="difficulty", curriculum_epochs=4, pool=Linear(start=0.2, end=1.0))
    assert [paced.count(10, epoch) for epoch in range(1, 7)] == [2, 4, 6, 8, 10, 10]
    with pytest.raises(ArgumentError, match=r"pool must be in \(0, 1\], got 2 in epoch 1"):
        Order(curriculum="difficulty", pool=Constant(value=2)).of(data, 0, 1)
    with pytest.raises(ArgumentError, match="pool needs a curriculum"):
        Order(pool=0.5)


def test_what_is_right_for_a_query_is_not_its_own_negative() -> None:
    """As in a file with the rows (q, d, e) and (q, e, d): d and e are right for q."""
    wrong = [[0, 0], [0, 3], [1, 2], [2, 1]]
    data = Pairs(np.eye(4)[:3], np.eye(4), np.arange(3), irrelevant=wrong)
    (batch,) = Batches(pairs=data, order=Order(shuffle=False), own_negatives=1)
    assert batch.negatives is not None
    assert batch.negatives[:, 0].argmax(axis=1).tolist() == [3, 2, 1]
    texts = ["q", "q"], ["d", "e"], Sha256(dimensions=4)
    both = Pairs.from_texts(*texts, negatives=["e", "d"])
    with pytest.raises(DataError, match="query 0 has too few documents that are not right among 2"):
        next(iter(Batches(pairs=both, own_negatives=1)))


def test_known_wrong_documents_are_shared_or_each_anchors_own(library: Library) -> None:
    rng = np.random.default_rng(0)
    queries, documents = (library.asarray(rng.standard_normal((k, 3))) for k in (3, 9))
    wrong = np.array([[0, 4], [0, 3], [1, 5], [1, 6], [1, 7], [2, 8], [2, 3]])
    data = Pairs(queries, documents, np.arange(3), irrelevant=wrong)
    (shared,) = Batches(pairs=data, order=Order(shuffle=False))
    assert shared.negatives is None
    assert shared.reference_ids.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 3, 8]
    (own,) = Batches(pairs=data, order=Order(shuffle=False), own_negatives=2)
    assert own.references.shape[0] == 3
    got, want = library.to_numpy(own.negatives), library.to_numpy(documents)
    assert np.array_equal(got, want[[[3, 4], [5, 6], [3, 8]]])
    result = InfoNCE(temperature=0.5).value_and_grad(own)
    assert tuple(result.grads["negatives"].shape) == (3, 2, 3)


def test_own_negatives_that_are_not_known_are_drawn() -> None:
    n = 30
    wrong = np.stack([np.arange(n), (np.arange(n) + 5) % n], axis=1)
    data = Pairs(np.eye(n), np.eye(n), irrelevant=wrong)
    train, _, _ = data.split()  # leaves wrong documents out that are right elsewhere
    assert (train.known_wrong.counts() == 0).any()
    seen = []
    for batches in (Batches(pairs=train, own_negatives=3, batch_size=8) for _ in range(2)):
        for batch in batches:
            own = batch.negatives.argmax(axis=2)
            for row, query in zip(own, batch.ids, strict=True):
                known = train.known_wrong.of_queries(np.nonzero(train.query_rows == query)[0])[0]
                assert row[: len(known)].tolist() == known.tolist()
                assert len(set(row)) == 3
                assert query not in row
            seen.append(own.tolist())
    half = len(seen) // 2
    assert seen[:half] == seen[half:]
    with pytest.raises(DataError, match="no document is known to be wrong"):
        Batches(pairs=Pairs(np.eye(3), np.eye(3)), own_negatives=1)
