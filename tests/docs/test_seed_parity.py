"""docs/seed-parity.md is whole: every row and fault is there, and all that it names exists."""

from __future__ import annotations

import re

import pytest
from parity import PAGE, missing, named_tests, table

from coreframe import registry

ROWS = table("row")
FAULTS = table("fault")
EACH_ROW = pytest.mark.parametrize("row", ROWS, ids=[row["row"] for row in ROWS])
EACH_FAULT = pytest.mark.parametrize("row", FAULTS, ids=[row["fault"] for row in FAULTS])


def test_all_rows_and_faults_are_there_in_order() -> None:
    assert [row["row"] for row in ROWS] == [f"R{i}" for i in range(1, 57)]
    assert [row["fault"] for row in FAULTS] == [str(i) for i in range(1, 58)]


@EACH_ROW
def test_nothing_of_a_row_is_left_open(row: dict[str, str]) -> None:
    assert [name for name, cell in row.items() if not cell or "TODO" in cell] == []
    assert missing(row["test"]) == []
    assert named_tests(row["test"])


@EACH_ROW
def test_what_a_row_names_is_there(row: dict[str, str]) -> None:
    names = re.findall(r"`([^`]+)`", row["component"])
    assert names
    pages = re.findall(r"\]\(([^)]+)\)", row["page"])
    assert pages
    for page in pages:
        assert (PAGE.parent / page).exists(), page
    for name in names:
        if ":" in name:
            registry.import_target(name)
        else:
            kind, _, plain = name.partition("/")
            assert registry.registry().find(kind, plain).plugin.built_in
            assert f"components/{kind}/{plain}.md" in pages


@EACH_FAULT
def test_a_fault_has_tests_or_a_reason(row: dict[str, str]) -> None:
    assert [name for name, cell in row.items() if not cell or "TODO" in cell] == []
    assert missing(row["test"]) == []
    # "none: because ..." in words, or nothing but tests.
    assert bool(named_tests(row["test"])) != bool(re.match(r"none: \w+ \w+ \w+", row["test"]))
