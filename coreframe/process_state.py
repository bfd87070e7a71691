"""What all parts of a process share and an import may change: read, compared, put back.

Only what is loaded is asked: nothing here imports an array library. What a library sets for itself
alone (a warning filter for its own messages) is left as it is.
"""

from __future__ import annotations

import builtins
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
_NAMED_THREADS = 3
_NUMPY = ("numpy", "numpy.linalg", "numpy.random")
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
    """Put back what the block changes, and add the names of it to ``changed``.

    A part that cannot be put back is an error, after all others have been.
    """
    before = [(part, part.read()) for part in PARTS]
    try:
        yield
    finally:  # no function of Python is named here before they are put back
        failed = None
        for part, was in before:
            try:
                if not part.same(was, part.read()):
                    part.write(was)
                    changed.append(part.name)
            except Exception as error:
                failed = error
        if failed is not None:
            raise failed


def threads_since(before: set[threading.Thread]) -> list[str]:
    """Return what was started since then; it cannot be stopped."""
    started = [t for t in threading.enumerate() if t not in before and t.name != TIMER]
    named = [
        f"the thread {thread.name!r}" + " (the program ends after it)" * (not thread.daemon)
        for thread in started[:_NAMED_THREADS]
    ]
    more = len(started) - len(named)
    return [*named, f"{more} more"] if more else named


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


def _closed(stream: Any) -> bool:
    try:
        return bool(stream.closed)
    except (AttributeError, ValueError):  # there is none, or it was detached
        return True


def _streams() -> list[tuple[str, Any, bool]]:
    """Return the standard streams, and whether they are closed."""
    found = [(name, getattr(sys, name)) for name in ("stdin", "stdout", "stderr")]
    return [(name, stream, _closed(stream)) for name, stream in found]


def _write_streams(was: list[tuple[str, Any, bool]]) -> None:
    for number, (name, stream, was_closed) in enumerate(was):
        now = getattr(sys, name)
        if now is not stream:
            _kept_alive.append(now)
        if was_closed or not _closed(stream):
            setattr(sys, name, stream)
        elif _closed(now):  # the descriptor is there still
            encoding = getattr(stream, "encoding", None)
            again = os.fdopen(number, "w" if number else "r", encoding=encoding, closefd=False)
            setattr(sys, name, again)


def _write_locale(was: str) -> None:
    locale.setlocale(locale.LC_ALL, was)


def _hooks() -> tuple[Any, ...]:
    return (
        sys.excepthook,
        sys.unraisablehook,
        threading.excepthook,
        sys.displayhook,
        sys.breakpointhook,
    )


def _write_hooks(was: tuple[Any, ...]) -> None:
    (
        sys.excepthook,
        sys.unraisablehook,
        threading.excepthook,
        sys.displayhook,
        sys.breakpointhook,
    ) = was


def _tracing() -> tuple[Any, ...]:
    return sys.gettrace(), sys.getprofile(), threading.gettrace(), threading.getprofile()


def _write_tracing(was: tuple[Any, ...]) -> None:
    sys.settrace(was[0])
    sys.setprofile(was[1])
    threading.settrace(was[2])
    threading.setprofile(was[3])


def _write_collection(was: bool) -> None:
    (gc.enable if was else gc.disable)()


# Code ---------------------------------------------------------------------------------------


def _builtins() -> dict[str, Any]:
    return builtins.__dict__.copy()


def _write_builtins(was: dict[str, Any]) -> None:
    builtins.__dict__.update(was)


def _same_names(was: dict[Any, Any], now: dict[Any, Any]) -> bool:
    """Names that came since are their library's; of Python's functions none is used here."""
    return {**now, **was} == now


def _modules() -> dict[str, Any]:
    """Return our modules, and NumPy's; ``None`` stands for one that must not be imported."""
    known = list(sys.modules.items())
    return {name: x for name, x in known if name.partition(".")[0] == "coreframe" or name in _NUMPY}


def _same_modules(was: dict[str, Any], now: dict[str, Any]) -> bool:
    return _same_names(was, now) and None not in now.values()


def _write_modules(was: dict[str, Any]) -> None:
    for name, module in _modules().items():
        if module is None:
            del sys.modules[name]
    sys.modules.update(was)


def _functions() -> dict[tuple[str, str], Any]:
    """Return functions and classes of our modules and NumPy's, by the names they have there."""
    return {
        (module, name): x
        for module, found in _modules().items()
        for name, x in list(getattr(found, "__dict__", {}).items())
        if callable(x)
    }


def _same_functions(was: dict[Any, Any], now: dict[Any, Any]) -> bool:
    return all(now.get(key) is x for key, x in was.items())


def _write_functions(was: dict[tuple[str, str], Any]) -> None:
    for (module, name), x in was.items():
        sys.modules[module].__dict__[name] = x


# Signals, logging, warnings -----------------------------------------------------------------


def _signals() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


def _write_signals(was: dict[int, Any]) -> None:
    for number, handler in was.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def _timers() -> list[tuple[int, Any]]:
    """Return what ``signal.setitimer`` has set, which ends a process that has no handler."""
    read = getattr(signal, "getitimer", None)
    return [(which, read(which)) for which in range(3)] if read else []


