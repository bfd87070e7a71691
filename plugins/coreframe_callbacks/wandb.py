"""Runs in Weights & Biases, or in trackio, which has the same interface."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from coreframe import checks
from coreframe.callbacks import About, Record, Session, Tracker
from coreframe.errors import ArgumentTypeError, MissingExtra

LIBRARIES = ("wandb", "trackio")
_PROJECTS = {"wandb": "WANDB_PROJECT", "trackio": "TRACKIO_PROJECT_NAME"}
DEFAULT_PROJECT = "coreframe"


@dataclass(frozen=True, kw_only=True)
class Wandb(Tracker):
    """Write a run to Weights & Biases; ``trackio`` is the same for trackio.

    Values are ``train/loss``, ``eval/ndcg@10``, and the result is ``test/ndcg@10``, in W&B's
    summary. W&B draws them over ``step``. The tools' own environment variables hold: WANDB_MODE
    (``offline`` needs no network), WANDB_PROJECT, WANDB_DIR, WANDB_RUN_ID and WANDB_RESUME,
    TRACKIO_DIR, TRACKIO_SPACE_ID and the rest; TRACKIO_PROJECT_NAME names trackio's project.

    Args:
        project: the project's name. Default: None, the environment variable, else "coreframe".
        library: wandb or trackio, whose interface is that of W&B. Default: wandb.

    Shapes: one value a name, at its step.

    Edges: without the library a run does not begin, and the error says what to install. Where it
    cannot log in or be reached, it is named, and the run goes on without. W&B notes that a run
    failed by its exit code; trackio has no such state, so its last value is ``failed``, 0 or 1.

    Cost: one call a record; sending is left to the library's own thread or process.

    References: https://docs.wandb.ai; https://huggingface.co/docs/trackio

    >>> Wandb(project="search").library
    'wandb'
    """

    project: str | None = None
    library: str = "wandb"

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.project is not None and not isinstance(self.project, str):
            raise ArgumentTypeError(f"{name}.project must be a text or None, got {self.project!r}")
        checks.choice(self, "library", LIBRARIES)

    def check(self) -> None:
        if find_spec(self.library) is None:
            raise MissingExtra(self.library, self.library, f"the callback {self.library}")

    def open(self, about: About) -> Session:
        library = importlib.import_module(self.library)
        project = self.project or os.environ.get(_PROJECTS[self.library]) or DEFAULT_PROJECT
        config = dict(about.config)
        if self.library == "wandb":
            return _WandbRun(library.init(project=project, name=about.name, config=config))
        return _TrackioRun(library, library.init(project=project, name=about.name, config=config))


class _WandbRun(Session):
    """W&B wants steps that only grow, so each fit has a ``step`` of its own as an axis."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.prefixes: set[str] = set()

    def log(self, record: Record) -> None:
        if record.kind == "test":
            self.run.summary.update(dict(record.named))
            return
        axis = f"{record.prefix}step"
        if record.prefix not in self.prefixes:
            self.prefixes.add(record.prefix)
            self.run.define_metric(axis, hidden=True)
            for kind in ("train", "eval"):
                self.run.define_metric(f"{record.prefix}{kind}/*", step_metric=axis)
        self.run.log({**record.named, axis: record.step})

    def close(self, state: str) -> None:
        self.run.finish(exit_code={"finished": 0, "failed": 1, "interrupted": 130}[state])


class _TrackioRun(Session):
    def __init__(self, library: Any, run: Any) -> None:
        self.library, self.run = library, run
        self.step = 0

    def log(self, record: Record) -> None:
        self.step = max(self.step, record.step)
        self.run.log(dict(record.named), step=record.step)

    def close(self, state: str) -> None:
        self.run.log({"failed": int(state != "finished")}, step=self.step)
        self.library.finish()  # the run's own would be called again when Python exits
