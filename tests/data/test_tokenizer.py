"""The word tokenizer: ids that do not collide, texts that can be read back, and its file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreframe.data.tokenizer import (
    FIRST_BYTE,
    FIRST_WORD,
    SEPARATOR,
    UNKNOWN,
    WordTokenizer,
    check_tokenizer,
    cut_ids,
)
from coreframe.errors import ArgumentError, ArgumentTypeError, DataError

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=[]), max_size=40)  # surrogates too


@given(st.lists(ANY_TEXT, max_size=5), ANY_TEXT, st.integers(0, 4))
def test_every_text_can_be_read_back(known: list[str], text: str, most: int) -> None:
    tokenizer = WordTokenizer(max_words=most).fit(known)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == " ".join(text.split())
    assert all(SEPARATOR <= i < tokenizer.vocabulary_size for i in ids)
    assert len(tokenizer.words) <= most


def test_ids_are_one_to_one_and_apart() -> None:
    words = [f"w{i}" for i in range(400)]
    tokenizer = WordTokenizer().fit([" ".join(words[:300]), " ".join(words)])
    assert tokenizer.encode(" ".join(words))[::2] == list(range(FIRST_WORD, FIRST_WORD + 400))
    other = tokenizer.encode("ÿ\x00x")
    assert other == [FIRST_BYTE + b for b in "ÿ\x00x".encode()]
    assert max(other) < FIRST_WORD


def test_separators_stand_between_words_only() -> None:
    tokenizer = WordTokenizer().fit(["a b"])
    a, b = FIRST_WORD, FIRST_WORD + 1
    assert tokenizer.encode("a") == [a]
    assert tokenizer.encode("\u2003a\u00a0\n b\t") == [a, SEPARATOR, b]  # spaces of Unicode
    assert tokenizer.encode("") == tokenizer.encode(" \u3000") == []
    assert tokenizer.words == ("a", "b")


def test_fit_keeps_the_ids_it_gave() -> None:
    first = WordTokenizer(max_words=3).fit(["red blue red"])
    second = first.fit(iter(["green blue", "gold"]))
    assert first.words == ("red", "blue")  # the first is as it was
    assert second.words == ("red", "blue", "green")
    assert second.encode("gold") == [FIRST_BYTE + b for b in b"gold"]
    assert second.fit(["gold"]) == second


def test_unknown_words_may_be_one_id() -> None:
    tokenizer = WordTokenizer(unknown="unknown").fit(["a"])
    assert tokenizer.encode("a b") == [FIRST_WORD, SEPARATOR, UNKNOWN]
    assert tokenizer.decode([FIRST_WORD, SEPARATOR, UNKNOWN, 0, 0]) == "a \ufffd"


def test_a_cut() -> None:
    tokenizer = WordTokenizer().fit(["one two three"])
    ids = tokenizer.encode("one two three é")
    for length in range(len(ids) + 2):
        cut = tokenizer.encode("one two three é", max_length=length)
        whole = ids[:length]
        assert cut == (whole[:-1] if whole[-1:] == [SEPARATOR] else whole)
        assert cut_ids(tokenizer, "one two three é", length) == (tuple(cut), length < len(ids))
    assert tokenizer.decode(tokenizer.encode("é", max_length=1)) == "\ufffd"
    with pytest.raises(ArgumentError, match="max_length must be at least 0, got -1"):
        tokenizer.encode("a", max_length=-1)


def test_a_megabyte() -> None:
    text = "word " * 200_000
    ids = WordTokenizer().fit([text]).encode(text)
    assert (len(ids), set(ids)) == (399_999, {SEPARATOR, FIRST_WORD})
    assert len(WordTokenizer().encode("é" * 500_000)) == 1_000_000


def test_ids_of_another_tokenizer_are_refused() -> None:
    with pytest.raises(ArgumentError, match="ids must be from 0 to 258, got 259"):
        WordTokenizer().decode([259])
    with pytest.raises(ArgumentError, match="got -1"):
        WordTokenizer().decode([-1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"words": ("a", "b", "a")}, "'a' more than once"),
        ({"words": ("a b",)}, "without spaces, not empty, got 'a b'"),
        ({"words": ("",)}, "without spaces, not empty, got ''"),
        ({"words": ("a", "b"), "max_words": 1}, "2 words, more than max_words=1"),
        ({"max_words": -1}, "max_words must be at least 0"),
        ({"unknown": "byte"}, "Did you mean 'bytes'"),
    ],
)
def test_wrong_fields_are_named(fields: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        WordTokenizer(**fields)


def test_one_string_is_not_a_list_of_texts() -> None:
    with pytest.raises(ArgumentTypeError, match="got one string"):
        WordTokenizer().fit("a b")
    with pytest.raises(ArgumentTypeError, match="text must be a text, got 3"):
        WordTokenizer().encode(3)  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="text must be a text, got 3"):
        WordTokenizer().fit(["a", 3])  # type: ignore[list-item]
    with pytest.raises(ArgumentTypeError, match=r"ids must be integers, got 1\.5"):
        WordTokenizer().decode([1.5])  # type: ignore[list-item]


# The file -------------------------------------------------------------------------------------


def test_save_and_load(tmp_path: Path) -> None:
    tokenizer = WordTokenizer(max_words=7, unknown="unknown").fit(["a é 日本 \ud800 😀"])
    tokenizer.save(tmp_path / "words.json")
    assert WordTokenizer.load(tmp_path / "words.json") == tokenizer


def test_a_file_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    good = {"format": "coreframe-words-1", "words": ["a"], "max_words": 5, "unknown": "bytes"}
    for content, message in (
        ("{", "is not valid JSON"),
        ("[]", "holds no words"),
        (json.dumps({**good, "format": "other"}), "holds no words"),
        (json.dumps({**good, "words": ["a", "a"]}), "'a' more than once"),
        (json.dumps({**good, "words": [3]}), "without spaces"),
        (json.dumps({**good, "words": 3}), "not iterable"),
        (json.dumps({**good, "more": 1}), "more"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=message):
            WordTokenizer.load(path)
    with pytest.raises(DataError, match="cannot be read"):
        WordTokenizer.load(tmp_path / "none.json")


# Other tokenizers -----------------------------------------------------------------------------


def test_those_of_hugging_face() -> None:
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"[UNK]": 0, "red": 1, "blue": 2}
    theirs = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    check_tokenizer("tokenizer", theirs)
    assert cut_ids(theirs, "red blue green", 2) == ((1, 2), True)
    assert cut_ids(theirs, "red blue", 2) == ((1, 2), False)


def test_any_object_that_encodes() -> None:
    class Characters:
        def encode(self, text: str) -> list[int]:
            return [ord(c) for c in text]

    check_tokenizer("tokenizer", Characters())
    assert cut_ids(Characters(), "\x02\x02", 1) == ((2,), True)  # 2 is no separator of theirs


def test_a_name_is_told_what_to_install() -> None:
    with pytest.raises(ArgumentTypeError, match=r"pip install tokenizers.*from_pretrained..bert"):
        check_tokenizer("tokenizer", "bert-base-uncased")
    with pytest.raises(ArgumentTypeError, match=r"must have a method encode\(text\).*got int"):
        check_tokenizer("tokenizer", 3)
