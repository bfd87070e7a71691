"""The one place that installs a log handler: the library logs under ``coreframe.*`` and leaves
what is shown to whoever uses it.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

VARIABLE = "COREFRAME_LOG_LEVEL"
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_ROOT = logging.getLogger("coreframe")


class _Stderr(logging.Handler):
    """Writes to what stderr is now: a progress bar may have taken its place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


@contextmanager
def shown() -> Iterator[None]:
    """Show log lines on stderr while a command runs: warnings, or from COREFRAME_LOG_LEVEL on."""
    name = os.environ.get(VARIABLE, "").strip().upper() or "WARNING"
    if name not in LEVELS:
        raise click.UsageError(
            f"{VARIABLE} must be one of {', '.join(LEVELS)}, got {os.environ[VARIABLE]!r}"
        )
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    before = _ROOT.level
    _ROOT.addHandler(handler)
    _ROOT.setLevel(name)
    try:
        yield
    finally:
        _ROOT.removeHandler(handler)
        _ROOT.setLevel(before)


def louder(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Show more, for ``-v``; what COREFRAME_LOG_LEVEL asks for stays."""
    if value and not os.environ.get(VARIABLE):
        _ROOT.setLevel(logging.INFO)
    return value


def quieter(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Show errors only, for ``-q``; what COREFRAME_LOG_LEVEL asks for stays."""
    if value and not os.environ.get(VARIABLE):
        _ROOT.setLevel(logging.ERROR)
    return value
