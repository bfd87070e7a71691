"""Everyone who follows a run, told as one: trackers are opened and closed, failures kept apart."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import count
from types import TracebackType
from typing import Any

from coreframe.callbacks import About, Callback, Record, Session, Status, Tracker
from coreframe.errors import Interrupted, PluginWarning
from coreframe.registry import place_of

_log = logging.getLogger(__name__)


class Following(Callback):
    """Tells every callback what happens, one run or several fits of one experiment.

    Used as a context, so that trackers learn how the run ended. A callback that raises is named
    in a PluginWarning, once, and left out from then on. KeyboardInterrupt goes through.

    Raises MissingExtra at once for a tracker whose tool is not installed.
    """

    def __init__(self, callbacks: Sequence[Callback], *, about: About | None = None) -> None:
        for callback in callbacks:
            if isinstance(callback, Tracker):
                callback.check()
        self.about = about
        self._scope: str | None = None
        self._followers = [_Follower(callback) for callback in callbacks]
        self._fits: list[str] = []

    def __enter__(self) -> Following:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        state = "finished"
        if kind is not None:
            stopped = issubclass(kind, KeyboardInterrupt | Interrupted)
            state = "interrupted" if stopped else "failed"
        for follower in self._followers:
            follower.close(state)

    def scope(self, name: str) -> Following:
        """Return the same for one fit, which trackers then call by this name."""
        return _Lent(self, name)

    def on_start(self, run: Any) -> None:
        about = self.about or About(config=describe(run))
        fit = _name(run) if self._scope is None else self._scope
        if fit in self._fits:
            fit = next(n for i in count(2) if (n := f"{fit}_{i}") not in self._fits)
        self._fits.append(fit)
        if self._followers:
            _log.info("fit %s begins", fit)
        for follower in self._followers:
            follower.start(run, about, fit, first=len(self._fits) == 1)

    def on_step(self, status: Status) -> bool:
        answers = [f.tell("on_step", status) for f in self._followers]  # all are told
        return any(answers)

    def on_evaluate(self, status: Status) -> bool:
        answers = [f.tell("on_evaluate", status) for f in self._followers]
        return any(answers)

    def on_end(self, run: Any) -> None:
        for follower in self._followers:
            follower.tell("on_end", run)

    def on_result(self, values: Mapping[str, float]) -> None:
        for follower in self._followers:
            follower.tell("on_result", values)


def following(callbacks: Sequence[Callback]) -> Following:
    """Return the callbacks as one, to be used as a context.

    A single Following stays open for what comes later: whoever made it closes it.
    """
    if len(callbacks) == 1 and isinstance(callbacks[0], Following):
        return _Lent(callbacks[0])
    return Following(callbacks)


class _Lent(Following):
    """A Following of an experiment, as one of its fits uses it: told, and not closed."""

    def __init__(self, owner: Following, name: str | None = None) -> None:
        super().__init__([])
        self._scope = owner._scope if name is None else name
        self._followers, self._fits, self.about = owner._followers, owner._fits, owner.about

    def __exit__(self, *_: Any) -> None:
        return None


class _Follower:
    """One callback, told what happens until it fails."""

    def __init__(self, callback: Callback) -> None:
        self.name = type(callback).__name__
        self.callback = _Tracked(callback) if isinstance(callback, Tracker) else callback
        self.out = False

    def start(self, run: Any, about: About, fit: str, *, first: bool) -> None:
        if isinstance(self.callback, _Tracked):
            self.tell("start", about, fit, first)
        else:
            self.tell("on_start", run)

    def tell(self, event: str, *arguments: Any) -> bool:
        if self.out:
            return False
        try:
            return bool(getattr(self.callback, event)(*arguments))
        except Exception as error:
            self.out = True
            _log.debug("callback %s failed in %s", self.name, event, exc_info=True)
            where, place = "", place_of(error)
            if arguments and isinstance(arguments[0], Status):
                where = f" at step {arguments[0].step}"
            warnings.warn(
                f"the callback {self.name} failed in {event}{where} and is left out from here on: "
                f"{type(error).__name__}: {error}{place and '; '}{place}",
                PluginWarning,
                stacklevel=2,
            )
            return False

    def close(self, state: str) -> None:
        if isinstance(self.callback, _Tracked):
            self.tell("close", state)


class _Tracked(Callback):
    """Turns what happens into the records of a tracker's session."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker
        self.session: Session | None = None
        self.fit, self.first, self.step, self.epoch = "", True, 0, 0

    def start(self, about: About, fit: str, first: bool) -> None:
        if self.session is None:
            with _quiet():
                self.session = self.tracker.open(about)
        self.fit, self.first = fit, first

    def on_step(self, status: Status) -> None:
        self._record("train", status)

    def on_evaluate(self, status: Status) -> None:
        self._record("eval", status)

    def on_result(self, values: Mapping[str, float]) -> None:
        self._log("test", values)

    def close(self, state: str) -> None:
        session, self.session = self.session, None
        if session is not None:
            with _quiet():
                session.close(state)

    def _record(self, kind: str, status: Status) -> None:
        self.step, self.epoch = status.step, status.epoch
        self._log(kind, {f"{kind}/{name}": value for name, value in status.values.items()})

    def _log(self, kind: str, values: Mapping[str, float]) -> None:
        if self.session is not None:
            self.session.log(
                Record(
                    fit=self.fit, first=self.first, kind=kind,
                    step=self.step, epoch=self.epoch, values=values,
                )
            )  # fmt: skip


_quieting = threading.RLock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Send what a tool prints to stderr: stdout is for results. One thread at a time, since the
    stream is the process's: a second one would take stderr for what is to be put back.
    """
    with _quieting, contextlib.redirect_stdout(sys.stderr):
        yield


def named_lines(history: Sequence[Mapping[str, float]], fit: str) -> list[dict[str, Any]]:
    """Return the history of a run as the lines of a ``metrics.jsonl``."""
    lines = []
    for entry in history:
        kind = "train" if "loss" in entry else "eval"
        where = {name: entry[name] for name in ("step", "epoch")}
        values = {f"{kind}/{name}": x for name, x in entry.items() if name not in where}
        lines.append({"fit": fit, **where, **values})
    return lines


def describe(run: Any) -> dict[str, Any]:
    """Return settings as plain values; a component is its class and its fields."""

    def plain(value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Mapping):
            return {str(key): plain(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        if is_dataclass(value) and not isinstance(value, type):
            inner = {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.compare}
            return {"name": type(value).__name__, **inner}
        return type(value).__name__

    if not is_dataclass(run):
        return {}
    # Given parameters are arrays, and no setting.
    return {f.name: plain(getattr(run, f.name)) for f in fields(run) if f.name != "initial"}


def _name(run: Any) -> str:
    """Return what a fit is called: by where it starts."""
    start = getattr(run, "start", None)
    return "identity" if start is None else type(start).__name__.lower()
