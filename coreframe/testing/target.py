"""From a name or an import target to the checks of that component."""

from __future__ import annotations

import difflib
from typing import Any

from coreframe.errors import (
    AmbiguousName,
    ArgumentError,
    ArgumentTypeError,
    UnknownName,
    nearest,
)
from coreframe.plugin import KINDS
from coreframe.registry import argument_problems, import_target, registry
from coreframe.testing.checks import Check
from coreframe.testing.kit import Kit
from coreframe.testing.losses import KIT as LOSSES
from coreframe.testing.miners import KIT as MINERS

KITS: tuple[Kit, ...] = (LOSSES, MINERS)
"""The checks of each kind of component."""


def check(target: str, **arguments: Any) -> list[Check]:
    """Check a component, made with the given arguments or with its defaults.

    ``target`` is a registered name (``soft_margin``), one with its kind (``losses:soft_margin``)
    or with its distribution (``soft-margin-plugin:soft_margin``), or an import target
    (``package.module:Class``), which need not be registered.
    """
    component = _find(target)
    bases = tuple(kit.base for kit in KITS)
    if isinstance(component, type) and not issubclass(component, bases):
        raise ArgumentTypeError(_no_kind(target, component.__name__))
    if problems := list(argument_problems(target, component, arguments)):
        raise ArgumentError(" ".join(problems))
    made = component(**arguments)
    for kit in KITS:
        if isinstance(made, kit.base):
            return kit.check(made)
    raise ArgumentTypeError(_no_kind(target, type(made).__name__))


def _no_kind(target: str, name: str) -> str:
    bases = ", ".join(f"coreframe.{kit.base.__name__}" for kit in KITS)
    return f"{target!r} is {name}, which is no subclass of any of {bases}"


def _find(target: str) -> Any:
    """Return the component that a target means: registered names first, then import targets."""
    kind, _, rest = target.partition(":")
    if rest and kind in KINDS:
        return registry().find(kind, rest).load()
    matches, names = [], set()
    for kind in KINDS:
        entries = registry().entries(kind)
        names |= {entry.name for entry in entries}
        try:
            matches.append((kind, registry().find(kind, target)))
        except UnknownName:
            continue
    if len(matches) == 1:
        return matches[0][1].load()
    if matches:
        options = ", ".join(f"{kind}:{target}" for kind, _ in matches)
        raise AmbiguousName(f"{target!r} is of several kinds; write one of: {options}")
    if not rest:
        raise UnknownName(f"no component is named {target!r}.{_hint(target, names)}")
    try:
        return import_target(target)
    except ImportError as error:
        raise UnknownName(
            f"{target!r} is no registered name, and cannot be imported as "
            f"package.module:Class: {error}"
        ) from error


def _hint(target: str, names: set[str]) -> str:
    close = difflib.get_close_matches(target, names, n=1)
    return nearest(target, names) if close else " `coreframe list` shows all names."
