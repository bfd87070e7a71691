"""Augmentation: changed copies of an example, each of a little less weight."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from coreframe import checks
from coreframe.data.examples import Example
from coreframe.errors import ArgumentError, ArgumentTypeError

__all__ = ["Augmentation"]

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "write": ("create", "make"),
    "code": ("program", "script"),
    "help": ("assist", "aid"),
    "explain": ("describe", "clarify"),
    "find": ("locate", "detect"),
}
"""A small table, to be replaced by one of the user's field."""

INSERTIONS = ("please", "now", "just", "simply")

_WORD = re.compile(r"[\w\u0300-\u036f]+")  # a combining accent belongs to the letter before it
_ROUNDS = 64  # tries a wanted copy


class Draws(Protocol):
    """What is asked of a source of randomness, such as ``numpy.random.Generator``."""

    def random(self) -> float:
        """Return the next number in [0, 1)."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Copies of an example whose anchor says the same in other words.

        a round:  synonym with probability p1, insertion with p2, case with p3, in this order
        copies:   rounds until there are factor - 1 different ones; quality(copy) = weight quality

    A synonym takes the place of all occurrences of one word, and of its case (lower, Capital,
    UPPER). An insertion puts a polite or empty word before, between or after the words. Case makes
    the anchor lower, Capitalised or UPPER. The positive, the negatives, the difficulty and the
    metadata stay.

    Args:
        factor: >= 0, one more than the copies of each example; 0 and 1 make none. Default: 2.
        synonyms: word -> words that may stand for it, compared without case. Default: five
            everyday verbs and nouns of requests.
        insertions: words that change no meaning. Default: please, now, just, simply.
        synonym_probability, insertion_probability, case_probability: in [0, 1], how often a round
            makes a copy of that kind. Default: 0.5, 0.3 and 0.3, as in the older
            JavaScript library.
        synonym_weight, insertion_weight, case_weight: >= 0, what the quality is multiplied by.
            Default: 0.9, 0.85 and 0.95, as there.

    Shapes: one example to at most factor - 1 examples.

    Edges: a copy equal to the anchor or to another copy is dropped, and others are drawn; after
    64 rounds a wanted copy there may be fewer than factor - 1. A text without words gets no
    insertion. Synonyms are whole words, which are runs of letters, digits and "_": in a script
    without spaces such a run is a sentence.

    Cost: linear in the length of the anchor a round; on average a round makes 1.1 copies.

    References: Wei and Zou 2019, arXiv 1901.11196 (synonyms and insertions as augmentation).

    >>> import numpy as np
    >>> augmentation = Augmentation(factor=3, case_probability=0)
    >>> copies = augmentation.copies(Example("Write a poem", "..."), np.random.default_rng(2))
    >>> [copy.anchor for copy in copies]
    ['Create a poem', 'Write a simply poem']
    """

    factor: int = 2
    synonyms: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: dict(SYNONYMS), hash=False
    )
    insertions: tuple[str, ...] = INSERTIONS
    synonym_probability: float = 0.5
    insertion_probability: float = 0.3
    case_probability: float = 0.3
    synonym_weight: float = 0.9
    insertion_weight: float = 0.85
    case_weight: float = 0.95

    def __post_init__(self) -> None:
        checks.number(self, "factor", minimum=0, integer=True)
        for kind in ("synonym", "insertion", "case"):
            checks.number(self, f"{kind}_probability", minimum=0, maximum=1)
            checks.number(self, f"{kind}_weight", minimum=0)
        table: dict[str, tuple[str, ...]] = {}
        for word, others in dict(self.synonyms).items():
            if not isinstance(word, str) or not _WORD.fullmatch(word):
                raise ArgumentError(
                    f"Augmentation.synonyms must have single words as keys, got {word!r}"
                )
            table[word.casefold()] = _texts(f"synonyms[{word!r}]", others)
        object.__setattr__(self, "synonyms", table)
        object.__setattr__(self, "insertions", _texts("insertions", self.insertions))

    def copies(self, example: Example, draws: Draws) -> tuple[Example, ...]:
        """Return at most ``factor - 1`` changed copies of an example, all different."""
        wanted = max(0, self.factor - 1)
        found: dict[str, float] = {}
        for _ in range(_ROUNDS * wanted):
            for text, weight in self._round(example.anchor, draws):
                if text != example.anchor:
                    found.setdefault(text, weight)
            if len(found) >= wanted:
                break
        return tuple(
            replace(example, anchor=text, quality=example.quality * weight)
            for text, weight in list(found.items())[:wanted]
        )

    def _round(self, text: str, draws: Draws) -> Iterator[tuple[str, float]]:
        """Yield up to one text a kind, with its weight."""
        if draws.random() < self.synonym_probability:
            words = dict.fromkeys(m.group().casefold() for m in _WORD.finditer(text))
            options = [(w, other) for w in words for other in self.synonyms.get(w, ())]
            if options:
                yield _replaced(text, *_pick(options, draws)), self.synonym_weight
        if draws.random() < self.insertion_probability and self.insertions and text.split():
            yield _inserted(text, _pick(self.insertions, draws), draws), self.insertion_weight
        if draws.random() < self.case_probability:
            yield _pick((text.lower(), text.capitalize(), text.upper()), draws), self.case_weight


def _pick(options: Any, draws: Draws) -> Any:
    return options[min(int(draws.random() * len(options)), len(options) - 1)]


def _replaced(text: str, word: str, other: str) -> str:
    """Put another word in the place of a word, in the case that each occurrence has."""

    def in_case(match: re.Match[str]) -> str:
        old = match.group()
        if old.casefold() != word:
            return old
        if old.isupper() and len(old) > 1:
            return other.upper()
        return other[:1].upper() + other[1:] if old == old.capitalize() != old.lower() else other

    return _WORD.sub(in_case, text)


def _inserted(text: str, word: str, draws: Draws) -> str:
    """Put a word before one of the words of a text, or after the last; spaces stay as they are."""
    words = list(re.finditer(r"\S+", text))
    place = _pick(range(len(words) + 1), draws)
    if place < len(words):
        start = words[place].start()
        return f"{text[:start]}{word} {text[start:]}"
    end = words[-1].end()
    return f"{text[:end]} {word}{text[end:]}"


def _texts(name: str, given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not all(isinstance(x, str) and x.strip() for x in given):
        raise ArgumentTypeError(
            f"Augmentation.{name} must be a sequence of words, not empty, got {given!r}"
        )
    return tuple(given)
