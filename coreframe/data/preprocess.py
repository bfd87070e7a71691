"""From rows of texts to vectors, token ids and weights: filter, augment, tokenize, embed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coreframe import checks
from coreframe.data.augment import Augmentation
from coreframe.data.cache import Cached
from coreframe.data.examples import Example
from coreframe.data.pairs import Pairs, join_groups
from coreframe.data.relevance import Floats, Ints
from coreframe.data.tokenizer import Tokenizer, WordTokenizer, check_tokenizer, cut_ids
from coreframe.embedder import Embedder, embed_side
from coreframe.errors import ArgumentError, ArgumentTypeError, DataError
from coreframe.random import stream

__all__ = ["Preprocessor"]

Listener: TypeAlias = Callable[[str, Mapping[str, Any]], None]
"""Called with the name of an event and what belongs to it."""

Ids: TypeAlias = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What a call of ``Preprocessor.process`` did; it does not change afterwards."""

    processed: int
    """Examples that were kept."""
    filtered: int
    """Examples below the threshold."""
    augmented: int
    """Copies that were made and kept."""
    filtered_copies: int
    """Copies below the threshold."""
    embedded: int
    """Different texts for which the embedder was asked."""
    cache_hits: int
    """Different texts that were known before."""
    cache_size: int
    """Vectors in the cache afterwards; 0 without a cache."""
    vocabulary_size: int
    """Words that the tokenizer knows; 0 without a ``WordTokenizer``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Processed:
    """Examples with their vectors, token ids and weights; each different text is held once.

    Row i of ``anchors``, ``positives``, ``negatives``, ``weights`` and ``tokens`` belongs to
    ``examples[i]``. Arrays are read-only.
    """

    examples: tuple[Example, ...]
    sources: Ints
    """(n,) the number of the given example that each comes from: copies have that of theirs."""
    texts: tuple[str, ...]
    """(u,) all different texts, as they were embedded."""
    vectors: NDArray[Any]
    """(u, d)"""
    rows: tuple[Ids, ...]
    """Where in ``texts`` the anchor, the positive and the negatives of each example stand."""
    tokens: tuple[tuple[Ids, ...], ...] | None
    """The token ids of the anchor, the positive and the negatives of each example."""
    tokenizer: Tokenizer | None
    """What made the token ids: a ``WordTokenizer`` with the words of these texts."""
    statistics: Statistics

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def anchors(self) -> NDArray[Any]:
        """(n, d)"""
        return self._take([row[0] for row in self.rows])

    @property
    def positives(self) -> NDArray[Any]:
        """(n, d)"""
        return self._take([row[1] for row in self.rows])

    @property
    def negatives(self) -> tuple[NDArray[Any], ...]:
        """One (k_i, d) an example."""
        return tuple(self._take(row[2:]) for row in self.rows)

    @property
    def weights(self) -> Floats:
        """(n,) the qualities: how much each example counts in the loss."""
        return np.asarray([example.quality for example in self.examples], dtype=np.float64)

    def pairs(self, *, group: str | None = None) -> Pairs:
        """Return the examples as data for ``fit`` and ``Batches``, weighted by quality.

        Equal texts become one query or one document. An example and its copies stay on one side
        of a split; with ``group``, so do examples with an equal value under that key of their
        metadata. A pair that is there twice has the larger weight.
        """
        if not self.examples:
            filtered = self.statistics.filtered
            why = f": {filtered} of {filtered} are below the threshold" if filtered else ""
            raise DataError(f"there is no example{why}")
        queries = _positions(row[0] for row in self.rows)
        documents = _positions(text for row in self.rows for text in row[1:])
        asked = np.asarray([queries[row[0]] for row in self.rows])
        right = np.asarray([documents[row[1]] for row in self.rows])
        wrong = [(queries[row[0]], documents[text]) for row in self.rows for text in row[2:]]
        return Pairs(
            self._take(list(queries)),
            self._take(list(documents)),
            np.stack([asked, right], axis=1),
            query_texts=[self.texts[text] for text in queries],
            document_texts=[self.texts[text] for text in documents],
            groups=join_groups(asked, self._groups(group), len(queries)),
            irrelevant=np.asarray(wrong, dtype=np.int64).reshape(-1, 2),
            weights=self.weights,
            difficulty=self._difficulty(),
        )

    def _take(self, rows: Sequence[int]) -> NDArray[Any]:
        taken = self.vectors[np.asarray(rows, dtype=np.int64)]
        taken.flags.writeable = False
        return taken

    def _groups(self, group: str | None) -> list[str]:
        own = [f"example {source}" for source in self.sources]
        if group is None:
            return own
        if not any(group in example.metadata for example in self.examples):
            raise DataError(f"no example has {group!r} in its metadata")
        return [
            f"group {example.metadata[group]}" if group in example.metadata else name
            for example, name in zip(self.examples, own, strict=True)
        ]

    def _difficulty(self) -> list[float] | None:
        given = [e.difficulty for e in self.examples if e.difficulty is not None]
        if given and len(given) < len(self.examples):
            raise DataError(
                f"{len(given)} of {len(self.examples)} examples have a difficulty; give all or none"
            )
        return given or None


@dataclass(frozen=True, kw_only=True)
class Preprocessor:
    """Filter rows of texts by quality, add changed copies, and give all texts ids and vectors.

        kept:     the examples with quality >= quality_threshold, each followed by its copies
        tokens:   tokenizer.encode(text)[:max_length]
        vectors:  embedder.embed, once for each different text, negatives included

    Nothing is remembered between calls but what the embedder's cache holds. A ``WordTokenizer``
    without words learns those of the kept texts, and ``Processed.tokenizer`` is the one that knows
    them; give that one to the next call, so that the ids stay. The quality becomes the weight of
    an example in the loss (``Processed.pairs``).

    Args:
        embedder: texts to vectors; wrap it in ``Cached`` to keep vectors between calls.
        tokenizer: anything with ``encode(text)``, or None for no token ids. Default: None, since
            training needs vectors only.
        max_length: >= 1, ids that a text keeps. Default: 512, as in the older
            JavaScript library.
        embed: what is embedded, where a text has more ids than ``max_length``: the whole text, or
            the text of the ids that are kept (``tokenizer.decode``). Default: whole.
        quality_threshold: >= 0; an example of less is left out. Default: 0, which leaves none out.
        augmentation: how copies are made; they pass the threshold too. Default: None, no copies.
        seed: what the copies depend on, besides the example and its place in the data. Default: 42.
        batch_size: >= 1, texts an embedder gets at a time. Default: 1024.
        on_event: one or several functions ``(name, payload)``. ``process:complete`` comes at the
            end of a call with ``total``, the number of rows, and ``stats``. Default: none.

    Shapes: rows to ``Processed``: (n, d) anchors and positives, (k_i, d) negatives, (n,) weights.

    Edges: without examples, or where none is kept, n is 0. A quality that is missing is 1, and 0
    is 0. An empty text has no ids, and the vector that the embedder gives it. A row may be an
    ``Example`` or a mapping (``Example.of``); an error names its number, from 0.

    Cost: the embedder's for each different text; memory of one vector each.

    References: none.

    >>> class Lengths(Embedder):
    ...     def embed(self, texts):
    ...         return np.asarray([[len(text), 1.0] for text in texts], dtype=np.float32)
    >>> preprocessor = Preprocessor(embedder=Lengths(), quality_threshold=0.5)
    >>> rows = [{"query": "2 + 2", "answer": "4"}, {"query": "?", "answer": "!", "quality": 0}]
    >>> done = preprocessor.process(rows)
    >>> done.statistics.processed, done.statistics.filtered, done.anchors
    (1, 1, array([[5., 1.]], dtype=float32))
    """

    embedder: Embedder
    tokenizer: Tokenizer | None = None
    max_length: int = 512
    embed: Literal["whole", "kept"] = "whole"
    quality_threshold: float = 0.0
    augmentation: Augmentation | None = None
    seed: int = 42
    batch_size: int = 1024
    on_event: Listener | tuple[Listener, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.embedder, Embedder):
            raise ArgumentTypeError(
                f"Preprocessor.embedder must be an Embedder, got {type(self.embedder).__name__}; "
                "by name: coreframe.build('embedders', 'hashing')"
            )
        if self.tokenizer is not None:
            check_tokenizer("Preprocessor.tokenizer", self.tokenizer)
        checks.number(self, "max_length", minimum=1, integer=True)
        checks.choice(self, "embed", ("whole", "kept"))
        if self.embed == "kept" and not hasattr(self.tokenizer, "decode"):
            raise ArgumentError(
                "Preprocessor.embed='kept' needs a tokenizer with a method decode(ids), which "
                "gives the text of the ids that are kept"
            )
        checks.number(self, "quality_threshold", minimum=0)
        if not isinstance(self.augmentation, Augmentation | None):
            raise ArgumentTypeError(
                f"Preprocessor.augmentation must be an Augmentation, got {self.augmentation!r}"
            )
        checks.number(self, "seed", minimum=0, integer=True)
        checks.number(self, "batch_size", minimum=1, integer=True)
        listeners = (self.on_event,) if callable(self.on_event) else tuple(self.on_event)
        if not all(map(callable, listeners)):
            raise ArgumentTypeError(
                "Preprocessor.on_event must be a function (name, payload), or several"
            )
        object.__setattr__(self, "on_event", listeners)

    def process(self, examples: Iterable[Example | Mapping[str, Any]]) -> Processed:
        """Return the rows that are kept, with vectors, token ids, weights and statistics."""
        kept: list[Example] = []
        sources: list[int] = []
        counts = {"processed": 0, "filtered": 0, "augmented": 0, "filtered_copies": 0}
        for number, example in enumerate(_examples(examples)):
            if example.quality < self.quality_threshold:
                counts["filtered"] += 1
                continue
            copies = self._copies(example, number)
            good = [copy for copy in copies if copy.quality >= self.quality_threshold]
            counts["processed"] += 1
            counts["augmented"] += len(good)
            counts["filtered_copies"] += len(copies) - len(good)
            kept += [example, *good]
            sources += [number] * (1 + len(good))
        tokenizer, ids, shown = self._tokens(
            dict.fromkeys(text for example in kept for text in _texts(example))
        )
        tokens = None
        if ids is not None:
            tokens = tuple(tuple(ids[text] for text in _texts(example)) for example in kept)
        places = _positions(shown.values())
        vectors, asked = self._vectors(list(places))
        done = Processed(
            examples=tuple(kept),
            sources=np.asarray(sources, dtype=np.int64),
            texts=tuple(places),
            vectors=vectors,
            rows=tuple(tuple(places[shown[t]] for t in _texts(example)) for example in kept),
            tokens=tokens,
            tokenizer=tokenizer,
            statistics=Statistics(
                **counts,
                embedded=asked,
                cache_hits=len(places) - asked,
                cache_size=len(self.embedder.cache) if isinstance(self.embedder, Cached) else 0,
                vocabulary_size=len(getattr(tokenizer, "words", ())),
            ),
        )
        payload = MappingProxyType({"total": len(done), "stats": done.statistics})
        for listener in self.on_event:  # type: ignore[union-attr]
            listener("process:complete", payload)
        return done

    def _copies(self, example: Example, number: int) -> tuple[Example, ...]:
        if self.augmentation is None:
            return ()
        return self.augmentation.copies(example, stream(self.seed, "augment", number))

    def _tokens(
        self, texts: Iterable[str]
    ) -> tuple[Tokenizer | None, dict[str, Ids] | None, dict[str, str]]:
        """Return the tokenizer that was used, the ids of each text, and what of it is embedded."""
        shown = {text: text for text in texts}
        tokenizer = self.tokenizer
        if tokenizer is None:
            return None, None, shown
        if isinstance(tokenizer, WordTokenizer) and not tokenizer.words:
            tokenizer = tokenizer.fit(shown)
        ids: dict[str, Ids] = {}
        for text in shown:
            ids[text], shorter = cut_ids(tokenizer, text, self.max_length)
            if shorter and self.embed == "kept":
                shown[text] = tokenizer.decode(list(ids[text]))  # type: ignore[union-attr]
        return tokenizer, ids, shown

    def _vectors(self, texts: list[str]) -> tuple[NDArray[Any], int]:
        """Return the vectors of different texts, and for how many the embedder was asked."""
        asked, parts = 0, []
        for start in range(0, max(1, len(texts)), self.batch_size):
            batch = texts[start : start + self.batch_size]
            if isinstance(self.embedder, Cached):
                rows, new = self.embedder.embed_counted(batch)
            else:
                rows, new = np.asarray(embed_side(self.embedder, batch, None)), len(batch)
            if rows.ndim != 2 or len(rows) != len(batch):
                raise ArgumentError(
                    f"{type(self.embedder).__name__}.embed must return one row a text, "
                    f"({len(batch)}, d), got shape {rows.shape}"
                )
            asked += new
            parts.append(rows)
        vectors = np.concatenate(parts)
        vectors.flags.writeable = False
        return vectors, asked


def _examples(rows: Iterable[Example | Mapping[str, Any]]) -> Iterator[Example]:
    if isinstance(rows, (Example, Mapping)):
        raise ArgumentTypeError(
            f"examples must be several rows, got one {type(rows).__name__}; put it in a list"
        )
    for number, row in enumerate(rows):
        if isinstance(row, Example):
            yield row
        elif isinstance(row, Mapping):
            try:
                yield Example.of(row)
            except (ArgumentError, ArgumentTypeError, DataError) as error:
                raise DataError(f"row {number} (from 0): {error}") from error
        else:
            raise ArgumentTypeError(
                f"row {number} (from 0) must be an Example or a mapping, got {type(row).__name__}"
            )


def _texts(example: Example) -> tuple[str, ...]:
    return example.anchor, example.positive, *example.negatives


def _positions(items: Iterable[Any]) -> dict[Any, int]:
    """Return each different item with its place in the order of arrival."""
    return {item: place for place, item in enumerate(dict.fromkeys(items))}
