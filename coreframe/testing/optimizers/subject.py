"""An optimizer, and how it is used: parameters of all shapes, gradients, and updates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from coreframe.backend import namespace, to_numpy
from coreframe.dtypes import cast, computing_dtype
from coreframe.optimizer import Optimizer
from coreframe.scheduler import resolve
from coreframe.testing import arrays, kit
from coreframe.testing.arrays import Place, on_numpy
from coreframe.testing.checks import same_bits
from coreframe.testing.dtypes import in_dtype, placed
from coreframe.testing.hyperparameters import HALFWAY

TOLERANCE = {"float64": 1e-9, "float32": 1e-3}
RATE = 0.05  # large enough for float32 to show a move in all its digits

SHAPES = {
    "query.W": (4, 3),
    "query.b": (3,),
    "document.A": (2, 3, 2),
    "document.B": (5, 1),
    "loss.scale": (),
    "loss.margin": (1,),
}


class Subject(kit.Subject):
    """An optimizer, and the parameters and gradients that it is checked on."""

    base = Optimizer

    def exercise(self, component: Any, variant: int = 0) -> dict[str, Any]:
        optimizer = resolve(component, HALFWAY)
        return everything(*self.walk(optimizer, self.gradients(variant=variant)))

    @cached_property
    def optimizer(self) -> Optimizer:
        found: Optimizer = resolve(self.component, HALFWAY)
        return found

    @cached_property
    def bare(self) -> Optimizer:
        """The optimizer without its rules, for what takes single parameters."""
        return dataclasses.replace(self.optimizer, rules=())

    @cached_property
    def places(self) -> dict[str, Place]:
        return arrays.everywhere()

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes by name: one more for each glob of a rule, which must match something."""
        globs = [rule.match for rule in self.component.rules if isinstance(rule.match, str)]
        return {**{glob.replace("*", "x").replace("?", "x"): (2, 2) for glob in globs}, **SHAPES}

    @cached_property
    def params(self) -> dict[str, Any]:
        rng = np.random.default_rng(31)
        return {name: np.asarray(rng.normal(1.0, 0.3, s)) for name, s in self.shapes.items()}

    def gradients(self, count: int = 3, variant: int = 0) -> list[dict[str, Any]]:
        """Return seeded gradients, one mapping an update; the second one lacks a parameter."""
        rng = np.random.default_rng(32 + variant)
        found = [
            {name: np.asarray(rng.standard_normal(s)) for name, s in self.shapes.items()}
            for _ in range(count)
        ]
        for turn in found[1:2]:
            del turn["query.b"]
        return found

    def walk(
        self,
        optimizer: Optimizer,
        gradients: list[dict[str, Any]],
        place: Place = on_numpy,
        dtype: str = "float64",
        *,
        params: Mapping[str, Any] | None = None,
        donate: bool = False,
    ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Take one update for each of the gradients; return parameters and state."""
        here: Mapping[str, Any] = placed(self.params if params is None else params, place, dtype)
        if donate:
            here = {name: np.array(x) for name, x in here.items()}
        state = optimizer.init(here)
        for turn in gradients:
            here, state = optimizer.update(here, placed(turn, place, dtype), state, donate=donate)
        return here, state

    def step(self, place: Place, dtype: str, name: str) -> tuple[Any, Any, Any]:
        """Call ``step`` itself on one parameter; return the parameter, the new one and its slots.

        Arrays come in the dtype that is computed in, as from ``update``.
        """
        parameter = in_dtype(self.params[name], place, dtype)
        gradient = in_dtype(self.gradients()[0][name], place, dtype)
        state = self.bare.init({name: parameter})
        xp = namespace(parameter=parameter)
        wide = computing_dtype(parameter, xp)
        slots = {key.partition("/")[0]: x for key, x in state.items() if key != "step"}
        parameter = cast(parameter, wide, xp)
        return parameter, *self.bare.step(parameter, cast(gradient, wide, xp), slots, 1)

    def one_step(self, place: Place, name: str) -> Callable[[], Any]:
        """Return a call of ``step`` on one parameter, made already."""
        parameter, gradient = (
            place(np.asarray(x[name])) for x in (self.params, self.gradients()[0])
        )
        state = self.bare.init({name: parameter})
        slots = {key.partition("/")[0]: x for key, x in state.items() if key != "step"}
        return lambda: self.bare.step(parameter, gradient, slots, 1)


def everything(params: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters and state as NumPy arrays, by names that a sentence can have."""
    found: dict[str, Any] = {
        f"params[{name!r}]": np.asarray(to_numpy(x)) for name, x in params.items()
    }
    for name, x in state.items():
        found[f"state[{name!r}]"] = x if isinstance(x, int) else np.asarray(to_numpy(x))
    return found


def others(got: Mapping[str, Any], expected: Mapping[str, Any], when: str) -> Iterator[str]:
    """Yield a sentence for each result that is not the same to the bit."""
    for name, x in expected.items():
        if name not in got or not same_bits(x, got[name]):
            yield f"{when}, {name} is another"


def infinite(params: Mapping[str, Any], state: Mapping[str, Any], when: str) -> Iterator[str]:
    for name, x in everything(params, state).items():
        if not np.isfinite(x).all():
            yield f"{when}, {name} is not finite"
