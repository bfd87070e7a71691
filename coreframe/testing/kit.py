"""What the checks of all kinds of component are made of: a subject, and a list of promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from coreframe.errors import ArgumentTypeError
from coreframe.testing.checks import Check, Promise, same_bits
from coreframe.testing.process import Footprint, footprint
from coreframe.testing.remembered import Remembered, forgetful
from coreframe.testing.suites import Suite, written


class Subject(ABC):
    """A component, and how it is used."""

    base: type
    """The interface that it must have."""

    def __init__(self, component: Any) -> None:
        self.component = component
        self.held: list[Any] = []
        """What the component was given: while it is kept, no other array has its number (id)."""
        self.remembered = Remembered(component)
        """What the component and its module held before it was used."""

    @cached_property
    def footprint(self) -> Footprint:
        """What one use leaves behind in the process."""
        return footprint(lambda: self.exercise(self.component))

    def forgets(self) -> bool:
        """Go on with a component that gives the same from call to call; say whether there is one:
        the component itself, if what it remembers has settled, or one that remembers nothing.
        """
        now = Remembered(self.component)
        if self._repeats() and not now.changed():
            return True
        self.component = forgetful(self.component, self.remembered)
        return self._repeats()

    def _repeats(self) -> bool:
        first = self.exercise(self.component)
        self.exercise(self.component, 1)
        again = self.exercise(self.component)
        return all(same_bits(x, again.get(name)) for name, x in first.items())

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
        """Check all promises, in order. One that fails stops those that need it, and no other."""
        if not isinstance(component, self.base):
            raise ArgumentTypeError(
                f"the kit for {self.kind} takes an object of a subclass of {self.base.__name__}, "
                f"got {component!r}" + ("; make one of it" if isinstance(component, type) else "")
            )
        return list(self.suite(component).run())

    def suite(self, component: Any, title: str = "") -> Suite:
        """Return the promises of a component, one by one; of a backend, a name will do."""
        about = component if isinstance(component, str) else written(component)
        return Suite(title or about, about, self.promises, lambda: self.subject(component))
