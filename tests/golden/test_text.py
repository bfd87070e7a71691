"""Texts in the older system: the hash embedder, tokens, preprocessing and augmentation."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
import pytest
from goldens import Case, case, fault, golden

from coreframe.data.augment import Augmentation
from coreframe.data.cache import Cached
from coreframe.data.examples import Example
from coreframe.data.preprocess import Preprocessor
from coreframe.data.tokenizer import FIRST_WORD, SEPARATOR, WordTokenizer
from coreframe.errors import DataError
from coreframe_text.hashing import Hashing
from coreframe_text.sha256 import Sha256


def sha256(case: Case) -> Sha256:
    return Sha256(
        dimensions=case.params.get("embeddingDim", 384),
        normalize=case.params.get("normalizeEmbeddings", True),
    )


def the_text(given: Any) -> str:
    return given if isinstance(given, str) else given["repeat"] * given["times"]


# The hash embedder ----------------------------------------------------------------------------


@golden(
    "js",
    "embed/",
    "microlora/hashEmbed_equals_embed",
    without=("embed/cache", "embed/similarities"),
)
def test_sha256_is_the_same_in_every_bit(case: Case) -> None:
    row = sha256(case).embed([the_text(case.inputs["text"])])[0]
    assert row.dtype == np.float32
    want = case.output
    if isinstance(want, dict) and "sha256_of_float32_le_bytes" in want:
        assert (
            hashlib.sha256(row.astype("<f4").tobytes()).hexdigest()
            == (want["sha256_of_float32_le_bytes"])
        )
        assert row[:8].tolist() == want["first8"]
        assert row[-4:].tolist() == want["last4"]
    else:
        assert row.tolist() == (want["values"] if isinstance(want, dict) else want)


@golden("js", "embed/similarities")
def test_similarities_of_sha256(case: Case) -> None:
    for names, want in case.output.items():
        texts = [n[0] * 500 if n.endswith("*500") else n for n in names.split("|")]
        one, other = Sha256().embed(texts).astype(np.float64)
        cosine = one @ other / (np.sqrt((one @ one) * (other @ other)) + 1e-8)  # the seed's
        assert cosine == pytest.approx(want, abs=1e-14)


@golden("js", "embed/cache")
def test_the_counts_of_a_cache(case: Case) -> None:
    cached = Cached(embedder=Sha256())
    for text in case.inputs["texts"]:
        cached.embed([text])
    stats = case.output["stats"]
    assert (cached.cache.hits, len(cached.cache)) == (stats["cacheHits"], stats["cacheSize"])


@fault(51, "js:embed/similarities", "js:embed/cache")
def test_an_embedder_that_sees_more_than_bytes_and_a_cache_that_is_safe() -> None:
    rows = Hashing().embed(["Hello World", "hello world", "日本語テキスト", "中文文本内容试"])
    assert rows[0] @ rows[1] == pytest.approx(1)  # the hash had 0.13
    assert abs(rows[2] @ rows[3]) < 0.2  # and 0.88
    cached = Cached(embedder=Sha256())
    first = cached.embed(["a"])
    want = first.copy()
    first[:] = 7
    np.testing.assert_array_equal(cached.embed(["a"]), want)


# Tokens ---------------------------------------------------------------------------------------


@golden("js", "tokenize/sequence_one_vocab")
def test_word_ids_in_order_of_arrival(case: Case) -> None:
    """The same words get ids one to one with the seed's; the empty word has none."""
    texts = case.inputs["texts"]
    tokenizer = WordTokenizer().fit(texts)
    assert list(tokenizer.words) == [word for word in case.output["vocab"] if word]
    theirs = {i: word for word, i in case.output["vocab"].items()}
    for text, tokens in zip(texts, case.output["tokens"], strict=True):
        words = [theirs[i] for i in tokens[::2] if theirs[i]]
        ours = tokenizer.encode(text)
        assert [tokenizer.words[i - FIRST_WORD] for i in ours[::2]] == words
        assert ours[1::2] == [SEPARATOR] * (len(words) - 1 if words else 0)


@fault(
    8, "js:tokenize/sequence_one_vocab", "js:tokenize/collision_32", "js:tokenize/fallback_chars"
)
def test_tokens_do_not_collide() -> None:
    many = " ".join(f"w{i}" for i in range(300))
    tokenizer = WordTokenizer().fit([many])
    ids = tokenizer.encode(many)
    assert set(ids[1::2]) == {SEPARATOR}
    assert sorted(ids[::2]) == list(range(FIRST_WORD, FIRST_WORD + 300))  # no separator, no byte
    assert tokenizer.encode("") == tokenizer.encode(" \t") == []
    given = case("js:tokenize/fallback_chars")
    full = WordTokenizer(words=tokenizer.words, max_words=300).fit(["Az"])
    fallen = full.encode(given.inputs["text"])
    assert "Az" not in full.words
    assert not {i for i in fallen if i != SEPARATOR} & {SEPARATOR, *ids}
    assert full.decode(fallen) == given.inputs["text"]  # the seed keeps one byte a character


# Preprocessing --------------------------------------------------------------------------------


def filtered(quality: Any) -> Any:
    row = {"input": "a b", "output": "c", "quality": quality}
    preprocessor = Preprocessor(embedder=Sha256(), quality_threshold=0.5, tokenizer=WordTokenizer())
    return preprocessor.process([row])


