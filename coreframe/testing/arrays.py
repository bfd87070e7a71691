"""What components are checked on: the array libraries of this machine, and seeded batches."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coreframe.backend import Array
from coreframe.batch import Batch
from coreframe.registry import registry
from coreframe.relation import Aligned, Listed, Relation, SameLabel, masked

Place = Callable[[Any], Array]
"""Brings a NumPy array to a library and device."""


def on_numpy(x: Any) -> Array:
    """Return a NumPy copy that refuses to be written to."""
    copy = np.array(x)
    copy.flags.writeable = False
    return copy


def libraries() -> dict[str, Place]:
    """Return all array libraries that run here: every backend, and the standard's strict one."""
    found: dict[str, Place] = {"numpy": on_numpy}
    if importlib.util.find_spec("array_api_strict"):
        import array_api_strict as strict

        found["array-api-strict"] = strict.asarray
        second = strict.Device("device1")
        found["array-api-strict on its second device"] = lambda x: strict.asarray(x, device=second)
    for entry in registry().entries("backends"):
        if entry.name not in found:
            backend = entry.load()("")
            if backend.missing() is None:
                found[entry.name] = backend.asarray
    return found


@dataclass(frozen=True)
class Case:
    """A batch that can be made again on any library, in any dtype, with other numbers."""

    name: str
    floats: Mapping[str, Any]  # Batch fields by name: embeddings, weights, scores
    relation: Callable[[Place], Relation]
    labels: Any = field(default=None)

    def batch(self, place: Place = on_numpy, dtype: Any = np.float64, **changed: Any) -> Batch:
        """Return the batch; ``changed`` gives other floats by field."""
        arrays = {k: place(np.asarray(x, dtype)) for k, x in {**self.floats, **changed}.items()}
        labels = None if self.labels is None else place(self.labels)
        return Batch(**arrays, relation=self.relation(place), labels=labels)

    @property
    def embeddings(self) -> list[str]:
        """The Batch fields that gradients are taken of."""
        return [name for name in ("anchors", "references", "negatives") if name in self.floats]


def ordinary_cases() -> list[Case]:
    """Return one batch of each kind that occurs in practice; no value is special.

    Shapes are alike as far as possible, since JAX compiles each anew.
    """
    rng = np.random.default_rng(7)
    d = 5

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape)

    labels = np.asarray([0, 0, 1, 1, 1, 2], np.int32)  # the last has no positive
    near = normal(6, d)
    listed = np.asarray([[3], [8], [11], [2], [30], [-1]], np.int32)
    against = np.asarray([[1, 5], [9, -1], [12, 13], [2, 4], [31, 6], [7, 8]], np.int32)
    positive = np.zeros((6, 6), np.bool_)
    positive[[0, 0, 1, 2, 4], [0, 3, 1, 2, 5]] = True  # rows 3 and 5 have no positive
    negative = ~positive & (rng.random((6, 6)) < 0.7)
    negative[1] = False  # and row 1 has no negative
    return [
        Case(
            "pairs",
            {
                "anchors": near,
                "references": near + 0.5 * normal(6, d),
                "scores": rng.random(6),
            },
            lambda place: Aligned(6, 6),
        ),
        Case(
            "pairs with weights and negatives",
            {
                "anchors": normal(6, d),
                "references": normal(9, d),
                "negatives": normal(6, 2, d),
                "weights": rng.random(6) + 0.2,
            },
            lambda place: Aligned(6, 9),
        ),
        Case("labels", {"anchors": normal(6, d)}, lambda place: SameLabel(place(labels)), labels),
        Case(
            "listed partners",
            {"anchors": normal(6, d), "references": normal(40, d)},
            lambda place: Listed(place(listed), place(against), 40),
        ),
        Case(
            "masks",
            {"anchors": normal(6, d), "references": normal(6, d)},
            lambda place: masked(place(positive), place(negative)),
        ),
    ]


def edge_cases() -> list[Case]:
    """Return the batches on which formulas divide by zero."""
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((4, 5)), rng.standard_normal((4, 5))

    def pairs(name: str, anchors: Any, references: Any) -> Case:
        n = len(anchors)
        floats = {"anchors": anchors, "references": references, "scores": np.ones(n)}
        return Case(name, floats, lambda place: Aligned(n, n))

    def classes(name: str, embeddings: Any, *labels: int) -> Case:
        codes = np.asarray(labels, np.int32)
        return Case(name, {"anchors": embeddings}, lambda place: SameLabel(place(codes)), codes)

    return [
        pairs("one row", x[:1], y[:1]),
        pairs("all rows alike", x[[0, 0, 0, 0]], x[[0, 0, 0, 0]]),
        pairs("anchors equal to their references", x, x),
        pairs("zero vectors", 0 * x, np.concatenate([0 * y[:2], y[2:]])),
        pairs("long vectors", 1e15 * x, 1e15 * y),
        pairs("short vectors", 1e-15 * x, 1e-15 * y),
        classes("one row of a class", x[:1], 0),
        classes("no row has a positive", x, 0, 1, 2, 3),
        classes("no row has a negative", x, 0, 0, 0, 0),
        classes("zero vectors of two classes", 0 * x, 0, 0, 1, 1),
        Case(
            "all weights zero",
            {"anchors": x, "references": y, "weights": np.zeros(4)},
            lambda place: Aligned(4, 4),
        ),
    ]


def tall_case(rows: int = 40) -> Case:
    """Return a batch of so many rows that a small memory budget cuts it into several blocks."""
    rng = np.random.default_rng(9)
    x = rng.standard_normal((rows, 5))
    labels = (np.arange(rows) % 7).astype(np.int32)
    return Case("many rows", {"anchors": x}, lambda place: SameLabel(place(labels)), labels)


def tall_pairs(rows: int = 40) -> Case:
    """The same with two sides."""
    rng = np.random.default_rng(10)
    floats = {
        "anchors": rng.standard_normal((rows, 5)),
        "references": rng.standard_normal((rows, 5)),
        "scores": rng.random(rows),
    }
    return Case("many pairs", floats, lambda place: Aligned(rows, rows))


def rows_of_similarities(similarity: str) -> tuple[Any, Any, Any]:
    """Return similarities (6, 7) in the range of that name, and masks positive and negative.

    Columns 2 and 5 take no part in any row; a row has no negative, and another no positive.
    """
    rng = np.random.default_rng(11)
    s = rng.uniform(-0.95, 0.95, (6, 7))
    if similarity != "cosine":
        s = 3 * s if similarity == "dot" else 2 * (s - 1)
    positive = rng.random((6, 7)) < 0.35
    positive[:, 0], positive[:, 1] = True, False
    negative = ~positive & (rng.random((6, 7)) < 0.8)
    negative[:, 1] = True
    positive[4], negative[3] = False, False
    positive[:, [2, 5]], negative[:, [2, 5]] = False, False
    return s, positive, negative


def extremes(similarity: str) -> tuple[float, float]:
    """Return the least and the largest similarity of that name (for those without, far ones)."""
    return {"cosine": (-1.0, 1.0), "dot": (-50.0, 50.0)}.get(similarity, (-50.0, 0.0))
