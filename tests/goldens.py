"""The golden cases of the two older systems, and the marks that say which test runs which.

``@golden("js", "mse/basic", ...)`` runs a test once for each named case (a name that ends in "/"
is the whole group). ``@fault(2, "js:contrastive/overflow_T0.001")`` marks a test that shows the
corrected behaviour of a recorded fault, and names the cases whose output is that fault.
``tests/golden/test_complete.py`` makes sure that no case and no fault is left out.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

F = TypeVar("F", bound=Callable[..., Any])
FOLDER = Path(__file__).parent / "golden"
_NUMBERS = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


@dataclass(frozen=True)
class Case:
    """One golden case. ``inputs`` has those of the case that it refers to as well."""

    source: str
    name: str
    inputs: dict[str, Any]
    params: dict[str, Any]
    output: Any
    note: str

    def __repr__(self) -> str:
        return f"{self.source}:{self.name}"


@functools.cache
def cases() -> dict[str, Case]:
    """Return all cases by ``source:group/name``; NaN and Infinity are floats."""
    found: dict[str, Case] = {}
    for source in ("js", "rust"):
        for raw in json.loads((FOLDER / f"seed_{source}.json").read_text("utf-8"))["cases"]:
            raw = _numbers(raw)
            inputs = dict(raw["inputs"] or {})
            if "ref" in inputs:
                inputs = {**found[f"{source}:{inputs.pop('ref')}"].inputs, **inputs}
            name = raw["name"]
            case = Case(
                source, name, inputs, raw["params"] or {}, raw["output"], raw.get("note") or ""
            )
            found[f"{source}:{name}"] = case
    return found


def case(name: str) -> Case:
    """Return one case by ``source:group/name``."""
    return cases()[name]


def golden(source: str, *names: str, without: tuple[str, ...] = ()) -> Callable[[F], F]:
    """Run a test once a case, as its argument ``case``."""
    wanted: list[str] = []
    for name in names:
        start = f"{source}:{name}"
        matching = [key for key in cases() if key == start or (name[-1] == "/" and start in key)]
        assert matching, f"no golden case {start}"
        wanted += [key for key in matching if key.partition(":")[2] not in without]

    def mark(test: F) -> F:
        test.goldens = [*getattr(test, "goldens", ()), *wanted]  # type: ignore[attr-defined]
        return pytest.mark.parametrize("case", [cases()[key] for key in wanted], ids=repr)(test)

    return mark


def fault(number: int, *names: str) -> Callable[[F], F]:
    """Mark a test that shows the corrected behaviour of a fault, and the cases that record it."""
    for name in names:
        assert name in cases(), f"no golden case {name}"

    def mark(test: F) -> F:
        test.faults = [*getattr(test, "faults", ()), number]  # type: ignore[attr-defined]
        test.fault_cases = [*getattr(test, "fault_cases", ()), *names]  # type: ignore[attr-defined]
        return test

    return mark


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return _NUMBERS.get(value, value) if isinstance(value, str) else value
