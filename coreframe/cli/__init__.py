"""The command line. Results go to stdout, everything else to stderr. One file a family of verbs.

Exit codes: 0 done and better; 1 failed; 2 usage or configuration; 3 trained but not better,
nothing promoted; 4 input data rejected; 130 interrupted; 143 terminated.
"""

from __future__ import annotations

import signal
import sys
import warnings
from typing import Any

import click

import coreframe
from coreframe import registry
from coreframe.cli import (
    apply,
    check,
    compare,
    evaluate,
    export,
    inspect,
    logs,
    look,
    mine,
    new_plugin,
    plugins,
    report,
    signals,
    train,
)
from coreframe.cli.common import BAD_DATA, FAILED, INTERRUPTED, NOT_BETTER, TERMINATED, USAGE
from coreframe.errors import (
    CoreframeError,
    DataError,
    Diverged,
    EmbedderError,
    Interrupted,
    MissingExtra,
    OutputError,
    PluginError,
    PluginWarning,
    with_notes,
)

__all__ = ["BAD_DATA", "FAILED", "INTERRUPTED", "NOT_BETTER", "TERMINATED", "USAGE", "main", "run"]

SIGNALLED = 128
"""The exit code of a process that a signal ends is its number beyond this."""


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code. A user's mistake gets one line, no traceback."""
    words = sys.argv[1:] if arguments is None else arguments
    with warnings.catch_warnings():
        warnings.simplefilter("always", PluginWarning)
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            with logs.shown(), registry.naming_plugins():
                code = main.main(args=words, prog_name="coreframe", standalone_mode=False)
            return code if isinstance(code, int) else 0
        except click.exceptions.Exit as exit_:
            return exit_.exit_code
        except click.ClickException as error:
            error.show()
            return error.exit_code
        except (KeyboardInterrupt, click.Abort) as error:  # click makes the second of the first
            click.echo("interrupted", err=True)
            stopped = error.__cause__ if isinstance(error, click.Abort) else error
            return SIGNALLED + getattr(stopped, "signal", signal.SIGINT)
        except Interrupted as error:
            click.echo(str(error), err=True)
            if error.path is not None:
                click.echo(f"go on with it:\n  {signals.go_on(words, str(error.path))}", err=True)
            return SIGNALLED + (error.signal or signal.SIGINT)
        except CoreframeError as error:
            if "--debug" in words:
                raise
            click.echo(f"error: {with_notes(error)}", err=True)
            if isinstance(error, DataError):
                return BAD_DATA
            failures = OutputError | MissingExtra | PluginError | EmbedderError | Diverged
            return FAILED if isinstance(error, failures) else USAGE
        except Exception as error:  # a plugin's, or ours: one line all the same
            if "--debug" in words:
                raise
            text = f"{type(error).__name__}: {with_notes(error)}"
            click.echo(f"failed: {text} (--debug shows more)", err=True)
            return FAILED


def _show_warning(message: Warning | str, *rest: Any) -> None:
    click.echo(f"warning: {message}", err=True)


HELP = ["-h", "--help"]


@click.group(context_settings={"help_option_names": HELP})
@click.version_option(coreframe.__version__, message="coreframe %(version)s")
def main() -> None:
    """Make embeddings better on your own data, with proof, and without PyTorch."""


for command in (
    train.demo,
    train.train,
    mine.mine,
    evaluate.evaluate,
    compare.compare,
    report.report,
    export.export,
    apply.apply,
    inspect.inspect_,
    look.list_,
    look.show,
    plugins.plugins,
    look.backends,
    check.check,
    new_plugin.new_plugin,
):
    # Each for itself: click keeps the first help option that a command was asked for.
    command.context_settings.setdefault("help_option_names", HELP)
    main.add_command(command)
