"""The same questions on a CUDA device: ``python -m benchmarks.gpu [--quick]``.

Arrays are CuPy's; torch on CUDA is the peer where it is installed. Times are of synchronised
calls in interleaved rounds, memory is the peak of each library's own pool. It writes
docs/benchmarks-gpu.json and the part of docs/benchmarks.md that is about GPUs.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import sys
import time
import warnings
from collections.abc import Callable
from importlib import util
from statistics import median
from typing import Any

from benchmarks import gpu_sides, gpu_waits, machine, render, run
from benchmarks.gpu_sides import Device, Work

JSON = run.ROOT / "docs" / "benchmarks-gpu.json"
PAGE = run.ROOT / "docs" / "benchmarks.md"
OURS = "coreframe"


def missing() -> str | None:
    """Return in one line why nothing can be measured here, or None."""
    if util.find_spec("cupy") is None:
        return "no GPU benchmarks: the package cupy is not installed"
    import cupy

    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return f"no GPU benchmarks: no CUDA device ({error})"
    return None if count else "no GPU benchmarks: no CUDA device"


def measured(work: Work, device: Device, rounds: int) -> dict[str, Any]:
    """Return ratios of ours to each peer, peaks in bytes, and why peers were left out.

    Each side is built, warmed up and measured for memory alone, so that no other side's arrays
    lie in its pool; then all that ran are timed in turn.
    """
    extra: dict[str, int] = {}
    left_out = dict(work.left_out)
    built: dict[str, Callable[[], Any]] = {}
    for name, build in work.sides.items():
        try:
            call = build()
            call()  # compiles, and fills caches
            device.synchronize()
            gc.collect()
            extra[name] = device.peak(call, name)
            built[name] = call
        except Exception as error:
            if name == OURS:
                raise
            left_out[name] = f"{type(error).__name__}: {str(error).strip()[:120]}"
        gc.collect()
        device.free()
    times: dict[str, list[float]] = {name: [] for name in built}
    for _ in range(rounds):
        for name, call in built.items():
            device.synchronize()
            start = time.perf_counter()
            call()
            device.synchronize()
            times[name].append(time.perf_counter() - start)
    rows = []
    for name in built:
        if name == OURS:
            continue
        pairs = zip(times[OURS], times[name], strict=True)
        targets = work.targets.get(name, {})
        rows.append({"to": name, "ratio": median(a / b for a, b in pairs), **targets})
    return {
        "name": work.name,
        "what": work.what,
        "rows": rows,
        "extra": extra,
        "left_out": left_out,
    }


def table(record: dict[str, Any]) -> str:
    """Return the part of the page that is about GPUs."""
    if record.get("unmeasured"):
        return (
            "**Unmeasured.** No machine with a GPU has run this table yet; "
            "`python -m benchmarks.gpu` fills it in."
        )
    lines = [render.machine(record["machine"]), ""]
    lines[0] += f" Device: {record['device']}."
    if record["quick"]:
        lines += ["**Small sizes (`--quick`)**: the targets are not judged.", ""]
    lines += ["| work | beside | time | target | extra MiB | theirs |", "|---|---|--:|--:|--:|--:|"]
    for case in record["cases"]:
        ours = case["extra"][OURS]
        for row in case["rows"] or [{"to": "it runs", "ratio": None}]:
            theirs = case["extra"].get(row["to"])
            ratio = "" if row["ratio"] is None else f"{render.short(row['ratio'])} x"
            sizes = ["" if x is None else f"{x / render.MIB:,.0f}" for x in (ours, theirs)]
            asked = target(row, ours, theirs, not record["quick"])
            lines.append(
                f"| {case['what']} | {row['to']} | {ratio} | {asked} | {sizes[0]} | {sizes[1]} |"
            )
    lines += ["", "| a step of | waits of the host | counted by |", "|---|---:|---|"]
    for one in record["waits"]:
        lines.append(f"| {one['what']} | {one['count']} | {one['how']} |")
    gone = [
        f"- {c['name']}: {k}: {why}" for c in record["cases"] for k, why in c["left_out"].items()
    ]
    return "\n".join([*lines, "", "Left out:", "", *(gone or ["- nothing"])])


def target(row: dict[str, Any], ours: int, theirs: int | None, judged: bool) -> str:
    parts = []
    for key, found, unit in (
        ("at_most", row["ratio"], "x"),
        ("memory_share", None if not theirs else ours / theirs, "x memory"),
    ):
        if row.get(key) is None or found is None:
            continue
        verdict = (": met" if found <= row[key] else ": **not met**") if judged else ""
        parts.append(f"\N{LESS-THAN OR EQUAL TO} {row[key]:g} {unit}{verdict}")
    return ", ".join(parts)


def write_page(record: dict[str, Any]) -> None:
    page = render.replaced(PAGE.read_text(encoding="utf-8"), "gpu", table(record))
    PAGE.write_text(page, encoding="utf-8")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes")
    given = parser.parse_args(arguments)
    if reason := missing():
        print(reason)
        return 1
    warnings.simplefilter("ignore")
    device = gpu_sides.Cuda()
    cases = []
    for make, rounds in gpu_sides.WORKS:
        work = make(given.quick)
        print(f"{work.name}: {work.what}", flush=True)
        found = measured(work, device, min(rounds, 3) if given.quick else rounds)
        for name, reason in found["left_out"].items():
            print(f"  left out: {name}: {reason}")
        cases.append(found)
        device.free()
    waits = [dataclasses.asdict(one) for one in gpu_waits.count_all(given.quick)]
    record = {
        "quick": given.quick,
        "machine": machine.describe(machine.allowed()),
        "device": device.name(),
        "cases": cases,
        "waits": waits,
    }
    JSON.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    write_page(record)
    print("\n" + table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
