"""The interface of optimizers: pure functions from parameters, gradients and state."""

from __future__ import annotations

import dataclasses
import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from coreframe import checks
from coreframe.backend import Array, Params, namespace
from coreframe.errors import ArgumentError, nearest
from coreframe.scheduler import Scheduler, require_resolved

State = Mapping[str, Any]
"""Flat: ``step`` (int), and one array for each slot and parameter, named ``slot/parameter``."""

Slots = dict[str, Array]


@dataclass(frozen=True)
class Rule:
    """Overrides for the parameters that a glob or a predicate ``(name, array) -> bool`` picks."""

    match: str | Callable[[str, Array], bool]
    overrides: Mapping[str, Any]

    def __call__(self, name: str, parameter: Array) -> bool:
        if callable(self.match):
            return bool(self.match(name, parameter))
        return fnmatch.fnmatchcase(name, self.match)


@dataclass(frozen=True, kw_only=True)
class Optimizer(ABC):
    """Updates parameters by their gradients. Write ``step`` for one parameter.

    Args:
        learning_rate: the step size, or a scheduler.
        rules: ordered; the first rule that matches a parameter overrides fields for it, for
            example ``Rule("*.b", {"weight_decay": 0.0})``.
    """

    learning_rate: float | Scheduler = 1e-3
    rules: tuple[Rule, ...] = field(default=())

    slots: ClassVar[tuple[str, ...]] = ()
    """Names of the arrays that are kept for each parameter, zero at first."""

    def __post_init__(self) -> None:
        checks.number(self, "learning_rate", minimum=0)
        names = {f.name for f in dataclasses.fields(self)}
        for rule in self.rules:
            for key in rule.overrides:
                if key not in names or key == "rules":
                    raise ArgumentError(
                        f"a rule of {type(self).__name__} overrides {key!r}."
                        + nearest(key, names - {"rules"})
                    )

    @abstractmethod
    def step(
        self, parameter: Array, gradient: Array, slots: Slots, count: int
    ) -> tuple[Array, Slots]:
        """Return one parameter and its slots after update number ``count`` (from 1).

        Never writes to its arguments: the trainer goes back to the old parameter and slots where
        a step was not finite, and keeps those of the best epoch.
        """

    def init(self, params: Params) -> State:
        """Return the state before the first update."""
        state: dict[str, Any] = {"step": 0}
        for name, parameter in params.items():
            xp = namespace(**{name: parameter})
            for slot in self.slots:
                state[f"{slot}/{name}"] = xp.zeros_like(parameter)
        return state

    def update(self, params: Params, grads: Params, state: State) -> tuple[Params, State]:
        """Return parameters and state after one update.

        A parameter without a gradient stays as it is. The state must belong to exactly these
        parameters: it is keyed by name, and nothing is matched by position.
        """
        require_resolved(self)
        self.check(params, state)
        if unknown := [name for name in grads if name not in params]:
            raise ArgumentError(
                f"grads has {unknown[0]!r}, which is no parameter.{nearest(unknown[0], params)}"
            )
        count = state["step"] + 1
        new_params, new_state = dict(params), dict(state)
        new_state["step"] = count
        for name, gradient in grads.items():
            parameter = params[name]
            namespace(**{name: parameter, f"grads[{name}]": gradient})
            if tuple(gradient.shape) != tuple(parameter.shape):
                raise ArgumentError(
                    f"the gradient of {name!r} must have its shape {tuple(parameter.shape)}, "
                    f"got {tuple(gradient.shape)}"
                )
            slots = {slot: state[f"{slot}/{name}"] for slot in self.slots}
            own = self.for_parameter(name, parameter)
            new_params[name], slots = own.step(parameter, gradient, slots, count)
            new_state.update({f"{slot}/{name}": x for slot, x in slots.items()})
        return new_params, new_state

    def for_parameter(self, name: str, parameter: Array) -> Optimizer:
        """Return this optimizer as the rules make it for one parameter."""
        for rule in self.rules:
            if rule(name, parameter):
                return dataclasses.replace(self, **rule.overrides, rules=())
        return self

    def check(self, params: Params, state: State) -> None:
        """Raise ArgumentError unless the state belongs to exactly these parameters."""
        wanted = {"step"} | {f"{slot}/{name}" for slot in self.slots for name in params}
        if wanted != set(state):
            missing, extra = sorted(wanted - set(state)), sorted(set(state) - wanted)
            raise ArgumentError(
                f"this state does not belong to these parameters of {type(self).__name__}: "
                f"missing {missing or 'nothing'}, unknown {extra or 'nothing'}"
            )
        for slot in self.slots:
            for name, parameter in params.items():
                found = state[f"{slot}/{name}"]
                if tuple(found.shape) != tuple(parameter.shape):
                    raise ArgumentError(
                        f"state {slot}/{name} has shape {tuple(found.shape)}, "
                        f"its parameter {tuple(parameter.shape)}"
                    )

    def describe(self, params: Params) -> str:
        """Return one line a parameter: its shape and the fields that apply to it."""
        lines = []
        for name, parameter in params.items():
            own = self.for_parameter(name, parameter)
            fields = [f for f in dataclasses.fields(own) if f.name != "rules"]
            text = ", ".join(f"{f.name}={getattr(own, f.name)!r}" for f in fields)
            lines.append(f"{name} {tuple(parameter.shape)}: {text}")
        return "\n".join(lines)
