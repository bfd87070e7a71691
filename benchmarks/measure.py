"""Timing in interleaved rounds, and memory as the rise of the high-water mark."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median

from benchmarks.case import Arrays, Call, Case, LeftOut, Side
from benchmarks.exact import largest_error, relative_distance, share_of_others

PAUSE = 0.02
"""Seconds before each timing: threads that the side before keeps awake have gone to sleep."""

ENOUGH = 120.0
"""Seconds after which a case makes no further rounds."""

SAME = 0.05
"""A side whose result is, in length, farther from float64 than this computes something else."""

Times = dict[str, list[float]]


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def seconds(call: Call, calls: int = 1) -> tuple[float, object]:
    """Return the mean time of some calls, and what the last one returned."""
    start = time.perf_counter()
    for _ in range(calls):
        result = call()
    return (time.perf_counter() - start) / calls, result


def time_case(case: Case) -> tuple[Times, dict[str, float], dict[str, str]]:
    """Return times of each side by round, errors, and why sides were left out."""
    inputs, small = case.inputs(), case.small()
    exact = case.exact(inputs) if case.exact else None
    errors: dict[str, float] = {}
    left_out = dict(case.left_out)
    built: list[tuple[Side, Call]] = []

    def judge(side: Side, result: object) -> None:
        if exact is not None and side.outputs is not None and side.name not in errors:
            errors[side.name] = _error(case, side, result, exact)

    for side in case.sides:
        reason = side.missing()
        if reason is None:
            try:
                with environment(side.environment):
                    if case.long and not side.in_full:
                        side.build(small)()
                        call = side.build(inputs)
                    else:
                        call = side.build(inputs)
                        judge(side, call())
                built.append((side, call))
                continue
            except LeftOut as why:
                reason = str(why)
            except Exception as error:
                if side.name.startswith("coreframe"):
                    raise  # a peer may be broken here, we may not
                text = str(error).strip().splitlines() or [""]
                reason = f"{type(error).__name__}: {text[0][:120]}"
        left_out[side.name] = reason
    times: Times = {side.name: [] for side, _ in built}
    started = time.monotonic()
    for _ in range(case.rounds):
        for side, call in built:
            time.sleep(PAUSE)
            with environment(side.environment):
                took, result = seconds(call, case.calls)
            times[side.name].append(took)
            judge(side, result)
            del result
        if time.monotonic() - started > ENOUGH:
            break
    return times, errors, left_out


def _error(case: Case, side: Side, result: object, exact: Arrays) -> float:
    assert side.outputs is not None
    found = side.outputs(result)
    off = relative_distance(found, exact) if case.accuracy != "places" else 0.0
    if not off < SAME:
        raise ValueError(f"{side.name} is off by {off:.2g}: it does other work")
    return (share_of_others if case.accuracy == "places" else largest_error)(found, exact)


def ratio(times: Mapping[str, Sequence[float]], ours: str, to: str, minus: str | None) -> float:
    """Return the median over rounds of ours (less another side) over the other."""
    less = times[minus] if minus else [0.0] * len(times[ours])
    return median((a - c) / b for a, b, c in zip(times[ours], times[to], less, strict=True))


def fastest(times: Mapping[str, Sequence[float]], names: Sequence[str]) -> str | None:
    """Return which of some sides had the least median, or None where none ran."""
    there = [name for name in names if times.get(name)]
    return min(there, key=lambda name: median(times[name]), default=None)


# Memory ---------------------------------------------------------------------------------------


def extra_memory(case: Case, side: Side) -> int:
    """Return the extra bytes of one call, in a process that has done nothing else.

    That is the peak above what was held before the call, with the inputs and after a small
    warm-up, less what the case deducts.
    """
    with environment(side.environment):
        if not side.in_full:
            side.build(case.small())()
        inputs = case.inputs()
        call = side.build(inputs)
        if side.in_full:
            call()
        gc.collect()
        _give_back()
        held = _start_peak()
        result = call()
        peak = _peak()
    del result
    return max(peak - held - case.deducted(inputs), 0)


def _give_back() -> None:
    """Let the allocator return what was freed, so that it is not used again unseen."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.partition(name)[2].split()[0]) * 1024


def _start_peak() -> int:
    """Start the high-water mark anew where the system can, and return what is held now."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _status("VmRSS:")
    except OSError:
        return _peak()


def _peak() -> int:
    """Return the high-water mark of this process's memory.

    Linux: getrusage's would hold the peak of the process that started this one.
    """
    try:
        return _status("VmHWM:")
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
