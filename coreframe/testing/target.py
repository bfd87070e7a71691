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
from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.plugin import KINDS
from coreframe.registry import argument_problems, import_target, registry
from coreframe.testing.checks import Check
from coreframe.testing.losses import check_loss
from coreframe.testing.miners import check_miner


def check(target: str, **arguments: Any) -> list[Check]:
    """Check a component, made with the given arguments or with its defaults.

    ``target`` is a registered name (``soft_margin``), one with its kind (``losses:soft_margin``)
    or with its distribution (``soft-margin-plugin:soft_margin``), or an import target
    (``package.module:Class``), which need not be registered.
    """
    component = _find(target)
    if isinstance(component, type) and not issubclass(component, (Loss, Miner)):
        raise ArgumentTypeError(
            f"{target!r} is {component.__name__}; so far losses and miners can be checked, "
            "which are subclasses of coreframe.Loss and coreframe.Miner"
        )
    if problems := list(argument_problems(target, component, arguments)):
        raise ArgumentError(" ".join(problems))
    made = component(**arguments)
    if isinstance(made, Loss):
        return check_loss(made)
    if isinstance(made, Miner):
        return check_miner(made)
    raise ArgumentTypeError(f"{target!r} makes a {type(made).__name__}, no loss and no miner")


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
