"""From a component, a name, an import target or a distribution to what is checked."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from coreframe.discovery import normalised, not_of_our_group
from coreframe.errors import (
    AmbiguousName,
    ArgumentError,
    ArgumentTypeError,
    UnknownName,
    nearest,
)
from coreframe.plugin import KINDS
from coreframe.registry import Entry, argument_problems, import_target, registry
from coreframe.testing.adapters.promises import KIT as ADAPTERS
from coreframe.testing.backends.promises import KIT as BACKENDS
from coreframe.testing.backends.promises import is_backend
from coreframe.testing.callbacks.promises import KIT as CALLBACKS
from coreframe.testing.checks import Check, NotApplicable, Promise
from coreframe.testing.embedders.promises import KIT as EMBEDDERS
from coreframe.testing.kit import Kit
from coreframe.testing.losses.promises import KIT as LOSSES
from coreframe.testing.miners.promises import KIT as MINERS
from coreframe.testing.optimizers.promises import KIT as OPTIMIZERS
from coreframe.testing.plugins import packages
from coreframe.testing.plugins.promises import PROMISES as OF_A_PLUGIN
from coreframe.testing.regularizers.promises import KIT as REGULARIZERS
from coreframe.testing.samplers import KIT as SAMPLERS
from coreframe.testing.schedulers import KIT as SCHEDULERS
from coreframe.testing.suites import Item, Suite, items

KITS: tuple[Kit, ...] = (
    LOSSES,
    MINERS,
    OPTIMIZERS,
    SCHEDULERS,
    REGULARIZERS,
    ADAPTERS,
    SAMPLERS,
    CALLBACKS,
    EMBEDDERS,
    BACKENDS,
)
"""The checks of each kind of component."""

Make = Callable[[type, Mapping[str, Any]], Any]
"""From a class and its fields to a component."""


def check(target: str, **arguments: Any) -> list[Check]:
    """Check a component, made with the given arguments or with its defaults; or a whole plugin.

    ``target`` is a registered name (``soft_margin``), one with its kind (``losses:soft_margin``)
    or with its distribution (``soft-margin-plugin:soft_margin``), or an import target
    (``package.module:Class``), which need not be registered. A distribution or a module with hooks
    means all that it offers: see ``check_plugin``.
    """
    return _flat(suites(target, arguments))


def check_plugin(
    plugin: str, *, arguments: Mapping[str, Mapping[str, Any]] | None = None
) -> list[Check]:
    """Check an installed distribution, or a module with hooks, and all components it offers.

    Args:
        plugin: a distribution ("soft-margin-plugin") or a module ("soft_margin_plugin.plugin").
        arguments: what components are made with, as {"losses:my_loss": {"margin": 0.2}}. Those that
            are not named are made with their defaults; where that cannot be, they are not checked.

    The checks of a component are named after it: "losses:soft_margin.gradient".
    """
    return _flat(plugin_suites(packages.package(plugin), arguments or {}, _called))


def promises(*components: Any) -> list[Item]:
    """Return all promises of components, one by one, for the parametrisation of tests.

    Each is a component, or a text as ``check`` takes it. ``promise.check()`` is the outcome.
    """
    return items([suite for component in components for suite in suites_of(component)])


def suites_of(component: Any) -> list[Suite]:
    """Return what a component, or a text that means some, promises."""
    if isinstance(component, str):
        return suites(component)
    for kit in KITS:
        if isinstance(component, kit.base):
            return [kit.suite(component)]
    if isinstance(component, type) and is_backend(component):
        return [BACKENDS.suite(component)]
    hint = "; give an instance, not the class" if isinstance(component, type) else ""
    raise ArgumentTypeError(_no_kind(repr(component), type(component).__name__) + hint)


def _flat(found: list[Suite]) -> list[Check]:
    if len(found) == 1:
        return list(found[0].run())
    first, *components = found
    return list(first.run()) + [
        replace(check, name=f"{suite.title}.{check.name}")
        for suite in components
        for check in suite.run()
    ]


# From a text --------------------------------------------------------------------------------


def _called(kind: type, arguments: Mapping[str, Any]) -> Any:
    return kind(**arguments)


def suites(
    target: str, arguments: Mapping[str, Any] | None = None, make: Make = _called
) -> list[Suite]:
    """Return what a target promises; ``arguments`` are the fields of the component that it is.

    For a distribution they are tables of fields by "kind:name". ``make`` makes the component.
    """
    arguments = dict(arguments or {})
    if normalised(target) in packages.distributions():
        return plugin_suites(packages.package(target), arguments, make)
    try:
        kind, name, component = _find(target)
    except UnknownName:
        if ":" in target or not packages.is_module(target):
            raise
        return plugin_suites(packages.package(target), arguments, make)
    title = f"{kind}:{name}" if name else target
    if kind == "backends":
        return [BACKENDS.suite(make(component, arguments) if arguments else component, title)]
    if kind:
        return [_kit(kind).suite(_made(target, component, arguments, make), title)]
    if isinstance(component, type) and is_backend(component):
        return [BACKENDS.suite(make(component, arguments) if arguments else component, title)]
    bases = tuple(kit.base for kit in KITS if kit is not BACKENDS)
    if isinstance(component, type) and not issubclass(component, bases):
        raise ArgumentTypeError(_no_kind(repr(target), component.__name__))
    made = _made(target, component, arguments, make)
    return [replace(suite, title=title) for suite in suites_of(made)]


def _made(target: str, component: Any, arguments: Mapping[str, Any], make: Make) -> Any:
    if not callable(component):
        name = type(component).__name__
        raise ArgumentTypeError(f"{target!r} is {name}, which is no class of components")
    if problems := list(argument_problems(target, component, arguments)):
        raise ArgumentError(" ".join(problems))
    return make(component, arguments)


def _kit(kind: str) -> Kit:
    for kit in KITS:
        if kit.kind == kind:
            return kit
    known = ", ".join(kit.kind for kit in KITS)
    raise ArgumentTypeError(f"there is no kit for {kind}, only for {known}")


def _no_kind(what: str, name: str) -> str:
    bases = ", ".join(f"coreframe.{kit.base.__name__}" for kit in KITS)
    return f"{what} is {name}, which is no subclass of any of {bases}"


def _find(target: str) -> tuple[str, str, Any]:
    """Return kind, name and class of what a target means: registered names first.

    Kind and name are empty for an import target.
    """
    kind, _, rest = target.partition(":")
    if rest and kind in KINDS:
        return kind, rest, _backend(rest) if kind == "backends" else _load(kind, rest)
    matches, names = [], set()
    for kind in KINDS:
        names |= {entry.name for entry in registry().entries(kind)}
        try:
            matches.append((kind, registry().find(kind, target)))
        except UnknownName:
            continue
    if len(matches) == 1:
        ((kind, entry),) = matches
        return kind, target, entry.load()
    if matches:
        options = ", ".join(f"{kind}:{target}" for kind, _ in matches)
        raise AmbiguousName(f"{target!r} is of several kinds; write one of: {options}")
    if not rest:
        raise UnknownName(f"no component is named {target!r}.{_hint(target, names)}")
    try:
        return "", "", import_target(target)
    except ImportError as error:
        raise UnknownName(
            f"{target!r} is no registered name, and cannot be imported as "
            f"package.module:Class: {error}"
        ) from error


def _load(kind: str, name: str) -> Any:
    return registry().find(kind, name).load()


def _backend(name: str) -> Any:
    """Return a backend's class, or for a name with a device, "torch:cuda", that text."""
    try:
        return _load("backends", name)
    except UnknownName:
        if ":" not in name:
            raise
    _load("backends", name.partition(":")[0])
    return name


