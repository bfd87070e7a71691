"""What the checks of all kinds of component are made of: a subject, and a list of promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coreframe.testing.checks import Check, Promise


class Subject(ABC):
    """A component, and how it is used."""

    base: type
    """The interface that it must have."""

    def __init__(self, component: Any) -> None:
        self.component = component

    @abstractmethod
    def exercise(self, component: Any, variant: int = 0) -> Mapping[str, Any]:
        """Use a component as a run would, on NumPy arrays; return all that it gives, by name.

        ``component`` is the subject's own, or a copy. Each variant has the same shapes and other
        numbers. An exercise draws nothing but from seeds of its own, and takes milliseconds.
        """


@dataclass(frozen=True)
class Kit:
    """The checks of one kind."""

    kind: str
    """As ``coreframe list`` calls it: "losses"."""
    base: type
    subject: Callable[[Any], Any]
    promises: Sequence[Promise]

    def check(self, component: Any) -> list[Check]:
        """Check all promises. A promise that fails stops no other."""
        subject = self.subject(component)
        return [promise.check(subject) for promise in self.promises]
