"""One row of text data: texts that belong together, and how good and how hard the row is."""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from types import MappingProxyType
from typing import Any

from coreframe.data.files import column_roles
from coreframe.errors import ArgumentError, ArgumentTypeError, DataError

__all__ = ["Example"]

_OWN = ("negatives", "metadata")
"""Columns that only examples have; the others are those of the files."""
_TEXTS = ("anchor", "positive", "negative")


@dataclass(frozen=True)
class Example:
    """Texts that belong together, with what is known about them.

    ``quality`` says how much a row is worth: it is its weight in the loss. ``difficulty`` says how
    hard it is, for a curriculum. The two are different things, and neither is taken for the other.

    Args:
        anchor: the query or input; may be empty.
        positive: the text that is right for it.
        negatives: texts known to be wrong for it. Default: none.
        quality: >= 0; 0 is 0, and counts for nothing. Default: 1, also where a row has None.
        difficulty: any finite number, low is easy. Default: None, not known.
        metadata: anything else, kept as it is. Default: nothing.

    Shapes: one row.

    Edges: a quality that is NaN, infinite or negative is an error. Metadata cannot be written to;
    it is copied once, its values are not.

    Cost: a few hundred bytes beside the texts.

    References: none, it holds data.

    >>> Example("capital of France", "Paris", negatives=("Lyon",)).quality
    1.0
    >>> Example.of({"query": "2 + 2", "answer": "4", "quality": 0.5, "source": "web"}).metadata
    mappingproxy({'source': 'web'})
    """

    anchor: str
    positive: str
    _: KW_ONLY
    negatives: tuple[str, ...] = ()
    quality: float = 1.0
    difficulty: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if isinstance(self.negatives, str) or not isinstance(self.negatives, Iterable):
            raise ArgumentTypeError(
                f"negatives must be a sequence of texts, got {_kind(self.negatives)}"
            )
        object.__setattr__(self, "negatives", tuple(self.negatives))
        for name, text in (
            ("anchor", self.anchor),
            ("positive", self.positive),
            *((f"negatives[{i}]", text) for i, text in enumerate(self.negatives)),
        ):
            if not isinstance(text, str):
                raise ArgumentTypeError(f"{name} must be a text, got {_kind(text)}")
        quality = 1.0 if self.quality is None else _number("quality", self.quality)
        if quality < 0:
            raise ArgumentError(
                f"quality must not be negative, got {self.quality!r}; 0 leaves an example without "
                "weight"
            )
        object.__setattr__(self, "quality", quality)
        if self.difficulty is not None:
            object.__setattr__(self, "difficulty", _number("difficulty", self.difficulty))
        if not isinstance(self.metadata, Mapping):
            raise ArgumentTypeError(f"metadata must be a mapping, got {_kind(self.metadata)}")
        object.__setattr__(self, "metadata", MappingProxyType(dict(self.metadata)))

    def __reduce__(self) -> Any:  # a read-only mapping does not pickle
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return functools.partial(Example, **{**fields, "metadata": dict(self.metadata)}), ()

    @classmethod
    def of(cls, row: Mapping[str, Any], *, columns: Mapping[str, str] | None = None) -> Example:
        """Return the example that a row holds; columns without a role become metadata.

        The columns are known by the names of ``data.files.NAMES`` (anchor, query or input;
        positive, answer or output; negative; quality or weight; difficulty); ``columns`` names
        others by role. Besides, negatives is a list of texts, and metadata a mapping.
        """
        roles = column_roles([name for name in row if name not in _OWN], columns, source="the row")
        if "label" in roles:
            name = roles["label"]
            raise DataError(
                f"the row has a column {name!r}, but an example is a right pair: leave out rows "
                f"labelled 0 and the column; if it is a quality, columns={{'weight': {name!r}}}"
            )
        for side in ("anchor", "positive"):
            if side not in roles:
                raise DataError(f"the row has no text for the {side}")
        metadata = row.get("metadata")
        metadata = {} if metadata is None else metadata
        if not isinstance(metadata, Mapping):
            raise ArgumentTypeError(f"metadata must be a mapping, got {_kind(metadata)}")
        used = {roles[role] for role in (*_TEXTS, "weight", "difficulty") if role in roles}
        rest = {k: v for k, v in row.items() if k not in used and k not in _OWN}
        found = {role: row[column] for role, column in roles.items()}
        return cls(
            found["anchor"],
            found["positive"],
            negatives=(*_list(found.get("negative")), *_list(row.get("negatives"))),
            quality=found.get("weight"),  # type: ignore[arg-type]
            difficulty=found.get("difficulty"),
            metadata={**rest, **metadata},
        )


def _list(texts: Any) -> Any:
    """Return one text or none as a list of texts; what is neither is refused as a text later."""
    if texts is None:
        return ()
    return texts if isinstance(texts, Iterable) and not isinstance(texts, str) else (texts,)


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ArgumentTypeError(f"{name} must be a number, got {_kind(value)}")
    if not math.isfinite(float(value)):
        raise ArgumentError(f"{name} must be finite, got {value!r}")
    return float(value)


def _kind(value: object) -> str:
    text = repr(value)
    shown = text if len(text) <= 40 else text[:37] + "..."
    return f"{shown} ({type(value).__name__})"
