"""A loss under test: how it is called, on which batches, and how its results are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from coreframe.backend import to_numpy
from coreframe.batch import Batch
from coreframe.errors import ArgumentError
from coreframe.loss import Loss, LossResult, PairwiseLoss
from coreframe.testing import arrays, kit
from coreframe.testing.arrays import WIDTH, Case, Place, on_numpy
from coreframe.testing.checks import REPEATABLE, NotApplicable, difference

NUMBERS = ("row_terms_shapes", "usable", "accepts", REPEATABLE, "shapes", "precision")
"""What must be so before numbers mean anything."""


@dataclass(frozen=True)
class Outcome:
    """What a loss returned, as it came and as NumPy arrays."""

    raw: LossResult
    value: Any
    grads: Mapping[str, Any]  # by Batch field, and by "params.<name>"

    @classmethod
    def of(cls, raw: LossResult) -> Outcome:
        grads = {name: to_numpy(g) for name, g in raw.grads.items()}
        grads |= {f"params.{name}": to_numpy(g) for name, g in raw.param_grads.items()}
        return cls(raw, to_numpy(raw.value), grads)

    @property
    def all(self) -> dict[str, Any]:
        return {"value": self.value, **{f"grads[{k!r}]": g for k, g in self.grads.items()}}


class Subject(kit.Subject):
    """A loss, and what it is checked on."""

    base = Loss

    def __init__(self, component: Any) -> None:
        super().__init__(component)
        self.refusals: dict[str, str] = {}
        self._outcomes: dict[tuple[str, str, str], Outcome | Exception] = {}

    @property
    def loss(self) -> Loss:
        found: Loss = self.component
        return found

    @property
    def pairwise(self) -> PairwiseLoss:
        if not isinstance(self.loss, PairwiseLoss):
            raise NotApplicable("it is no PairwiseLoss")
        return self.loss

    @property
    def reduction(self) -> str:
        return str(getattr(self.loss, "reduction", "mean"))

    def exercise(self, component: Any, variant: int = 0) -> dict[str, Any]:
        rng = np.random.default_rng(18 + variant)
        found: dict[str, Any] = {}
        for case in self.cases:
            moved = {
                name: case.floats[name] + 0.1 * variant * rng.standard_normal(np.shape(x))
                for name, x in case.floats.items()
                if name in case.embeddings
            }
            outcome = self.run(case, loss=component, **moved)
            found |= {f"{case.name}: {name}": x for name, x in outcome.all.items()}
        return found

    @cached_property
    def params(self) -> dict[str, Any]:
        """The loss's own parameters, moved off their starting point, where much is symmetric."""
        rng = np.random.default_rng(12)
        start = self.loss.init(np.random.default_rng(13), WIDTH)
        moved = {
            name: np.asarray(x, np.float64) + 0.1 * rng.standard_normal(np.shape(x))
            for name, x in start.items()
        }
        return dict(self.loss.project(moved)) if moved else {}

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
        found = self.usable(arrays.ordinary_cases())
        if not any("weights" in case.floats for case in found):
            found += self.usable([case.weighted() for case in found[:1]])
        return found

    @cached_property
    def overflows(self) -> list[str]:
        """Sentences about numbers that are finite in float64 alone, and could be in float32."""
        found = []
        for case in [*self.cases, *self.usable(arrays.far_apart())]:
            wide = self.run(case).all
            largest = max(float(np.abs(x).max(initial=0.0)) for x in wide.values())
            if not largest < float(np.finfo(np.float32).max):
                continue
            narrow = self.run(case, dtype=np.float32).all
            found += [
                f"{case.name}: {name} is finite in float64, and not in float32"
                for name, x in narrow.items()
                if not np.isfinite(x).all()
            ]
        return found

    def edge_cases(self, kind: str) -> list[Case]:
        return self.usable(arrays.edges()[kind])

    def usable(self, cases: list[Case]) -> list[Case]:
        """Return the cases that the loss is made for."""
        return [found for case in cases if (found := self._taken(case))]

    def _taken(self, case: Case) -> Case | None:
        """Return the case as the loss takes it: with scores (n, m) where it refuses (n,), and as
        many references as anchors where it refuses more.
        """
        batch = case.batch()
        if any(getattr(batch, name) is None for name in self.loss.needs):
            self.refusals[case.name] = f"it needs {', '.join(self.loss.needs)}"
            return None
        try:
            self.run(case)
        except ArgumentError as error:
            self.refusals[case.name] = str(error)
            if "scores" in self.loss.needs and np.ndim(case.floats["scores"]) == 1:
                return self._taken(case.graded())
            if case.is_tall:
                return self._taken(case.square())
            return None
        except Exception:
            pass  # which a promise will find and explain
        return case

    def run(
        self,
        case: Case,
        place: Place = on_numpy,
        dtype: Any = np.float64,
        *,
        library: str = "",
        loss: Loss | None = None,
        params: Mapping[str, Any] | None = None,
        wrt: tuple[str, ...] | None = None,
        **changed: Any,
    ) -> Outcome:
        """Call the loss on a case."""
        chosen = self.params if params is None else params
        placed = {name: place(np.asarray(x, dtype)) for name, x in chosen.items()}

        def call(given: Any) -> Any:
            floats, own = given
            batch = case.of(floats, place)
            if library != "jax":
                self.held.append((batch, own))
            found = (loss or self.loss).value_and_grad(batch, own or None, wrt=wrt)
            if not isinstance(found, LossResult):
                raise TypeError(
                    f"value_and_grad returns a {type(found).__name__}, expected a LossResult"
                )
            return found.value, dict(found.grads), dict(found.param_grads)

        given = (case.arrays(place, dtype, **changed), placed)
        return Outcome.of(LossResult(*arrays.traced(library, call, given)))

    def batch(self, case: Case, place: Place = on_numpy) -> Batch:
        """Make a batch of a case that is given to the loss directly."""
        self.held.append(made := case.batch(place))
        return made

    def attempt(self, case: Case, library: str, dtype: str) -> Outcome | Exception:
        """Return the result of a case on a library, or why it does not run; computed once."""
        key = (case.name, library, dtype)
        if key not in self._outcomes:
            try:
                self._outcomes[key] = self.run(case, self.places[library], dtype, library=library)
            except Exception as error:
                self._outcomes[key] = error
        return self._outcomes[key]

    def outcome(self, case: Case, library: str, dtype: str) -> Outcome | None:
        """Return the result of a case on a library; None if it does not run."""
        found = self.attempt(case, library, dtype)
        return found if isinstance(found, Outcome) else None

    def row_terms(self, similarities: Any, positive: Any, negative: Any) -> tuple[Any, Any]:
        """Call row_terms on NumPy arrays of its own, which it may spoil: see inputs_are_kept."""
        given = [np.array(similarities), np.array(positive), np.array(negative)]
        self.held.append(given)
        losses, grads = self.pairwise.row_terms(*given)
        return np.asarray(losses), np.asarray(grads)


def has_dtype(place: Place, dtype: str) -> bool:
    """Say whether a library keeps a dtype; JAX without 64 bits has no float64."""
    return dtype in str(place(np.zeros(1, dtype)).dtype)


def compare(name: str, got: Outcome, expected: Outcome, tolerance: float) -> Iterator[str]:
    """Yield a sentence for each result that differs.

    Gradients are measured by the largest of all, since one of them may be zero but for rounding.
    """
    largest = max([1e-6, *(float(np.abs(g).max(initial=0.0)) for g in expected.grads.values())])
    for key, wanted in expected.all.items():
        if key not in got.all:
            yield f"{name}: {key} is missing"
            continue
        gap = difference(got.all[key], wanted, 1e-6 if key == "value" else largest)
        if gap > tolerance:
            yield f"{name}: {key} differs by {gap:.1g} of its largest entry"
