"""What components are checked on: the array libraries of this machine, and seeded batches."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from coreframe.backend import Array
from coreframe.batch import Batch
from coreframe.registry import registry
from coreframe.relation import Aligned, Listed, Relation, SameLabel, masked
from coreframe.testing.checks import NotApplicable

Place = Callable[[Any], Array]
"""Brings a NumPy array to a library and device."""

FAR, NEAR = 1e15, 1e-15
WIDTH = 5


# Libraries and devices ----------------------------------------------------------------------


def on_numpy(x: Any) -> Array:
    """Return a NumPy copy."""
    return np.array(x)


def read_only(x: Any) -> Array:
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
    for entry in registry().entries("backends"):
        if entry.name not in found:
            backend = entry.load()("")
            if backend.missing() is None:
                found[entry.name] = backend.asarray
    return found


def devices() -> dict[str, tuple[str, Place]]:
    """Return the devices here that no library uses by default: the library of each, and how.

    The strict library's second one computes on the host, and refuses to mix with the first as a
    GPU does.
    """
    found: dict[str, tuple[str, Place]] = {}
    if importlib.util.find_spec("array_api_strict"):
        import array_api_strict as strict

        second = strict.Device("device1")
        found["the second device of array-api-strict"] = (
            "array-api-strict",
            lambda x: strict.asarray(x, device=second),
        )
    for entry in registry().entries("backends"):
        if entry.name == "torch":
            backend = entry.load()("cuda")
            if backend.missing() is None:
                found["torch:cuda"] = ("torch", backend.asarray)
    return found


def everywhere() -> dict[str, Place]:
    """Return the libraries on their usual devices, and then the devices that none uses."""
    return {**libraries(), **{name: place for name, (_, place) in devices().items()}}


def devices_of(places: Mapping[str, Place]) -> dict[str, Place]:
    """Return the devices that none of these libraries uses by default, or raise NotApplicable."""
    found = {name: place for name, (library, place) in devices().items() if library in places}
    if not found:
        raise NotApplicable(
            "no library has a second device here; array-api-strict has one: "
            "pip install array-api-strict"
        )
    return found


def cases_on(library: str, cases: list[Case]) -> list[Case]:
    """Return the cases that are run on a library.

    On JAX, which compiles each for a second, one of two sides and one of a single side.
    """
    if library != "jax":
        return cases
    two = [case for case in cases if "references" in case.floats]
    one = [case for case in cases if "references" not in case.floats]
    full = [case for case in two if "negatives" in case.floats]
    return [*(full or two)[:1], *one[:1]]


def traced(library: str, function: Callable[[Any], Any], given: Any) -> Any:
    """Call a function of a tree of arrays; on JAX compiled as a whole, which is much faster.

    What cannot be traced, because it looks at values, is called as it is.
    """
    if library == "jax":
        import jax

        with contextlib.suppress(Exception):
            return jax.jit(function)(given)
    return function(given)


# Batches ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A batch that can be made again on any library, in any dtype, with other numbers.

    Its relation is given by labels, by lists of positives and of negatives, or by masks of both;
    with none of these, row i goes with row i.
    """

    name: str
    floats: Mapping[str, Any]  # Batch fields by name: embeddings, weights, scores
    labels: Any = None
    listed: tuple[Any, Any] | None = None
    masks: tuple[Any, Any] | None = None

    @property
    def rows(self) -> int:
        return len(self.floats["anchors"])

    @property
    def columns(self) -> int:
        return len(self.floats.get("references", self.floats["anchors"]))

    def relation(self, place: Place) -> Relation:
        if self.labels is not None:
            return SameLabel(place(self.labels))
        if self.listed is not None:
            return Listed(place(self.listed[0]), place(self.listed[1]), self.columns)
        if self.masks is not None:
            return masked(place(self.masks[0]), place(self.masks[1]))
        return Aligned(self.rows, self.columns)

    def arrays(self, place: Place, dtype: Any = np.float64, **changed: Any) -> dict[str, Array]:
        """Return the floats on a library; ``changed`` gives others by field."""
        return {k: place(np.asarray(x, dtype)) for k, x in {**self.floats, **changed}.items()}

    def of(self, arrays: Mapping[str, Array], place: Place) -> Batch:
        """Return the batch of these arrays."""
        labels = None if self.labels is None else place(self.labels)
        return Batch(**arrays, relation=self.relation(place), labels=labels)

    def batch(self, place: Place = on_numpy, dtype: Any = np.float64, **changed: Any) -> Batch:
        return self.of(self.arrays(place, dtype, **changed), place)

    @property
    def embeddings(self) -> list[str]:
        """The Batch fields that gradients are taken of."""
        return [name for name in ("anchors", "references", "negatives") if name in self.floats]

    def head(self, rows: int) -> Case:
        """Return the first rows of a case whose rows belong together by their number."""
        return replace(
            self,
            floats={name: x[:rows] for name, x in self.floats.items()},
            labels=None if self.labels is None else self.labels[:rows],
        )

    def graded(self) -> Case:
        """Return the same with a score for every anchor and reference, (n, m)."""
        scores = np.random.default_rng(21).random((self.rows, self.columns))
        name = f"{self.name}, with scores of all"
        return replace(self, name=name, floats={**self.floats, "scores": scores})

    def weighted(self) -> Case:
        """Return the same with weights."""
        weights = np.random.default_rng(22).random(self.rows) + 0.2
        floats = {**self.floats, "weights": weights}
        return replace(self, name=f"{self.name} with weights", floats=floats)

    @property
    def is_tall(self) -> bool:
        """Whether there are references beyond those that go with the anchors."""
        aligned = self.labels is None and self.listed is None and self.masks is None
        return aligned and self.columns > self.rows

    def square(self) -> Case:
        """Return the same with as many references as anchors."""
        references = self.floats["references"][: self.rows]
        name = f"{self.name}, as many references"
        return replace(self, name=name, floats={**self.floats, "references": references})

    def permuted(self) -> tuple[Case, dict[str, Any]]:
        """Return the same batch in another order, and where each row comes from, by field."""
        rng = np.random.default_rng(20)
        rows = _elsewhere(self.rows, rng)
        columns = rows
        if "references" in self.floats:
            columns = _elsewhere(self.columns, rng)
            if self.listed is None and self.masks is None:  # row i stays with row i
                behind = rng.permutation(np.arange(self.rows, self.columns))
                columns = np.concatenate([rows, behind])
        order = {name: columns if name == "references" else rows for name in self.floats}
        back = np.append(np.argsort(columns), -1)  # -1 stays -1
        floats = {name: x[order[name]] for name, x in self.floats.items()}
        if np.ndim(floats.get("scores", 0.0)) == 2:
            floats["scores"] = floats["scores"][:, columns]
        moved = replace(
            self,
            floats=floats,
            labels=None if self.labels is None else self.labels[rows],
            listed=self.listed and tuple(back[x[rows]].astype(x.dtype) for x in self.listed),
            masks=self.masks and tuple(x[rows][:, columns] for x in self.masks),
        )
        return moved, {**order, "rows": rows, "columns": columns}


