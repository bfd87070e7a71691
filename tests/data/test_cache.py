"""The cache of embeddings: what is asked for, what is kept, and that nothing can change it."""

from __future__ import annotations

import copy
import pickle
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreframe.data.cache import Cached, EmbeddingCache
from coreframe.embedder import Embedder
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe_text.hashing import Hashing
from coreframe_text.sha256 import Sha256


@dataclass(frozen=True, kw_only=True)
class Recording(Embedder):
    """Notes every text that it is asked for."""

    dimensions: int = 4
    asked: list[str] = field(default_factory=list, compare=False)

    def embed(self, texts: Sequence[str]) -> Any:
        self.asked.extend(texts)
        return Sha256(dimensions=self.dimensions).embed(texts)


def test_each_text_is_asked_for_once() -> None:
    cached = Cached(embedder=Recording())
    rows = cached.embed(["a", "b", "a"])
    again = cached.embed(["c", "b"])
    assert cached.embedder.asked == ["a", "b", "c"]  # type: ignore[attr-defined]
    assert (cached.cache.hits, cached.cache.misses, len(cached.cache)) == (2, 3, 3)
    want = Sha256(dimensions=4)
    np.testing.assert_array_equal(rows, want.embed(["a", "b", "a"]))
    np.testing.assert_array_equal(again, want.embed(["c", "b"]))
    assert rows.dtype == np.float32


def test_a_changed_result_changes_nothing() -> None:
    cached = Cached(embedder=Recording())
    first = cached.embed(["a"])
    want = first.copy()
    first += 1
    second = cached.embed(["a", "b"])
    np.testing.assert_array_equal(second[0], want[0])
    second += 1
    np.testing.assert_array_equal(cached.embed(["a"]), want)

    [key] = cached.cache.keys(cached.embedder, ["a"])
    with pytest.raises(ValueError, match="read-only"):
        cached.cache.find([key])[key][0] = 1

    mine = np.zeros(2)
    cached.cache.keep({key: mine})
    mine[0] = 5
    assert cached.cache.find([key])[key][0] == 0


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=6), max_size=8), st.integers(1, 10))
def test_the_least_recently_used_goes_first(calls: list[list[str]], capacity: int) -> None:
    recording = Recording()
    cached = Cached(embedder=recording, cache=EmbeddingCache(capacity))
    kept: OrderedDict[str, None] = OrderedDict()
    hits = misses = 0
    for texts in calls:
        cached.embed(texts)
        there = [text for text in dict.fromkeys(texts) if text in kept]
        new = [text for text in dict.fromkeys(texts) if text not in kept]
        hits += len(texts) - len(new)
        misses += len(new)
        for text in there + new:
            kept[text] = None
            kept.move_to_end(text)
        while len(kept) > capacity:
            kept.popitem(last=False)
    cache = cached.cache
    assert (cache.hits, cache.misses, len(cache)) == (hits, misses, len(kept))
    assert len(recording.asked) == misses
    keys = cache.keys(recording, list("abcdefgh"))
    assert [k in cache.find(keys) for k in keys] == [text in kept for text in "abcdefgh"]


def test_clear() -> None:
    cached = Cached(embedder=Recording())
    cached.embed(["a", "a"])
    cached.cache.clear()
    assert repr(cached.cache) == "EmbeddingCache(0 of 65536, 0 hits, 0 misses)"
    cached.embed(["a"])
    assert cached.embedder.asked == ["a", "a"]  # type: ignore[attr-defined]


def test_embedders_do_not_share_but_equal_ones_do() -> None:
    cache = EmbeddingCache()
    wide, narrow, equal = Recording(dimensions=8), Recording(dimensions=2), Recording(dimensions=2)
    for embedder, width in ((wide, 8), (narrow, 2), (equal, 2), (Hashing(dimensions=8), 8)):
        rows = Cached(embedder=embedder, cache=cache).embed(["a"])
        np.testing.assert_array_equal(rows, embedder.embed(["a"]))
        assert rows.shape == (1, width)
    assert (cache.hits, cache.misses) == (1, 3)


def test_odd_texts_are_different_texts() -> None:
    texts = ["", " ", "\ud800", "\udc00", "\ufffd", "e\u0301", "é", "\x00", "x" * 1_000_000]
    cached = Cached(embedder=Hashing(dimensions=16))
    rows = cached.embed(texts)
    assert len(cached.cache) == len(texts)
    np.testing.assert_array_equal(rows, Hashing(dimensions=16).embed(texts))


def test_no_text() -> None:
    cached = Cached(embedder=Recording())
    assert cached.embed([]).shape == (0, 4)
    assert (cached.cache.hits, cached.cache.misses) == (0, 0)


def test_threads_get_the_right_rows() -> None:
    cached = Cached(embedder=Sha256(dimensions=4), cache=EmbeddingCache(20))
    texts = [str(i) for i in range(50)]
    want = Sha256(dimensions=4).embed(texts)
    wrong: list[int] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(100):
            chosen = rng.integers(0, 50, 10)
            rows = cached.embed([texts[i] for i in chosen])
            if not np.array_equal(rows, want[chosen]):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(cached.cache) == 20
    assert cached.cache.hits + cached.cache.misses == 8 * 100 * 10


def test_a_copy_starts_empty() -> None:
    cached = Cached(embedder=Sha256(dimensions=4), cache=EmbeddingCache(3))
    cached.embed(["a"])
    for other in (pickle.loads(pickle.dumps(cached)), copy.deepcopy(cached)):
        assert other == cached
        assert repr(other.cache) == "EmbeddingCache(0 of 3, 0 hits, 0 misses)"


def test_wrong_arguments() -> None:
    for capacity in (0, -1, 2.5, True):
        with pytest.raises(ArgumentError, match="capacity must be an integer of at least 1"):
            EmbeddingCache(capacity)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="one string"):
        Cached(embedder=Recording()).embed("text")

    class Short(Embedder):
        def embed(self, texts: Sequence[str]) -> Any:
            return np.zeros((1, 3))

    cached = Cached(embedder=Short())
    with pytest.raises(ArgumentError, match=r"Short.embed must return one row a text, \(2, d\)"):
        cached.embed(["a", "b"])
    assert len(cached.cache) == 0


def test_embedders_whose_rows_are_gone_are_let_go() -> None:
    cache = EmbeddingCache(capacity=4)
    for width in range(1, 50):
        Cached(embedder=Recording(dimensions=width), cache=cache).embed(["a", "b"])
    assert len(cache) == 4
    assert len(cache._embedders) <= 3  # two with rows, and the newest
