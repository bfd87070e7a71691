"""What all targets share: an adapter is written into a folder, read back, and compared.

A target is one file of this package. It writes an adapter in the form of one stack, reads what it
wrote by that form's own rules, and says which lines load it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coreframe.artefact import SIDES, TrainedAdapter
from coreframe.errors import ArgumentError

Floats: TypeAlias = NDArray[np.floating[Any]]
Map = Callable[[Floats], Floats]

PROBES = 16
TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Comparison:
    """What an export gives for the probes, beside what the adapter gives: (16, d_out) each."""

    what: str
    got: Floats
    want: Floats

    @property
    def error(self) -> float:
        """The largest difference, relative to the largest number where that is above 1."""
        if self.got.shape != self.want.shape or not np.isfinite(self.got).all():
            return float("inf")
        scale = max(1.0, float(np.max(np.abs(self.want))))
        return float(np.max(np.abs(np.asarray(self.got, np.float64) - self.want))) / scale


@dataclass(frozen=True, kw_only=True)
class Target(ABC):
    """One form that an adapter is written in. Fields are the options of ``export``."""

    name: ClassVar[str]
    normalizes: ClassVar[bool] = True
    """Whether what ``compare`` looks at divides rows by their lengths, where the adapter does."""

    @abstractmethod
    def write(self, adapter: TrainedAdapter, folder: Path) -> None:
        """Write into an empty folder. Raises ArgumentError for what this form cannot hold."""

    def read(self, adapter: TrainedAdapter, folder: Path) -> Mapping[str, Map]:
        """Return the map of each side that was written, read from the files by the form's rules.

        A form that does not map vectors overrides ``compare`` instead.
        """
        return {}

    @abstractmethod
    def usage(self, adapter: TrainedAdapter) -> list[str]:
        """Return the lines that load it; ``FOLDER`` stands for the folder."""

    def notes(self, adapter: TrainedAdapter) -> list[str]:
        """Return what else must be known."""
        return []

    def divides(self, adapter: TrainedAdapter) -> bool:
        """Say whether the files alone bring rows to unit length, where the adapter does."""
        return self.normalizes

    def compare(self, adapter: TrainedAdapter, folder: Path) -> Iterator[Comparison]:
        """Yield what was written beside what the adapter does, for 16 vectors of unit length."""
        x = probes(adapter.dimensions)
        for side, map_ in self.read(adapter, folder).items():
            want = adapter(x, side) if self.normalizes else adapter.side(side).apply(x)
            yield Comparison(side, map_(x.astype(np.float32)), want)


def probes(dimensions: int) -> Floats:
    """Return 16 vectors of unit length, (16, d) float64: the same at every call."""
    x = np.random.default_rng(16).standard_normal((PROBES, dimensions))
    found: Floats = x / np.linalg.norm(x, axis=1, keepdims=True)
    return found


def adapted_sides(adapter: TrainedAdapter) -> tuple[str, ...]:
    """Return the sides that are moved; both say nothing of whether they move alike."""
    return tuple(name for name in SIDES if not adapter.side(name).is_identity)


def moves_alike(adapter: TrainedAdapter) -> bool:
    """Say whether queries and documents go through the same map."""
    query, document = (adapter.side(name) for name in SIDES)
    return (query.form, query.scaling) == (document.form, document.scaling) and (
        sorted(query.arrays) == sorted(document.arrays)
        and all(np.array_equal(x, document.arrays[name]) for name, x in query.arrays.items())
    )


def maps(adapter: TrainedAdapter) -> dict[str, tuple[str, ...]]:
    """Return the maps that are to be written, by name, with the sides that each serves: "adapter",
    or "query" and "document" where these move differently.
    """
    moved = adapted_sides(adapter) or ("query",)
    if len(moved) == 2 and not moves_alike(adapter):
        return {side: (side,) for side in moved}
    return {"adapter": moved}


def affine(adapter: TrainedAdapter, side: str) -> tuple[Floats, Floats | None]:
    """Return W (d_in, d_out) and b (d_out,) or None, float32: y = x @ W + b."""
    w, b = adapter.side(side).matrix(adapter.dimensions)
    return w.astype(np.float32), None if b is None else b.astype(np.float32)


def unit(y: Floats) -> Floats:
    """Return rows divided by their lengths; a row of zeros stays one."""
    length = np.linalg.norm(y, axis=-1, keepdims=True)
    found: Floats = y / np.where(length == 0, 1, length)
    return found


def one_side(adapter: TrainedAdapter, side: str | None, target: str) -> str:
    """Return the side that a form with room for one map takes.

    Raises ArgumentError if the sides move differently and none was chosen.
    """
    moved = adapted_sides(adapter)
    if side is not None:
        if side not in SIDES:
            raise ArgumentError(f"side must be 'query' or 'document', got {side!r}")
        return side
    if len(moved) == 2 and not moves_alike(adapter):
        raise ArgumentError(
            f"{target} holds one map, and this adapter has two; export each to a folder of its "
            "own: --side query, --side document"
        )
    return moved[0] if moved else "query"
