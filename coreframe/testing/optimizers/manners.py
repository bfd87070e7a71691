"""How an optimizer treats what it is given, and what it asks of the machine."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from coreframe.errors import ArgumentError
from coreframe.state import load_state, save_state
from coreframe.testing import host
from coreframe.testing.arrays import on_numpy
from coreframe.testing.checks import (
    REPEATABLE,
    Promise,
    difference,
    promise,
    recorded_warnings,
)
from coreframe.testing.dtypes import placed
from coreframe.testing.growth import per_row
from coreframe.testing.hyperparameters import unchecked, unscheduled
from coreframe.testing.optimizers.subject import TOLERANCE, Subject, everything, others

PROMISES: list[Promise] = []

MOST_COPIES = 64  # of a parameter, that one update may hold at once


@promise(
    PROMISES,
    "With donate=True the results have the same bits, and gradients stay as they are.",
    fix="Write only to arrays that were given up, and read each before it is overwritten.",
    needs=("usable", "slots_are_named", "inputs_are_kept", REPEATABLE),
)
def donated(subject: Subject) -> Iterator[str]:
    turns = subject.gradients()
    expected = everything(*subject.walk(subject.optimizer, turns))
    own = [{name: np.array(g) for name, g in turn.items()} for turn in turns]
    params: Mapping[str, Any] = {name: np.array(x) for name, x in subject.params.items()}
    state = subject.optimizer.init(params)
    for turn in own:
        params, state = subject.optimizer.update(params, turn, state, donate=True)
    yield from others(everything(params, state), expected, "with donate=True")
    for i, turn in enumerate(own):
        for name, g in turn.items():
            if not np.array_equal(g, turns[i][name]):
                yield f"update {i + 1} or a later one wrote to the gradient of {name}"
            for what, x in everything(params, state).items():
                if isinstance(x, np.ndarray) and np.shares_memory(x, g):
                    yield f"{what} lies in the memory of the gradient of {name}"


@promise(
    PROMISES,
    "The state is all that is kept: saved, loaded and gone on with, it gives the same bits.",
    fix="Keep arrays and numbers in slots and scalars, and nothing in the object or its class.",
    needs=("usable", "no_global_random", "slots_are_named", "inputs_are_kept"),
)
def state_is_all(subject: Subject) -> Iterator[str]:
    turns = subject.gradients(5)
    expected = everything(*subject.walk(subject.optimizer, turns))
    params, state = subject.walk(subject.optimizer, turns[:3])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "state.safetensors")
        save_state(file, state, kind="optimizer")
        again = dataclasses.replace(subject.optimizer)
        state, _ = load_state(file, kind="optimizer", like=again.init(params))
    for turn in turns[3:]:
        params, state = again.update(params, placed(turn, on_numpy, "float64"), state)
    yield from others(everything(params, state), expected, "gone on with from a file")


@promise(
    PROMISES,
    "How an array lies in memory changes nothing: transposed, strided and reversed views.",
    fix="Use no flat memory and no ravel(order='K'); functions of the standard know no layout.",
    needs=("usable", "slots_are_named", "inputs_are_kept", REPEATABLE),
)
def layouts(subject: Subject) -> Iterator[str]:
    expected = everything(*subject.walk(subject.optimizer, subject.gradients()))

    def strided(x: Any) -> Any:
        wide: Any = np.zeros([2 * n for n in x.shape])
        view = wide[(*[slice(None, None, 2)] * x.ndim, ...)]
        view[...] = x
        return view

    def backwards(x: Any) -> Any:
        turn = (*[slice(None, None, -1)] * x.ndim, ...)
        copy: Any = np.array(x[turn])
        return copy[turn]

    def by_columns(x: Any) -> Any:
        return np.array(x, order="F")

    ways = {"by columns": by_columns, "strided": strided, "reversed": backwards}
    for how, laid in ways.items():
        params: Mapping[str, Any] = {name: laid(x) for name, x in subject.params.items()}
        state = subject.optimizer.init(params)
        for turn in subject.gradients():
            grads = {name: laid(g) for name, g in turn.items()}
            params, state = subject.optimizer.update(params, grads, state)
        for name, x in everything(params, state).items():
            if difference(x, expected[name]) > 1e-12:
                yield f"{how}: {name} is another"


@promise(
    PROMISES,
    "Each number among its fields may follow a schedule, and is refused by name until resolved.",
    fix="Annotate it `float | Scheduler`, check it with checks.number, read it with plain in step.",
    needs=("form", "usable", "slots_are_named", "inputs_are_kept", REPEATABLE),
)
def schedules(subject: Subject) -> Iterator[str]:
    def use(optimizer: Any) -> Mapping[str, Any]:
        return everything(*subject.walk(optimizer, subject.gradients(1)))

    yield from unscheduled(subject.optimizer, use)


@promise(
    PROMISES,
    "Its fields are checked when it is made: NaN, infinity and texts are refused by name.",
    fix="In __post_init__ call super().__post_init__(), and checks.number(self, 'name', minimum=0) "
    "for each number.",
    needs=("form",),
)
def fields_are_checked(subject: Subject) -> Iterator[str]:
    yield from unchecked(subject.optimizer)
    try:
        dataclasses.replace(subject.optimizer, learning_rate=-1.0)
    except ArgumentError:
        return
    yield "learning_rate=-1.0 is taken without a word"


@promise(
    PROMISES,
    "step looks at no value on the host: no GPU is waited for, and it runs under jax.jit.",
    fix="Replace `if`, float(), .item() and a mask as an index by xp.where: on a device each look "
    "is a wait.",
    needs=("usable", "slots_are_named", "inputs_are_kept", REPEATABLE, "finite"),
)
def traceable(subject: Subject) -> Iterator[str]:
    yield from host.looks(subject.places, lambda place: subject.one_step(place, "query.W"))
    if "jax" not in subject.places:
        return
    import jax

    place = subject.places["jax"]
    w, g = (
        place(np.asarray(x["query.W"], np.float32))
        for x in (subject.params, subject.gradients()[0])
    )
    state = subject.optimizer.init({"query.W": w})
    slots = {key.partition("/")[0]: x for key, x in state.items() if key != "step"}
    expected, _ = subject.optimizer.step(w, g, slots, 1)
    got, _ = jax.jit(lambda p, g, s: subject.optimizer.step(p, g, s, 1))(w, g, slots)
    if difference(got, expected) > 1e-5:
        yield "the parameter is another under jax.jit"


@promise(
    PROMISES,
    "No warning is raised, with gradients of zero, tiny and huge ones too.",
    fix="Guard the operation before it happens: xp.where around the argument of a division, log "
    "and sqrt, not around the result.",
    needs=("usable", "slots_are_named", "inputs_are_kept", REPEATABLE, "finite"),
)
def no_warnings(subject: Subject) -> Iterator[str]:
    for factor in (1.0, 0.0, 1e-30, 1e15):
        turns = [{name: factor * g for name, g in turn.items()} for turn in subject.gradients()]
        for dtype in TOLERANCE:
            with recorded_warnings() as caught:
                subject.walk(subject.optimizer, turns, dtype=dtype)
            for warning in caught:
                yield f"{dtype}, gradients times {factor:g}: {warning.message}"


@promise(
    PROMISES,
    "The memory of an update grows as the parameter does.",
    fix="Hold no product of a parameter with itself; a matrix method works on matrices alone.",
    needs=("usable", "slots_are_named", "inputs_are_kept", REPEATABLE),
)
def memory(subject: Subject) -> Iterator[str]:
    optimizer = subject.bare

    for what, shape in (("vector", (-1,)), ("square", (-1, 40))):

        def call(n: int, shape: tuple[int, ...] = shape) -> Any:
            params = {"x": np.linspace(1, 2, n).reshape(shape)}
            state = optimizer.init(params)
            return lambda: optimizer.update(params, params, state)

        copies = per_row(call, 400, 1600) / 8
        if copies > MOST_COPIES:
            yield f"each further number of a {what} takes the memory of {copies:.0f} numbers"
