"""What a loss promises whatever it computes: libraries, devices, memory, threads, inputs."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from coreframe.backend import Array, device_of, library_of, to_numpy
from coreframe.loss import PairwiseLoss
from coreframe.row_loss import RowLoss
from coreframe.state import load_state, save_state
from coreframe.testing import arrays
from coreframe.testing.arrays import Case
from coreframe.testing.checks import NotApplicable, Promise, difference, explain, promise, same_bits
from coreframe.testing.growth import LINEAR, SIDES, SMALL, peak, size, too_fast
from coreframe.testing.losses.subject import NUMBERS, Outcome, Subject, compare, has_dtype

TOLERANCE = {"float64": 1e-9, "float32": 2e-3}

PROMISES: list[Promise] = []


# Libraries and devices ----------------------------------------------------------------------


@promise(
    PROMISES,
    "All array libraries of this machine give the same result, as arrays of their own.",
    fix="Use only functions of the array API standard, from xp = namespace(anchors=...); "
    "np.asarray and float() take arrays out of their library. np.sqrt(2.0) is an array of NumPy "
    "too: write math.sqrt(2.0).",
    needs=NUMBERS,
)
def libraries(subject: Subject) -> Iterator[str]:
    for case, library, place in subject.placed:
        expected = subject.run(case)
        for dtype, tolerance in TOLERANCE.items():
            if not has_dtype(place, dtype) or (dtype == "float32" and subject.overflows):
                continue
            where = f"{case.name}, {library}, {dtype}"
            got = subject.attempt(case, library, dtype)
            if isinstance(got, Exception):
                if not _fails_in_float32(subject, case, library, dtype):  # which dtypes names
                    yield f"{where}: {explain(got)}"
                continue
            home = library_of(place(np.zeros(1, dtype)))
            for name, x in _arrays(got):
                if library_of(x) != home:
                    yield f"{where}: {name} is of {library_of(x)}"
            yield from compare(where, got, expected, tolerance)


def _arrays(outcome: Outcome) -> Iterator[tuple[str, Array]]:
    yield "value", outcome.raw.value
    yield from ((f"grads[{name!r}]", g) for name, g in outcome.raw.grads.items())
    yield from ((f"param_grads[{name!r}]", g) for name, g in outcome.raw.param_grads.items())


def _fails_in_float32(subject: Subject, case: Case, library: str, dtype: str = "float32") -> bool:
    """Say whether a library takes a case in float64, and not in float32."""
    wide, narrow = (subject.outcome(case, library, name) for name in ("float64", dtype))
    return wide is not None and narrow is None


@promise(
    PROMISES,
    "Gradients have the dtype of what they are gradients of, and the value is not wider.",
    fix="Create arrays with dtype=x.dtype (xp.zeros_like(x) does), and give numbers as Python "
    "floats: a NumPy scalar or array of float64 widens all it meets.",
    needs=(*NUMBERS, "libraries"),
)
def dtypes(subject: Subject) -> Iterator[str]:
    for case, library, place in subject.placed:
        for dtype in TOLERANCE:
            if not has_dtype(place, dtype):
                continue
            where, got = f"{case.name}, {library}, {dtype}", subject.attempt(case, library, dtype)
            if isinstance(got, Outcome):
                yield from _other_dtypes(where, got, place(np.zeros(1, dtype)).dtype)
            elif _fails_in_float32(subject, case, library, dtype):
                yield f"{where}: {explain(got)}"
    for case in subject.cases:
        for name, g in subject.run(case, dtype=np.float16).raw.grads.items():
            if g.dtype != np.dtype(np.float16):
                yield f"{case.name}, numpy, float16: grads[{name!r}] is {g.dtype}"


def _other_dtypes(where: str, got: Outcome, wanted: Any) -> Iterator[str]:
    for name, x in _arrays(got):
        if x.dtype != wanted:
            yield f"{where}: {name} is {x.dtype}, expected {wanted}"


@promise(
    PROMISES,
    "It computes on the device of its inputs, and mixes none with another.",
    fix="Give device=device_of(x) wherever an array is created: xp.zeros, xp.arange, xp.asarray "
    "of a list or a NumPy array; xp.zeros_like(x) needs none.",
    needs=(*NUMBERS, "libraries"),
)
def devices(subject: Subject) -> Iterator[str]:
    places = arrays.devices_of(subject.places)
    for case in subject.cases:
        fails = any(_fails_in_float32(subject, case, library) for library in subject.places)
        dtype = np.float64 if fails else np.float32
        for name, place in places.items():
            try:
                outcome = subject.run(case, place, dtype)
            except Exception as error:
                yield f"{case.name}, {name}: {explain(error)}"
                continue
            home = device_of(place(np.zeros(1, np.float32)))
            for what, x in _arrays(outcome):
                if device_of(x) != home:
                    yield f"{case.name}, {name}: {what} is on {device_of(x)}"


# Inputs -------------------------------------------------------------------------------------


@promise(
    PROMISES,
    "Inputs are not written to; read-only arrays are accepted.",
    fix="Write x = x + y in place of x += y, and xp.where in place of assignments to a mask.",
    needs=("usable", "accepts"),
)
def inputs_are_kept(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        for library, place in subject.places.items():
            if library == "jax" or subject.outcome(case, library, "float64") is None:
                continue  # there is nothing to write to in JAX
            batch = subject.batch(case, place)
            before = {name: np.array(to_numpy(getattr(batch, name))) for name in case.floats}
            params = {name: place(x) for name, x in subject.params.items()}
            subject.loss.value_and_grad(batch, params or None)
            for name, x in before.items():
                if not np.array_equal(to_numpy(getattr(batch, name)), x):
                    yield f"{case.name}, {library}: {name} was changed"
        try:
            subject.run(case, arrays.read_only)
        except Exception as error:
            yield f"{case.name}, read-only arrays: {explain(error)}"
    if isinstance(subject.loss, PairwiseLoss):
        rows = arrays.rows_of_similarities(subject.loss.similarity)
        given = [np.array(x) for x in rows]
        subject.loss.row_terms(*given)
        for name, x, y in zip(("similarities", "positive", "negative"), given, rows, strict=True):
            if not np.array_equal(x, y):
                yield f"row_terms changed its argument {name}"


@promise(
    PROMISES,
    "An array whose values have changed is looked at anew.",
    fix="Keep nothing by id(array): the same memory soon holds other numbers, here and on a GPU.",
    needs=(*NUMBERS, "inputs_are_kept", "no_hidden_state"),
)
def looks_anew(subject: Subject) -> Iterator[str]:
    rng = np.random.default_rng(21)
    for case in subject.cases:
        batch = subject.batch(case)
        params = {name: np.array(x) for name, x in subject.params.items()} or None
        subject.loss.value_and_grad(batch, params)
        other = {name: rng.standard_normal(case.floats[name].shape) for name in case.embeddings}
        for name, x in other.items():
            getattr(batch, name)[...] = x
        got = Outcome.of(subject.loss.value_and_grad(batch, params))
        subject.remembered.forget()
        yield from compare(
            f"{case.name}, other values in the same arrays", got, subject.run(case, **other), 1e-9
        )


# Parameters ---------------------------------------------------------------------------------


@promise(
    PROMISES,
    "Its own parameters come from the rng that is given, and project leaves allowed ones alone.",
    fix="Draw in init from rng; project moves parameters to the nearest allowed ones, where a "
    "second call finds nothing to do.",
    needs=("usable", "no_global_random"),
)
def parameters(subject: Subject) -> Iterator[str]:
    first, second = (subject.loss.init(np.random.default_rng(3), arrays.WIDTH) for _ in range(2))
    if not first:
        raise NotApplicable("it has no parameters of its own")
    for name, x in first.items():
        if not same_bits(np.asarray(x), np.asarray(second.get(name))):
            yield f"init gives another {name} for the same rng"
    once = subject.loss.project(dict(subject.params))
    twice = subject.loss.project(dict(once))
    for name, x in once.items():
        if difference(twice.get(name), x) > 1e-12:
            yield f"project changes {name} a second time"


@promise(
    PROMISES,
    "Its own parameters survive a file without pickle, and give the same bits.",
    fix="Return from init arrays of numbers (float32, say) by plain names.",
    needs=NUMBERS,
)
def state_round_trip(subject: Subject) -> Iterator[str]:
    start = {
        name: to_numpy(x)
        for name, x in subject.loss.init(np.random.default_rng(3), arrays.WIDTH).items()
    }
    if not start:
        raise NotApplicable("it has no parameters of its own")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "loss.safetensors"
        save_state(file, start, kind="loss")
        again, _ = load_state(file, kind="loss", like=start)
    for case in subject.cases:
        before, after = (subject.run(case, params=params) for params in (start, again))
        for name, x in before.all.items():
            if not same_bits(np.asarray(x), np.asarray(after.all[name])):
                yield f"{case.name}: {name} is another after the round trip"


# Blocks, threads and memory -----------------------------------------------------------------


@promise(
    PROMISES,
    "The result does not depend on the height of the blocks.",
    fix="See rows_are_independent; a loss that walks blocks itself must add up all of them.",
    needs=(*NUMBERS, "rows_are_independent"),
)
def blocks(subject: Subject) -> Iterator[str]:
    loss: Any = subject.loss
    if not hasattr(loss, "memory_budget"):
        raise NotApplicable("the loss has no memory_budget")
    for case in subject.usable([arrays.tall_case(), arrays.tall_pairs()]):
        for budget in (1, 20_000):
            small = dataclasses.replace(loss, memory_budget=budget)
            where = f"{case.name}, memory_budget={budget}"
            yield from compare(where, subject.run(case, loss=small), subject.run(case), 1e-9)


@promise(
    PROMISES,
    "1, 2 and 3 threads give the same bits.",
    fix="Write to nothing that two blocks share; add partial sums up in the order of the blocks, "
    "never in that in which threads end.",
    needs=(*NUMBERS, "thread_safe", "blocks"),
)
def threads(subject: Subject) -> Iterator[str]:
    loss: Any = subject.loss
    if hasattr(loss, "memory_budget"):
        loss = dataclasses.replace(loss, memory_budget=100_000)  # several blocks
    for case in subject.usable([arrays.tall_case(90), arrays.tall_pairs(90)]):
        found = []
        for count in ("1", "2", "3"):
            os.environ["COREFRAME_THREADS"] = count  # the kit brings it back
            found.append(subject.run(case, loss=loss))
        for number, other in zip((2, 3), found[1:], strict=True):
            for name, x in found[0].all.items():
                if not same_bits(np.asarray(x), np.asarray(other.all[name])):
                    yield f"{case.name}: with {number} threads {name} is another than with 1"


@promise(
    PROMISES,
    "row_terms takes memory with its rows and its columns, never with their square.",
    fix="Build nothing larger than (r, m): no (r, m, m) of all pairs of a row's columns, and no "
    "(r, r, m). Sort a row, or sum up positives and negatives one after the other.",
    needs=("row_terms_shapes", "usable"),
)
def row_terms_memory(subject: Subject) -> Iterator[str]:
    def call(rows: int, columns: int) -> Callable[[], Any]:
        s, positive, negative = arrays.rows_of_similarities(subject.pairwise.similarity)
        given = [np.resize(x, (rows, columns)) for x in (s, positive, negative & ~positive)]
        return lambda: subject.row_terms(*given)

    few, many = SIDES
    for what, size_of in (("rows", lambda n: (n, few)), ("columns", lambda n: (few, n))):
        small, large = (peak(call(*size_of(n))) for n in SIDES)
        if large > SMALL and large > LINEAR * small:
            yield (
                f"{few} {what} take {size(small)}, {many} take {size(large)}: "
                f"{large / small:.1f} times as much, allowed are {LINEAR:.1f}"
            )


@promise(
    PROMISES,
    "Memory grows as it must: with the rows where there are blocks or single rows, else at most "
    "with all pairs; never with rows x rows x width.",
    fix="Do not broadcast (n, 1, d) against (1, m, d): expand |a - b|^2 to products of matrices; "
    "in row_terms build nothing larger than (r, m). A PairwiseLoss gets blocks for nothing.",
    needs=("usable", "accepts", "row_terms_shapes", "row_terms_memory"),
)
def memory(subject: Subject) -> Iterator[str]:
    loss: Any = subject.loss
    linear = isinstance(loss, RowLoss) or hasattr(loss, "memory_budget")
    if hasattr(loss, "memory_budget"):
        loss = dataclasses.replace(loss, memory_budget=1)
    for make in (arrays.tall_pairs, arrays.tall_case):
        case = make()
        taken = subject.usable([case])
        if not taken:
            continue
        graded = taken != [case]

        def call(
            rows: int, width: int, make: Any = make, graded: bool = graded
        ) -> Callable[[], Any]:
            larger = make(rows, width)
            batch = (larger.graded() if graded else larger).batch()
            params = loss.init(np.random.default_rng(13), width) or None
            return lambda: loss.value_and_grad(batch, params)

        for problem in too_fast(call, linear=linear):
            yield f"{case.name}: {problem}"
