"""Every case by its name; each is made with ``quick`` for small sizes or without."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.case import Case
from benchmarks.cases import embedder, growth, labelled, optimizers, pairs, rows, search, training
from benchmarks.cases.commands import COMMANDS

CASES: dict[str, Callable[[bool], Case]] = {
    **pairs.CASES,
    **labelled.CASES,
    **rows.CASES,
    **optimizers.CASES,
    **training.CASES,
    **embedder.CASES,
    **search.CASES,
    **growth.CASES,
}

NAMES = (*(name for name in CASES if "/" not in name), *growth.GROUPS, *COMMANDS)
"""What ``python -m benchmarks NAME ...`` takes."""