def _hint(target: str, names: set[str]) -> str:
    if what := not_of_our_group(target):
        return f" The distribution {what}."
    names = names | packages.distributions()
    close = difflib.get_close_matches(target, names, n=1)
    return nearest(target, names) if close else " `coreframe list` shows all names."


# From a plugin ------------------------------------------------------------------------------


def plugin_suites(
    package: packages.Package, arguments: Mapping[str, Mapping[str, Any]], make: Make
) -> list[Suite]:
    """Return what a plugin promises as a package, and then what each of its components does."""
    found = [Suite(package.title, "the package", OF_A_PLUGIN, lambda: package)]
    offers = {f"{offer.kind}:{offer.name}": offer for offer in package.offers}
    for name in arguments:
        if name not in offers:
            raise UnknownName(f"{package.title} does not offer {name!r}.{nearest(name, offers)}")
    for name, offer in offers.items():
        found.append(_offered(name, offer, arguments.get(name, {}), make))
    return found


def _offered(name: str, offer: packages.Offer, fields: Mapping[str, Any], make: Make) -> Suite:
    """Return the promises of one component of a plugin, if it can be made."""
    entry = Entry(offer.name, offer.target, offer.plugin)
    try:
        component = entry.load()
        if offer.kind != "backends" or fields:
            component = _made(name, component, fields, make)
        return _kit(offer.kind).suite(component, name)
    except (Exception, SystemExit) as error:
        if fields:
            raise
        return Suite(name, offer.target, [_not_made(error)], lambda: None)


def _not_made(error: BaseException) -> Promise:
    """Return the promise of a component that could not be made by its defaults."""

    def made(subject: Any) -> Iterator[str]:
        raise NotApplicable(f"it is not made by its defaults: {error}")
        yield

    fix = "Give its fields defaults, or give the kit its arguments."
    return Promise("It can be made.", fix, made)
