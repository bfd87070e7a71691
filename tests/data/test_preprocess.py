"""From rows of texts to training data: what is kept, what is embedded, and what is counted."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreframe import build, fit
from coreframe.data.augment import Augmentation
from coreframe.data.batches import Batches, Order
from coreframe.data.cache import Cached
from coreframe.data.examples import Example
from coreframe.data.preprocess import Preprocessor
from coreframe.data.tokenizer import FIRST_WORD, SEPARATOR, WordTokenizer
from coreframe.embedder import Embedder
from coreframe.errors import ArgumentError, ArgumentTypeError, DataError
from coreframe_text.hashing import Hashing
from coreframe_text.sha256 import Sha256

# Examples -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "want"),
    [
        ({"anchor": "a", "positive": "b"}, Example("a", "b")),
        ({"query": "a", "answer": "b", "negative": "c"}, Example("a", "b", negatives=("c",))),
        ({"input": "a", "output": "b", "quality": 0}, Example("a", "b", quality=0)),
        ({"output": "b", "x": 1, "input": "a"}, Example("a", "b", metadata={"x": 1})),
        ({"query": "a", "pos": "b", "neg": None, "quality": None}, Example("a", "b")),
        (
            {"anchor": "a", "positive": "b", "negatives": ["c", "d"], "difficulty": 2},
            Example("a", "b", negatives=("c", "d"), difficulty=2.0),
        ),
        (
            {"anchor": "a", "positive": "b", "negative": "c", "negatives": ("d",)},
            Example("a", "b", negatives=("c", "d")),
        ),
        (
            {"q": "a", "d": "b", "weight": 0.5, "metadata": {"k": 1}, "group": "g"},
            Example("a", "b", quality=0.5, metadata={"group": "g", "k": 1}),
        ),
        (
            {"anchor": "a", "positive": "b", "metadata": {"k": 1}, "group": "g"},
            Example("a", "b", metadata={"group": "g", "k": 1}),
        ),
    ],
)
def test_examples_from_rows(row: dict[str, Any], want: Example) -> None:
    assert Example.of(row) == want


def test_columns_by_role() -> None:
    row = {"q": "a", "d": "b", "rating": 0.25, "hard": 3, "text": "c"}
    columns = {"anchor": "q", "positive": "d", "weight": "rating", "difficulty": "hard"}
    assert Example.of(row, columns=columns) == Example(
        "a", "b", quality=0.25, difficulty=3, metadata={"text": "c"}
    )


@pytest.mark.parametrize(
    ("row", "error", "message"),
    [
        ({"anchor": "a"}, DataError, "the row has no column for the positive"),
        ({}, DataError, "the row has no column for the"),
        ({"anchor": "a", "positive_id": 3}, DataError, "no text for the positive"),
        ({"positive": 3}, ArgumentTypeError, r"positive must be a text, got 3 \(int"),
        ({"positive": None}, ArgumentTypeError, "positive must be a text, got None"),
        ({"score": 1}, DataError, "column 'score', but an example is a right pair"),
        ({"negatives": 3}, ArgumentTypeError, r"negatives\[0\] must be a text, got 3"),
        ({"negatives": ["c", 3]}, ArgumentTypeError, r"negatives\[1\] must be a text, got 3"),
        ({"quality": "high"}, ArgumentTypeError, "quality must be a number, got 'high'"),
        ({"quality": True}, ArgumentTypeError, "quality must be a number, got True"),
        ({"quality": -0.5}, ArgumentError, "quality must not be negative, got -0.5"),
        ({"quality": float("nan")}, ArgumentError, "quality must be finite, got nan"),
        ({"difficulty": float("inf")}, ArgumentError, "difficulty must be finite, got inf"),
        ({"metadata": [1]}, ArgumentTypeError, r"metadata must be a mapping, got \[1\]"),
    ],
)
def test_rows_that_are_no_example(row: Any, error: type[Exception], message: str) -> None:
    if row and "anchor" not in row:
        row = {"anchor": "a", "positive": "b", **row}
    with pytest.raises(error, match=message):
        Example.of(row)
    with pytest.raises(DataError, match=rf"row 1 \(from 0\): .*{message}"):
        Preprocessor(embedder=Sha256()).process([Example("a", "b"), row])


def test_an_example_cannot_be_changed() -> None:
    given = {"k": 1}
    example = Example("a", "b", negatives=["c"], metadata=given)  # type: ignore[arg-type]
    given["k"] = 2
    assert example.metadata == {"k": 1}
    with pytest.raises(TypeError):
        example.metadata["k"] = 3  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        example.anchor = "x"  # type: ignore[misc]
    for other in (pickle.loads(pickle.dumps(example)), copy.deepcopy(example)):
        assert other == example
        assert hash(other) == hash(example)


# Processing -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Recording(Embedder):
    """Notes every call."""

    calls: list[list[str]] = field(default_factory=list, compare=False)

    def embed(self, texts: Sequence[str]) -> Any:
        self.calls.append(list(texts))
        return Sha256(dimensions=4).embed(texts)


ROWS = [
    Example("write code", "x", negatives=("n1", "n2"), quality=0.8, metadata={"k": 1}),
    Example("left out", "unseen", quality=0.1),
    Example("Ask me", "y", negatives=("x",), quality=1.0),
    Example("write code", "x", quality=0.5),
]


def test_each_text_is_embedded_once_in_batches() -> None:
    recording = Recording()
    done = Preprocessor(embedder=recording, quality_threshold=0.5, batch_size=4).process(ROWS)
    assert recording.calls == [["write code", "x", "n1", "n2"], ["Ask me", "y"]]
    embed = Sha256(dimensions=4).embed
    np.testing.assert_array_equal(done.anchors, embed(["write code", "Ask me", "write code"]))
    np.testing.assert_array_equal(done.positives, embed(["x", "y", "x"]))
    assert [x.shape for x in done.negatives] == [(2, 4), (1, 4), (0, 4)]
    np.testing.assert_array_equal(done.negatives[0], embed(["n1", "n2"]))
    np.testing.assert_array_equal(done.negatives[1], embed(["x"]))
    assert done.weights.tolist() == [0.8, 1.0, 0.5]
    assert done.sources.tolist() == [0, 2, 3]
    assert done.tokens is None
    for array in (done.anchors, done.vectors, *done.negatives):
        assert not array.flags.writeable
    stats = done.statistics
    assert (stats.processed, stats.filtered, stats.augmented) == (3, 1, 0)
    assert (stats.embedded, stats.cache_hits, stats.cache_size, stats.vocabulary_size) == (
        6, 0, 0, 0,
    )  # fmt: skip


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.sampled_from([0, 0.3, 1])),
        max_size=8,
    ),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.3, 0.31]),
)
def test_rows_and_counts(rows: list[tuple[str, str, float]], size: int, threshold: float) -> None:
    examples = [Example(a, p, quality=q) for a, p, q in rows]
    recording = Recording()
    preprocessor = Preprocessor(
        embedder=recording, batch_size=size, quality_threshold=threshold, tokenizer=WordTokenizer()
    )
    done = preprocessor.process(iter(examples))
    kept = [example for example in examples if example.quality >= threshold]
    assert list(done.examples) == kept
    embed = Sha256(dimensions=4).embed
    np.testing.assert_array_equal(done.anchors, embed([e.anchor for e in kept]))
    np.testing.assert_array_equal(done.positives, embed([e.positive for e in kept]))
    different = {text for e in kept for text in (e.anchor, e.positive)}
    stats = done.statistics
    assert (stats.processed, stats.filtered) == (len(kept), len(rows) - len(kept))
    assert stats.embedded == stats.vocabulary_size == len(different)
    assert sorted(text for call in recording.calls for text in call) == sorted(different)


def test_copies_stand_behind_their_example() -> None:
    augmentation = Augmentation(factor=4)
    preprocessor = Preprocessor(embedder=Recording(), augmentation=augmentation)
    done = preprocessor.process(ROWS)
    assert done.sources.tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    for first in range(0, 16, 4):
        example = done.examples[first]
        assert example is ROWS[first // 4]
        for made in done.examples[first + 1 : first + 4]:
            assert made.anchor != example.anchor
            assert made.metadata == example.metadata
            assert made.quality < example.quality
    np.testing.assert_array_equal(
        done.anchors, Sha256(dimensions=4).embed([e.anchor for e in done.examples])
    )
    assert (done.statistics.processed, done.statistics.augmented) == (4, 12)
    # The same each time, whatever the other examples are.
    again = preprocessor.process([Example("else", "z"), *ROWS[1:]])
    assert again.examples[4:] == done.examples[4:]
    other = dataclasses.replace(preprocessor, seed=1).process(ROWS)
    assert other.examples != done.examples


def test_copies_pass_the_filter_too() -> None:
    augmentation = Augmentation(factor=6, case_probability=0)  # weights 0.9 and 0.85
    preprocessor = Preprocessor(
        embedder=Recording(), augmentation=augmentation, quality_threshold=0.7
    )
    done = preprocessor.process([Example("write code", "x", quality=0.8)])
    assert {round(example.quality, 3) for example in done.examples} == {0.8, 0.72}
    stats = done.statistics
    assert (stats.processed, stats.filtered) == (1, 0)
    assert stats.augmented + stats.filtered_copies == 5
    assert stats.filtered_copies > 0
    below = preprocessor.process([Example("write code", "x", quality=0.6)])
    assert len(below) == below.statistics.augmented == 0


def test_tokens_are_cut_and_the_whole_text_is_embedded() -> None:
    recording = Recording()
    done = Preprocessor(embedder=recording, tokenizer=WordTokenizer(), max_length=3).process(
        [Example("one two three", "four", negatives=("two one two",))]
    )
    one, two, four = FIRST_WORD, FIRST_WORD + 1, FIRST_WORD + 3
    assert done.tokens == (
        ((one, SEPARATOR, two), (four,), (two, SEPARATOR, one)),
    )  # fmt: skip
    assert done.texts == ("one two three", "four", "two one two")
    assert recording.calls == [list(done.texts)]


def test_what_is_kept_can_be_embedded_instead() -> None:
    recording = Recording()
    preprocessor = Preprocessor(
        embedder=recording, tokenizer=WordTokenizer(), max_length=3, embed="kept"
    )
    done = preprocessor.process(
        [Example("one  two three", "four  five"), Example("one  two four", "one")]
    )
    assert done.texts == ("one two", "four  five", "one")  # what is not cut stays as it is
    assert recording.calls == [list(done.texts)]
    np.testing.assert_array_equal(done.anchors[0], done.anchors[1])
    assert done.pairs().query_texts == ["one two"]


def test_a_tokenizer_that_knows_words_learns_none() -> None:
    preprocessor = Preprocessor(embedder=Recording(), tokenizer=WordTokenizer())
    first = preprocessor.process([Example("red", "blue")])
    assert isinstance(first.tokenizer, WordTokenizer)
    assert first.tokenizer.words == ("red", "blue")
    second = dataclasses.replace(preprocessor, tokenizer=first.tokenizer).process(
        [Example("blue", "é")]
    )
    assert second.tokenizer is first.tokenizer
    assert second.tokens == (((FIRST_WORD + 1,), (198, 172)),)
    assert second.statistics.vocabulary_size == 2
    assert preprocessor.process([Example("blue", "red")]).tokens == (
        ((FIRST_WORD,), (FIRST_WORD + 1,)),
    )  # nothing is remembered


def test_a_cache_is_kept_between_calls() -> None:
    recording = Recording()
    preprocessor = Preprocessor(embedder=Cached(embedder=recording))
    preprocessor.process(ROWS[:1])
    done = preprocessor.process(ROWS)
    assert recording.calls == [
        ["write code", "x", "n1", "n2"],
        ["left out", "unseen", "Ask me", "y"],
    ]
    stats = done.statistics
    assert (stats.embedded, stats.cache_hits, stats.cache_size) == (4, 4, 8)


def test_events() -> None:
    heard: list[Any] = []
    only_names: list[str] = []
    preprocessor = Preprocessor(
        embedder=Recording(),
        augmentation=Augmentation(),
        on_event=(
            lambda name, payload: heard.append(payload),
            lambda name, payload: only_names.append(name),
        ),
    )
    first = preprocessor.process(ROWS)
    preprocessor.process([])
    assert only_names == ["process:complete"] * 2
    assert [payload["total"] for payload in heard] == [8, 0]
    assert heard[0]["stats"] == first.statistics  # the next call did not change it
    assert heard[0]["stats"].processed == heard[0]["stats"].augmented == 4
    with pytest.raises(TypeError):
        heard[0]["total"] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.statistics.processed = 0  # type: ignore[misc]


@pytest.mark.parametrize("dimensions", [1, 32, 2048])
def test_odd_texts(dimensions: int) -> None:
    texts = ["", " ", "\ud800", "😀", "\x00", "x" * 1_000_000]
    examples = [Example(text, "p", negatives=(text,)) for text in texts]
    for embedder in (Sha256(dimensions=dimensions), Hashing(dimensions=dimensions)):
        done = Preprocessor(embedder=embedder, tokenizer=WordTokenizer()).process(examples)
        assert done.tokens is not None
        assert [len(ids[0]) for ids in done.tokens] == [0, 0, 1, 1, 1, 1]
        np.testing.assert_array_equal(done.anchors, embedder.embed(texts))
        assert len(done.pairs()) == 6


def test_nothing_is_kept() -> None:
    done = Preprocessor(embedder=Sha256(), quality_threshold=2).process(ROWS)
    assert (len(done), done.anchors.shape, done.negatives) == (0, (0, 384), ())
    with pytest.raises(DataError, match="4 of 4 are below the threshold"):
        done.pairs()


# Training data --------------------------------------------------------------------------------


def test_pairs() -> None:
    pairs = Preprocessor(embedder=Recording()).process(ROWS).pairs()
    assert pairs.query_texts == ["write code", "left out", "Ask me"]
    assert pairs.document_texts == ["x", "n1", "n2", "unseen", "y"]
    assert pairs.examples.tolist() == [[0, 0], [1, 3], [2, 4]]
    assert pairs.weights is not None
    assert pairs.weights.tolist() == [0.8, 0.1, 1.0]  # the larger of 0.8 and 0.5
    assert pairs.difficulty is None
    assert sorted(pairs.irrelevant.tolist()) == [[0, 1], [0, 2], [2, 0]]
    embed = Sha256(dimensions=4).embed
    np.testing.assert_array_equal(pairs.queries, embed(pairs.query_texts))
    np.testing.assert_array_equal(pairs.documents, embed(pairs.document_texts))


def test_difficulty_is_for_all_or_none() -> None:
    process = Preprocessor(embedder=Recording()).process
    pairs = process([Example("a", "x", difficulty=2), Example("b", "y", difficulty=1)]).pairs()
    assert pairs.difficulty is not None
    assert pairs.difficulty.tolist() == [2.0, 1.0]
    order = Order(curriculum="difficulty").of(pairs, 0, 1)
    assert order.tolist() == [1, 0]
    with pytest.raises(DataError, match="1 of 2 examples have a difficulty"):
        process([Example("a", "x", difficulty=2), Example("b", "y")]).pairs()


def test_copies_stay_with_their_example_in_a_split() -> None:
    examples = [
        Example(f"write number {i}", f"positive {i}", metadata={"user": i // 2}) for i in range(60)
    ]
    preprocessor = Preprocessor(embedder=Sha256(dimensions=8), augmentation=Augmentation(factor=3))
    done = preprocessor.process(examples)
    for pairs, per_group in ((done.pairs(), 3), (done.pairs(group="user"), 6)):
        assert len(pairs) == 180
        assert np.bincount(pairs.groups).max() == per_group
        parts = pairs.split(dev=0.2, test=0.2)
        # Copies and their example have one positive, whose number is that of its user's pair.
        sides = [set((part.examples[:, 1] // (per_group // 3)).tolist()) for part in parts]
        assert sum(map(len, sides)) == len(set().union(*sides)) == 180 // per_group
    with pytest.raises(DataError, match="no example has 'users' in its metadata"):
        done.pairs(group="users")


def test_the_quality_is_the_weight_in_loss_and_gradient() -> None:
    rng = np.random.default_rng(0)
    texts = [f"text {i}" for i in range(6)]
    qualities = rng.uniform(0.2, 2, 6).tolist()
    qualities[2] = 0.0
    examples = [
        Example(text, f"right {text}", quality=quality)
        for text, quality in zip(texts, qualities, strict=True)
    ]
    pairs = Preprocessor(embedder=Sha256(dimensions=16)).process(examples).pairs()
    [batch] = Batches(pairs=pairs, batch_size=6, order=Order(shuffle=False))
    loss = build("losses", "info_nce", temperature=0.5)
    result = loss.value_and_grad(batch)

    a, b = (np.asarray(x, dtype=np.float64) for x in (batch.anchors, batch.references))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    scores = a @ b.T / 0.5
    each = np.log(np.exp(scores).sum(axis=1)) - np.diag(scores)
    weights = np.asarray(qualities)
    assert float(result.value) == pytest.approx(weights @ each / weights.sum(), rel=1e-5)
    gradient = np.asarray(result.grads["anchors"])
    assert (gradient[2] == 0).all()
    # d loss / d a_i is w_i / sum(w) times what it would be alone.
    softmax = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    g = (softmax - np.eye(6)) / 0.5 @ b
    g -= a * (g * a).sum(axis=1, keepdims=True)
    g *= (weights / weights.sum())[:, None] / np.linalg.norm(batch.anchors, axis=1)[:, None]
    np.testing.assert_allclose(gradient, g, rtol=1e-4, atol=1e-6)


def test_examples_can_be_trained_on() -> None:
    rng = np.random.default_rng(0)
    words = [f"{'bcdfg'[i % 5]}{'aeiou'[i // 5 % 5]}{i}" for i in range(80)]
    examples = [
        Example(f"{word} {words[rng.integers(80)]}", f"die {word}", negatives=(f"das {word}",))
        for word in words
    ]
    done = Preprocessor(embedder=Hashing(dimensions=64), augmentation=Augmentation()).process(
        examples
    )
    train, dev, _ = done.pairs().split(dev=0.2, test=0.2)
    run = fit(train, dev, adapter=build("adapters", "low_rank", rank=4), epochs=5)
    losses = [entry["loss"] for entry in run.history if "loss" in entry]  # of one full batch each
    assert len(losses) == 5
    assert losses == sorted(losses, reverse=True)


# Fields ---------------------------------------------------------------------------------------


class Encoder:
    def encode(self, text: str) -> list[int]:
        return [len(text)]


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"embedder": "hashing"}, ArgumentTypeError, "must be an Embedder, got str; by name"),
        ({"tokenizer": "bert"}, ArgumentTypeError, r"tokenizer must .*pip install tokenizers"),
        ({"embed": "kept"}, ArgumentError, "needs a tokenizer with a method decode"),
        ({"embed": "kept", "tokenizer": Encoder()}, ArgumentError, "with a method decode"),
        ({"embed": "all"}, ArgumentError, "embed must be one of 'whole', 'kept', got 'all'"),
        ({"max_length": 0}, ArgumentError, "max_length must be at least 1"),
        ({"quality_threshold": float("nan")}, ArgumentError, "quality_threshold must be finite"),
        ({"augmentation": 3}, ArgumentTypeError, "augmentation must be an Augmentation, got 3"),
        ({"seed": -1}, ArgumentError, "seed must be at least 0"),
        ({"batch_size": 0}, ArgumentError, "batch_size must be at least 1"),
        ({"on_event": ["x"]}, ArgumentTypeError, r"on_event must be a function \(name, payload\)"),
    ],
)  # fmt: skip
def test_wrong_fields_are_named(fields: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Preprocessor(**{"embedder": Sha256(), **fields})


def test_other_rows_and_embedders_are_refused() -> None:
    with pytest.raises(
        ArgumentTypeError, match=r"row 0 \(from 0\) must be an Example or a mapping"
    ):
        Preprocessor(embedder=Sha256()).process([("a", "b")])  # type: ignore[list-item]
    for one in (Example("a", "b"), {"query": "a", "answer": "b"}):
        with pytest.raises(ArgumentTypeError, match=r"several rows, got one .*; put"):
            Preprocessor(embedder=Sha256()).process(one)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"there is no example$"):
        Preprocessor(embedder=Sha256()).process([]).pairs()

    class Short(Embedder):
        def embed(self, texts: Sequence[str]) -> Any:
            return np.zeros((1, 3))

    with pytest.raises(ArgumentError, match=r"Short.embed must return one row a text, \(2, d\)"):
        Preprocessor(embedder=Short()).process([Example("a", "b")])
