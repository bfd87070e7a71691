"""One measurement in a fresh process: ``python -m benchmarks.child time|memory NAME [SIDE]``.

It is started by ``benchmarks.run``, with the numbers of threads in its environment, and writes
JSON to the file that ``--to`` names.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from pathlib import Path

from benchmarks import check, floors, measure
from benchmarks.case import LeftOut
from benchmarks.cases import CASES


def same_threads() -> None:
    """Hold this process to as many processors as it has threads: JAX has no other setting."""
    count = floors.threads()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("time", "memory"))
    parser.add_argument("name")
    parser.add_argument("side", nargs="?")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--to", type=Path, required=True)
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    same_threads()
    case = {**CASES, **check.CASES}[given.name](given.quick)
    found: dict[str, object]
    if given.what == "time":
        times, errors, left_out = measure.time_case(case)
        found = {"times": times, "errors": errors, "left_out": left_out}
    else:
        try:
            found = {"extra": measure.extra_memory(case, case.side(given.side))}
        except LeftOut as reason:
            found = {"left_out": str(reason)}
    given.to.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
