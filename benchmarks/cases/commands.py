"""Whole processes, with limits in seconds: what a user waits for first."""

from __future__ import annotations

import sys

from benchmarks.case import Command

PYTHON = sys.executable


def _demo(quick: bool) -> Command:
    return Command(
        "demo",
        "`coreframe demo`, all of it",
        (PYTHON, "-m", "coreframe", "demo", "--out", "{folder}"),
        limit=5.0,
        needs=("emoji",),
        rounds=1 if quick else 3,
    )


def _import(quick: bool) -> Command:
    return Command(
        "import",
        "`import coreframe`, Python's own start included",
        (PYTHON, "-c", "import coreframe"),
        limit=0.15,
        others={
            "python -c pass": (PYTHON, "-c", "pass"),
            "import torch": (PYTHON, "-c", "import torch"),
        },
        rounds=3 if quick else 11,
    )


def _help(quick: bool) -> Command:
    return Command(
        "help",
        "`coreframe --help`",
        (PYTHON, "-m", "coreframe", "--help"),
        limit=0.4,
        needs=("click",),
        rounds=3 if quick else 11,
    )


COMMANDS = {"demo": _demo, "import": _import, "help": _help}
