"""What the steps of an optimizer promise."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.optimizer import Rule
from coreframe.scheduler import plain
from coreframe.testing.arrays import on_numpy
from coreframe.testing.checks import REPEATABLE, Promise, difference, explain, promise, same_bits
from coreframe.testing.dtypes import placed
from coreframe.testing.optimizers.subject import (
    RATE,
    TOLERANCE,
    Subject,
    everything,
    infinite,
    others,
)

PROMISES: list[Promise] = []


@promise(
    PROMISES,
    "Gradients of zero, tiny and huge ones give finite results, from the first step on.",
    fix="Add an epsilon to every denominator that starts at 0; square no more than needed, since "
    "float32 ends at 3e38.",
    needs=("usable", REPEATABLE, "slots_are_named", "inputs_are_kept"),
)
def finite(subject: Subject) -> Iterator[str]:
    for factor in (0.0, 1e-30, 1e15):
        turns = [{name: factor * g for name, g in turn.items()} for turn in subject.gradients()]
        for dtype in TOLERANCE:
            params, state = subject.walk(subject.optimizer, turns, dtype=dtype)
            yield from infinite(params, state, f"{dtype}, gradients times {factor:g}")


@promise(
    PROMISES,
    "It descends: on a parabola over each parameter, 50 small steps lower the value.",
    fix="Subtract the step: parameter - learning_rate * move.",
    needs=("usable", REPEATABLE, "slots_are_named", "inputs_are_kept", "finite"),
)
def descends(subject: Subject) -> Iterator[str]:
    optimizer = dataclasses.replace(subject.bare, learning_rate=0.01)
    here: Mapping[str, Any] = {name: 3 * x for name, x in subject.params.items()}
    state = optimizer.init(here)
    for _ in range(50):
        slopes = {name: np.asarray(x - subject.params[name]) for name, x in here.items()}
        here, state = optimizer.update(here, slopes, state)
    for name, x in subject.params.items():
        first, last = np.sum((2 * x) ** 2) / 2, np.sum((here[name] - x) ** 2) / 2
        if not last < first:
            yield f"shape {x.shape}: the value goes from {first:.4g} to {last:.4g}"


@promise(
    PROMISES,
    "A learning rate of 0 moves nothing.",
    fix="Multiply every move by the learning rate, weight decay too; a warm-up starts at 0.",
    needs=("usable", REPEATABLE, "slots_are_named", "inputs_are_kept", "finite"),
)
def rate_of_zero(subject: Subject) -> Iterator[str]:
    optimizer = dataclasses.replace(subject.bare, learning_rate=0.0)
    params, _ = subject.walk(optimizer, subject.gradients())
    for name, x in subject.params.items():
        if not np.array_equal(params[name], x):
            yield f"{name} moves by {np.abs(params[name] - x).max():.2g}"


@promise(
    PROMISES,
    "It goes on for long: at call 1,000,000,000 all is finite.",
    fix="Compute powers of the count as expm1(count * log(beta)) or beta**count with beta below 1.",
    needs=("usable", REPEATABLE, "slots_are_named", "inputs_are_kept", "finite"),
)
def late_calls(subject: Subject) -> Iterator[str]:
    turns = subject.gradients()
    params, state = subject.walk(subject.optimizer, turns)
    late = {**state, "step": 10**9 - 1}
    found = subject.optimizer.update(params, placed(turns[0], on_numpy, "float64"), late)
    yield from infinite(*found, "late in a run")


@promise(
    PROMISES,
    "state['step'] counts the calls, and step hears the count from 1.",
    fix="Leave update to the base class, or put state['step'] + 1 into the new state.",
    needs=("usable", REPEATABLE, "slots_are_named", "inputs_are_kept", "finite"),
)
def counts(subject: Subject) -> Iterator[str]:
    heard = []

    class Listening(type(subject.optimizer)):  # type: ignore[misc]
        def step(self, parameter: Any, gradient: Any, slots: Any, count: int) -> Any:
            heard.append(count)
            return super().step(parameter, gradient, slots, count)

    fields = [f.name for f in dataclasses.fields(subject.bare) if f.init]
    listening = Listening(**{name: getattr(subject.bare, name) for name in fields})
    turns = [{"query.W": turn["query.W"]} for turn in subject.gradients()]
    params = {"query.W": subject.params["query.W"]}
    _, state = subject.walk(listening, turns, params=params)
    if heard != [1, 2, 3]:
        yield f"three calls of update call step with the counts {heard}"
    if state.get("step") != 3:
        yield f"after three calls state['step'] is {state.get('step')!r}"


@promise(
    PROMISES,
    "A call that was left out leaves no trace: the next step is as large as without it.",
    fix="`count` counts calls whose step was not finite and was taken back too. What counts "
    "updates, as a bias correction does, belongs in `scalars`.",
    needs=("usable", REPEATABLE, "slots_are_named", "inputs_are_kept", "finite"),
)
def calls_left_out(subject: Subject) -> Iterator[str]:
    optimizer = dataclasses.replace(subject.bare, learning_rate=RATE)
    params = placed(subject.params, on_numpy, "float64")
    turn = placed(subject.gradients()[0], on_numpy, "float64")
    state = optimizer.init(params)
    plainly, _ = optimizer.update(params, turn, state)
    after, _ = optimizer.update(params, turn, {**state, "step": 10})
    for name, x in params.items():
        once, again = (float(np.linalg.norm(np.ravel(y[name] - x))) for y in (plainly, after))
        if abs(once - again) > 0.1 * once:
            yield f"{name} moves by {once:.3g} at first, and by {again:.3g} after ten such calls"


# Each parameter for itself ------------------------------------------------------------------


@promise(
    PROMISES,
    "A parameter without a gradient stays, its slots too; the others go on as with it.",
    fix="Leave update to the base class; an own one walks over grads, and copies what is left.",
    needs=("usable", REPEATABLE, "slots_are_named", "inputs_are_kept", "finite"),
)
def missing_gradients(subject: Subject) -> Iterator[str]:
    turns = subject.gradients(2)
    params, state = subject.walk(subject.optimizer, turns[:1])
    whole = {**turns[1], "query.b": turns[0]["query.b"]}
    for donate in (False, True):
        own = [{k: np.array(x) for k, x in y.items() if k != "step"} for y in (params, state)]
        start = {**own[1], "step": state["step"]}
        part = subject.optimizer.update(own[0], turns[1], start, donate=donate)
        all_of_it = subject.optimizer.update(params, whole, state)
        expected = everything(*all_of_it)
        for name, x in everything(params, state).items():
            if name in ("params['query.b']",) or name.endswith("/query.b']"):
                expected[name] = x
        yield from others(everything(*part), expected, f"without query.b, donate={donate}")


@promise(
    PROMISES,
    "Each parameter is for itself: names, order and what else there is change nothing.",
    fix="Take norms, means and counts over one parameter in step, not over all in update; use no "
    "position and no name.",
    needs=("usable", REPEATABLE, "slots_are_named", "inputs_are_kept", "finite"),
)
def parameters_are_apart(subject: Subject) -> Iterator[str]:
    optimizer, turns = subject.bare, subject.gradients()
    params, _ = subject.walk(optimizer, turns)
    new = {name: f"z{i}.{name[::-1]}" for i, name in enumerate(reversed(list(subject.params)))}

    def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
        return {new[name]: values[name] for name in reversed(list(values))}

    turned = subject.walk(optimizer, [renamed(t) for t in turns], params=renamed(subject.params))
    alone = subject.walk(
        optimizer,
        [{"query.W": turn["query.W"]} for turn in turns],
        params={"query.W": subject.params["query.W"]},
    )
    for name, x in params.items():
        if not same_bits(np.asarray(x), np.asarray(turned[0][new[name]])):
            yield f"{name} moves otherwise under another name and in another order"
    if not same_bits(np.asarray(params["query.W"]), np.asarray(alone[0]["query.W"])):
        yield "query.W moves otherwise when it is alone"


@promise(
    PROMISES,
    "A gradient of NaN spoils its own parameter, and no other.",
    fix="As for parameters_are_apart: nothing may be shared by parameters.",
    needs=("usable", REPEATABLE, "slots_are_named", "inputs_are_kept", "finite"),
)
def nan_stays_apart(subject: Subject) -> Iterator[str]:
    turns = subject.gradients(1)
    spoilt = [{**turns[0], "query.b": np.full(3, np.nan)}]
    expected = everything(*subject.walk(subject.optimizer, turns))
    got = everything(*subject.walk(subject.optimizer, spoilt))
    clean = {name: x for name, x in expected.items() if "query.b" not in name}
    yield from others(got, clean, "with NaN in the gradient of query.b")


@promise(
    PROMISES,
    "Rules hold: a glob and a predicate each override the fields of what they pick.",
    fix="Leave update to the base class, which calls step of self.for_parameter(name, parameter); "
    "read the fields in step, not before.",
    needs=("usable", REPEATABLE, "slots_are_named", "inputs_are_kept", "finite"),
)
def rules(subject: Subject) -> Iterator[str]:
    bare, turns = subject.bare, subject.gradients()
    other = 2 * plain(bare.learning_rate) or RATE
    overrides = {"learning_rate": other}
    picks = (Rule("query.W", overrides), Rule(lambda name, x: x.ndim == 3, overrides))
    ruled, _ = subject.walk(dataclasses.replace(bare, rules=picks), turns)
    as_it_is, _ = subject.walk(bare, turns)
    faster, _ = subject.walk(dataclasses.replace(bare, learning_rate=other), turns)
    for name, x in ruled.items():
        picked = any(rule(name, x) for rule in picks)
        if difference(x, (faster if picked else as_it_is)[name]) > 1e-12:
            yield f"{name} does not move as {'its rule says' if picked else 'without a rule'}"


@promise(
    PROMISES,
    "What does not belong to the parameters is refused: a state of others, a wrong gradient.",
    fix="Leave init, check and update to the base class; an own update calls self.check first.",
    needs=("usable", REPEATABLE, "slots_are_named", "inputs_are_kept", "finite"),
)
def strangers_are_refused(subject: Subject) -> Iterator[str]:
    optimizer = subject.bare
    params = placed(subject.params, on_numpy, "float64")
    state, w = optimizer.init(params), params["query.W"]
    wrong: dict[str, Any] = {
        "a gradient of no parameter": (params, {"query.X": w}, state),
        "a gradient of another shape": (params, {"query.W": w[:2]}, state),
        "a state without a count": (params, {}, {k: x for k, x in state.items() if k != "step"}),
    }
    if len(state) > 1:
        renamed = {("query.V" if name == "query.W" else name): x for name, x in params.items()}
        narrow = {**params, "query.W": w.astype(np.float32)}
        wrong["a state of a parameter of another name"] = (renamed, {}, state)
        wrong["a state of a parameter of another dtype"] = (narrow, {}, state)
    if optimizer.slots:
        wrong["a state of a parameter of another shape"] = ({**params, "query.W": w.T}, {}, state)
    for what, call in wrong.items():
        try:
            optimizer.update(*call)
        except (ArgumentError, ArgumentTypeError):
            continue
        except Exception as error:
            yield f"{what} raises {explain(error)}"
        else:
            yield f"{what} is taken without a word"
