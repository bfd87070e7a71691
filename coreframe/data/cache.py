"""A cache of embeddings, and the embedder that keeps one."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.embedder import Embedder, Side, Wrapped, check_texts, embed_side, treats_sides_alike
from coreframe.errors import ArgumentError

__all__ = ["Cached", "EmbeddingCache"]

Key = tuple[int, bytes]
Row = NDArray[Any]


class EmbeddingCache:
    """Vectors by the content of their texts, the least recently used dropped first.

        key = (the embedder, BLAKE2b-128 of the text in UTF-8)

    Safe to share between threads and between embedders: equal embedders (by ``==``) share their
    entries. It holds copies, so that nothing outside can change them.

    Args:
        capacity: >= 1, entries that are kept. Default: 65,536, 100 MB at 384 dimensions.

    Shapes: one vector (d,) an entry.

    Edges: a pickled or copied cache is empty. ``clear`` also sets the counts to zero. Two different
    texts would share an entry with probability 2^-128.

    Cost: one hash of the text a look; capacity d 4 bytes.

    References: RFC 7693 (BLAKE2).

    >>> from coreframe import build
    >>> cached = Cached(embedder=build("embedders", "hashing"), cache=EmbeddingCache(capacity=2))
    >>> rows = cached.embed(["red", "green", "blue"]), cached.embed(["blue"])
    >>> cached.cache
    EmbeddingCache(2 of 2, 1 hits, 3 misses)
    """

    def __init__(self, capacity: int = 65_536) -> None:
        if isinstance(capacity, bool) or not isinstance(capacity, int) or capacity < 1:
            raise ArgumentError(f"capacity must be an integer of at least 1, got {capacity!r}")
        self.capacity = capacity
        self._lock = threading.Lock()
        self._rows: OrderedDict[Key, Row] = OrderedDict()
        # By a number that is never given again.
        self._embedders: dict[int, tuple[Embedder, Side | None]] = {}
        self._given = 0
        self._hits = self._misses = 0

    def __repr__(self) -> str:
        return (
            f"EmbeddingCache({len(self)} of {self.capacity}, {self._hits} hits, "
            f"{self._misses} misses)"
        )

    def __reduce__(self) -> Any:
        return EmbeddingCache, (self.capacity,)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def hits(self) -> int:
        """Texts for which no embedder was asked."""
        return self._hits

    @property
    def misses(self) -> int:
        """Texts for which an embedder was asked."""
        return self._misses

    def clear(self) -> None:
        """Forget all vectors and counts."""
        with self._lock:
            self._rows.clear()
            self._embedders.clear()
            self._hits = self._misses = 0

    def keys(self, embedder: Embedder, texts: Sequence[str], side: Side | None = None) -> list[Key]:
        """Return the keys of some texts under an embedder, as one side where it tells sides."""
        side = None if treats_sides_alike(embedder) else side
        with self._lock:
            known = (
                i
                for i, (other, of_side) in self._embedders.items()
                if of_side == side and _same(other, embedder)
            )
            number = next(known, self._given)
            if number == self._given:  # held, so that no other takes its identity
                used = {row[0] for row in self._rows}
                self._embedders = {i: e for i, e in self._embedders.items() if i in used}
                self._embedders[number] = embedder, side
                self._given += 1
        return [
            (
                number,
                hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest(),
            )
            for text in texts
        ]

    def find(self, keys: Sequence[Key]) -> dict[Key, Row]:
        """Return what is known of some keys, as read-only rows, and count hits and misses.

        A key that is asked for again in the same call is a hit: it is embedded once.
        """
        with self._lock:
            found = {key: self._rows[key] for key in keys if key in self._rows}
            for key in found:
                self._rows.move_to_end(key)
            missing = len(set(keys)) - len(found)
            self._misses += missing
            self._hits += len(keys) - missing
        return found

    def keep(self, rows: dict[Key, Row]) -> None:
        """Keep copies of some vectors."""
        copies = {key: np.array(row) for key, row in rows.items()}
        with self._lock:
            for key, row in copies.items():
                row.flags.writeable = False
                self._rows[key] = row
                self._rows.move_to_end(key)
            while len(self._rows) > self.capacity:
                self._rows.popitem(last=False)


@dataclass(frozen=True, kw_only=True)
class Cached(Wrapped):
    """An embedder that asks another one only for texts that it does not know yet.

        embed(texts) = the rows of ``embedder.embed(texts)``, each different text asked for once

    Args:
        embedder: the one that is asked.
        cache: what is remembered; give the same one to several to share it. Default: a new one of
            65,536 entries.

    Shapes: n texts to (n, d), as the other embedder has them.

    Edges: the result is a new array, so a change of it changes nothing that is remembered. Texts
    are compared by content, exactly. An embedder whose vectors depend on the other texts of a
    call must not be cached.

    Cost: a hash a text and one copy of the rows, beside the embedder's own cost for new texts.

    References: none; least recently used replacement.

    >>> class Lengths(Embedder):
    ...     def embed(self, texts):
    ...         return np.asarray([[len(text), 1.0] for text in texts], dtype=np.float32)
    >>> cached = Cached(embedder=Lengths())
    >>> rows = cached.embed(["a", "bb", "a"]), cached.embed(["a"])
    >>> cached.cache
    EmbeddingCache(2 of 65536, 2 hits, 2 misses)
    """

    cache: EmbeddingCache = field(default_factory=EmbeddingCache, compare=False)

    def _embed(self, texts: Sequence[str], side: Side | None) -> Any:
        return self.embed_counted(texts, side)[0]

    def embed_counted(self, texts: Sequence[str], side: Side | None = None) -> tuple[Any, int]:
        """Return the rows, and for how many of the texts the other embedder was asked."""
        check_texts(texts)
        if not len(texts):
            return embed_side(self.embedder, [], side), 0
        keys = self.cache.keys(self.embedder, texts, side)
        found = self.cache.find(keys)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        if missing:
            rows = np.asarray(embed_side(self.embedder, list(missing.values()), side))
            if rows.ndim != 2 or len(rows) != len(missing):
                raise ArgumentError(
                    f"{type(self.embedder).__name__}.embed must return one row a text, "
                    f"({len(missing)}, d), got shape {rows.shape}"
                )
            new = dict(zip(missing, rows, strict=True))
            self.cache.keep(new)
            found = {**found, **new}
        return np.stack([found[key] for key in keys]), len(missing)


def _same(one: Embedder, other: Embedder) -> bool:
    return one is other or (type(one) is type(other) and bool(one == other))
