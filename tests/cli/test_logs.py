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

import click
import pytest

from coreframe import cli
from coreframe.cli import common

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
    ("words", "level", "lines"),
    [
        ([], "", ["WARNING"]),
        (["-v"], "", ["INFO", "WARNING"]),
        (["-q"], "", []),
        ([], "debug", ["DEBUG", "INFO", "WARNING"]),
        (["-v"], "ERROR", []),
    ],
)
def test_levels(words, level, lines, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COREFRAME_LOG_LEVEL", level)

    @click.command()
    @common.run_options
    def speak(**_: object) -> None:
        log = logging.getLogger("coreframe.somewhere")
        log.debug("a word")
        log.info("a word")
        log.warning("a word")

    monkeypatch.setitem(cli.main.commands, "speak", speak)
    assert cli.run(["speak", *words]) == 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [f"{line} coreframe.somewhere: a word" for line in lines]


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


def test_every_run_has_its_log_and_a_new_run_starts_it_anew(coreframe_, texts, tmp_path) -> None:
    path = tmp_path / "coreframe-run" / "metrics.jsonl"
    ran = coreframe_("train", "pairs.jsonl", *FEW, "--side", "both", "-v")
    assert ran.returncode in (0, 3), ran.stderr
    assert "INFO coreframe.following: fit identity begins" in ran.stderr
    first = path.read_bytes()
    lines = [json.loads(line) for line in first.splitlines()]
    assert all(list(line)[:3] == ["fit", "step", "epoch"] for line in lines)
    names = {name for line in lines for name in line}
    assert {"train/loss", "train/learning_rate", "eval/ndcg@10"} <= names
    assert len({(x["fit"], x["step"], "train/loss" in x) for x in lines}) == len(lines)

    ran = coreframe_("train", "pairs.jsonl", *FEW, "--side", "both", "--overwrite", "--json")
    assert ran.returncode in (0, 3), ran.stderr
    assert ran.stderr == ""
    assert json.loads(ran.stdout)["seed"] == 42
    assert path.read_bytes() == first


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_run_has_its_log(texts, tmp_path, clean_environment) -> None:
    words = ["train", "pairs.jsonl", "--epochs", "100000", "--batch-size", "64", "-q"]
    process = subprocess.Popen(
        [sys.executable, "-m", "coreframe", *words], cwd=tmp_path, env=clean_environment()
    )
    path = tmp_path / "coreframe-run" / "metrics.jsonl"
    deadline = time.monotonic() + 600
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
