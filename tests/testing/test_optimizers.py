"""The kit for optimizers: it passes what is right, and names what is wrong.

That the shipped ones keep its promises: test_shipped.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from coreframe import Optimizer, Rule, Scheduler, checks, namespace
from coreframe.registry import build
from coreframe.scheduler import plain
from coreframe.testing import Check, arrays, report
from coreframe.testing.optimizers.promises import KIT, PROMISES, check_optimizer
from coreframe.testing.shared import SHARED

RULES = (Rule("*.Q", {"learning_rate": 0.016}), Rule("query.b", {"learning_rate": 0.0}))


@dataclass(frozen=True, kw_only=True)
class Sign(Optimizer):
    """Steps by the sign of a decaying sum.

        v = momentum v + g;   p = p - learning_rate sign(v)

    Args:
        momentum: >= 0. Default: 0.9, as usual.

    Shapes: parameters and gradients of any shape; one velocity of that shape.

    Edges: a gradient of zero moves nothing at the first step.

    Cost: three passes over the parameter; memory of one.

    References: Bernstein et al. 2018, arXiv 1802.04434.

    >>> import numpy as np
    >>> params, optimizer = {"W": np.ones(1)}, Sign(learning_rate=0.5)
    >>> new, _ = optimizer.update(params, {"W": np.full(1, 3.0)}, optimizer.init(params))
    >>> new["W"].tolist()
    [0.5]
    """

    momentum: float | Scheduler = 0.9

    slots: ClassVar[tuple[str, ...]] = ("velocity",)

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self, "momentum", minimum=0)

    def step(self, parameter: Any, gradient: Any, slots: Any, count: int) -> Any:
        velocity = plain(self.momentum) * slots["velocity"] + gradient
        return self.moved(parameter, velocity), {"velocity": velocity}

    def moved(self, parameter: Any, velocity: Any) -> Any:
        xp = namespace(parameter=parameter)
        return parameter - plain(self.learning_rate) * xp.sign(velocity)


@pytest.mark.parametrize(
    "optimizer",
    [
        Sign(),
        Sign(momentum=0.0, rules=RULES),
        Sign(learning_rate=build("schedulers", "warmup_cosine", peak=0.1), momentum=0.5),
        build("optimizers", "adam", beta1=0.0, beta2=0.0),
        build("optimizers", "adamw", rules=RULES),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_right_optimizer_passes(few_libraries: None, optimizer: Optimizer) -> None:
    found = check_optimizer(optimizer)
    assert all(found), report([c for c in found if not c])


# Optimizers that are wrong --------------------------------------------------------------------


class NeedsMatrices(Sign):
    def moved(self, parameter: Any, velocity: Any) -> Any:
        scale = 0 * (velocity @ velocity.T)[0, 0]
        return super().moved(parameter, velocity) + scale


class StartsAtOne(Sign):
    def init(self, params: Any) -> Any:
        state = super().init(params)
        return {k: x if k == "step" else x + 1 for k, x in state.items()}


class ForgetsItsSlot(Sign):
    def step(self, *arguments: Any) -> Any:
        return super().step(*arguments)[0], {}


class Widens(Sign):
    def moved(self, parameter: Any, velocity: Any) -> Any:
        if type(parameter).__module__ != "numpy":
            return super().moved(parameter, velocity)
        return parameter - np.float64(plain(self.learning_rate)) * np.sign(velocity)


class Spreads(Sign):
    def step(self, *arguments: Any) -> Any:
        new, slots = super().step(*arguments)
        return new, {"velocity": slots["velocity"][..., None]}


class KnowsOnlyNumPy(Sign):
    def moved(self, parameter: Any, velocity: Any) -> Any:
        return parameter - plain(self.learning_rate) * np.sign(velocity)


class ForgetsAFactor(Sign):
    def moved(self, parameter: Any, velocity: Any) -> Any:
        if type(parameter).__module__ != "numpy":
            return super().moved(parameter, 0 * velocity)
        return super().moved(parameter, velocity)


class Ascends(Sign):
    def moved(self, parameter: Any, velocity: Any) -> Any:
        return super().moved(parameter, -velocity)


class DecaysAlways(Sign):
    def moved(self, parameter: Any, velocity: Any) -> Any:
        return super().moved(0.999 * parameter, velocity)


class DividesByZero(Sign):
    def moved(self, parameter: Any, velocity: Any) -> Any:
        xp = namespace(parameter=parameter)
        return parameter - plain(self.learning_rate) * velocity / xp.sqrt(velocity * velocity)


class GuardsTooLate(Sign):
    def moved(self, parameter: Any, velocity: Any) -> Any:
        xp = namespace(parameter=parameter)
        unit = velocity / xp.abs(velocity)
        unit = xp.where(velocity == 0, 0 * velocity, unit)
        return parameter - plain(self.learning_rate) * unit


class Overflows(Sign):
    def step(self, parameter: Any, gradient: Any, slots: Any, count: int) -> Any:
        return super().step(parameter, gradient * (1 - 2.0**-count), slots, int(2.0**count))


class NeverCounts(Sign):
    def update(self, params: Any, grads: Any, state: Any, *, donate: bool = False) -> Any:
        new, after = super().update(params, grads, state)
        return new, {**after, "step": 0}


class CorrectsByTheCount(Sign):
    def step(self, parameter: Any, gradient: Any, slots: Any, count: int) -> Any:
        velocity = 0.9 * slots["velocity"] + 0.1 * gradient
        move = velocity / (1 - 0.9**count)
        return parameter - plain(self.learning_rate) * move, {"velocity": velocity}


class FillsUpWithZeros(Sign):
    def update(self, params: Any, grads: Any, state: Any, *, donate: bool = False) -> Any:
        filled = {name: grads.get(name, 0 * x) for name, x in params.items()}
        return super().update(params, filled, state)


class ClipsByTheGlobalNorm(Sign):
    def update(self, params: Any, grads: Any, state: Any, *, donate: bool = False) -> Any:
        norm = sum(np.sum(g * g) for g in grads.values()) ** 0.5
        return super().update(params, {k: g / norm for k, g in grads.items()}, state)


class SlowerByPosition(Sign):
    def update(self, params: Any, grads: Any, state: Any, *, donate: bool = False) -> Any:
        new, after = super().update(params, grads, state)
        names = list(params)
        return {
            k: params[k] + (x - params[k]) / (1 + names.index(k)) for k, x in new.items()
        }, after


class IgnoresItsRules(Sign):
    def _by_rules(self, name: str, parameter: Any, made: dict[int, Optimizer]) -> Optimizer:
        return self


class TakesAnyState(Sign):
    def update(self, params: Any, grads: Any, state: Any, *, donate: bool = False) -> Any:
        own = {name: state.get(f"velocity/{name}", 0 * x) for name, x in params.items()}
        fitting = {n: v if v.shape == params[n].shape else 0 * params[n] for n, v in own.items()}
        state = {f"velocity/{n}": v.astype(params[n].dtype) for n, v in fitting.items()} | {
            "step": state["step"]
        }
        return super().update(params, grads, state, donate=donate)


class WritesToItsParameter(Sign):
    def moved(self, parameter: Any, velocity: Any) -> Any:
        if type(parameter) is np.ndarray and parameter.flags.writeable:
            parameter -= plain(self.learning_rate) * np.sign(velocity)
            return np.array(parameter)
        return super().moved(parameter, velocity)


class KeepsTheGradient(Sign):
    def step(self, parameter: Any, gradient: Any, slots: Any, count: int) -> Any:
        return self.moved(parameter, gradient), {"velocity": gradient}


class SpoilsTheGradientIfDonated(Sign):
    def update(self, params: Any, grads: Any, state: Any, *, donate: bool = False) -> Any:
        found = super().update(params, grads, state, donate=donate)
        for g in grads.values() if donate else ():
            g[...] = 0.0
        return found


class AnotherIfDonated(Sign):
    def update(self, params: Any, grads: Any, state: Any, *, donate: bool = False) -> Any:
        new, after = super().update(params, grads, state, donate=donate)
        return ({k: x * (1 - 1e-9) for k, x in new.items()} if donate else new), after


class RemembersInItsObject(Sign):
    def step(self, parameter: Any, gradient: Any, slots: Any, count: int) -> Any:
        sums = self.__dict__.setdefault("_sums", {})
        if count == 1:
            sums.clear()
        key = parameter.shape
        sums[key] = sums.get(key, 0 * gradient) + gradient
        return self.moved(parameter, sums[key]), slots


class TakesMemoryInItsOrder(Sign):
    def moved(self, parameter: Any, velocity: Any) -> Any:
        new = super().moved(parameter, velocity)
        if type(new) is not np.ndarray:
            return new
        return (
            new
            + 0.01 * np.sign(velocity).ravel(order="K").reshape(new.shape)
            - 0.01 * (np.sign(velocity))
        )


@dataclass(frozen=True, kw_only=True)
class OnlyNumbers(Sign):
    momentum: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError("momentum must be in [0, 1)")


class LooksAtValues(Sign):
    def moved(self, parameter: Any, velocity: Any) -> Any:
        xp = namespace(parameter=parameter)
        return super().moved(parameter, velocity) if bool(xp.any(velocity != 0)) else parameter


class ForgetsTheDevice(Sign):
    def moved(self, parameter: Any, velocity: Any) -> Any:
        ones = namespace(parameter=parameter).ones(velocity.shape, dtype=velocity.dtype)
        return super().moved(parameter, velocity * ones)


class WorksInPlace(Sign):
    def moved(self, parameter: Any, velocity: Any) -> Any:
        xp = namespace(parameter=parameter)
        parameter -= plain(self.learning_rate) * xp.sign(velocity)
        return parameter


class DrawsItsNoise(Sign):
    def moved(self, parameter: Any, velocity: Any) -> Any:
        return super().moved(parameter, velocity) + 0.01 * float(np.random.rand())


class WholeMatrix(Sign):
    def moved(self, parameter: Any, velocity: Any) -> Any:
        if parameter.ndim == 1:
            velocity = (velocity[:, None] * velocity[None, :]) @ velocity
        return super().moved(parameter, velocity)


def outcome_of(name: str, optimizer: Optimizer) -> Check:
    """Check one promise alone."""
    return {p.name: p for p in PROMISES}[name].check(KIT.subject(optimizer))


WRONG = [
    (NeedsMatrices(), "accepts", "shape (3,): "),
    (StartsAtOne(), "starts_at_zero", "state['velocity/query.W'] must start as zeros"),
    (ForgetsItsSlot(), "slots_are_named", "step returns none, the class names ['velocity']"),
    (Widens(), "kinds_are_kept", "numpy, float32, shape (4, 3): step returns the parameter as"),
    (Spreads(), "kinds_are_kept", "step returns velocity as numpy float64 (4, 3, 1)"),
    (KnowsOnlyNumPy(), "libraries", "array-api-strict, float64: "),
    (ForgetsAFactor(), "libraries", "params['query.W'] differs by 1 of its largest entry"),
    (Ascends(), "descends", "the value goes from"),
    (DecaysAlways(), "rate_of_zero", "query.W moves by"),
    (DividesByZero(), "finite", "float64, gradients times 0, params['query.W'] is not finite"),
    (Overflows(), "late_calls", "OverflowError"),
    (NeverCounts(), "counts", "call step with the counts [1, 1, 1]"),
    (NeverCounts(), "counts", "after three calls state['step'] is 0"),
    (CorrectsByTheCount(), "calls_left_out", "after ten such calls"),
    (FillsUpWithZeros(), "missing_gradients", "without query.b, donate=False"),
    (ClipsByTheGlobalNorm(), "nan_stays_apart", "with NaN in the gradient of query.b, params"),
    (SlowerByPosition(), "parameters_are_apart", "under another name and in another order"),
    (SlowerByPosition(), "parameters_are_apart", "query.b moves otherwise"),
    (IgnoresItsRules(), "rules", "query.W does not move as its rule says"),
    (TakesAnyState(), "strangers_are_refused", "of another name is taken without a word"),
    (WritesToItsParameter(), "inputs_are_kept", "numpy: params['query.W'] was changed"),
    (KeepsTheGradient(), "donated", "lies in the memory of the gradient of query.W"),
    (SpoilsTheGradientIfDonated(), "donated", "wrote to the gradient of query.W"),
    (AnotherIfDonated(), "donated", "with donate=True, params['query.W'] is another"),
    (RemembersInItsObject(), "state_is_all", "gone on with from a file, params['query.W']"),
    (TakesMemoryInItsOrder(), "layouts", "by columns: params['query.W'] is another"),
    (OnlyNumbers(), "schedules", "momentum cannot follow a schedule: TypeError"),
    (OnlyNumbers(), "fields_are_checked", "learning_rate=inf is taken without a word"),
    (OnlyNumbers(), "fields_are_checked", "learning_rate=nan is taken without a word"),
    (GuardsTooLate(), "no_warnings", "gradients times 0: invalid value encountered"),
    (WholeMatrix(), "memory", "takes the memory of"),
    (ForgetsTheDevice(), "kinds_are_kept", "the second device of array-api-strict, float64, shape"),
    (LooksAtValues(), "traceable", "bool() or `if` of an array asks for its value (test_optim"),
]


@pytest.mark.parametrize(
    ("optimizer", "name", "words"), WRONG, ids=[f"{type(o).__name__}-{n}" for o, n, _ in WRONG]
)
def test_a_wrong_optimizer_is_named(
    few_libraries: None, optimizer: Optimizer, name: str, words: str
) -> None:
    outcome = outcome_of(name, optimizer)
    assert not outcome.ok
    assert words in outcome.detail, outcome.detail
    assert "To fix: " in outcome.detail


def test_an_optimizer_that_looks_at_values_cannot_be_traced() -> None:
    if "jax" not in arrays.libraries():
        pytest.skip("jax is not installed")
    assert outcome_of("traceable", Sign())
    assert not outcome_of("traceable", LooksAtValues())


OF_THE_CLASS = {"documentation", "examples", "form"}
"""What the wrong ones lack because they are short."""


def test_every_promise_can_be_broken() -> None:
    broken = {name for _, name, _ in WRONG} | {"traceable"}
    own = {p.name for p in PROMISES} - {p.name for p in SHARED}
    assert own <= broken


def test_one_fault_is_one_broken_promise(few_libraries: None) -> None:
    for optimizer, name in (
        (Ascends(), "descends"),
        (CorrectsByTheCount(), "calls_left_out"),
        (WorksInPlace(), "inputs_are_kept"),
        (DrawsItsNoise(), "no_global_random"),
    ):
        broken = [c.name for c in check_optimizer(optimizer) if not c]
        assert [n for n in broken if n not in OF_THE_CLASS] == [name]


def test_scheduled_numbers_are_taken_from_the_middle(few_libraries: None) -> None:
    """A warm-up that starts at 0 would else hide a step in the wrong direction."""
    rate: Mapping[str, Any] = {"peak": 0.1, "warmup_start": "zero"}
    wrong = dataclasses.replace(
        DecaysAlways(), learning_rate=build("schedulers", "warmup_cosine", **rate)
    )
    assert not outcome_of("rate_of_zero", wrong)
    assert outcome_of("schedules", wrong)
