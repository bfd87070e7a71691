"""Texts to token ids: a word tokenizer, and the protocol that lets any other take its place."""

from __future__ import annotations

import itertools
import json
import numbers
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from coreframe import checks
from coreframe.errors import ArgumentError, ArgumentTypeError, DataError
from coreframe.storage import write_files

__all__ = ["WordTokenizer"]

PAD, UNKNOWN, SEPARATOR = 0, 1, 2
FIRST_BYTE = 3
FIRST_WORD = FIRST_BYTE + 256

_FORMAT = "coreframe-words-1"


@runtime_checkable
class Tokenizer(Protocol):
    """What coreframe asks of a tokenizer: those of ``tokenizers`` and ``transformers`` have it."""

    def encode(self, text: str) -> Any:
        """Return the ids of a text, or an object that has them as ``ids``."""


@dataclass(frozen=True, kw_only=True)
class WordTokenizer:
    """One id a word, and bytes for the words that have none.

        0 padding   1 unknown   2 separator   3..258 the bytes 0..255   259.. words, in order
        encode("red blue") = [id(red), 2, id(blue)]

    Words are what stands between spaces (those of Unicode), in their exact spelling; a separator
    stands between two words, and nowhere else. ``fit`` returns a tokenizer that knows the words
    of some texts, in order of arrival, and keeps the ids of those it knew before. Where a
    vocabulary is wanted that a language model shares, take a tokenizer of the package
    ``tokenizers`` instead.

    Args:
        words: the vocabulary, all different, without spaces. Default: none.
        max_words: >= 0, how many ``fit`` learns at most. Default: 50,000.
        unknown: what a word without an id becomes: bytes (its UTF-8) or unknown (the id 1).
            Default: bytes, so that every text can be read back.

    Shapes: one text to a list of integers below ``vocabulary_size``.

    Edges: an empty text, or one of spaces only, has no ids. A cut leaves no separator at the end,
    and may leave part of a character, which reads back as U+FFFD. Half a character (a lone
    surrogate) has three bytes and reads back as it was. Reading back joins words by one space.

    Cost: one look-up a word; the vocabulary in memory.

    References: none; bytes for unknown words as in SentencePiece's byte fallback (Kudo and
    Richardson 2018, arXiv 1808.06226).

    >>> tokenizer = WordTokenizer().fit(["hello world"])
    >>> tokenizer.encode("hello  world é")
    [259, 2, 260, 2, 198, 172]
    >>> tokenizer.decode([259, 2, 260, 2, 198, 172])
    'hello world é'
    """

    words: tuple[str, ...] = ()
    max_words: int = 50_000
    unknown: Literal["bytes", "unknown"] = "bytes"

    def __post_init__(self) -> None:
        checks.number(self, "max_words", minimum=0, integer=True)
        checks.choice(self, "unknown", ("bytes", "unknown"))
        object.__setattr__(self, "words", tuple(self.words))
        for word in self.words:
            if not isinstance(word, str) or word.split() != [word]:
                raise ArgumentError(
                    f"WordTokenizer.words must be texts without spaces, not empty, got {word!r}"
                )
        if len(self._ids) < len(self.words):
            repeated = next(w for i, w in enumerate(self.words) if self._ids[w] != FIRST_WORD + i)
            raise ArgumentError(f"WordTokenizer.words has {repeated!r} more than once")
        if len(self.words) > self.max_words:
            raise ArgumentError(
                f"WordTokenizer.words has {len(self.words)} words, more than "
                f"max_words={self.max_words}"
            )

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: FIRST_WORD + i for i, word in enumerate(self.words)}

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest id."""
        return FIRST_WORD + len(self.words)

    def fit(self, texts: Iterable[str]) -> WordTokenizer:
        """Return a tokenizer that knows the words of these texts too, up to ``max_words``."""
        if isinstance(texts, str):
            raise ArgumentTypeError("texts must be a sequence of strings, got one string")
        every = dict.fromkeys(
            itertools.chain(self.words, (word for text in texts for word in _split(text)))
        )
        words = tuple(itertools.islice(every, self.max_words))
        return WordTokenizer(words=words, max_words=self.max_words, unknown=self.unknown)

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Return the ids of a text, the first ``max_length`` of them."""
        words = _split(text)
        if max_length is not None and max_length < 0:
            raise ArgumentError(f"max_length must be at least 0, got {max_length}")
        ids = list(itertools.islice(self._stream(words), max_length))
        if ids and ids[-1] == SEPARATOR:
            ids.pop()
        return ids

    def _stream(self, words: Iterable[str]) -> Iterator[int]:
        for place, word in enumerate(words):
            if place:
                yield SEPARATOR
            if word in self._ids:
                yield self._ids[word]
            elif self.unknown == "bytes":
                yield from (FIRST_BYTE + b for b in word.encode("utf-8", "surrogatepass"))
            else:
                yield UNKNOWN

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of some ids; padding is nothing, and an unknown word is U+FFFD."""
        parts: list[bytes] = []
        for i in ids:
            if not isinstance(i, numbers.Integral):
                raise ArgumentTypeError(f"ids must be integers, got {i!r}")
            if not PAD <= i < self.vocabulary_size:
                raise ArgumentError(
                    f"ids must be from 0 to {self.vocabulary_size - 1}, got {i}; was the text "
                    "encoded by a tokenizer with more words?"
                )
            if i >= FIRST_WORD:
                parts.append(self.words[i - FIRST_WORD].encode("utf-8", "surrogatepass"))
            elif i >= FIRST_BYTE:
                parts.append(bytes([i - FIRST_BYTE]))
            elif i != PAD:
                parts.append(b" " if i == SEPARATOR else "\ufffd".encode())
        joined = b"".join(parts)
        try:
            return joined.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:  # a character was cut
            return joined.decode("utf-8", "replace")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the vocabulary as JSON."""
        target = Path(path)
        fields = {"words": self.words, "max_words": self.max_words, "unknown": self.unknown}
        text = json.dumps({"format": _FORMAT, **fields}, indent=1)
        write_files(target.parent, {target.name: text.encode()})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> WordTokenizer:
        """Read a vocabulary that ``save`` wrote."""
        try:
            stored = json.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise DataError(f"{path} is not valid JSON: {error}") from error
        if not isinstance(stored, dict) or stored.pop("format", None) != _FORMAT:
            raise DataError(f"{path} holds no words that WordTokenizer.save wrote ({_FORMAT})")
        try:
            return cls(**stored)
        except (TypeError, ArgumentError) as error:
            raise DataError(f"{path}: {error}") from error


