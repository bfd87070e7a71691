"""Texts to vectors by WordLlama: averaged word vectors from a language model, no download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from coreframe.embedder import Embedder, Side, check_texts
from coreframe.errors import MissingExtra
from coreframe.model_files import loading, version


@dataclass(frozen=True, kw_only=True)
class WordLlama(Embedder):
    """Average the token vectors that the ``wordllama`` package ships with (256 dimensions).

        x = mean over tokens t of E[t],   then x / ||x|| where normalize

    Unlike ``hashing`` it sees meaning, mostly in English, and is still fast on a CPU. It needs
    the package ``wordllama``; the model lies inside the package, so nothing is downloaded.

    Args:
        normalize: whether rows have length one. Default: True, so that dot products are cosines.

    Shapes: n texts to (n, 256), float32.

    Edges: an empty text, or one of spaces only, is a row of zeros. Without the package, ``embed``
    raises MissingExtra and says what to install.

    Cost: time linear in the tokens; the table of token vectors is read once and kept.

    References: https://github.com/dleemiller/WordLlama (the table comes from token embeddings of
    large language models, reduced in width).

    >>> WordLlama(normalize=False).normalize
    False
    """

    normalize: bool = True

    def embed(self, texts: Sequence[str]) -> Any:
        """Return ``(len(texts), 256)`` float32 rows; an empty text gives zeros."""
        import numpy as np

        check_texts(texts)
        model = _model()
        rows = np.zeros((len(texts), model.embedding.shape[1]), dtype=np.float32)
        filled = [index for index, text in enumerate(texts) if text.strip()]
        if filled:
            rows[filled] = model.embed([texts[index] for index in filled], norm=self.normalize)
        return rows

    def fingerprint(self, side: Side | None = None) -> Mapping[str, Any]:
        """Return the version of the package, which the model comes with."""
        return {
            "embedder": "wordllama",
            "version": version("wordllama"),
            "normalize": self.normalize,
        }


@lru_cache(maxsize=1)
def _model() -> Any:
    from pathlib import Path

    with loading():
        try:
            import wordllama
        except ImportError as error:
            purpose = "the embedder 'wordllama'"
            raise MissingExtra("wordllama", extra="wordllama", purpose=purpose) from error
        folder = Path(wordllama.__file__).parent
        return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
