"""The promise of kinds whose fields hold plain numbers: they are checked when one is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from coreframe.testing.checks import NotApplicable, Promise, promise
from coreframe.testing.hyperparameters import numbers, unchecked

FIELDS: list[Promise] = []


@promise(
    FIELDS,
    "Its numbers are checked when it is made: NaN, infinity and texts are refused by name.",
    fix="In __post_init__ call coreframe.checks.number(self, 'name', minimum=...) for each number.",
    needs=("form",),
)
def fields_are_checked(subject: Any) -> Iterator[str]:
    if not numbers(subject.component):
        raise NotApplicable("it has no number as a field")
    yield from unchecked(subject.component)
