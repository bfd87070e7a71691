"""What all parts of a process share: looked at around a use, and brought back.

A component must leave it alone; the kit checks that, and undoes what was changed.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import os
import pickle
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MARK = "coreframe looks whether warning filters are kept"
THREADS = 2  # while a component is looked at, so that a count set to 1 shows


@dataclass(frozen=True)
class Footprint:
    """What a use left behind: sentences by subject, and what it printed."""

    changes: Mapping[str, list[str]]
    printed: str
    error: Exception | SystemExit | None
    """What it raised."""


def footprint(use: Callable[[], Any]) -> Footprint:
    """Call a function in a process whose settings are all unusual, so that every change shows."""
    import threadpoolctl

    error: Exception | SystemExit | None = None
    told = io.StringIO()
    with restored(), np.errstate(all="call", call=_ignored):
        threadpoolctl.threadpool_limits(THREADS)
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(THREADS)
        warnings.filterwarnings("ignore", message=MARK)
        before = _shared_things()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
            try:
                use()
            except (Exception, SystemExit) as problem:
                error = problem
        after = _shared_things()
    changes = {subject: _differences(was, after[subject]) for subject, was in before.items()}
    return Footprint(changes, told.getvalue(), error)


def _ignored(kind: str, flag: int) -> None:
    """Take a floating-point error that is no matter here."""


def _shared_things() -> dict[str, dict[str, Any]]:
    return {
        "random": global_random_state(),
        "warnings": {"filters": list(warnings.filters)},
        "floating point": floating_point_errors(),
        "threads": thread_counts(),
        "surroundings": surroundings(),
    }


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each thing that is another; what is new is none's change."""
    found = []
    for name, was in before.items():
        if (now := after.get(name)) == was:
            continue
        short = len(f"{was}{now}") < 60
        found.append(f"{name} changed from {was} to {now}" if short else f"{name} changed")
    return found


def floating_point_errors() -> dict[str, Any]:
    """Return what NumPy does on a division by zero, an overflow, and so on."""
    return {**np.geterr(), "call": np.geterrcall()}


def thread_counts() -> dict[str, int]:
    """Return the threads of each pool of BLAS and OpenMP, by file, and PyTorch's own."""
    pools = _pools(len(sys.modules)).lib_controllers
    counts = {os.path.basename(pool.filepath): int(pool.num_threads) for pool in pools}
    if torch := sys.modules.get("torch"):
        counts["torch"] = torch.get_num_threads()
    return counts


@functools.lru_cache(maxsize=1)
def _pools(modules: int) -> Any:
    """Return the pools of threads; to look for them takes milliseconds.

    They are looked for anew when there are more modules than before, which may have brought some.
    """
    import threadpoolctl

    return threadpoolctl.ThreadpoolController()


def surroundings() -> dict[str, Any]:
    """Return what else all share, by name."""
    root = logging.getLogger()
    return {
        **{f"the environment variable {name}": value for name, value in os.environ.items()},
        "the names of environment variables": sorted(os.environ),
        "the working directory": os.getcwd(),
        "the level and handlers of the root logger": (root.level, list(root.handlers)),
        "the handler of SIGINT": signal.getsignal(signal.SIGINT),
        "the handler of SIGTERM": signal.getsignal(signal.SIGTERM),
        "the recursion limit": sys.getrecursionlimit(),
        "the print options of NumPy": repr(np.get_printoptions()),
    }


def global_random_state() -> dict[str, Any]:
    """Return the state of the global generators of Python, NumPy and, if it is loaded, PyTorch."""
    states: dict[str, Any] = {
        "random": random.getstate(),
        "numpy.random": pickle.dumps(np.random.get_state()),
    }
    if torch := sys.modules.get("torch"):
        states["torch"] = torch.get_rng_state().numpy().tobytes()
    return states


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Bring the process back to what it was, whatever happens in between."""
    errors, callback = np.geterr(), np.geterrcall()
    environment, folder = dict(os.environ), os.getcwd()
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    python, numbers = random.getstate(), np.random.get_state()
    torch = sys.modules.get("torch")
    torch_state = torch.get_rng_state() if torch else None
    options, depth = np.get_printoptions(), sys.getrecursionlimit()
    main = threading.current_thread() is threading.main_thread()
    numbers_of = (signal.SIGINT, signal.SIGTERM)
    signals = {number: signal.getsignal(number) for number in numbers_of}
    try:
        with warnings.catch_warnings(), _threads_restored():
            yield
    finally:
        np.seterr(**errors)
        np.seterrcall(callback)
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        os.chdir(folder)
        root.setLevel(level)
        root.handlers[:] = handlers
        random.setstate(python)
        np.random.set_state(numbers)
        if torch and torch_state is not None:
            torch.set_rng_state(torch_state)
        np.set_printoptions(**options)
        sys.setrecursionlimit(depth)
        for number, handler in signals.items():
            if main and handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


@contextlib.contextmanager
def _threads_restored() -> Iterator[None]:
    """Bring thread counts back; only what changed is set, for setting it costs."""
    torch = sys.modules.get("torch")
    count = torch.get_num_threads() if torch else 0
    before = thread_counts()
    try:
        yield
    finally:
        after = thread_counts()
        if torch and torch.get_num_threads() != count:
            torch.set_num_threads(count)
        if any(after.get(name, number) != number for name, number in before.items()):
            for pool in _pools(len(sys.modules)).lib_controllers:
                wanted = before.get(os.path.basename(pool.filepath))
                if wanted is not None and pool.num_threads != wanted:
                    pool.set_num_threads(wanted)
