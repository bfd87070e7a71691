"""A regularizer, and how it is used: on parameters or on embeddings, as a run would."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from coreframe.backend import to_numpy
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.regularizer import Regularizer
from coreframe.scheduler import resolve
from coreframe.testing import arrays, kit
from coreframe.testing.arrays import Place, on_numpy
from coreframe.testing.checks import NotApplicable
from coreframe.testing.dtypes import placed
from coreframe.testing.hyperparameters import HALFWAY

RATES = (0.1, 0.05, 0.2, 0.02)


def starting_parameters() -> dict[str, Any]:
    """Return the parameters that a run starts at, on which regularizers are checked.

    One that is made for certain parameters, as ``ewc`` is by its tasks, is made for these.
    """
    rng = np.random.default_rng(41)
    shapes: dict[str, tuple[int, ...]] = {
        "query.A": (5, 2),
        "query.B": (2, 5),
        "query.b": (5,),
        "scale": (),
    }
    return {name: np.asarray(rng.normal(1.0, 0.3, shape)) for name, shape in shapes.items()}


@dataclass(frozen=True)
class Case:
    """What ``value_and_grad`` is called with, in float64."""

    name: str
    arrays: Mapping[str, Any]
    ids: Mapping[str, Any] | None = None

    def with_arrays(self, name: str, **changed: Any) -> Case:
        return dataclasses.replace(self, name=name, arrays={**self.arrays, **changed})


@dataclass(frozen=True)
class Outcome:
    """What a regularizer returned, as it came and as NumPy arrays; a missing gradient is 0."""

    raw: Any
    value: Any
    grads: Mapping[str, Any]

    @property
    def all(self) -> dict[str, Any]:
        return {"value": self.value, **{f"grads[{k!r}]": g for k, g in self.grads.items()}}


class Subject(kit.Subject):
    """A regularizer, and what it is checked on."""

    base = Regularizer

    def __init__(
        self,
        component: Any,
        given: Mapping[str, Any] | None = None,
        ids: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(component)
        self.given, self.ids = given, ids
        self.refusals: dict[str, str] = {}

    @property
    def of_parameters(self) -> bool:
        return bool(self.component.of == "parameters")

    @cached_property
    def start(self) -> Mapping[str, Any]:
        """The parameters of the run, which ``begin`` gets."""
        given = self.given if self.of_parameters else None
        return starting_parameters() if given is None else given

    @cached_property
    def places(self) -> dict[str, Place]:
        return arrays.everywhere()

    def candidates(self) -> list[Case]:
        """Return the inputs of a run; no value is special."""
        rng = np.random.default_rng(42)
        if self.of_parameters:
            moved = {k: x + 0.3 * rng.standard_normal(np.shape(x)) for k, x in self.start.items()}
            return [Case("parameters", moved)]
        if self.given is not None:
            return [Case("embeddings", self.given, self.ids)]
        anchors, references, more = (rng.standard_normal((n, 5)) for n in (6, 6, 9))
        ids = {"anchors": np.asarray([3, 0, 5, 1, 4, 2]), "references": np.arange(9)[::-1]}
        pair = {"anchors": anchors, "references": references}
        return [
            Case("pairs", pair, {**ids, "references": ids["references"][:6]}),
            Case("pairs without ids", pair, {"anchors": None, "references": None}),
            Case("more references", {"anchors": anchors, "references": more}, ids),
            Case("anchors alone", {"anchors": anchors}, {"anchors": ids["anchors"]}),
        ]

    @cached_property
    def cases(self) -> list[Case]:
        """The inputs that it does not refuse by an ArgumentError."""
        return self.usable(self.candidates())

    def usable(self, cases: list[Case]) -> list[Case]:
        found = []
        for case in cases:
            try:
                self.run(case)
            except (ArgumentError, ArgumentTypeError) as error:
                self.refusals[case.name] = str(error)
                continue
            except Exception:
                pass  # which `usable` explains
            found.append(case)
        return found

    def edges(self) -> list[Case]:
        """Return inputs on which formulas divide by zero, of those that it does not refuse."""
        found: list[Case] = []
        for case in self.cases:
            zeros = {name: 0 * x for name, x in case.arrays.items()}
            found.append(case.with_arrays(f"{case.name}, all zero", **zeros))
            if self.of_parameters:
                found.append(case.with_arrays(f"{case.name} as at the start", **self.start))
                continue
            alike = {name: np.repeat(x[:1], len(x), 0) for name, x in case.arrays.items()}
            found.append(case.with_arrays(f"{case.name}, all rows alike", **alike))
            twice = {} if case.ids is None else dict.fromkeys(case.ids)
            for name, x in (case.ids or {}).items():
                twice[name] = x if x is None else np.repeat(x[:1], len(x), 0)
            found.append(dataclasses.replace(case, name=f"{case.name}, all of one id", ids=twice))
            found.append(rows(case, f"one row of {case.name}", np.arange(1)))
        return self.usable(found)

    def begun(self, place: Place = on_numpy, dtype: str = "float64") -> Any:
        """Return the regularizer as a run has it: bound to its start, with its numbers resolved."""
        return self.begun_at(placed(self.start, place, dtype))

    def begun_at(self, start: Mapping[str, Any], component: Any = None) -> Any:
        return resolve((component or self.component).begin(start), HALFWAY)

    def run(
        self, case: Case, place: Place = on_numpy, dtype: str = "float64", *, term: Any = None
    ) -> Outcome:
        """Call the regularizer, as a run has begun it, on a case."""
        term = term or self.begun(place, dtype)
        here = placed(case.arrays, place, dtype)
        self.held.append(here)
        raw = term.value_and_grad(here, ids=placed_ids(case.ids, place))
        grads = {name: np.zeros(np.shape(x)) for name, x in case.arrays.items()}
        grads |= {name: np.asarray(to_numpy(g)) for name, g in raw.grads.items()}
        return Outcome(raw, np.asarray(to_numpy(raw.value)), grads)

    def step(
        self,
        case: Case,
        rates: Mapping[str, float],
        place: Place = on_numpy,
        dtype: str = "float64",
    ) -> Mapping[str, Any]:
        """Call ``after_step`` on a case."""
        here = placed(case.arrays, place, dtype)
        found: Mapping[str, Any] = self.begun(place, dtype).after_step(here, rates)
        return found

    def rates(self, case: Case) -> dict[str, float]:
        """Return a learning rate for each parameter, no two neighbours alike."""
        return {name: RATES[i % len(RATES)] for i, name in enumerate(case.arrays)}

    @cached_property
    def proximal(self) -> Case | None:
        """The case on which it takes a step after the update, in place of adding a gradient."""
        for case in self.cases if self.of_parameters else ():
            found = self.run(case)
            slopes = any(np.any(g) for g in found.grads.values())
            if self.moves(case) and np.any(found.value) and not slopes:
                return case
        return None

    def moves(self, case: Case) -> bool:
        """Say whether ``after_step`` does something."""
        if not self.of_parameters:
            return False
        moved = self.step(case, self.rates(case))
        return any(not np.array_equal(moved[name], x) for name, x in case.arrays.items())

    def acts(self, case: Case) -> bool:
        """Say whether it has a value, a gradient or a step."""
        return any(np.any(x) for x in self.run(case).all.values()) or self.moves(case)

    def exercise(self, component: Any, variant: int = 0) -> dict[str, Any]:
        rng = np.random.default_rng(43 + variant)
        found: dict[str, Any] = {}
        term = self.begun_at(placed(self.start, on_numpy, "float64"), component)
        for case in self.cases:
            moved = {
                name: np.asarray(x + 0.1 * variant * rng.standard_normal(np.shape(x)))
                for name, x in case.arrays.items()
            }
            here = case.with_arrays(case.name, **moved)
            for name, x in self.run(here, term=term).all.items():
                found[f"{case.name}: {name}"] = x
            if self.of_parameters:
                after = term.after_step(placed(moved, on_numpy, "float64"), self.rates(case))
                found |= {f"after_step: {name}": np.asarray(x) for name, x in after.items()}
        return found

    def only(self, of: str) -> None:
        """Leave a promise out that is for the other kind of regularizer."""
        if self.component.of != of:
            raise NotApplicable(f"it is of {self.component.of}")


def placed_ids(ids: Mapping[str, Any] | None, place: Place) -> dict[str, Any] | None:
    if ids is None:
        return None
    return {name: None if x is None else place(np.asarray(x)) for name, x in ids.items()}


def rows(case: Case, name: str, order: Any) -> Case:
    """Return a case with some rows of all its arrays, in an order, their ids with them."""
    picked = {key: x[order] for key, x in case.arrays.items()}
    ids = {k: x if x is None else x[order] for k, x in case.ids.items()} if case.ids else case.ids
    return Case(name, picked, ids)


def problems(got: Outcome, expected: Outcome, tolerance: float, where: str) -> Iterator[str]:
    """Yield a sentence for each result that differs; gradients by the largest of all."""
    largest = max([1e-6, *(float(np.abs(g).max(initial=0)) for g in expected.grads.values())])
    for name, wanted in expected.all.items():
        x = got.all[name]
        scale = max(1e-6, float(np.abs(wanted))) if name == "value" else largest
        if x.shape != wanted.shape:
            yield f"{where}: {name} has shape {x.shape}, expected {wanted.shape}"
        elif not (gap := float(np.abs(x - wanted).max(initial=0)) / scale) <= tolerance:
            yield f"{where}: {name} differs by {gap:.1g} of its largest entry"
