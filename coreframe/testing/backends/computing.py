"""What a backend promises about computing: the standard, the operations, training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from coreframe import backend as selector
from coreframe import registry
from coreframe.batch import Batch
from coreframe.testing import checks
from coreframe.testing.backends.standard import FUNCTIONS, OPERATORS
from coreframe.testing.backends.subject import TOLERANCE, Subject
from coreframe.testing.checks import Promise, difference
from coreframe.testing.kernels.inputs import OPERATIONS, Call

PROMISES: list[Promise] = []


# Computing ----------------------------------------------------------------------------------


def _arguments(backend: Any, dtype: str) -> SimpleNamespace:
    """Return what functions of the standard are called with."""
    rng = np.random.default_rng(43)
    x = rng.standard_normal((3, 4)).astype(dtype)
    place: Callable[[Any], Any] = (lambda a: a) if backend is None else backend.asarray
    return SimpleNamespace(
        x=place(x),
        y=place(rng.standard_normal((3, 4)).astype(dtype)),
        p=place(np.abs(x) + np.asarray(0.5, dtype)),
        v=place(np.sort(x[0])),
        m=place(x > 0),
        i=place(np.asarray([[3, 0], [1, 1], [2, 3]], np.int64)),
        rows=place(np.asarray([2, 0, 2], np.int64)),
        odd=place(np.asarray([[np.nan, np.inf, -np.inf, 1.0]], dtype)),
        device=None if backend is None else backend.device,
    )


def agree(subject: Subject, calls: dict[str, Callable[[Any, Any], Any]]) -> Iterator[str]:
    """Yield a sentence for each call whose result is not NumPy's."""
    import array_api_compat.numpy as numpy_xp

    for dtype in subject.floats[:1] if subject.compiles else subject.floats:
        ours, theirs = _arguments(subject.backend, dtype), _arguments(None, dtype)
        theirs.device = "cpu"
        for what, call in calls.items():
            try:
                got = call(subject.backend.xp, ours)
            except Exception as error:
                yield f"{what}, {dtype}: {checks.explain(error)}"
                continue
            wanted = np.asarray(call(numpy_xp, theirs))
            yield from subject.here(got, f"{what}, {dtype}")
            back = np.asarray(subject.backend.to_numpy(got))
            if back.shape != wanted.shape:
                yield f"{what}, {dtype} has shape {back.shape}, expected {wanted.shape}"
            elif back.dtype.kind != wanted.dtype.kind:
                yield f"{what}, {dtype} returns {back.dtype}, expected {wanted.dtype}"
            elif not np.allclose(back, wanted, TOLERANCE[dtype], TOLERANCE[dtype], equal_nan=True):
                yield f"{what}, {dtype} has other values than NumPy"


@checks.promise(
    PROMISES,
    "Every function of the standard that components use gives what NumPy's gives.",
    fix="Wrap the function in the namespace, as array_api_compat does for others, so that it takes "
    "the arguments of the standard.",
    needs=("construction",),
)
def functions(subject: Subject) -> Iterator[str]:
    yield from agree(subject, FUNCTIONS)


@checks.promise(
    PROMISES,
    "Operators and indices give what NumPy's give, and keep the dtype beside plain numbers.",
    fix="Let arrays have the operators of the standard; a Python number takes the array's dtype.",
    needs=("construction",),
)
def operators(subject: Subject) -> Iterator[str]:
    yield from agree(subject, OPERATORS)
    for dtype in subject.floats:
        x = _arguments(subject.backend, dtype).x
        for what, got in (("x + 1", x + 1), ("2.0 * x", 2.0 * x), ("x / 3", x / 3)):
            if got.dtype != x.dtype:
                yield f"{what} is {got.dtype} where x is {x.dtype}"


@checks.promise(
    PROMISES,
    "The core's operations run on it and give what they give on NumPy.",
    fix="Compare the functions of the standard that the operation named here is written with.",
    needs=("construction",),
)
def operations(subject: Subject) -> Iterator[str]:
    dtype = subject.floats[0]
    for name, (op, calls) in OPERATIONS.items():
        call = max(filter(_is_small, calls(np.dtype(dtype))), key=_entries)
        yield from _operation(subject, name, op.reference, call, dtype)


def _entries(call: Call) -> int:
    return max(x.size for x in call.args if isinstance(x, np.ndarray))


def _is_small(call: Call) -> bool:
    """Say whether a call tells something and is quick: some rows and columns, not thousands."""
    return _entries(call) < 250 and all(x.size for x in call.args if isinstance(x, np.ndarray))


def _operation(
    subject: Subject, name: str, reference: Callable[..., Any], call: Call, dtype: str
) -> Iterator[str]:
    place, keywords = subject.backend.asarray, dict(call.keywords)
    theirs = [np.array(x) if isinstance(x, np.ndarray) else x for x in call.args]
    ours = [place(np.array(x)) if isinstance(x, np.ndarray) else x for x in call.args]
    where = f"{name} of {call.where}, {dtype}"
    try:
        found = reference(*ours, **keywords)
    except Exception as error:
        yield f"{where}: {checks.explain(error)}"
        return
    wanted = reference(*theirs, **keywords)
    found, wanted = (call.seen(x) if call.seen else x for x in (found, wanted))
    for got, expected in zip(_parts(found), _parts(wanted), strict=True):
        if selector.is_array(got):
            yield from subject.here(got, where) if not call.seen else ()
            got = subject.backend.to_numpy(got) if not call.seen else got
        if isinstance(got, str) or np.asarray(got).dtype.kind in "bi":
            same = np.array_equal(got, expected)
        else:
            same = difference(got, expected) <= TOLERANCE[dtype]
        if not same:
            yield f"{where} differs from NumPy's"


def _parts(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


@checks.promise(
    PROMISES,
    "An adapter learns on it what it learns on NumPy: loss, gradients and optimizer, three steps.",
    fix="Mend what the promises above name first; then compare one step with NumPy's in float64.",
    needs=("construction",),
)
def training(subject: Subject) -> Iterator[str]:
    dtype = subject.floats[0]
    got, wanted = _learned(subject.backend, dtype), _learned(None, dtype)
    for step, (ours, theirs) in enumerate(zip(got, wanted, strict=True)):
        if difference(ours, theirs, 1e-3) > 10 * TOLERANCE[dtype]:
            yield f"{dtype}: the parameters after step {step + 1} are others"
            return


def _learned(backend: Any, dtype: str) -> list[Any]:
    """Return the parameters of a linear adapter after each of three steps."""
    rng = np.random.default_rng(44)
    place: Callable[[Any], Any] = np.asarray if backend is None else backend.asarray
    leave: Callable[[Any], Any] = np.asarray if backend is None else backend.to_numpy
    queries, documents = (rng.standard_normal((8, 5)).astype(dtype) for _ in range(2))
    built = registry.build
    adapter, loss = (
        built("adapters", "coreframe-ml:linear"),
        built("losses", "coreframe-ml:info_nce"),
    )
    optimizer = built("optimizers", "coreframe-ml:adamw", learning_rate=0.1)
    start = adapter.init(np.random.default_rng(45), 5)
    params = {name: place(np.asarray(x, dtype)) for name, x in start.items()}
    state, x, y = optimizer.init(params), place(queries), place(documents)
    found = []
    for _ in range(3):
        moved, pullback = adapter.forward(params, x)
        result = loss.value_and_grad(Batch.pairs(moved, y))
        grads, _ = pullback(result.grads["anchors"])
        params, state = optimizer.update(params, grads, state)
        found.append(np.concatenate([np.ravel(leave(p)) for p in params.values()]))
    return found
