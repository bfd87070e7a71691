"""Run the benchmarks: ``python -m benchmarks [NAME ...] [--quick] [--threads N] [--merge]``.

Without names everything runs, and docs/benchmarks.json, the plots and docs/benchmarks.md are
written. With names only these run and are printed; ``--merge`` puts them among the others there.
``check`` is the regression check of CI, ``render`` writes the page from the JSON again.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from benchmarks import check, gpu, machine, plot, render, run
from benchmarks.cases import NAMES

JSON = run.ROOT / "docs" / "benchmarks.json"
PAGE = run.ROOT / "docs" / "benchmarks.md"


def say(text: str) -> None:
    print(text, flush=True)


def write_page(record: dict[str, Any]) -> None:
    """Write the plots, and the generated part of the page."""
    for group in record["groups"]:
        picture = PAGE.with_name(f"benchmarks-{group['name'].replace('_', '-')}.svg")
        picture.write_text(plot.drawing(group), encoding="utf-8")
    page = render.replaced(PAGE.read_text(encoding="utf-8"), "cpu", render.measured(record))
    PAGE.write_text(page, encoding="utf-8")


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Return the old record with what was measured anew; both must be of one machine."""
    of_old, of_new = ({**x["machine"], "date": "", "quick": x["quick"]} for x in (old, new))
    if of_old != of_new:
        unlike = ", ".join(sorted(key for key in of_new if of_old.get(key) != of_new[key]))
        raise SystemExit(f"--merge: {JSON.name} was measured with another {unlike}")
    days = sorted({*old["machine"]["date"].split(" to "), new["machine"]["date"]})
    date = " to ".join(dict.fromkeys((days[0], days[-1])))
    found = {**new, "machine": {**new["machine"], "date": date}}
    for kind in ("cases", "groups", "commands"):
        both = {one["name"]: one for one in (*old[kind], *new[kind])}
        found[kind] = [both[name] for name in NAMES if name in both]
    anew = {one["name"] for kind in ("cases", "groups", "commands") for one in new[kind]}
    kept = {name: why for name, why in old["failed"].items() if name not in anew}
    found["failed"] = kept | new["failed"]
    return found


def run_check(threads: int) -> int:
    def child(*arguments: str) -> dict[str, Any]:
        found = run.child(threads, *arguments)
        if "failed" in found:
            raise SystemExit(f"{arguments[1]} failed: {found['failed']}")
        return found

    def time_of(name: str) -> dict[str, list[float]]:
        found = child("time", name)
        for side, reason in found["left_out"].items():
            say(f"left out: {name}: {side}: {reason}")
        times: dict[str, list[float]] = found["times"]
        return times

    def memory_of(name: str) -> float:
        return float(child("memory", name, "coreframe")["extra"]) / render.MIB

    return check.run(time_of, memory_of, say)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    known = ("check", "render", *NAMES)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--threads", type=int, default=machine.allowed(), help="for every side")
    parser.add_argument("--merge", action="store_true", help="write NAMEs into the page as well")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in known]:
        parser.error(f"no benchmark is named {unknown[0]!r}; known: {', '.join(known)}")
    if not 1 <= given.threads <= machine.allowed():
        parser.error(f"--threads must be from 1 to {machine.allowed()}, got {given.threads}")
    if given.names == ["check"]:
        return run_check(given.threads)
    if given.names == ["render"]:
        write_page(json.loads(JSON.read_text(encoding="utf-8")))
        gpu.write_page(json.loads(gpu.JSON.read_text(encoding="utf-8")))
        return 0
    if {"check", "render"} & set(given.names):
        parser.error("check and render go alone")
    record = run.run_all(given.names or NAMES, quick=given.quick, threads=given.threads, say=say)
    record = {"quick": given.quick, "machine": machine.describe(given.threads), **record}
    say("\n" + render.measured(record))
    if given.names and given.merge:
        record = merged(json.loads(JSON.read_text(encoding="utf-8")), record)
    if given.merge or not given.names:
        JSON.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        write_page(record)
    return int(bool(record["failed"]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
