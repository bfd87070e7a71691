"""The interface of optimizers: pure functions from parameters, gradients and state."""

from __future__ import annotations

import dataclasses
import fnmatch
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from coreframe import checks
from coreframe.backend import Array, Params, device_of, namespace
from coreframe.component import Component
from coreframe.dtypes import cast, computing_dtype
from coreframe.errors import ArgumentError, ArgumentTypeError, nearest
from coreframe.ops import kernel
from coreframe.scheduler import Scheduler, require_resolved

__all__ = ["Optimizer", "Rule", "Slots", "Task"]

State = Mapping[str, Any]
"""Flat: ``step`` (int), and one array for each slot and parameter, named ``slot/parameter``.

``coreframe.state`` stores it. To reset an optimizer is to call ``init`` again.
"""

Slots = dict[str, Array]


@dataclass(frozen=True)
class Rule:
    """Overrides for the parameters that a glob or a predicate ``(name, array) -> bool`` picks.

    ``Rule("*.B", {"learning_rate": 0.016})`` beside a learning rate of 0.001 is LoRA+ (Hayou et
    al. 2024, arXiv 2402.12354). ``Optimizer.init`` refuses a glob that picks nothing.
    """

    match: str | Callable[[str, Array], bool]
    overrides: Mapping[str, Any]

    def __call__(self, name: str, parameter: Array) -> bool:
        if callable(self.match):
            return bool(self.match(name, parameter))
        return fnmatch.fnmatchcase(name, self.match)


class Task(NamedTuple):
    """One parameter to be moved: what ``step`` is called on and with."""

    optimizer: Optimizer  # as the rules make it for this parameter
    parameter: Array
    gradient: Array
    slots: Slots
    call: int  # from 1