@golden("js", "process/quality_filter")
def test_the_quality_filter(case: Case) -> None:
    for row in case.output:
        quality = None if row["quality"] == "undefined" else row["quality"]
        if quality == 0 or quality != quality or quality == -1:
            continue  # the fault below
        done = filtered(quality)
        assert len(done) == row["kept"]
        assert done.weights.tolist() == [row["stored_quality"]] * row["kept"]
        stats = row["stats"]
        assert done.statistics.processed == stats["processed"]
        assert done.statistics.filtered == stats["filtered"]
        assert done.statistics.vocabulary_size == stats["vocabSize"]


@fault(6, "js:process/quality_filter")
def test_a_quality_of_zero_is_zero_and_nonsense_is_an_error() -> None:
    assert len(filtered(0)) == 0
    with pytest.raises(DataError, match=r"row 0 .*quality must be finite, got nan"):
        filtered(float("nan"))
    with pytest.raises(DataError, match=r"row 0 .*quality must not be negative, got -1"):
        filtered(-1)
    kept = Preprocessor(embedder=Sha256()).process([Example("a", "b", quality=0)])
    assert kept.weights.tolist() == [0.0]


@golden("js", "process/truncation_and_event")
def test_rows_tokens_and_the_event(case: Case) -> None:
    heard: list[Any] = []
    preprocessor = Preprocessor(
        embedder=Sha256(),
        tokenizer=WordTokenizer(),
        max_length=case.params["maxLength"],
        on_event=lambda name, payload: heard.append((name, payload)),
    )
    done = preprocessor.process(case.inputs["examples"])
    assert done.tokens is not None
    for i, row in enumerate(case.output["results"]):
        # Separators stand between words only, and word ids begin at FIRST_WORD.
        for ours, theirs in zip(
            done.tokens[i], (row["inputTokens"], row["outputTokens"]), strict=True
        ):
            assert list(ours[::2]) == [FIRST_WORD + t for t in theirs[::2]]
        assert done.examples[i].quality == row["quality"]
        metadata = row["metadata"]
        assert done.examples[i].metadata == ({} if metadata == "undefined" else metadata)
        given = case.inputs["examples"][i]
        np.testing.assert_array_equal(done.anchors[i], Sha256().embed([given["input"]])[0])
        np.testing.assert_array_equal(done.positives[i], Sha256().embed([given["output"]])[0])
    stats, want = done.statistics, case.output["stats"]
    assert (stats.processed, stats.filtered, stats.augmented, stats.cache_hits) == (
        want["processed"], want["filtered"], want["augmented"], want["cacheHits"],
    )  # fmt: skip
    assert stats.vocabulary_size == want["vocabSize"]
    assert stats.embedded == want["cacheSize"]
    [(name, payload)] = heard
    assert (name, payload["total"]) == ("process:complete", case.output["event"]["total"])
    assert payload["stats"] == stats


# Augmentation ---------------------------------------------------------------------------------


class Replayed:
    """Draws that repeat a recorded sequence: ours are made in the seed's order."""

    def __init__(self, sequence: list[float]) -> None:
        self.sequence = itertools.cycle(sequence)

    def random(self) -> float:
        return next(self.sequence)


def augmented(given: dict[str, Any], row: dict[str, Any]) -> tuple[Example, ...]:
    example = Example.of(given)
    augmentation = Augmentation(factor=row["augmentationFactor"])
    return augmentation.copies(example, Replayed(row["random_sequence_cycled"]))


@golden("js", "augment/examples")
def test_copies_of_the_recorded_draws(case: Case) -> None:
    """Kinds, order, weights and order of draws; the fault are a no-op and the factor 0."""
    compared = 0
    for row in case.output:
        no_op = any(copy["input"] == case.inputs["example"]["input"] for copy in row["result"])
        if row["augmentationFactor"] == 0 or no_op:
            continue
        copies = augmented(case.inputs["example"], row)
        got = [{"input": c.anchor, "output": c.positive, "quality": c.quality} for c in copies]
        assert got == row["result"]
        compared += len(got)
    assert compared == 4


@fault(52, "js:augment/examples", "js:augment/synonym_substrings", "js:augment/probability_of_none")
def test_copies_are_changed_whole_and_as_many_as_asked_for() -> None:
    recorded = case("js:augment/examples")
    given = recorded.inputs["example"]
    for row in recorded.output:
        copies = augmented(given, row)
        assert all(copy.anchor != given["input"] for copy in copies)
        assert all(copy.metadata == given["metadata"] for copy in copies)
        assert row["augmentationFactor"] > 0 or copies == ()

    always = Augmentation(synonym_probability=1, insertion_probability=0, case_probability=0)
    texts = case("js:augment/synonym_substrings").inputs["texts"]
    first = [always.copies(Example(text, "o"), Replayed([0.0])) for text in texts]
    assert [[copy.anchor for copy in copies] for copies in first] == [
        ["rewrite the program"],  # not "recreate the code"
        [],  # not "deprogram this"
        ["ASSIST me"],
        [],  # not the text itself
    ]

    rng = np.random.default_rng(0)
    for factor in range(8):
        augmentation = Augmentation(factor=factor)
        for number in range(50):
            copies = augmentation.copies(Example(f"write code number {number}", "o"), rng)
            assert len({copy.anchor for copy in copies}) == max(0, factor - 1)
