"""The interface of embedders: texts in, vectors out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from coreframe.backend import is_array, to_numpy
from coreframe.component import Component
from coreframe.errors import ArgumentTypeError, CoreframeError, EmbedderError

__all__ = ["Embedder", "Side", "check_texts"]

Side: TypeAlias = Literal["query", "document"]
"""What a text is: some embedders treat questions and answers differently."""


class Embedder(Component, ABC):
    """Turns texts into vectors. Subclasses are frozen, keyword-only dataclasses.

    ``embed`` is all that an author must write. An embedder with prompts overrides
    ``embed_queries`` and ``embed_documents`` too, and one whose vectors are worth keeping on disk
    says with ``fingerprint`` what they depend on.
    """

    @abstractmethod
    def embed(self, texts: Sequence[str]) -> Any:
        """Return a NumPy float32 array (n, d), one row a text; an empty text may be a zero row."""

    def embed_queries(self, texts: Sequence[str]) -> Any:
        """Return the rows of texts that are searched with."""
        return self.embed(texts)

    def embed_documents(self, texts: Sequence[str]) -> Any:
        """Return the rows of texts that are found."""
        return self.embed(texts)

    def fingerprint(self, side: Side | None = None) -> Mapping[str, Any] | None:
        """Return all that the vectors of a side depend on besides the text: numbers and texts.

        Two embedders with equal fingerprints share what is cached on disk, and so do two sides.
        None, the default: nothing is cached on disk, since the vectors are cheap, or depend on
        what nobody can name. A key of a service never belongs in it.
        """
        return None

    @property
    def base_model(self) -> str:
        """What made the vectors, as an artefact says it."""
        return f"coreframe:{type(self).__name__}"

    @property
    def tells_sides(self) -> bool:
        """Whether a text may have another vector as a query than as a document."""
        names = ("embed_queries", "embed_documents")
        if all(getattr(type(self), name) is getattr(Embedder, name) for name in names):
            return False
        left, right = self.fingerprint("query"), self.fingerprint("document")
        return left is None or left != right


@dataclass(frozen=True, kw_only=True)
class Wrapped(Embedder):
    """An embedder that gives what another one gives, and asks it less often."""

    embedder: Embedder

    @abstractmethod
    def _embed(self, texts: Sequence[str], side: Side | None) -> Any:
        """Return the rows that the other embedder has for a side; None is plain ``embed``."""

    def embed(self, texts: Sequence[str]) -> Any:
        """Return one row a text, in an array of its own."""
        return self._embed(texts, None)

    def embed_queries(self, texts: Sequence[str]) -> Any:
        """Return the rows that the other embedder has for queries."""
        return self._embed(texts, "query")

    def embed_documents(self, texts: Sequence[str]) -> Any:
        """Return the rows that the other embedder has for documents."""
        return self._embed(texts, "document")

    def fingerprint(self, side: Side | None = None) -> Mapping[str, Any] | None:
        """Return that of the other embedder."""
        return self.embedder.fingerprint(side)

    @property
    def base_model(self) -> str:
        return self.embedder.base_model

    @property
    def tells_sides(self) -> bool:
        return self.embedder.tells_sides


def embed_side(embedder: Embedder, texts: Sequence[str], side: Side | None) -> Any:
    """Call the method of an embedder for a side; None is plain ``embed``.

    What goes wrong in it is an EmbedderError that names the embedder, the number of texts and the
    first of them; errors of coreframe's own say enough themselves.
    """
    method = {"query": "embed_queries", "document": "embed_documents"}.get(side or "", "embed")
    try:
        return getattr(embedder, method, embedder.embed)(texts)
    except (CoreframeError, MemoryError):
        raise
    except Exception as error:
        raise EmbedderError(
            f"the embedder {name_of(embedder)} failed on {_some(texts)}: "
            f"{type(error).__name__}: {error}"
        ) from error


def embed_finite(embedder: Embedder, texts: Sequence[str], side: Side | None) -> Any:
    """Return the rows of a side, or raise EmbedderError for the first text without one."""
    import numpy as np

    found = embed_side(embedder, texts, side)
    x = to_numpy(found) if is_array(found) else np.asarray(found)
    if x.ndim != 2 or len(x) != len(texts) or x.dtype.kind not in "fV":  # V: bfloat16
        raise EmbedderError(
            f"the embedder {name_of(embedder)} must give one row of floating-point numbers a "
            f"text, ({len(texts)}, d), got {x.dtype} {x.shape} for {_some(texts)}"
        )
    if not (whole := np.isfinite(x).all(axis=1)).all():
        first = int(np.argmin(whole))
        wrong = x[first][~np.isfinite(x[first])][0]
        raise EmbedderError(
            f"the embedder {name_of(embedder)} gave {wrong} in the row of {_short(texts[first])}, "
            f"text {first:,} of {len(texts):,} (rows that are not finite: {int((~whole).sum()):,})"
        )
    return found


def name_of(embedder: Any) -> str:
    """Return what an embedder is called: its class, and of a wrapped one that of the inner."""
    while isinstance(embedder, Wrapped):
        embedder = embedder.embedder
    return type(embedder).__name__


def _some(texts: Sequence[str]) -> str:
    if not len(texts):
        return "no text"
    return f"{len(texts):,} text{'s' * (len(texts) > 1)}, the first {_short(texts[0])}"


def _short(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def embed_both(
    embedder: Embedder, queries: Sequence[str], documents: Sequence[str]
) -> tuple[Any, Any]:
    """Return the rows of queries and of documents, each different text of a side once given.

    A text that is on both sides is embedded once, unless the embedder tells sides apart.
    """
    left = embed_finite(embedder, queries, "query")
    place = {text: i for i, text in enumerate(queries)}
    shared = [(i, place[text]) for i, text in enumerate(documents) if text in place]
    if not shared or not treats_sides_alike(embedder):
        return left, embed_finite(embedder, documents, "document")
    import numpy as np

    left = np.asarray(left)
    right = np.empty((len(documents), *left.shape[1:]), left.dtype)
    here, there = np.asarray(shared).T
    right[here] = left[there]
    if new := [i for i, text in enumerate(documents) if text not in place]:
        right[new] = embed_finite(embedder, [documents[i] for i in new], "document")
    return left, right


def treats_sides_alike(embedder: Embedder) -> bool:
    """Say whether a text has one vector, whichever side it is on."""
    if isinstance(embedder, Embedder):
        return not embedder.tells_sides
    # Anything with ``embed``.
    return not hasattr(embedder, "embed_queries") and not hasattr(embedder, "embed_documents")


def check_texts(texts: object) -> None:
    """Raise ArgumentTypeError unless this is a sequence of texts; the first other item is named."""
    if isinstance(texts, str) or not hasattr(texts, "__len__"):
        came = "one string" if isinstance(texts, str) else type(texts).__name__
        raise ArgumentTypeError(f"texts must be a sequence of strings, got {came}")
    for i, text in enumerate(texts):  # type: ignore[arg-type, var-annotated]
        if not isinstance(text, str):
            raise ArgumentTypeError(f"texts[{i}] must be a text, got {text!r}")
