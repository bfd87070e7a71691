"""The page and its plots are what was measured says, and the commands are known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import plot, render
from benchmarks.__main__ import JSON, PAGE, main, merged
from benchmarks.case import US
from benchmarks.cases import NAMES
from benchmarks.cases.commands import COMMANDS
from benchmarks.data import pairs

# The page -------------------------------------------------------------------------------------


def test_the_page_is_what_the_numbers_say() -> None:
    record = json.loads(JSON.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    assert render.replaced(page, "cpu", render.measured(record)) == page
    for group in record["groups"]:
        file = PAGE.with_name(f"benchmarks-{group['name'].replace('_', '-')}.svg")
        assert file.read_text(encoding="utf-8") == plot.drawing(group)
    names = [one["name"] for k in ("cases", "groups", "commands") for one in record[k]]
    assert names == [name for name in NAMES if name in names]
    assert record["failed"] == {}


def test_no_bare_times_in_the_record() -> None:
    record = json.loads(JSON.read_text(encoding="utf-8"))
    for case in record["cases"]:
        assert "seconds" not in case
        assert case["sides"][next(iter(case["sides"]))]["time"] == 1.0
    for group in record["groups"]:
        assert group["lines"][US][0]["time"] == 1.0


def test_rows_and_verdicts() -> None:
    row = {"ratio": 0.5, "at_most": 0.7, "goal": None, "memory_mib": 64, "memory_share": 0.1}
    ours, theirs = {"extra": 80 * 2**20, "error": 2e-7}, {"extra": 2**30}
    asked = render.target(row, ours, theirs, True)
    assert asked == "≤ 0.7 x: met, ≤ 64 MiB: **not met**, ≤ 0.1 x memory: met"
    assert render.target(row, ours, theirs, False) == "≤ 0.7 x, ≤ 64 MiB, ≤ 0.1 x memory"
    assert (render.memory(ours), render.error(ours), render.error(theirs)) == ("80", "2e-07", "")
    assert [render.short(x) for x in (12.345, 0.456, 0.00123)] == ["12.35", "0.46", "0.0012"]


def test_slopes() -> None:
    points = [(n, 3.0 * n**2) for n in (64, 128, 256)]
    assert render.slope(points) == pytest.approx(2.0)
    assert render.slope(points[:1]) is None
    line = [{"n": n, "time": n**2.0, "extra": 1000} for n in (64, 128)]
    found = render.growth({"lines": {US: line}}, judged=True)
    assert "2.00 (2.0 ± 0.1: met) | 0.00 (at most 1.0: met)" in found


def test_a_page_without_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match="no markers of 'gpu'"):
        render.replaced("text", "gpu", "x")


def test_a_plot_is_well_formed_and_has_every_line() -> None:
    lines = {
        name: [{"n": n, "time": (i + 1) * n**2 / 1e4, "extra": i * n * 5000} for n in (100, 400)]
        for i, name in enumerate(("coreframe", "a < b"))
    }
    text = plot.drawing({"name": "growth", "what": "Pairs", "lines": lines})
    tree = ElementTree.fromstring(text)
    tags = [element.tag.rpartition("}")[2] for element in tree.iter()]
    assert tags.count("polyline") == 4
    assert [e.text for e in tree.iter() if e.tag.endswith("text")].count("a < b") == 2


def test_decades() -> None:
    assert plot.decades([3.0, 5000.0]) == [1.0, 10.0, 100.0, 1000.0, 10000.0]
    assert plot.decades([1.0, 2.0]) == [1.0, 2.0]


def test_merging_replaces_what_is_new_and_keeps_the_order() -> None:
    def record(threads: int, day: int = 1, **times: float) -> dict:
        cases = [{"name": name, "time": time} for name, time in times.items()]
        machine = {"threads": threads, "date": f"2026-01-0{day}"}
        empty = {"groups": [], "commands": [], "failed": {}}
        return {"quick": False, "machine": machine, "cases": cases, **empty}

    first, second, *_ = NAMES
    found = merged(record(2, **{first: 1.0, second: 2.0}), record(2, **{first: 3.0}))
    assert found["machine"]["date"] == "2026-01-01"
    later = merged(merged(found, record(2, 3)), record(2, 2))
    assert later["machine"]["date"] == "2026-01-01 to 2026-01-03"
    assert found["cases"] == [{"name": first, "time": 3.0}, {"name": second, "time": 2.0}]
    with pytest.raises(SystemExit, match="another threads"):
        merged(record(2), record(1))


# The commands ---------------------------------------------------------------------------------


def test_names_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["info_nec"])
    assert "no benchmark is named 'info_nec'" in capsys.readouterr().err
    assert {"info_nce", "growth", "demo"} <= {*NAMES}
    assert set(COMMANDS) < {*NAMES}


def test_without_a_gpu_one_line_and_an_exit_code(monkeypatch, capsys) -> None:
    from benchmarks import gpu

    monkeypatch.setattr(gpu.util, "find_spec", lambda name: None)
    assert gpu.main([]) == 1
    assert capsys.readouterr().out == "no GPU benchmarks: the package cupy is not installed\n"


def test_the_gpu_harness_on_a_device_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns, targets and what is left out, with a clock that the calls set in place of a device."""
    from benchmarks import gpu
    from benchmarks.gpu_sides import Work

    now = [0.0]

    def takes(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(gpu, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(gpu, "gc", SimpleNamespace(collect=lambda: 0))
    device = SimpleNamespace(
        synchronize=lambda: None, free=lambda: None, peak=lambda call, side: len(side) * 2**20
    )
    work = Work(
        "w",
        "work",
        {
            "coreframe": lambda: lambda: takes(0.001),
            "peer": lambda: lambda: takes(0.01),
            "broken": lambda: 1 / 0,
        },
        {"peer": {"at_most": 0.9, "memory_share": 3.0}},
    )
    found = gpu.measured(work, device, 3)
    assert found["left_out"] == {"broken": "ZeroDivisionError: division by zero"}
    assert [row["to"] for row in found["rows"]] == ["peer"]
    assert found["rows"][0]["ratio"] == pytest.approx(0.1)
    waits = [{"what": "step", "count": "0", "how": "capture"}]
    machine = {"versions": {}, "date": "", "processor": "", "threads": 1, "system": ""}
    record = {"quick": False, "machine": machine | {"python": ""}, "device": "a device"}
    text = gpu.table(record | {"cases": [found], "waits": waits})
    assert "≤ 0.9 x: met, ≤ 3 x memory: met | 9 | 4 |" in text
    assert "| step | 0 | capture |" in text


def test_the_page_says_what_is_known_of_gpus() -> None:
    from benchmarks import gpu

    path: Path = gpu.JSON
    record = json.loads(path.read_text(encoding="utf-8"))
    page = PAGE.read_text(encoding="utf-8")
    assert render.replaced(page, "gpu", gpu.table(record)) == page


def test_waits_are_counted_by_their_warnings() -> None:
    import warnings

    from benchmarks import gpu_waits

    def call() -> None:
        warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("another", stacklevel=1)

    assert gpu_waits.count_warnings(call, "synchronizing") == 1


def test_the_step_whose_waits_are_counted_is_a_step() -> None:
    from benchmarks import gpu_waits

    a, b = pairs(16, 4)().values()
    params = {"W": np.eye(4, dtype=np.float32)}
    new, state = gpu_waits.step_on(params, a, b)()
    assert state["step"] == 1
    assert np.any(new["W"] != params["W"])
