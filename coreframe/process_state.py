"""What all parts of a process share and an import may change: read, compared, put back.

Only what is loaded is asked: nothing here imports an array library. What a library sets for itself
alone (a warning filter for its own messages) is left as it is.
"""

from __future__ import annotations

import contextlib
import gc
import locale
import logging
import operator
import os
import random
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_NUMPY_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
_OPENBLAS_THREADS = 64  # what NumPy's own is built for, however many processors there are
_VARIABLES = re.compile(r"(COREFRAME|CUDA|JAX|XLA|PYTHON)\w+|\w+_NUM_THREADS")
_kept_alive: list[Any] = []  # a stream that is collected closes the descriptor that it shares


@dataclass(frozen=True)
class Part:
    """One thing that is shared: how to read it, how to set it, and when two readings agree."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], None]
    same: Callable[[Any, Any], bool] = operator.eq


@contextlib.contextmanager
def kept(changed: list[str]) -> Iterator[None]:
    """Put back what the block changes, and add the names of it to ``changed``."""
    before = [part.read() for part in PARTS]
    try:
        yield
    finally:
        for part, was in zip(PARTS, before, strict=True):
            if not part.same(was, part.read()):
                part.write(was)
                changed.append(part.name)


def threads_since(before: set[threading.Thread]) -> list[str]:
    """Return what was started since then; it cannot be stopped."""
    return [
        f"the thread {thread.name!r}" + " (the program ends after it)" * (not thread.daemon)
        for thread in threading.enumerate()
        if thread not in before and thread.name != TIMER
    ]


TIMER = "coreframe-still-importing"
"""The name of our own thread, which is there while a plugin is imported."""


# The interpreter ----------------------------------------------------------------------------


def _directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:  # it was deleted
        return None


def _change_directory(was: str | None) -> None:
    if was is not None:
        os.chdir(was)


def _write_path(was: list[str]) -> None:
    sys.path[:] = was


def _umask() -> int:
    """Return which permissions new files lack; it can only be read by setting it."""
    was = os.umask(0o077)
    os.umask(was)
    return was


def _write_umask(was: int) -> None:
    os.umask(was)


def _environment() -> dict[str, str]:
    return {name: x for name, x in os.environ.items() if _VARIABLES.fullmatch(name)}


def _write_environment(was: dict[str, str]) -> None:
    for name in _environment().keys() - was.keys():
        del os.environ[name]
    os.environ.update(was)


def _streams() -> tuple[Any, Any]:
    return sys.stdout, sys.stderr


def _same_streams(was: tuple[Any, Any], now: tuple[Any, Any]) -> bool:
    return was == now and not any(stream is not None and stream.closed for stream in now)


def _write_streams(was: tuple[Any, Any]) -> None:
    for number, name, stream in zip((1, 2), ("stdout", "stderr"), was, strict=True):
        if stream is not None and stream.closed:  # the descriptor is there again
            again = os.fdopen(number, "w", encoding=stream.encoding, closefd=False)
            setattr(sys, name, again)
        elif (now := getattr(sys, name)) is not stream:
            _kept_alive.append(now)
            with contextlib.suppress(ValueError):  # it was detached: the new one stays
                stream.writable()
                setattr(sys, name, stream)


def _write_locale(was: str) -> None:
    locale.setlocale(locale.LC_ALL, was)


def _write_hook(was: Any) -> None:
    sys.excepthook = was


def _write_collection(was: bool) -> None:
    (gc.enable if was else gc.disable)()


# Signals, logging, warnings -----------------------------------------------------------------


def _signals() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _write_signals(was: dict[int, Any]) -> None:
    for number, handler in was.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _logging() -> tuple[int, list[Any]]:
    """Return the state of the root logger and of ours, which a configuration may disable."""
    known = logging.root.manager.loggerDict
    ours = [x for name, x in known.items() if name.partition(".")[0] == "coreframe"]
    loggers = [logging.root, *(x for x in ours if isinstance(x, logging.Logger))]
    states = [(x, list(x.handlers), x.level, x.disabled, x.propagate) for x in loggers]
    return logging.root.manager.disable, states


def _same_logging(was: tuple[int, list[Any]], now: tuple[int, list[Any]]) -> bool:
    """A logger of ours that came since is as it should be."""
    return was[0] == now[0] and all(state in now[1] for state in was[1])


def _write_logging(was: tuple[int, list[Any]]) -> None:
    logging.disable(was[0])
    for logger, handlers, level, disabled, propagate in was[1]:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.disabled, logger.propagate = disabled, propagate


def _warnings() -> tuple[list[Any], Any]:
    return list(warnings.filters), warnings.showwarning


def _added(was: list[Any], now: list[Any]) -> list[Any]:
    return [filter_ for filter_ in now if filter_ not in was]


def _is_narrow(filter_: Any) -> bool:
    """A filter for one message, one module or a library's own category is that library's affair."""
    _, message, category, module, _ = filter_
    return bool(message or module or category.__module__ != "builtins")


def _same_warnings(was: tuple[list[Any], Any], now: tuple[list[Any], Any]) -> bool:
    narrow = all(map(_is_narrow, _added(was[0], now[0])))
    kept_order = [filter_ for filter_ in now[0] if filter_ in was[0]] == was[0]
    return narrow and kept_order and was[1] is now[1]


def _write_warnings(was: tuple[list[Any], Any]) -> None:
    narrow = [x for x in _added(was[0], list(warnings.filters)) if _is_narrow(x)]
    warnings.filters[:] = [*narrow, *was[0]]  # type: ignore[index]
    warnings.showwarning = was[1]
    with warnings.catch_warnings():  # which makes Python forget what it has looked up
        pass


# Arrays -------------------------------------------------------------------------------------


def _numpy_errors() -> dict[str, str]:
    numpy = sys.modules.get("numpy")
    return dict(numpy.geterr()) if numpy else _NUMPY_ERRORS


def _write_numpy_errors(was: dict[str, str]) -> None:
    sys.modules["numpy"].seterr(**was)


def _numpy_random() -> Any:
    """Return the state of the global generator, or None: not loaded, or never seeded."""
    numpy = sys.modules.get("numpy.random")
    generator = getattr(getattr(numpy, "mtrand", None), "_rand", None)
    if generator is None or getattr(generator._bit_generator, "_seed_seq", None) is not None:
        return None
    name, keys, *rest = generator.get_state()
    return name, keys.tobytes(), *rest


def _write_numpy_random(was: Any) -> None:
    numpy: Any = sys.modules["numpy"]
    if was is None:
        numpy.random.seed()
    else:
        name, keys, *rest = was
        numpy.random.set_state((name, numpy.frombuffer(keys, dtype=numpy.uint32), *rest))


def _torch_dtype() -> Any:
    torch = sys.modules.get("torch")
    return str(torch.get_default_dtype()) if torch else "torch.float32"


def _write_torch_dtype(was: str) -> None:
    torch: Any = sys.modules["torch"]
    torch.set_default_dtype(getattr(torch, was.removeprefix("torch.")))


def _pools() -> list[Any]:
    """Return the thread pools of the libraries that are loaded."""
    if not {"numpy", "torch", "threadpoolctl"} & sys.modules.keys():
        return []
    import threadpoolctl

    return list(threadpoolctl.ThreadpoolController().lib_controllers)


def _thread_counts() -> dict[str, int]:
    return {pool.filepath: pool.num_threads for pool in _pools()}


def _usual_threads() -> int:
    """Return the number of threads that a pool starts with."""
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        if (text := os.environ.get(name, "")).isdigit() and int(text) > 0:
            return int(text)
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(allowed, _OPENBLAS_THREADS)


def _same_threads(was: dict[str, int], now: dict[str, int]) -> bool:
    """A pool that came with the import should be as it starts."""
    return all(
        count == was[path] if path in was else count >= _usual_threads()
        for path, count in now.items()
    )


def _write_threads(was: dict[str, int]) -> None:
    for pool in _pools():
        pool.set_num_threads(was.get(pool.filepath, _usual_threads()))


PARTS: tuple[Part, ...] = (
    Part("variables of threads, devices or coreframe", _environment, _write_environment),
    Part("the number of threads", _thread_counts, _write_threads, _same_threads),
    Part("np.seterr", _numpy_errors, _write_numpy_errors),
    Part("the state of random", random.getstate, random.setstate),
    Part("the state of np.random", _numpy_random, _write_numpy_random),
    Part("torch's default dtype", _torch_dtype, _write_torch_dtype),
    Part("the warning filters", _warnings, _write_warnings, _same_warnings),
    Part("logging", _logging, _write_logging, _same_logging),
    Part("signal handlers", _signals, _write_signals),
    Part("the locale", lambda: locale.setlocale(locale.LC_ALL), _write_locale),
    Part("the working directory", _directory, _change_directory),
    Part("the umask", _umask, _write_umask),
    Part("sys.path", lambda: list(sys.path), _write_path),
    Part("sys.stdout or sys.stderr", _streams, _write_streams, _same_streams),
    Part("sys.excepthook", lambda: sys.excepthook, _write_hook),
    Part("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Part("garbage collection", gc.isenabled, _write_collection),
)
"""The environment comes first: the usual number of threads depends on it."""
