"""Callbacks: how progress bars, trackers and a person's own code follow a run.

A ``Callback`` is told what happens. A ``Tracker`` is one that opens a session in a tool
(TensorBoard, MLflow, ...) and writes records to it. ``coreframe.following`` tells them all, and
keeps the run going where one fails.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coreframe.component import Component

__all__ = ["About", "Callback", "Record", "Session", "Status", "Tracker"]


@dataclass(frozen=True)
class Status:
    """What a callback sees: where the run stands, and what was just measured."""

    step: int
    steps: int
    epoch: int
    epochs: int
    samples: int
    values: Mapping[str, float]


class Callback(Component):
    """Follows a run. Override what is of interest.

    True from ``on_step`` or ``on_evaluate`` stops the run; the best epoch so far is kept. One that
    raises is named in a warning and left out from then on; the run goes on.
    """

    def on_start(self, run: Any) -> None:
        """Called once, with the settings of the run."""

    def on_step(self, status: Status) -> bool | None:
        """Called at every logging interval with the loss and scheduled values."""
        return None

    def on_evaluate(self, status: Status) -> bool | None:
        """Called after each evaluation on the dev part, with its metrics; first before a step."""
        return None

    def on_end(self, run: Any) -> None:
        """Called once, also when the run was stopped."""

    def on_result(self, values: Mapping[str, float]) -> None:
        """Called once after an experiment, with what the test queries say: ``test/ndcg@10``, ..."""


# Trackers -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class About:
    """What a tracker may say of a run before it begins."""

    name: str | None = None
    """What the user calls the run; None leaves it to the tool."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Tables of plain values, as in a run.toml."""
    folder: Path | None = None
    """Where the run's results go; None for a ``fit`` in Python."""

    def flat(self) -> dict[str, Any]:
        """Return the configuration by dotted names: ``{"losses.0.temperature": 0.05}``."""
        return dotted(self.config)


def dotted(tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return every value of nested tables and lists by its dotted name."""
    found: dict[str, Any] = {}

    def walk(value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(inner, f"{path}.{key}" if path else str(key))
        elif isinstance(value, list | tuple):
            for i, inner in enumerate(value):
                walk(inner, f"{path}.{i}")
        else:
            found[path] = value

    walk(tables, "")
    return found


@dataclass(frozen=True, kw_only=True)
class Record:
    """One line of a log: what was measured at a step of one fit."""

    fit: str
    """Where the fit starts: "identity", "whitening", ...; one experiment may hold several."""
    first: bool
    """Whether it is the experiment's first fit, whose values need no prefix."""
    kind: str
    """One of "train", "eval", and "test" for the result."""
    step: int
    epoch: int
    values: Mapping[str, float]
    """By their plain names: ``{"train/loss": 0.3}``."""

    @property
    def prefix(self) -> str:
        return "" if self.first or self.kind == "test" else f"{self.fit}/"

    @property
    def named(self) -> dict[str, float]:
        """The values by names that differ from those of every other fit of the run."""
        return {self.prefix + key: value for key, value in self.values.items()}


class Session(ABC):
    """An open log of one run."""

    @abstractmethod
    def log(self, record: Record) -> None:
        """Write one record."""

    @abstractmethod
    def close(self, state: str) -> None:
        """End the log; ``state`` is "finished", "failed" or "interrupted"."""


class Tracker(Callback, ABC):
    """Writes a run to a tool. Subclasses are frozen dataclasses that hold settings only."""

    @abstractmethod
    def check(self) -> None:
        """Raise MissingExtra if the tool is not installed; called before any work."""

    @abstractmethod
    def open(self, about: About) -> Session:
        """Begin a run in the tool."""
