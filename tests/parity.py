"""The two tables of docs/seed-parity.md, as the tests read them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "seed-parity.md"


def table(first: str) -> list[dict[str, str]]:
    """Return the rows of the table whose first column has this heading, by heading."""
    lines = PAGE.read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith("|")), len(lines))
    heading, _, *rows = (split(line) for line in lines[start:end])
    assert all(len(row) == len(heading) for row in rows), rows
    return [dict(zip(heading, row, strict=True)) for row in rows]


def split(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def named_tests(cell: str) -> list[tuple[Path, str]]:
    """Return the tests that a cell names: file and function."""
    return [(ROOT / path, name) for path, name in re.findall(r"`([\w/.]+\.py)::(\w+)`", cell)]


def missing(cell: str) -> list[str]:
    """Return the tests that a cell names and that are not there."""
    return [
        f"{path.relative_to(ROOT)}::{name}"
        for path, name in named_tests(cell)
        if not path.exists()
        or not re.search(rf"^ *def {name}\(", path.read_text("utf-8"), re.MULTILINE)
    ]
