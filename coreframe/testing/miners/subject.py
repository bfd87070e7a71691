"""A miner under test: how it is called, on which batches, and what its relation says."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from coreframe.backend import device_of, library_of, namespace, to_numpy
from coreframe.batch import Batch
from coreframe.errors import ArgumentError
from coreframe.miner import Miner
from coreframe.random import stream
from coreframe.relation import Relation
from coreframe.testing import arrays, kit
from coreframe.testing.arrays import Case, Place, on_numpy
from coreframe.testing.checks import REPEATABLE

KINDS = ("positives", "negatives")
PAIRS = ("usable", "accepts", REPEATABLE)
"""What must be so before the pairs mean anything."""


class Subject(kit.Subject):
    """A miner, and what it is checked on."""

    base = Miner

    @property
    def miner(self) -> Miner:
        found: Miner = self.component
        return found

    def exercise(self, component: Any, variant: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for case in self.cases:
            moved = {name: np.flip(case.floats[name], 0) for name in case.embeddings * variant}
            batch = case.batch(**moved)
            masks = whole(self.mine(batch, miner=component, seed=variant), batch)
            found |= {f"{case.name}: {name}": x for name, x in zip(KINDS, masks, strict=True)}
        return found

    @cached_property
    def places(self) -> dict[str, Place]:
        return arrays.libraries()

    @property
    def placed(self) -> Iterator[tuple[Case, str, Place]]:
        """The cases on each library."""
        for library, place in self.places.items():
            for case in arrays.cases_on(library, self.cases):
                yield case, library, place

    @cached_property
    def cases(self) -> list[Case]:
        return self.usable([*arrays.ordinary_cases(), arrays.tall_case(), arrays.tall_pairs()])

    @cached_property
    def draws(self) -> bool:
        """Whether the pairs are others with another seed."""
        return any(
            not np.array_equal(self.masks(case, seed=0), self.masks(case, seed=seed))
            for case in self.cases
            for seed in (1, 2)
        )

    def edge_cases(self, kind: str) -> list[Case]:
        return self.usable(arrays.edges()[kind])

    def usable(self, cases: list[Case]) -> list[Case]:
        """Return the cases that the miner does not refuse."""
        found = []
        for case in cases:
            try:
                self.mine(case.batch())
            except ArgumentError:
                continue
            except Exception:
                pass  # which a promise will find and explain
            found.append(case)
        return found

    def mine(self, batch: Batch, *, miner: Miner | None = None, seed: int = 0) -> Relation:
        if library_of(batch.anchors) != "jax":  # whose tracers end with their trace
            self.held.append(batch)
        found = (miner or self.miner).mine(batch, rng=stream(seed, "check"))
        if not isinstance(found, Relation):
            raise TypeError(f"mine returns a {type(found).__name__}, expected a Relation")
        return found

    def masks(
        self,
        case: Case,
        place: Place = on_numpy,
        dtype: Any = np.float32,
        seed: int = 0,
        library: str = "",
    ) -> tuple[Any, Any]:
        """Mine a case and return the whole masks, positive and negative, in NumPy."""
        both = np.ones((2, case.rows, case.columns), np.bool_)
        if "references" not in case.floats:  # the engine leaves self pairs out
            both &= ~np.eye(case.rows, dtype=np.bool_)

        def call(floats: Any) -> Any:
            batch = case.of(floats, place)
            relation = self.mine(batch, seed=seed)
            rows, columns = slice(0, relation.rows), slice(0, relation.columns)
            xp = namespace(anchors=batch.anchors)
            return relation.tile(rows, columns, xp, device_of(batch.anchors))

        positive, negative = arrays.traced(library, call, case.arrays(place, dtype))
        return to_numpy(positive) & both[0], to_numpy(negative) & both[1]


def whole(relation: Relation, batch: Batch, step: int | None = None) -> tuple[Any, Any]:
    """Ask a relation for all its pairs, in tiles of ``step`` rows and columns."""
    xp, device = namespace(anchors=batch.anchors), device_of(batch.anchors)
    n, m = relation.rows, relation.columns
    masks = np.zeros((2, n, m), np.bool_)
    for top in range(0, n, step or n):
        for left in range(0, m, step or m):
            rows = slice(top, min(n, top + (step or n)))
            cols = slice(left, min(m, left + (step or m)))
            for mask, tile in zip(masks, relation.tile(rows, cols, xp, device), strict=True):
                mask[rows, cols] = to_numpy(tile)
    if batch.references is None:  # the engine leaves self pairs out
        masks &= ~np.eye(n, dtype=np.bool_)
    return masks[0], masks[1]


def invented(case: Case, mined: Relation, batch: Batch) -> list[str]:
    """Return a sentence for each kind of pair that the batch does not have."""
    if (mined.rows, mined.columns) != (batch.relation.rows, batch.relation.columns):
        return [
            f"{case.name}: the result is for {mined.rows} x {mined.columns}, the batch has "
            f"{batch.relation.rows} x {batch.relation.columns}"
        ]
    found = []
    pairs = zip(whole(mined, batch), whole(batch.relation, batch), strict=True)
    for kind, (after, before) in zip(("positive", "negative"), pairs, strict=True):
        if new := np.argwhere(after & ~before).tolist():
            row, column = new[0]
            found.append(
                f"{case.name}: ({row}, {column}) is a {kind} of the result, not of the batch"
            )
    return found
