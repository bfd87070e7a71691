"""Every golden case is run or claimed by a test, and every fault is shown or has its reason."""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from goldens import cases
from parity import missing, named_tests, table

FAULTS = range(1, 58)


@functools.cache
def golden_tests() -> dict[tuple[Path, str], Callable[..., Any]]:
    """Return all tests of this folder, by file and name."""
    found: dict[tuple[Path, str], Callable[..., Any]] = {}
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        if path == Path(__file__):
            continue
        spec = importlib.util.spec_from_file_location(f"complete_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where dataclasses look up their annotations
        spec.loader.exec_module(module)
        for name, value in vars(module).items():
            if name.startswith("test_") and callable(value):
                found[path, name] = value
    return found


def marks(name: str) -> list[Any]:
    return [item for test in golden_tests().values() for item in getattr(test, name, ())]


def test_the_record_is_whole() -> None:
    assert len(cases()) == 241
    assert {case.source for case in cases().values()} == {"js", "rust"}


def test_every_case_is_run_or_claimed() -> None:
    left = sorted(set(cases()) - {*marks("goldens"), *marks("fault_cases")})
    assert left == []


def test_every_fault_is_shown_or_has_a_reason() -> None:
    shown = set(marks("faults"))
    assert shown <= set(FAULTS)
    rows = {int(row["fault"]): row["test"] for row in table("fault")}
    reasons = {n for n, cell in rows.items() if cell.startswith("none: ") or named_tests(cell)}
    assert sorted(set(FAULTS) - shown - reasons) == []


def test_the_fault_table_names_tests_that_show_the_fault() -> None:
    for row in table("fault"):
        assert missing(row["test"]) == []
        for key in named_tests(row["test"]):
            if key in golden_tests():
                assert int(row["fault"]) in getattr(golden_tests()[key], "faults", ()), key


def test_a_fault_that_is_shown_has_no_excuse() -> None:
    for row in table("fault"):
        if int(row["fault"]) in marks("faults"):
            assert not row["test"].startswith("none: "), row["fault"]
