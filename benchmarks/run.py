"""Cases in fresh processes, and what is kept of them: ratios, bytes, errors; never bare times."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import util
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import measure
from benchmarks.case import US, Compare
from benchmarks.cases import CASES, growth
from benchmarks.cases.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
Record = dict[str, Any]
Say = Callable[[str], None]

LONGEST = 3600.0
"""Seconds after which a process is given up."""


def child_environment(threads: int) -> dict[str, str]:
    """Return an environment that gives every library the same number of threads."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("COREFRAME_")}
    counts = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return kept | dict.fromkeys((*counts, "COREFRAME_THREADS"), str(threads))


def child(threads: int, *arguments: str) -> Record:
    """Run ``benchmarks.child`` and return what it found, or why it ended."""
    with tempfile.TemporaryDirectory() as folder:
        to = Path(folder) / "found.json"
        command = [sys.executable, "-m", "benchmarks.child", *arguments, "--to", str(to)]
        try:
            ended = subprocess.run(
                command,
                cwd=ROOT,
                env=child_environment(threads),
                capture_output=True,
                text=True,
                timeout=LONGEST,
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"took longer than {LONGEST:.0f} s"}
        if ended.returncode == 0 and to.exists():
            found: Record = json.loads(to.read_text(encoding="utf-8"))
            return found
        if ended.returncode < 0:
            return {"failed": f"the process was ended by signal {-ended.returncode}"}
        lines = ended.stderr.strip().splitlines() or ["it said nothing"]
        return {"failed": lines[-1][:200]}


def run_case(name: str, *, quick: bool, threads: int, say: Say) -> Record:
    """Return the record of one case: its rows, and its sides beside coreframe's time."""
    case = CASES[name](quick)
    options = ("--quick",) if quick else ()
    say(f"{case.name}: {case.what}")
    found = child(threads, "time", name, *options)
    if "failed" in found:
        raise RuntimeError(f"{name}: {found['failed']}")
    times, left_out = found["times"], found["left_out"]
    sides: dict[str, Record] = {}
    for side in case.sides:
        if side.name not in times:
            say(f"  left out: {side.name}: {left_out[side.name]}")
            continue
        sides[side.name] = {"error": found["errors"].get(side.name)}
        if case.memory and side.memory:
            memory = child(threads, "memory", name, side.name, *options)
            sides[side.name]["extra"] = memory.get("extra")
            for reason in ("failed", "left_out"):
                if reason in memory:
                    say(f"  memory of {side.name} is missing: {memory[reason]}")
    first = case.sides[0].name
    for side, record in sides.items():
        record["time"] = median(times[side]) / median(times[first])
    return {
        "name": name,
        "what": case.what,
        "n": case.n,
        "rounds": len(times[first]),
        "note": case.note,
        "accuracy": case.accuracy if case.exact else None,
        "sides": sides,
        "rows": [row for compare in case.rows if (row := compared(compare, times))],
        "left_out": left_out,
        "seconds": median(times[first]),  # taken out by `without_seconds`
    }


def compared(compare: Compare, times: Mapping[str, Sequence[float]]) -> Record | None:
    """Return one line of the table, or None where a side of it did not run."""
    names = (compare.to,) if isinstance(compare.to, str) else compare.to
    to = measure.fastest(times, names)
    if to is None or not times.get(compare.ours):
        return None
    return {
        "ours": compare.ours,
        "to": to,
        "floor": not isinstance(compare.to, str),
        "ratio": measure.ratio(times, compare.ours, to, compare.minus),
        "at_most": compare.at_most,
        "goal": compare.goal,
        "memory_mib": compare.memory_mib,
        "memory_share": compare.memory_share,
    }


def run_group(name: str, *, quick: bool, threads: int, say: Say) -> Record:
    """Return the cases of a growing n, with times beside coreframe's at the first."""
    cases = [
        run_case(f"{name}/{n}", quick=quick, threads=threads, say=say)
        for n in growth.sizes(name, quick)
    ]
    first = cases[0]["seconds"]
    lines: dict[str, list[Record]] = {}
    for case in cases:
        for side, record in case["sides"].items():
            point = {"n": case["n"], "time": record["time"] * case["seconds"] / first}
            lines.setdefault(side, []).append(point | {"extra": record.get("extra")})
    gone = {f"{s}, n = {c['n']:,}": why for c in cases for s, why in c["left_out"].items()}
    return {"name": name, "what": growth.GROUPS[name], "lines": lines, "left_out": gone}


def run_command(name: str, *, quick: bool, threads: int, say: Say) -> Record:
    """Return a command's share of its limit, and its time over that of others."""
    command = COMMANDS[name](quick)
    say(f"{command.name}: {command.what}")
    for library in command.needs:
        if util.find_spec(library) is None:
            raise RuntimeError(f"{name}: {library} is not installed")
    sides = {US: command.arguments, **command.others}
    times: dict[str, list[float]] = {side: [] for side in sides}
    left_out: dict[str, str] = {}
    for number in range(command.rounds + 1):  # the first reads files that are not yet in memory
        for side, arguments in sides.items():
            if side in left_out:
                continue
            with tempfile.TemporaryDirectory() as folder:
                filled = [x.replace("{folder}", folder + "/out") for x in arguments]
                start = time.perf_counter()
                ended = subprocess.run(
                    filled, cwd=folder, env=child_environment(threads), capture_output=True
                )
                took = time.perf_counter() - start
            if ended.returncode:
                left_out[side] = f"ended with {ended.returncode}"
                say(f"  left out: {side}: {left_out[side]}")
            elif number:
                times[side].append(took)
    if US in left_out:
        raise RuntimeError(f"{name}: {left_out[US]}")
    middle = median(times[US])
    rows = [compared(Compare(side), times) for side in command.others if times[side]]
    return {
        "name": name,
        "what": command.what,
        "limit": command.limit,
        "share": middle / command.limit,
        "rows": rows,
        "left_out": left_out,
    }


def without_seconds(record: Record) -> Record:
    return {key: value for key, value in record.items() if key != "seconds"}


def run_all(names: Sequence[str], *, quick: bool, threads: int, say: Say) -> Record:
    """Run what is named, in order; what fails is recorded and does not stop the others."""
    cases, groups, commands, failed = [], [], [], {}
    for name in names:
        try:
            if name in COMMANDS:
                commands.append(run_command(name, quick=quick, threads=threads, say=say))
            elif name in growth.GROUPS:
                groups.append(run_group(name, quick=quick, threads=threads, say=say))
            else:
                record = run_case(name, quick=quick, threads=threads, say=say)
                cases.append(without_seconds(record))
        except RuntimeError as error:
            failed[name] = str(error)
            say(f"  FAILED: {error}")
    return {"cases": cases, "groups": groups, "commands": commands, "failed": failed}
