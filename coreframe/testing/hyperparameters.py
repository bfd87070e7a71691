"""The numbers among a component's fields: checked when it is made, and free to follow a schedule.

Each function yields one sentence for each field that is not what it should be.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.scheduler import Progress, Scheduler, resolve
from coreframe.testing.checks import same_bits

HALFWAY = Progress(step=50, steps=100, samples=50 * 32, epoch=2)
"""Where components with scheduled numbers are checked: not at a start, which may be 0."""


@dataclass(frozen=True, kw_only=True)
class Same(Scheduler):
    """A schedule that stays at one value."""

    value: float

    def __call__(self, progress: Progress, /) -> float:
        return self.value


def numbers(component: Any) -> list[str]:
    """Return the names of the fields that hold one number, by their annotations."""
    found = []
    for field in dataclasses.fields(component):
        words = set(re.findall(r"\w+", getattr(field.type, "__name__", str(field.type))))
        inside = {"tuple", "list", "dict", "Mapping", "Sequence", "Callable"} & words
        if field.init and {"float", "int"} & words and not inside:
            found.append(field.name)
    return found


def unchecked(component: Any, *wrong: Any) -> Iterator[str]:
    """Say which numbers take what no number can be: NaN, infinity, a text; and what is wrong."""
    for name in numbers(component):
        for value in (math.nan, math.inf, "1", *wrong):
            try:
                dataclasses.replace(component, **{name: value})
            except (ArgumentError, ArgumentTypeError) as error:
                if name not in str(error):
                    yield f"{name}={value!r} is refused by a text that lacks the name: {error}"
            except Exception as error:
                yield f"{name}={value!r} raises {type(error).__name__}: {error}"
            else:
                yield f"{name}={value!r} is taken without a word"


def unscheduled(component: Any, use: Callable[[Any], Mapping[str, Any]]) -> Iterator[str]:
    """Say which numbers cannot follow a schedule.

    ``use`` calls a component and returns what it gives, by name. A number that is scheduled must
    make that an ArgumentTypeError which names it, and change nothing once it is resolved.
    """
    expected = use(component)
    for name in numbers(component):
        if getattr(component, name) is None:
            continue
        schedule = Same(value=getattr(component, name))
        try:
            held = dataclasses.replace(component, **{name: schedule})
            found = use(resolve(held, HALFWAY))
        except Exception as error:
            yield f"{name} cannot follow a schedule: {type(error).__name__}: {error}"
            continue
        for result, x in expected.items():
            if not same_bits(x, found.get(result)):
                yield f"with {name} on a schedule that stays, {result} is another"
        try:
            use(held)
        except ArgumentTypeError as error:
            if name not in str(error):
                yield f"unresolved, {name} is refused by a text that lacks its name: {error}"
        except Exception as error:
            yield f"unresolved, {name} raises {type(error).__name__}: {error}"
        else:
            yield f"{name} is used while it still is a scheduler"
