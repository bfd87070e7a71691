"""The kit for callbacks: what is right passes, and what is wrong is named by the right promise."""

from __future__ import annotations

import os
import random
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from coreframe import checks
from coreframe.callbacks import About, Callback, Record, Session, Status, Tracker
from coreframe.errors import MissingExtra
from coreframe.testing import check_callback, report
from coreframe.testing.callbacks.promises import KIT
from coreframe_callbacks.jsonl import Jsonl


@dataclass(frozen=True, kw_only=True)
class Patience(Callback):
    """Stops a run whose loss has reached a limit.

        stop = loss < limit

    Args:
        limit: what is enough. Default: 0, never reached.
    """

    limit: float = 0.0

    def __post_init__(self) -> None:
        checks.number(self, "limit")

    def on_step(self, status: Status) -> bool | None:
        return status.values.get("loss", 1.0) < self.limit


@dataclass(frozen=True, kw_only=True)
class Lines(Tracker):
    """Writes a line a record.

        line = the values

    Args:
        name: of the file, in the folder of the run. Default: "lines.txt".
    """

    name: str = "lines.txt"

    def check(self) -> None:
        """Nothing is needed."""

    def open(self, about: About) -> Session:
        return Written((about.folder or Path()) / self.name)


class Written(Session):
    def __init__(self, path: Path) -> None:
        self.file: IO[str] = path.open("w", encoding="utf-8")

    def log(self, record: Record) -> None:
        self.file.write(f"{dict(record.named)}\n")

    def close(self, state: str) -> None:
        self.file.write(state)
        self.file.close()


@pytest.mark.parametrize(
    "callback",
    [Patience(), Patience(limit=100.0), Patience(limit=2.5), Lines(), Jsonl(resume=True)],
    ids=lambda x: type(x).__name__,
)
def test_a_right_callback_passes(callback: Callback) -> None:
    found = check_callback(callback)
    assert all(found), report([c for c in found if not c])


def test_every_promise_is_tried() -> None:
    unsaid = {c.name for c in check_callback(Lines()) if not c.checked}
    assert unsaid <= {"examples", "presets", "fields_are_checked"}
    unsaid = {c.name for c in check_callback(Patience()) if not c.checked}
    assert unsaid <= {"examples", "presets", "extra", "closed", "in_the_folder"}


class NeedsATool(Lines):
    def check(self) -> None:
        raise MissingExtra("some-tool", "some", "the callback lines")


def test_a_missing_tool_is_no_broken_promise() -> None:
    found = check_callback(NeedsATool())
    broken = [c for c in found if not c and c.name != "documentation"]
    assert not broken, report(broken)
    (usable,) = (c for c in found if c.name == "usable")
    assert usable.detail.startswith("not checked: the callback lines needs the package 'some-tool'")


# Callbacks that are wrong -------------------------------------------------------------------


class Raises(Patience):
    def on_evaluate(self, status: Status) -> bool | None:
        raise KeyError("ndcg@5")


class Misspelt(Patience):
    def on_steps(self, status: Status) -> None: ...


class OtherArguments(Patience):
    def on_end(self) -> None:  # type: ignore[override]
        ...


class TrackerWithHooks(Lines):
    def on_step(self, status: Status) -> bool | None:
        return None


class AnswersTheLoss(Patience):
    def on_step(self, status: Status) -> Any:
        return status.values["loss"]


class WritesToTheValues(Patience):
    def on_step(self, status: Status) -> bool | None:
        status.values["loss"] = 0.0  # type: ignore[index]
        return None


class WritesToTheData(Patience):
    def on_start(self, run: Any) -> None:
        from coreframe.testing.callbacks import subject

        subject.pairs().queries[...] *= 1.01


class NeedsADevPart(Patience):
    def on_end(self, run: Any) -> None:
        _SCORES.pop()

    def on_evaluate(self, status: Status) -> bool | None:
        _SCORES.append(status.values["ndcg@10"])
        return None

    def on_start(self, run: Any) -> None:
        _SCORES.clear()


_SCORES: list[float] = []


class TakesTheLog(Patience):
    def on_step(self, status: Status) -> bool | None:
        return bool(int(status.values["loss"]) < 0)


class Warns(Patience):
    def on_result(self, values: Mapping[str, float]) -> None:
        warnings.warn("careful", stacklevel=1)


