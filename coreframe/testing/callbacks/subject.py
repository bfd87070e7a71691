"""What callbacks are checked on: a small run of ``fit``, and all that a callback does in it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from coreframe.callbacks import About, Callback, Record, Session, Status, Tracker
from coreframe.data.pairs import Pairs
from coreframe.errors import MissingExtra
from coreframe.following import Following
from coreframe.run import Run
from coreframe.testing import kit
from coreframe.testing.checks import NotApplicable
from coreframe.testing.process import Footprint, restored
from coreframe.trainer import fit

HOOKS = ("on_start", "on_step", "on_evaluate", "on_end", "on_result")
CONFIG = {"train": {"epochs": 3}, "losses": [{"name": "info_nce", "temperature": 0.05}]}
RESULT = {"test/ndcg@10": 0.5}


@cache
def pairs() -> Pairs:
    rng = np.random.default_rng(6)
    documents = rng.standard_normal((24, 4))
    return Pairs(documents + rng.standard_normal((24, 4)), documents)


@dataclass
class Heard:
    """What a callback did while it was watched."""

    errors: list[tuple[str, Exception]] = field(default_factory=list)
    answers: list[tuple[str, Any]] = field(default_factory=list)

    def told(self, name: str, hook: Callable[..., Any], *given: Any) -> Any:
        try:
            answer = hook(*given)
        except Exception as error:
            self.errors.append((name, error))
            raise
        self.answers.append((name, answer))
        return answer


class Watched(Callback):
    """Passes on what happens, and notes what the other one answers and raises."""

    def __init__(self, callback: Callback, heard: Heard) -> None:
        self.callback, self.heard = callback, heard

    def on_start(self, run: Any) -> None:
        self.heard.told("on_start", self.callback.on_start, run)

    def on_step(self, status: Status) -> bool | None:
        return bool(self.heard.told("on_step", self.callback.on_step, status))

    def on_evaluate(self, status: Status) -> bool | None:
        return bool(self.heard.told("on_evaluate", self.callback.on_evaluate, status))

    def on_end(self, run: Any) -> None:
        self.heard.told("on_end", self.callback.on_end, run)

    def on_result(self, values: Mapping[str, float]) -> None:
        self.heard.told("on_result", self.callback.on_result, values)


class WatchedSession(Session):
    def __init__(self, session: Session, heard: Heard) -> None:
        self.session, self.heard = session, heard

    def log(self, record: Record) -> None:
        self.heard.told("log", self.session.log, record)

    def close(self, state: str) -> None:
        self.heard.told("close", self.session.close, state)


class WatchedTracker(Tracker):
    def __init__(self, tracker: Tracker, heard: Heard) -> None:
        self.tracker, self.heard = tracker, heard

    def check(self) -> None:
        self.tracker.check()

    def open(self, about: About) -> Session:
        return WatchedSession(self.heard.told("open", self.tracker.open, about), self.heard)


class Recorder(Callback):
    """Stands behind the callback, and keeps what it is told; may stop the run as Ctrl-C does."""

    def __init__(self, interrupt: bool = False) -> None:
        self.interrupt = interrupt
        self.values: list[dict[str, float]] = []

    def on_step(self, status: Status) -> None:
        self.values.append({"step": status.step, **status.values})
        if self.interrupt and status.step == 4:
            raise KeyboardInterrupt

    def on_evaluate(self, status: Status) -> None:
        self.values.append({"step": status.step, **status.values})


@dataclass
class Outcome:
    """A run that was followed, or the part of it until it was stopped."""

    runs: list[Run]
    heard: Heard
    told: list[dict[str, float]]
    """What the next callback was told."""

    @property
    def stopped(self) -> bool:
        return any(bool(answer) for name, answer in self.heard.answers if name != "open")


def follow(
    callback: Callback | None,
    folder: Path,
    *,
    seed: int = 0,
    fits: int = 1,
    dev: bool = True,
    ending: str = "finished",
) -> Outcome:
    """Train for nine steps, followed by a callback; with ``fits``, so often in one experiment."""
    heard, recorder = Heard(), Recorder(interrupt=ending == "interrupted")
    watched: list[Callback] = []
    if isinstance(callback, Tracker):
        watched = [WatchedTracker(callback, heard)]
    elif callback is not None:
        watched = [Watched(callback, heard)]
    about = About(name="check", config=CONFIG, folder=folder)
    try:
        following = Following([*watched, recorder], about=about)
    except MissingExtra as error:
        raise NotApplicable(str(error)) from None
    runs: list[Run] = []
    data = pairs()
    with _expected(ending), following as told:
        for number in range(fits):
            part = told.scope(f"fit {number}") if fits > 1 else told
            asked: dict[str, Any] = {"epochs": 3, "batch_size": 8, "seed": seed}
            runs.append(fit(data, data if dev else None, callbacks=[part], **asked))
        if ending == "failed":
            raise Failed
        told.on_result(RESULT)
    return Outcome(runs, heard, recorder.values)


class Failed(Exception):
    """Ends a run in which something else went wrong."""


@contextmanager
def _expected(ending: str) -> Iterator[None]:
    try:
        yield
    except (Failed, KeyboardInterrupt):
        if ending == "finished":
            raise


class Subject(kit.Subject):
    """A callback, and what it is checked on."""

    base = Callback

    @property
    def callback(self) -> Callback:
        found: Callback = self.component
        return found

    @property
    def tracker(self) -> Tracker:
        if not isinstance(self.callback, Tracker):
            raise NotApplicable("it is no Tracker")
        return self.callback

    @cached_property
    def footprint(self) -> Footprint:
        with (
            restored(),
            suppress(Exception),
        ):  # what a tool's import sets is not the tracker's doing
            self.exercise(self.component)
        found = super().footprint
        if isinstance(found.error, NotApplicable):
            raise found.error
        return found

    def exercise(self, component: Any, variant: int = 0) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            outcome = follow(component, Path(folder), seed=variant)
        for _, error in outcome.heard.errors:
            raise error
        (run,) = outcome.runs
        answers = [(name, bool(answer)) for name, answer in outcome.heard.answers]
        return {**run.params, "what the hooks answer": answers, "the history": run.history}
