"""Samplers: what stands in a batch together, against plain re-tellings of what they promise."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import coreframe
from coreframe import Batches, Order, Pairs, Sampler, fit
from coreframe.errors import ArgumentError, ArgumentTypeError, DataError
from coreframe.registry import build
from coreframe_samplers.m_per_class import MPerClass
from coreframe_samplers.no_duplicates import NoDuplicates, first_fit
from coreframe_samplers.ordered import Ordered
from coreframe_samplers.shuffled import Shuffled
from coreframe_schedulers.linear import Linear
from coreframe_text.sha256 import Sha256


def some(n: int = 30, **columns: Any) -> Pairs:
    rng = np.random.default_rng(0)
    return Pairs(rng.standard_normal((n, 3)), rng.standard_normal((n, 3)), **columns)


def labelled(labels: Any) -> Pairs:
    rng = np.random.default_rng(0)
    return Pairs.labelled(rng.standard_normal((len(labels), 3)), labels)


def sampled(sampler: Sampler, pairs: Pairs, size: int = 4, **options: Any) -> list[list[int]]:
    asked = {"seed": 0, "epoch": 1, "drop_last": False, **options}
    found = [b.tolist() for b in sampler.epoch(pairs, batch_size=size, **asked)]
    assert len(found) == sampler.size(pairs, batch_size=size, **asked)
    return found


EVERY: list[tuple[Sampler, Pairs]] = [
    (Shuffled(), some()),
    (Ordered(), some(difficulty=np.arange(30)[::-1])),
    (Ordered(by="quality", pool=0.5), some(weights=np.arange(30))),
    (NoDuplicates(), some()),
    (MPerClass(m=2), labelled(np.arange(30) % 5)),
]


@pytest.mark.parametrize(("sampler", "pairs"), EVERY, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("drop", [False, True])
def test_an_epoch_is_a_pure_function_and_goes_on_in_the_middle(
    sampler: Sampler, pairs: Pairs, drop: bool
) -> None:
    options = {"pairs": pairs, "batch_size": 4, "drop_last": drop, "sampler": sampler, "seed": 3}

    def ids(loop: Any) -> list[list[int]]:
        return [np.asarray(batch.ids).tolist() for batch in loop]

    for epoch in (1, 2):
        whole = ids(Batches(**options).epoch(epoch))
        assert len(whole) == Batches(**options).size(epoch)
        if drop:
            assert all(len(batch) == 4 for batch in whole)
        first = Batches(**options).epoch(epoch)
        head = ids(itertools.islice(first, 3))
        fresh = Batches(**options)
        assert head + ids(fresh.epoch(**first.state)) == whole
        assert ids(fresh) == ids(Batches(**options).epoch(epoch + 1))
        assert isinstance(sampler, Ordered) or ids(fresh) != whole
    other = ids(Batches(**{**options, "seed": 4}).epoch(1))
    assert other != ids(Batches(**options).epoch(1)) or isinstance(sampler, Ordered)


def test_shuffled_is_what_a_run_does_without_a_sampler() -> None:
    pairs = some(11)
    plain = [b.ids.tolist() for b in Batches(pairs=pairs, batch_size=4)]
    own = [b.ids.tolist() for b in Batches(pairs=pairs, batch_size=4, sampler=Shuffled())]
    assert plain == own


def test_ordered_is_the_curriculum_of_the_order() -> None:
    pairs = some(difficulty=np.arange(30) // 3, weights=np.arange(30) // 2)
    for by in ("quality", "difficulty"):
        pool = Linear(start=0.2, end=1.0)
        order = Order(curriculum=by, curriculum_epochs=3, pool=pool)
        sampler = Ordered(by=by, epochs=3, pool=pool)
        for epoch in range(1, 6):
            a, b = (
                [x.ids.tolist() for x in Batches(pairs=pairs, batch_size=4, **way).epoch(epoch)]
                for way in ({"order": order}, {"sampler": sampler})
            )
            assert a == b
    with pytest.raises(ArgumentError, match=r"needs Pairs\(\.\.\., difficulty=\.\.\.\)"):
        sampled(Ordered(), some())


# No duplicates ------------------------------------------------------------------------------


def as_sentence_transformers(keys: Any, order: Any, size: int, drop: bool) -> list[list[int]]:
    """Its NoDuplicatesBatchSampler, told again: fill one batch, then go over what is left."""
    remaining = list(zip(order, (set(row) for row in keys), strict=True))
    batches = []
    while remaining:
        batch: list[int] = []
        held: set[int] = set()
        left = []
        for i, (example, mine) in enumerate(remaining):
            if len(batch) == size:
                left += remaining[i:]
                break
            if mine & held:
                left.append((example, mine))
                continue
            batch.append(int(example))
            held |= mine
        remaining = left
        if len(batch) == size or not drop:
            batches.append(batch)
    return batches


@given(
    n=st.integers(1, 60),
    kinds=st.integers(1, 12),
    size=st.integers(1, 7),
    drop=st.booleans(),
    seed=st.integers(0, 5),
)
def test_no_duplicates_is_the_algorithm_of_sentence_transformers(
    n: int, kinds: int, size: int, drop: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    keys = np.stack([rng.integers(kinds, size=n), rng.integers(2 * kinds, size=n)], axis=1)
    order = rng.permutation(n)
    found = first_fit(keys[order], order, size, drop_last=drop)
    want = as_sentence_transformers(keys[order].tolist(), order, size, drop)
    assert [b.tolist() for b in found] == want


def test_no_text_stands_twice_among_anchors_and_positives() -> None:
    anchors = ["a", "b", "c", "d", "x", "y", "a", "e"]
    positives = ["x", "x", "y", "b", "q", "r", "s", "e"]  # "b" and "x" stand on both sides
    pairs = Pairs.from_texts(anchors, positives, Sha256(dimensions=8))
    seen: Counter[tuple[int, int]] = Counter()
    for epoch in range(1, 6):
        for batch in sampled(NoDuplicates(), pairs, epoch=epoch):
            texts = []
            for example in batch:
                q, d = pairs.examples[example]
                seen[int(q), int(d)] += 1
                texts += list({pairs.query_texts[q], pairs.document_texts[d]})
            assert len(set(texts)) == len(texts)
    assert set(seen.values()) == {5}  # each once an epoch, leftovers included
    assert len(seen) == len(pairs.examples)


def test_no_vector_stands_twice_where_there_are_no_texts() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3))
    pairs = Pairs(x[[0, 1, 0, 2]], x[[3, 2, 1, 0]])
    for batch in sampled(NoDuplicates(), pairs):
        rows = [x.tobytes() for i in batch for x in (pairs.queries[i], pairs.documents[i])]
        assert len(set(rows)) == len(rows)
    same = labelled([0, 0, 1, 1])
    twice = Pairs.labelled(np.concatenate([same.queries, same.queries]), [0, 0, 1, 1] * 2)
    for batch in sampled(NoDuplicates(), twice):
        assert len({i % 4 for i in batch}) == len(batch) == 4


def test_a_hub_does_not_make_no_duplicates_slow() -> None:
    import time

    n = 20_000
    keys = np.stack([np.zeros(n, np.int64), np.arange(1, n + 1)], axis=1)  # one document for all
    started = time.process_time()
    assert len(first_fit(keys, np.arange(n), 8, drop_last=False)) == n
    assert time.process_time() - started < 20  # going over what is left each time takes minutes


# M per class --------------------------------------------------------------------------------


def test_m_rows_of_each_class_stand_in_a_batch() -> None:
    labels = np.repeat(np.arange(6), [3, 4, 5, 9, 17, 40])
    pairs = labelled(labels)
    batches = sampled(MPerClass(m=3), pairs, 12)
    assert len(batches) == -(-len(labels) // 12)
    classes: Counter[int] = Counter()
    for batch in batches:
        assert sorted(Counter(labels[batch]).values()) == [3] * 4
        assert len(set(batch)) == 12  # no row twice
        classes.update(set(labels[batch].tolist()))
    assert max(classes.values()) - min(classes.values()) <= 1  # classes take turns
    assert len(sampled(MPerClass(m=3), pairs, 12, drop_last=True)) == len(labels) // 12
    # The rows of a class take turns too.
    counts = Counter(i for batch in batches for i in batch if labels[i] == 2)
    assert len(counts) == 5
    assert max(counts.values()) - min(counts.values()) <= 1


def test_classes_with_few_rows_are_named_repeated_or_left_out() -> None:
    labels = np.repeat(np.arange(5), [1, 2, 4, 4, 4])
    pairs = labelled(labels)
    with pytest.raises(
        DataError, match=r"MPerClass.m is 4, but 2 of 5 classes have fewer rows: 0 \(1\), 1 \(2\)"
    ):
        sampled(MPerClass(m=4), pairs, 8)
    left = sampled(MPerClass(m=4, few="leave_out"), pairs, 8)
    assert {int(c) for batch in left for c in labels[batch]} == {2, 3, 4}
    again = sampled(MPerClass(m=4, few="repeat"), pairs, 20)
    assert Counter(again[0])[0] == 4
    assert sorted(Counter(labels[again[0]]).values()) == [4] * 5


@pytest.mark.parametrize(
    ("sampler", "pairs", "size", "error", "message"),
    [
        (
            MPerClass(m=3), labelled(np.arange(12) % 2), 8, ArgumentError,
            r"MPerClass.m must divide batch_size, got m=3 and batch_size=8; .* 6 or 9 would do",
        ),
        (
            MPerClass(m=2), labelled(np.arange(12) % 3), 8, ArgumentError,
            r"must be at least batch_size, got 2 x 3 < 8; use a batch_size of at most 6",
        ),
        (MPerClass(m=2), some(), 8, DataError, r"m_per_class needs rows with class labels"),
    ],
)  # fmt: skip
def test_what_cannot_be_sampled_is_said(
    sampler: Sampler, pairs: Pairs, size: int, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        sampled(sampler, pairs, size)
    for fields in ({"m": 0}, {"m": 1.5}, {"few": "drop"}):
        with pytest.raises((ArgumentError, ArgumentTypeError), match="MPerClass"):
            MPerClass(**fields)


# In a run -----------------------------------------------------------------------------------


class Wrong(Sampler):
    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def epoch(self, pairs: Pairs, **asked: Any) -> list[Any]:
        return [np.asarray(self.batch)]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([0.5], r"the sampler Wrong gave as batch 0 an array of float64 \(1,\)"),
        ([], r"gave as batch 0 an array of float64 \(0,\)"),
        ([0, 1, 2, 3, 4], r"int64 \(5,\); it must hold from 1 to 4 integers"),
        ([0, 30], "gave in batch 0 the example 30; there are 30, counted from 0"),
        ([-1], "gave in batch 0 the example -1"),
    ],
)
def test_what_a_sampler_gives_is_looked_at(batch: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        next(iter(Batches(pairs=some(), batch_size=4, sampler=Wrong(batch))))


def test_a_sampler_and_an_order_exclude_each_other() -> None:
    with pytest.raises(ArgumentError, match="both say what comes when"):
        Batches(pairs=some(), sampler=Shuffled(), order=Order(shuffle=False))
    with pytest.raises(ArgumentTypeError, match="sampler must be a sampler, got 'shuffled'"):
        Batches(pairs=some(), sampler="shuffled")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="both say what comes when"):
        fit(some(), sampler="no_duplicates", order=Order(shuffle=False))


def test_a_run_takes_a_sampler_by_name_and_by_object() -> None:
    pairs = labelled(np.arange(24) % 4)
    options: dict[str, Any] = {"side": "both", "loss": "sup_con", "epochs": 2, "batch_size": 8}
    one = fit(pairs, sampler=MPerClass(m=4), **options)
    two = fit(pairs, sampler="m_per_class", **options)
    plain = fit(pairs, **options)
    assert np.array_equal(one.params["adapter.W"], two.params["adapter.W"])
    assert not np.array_equal(one.params["adapter.W"], plain.params["adapter.W"])


def test_a_sampler_stands_in_a_run_toml() -> None:
    from coreframe import config

    settings = config.parse({"sampler": {"name": "m_per_class", "m": 2, "few": "repeat"}})
    assert settings.sampler == MPerClass(m=2, few="repeat")
    assert config.read(None, ["sampler.name=no_duplicates"]).sampler == NoDuplicates()
    text = config.dump(settings)
    assert "[sampler]" in text
    import tomllib

    assert config.parse(tomllib.loads(text)).sampler == settings.sampler
    assert config.default().sampler is None
    assert {"m_per_class", "no_duplicates", "ordered", "shuffled"} <= {
        entry.name for entry in coreframe.registry.registry().entries("samplers")
    }
    assert build("samplers", "shuffled") == Shuffled()
