"""The interface of embedders: texts in, vectors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any


class Embedder(ABC):
    """Turns texts into vectors. Subclasses are frozen, keyword-only dataclasses."""

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> Any:
        """Return a NumPy float32 array (n, d), one row a text; an empty text may be a zero row."""