def _elsewhere(count: int, rng: Any) -> Any:
    """Return an order in which nothing stays where it was."""
    order = rng.permutation(count)
    while count > 1 and np.any(order == np.arange(count)):
        order = rng.permutation(count)
    return order


def ordinary_cases() -> list[Case]:
    """Return one batch of each kind that occurs in practice; no value is special.

    Shapes are alike as far as possible, since JAX compiles each anew.
    """
    rng = np.random.default_rng(7)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape)

    labels = np.asarray([0, 0, 1, 1, 1, 2], np.int32)  # the last has no positive
    near = normal(6, WIDTH)
    listed = np.asarray([[3], [8], [11], [2], [30], [-1]], np.int32)
    against = np.asarray([[1, 5], [9, -1], [12, 13], [2, 4], [31, 6], [7, 8]], np.int32)
    positive = np.zeros((6, 6), np.bool_)
    positive[[0, 0, 1, 2, 4], [0, 3, 1, 2, 5]] = True  # rows 3 and 5 have no positive
    negative = ~positive & (rng.random((6, 6)) < 0.7)
    negative[1] = False  # and row 1 has no negative
    pairs = {"anchors": near, "references": near + 0.5 * normal(6, WIDTH), "scores": rng.random(6)}
    more = {
        "anchors": normal(6, WIDTH),
        "references": normal(9, WIDTH),
        "negatives": normal(6, 2, WIDTH),
        "weights": rng.random(6) + 0.2,
    }
    wide = {"anchors": normal(6, WIDTH), "references": normal(40, WIDTH)}
    square = {"anchors": normal(6, WIDTH), "references": normal(6, WIDTH)}
    return [
        Case("pairs", pairs),
        Case("pairs with weights and negatives", more),
        Case("labels", {"anchors": normal(6, WIDTH)}, labels=labels),
        Case("listed partners", wide, listed=(listed, against)),
        Case("masks", square, masks=(positive, negative)),
    ]


