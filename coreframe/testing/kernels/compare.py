"""Kernels of a backend: equal to the references, and careful with what they are given."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np

from coreframe import ops
from coreframe.backend import get_backend, is_array, library_of, to_numpy
from coreframe.errors import ArgumentError, UnknownName, nearest
from coreframe.loss import Loss
from coreframe.ops import Op
from coreframe.optimizer import Optimizer
from coreframe.registry import import_target, kernel_table, registry
from coreframe.testing.checks import MOST_PROBLEMS, Check, explain
from coreframe.testing.kernels import components
from coreframe.testing.kernels import inputs as made_up
from coreframe.testing.kernels.inputs import Ground, Trial

THREADS = ("1", "2", "3")
MODES = ("", "plain")
"""Of COREFRAME_KERNELS: all, and those that are not compiled."""

SENTENCE = (
    "It gives what its reference gives, in the same dtype, with the same bits at any number of "
    "threads, and writes to no input."
)
FIX = (
    "Compute the same function; return NotImplemented for inputs that are not served; cut the "
    "work by shapes and not by threads; copy what must not be overwritten (docs/backends.md)."
)


def check_kernels(
    backend: str = "numpy",
    names: Sequence[str] | None = None,
    *,
    inputs: Mapping[str, Sequence[tuple[Any, ...]]] | None = None,
) -> list[Check]:
    """Check every kernel that a backend is offered against its reference, one check a kernel.

    Args:
        backend: as for ``get_backend``. Its library's kernels are those that are checked.
        names: of the kernels to check. Default: all that the registry has.
        inputs: for operations of other packages, by name: tuples of arguments. NumPy arrays among
            them are tried in every layout, those of floats in every dtype. Without any, such an
            operation is listed as not checked, and is broken if it was asked for by name.

    Takes about a minute for NumPy. The environment and the kernels of the process are changed
    while it runs.
    """
    ground = Ground(get_backend(backend))
    registry()  # so that the kernels of third parties are there
    table = kernel_table(ground.library)
    for name in names or ():
        if name not in table:
            hint = nearest(name, table)
            raise UnknownName(f"{ground.library} is offered no kernel {name!r}.{hint}")
    found = []
    for name in table if names is None else names:
        trials = _trials(name, ground, inputs or {})
        if isinstance(trials, str):
            found.append(Check(name, SENTENCE, names is None, f"not checked: {trials}"))
        else:
            found.append(_check(_Watched(name, table[name], ground.library), trials))
    return found


def _trials(
    name: str, ground: Ground, inputs: Mapping[str, Sequence[tuple[Any, ...]]]
) -> Iterator[Trial] | str:
    """Return what a kernel is to be run on, or why there is nothing."""
    if name in made_up.OPERATIONS and name not in inputs:
        return made_up.trials(*made_up.OPERATIONS[name], ground)
    if name == "block_loop":
        return components.block_loop_trials(ground)
    module, _, attribute = name.partition(":")
    owner, _, part = attribute.partition(".")
    try:
        subject = import_target(f"{module}:{owner}")
    except ImportError as error:
        return f"nothing is known about this operation: {error}"
    if isinstance(subject, Op):
        if name in inputs:
            return made_up.trials(subject, made_up.given(inputs[name]), ground)
        return "there are no inputs for this operation; check_kernels(inputs=...) takes some"
    if isinstance(subject, type) and issubclass(subject, Loss | Optimizer):
        settings = components.settings(subject)
        if not settings:
            return f"{owner} cannot be made by its defaults"
        if issubclass(subject, Loss):
            return components.loss_trials(name, part, settings, ground)
        return components.optimizer_trials(settings, ground)
    return f"{owner} is no operation, loss or optimizer"


@dataclass
class _Watched:
    """A kernel that stands alone or among the others, and whose answers are counted."""

    name: str
    target: str
    library: str
    calls: int = 0
    served: int = 0

    @contextlib.contextmanager
    def standing(self, mode: str, threads: str, *, together: bool = False) -> Iterator[None]:
        """Let the kernel run: alone, or with all others."""
        tables = kernel_table if together else self._table
        with (
            _environment(COREFRAME_KERNELS=mode, COREFRAME_THREADS=threads),
            mock.patch.object(ops, "kernel_table", tables),
            mock.patch.object(ops, "_load", self._load),
        ):
            yield

    def _table(self, library: str) -> Mapping[str, str]:
        return {self.name: self.target} if library == self.library else {}

    def _load(self, target: str) -> Callable[..., Any]:
        found: Callable[..., Any] = import_target(target)
        return self._counted(found) if target == self.target else found

    def _counted(self, fast: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **keywords: Any) -> Any:
            result = fast(*args, **keywords)
            self.calls += 1
            self.served += result is not NotImplemented
            return result

        return counted


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _check(kernel: _Watched, trials: Iterator[Trial]) -> Check:
    """Run the trials of one kernel until too many of them fail."""
    found: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            problems = itertools.chain.from_iterable(_problems(kernel, x) for x in trials)
            found.extend(itertools.islice(problems, MOST_PROBLEMS))
        except Exception as error:
            found.append(explain(error))
    if not found and not kernel.served:
        found.append(
            f"it never serves: it answered NotImplemented to all {kernel.calls} calls"
            if kernel.calls
            else "it was never called"
        )
    served = f"served {kernel.served:,} of {kernel.calls:,} calls"
    detail = "\n".join([*found, f"To fix: {FIX}"]) if found else served
    return Check(kernel.name, SENTENCE, not found, detail)


def _problems(kernel: _Watched, trial: Trial) -> Iterator[str]:
    """Run one trial in every way, and yield what is wrong with it."""
    with kernel.standing("off", "1"):
        try:
            wanted, _ = trial.run()
        except ArgumentError:
            return  # which is no call
    known: dict[bool, Mapping[str, bytes]] = {}
    for others, mode in itertools.product((False, True) if trial.together else (False,), MODES):
        where = trial.where + (", with all kernels" if others else "")
        threads = THREADS if trial.threads and kernel.library == "numpy" else THREADS[:1]
        for number in threads:
            before = kernel.served
            try:
                with kernel.standing(mode, number, together=others):
                    got, written = trial.run()
            except Exception as error:
                yield f"{where}: {explain(error)}"
                return
            bits = {name: _numbers(x).tobytes() for name, x in got.items()}
            if written:
                yield f"{where}: it writes to {', '.join(written)}"
                return
            if number == threads[0]:
                if problem := next(_differences(got, wanted, trial), ""):
                    yield f"{where}: {problem}"
                    return
                if bits == known.get(others) or kernel.served == before:
                    break  # it is the same as in the mode before, or the reference
                known[others] = bits
            elif bits != known[others]:
                yield f"{where}: the result has other bits with {number} threads than with 1"
                return


def _differences(got: Mapping[str, Any], wanted: Mapping[str, Any], trial: Trial) -> Iterator[str]:
    """Yield a sentence for each result that is not what the reference gives."""
    if got.keys() != wanted.keys():
        yield f"it returns {', '.join(got)}, the reference {', '.join(wanted)}"
        return
    allowed = min(0.05, trial.roundings * trial.eps * math.sqrt(trial.width))
    for name, expected in wanted.items():
        found = got[name]
        if (kind := _kind(found)) != _kind(expected):
            yield f"{name} is {kind}, but {_kind(expected)} of the reference"
            continue
        x, y = _numbers(found), _numbers(expected)
        if x.dtype.kind != "f":
            if not np.array_equal(x, y):
                yield f"{name} differs in {np.count_nonzero(x != y)} of {x.size} entries"
            continue
        finite = np.isfinite(y)
        if not np.array_equal(
            np.where(finite, 0, y), np.where(np.isfinite(x), 0, x), equal_nan=True
        ):
            yield f"{name} is infinite or NaN elsewhere than that of the reference"
            continue
        x, y = x[finite].astype(np.float64), y[finite].astype(np.float64)
        scale = max(float(np.linalg.norm(y)), trial.floor, float(np.finfo(np.float64).tiny))
        gap = float(np.linalg.norm(x - y)) / scale
        if not gap <= allowed:
            yield f"{name} differs by {gap:.1g} of its norm, where {allowed:.1g} is allowed"


def _kind(x: Any) -> str:
    """Say what something is: type or library, dtype, shape."""
    if not is_array(x):
        return type(x).__name__
    whole = _numbers(x).dtype.kind in "iu"  # of any length
    return f"{library_of(x)} {'integers' if whole else x.dtype} {tuple(x.shape)}"


def _numbers(x: Any) -> Any:
    return np.asarray(to_numpy(x) if is_array(x) else x)
