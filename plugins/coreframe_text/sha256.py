"""Texts to vectors by the bytes of SHA-256 and the first characters: reproducible, no meaning."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coreframe import checks
from coreframe.embedder import Embedder, check_texts

_BYTES = 32  # of one SHA-256
_BLOCK = 1024  # texts a round: bounds the memory


@dataclass(frozen=True, kw_only=True)
class Sha256(Embedder):
    """A fixed vector for each text, from its SHA-256 and its first characters, without meaning.

        e[i] = (h[i mod 32] - 128) / 128        h: the 32 bytes of the SHA-256 of the text in UTF-8
        e[i] += (u[i] - 64) / 256               u: the UTF-16 units of the text, as far as they go
        e / ||e||                               where normalize

    The vectors carry no meaning: a change of case alone turns a text into an unrelated one, and
    texts in other than Latin scripts are all alike, since their units outweigh the hash. Use it
    where vectors only have to be the same everywhere (examples, tests, and data that the
    older JavaScript library has embedded: the bits are the same); to search text, use ``hashing``.

    Args:
        dimensions: length of a vector, >= 1. Default: 384, that of small sentence embedders.
        normalize: whether rows have length one. Default: True, so that dot products are cosines.

    Shapes: n texts to (n, dimensions), float32.

    Edges: an empty text has a vector as any other (its SHA-256). A row of zeros stays one. A lone
    surrogate is hashed as U+FFFD and counted as itself, as in JavaScript; a pair of surrogates
    is the character that it stands for. From 33 dimensions on, the hash part repeats.

    Cost: time linear in the length of the texts and in n d; 12 d bytes a text, 1024 at a time.

    References: FIPS 180-4 (SHA-256).

    >>> rows = Sha256(dimensions=8).embed(["Hello", "hello", "Hello"])
    >>> bool((rows[0] == rows[2]).all()), bool(abs(rows[0] @ rows[1]) < 0.9)
    (True, True)
    """

    dimensions: int = 384
    normalize: bool = True

    def __post_init__(self) -> None:
        checks.number(self, "dimensions", minimum=1, integer=True)

    def embed(self, texts: Sequence[str]) -> Any:
        """Return ``(len(texts), dimensions)`` float32 rows."""
        import numpy as np

        check_texts(texts)
        rows = np.empty((len(texts), self.dimensions), dtype=np.float32)
        for start in range(0, len(texts), _BLOCK):
            rows[start : start + _BLOCK] = self._embed(texts[start : start + _BLOCK])
        return rows

    def _embed(self, texts: Sequence[str]) -> Any:
        import numpy as np

        d = self.dimensions
        hashes = b"".join(hashlib.sha256(_utf8(text)).digest() for text in texts)
        h = np.frombuffer(hashes, dtype=np.uint8).reshape(len(texts), _BYTES)
        # All is a multiple of 1/256 below 2^9, and squares of 1/2^16: exact in any order.
        e = (h[:, np.arange(d) % _BYTES].astype(np.float64) - 128) / 128
        for row, text in zip(e, texts, strict=True):
            units = np.frombuffer(text[:d].encode("utf-16-le", "surrogatepass"), dtype="<u2")[:d]
            row[: len(units)] += (units.astype(np.float64) - 64) / 256
        if self.normalize:
            norm = np.sqrt((e * e).sum(axis=1, keepdims=True))
            e /= np.where(norm == 0, 1, norm)
        return e


def _utf8(text: str) -> bytes:
    """Return the UTF-8 of a text as JavaScript has it: half a character is U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return whole.encode()