def _edge_pairs(name: str, anchors: Any, references: Any, **more: Any) -> Case:
    scores = np.ones(len(anchors))
    return Case(name, {"anchors": anchors, "references": references, "scores": scores, **more})


def _edge_classes(name: str, embeddings: Any, *labels: int) -> Case:
    return Case(name, {"anchors": embeddings}, labels=np.asarray(labels, np.int32))


def edge_cases() -> list[Case]:
    """Return the batches on which formulas divide by zero."""
    return [case for cases in edges().values() for case in cases]


def edges() -> dict[str, list[Case]]:
    """Return them by the promise that they are of."""
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((4, WIDTH)), rng.standard_normal((4, WIDTH))
    unit = np.eye(4, WIDTH)
    return {
        "one_row": [
            _edge_pairs("one row", x[:1], y[:1]),
            _edge_classes("one row of a class", x[:1], 0),
        ],
        "duplicates": [
            _edge_pairs("all rows alike", x[[0, 0, 0, 0]], x[[0, 0, 0, 0]]),
            _edge_pairs("anchors equal to their references", x, x),
            _edge_classes("every row twice", x[[0, 0, 1, 1]], 0, 0, 1, 1),
            _edge_classes("every row twice, in other classes", x[[0, 0, 1, 1]], 0, 1, 0, 1),
        ],
        "ties": [
            _edge_pairs("similarities of 0 and 1", unit, unit),
            _edge_pairs("all similarities alike", unit[[0, 0, 0, 0]], unit[[1, 1, 1, 1]]),
            _edge_classes("classes of equal rows", unit[[0, 0, 1, 1]], 0, 0, 1, 1),
        ],
        "zero_vectors": [
            _edge_pairs("zero vectors", 0 * x, np.concatenate([0 * y[:2], y[2:]])),
            _edge_classes("zero vectors of two classes", 0 * x, 0, 0, 1, 1),
        ],
        "magnitudes": [
            _edge_pairs("long vectors", FAR * x, FAR * y),
            _edge_pairs("short vectors", NEAR * x, NEAR * y),
        ],
        "no_positives": [
            _edge_classes("no row has a positive", x, 0, 1, 2, 3),
            _edge_classes("one row has no positive", x, 0, 0, 1, 0),
        ],
        "no_negatives": [_edge_classes("no row has a negative", x, 0, 0, 0, 0)],
        "zero_weights": [_edge_pairs("all weights zero", x, y, weights=np.zeros(4))],
    }


def far_apart() -> list[Case]:
    """Return batches of similarities near their largest and least, of no two equal rows."""
    rng = np.random.default_rng(23)
    one = rng.standard_normal(WIDTH)
    near, other = one + 1e-2 * rng.standard_normal((2, 4, WIDTH))
    return [
        _edge_pairs("rows nearly alike", near, other),
        _edge_pairs("rows nearly opposite", near, -other),
        _edge_classes("classes nearly alike", near, 0, 0, 1, 1),
        _edge_classes("classes nearly opposite", near * [[1], [1], [-1], [-1]], 0, 0, 1, 1),
        _edge_classes("rows of a class nearly opposite", near * [[1], [-1], [1], [-1]], 0, 0, 1, 1),
    ]


def tall_case(rows: int = 40, width: int = WIDTH) -> Case:
    """Return a batch of so many rows that a small memory budget cuts it into several blocks."""
    rng = np.random.default_rng(9)
    x = rng.standard_normal((rows, width))
    return Case("many rows", {"anchors": x}, labels=(np.arange(rows) % 7).astype(np.int32))


def tall_pairs(rows: int = 40, width: int = WIDTH) -> Case:
    """The same with two sides."""
    rng = np.random.default_rng(10)
    anchors, references = rng.standard_normal((2, rows, width))
    floats = {"anchors": anchors, "references": references, "scores": rng.random(rows)}
    return Case("many pairs", floats)


def tied_case() -> Case:
    """Return four anchors with one positive each, and twenty negatives that are all one vector."""
    unit = np.eye(2, WIDTH)  # so that similarities are 0 and 1 in every library
    positive = np.zeros((4, 21), np.bool_)
    positive[:, 0] = True
    floats = {"anchors": unit[[0, 0, 0, 0]], "references": unit[[0, *[1] * 20]]}
    return Case("equal candidates", floats, masks=(positive, ~positive))


# Rows of similarities -----------------------------------------------------------------------


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
