"""The promises of one component, one by one: what test suites and the command line run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from coreframe.errors import UnknownName, nearest
from coreframe.testing.checks import REPEATABLE, Check, Promise

STATE = "no_hidden_state"


@dataclass(frozen=True, eq=False)
class Suite:
    """A component, or a plugin as a whole, and what it promises."""

    title: str
    about: str
    """What is checked, in a line: the component as it would be written."""
    promises: Sequence[Promise]
    subject: Callable[[], Any]
    """Makes what the promises are checked on; called once, when the first of them is."""
    _known: dict[str, Check] = field(default_factory=dict, repr=False)

    @cached_property
    def _subject(self) -> Any:
        return self.subject()

    def check(self, name: str) -> Check:
        """Check one promise, unless one that it needs is broken."""
        if name not in self._known:
            promise = next(p for p in self.promises if p.name == name)
            cause = self._cause(promise)
            self._known[name] = promise.left_out(cause) if cause else promise.check(self._subject)
            if name == STATE and not self._known[name]:
                _ = self._forgetful  # from here on
        return self._known[name]

    def _cause(self, promise: Promise) -> str:
        """Return the first promise that must be mended before this one means anything, or ""."""
        names = {p.name: p for p in self.promises}
        for need in promise.needs:
            if need == REPEATABLE:
                if cause := self._not_repeatable(names):
                    return cause
            elif need in names:
                if cause := self._cause(names[need]):
                    return cause
                if not self.check(need):
                    return need
        return ""

    def _not_repeatable(self, names: Mapping[str, Promise]) -> str:
        """Return what hinders that the same call gives the same, or ""."""
        if (state := names.get(STATE)) is None:
            return ""
        if cause := self._cause(state):
            return cause
        return "" if self.check(state.name) or self._forgetful else state.name

    @cached_property
    def _forgetful(self) -> bool:
        """Whether the subject can go on with a component that remembers nothing."""
        try:
            return bool(self._subject.forgets())
        except Exception:  # the promise before has told what is wrong
            return False

    def run(self, only: Collection[str] = ()) -> Iterator[Check]:
        """Check all promises, or only those that are named."""
        for promise in self.promises:
            if not only or promise.name in only:
                yield self.check(promise.name)


@dataclass(frozen=True)
class Item:
    """One promise of one component: ``item.check()`` says whether it is kept."""

    suite: Suite
    name: str

    def __str__(self) -> str:
        return f"{self.suite.title}-{self.name}"

    def check(self) -> Check:
        return self.suite.check(self.name)


def items(suites: Sequence[Suite]) -> list[Item]:
    """Return all promises of all suites."""
    return [Item(suite, promise.name) for suite in suites for promise in suite.promises]


def known(suites: Sequence[Suite], only: Collection[str]) -> None:
    """Raise UnknownName for a name that is no promise of any of the suites."""
    names = {promise.name for suite in suites for promise in suite.promises}
    for name in only:
        if name not in names:
            raise UnknownName(f"no promise is named {name!r}.{nearest(name, names)}")


def written(component: Any) -> str:
    """Return a component with the fields that are not at their defaults: Triplet(margin=0.3)."""
    if isinstance(component, type):
        return component.__name__
    if not dataclasses.is_dataclass(component):
        return type(component).__name__
    changed = [
        f"{f.name}={getattr(component, f.name)!r}"
        for f in dataclasses.fields(component)
        if f.init and f.repr and _changed(f, getattr(component, f.name))
    ]
    return f"{type(component).__name__}({', '.join(changed)})"


def _changed(f: dataclasses.Field[Any], value: Any) -> bool:
    if f.default is not dataclasses.MISSING:
        return repr(value) != repr(f.default)
    if f.default_factory is not dataclasses.MISSING:
        return repr(value) != repr(f.default_factory())
    return True
