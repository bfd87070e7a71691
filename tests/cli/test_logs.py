"""What the command line shows of the log, and that the library alone shows nothing."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coreframe import cli

FEW = ("--epochs", "2", "--batch-size", "64", "--set", "curve.enabled=never")


def test_the_library_installs_no_handler() -> None:
    code = """
import logging, coreframe
from coreframe import following, trainer
root = logging.getLogger()
assert root.handlers == [] and root.level == logging.WARNING, root.handlers
ours = logging.getLogger("coreframe")
assert [type(h) for h in ours.handlers] == [logging.NullHandler], ours.handlers
assert ours.level == logging.NOTSET
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert ran.returncode == 0, ran.stderr
    assert (ran.stdout, ran.stderr) == ("", "")


@pytest.mark.parametrize(
    ("words", "level", "shown"),
    [
        ((), "", False),
        (("-v",), "", True),
        ((), "info", True),
        (("-q",), "", False),
        (("-v",), "ERROR", False),
    ],
)
def test_levels(coreframe_, texts, words, level, shown) -> None:
    ran = coreframe_("train", "pairs.jsonl", *FEW, *words, COREFRAME_LOG_LEVEL=level)
    assert ran.returncode in (0, 3), ran.stderr
    assert ("INFO coreframe.following: fit identity begins" in ran.stderr) == shown
    assert "INFO" not in ran.stdout


def test_a_level_that_is_none(coreframe_) -> None:
    ran = coreframe_("list", COREFRAME_LOG_LEVEL="loud")
    assert ran.returncode == 2
    assert "COREFRAME_LOG_LEVEL must be one of DEBUG, INFO" in ran.stderr
    assert "'loud'" in ran.stderr


def test_the_handler_is_gone_after_a_command() -> None:
    ours = logging.getLogger("coreframe")
    before = [*ours.handlers], ours.level
    assert cli.run(["list", "samplers"]) == 0
    assert ([*ours.handlers], ours.level) == before


# The log of a run -----------------------------------------------------------------------------


def test_every_run_has_its_log(coreframe_, texts, tmp_path) -> None:
    words = ("train", "pairs.jsonl", *FEW, "--set", "train.start=auto", "--side", "both")
    ran = coreframe_(*words, "--json")
    assert ran.returncode in (0, 3), ran.stderr
    assert json.loads(ran.stdout)["seed"] == 42
    lines = [
        json.loads(line)
        for line in (tmp_path / "coreframe-run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert all(list(line)[:3] == ["fit", "step", "epoch"] for line in lines)
    names = {name for line in lines for name in line}
    assert {"train/loss", "train/learning_rate", "eval/ndcg@10"} <= names
    assert len({(x["fit"], x["step"], "train/loss" in x) for x in lines}) == len(lines)


def test_a_run_again_starts_its_log_anew(coreframe_, texts, tmp_path) -> None:
    path = tmp_path / "coreframe-run" / "metrics.jsonl"
    assert coreframe_("train", "pairs.jsonl", *FEW, "-q").returncode in (0, 3)
    first = path.read_bytes()
    assert coreframe_("train", "pairs.jsonl", *FEW, "-q", "--overwrite").returncode in (0, 3)
    assert path.read_bytes() == first


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_run_has_its_log(texts, tmp_path, clean_environment) -> None:
    words = ["train", "pairs.jsonl", "--epochs", "100000", "--batch-size", "64", "-q"]
    process = subprocess.Popen(
        [sys.executable, "-m", "coreframe", *words], cwd=tmp_path, env=clean_environment()
    )
    path = tmp_path / "coreframe-run" / "metrics.jsonl"
    deadline = time.monotonic() + 90
    try:
        while not path.exists() or path.read_bytes().count(b"\n") < 4:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert all(json.loads(line)["fit"] for line in path.read_text().splitlines())


def test_a_missing_tracker_is_said_before_any_work(coreframe_, texts, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden" / "sitecustomize.py"
    hidden.parent.mkdir()
    hidden.write_text(
        "import importlib.util as u\n"
        "real = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'wandb' else real(name, *rest)\n"
    )
    ran = coreframe_("train", "pairs.jsonl", "--report-to", "wandb", PYTHONPATH=str(hidden.parent))
    assert ran.returncode == 1
    assert "the callback wandb needs the package 'wandb'" in ran.stderr
    assert "coreframe-ml[wandb]" in ran.stderr
    assert not (tmp_path / "coreframe-run").exists()
