"""The command line as a user starts it, one demo that many tests look at, and small data."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coreframe.__main__ import main

Run = Callable[..., subprocess.CompletedProcess[str]]


def without_ours(**variables: str) -> dict[str, str]:
    """Return this process's environment without what steers coreframe or Python."""
    left_out = ("COREFRAME_", "PYTHON", "PYTEST_", "FORCE_COLOR", "COLUMNS")
    env = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return env | {"PYTHONIOENCODING": "utf-8"} | variables


def run_command(*arguments: object, cwd: Path, **variables: str) -> Any:
    """Run ``python -m coreframe`` with some arguments in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "coreframe", *map(str, arguments)],
        cwd=cwd,
        env=without_ours(**variables),
        encoding="utf-8",
        capture_output=True,
        timeout=600,
    )


@pytest.fixture
def clean_environment() -> Callable[..., dict[str, str]]:
    return without_ours


def run_here(*arguments: object, cwd: Path) -> Any:
    """Do the same in this process, which has imported everything already: a second less a run."""
    words = [str(word) for word in arguments]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        for name in os.environ.keys() - without_ours().keys():
            patch.delenv(name)
        patch.setattr(sys, "argv", ["coreframe", *words])
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main()
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


@pytest.fixture
def coreframe_(tmp_path: Path) -> Run:
    """Run the command line in the test's own folder.

    In this process; with variables, which are read while modules are imported, in one of its own.
    """

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        start = run_command if variables else run_here
        return start(*arguments, cwd=tmp_path, **variables)

    return run


@dataclass(frozen=True)
class Demo:
    """A demo that has run: what it printed, and its folder."""

    ran: subprocess.CompletedProcess[str]
    folder: Path

    @property
    def metrics(self) -> dict[str, Any]:
        return json.loads((self.folder / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """``coreframe demo --quick``, run once, with no other option."""
    cwd = tmp_path_factory.mktemp("demo")
    return Demo(run_command("demo", "--quick", cwd=cwd), cwd / "coreframe-demo")


# Data -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vectors:
    """Vectors of two sides, where a map of the queries finds the documents better."""

    queries: np.ndarray
    documents: np.ndarray
    labels: np.ndarray


@pytest.fixture(scope="session")
def vectors() -> Vectors:
    rng = np.random.default_rng(7)
    classes = rng.normal(size=(40, 24))
    labels = np.repeat(np.arange(40), 10)
    documents = classes[labels] + 0.6 * rng.normal(size=(400, 24))
    turn = np.linalg.qr(rng.normal(size=(24, 24)))[0]
    queries = documents @ (0.4 * np.eye(24) + turn) + 0.2 * rng.normal(size=(400, 24))
    return Vectors(queries.astype(np.float32), documents.astype(np.float32), labels)


def translated(rows: int = 500) -> list[dict[str, str]]:
    """Return pairs of texts in two made-up languages: every word has one translation."""
    rng = np.random.default_rng(3)

    def words(count: int) -> list[str]:
        parts = np.array(["ba", "ke", "lo", "mi", "nu", "ra", "se", "ti", "vo", "zu"])
        return ["".join(rng.choice(parts, 3)) for _ in range(count)]

    ours, theirs = words(30), words(30)
    chosen = {tuple(sorted(rng.choice(30, 4, replace=False))) for _ in range(rows)}
    return [
        {"anchor": " ".join(ours[i] for i in c), "positive": " ".join(theirs[i] for i in c)}
        for c in sorted(chosen)
    ]


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    return path


@pytest.fixture
def records() -> list[dict[str, str]]:
    return translated()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A JSONL file of texts in which there is something to learn."""
    return write_lines(tmp_path / "pairs.jsonl", translated())
