"""The interface of embedders: texts in, vectors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from coreframe.errors import ArgumentTypeError


class Embedder(ABC):
    """Turns texts into vectors. Subclasses are frozen, keyword-only dataclasses."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> Any:
        """Return a NumPy float32 array (n, d), one row a text; an empty text may be a zero row."""


def check_texts(texts: object) -> None:
    """Raise ArgumentTypeError unless this is a sequence of texts; the first other item is named."""
    if isinstance(texts, str) or not hasattr(texts, "__len__"):
        came = "one string" if isinstance(texts, str) else type(texts).__name__
        raise ArgumentTypeError(f"texts must be a sequence of strings, got {came}")
    for i, text in enumerate(texts):  # type: ignore[arg-type, var-annotated]
        if not isinstance(text, str):
            raise ArgumentTypeError(f"texts[{i}] must be a text, got {text!r}")