def _same_timers(was: list[tuple[int, Any]], now: list[tuple[int, Any]]) -> bool:
    """One that runs goes on, so its time is another."""
    return [any(times) for _, times in was] == [any(times) for _, times in now]


def _write_timers(was: list[tuple[int, Any]]) -> None:
    for which, times in was:
        signal.setitimer(which, *times)


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
    if getattr(was[1], "__module__", "") != "logging":
        logging.captureWarnings(False)  # which it may have switched on
    warnings.showwarning = was[1]
    with warnings.catch_warnings():  # which makes Python forget what it has looked up
        pass


# Arrays -------------------------------------------------------------------------------------


def _loaded(name: str, attribute: str) -> Any:
    """Return a module that is loaded; a stand-in, which lacks what it is asked for, is none."""
    module = sys.modules.get(name)
    return module if hasattr(module, attribute) else None


def _numpy_errors() -> dict[str, str]:
    numpy = _loaded("numpy", "geterr")
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


def _array_defaults() -> dict[str, Any]:
    """Return what torch and JAX do by default, as they do it when they have just been loaded."""
    torch, jax = _loaded("torch", "get_default_dtype"), _loaded("jax", "config")
    return {
        "dtype": str(torch.get_default_dtype()) if torch else "torch.float32",
        "grad": torch.is_grad_enabled() if torch else True,
        "x64": bool(jax.config.jax_enable_x64) if jax else _x64_wanted(),
    }


def _x64_wanted() -> bool:
    return os.environ.get("JAX_ENABLE_X64", "").lower() in ("1", "y", "yes", "t", "true", "on")


def _write_array_defaults(was: dict[str, Any]) -> None:
    torch, jax = _loaded("torch", "get_default_dtype"), _loaded("jax", "config")
    if torch:
        torch.set_default_dtype(getattr(torch, was["dtype"].removeprefix("torch.")))
        torch.set_grad_enabled(was["grad"])
    if jax:
        jax.config.update("jax_enable_x64", was["x64"])


def _torch_random() -> Any:
    """Return the state of torch's global generator, which starts with another one every time."""
    torch = _loaded("torch", "get_rng_state")
    return torch.get_rng_state().numpy().tobytes() if torch else None


def _same_torch_random(was: Any, now: Any) -> bool:
    return was is None or was == now


def _write_torch_random(was: Any) -> None:
    torch: Any = sys.modules["torch"]
    torch.set_rng_state(torch.frombuffer(bytearray(was), dtype=torch.uint8))


def _pools() -> list[Any]:
    """Return the thread pools of the libraries that are loaded."""
    if not {"numpy", "torch", "threadpoolctl"} & sys.modules.keys():
        return []
    import threadpoolctl

    return list(threadpoolctl.ThreadpoolController().lib_controllers)


def _thread_counts() -> dict[str, int]:
    counts = {pool.filepath: pool.num_threads for pool in _pools()}
    if torch := _loaded("torch", "get_num_threads"):  # which sets its pool to its own number
        counts["torch"] = torch.get_num_threads()
    return counts


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
    if torch := _loaded("torch", "get_num_threads"):
        torch.set_num_threads(was.get("torch", _usual_threads()))


PARTS: tuple[Part, ...] = (
    Part("functions of Python", _builtins, _write_builtins, _same_names),
    Part("tracing or profiling", _tracing, _write_tracing),
    Part("loaded modules of coreframe or NumPy", _modules, _write_modules, _same_modules),
    Part("functions of coreframe or NumPy", _functions, _write_functions, _same_functions),
    Part("variables of threads, devices or coreframe", _environment, _write_environment),
    Part("the number of threads", _thread_counts, _write_threads, _same_threads),
    Part("np.seterr", _numpy_errors, _write_numpy_errors),
    Part("the state of random", random.getstate, random.setstate),
    Part("the state of np.random", _numpy_random, _write_numpy_random),
    Part("the state of torch's random", _torch_random, _write_torch_random, _same_torch_random),
    Part("defaults of torch or JAX", _array_defaults, _write_array_defaults),
    Part("the warning filters", _warnings, _write_warnings, _same_warnings),
    Part("logging", _logging, _write_logging, _same_logging),
    Part("timers of signals", _timers, _write_timers, _same_timers),
    Part("signal handlers", _signals, _write_signals),
    Part("the locale", lambda: locale.setlocale(locale.LC_ALL), _write_locale),
    Part("the working directory", _directory, _change_directory),
    Part("the umask", _umask, _write_umask),
    Part("sys.path", lambda: list(sys.path), _write_path),
    Part("sys.stdin, sys.stdout or sys.stderr", _streams, _write_streams),
    Part("a hook of Python such as sys.excepthook", _hooks, _write_hooks),
    Part("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
    Part("garbage collection", gc.isenabled, _write_collection),
)
"""Python's functions come first, since the rest calls them; the environment comes before the
threads, whose usual number depends on it.
"""
