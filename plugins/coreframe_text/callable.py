"""Texts to vectors by any function: what is no plugin, and what a program already has."""

from __future__ import annotations

from collections import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coreframe.backend import is_array, to_numpy
from coreframe.embedder import Embedder, Side, check_texts
from coreframe.errors import ArgumentError, ArgumentTypeError


@dataclass(frozen=True, kw_only=True)
class Callable(Embedder):
    """Ask a function for the vectors.

        embed(texts) = function(texts)

    For the library only: a configuration file cannot hold a function. To use one on the command
    line, write an embedder of five lines and register it (docs/write-a-plugin.md).

    Args:
        function: takes a list of texts and returns rows (n, d), an array or lists of numbers.
        queries: the same for queries, where they are embedded in another way. Default: None, by
            ``function``.
        identity: a name for what the function does, model and version in it, by which the cache
            on disk knows its vectors; change it when they change. Default: None, nothing is kept
            on disk, since nobody can tell when a function changes.

    Shapes: n texts to (n, d), float32.

    Edges: rows that are not one a text, or no numbers, are an error that says what came. What the
    function raises passes through. Without texts the function is not called: (0, 0).

    Cost: that of the function.

    References: none; an adapter for functions.

    >>> rows = Callable(function=lambda texts: [[len(t), 1] for t in texts]).embed(["red"])
    >>> rows.tolist()
    [[3.0, 1.0]]
    """

    function: abc.Callable[[list[str]], Any] = field(repr=False)  # it would show an address
    queries: abc.Callable[[list[str]], Any] | None = field(default=None, repr=False)
    identity: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("function", self.function), ("queries", self.queries)):
            if not callable(value) and not (name == "queries" and value is None):
                raise ArgumentTypeError(
                    f"Callable.{name} must be a function of a list of texts, got {value!r}"
                )
        if self.identity is not None and not (
            isinstance(self.identity, str) and self.identity.strip()
        ):
            raise ArgumentTypeError(
                f"Callable.identity must be a text or None, got {self.identity!r}"
            )

    def embed(self, texts: Sequence[str]) -> Any:
        """Return ``(len(texts), d)`` float32 rows."""
        return self._ask(self.function, texts)

    def embed_queries(self, texts: Sequence[str]) -> Any:
        """Return the rows of queries."""
        return self._ask(self.queries or self.function, texts)

    def fingerprint(self, side: Side | None = None) -> Mapping[str, Any] | None:
        """Return the identity, and the side where queries have a function of their own."""
        if self.identity is None:
            return None
        own = side == "query" and self.queries is not None
        return {"embedder": "callable", "identity": self.identity, "side": "query" if own else None}

    @property
    def base_model(self) -> str:
        return self.identity or "coreframe:Callable"

    def _ask(self, function: abc.Callable[[list[str]], Any], texts: Sequence[str]) -> Any:
        import numpy as np

        check_texts(texts)
        if not len(texts):
            return np.zeros((0, 0), np.float32)
        found = function(list(texts))
        try:
            rows = np.asarray(to_numpy(found) if is_array(found) else found, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise ArgumentError(
                f"Callable.function must return rows of numbers, one a text: {error}"
            ) from error
        if rows.ndim != 2 or len(rows) != len(texts) or not rows.shape[1]:
            raise ArgumentError(
                f"Callable.function must return one row a text, ({len(texts)}, d), "
                f"got shape {rows.shape}"
            )
        return rows