@dataclass(frozen=True, kw_only=True)
class Optimizer(Component, ABC):
    """Updates parameters by their gradients. Write ``step`` for one parameter.

    Parameters keep their dtype. Those of float16 and bfloat16 are updated, and their slots kept,
    in float32, where small moves and small squares do not vanish.

    Args:
        learning_rate: the step size, >= 0, or a scheduler. Default: 1e-3, as in PyTorch.
        rules: ordered; the first rule that matches a parameter overrides fields for it, for
            example ``Rule("*.b", {"weight_decay": 0.0})``. Default: none.

    Shapes: a mapping of arrays of any shapes by name, gradients alike.

    Edges: a parameter without a gradient stays as it is, its slots too. A state of other
        parameters (renamed, of another shape or dtype) is an error that names them; nothing is
        matched by position. A parameter that grew starts with ``init`` again.

    Cost: one pass for each parameter, and the memory of its slots.

    References: see the implementations.
    """

    learning_rate: float | Scheduler = 1e-3
    rules: tuple[Rule, ...] = field(default=())

    slots: ClassVar[tuple[str, ...]] = ()
    """Names of the arrays that are kept for each parameter: of its shape, zero at first."""

    scalars: ClassVar[tuple[str, ...]] = ()
    """Names of the numbers that are kept for each parameter: 0-d arrays on its device, zero at
    first. What counts updates belongs here: the trainer goes back to the old one where a step was
    not finite, and that is decided on the device."""

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
        """Return one parameter and its slots (scalars too) after call number ``count`` (from 1).

        Never writes to its arguments: on a device the trainer goes back to the old parameter and
        slots where a step was not finite. ``count`` counts such a step, and those without a
        gradient for this parameter.
        """

    def init(self, params: Params) -> State:
        """Return the state before the first update. Raises for a glob that matches no name."""
        for rule in self.rules:
            if isinstance(rule.match, str) and not any(rule(*item) for item in params.items()):
                raise ArgumentError(
                    f"the rule {rule.match!r} of {type(self).__name__} matches no parameter."
                    + nearest(rule.match, params)
                )
        state: dict[str, Any] = {"step": 0}
        for name, parameter in params.items():
            xp = namespace(**{name: parameter})
            if not xp.isdtype(parameter.dtype, "real floating"):
                raise ArgumentTypeError(
                    f"the parameter {name!r} must be floating point, got {parameter.dtype}"
                )
            if 0 in parameter.shape:
                raise ArgumentError(
                    f"the parameter {name!r} is empty: its shape is {tuple(parameter.shape)}"
                )
            wide, device = computing_dtype(parameter, xp), device_of(parameter)
            for slot in self.slots:
                state[f"{slot}/{name}"] = xp.zeros_like(parameter, dtype=wide)
            for scalar in self.scalars:
                state[f"{scalar}/{name}"] = xp.zeros((), dtype=wide, device=device)
        return state

    def update(
        self, params: Params, grads: Params, state: State, *, donate: bool = False
    ) -> tuple[Params, State]:
        """Return parameters and state after one update.

        A parameter without a gradient stays as it is. The state must belong to exactly these
        parameters: it is keyed by name, and nothing is matched by position.

        With ``donate`` the caller gives up ``params`` and ``state``: NumPy arrays of theirs may be
        overwritten, and be what is returned. Gradients are never written to.
        """
        require_resolved(self)
        kept = self.check(params, state)
        if unknown := [name for name in grads if name not in params]:
            raise ArgumentError(
                f"grads has {unknown[0]!r}, which is no parameter.{nearest(unknown[0], params)}"
            )
        count = state["step"] + 1
        made: dict[int, Optimizer] = {}
        tasks = []
        for name, gradient in grads.items():
            parameter, (slots, xp, wide) = params[name], kept[name]
            if not _agree(parameter, (gradient,)):
                namespace(**{name: parameter, f"grads[{name}]": gradient})
            if gradient.shape != parameter.shape:
                raise ArgumentError(
                    f"the gradient of {name!r} must have its shape {tuple(parameter.shape)}, "
                    f"got {tuple(gradient.shape)}"
                )
            own = self._by_rules(name, parameter, made) if self.rules else self
            if parameter.dtype != wide or gradient.dtype != wide or not parameter.ndim:
                parameter, gradient = cast(parameter, wide, xp), cast(gradient, wide, xp)
            tasks.append(Task(own, parameter, gradient, slots, count))
        new_params, new_state = dict(params), dict(state)
        new_state["step"] = count
        if donate and len(grads) < len(params):
            # What stays may lie in memory that is overwritten under another name.
            for name in [name for name in params if name not in grads]:
                slots, xp, _ = kept[name]
                new_params[name] = xp.asarray(params[name], copy=True)
                for slot, x in slots.items():
                    new_state[f"{slot}/{name}"] = xp.asarray(x, copy=True)
        for name, (new, slots) in zip(grads, self._steps(tasks, donate), strict=True):
            parameter = params[name]
            same = new.dtype == parameter.dtype
            new_params[name] = new if same else cast(new, parameter.dtype, kept[name][1])
            for slot, x in slots.items():
                new_state[f"{slot}/{name}"] = x
        return new_params, new_state

    def _steps(self, tasks: list[Task], donate: bool) -> list[tuple[Array, Slots]]:
        """Return new parameters and slots: by the kernel for this very class, else by ``step``.

        A kernel takes all tasks of a call and whether their parameters and slots are given up. It
        returns arrays of the task's dtype.
        """
        kind = type(self)
        if tasks and (fast := kernel(f"{kind.__module__}:{kind.__qualname__}", tasks[0].parameter)):
            found = fast(tasks, donate)
            if found is not NotImplemented:
                return found  # type: ignore[no-any-return]
        results = []
        for task in tasks:
            xp, dtype = namespace(parameter=task.parameter), task.parameter.dtype
            new, slots = task.optimizer.step(*task[1:])
            slots = {slot: cast(x, dtype, xp) for slot, x in slots.items()}
            results.append((cast(new, dtype, xp), slots))
        return results

    def for_parameter(self, name: str, parameter: Array) -> Optimizer:
        """Return this optimizer as the rules make it for one parameter."""
        return self._by_rules(name, parameter, {})

    def _by_rules(self, name: str, parameter: Array, made: dict[int, Optimizer]) -> Optimizer:
        """Return this optimizer under the first rule that matches; ``made`` keeps one a rule."""
        for i, rule in enumerate(self.rules):
            if rule(name, parameter):
                if i not in made:
                    made[i] = dataclasses.replace(self, **rule.overrides, rules=())
                return made[i]
        return self

    def check(self, params: Params, state: State) -> dict[str, tuple[Slots, Any, Any]]:
        """Return by name what belongs to each parameter: its slots, namespace and wide dtype.

        Raises ArgumentError unless the state belongs to exactly these parameters.
        """
        slots = (*self.slots, *self.scalars)
        kept: dict[str, tuple[Slots, Any, Any]] = {}
        if len(state) != 1 + len(slots) * len(params) or "step" not in state:
            raise ArgumentError(self._not_of(params, state))
        kind = xp = None
        for name, parameter in params.items():
            own: Slots = {}
            for slot in slots:  # plain code: there may be many small parameters
                try:
                    own[slot] = state[f"{slot}/{name}"]
                except KeyError:
                    raise ArgumentError(self._not_of(params, state)) from None
            if type(parameter) is not kind:  # many parameters are mostly of one library
                xp, kind = namespace(**{name: parameter}), type(parameter)
            if not _agree(parameter, own.values()):
                namespace(**{name: parameter, **{f"state[{k}/{name}]": x for k, x in own.items()}})
            shape, wide = parameter.shape, computing_dtype(parameter, xp)
            for slot, x in own.items():
                if x.shape != (() if slot in self.scalars else shape):
                    raise ArgumentError(
                        f"state {slot}/{name} has shape {tuple(x.shape)}, "
                        f"its parameter {tuple(shape)}"
                    )
                if x.dtype != wide:
                    raise ArgumentError(
                        f"state {slot}/{name} has dtype {x.dtype}, must have {wide} for a "
                        f"parameter of {parameter.dtype}"
                    )
            kept[name] = own, xp, wide
        return kept

    def _not_of(self, params: Params, state: State) -> str:
        slots = (*self.slots, *self.scalars)
        wanted = {"step"} | {f"{slot}/{name}" for slot in slots for name in params}
        missing, extra = sorted(wanted - set(state)), sorted(set(state) - wanted)
        return (
            f"this state does not belong to these parameters of {type(self).__name__}: "
            f"missing {missing or 'nothing'}, unknown {extra or 'nothing'}"
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


def _agree(x: Array, others: Iterable[Array]) -> bool:
    """Say whether arrays share a library and a device, at a glance; ``namespace`` has the words."""
    kind = type(x)
    place = None if kind.__module__ == "numpy" else device_of(x)
    for y in others:  # no generator: there may be many small arrays
        if type(y) is not kind or (place is not None and device_of(y) != place):
            return False
    return True
