"""What embedders are checked on: a few texts, and their rows on each side."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from coreframe.embedder import Embedder, Side, embed_side
from coreframe.errors import MissingExtra
from coreframe.testing import kit
from coreframe.testing.checks import NotApplicable, difference
from coreframe.testing.process import Footprint

TEXTS = (
    "a blue book",
    "two green trees by the river",
    "",
    "Straße, naïve café, 東京, привет, مرحبا",
    "a blue book",
    "def add(x, y):\n\treturn x + y",
)
OTHERS = ("red", "A blue Book.", "  ", "🙂 emoji 👩‍👩‍👧", "12345", "one more of them")
LONG = "many words of one long text " * 800
TOLERANCE = 1e-4
"""How far a row may move with the batch that it is in: models round in other orders."""

SIDES: tuple[Side | None, ...] = (None, "query", "document")
METHODS = {None: "embed", "query": "embed_queries", "document": "embed_documents"}


class Subject(kit.Subject):
    """An embedder, and what it is checked on."""

    base = Embedder

    @property
    def embedder(self) -> Embedder:
        found: Embedder = self.component
        return found

    @cached_property
    def footprint(self) -> Footprint:
        found = super().footprint
        if isinstance(found.error, NotApplicable):
            raise found.error
        return found

    def exercise(self, component: Any, variant: int = 0) -> dict[str, Any]:
        texts = (TEXTS, OTHERS)[variant]
        return {METHODS[side]: embed(component, texts, side) for side in SIDES}

    @cached_property
    def rows(self) -> dict[Side | None, Any]:
        """The rows of the texts on each side."""
        return {side: embed(self.embedder, TEXTS, side) for side in SIDES}


def embed(embedder: Embedder, texts: Sequence[str], side: Side | None = None) -> Any:
    """Ask for rows; where a package is missing there is nothing to check."""
    try:
        return embed_side(embedder, list(texts), side)
    except MissingExtra as error:
        raise NotApplicable(str(error)) from None


def fingerprint(embedder: Embedder, side: Side | None = None) -> Any:
    try:
        return embedder.fingerprint(side)
    except MissingExtra as error:
        raise NotApplicable(str(error)) from None


def apart(x: Any, y: Any) -> float:
    """Return how far rows are from what they should be, by the largest entry."""
    return difference(x, y, 1e-3)
