"""Every error and warning class, and the text helpers that make them useful.

A message names the argument, what came, what was expected, and the nearest fix.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "AmbiguousName",
    "ArgumentError",
    "ArgumentTypeError",
    "ArtefactError",
    "BackendUnavailable",
    "CheckpointError",
    "ConfigError",
    "CoreframeError",
    "DataError",
    "Diverged",
    "EmbedderError",
    "ExportError",
    "Interrupted",
    "MissingExtra",
    "MixedArrays",
    "OutputError",
    "PluginError",
    "PluginWarning",
    "UnknownName",
    "nearest",
    "with_notes",
]


class CoreframeError(Exception):
    """The base of all errors that coreframe raises on purpose."""


class ArgumentError(CoreframeError, ValueError):
    """An argument has a value or a shape that cannot work."""


class ArgumentTypeError(CoreframeError, TypeError):
    """An argument is of a type that cannot work: a list for an array, integers for embeddings."""


class MixedArrays(ArgumentError):
    """The arrays of one call live in several libraries or on several devices."""


class UnknownName(CoreframeError, LookupError):
    """No component of that name is registered."""


class AmbiguousName(CoreframeError, LookupError):
    """Several plugins offer that name."""


class BackendUnavailable(CoreframeError, RuntimeError):
    """A known backend cannot run on this machine."""


class MissingExtra(CoreframeError, ImportError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str = "this") -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'coreframe-ml[{extra}]'"
        )


class ConfigError(CoreframeError, ValueError):
    """A configuration has mistakes; all of them are listed."""

    def __init__(self, problems: Sequence[str], source: str = "the configuration") -> None:
        self.problems = tuple(problems)
        count = "1 mistake" if len(self.problems) == 1 else f"{len(self.problems)} mistakes"
        super().__init__(f"{source} has {count}:\n" + "\n".join(f"  - {p}" for p in self.problems))


class DataError(CoreframeError, ValueError):
    """Input data is rejected: a broken line, a missing column, values that are not finite."""


class OutputError(CoreframeError, OSError):
    """Results cannot be written where they were asked for."""


class ExportError(OutputError):
    """An export cannot be written, or does not do what the adapter does when it is read back."""


class ArtefactError(CoreframeError, ValueError):
    """A stored adapter cannot be read: a file is missing, damaged or of another format."""


class CheckpointError(ArtefactError):
    """A checkpoint cannot be written here, cannot be read, or is not of this run."""

    def __init__(self, path: object, array: str | None, reason: str) -> None:
        self.path, self.array, self.reason = path, array, reason
        where = f"{path}" if array is None else f"{path}, array {array!r}"
        super().__init__(f"{where}: {reason}")


class Interrupted(CoreframeError):
    """A run was asked to stop: it finished its step, and says what it saved."""

    def __init__(self, path: object, step: int) -> None:
        self.path, self.step = path, step
        self.signal: int | None = None
        saved = f"saved in {path}" if path is not None else "nothing was saved"
        super().__init__(f"the run was interrupted after step {step}; {saved}")


class Diverged(CoreframeError, ArithmeticError):
    """Loss or gradients were not finite, update after update, so that nothing is learned."""


class EmbedderError(CoreframeError, RuntimeError):
    """Texts cannot be embedded: a model is not there, a service does not answer or not well."""


class PluginError(CoreframeError, RuntimeError):
    """A plugin failed where it cannot be left out, or COREFRAME_STRICT=1 asks for an error."""


class PluginWarning(UserWarning):
    """A plugin was left out, is slow, or did what was put back; everything else works."""


def with_notes(error: BaseException) -> str:
    """Return an error's text with what was noted on its way: the plugin that it comes from."""
    return "; ".join([text_of(error), *getattr(error, "__notes__", ())])


def text_of(error: BaseException) -> str:
    """Return what an error says; where that is a plugin's, saying it may be an error as well."""
    try:
        return str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as second:
        return f"(its text cannot be had: {type(second).__name__})"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest known name, else the list of known names."""
    options = sorted(known)
    if close := difflib.get_close_matches(str(name), options, n=2, cutoff=0.6):
        return " Did you mean " + " or ".join(repr(c) for c in close) + "?"
    return f" Known: {', '.join(options)}." if options else " None is known."