class StaysOpen(Lines):
    def open(self, about: About) -> Session:
        session = Written((about.folder or Path()) / self.name)
        return Unclosed(session)


class Unclosed(Session):
    def __init__(self, session: Written) -> None:
        self.session = session
        _OPEN.append(session)

    def log(self, record: Record) -> None:
        self.session.log(record)

    def close(self, state: str) -> None:
        if state == "finished":
            self.session.close(state)


_OPEN: list[Written] = []


_OVER = threading.Event()


class LeavesAThread(Lines):
    def open(self, about: About) -> Session:
        _OVER.clear()
        threading.Thread(target=_OVER.wait, args=(60,), name="sender").start()
        return super().open(about)


class FailsWhereItFailed(Lines):
    def open(self, about: About) -> Session:
        return OnlyFinishes((about.folder or Path()) / self.name)


class OnlyFinishes(Written):
    def close(self, state: str) -> None:
        self.file.write({"finished": "ok", "interrupted": "no"}[state])
        self.file.close()


class WritesFromCheck(Lines):
    def check(self) -> None:
        Path("probe").write_text("here", encoding="utf-8")


class ChecksByOpening(Lines):
    def check(self) -> None:
        import some_tool_that_is_not_there  # type: ignore[import-not-found] # noqa: F401


class ChecksNothing(Lines):
    def open(self, about: About) -> Session:
        import some_tool_that_is_not_there  # noqa: F401

        return super().open(about)


class OpensAFile(Lines):
    def open(self, about: About) -> Any:
        return Written((about.folder or Path()) / self.name).file


class WritesHere(Lines):
    def open(self, about: About) -> Session:
        return Written(Path(self.name).with_suffix(".log"))


@pytest.mark.parametrize(
    ("callback", "name", "text"),
    [
        (Raises(), "usable", "KeyError: 'ndcg@5'"),
        (Misspelt(), "hooks", "on_steps is never called. Did you mean 'on_step'"),
        (OtherArguments(), "hooks", "on_end cannot be called with one argument"),
        (TrackerWithHooks(), "hooks", "on_step is never called: a Tracker hears"),
        (AnswersTheLoss(), "answers", "on_step answers"),
        (WritesToTheValues(), "only_watches", "the callback after it is told other values"),
        (WritesToTheData(), "only_watches", "adapter.W is another than in a run without it"),
        (NeedsADevPart(), "any_run", "a run without a dev part: in on_end IndexError"),
        (TakesTheLog(), "any_run", "values that are not finite: ValueError"),
        (FailsWhereItFailed(), "any_run", "a run that failed: in close KeyError"),
        (Warns(), "no_warnings", "UserWarning: careful"),
        (WritesFromCheck(), "extra", "check() writes probe"),
        (ChecksByOpening(), "extra", "check() raises ModuleNotFoundError"),
        (ChecksNothing(), "extra", "but open() raises ModuleNotFoundError"),
        (OpensAFile(), "extra", "open() returns TextIOWrapper"),
        (StaysOpen(), "closed", "failed: lines.txt is still open"),
        (LeavesAThread(), "closed", "finished: the thread sender still runs"),
        (WritesHere(), "in_the_folder", "it writes lines.log into the working directory"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_a_wrong_callback_is_named(callback: Callback, name: str, text: str) -> None:
    found = next(p for p in KIT.promises if p.name == name).check(KIT.subject(callback))
    for session in _OPEN:
        session.file.close()
    _OPEN.clear()
    _OVER.set()
    assert not found
    assert text in found.detail
    assert "To fix: " in found.detail


class Draws(Patience):
    def on_step(self, status: Status) -> bool | None:
        random.random()
        np.random.rand()
        return None


def test_the_promises_of_all_components_hold_here_too() -> None:
    broken = {c.name for c in check_callback(Draws()) if not c}
    assert "no_global_random" in broken


class SetsAVariable(Lines):
    def open(self, about: About) -> Session:
        os.environ["SOME_TRACKER"] = "on"
        return super().open(about)


def test_what_it_sets_for_all_is_named_though_a_tools_import_is_not() -> None:
    broken = {c.name: c.detail for c in check_callback(SetsAVariable()) if not c}
    assert "the names of environment variables changed" in broken["surroundings"]
