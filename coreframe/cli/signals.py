"""SIGINT and SIGTERM during a run: the step is finished and saved; a second one ends at once."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # at run time it would bring what listing does not need
    from coreframe.checkpoint import Checkpoints

STOPPING = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal came where there is no step to finish, or came twice."""

    def __init__(self, number: int) -> None:
        self.signal = number
        super().__init__(signal.Signals(number).name)


@contextmanager
def stopping(checkpoints: Checkpoints) -> Iterator[None]:
    """Let signals stop a run for the time of a block; the handlers before are put back.

    While a fit is trained, the first signal lets it finish its step and save: it then raises
    ``Interrupted``, with the signal's number. Elsewhere, and the second time, it raises Stopped.
    """
    from coreframe.errors import Interrupted

    came: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1 or not checkpoints.training:
            raise Stopped(number)
        checkpoints.stop()
        name = signal.Signals(number).name
        # No print in a handler: it may be in the middle of one.
        os.write(2, f"\n{name}: stopping after this step; once more stops at once\n".encode())

    before: dict[int, Any] = {}
    try:
        for number in STOPPING:
            before[number] = signal.signal(number, handle)
    except ValueError:  # not the main thread, which alone may hear of signals
        yield
        return
    try:
        yield
    except Interrupted as error:
        error.signal = came[0] if came else None
        raise
    finally:
        for known, handler in before.items():
            signal.signal(known, handler)


def go_on(words: Sequence[str], path: str) -> str:
    """Return the command that goes on with the run that these words began, saved in ``path``."""
    name = "--resume-from-checkpoint"
    moved = any(word.startswith(name) for word in words) and "latest" not in words
    kept: list[str] = []
    given = iter(words)
    for word in given:
        if word == name:
            next(given, None)
        elif word != "--overwrite" and not word.startswith(f"{name}="):
            kept.append(word)
    return shlex.join(["coreframe", *kept, name, path if moved else "latest"])