def _split(text: str) -> list[str]:
    if not isinstance(text, str):
        raise ArgumentTypeError(f"text must be a text, got {text!r}")
    return text.split()


def check_tokenizer(name: str, tokenizer: object) -> None:
    """Raise ArgumentTypeError for what is no tokenizer; a name gets told what to install."""
    if isinstance(tokenizer, str):
        raise ArgumentTypeError(
            f"{name} must be a tokenizer, got the name {tokenizer!r}. For one of Hugging Face, "
            "pip install tokenizers, and give "
            f"tokenizers.Tokenizer.from_pretrained({tokenizer!r}); or WordTokenizer()"
        )
    if not isinstance(tokenizer, Tokenizer):
        raise ArgumentTypeError(
            f"{name} must have a method encode(text) that returns ids, got "
            f"{type(tokenizer).__name__}"
        )


def cut_ids(tokenizer: Tokenizer, text: str, max_length: int) -> tuple[tuple[int, ...], bool]:
    """Return the first ids of a text by any tokenizer, and whether there were more."""
    encoded = tokenizer.encode(text)
    ids: Sequence[int] = getattr(encoded, "ids", encoded)
    kept = tuple(ids[:max_length])
    if kept and kept[-1] == SEPARATOR and isinstance(tokenizer, WordTokenizer):
        kept = kept[:-1]
    return kept, len(ids) > max_length
