"""Callbacks: how progress bars, loggers and reports follow a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Status:
    """What a callback sees: where the run stands, and what was just measured."""

    step: int
    steps: int
    epoch: int
    epochs: int
    samples: int
    values: Mapping[str, float]


class Callback:
    """Follows a run. Override what is of interest.

    True from ``on_step`` or ``on_evaluate`` stops the run; the best epoch so far is kept.
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
