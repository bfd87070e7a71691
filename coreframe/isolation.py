"""Run code of a plugin so that it can harm nobody by mistake.

What it prints goes to stderr, what it changes is put back, what takes long is named while it runs,
and the plugin's name stands in what it raises. This is robustness, not a sandbox: a plugin is code
that runs with the rights of the process.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Iterator
from typing import Any, TextIO, cast

from coreframe import process_state
from coreframe.discovery import Plugin, missing_package
from coreframe.errors import PluginError, PluginWarning, text_of

SLOW_SECONDS = 5.0
_STDIN, _STDOUT, _STDERR = 0, 1, 2
_TEXT = 300  # characters of an error that are shown

lock = threading.RLock()
"""One for all that is done with plugins, so that no two can be taken crosswise."""


@contextlib.contextmanager
def isolated(plugin: Plugin, doing: str) -> Iterator[list[str]]:
    """Run the block as the plugin's: ``doing`` says what, such as "importing".

    Yields a list that holds afterwards, in words, what it did. Ours run as they are.
    """
    deeds: list[str] = []
    if plugin.built_in:
        yield deeds
        return
    changed: list[str] = []
    printed: list[str] = []
    before = set(threading.enumerate())
    try:
        with (
            lock,
            _named_while_slow(plugin, doing),
            _descriptors_kept(changed),
            _stdout_caught(printed),
            _warnings_named(plugin),
            process_state.kept(changed),
            _copies_ended(plugin, doing),
        ):
            yield deeds
    finally:
        if changed:
            deeds.append(f"it changed {_listed(changed)}, which is put back")
        if told := "".join(printed):
            print(told, end="" if told.endswith("\n") else "\n", file=sys.stderr)
            deeds.append(f"it printed {told.strip()[:60]!r} to stdout, which went to stderr")
        if started := process_state.threads_since(before):
            deeds.append(f"it started {_listed(started)}, which runs on")


def _listed(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


@contextlib.contextmanager
def _copies_ended(plugin: Plugin, doing: str) -> Iterator[None]:
    """End a copy of the process that the block forked and that comes back from it.

    It would do all that the program does a second time: print, train, write the same files.
    """
    process = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != process:
            text = f"{plugin.title} forked the process while {doing}; the copy is ended"
            os.write(_STDERR, f"warning: {text}\n".encode())
            os._exit(0)


# Slow ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _named_while_slow(plugin: Plugin, doing: str) -> Iterator[None]:
    """Warn while it still runs, from a thread, since it may never end."""
    timer = threading.Timer(SLOW_SECONDS, _say_slow, (plugin, doing))
    timer.name, timer.daemon = process_state.TIMER, True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say_slow(plugin: Plugin, doing: str) -> None:
    message = (
        f"{plugin.title} is still {doing} after {SLOW_SECONDS:g} s; "
        f"COREFRAME_PLUGINS=-{plugin.key} leaves it out"
    )
    try:
        warnings.warn(message, PluginWarning, stacklevel=2)
    except PluginWarning:  # made an error, which nobody would see in this thread
        print(f"warning: {message}", file=sys.stderr, flush=True)


# Warnings -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _warnings_named(plugin: Plugin) -> Iterator[None]:
    """Add the plugin's name to warnings that the block gives in this thread."""
    show, thread, running = warnings.showwarning, threading.get_ident(), True

    def named(message: Any, category: type[Warning], *rest: Any) -> None:
        ours = running and threading.get_ident() == thread
        if ours and not issubclass(category, PluginWarning):  # which names one already
            message = _with_name(message, plugin)
        show(message, category, *rest)

    warnings.showwarning = named  # type: ignore[assignment]
    try:
        yield
    finally:
        running = False
        warnings.showwarning = show


def _with_name(message: Any, plugin: Plugin) -> Any:
    """Return a warning of the same class, or a text if the class makes something else of it."""
    text = f"{text_of(message)} ({plugin.title})"
    try:
        found = type(message)(text)
        return found if str(found) == text else text
    except Exception:
        return text


# Stdin, stdout, stderr ----------------------------------------------------------------------


def _identity(descriptor: int) -> tuple[int, int] | None:
    """Return which file a descriptor stands for, or None: it is closed."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _descriptors_kept(changed: list[str]) -> Iterator[None]:
    """Open stdin and stderr again, if the block closes them or puts others in their place.

    The next file that is opened would have the number of the one that is closed.
    """
    copies = {number: os.dup(number) for number in (_STDIN, _STDERR) if _identity(number)}
    try:
        yield
    finally:
        for number, copy in copies.items():
            if (was := _identity(copy)) is not None:
                if was != _identity(number):
                    os.dup2(copy, number)
                    changed.append(f"file descriptor {number}")
                os.close(copy)


# Stdout -------------------------------------------------------------------------------------


class _Recorder(io.TextIOBase):
    """Stands for a stdout that is no file. A handler that holds it later prints to the real one."""

    def __init__(self, real: TextIO, printed: list[str]) -> None:
        self.real, self.printed = real, printed
        self.recording = True

    def write(self, text: str) -> int:
        if not self.recording:
            return self.real.write(text)
        self.printed.append(text)
        return len(text)

    def flush(self) -> None:
        self.real.flush()

    def __getattr__(self, name: str) -> Any:  # encoding, buffer, ...
        return getattr(self.real, name)


@contextlib.contextmanager
def _stdout_caught(printed: list[str]) -> Iterator[None]:
    """Catch what the block prints, by Python or, through the file descriptor, by anything else."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_descriptor_caught(printed))
        if sys.stdout is not None and not _is_descriptor(sys.stdout):
            recorder = _Recorder(sys.stdout, printed)
            stack.callback(setattr, recorder, "recording", False)
            stack.enter_context(contextlib.redirect_stdout(cast(TextIO, recorder)))
        yield


def _is_descriptor(stream: Any) -> bool:
    try:
        return bool(stream.fileno() == _STDOUT)
    except (OSError, ValueError, AttributeError):
        return False


@contextlib.contextmanager
def _descriptor_caught(printed: list[str]) -> Iterator[None]:
    _flush()
    try:
        file = _nameless_file()
        real = os.dup(_STDOUT)
    except OSError:  # stdout is closed, or there is no place for a file
        yield
        return
    with file:
        os.dup2(file.fileno(), _STDOUT)
        try:
            yield
        finally:
            _flush()
            try:
                os.dup2(real, _STDOUT)
            except OSError as error:
                _stdout_lost(file)
                raise PluginError("it closed all files of the process, stdout too") from error
            os.close(real)
            file.seek(0)
            printed.append(file.read().decode(errors="replace"))


def _stdout_lost(file: Any) -> None:
    """Let what is printed fail from here on: else it would get lost without a word."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, _STDOUT)
    os.dup2(null, file.fileno())  # so that it can be closed
    if null != file.fileno():
        os.close(null)


def _nameless_file() -> Any:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("coreframe-stdout"), "w+b")
    return tempfile.TemporaryFile()


def _flush() -> None:
    """Write out what Python and the C library hold back of stdout."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    with contextlib.suppress(ImportError, OSError, AttributeError, TypeError):
        import ctypes

        ctypes.CDLL(None).fflush(None)


# Errors -------------------------------------------------------------------------------------


def explain(plugin: Plugin, error: BaseException) -> str:
    """Return one line for an exception, with its place inside the plugin and what would help."""
    if isinstance(error, PluginError):  # ours: it happened in no place of the plugin
        return str(error)
    try:
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in _explained(plugin, error))
    except KeyboardInterrupt:
        raise
    except BaseException:  # by what it says of itself
        return "an exception that cannot be shown"


def _explained(plugin: Plugin, error: BaseException) -> str:
    first = next(iter(text_of(error).splitlines()), "")
    first = first if len(first) <= _TEXT else f"{first[:_TEXT]}..."
    text = f"{type(error).__name__}: {first}".removesuffix(": ")
    frames = traceback.extract_tb(error.__traceback__)
    ours = os.path.dirname(__file__) + os.sep
    foreign = [
        frame
        for frame in frames
        if "importlib" not in frame.filename
        and not (frame.filename.startswith(ours) or frame.filename == contextlib.__file__)
    ]
    if foreign:
        text += f" ({os.path.basename(foreign[-1].filename)}:{foreign[-1].lineno})"
    return "; ".join(filter(None, (text, what_helps(plugin, error))))


def what_helps(plugin: Plugin, error: BaseException) -> str:
    """Return where a package that is not there comes from; of other errors, nothing."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    if not isinstance(name, str) or not name:
        return ""
    own = plugin.module.partition(".")[0] == name.partition(".")[0]
    return "" if own else missing_package(plugin, name)
