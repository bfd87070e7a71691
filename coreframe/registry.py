"""Resolve names and build components: the tables that plugins offer, asked once a process."""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import inspect
import itertools
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from coreframe.discovery import BUILT_IN as BUILT_IN
from coreframe.discovery import Plugin as Plugin
from coreframe.discovery import discover, switch_off
from coreframe.errors import (
    AmbiguousName,
    ArgumentError,
    ArgumentTypeError,
    PluginError,
    PluginWarning,
    UnknownName,
    nearest,
)
from coreframe.isolation import explain, isolated, what_helps
from coreframe.isolation import lock as _lock
from coreframe.loading import Loader, warn
from coreframe.loading import import_target as import_target
from coreframe.plugin import KINDS

__all__ = [
    "Entry",
    "Plugin",
    "Registry",
    "argument_problems",
    "build",
    "parameters",
    "registry",
    "reset",
]

_OF_OTHERS = {*sys.stdlib_module_names, "coreframe", "numpy", "cupy", "torch", "jax"}
"""Packages that a plugin may name in a table, and that are none of its own."""


@dataclass(frozen=True)
class Entry:
    """One registered component: its name, its import target, and who offers it."""

    name: str
    target: str
    plugin: Plugin

    @property
    def qualified(self) -> str:
        return f"{self.plugin.key}:{self.name}"

    @property
    def origin(self) -> str:
        """For messages, " of DISTRIBUTION VERSION"; of our own, nothing."""
        who = self.plugin
        return "" if who.built_in else f" of {who.distribution} {who.version}"

    def load(self) -> Any:
        """Import the component. An error on the way says which plugin it belongs to."""
        module = self.target.partition(":")[0]
        deeds: list[str] = []
        try:
            if module in sys.modules:
                return import_target(self.target)
            with isolated(self.plugin, f"importing {module}") as deeds:
                return import_target(self.target)
        except Exception as error:
            hint = what_helps(self.plugin, error)
            error.add_note(
                f"while loading {self.name!r} ({self.target}) "
                f"of {self.plugin.distribution} {self.plugin.version}{hint and '; '}{hint}"
            )
            raise
        except BaseException as error:
            raise _made_an_error(self.plugin, error) from error
        finally:
            if deeds:
                warn(f"{self.plugin.title}, importing {module}: {'; '.join(deeds)}")


class Registry:
    """All plugins of this process and the tables they offer. Built once, on first use."""

    def __init__(self, plugins: list[Plugin]) -> None:
        self.plugins = plugins
        self._loader = Loader(plugins)
        self._tables: dict[str, list[Entry]] = {}

    def load(self) -> None:
        """Import all plugins that are wanted."""
        self._loader.load()

    def _offered(self, hook: str, **arguments: str) -> Iterator[tuple[Plugin, str, str]]:
        for plugin in self.plugins:
            for name, target in self._loader.ask(plugin, hook, **arguments).items():
                yield plugin, name, target

    def entries(self, kind: str) -> list[Entry]:
        """Return all components of a kind, our own first. Imports none of them."""
        if kind not in KINDS:
            raise UnknownName(f"there is no kind of component {kind!r}.{nearest(kind, KINDS)}")
        with _lock:
            found = self._tables.get(kind)
            if found is None:
                found = [Entry(n, target, p) for p, n, target in self._offered(f"coreframe_{kind}")]
                if self._loader.done:  # a plugin that asks at import sees those before it
                    self._tables[kind] = found
            self._loader.raise_kept()
            # A plugin whose other hook fails later is out as a whole.
            return [entry for entry in found if entry.plugin.state == "loaded"]

    def find(self, kind: str, name: str) -> Entry:
        """Return one component by name, ``distribution:name`` or ``distribution/plugin:name``.

        Raises UnknownName (with the nearest names) or AmbiguousName (with the qualified ones).
        """
        entries = self.entries(kind)
        owner, _, plain = name.rpartition(":")
        matches = [
            entry
            for entry in entries
            if entry.name == plain and owner in ("", entry.plugin.distribution, entry.plugin.key)
        ]
        if len(matches) == 1:
            return matches[0]
        if matches:
            options = ", ".join(f"{e.qualified} (version {e.plugin.version})" for e in matches)
            raise AmbiguousName(f"{name!r} is offered by several plugins; write one of: {options}")
        known = {entry.name for entry in entries} | {
            f"{entry.plugin.distribution}:{entry.name}" for entry in entries if owner
        }
        failed = [f"{p.key} {p.version}" for p in self.plugins if p.state == "failed"]
        hint = f" (Left out because they failed: {', '.join(failed)}.)" if failed else ""
        singular = kind.removesuffix("s") if kind != "losses" else "loss"
        raise UnknownName(f"no {singular} is named {name!r}.{nearest(name, known)}{hint}")

    def raise_kept(self) -> None:
        """Raise a warning that was made an error, once all else is in order."""
        self._loader.raise_kept()

    def owner(self, module: str) -> Plugin | None:
        """Return the third party's plugin that a module belongs to, by the longest common name."""
        found, most = None, 0
        for plugin in self.plugins:
            for other in set() if plugin.built_in else self._modules(plugin):
                if (same := _common(module, other)) > most:
                    found, most = plugin, same
        return found

    def _modules(self, plugin: Plugin) -> set[str]:
        """Return the modules of a plugin and of what it offers; not those that are others'."""
        targets = [e.target for table in self._tables.values() for e in table if e.plugin is plugin]
        found = {target.partition(":")[0] for target in [plugin.value, *targets]}
        return {name for name in found if name.partition(".")[0] not in _OF_OTHERS}

    def kernels(self, library: str) -> dict[str, str]:
        """Return all kernels for one array library; the first plugin to offer a name has it.

        Our operations on a library that we have a backend for, and our own components, take
        kernels from us alone: another plugin cannot change their results.
        """
        table: dict[str, str] = {}
        ours = own_plugin(library) is not None
        with _lock:
            for plugin, name, target in self._offered("coreframe_kernels", backend=library):
                guarded = name.startswith("coreframe") if ":" in name else ours
                if guarded and not plugin.built_in:
                    warnings.warn(
                        f"{plugin.title} offers a kernel {name!r} for {library}, which only "
                        "coreframe itself may; it is not used",
                        PluginWarning,
                        stacklevel=2,
                    )
                else:
                    table.setdefault(name, target)
        return table


def _common(one: str, other: str) -> int:
    """Return how many leading parts two dotted names share."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return len([*itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)])


_registry: Registry | None = None
_kernel_tables: dict[str, dict[str, str]] = {}


def registry(plugins: list[Plugin] | None = None) -> Registry:
    """Return the registry of this process, loading all plugins on the first call.

    ``plugins`` is what ``discover`` found, for callers that have looked already.
    """
    global _registry
    with _lock:
        if _registry is None:
            plugins = discover() if plugins is None else plugins
            switch_off(plugins)
            found = _registry = Registry(plugins)
            _kernel_tables.clear()
            try:
                found.load()
            except BaseException:  # an interrupt, or strictness: the next use begins anew
                _registry = None
                raise
            found.raise_kept()
        return _registry


def reset() -> None:
    """Forget all plugins, so that the next use reads them again (for tests and notebooks)."""
    global _registry
    with _lock:
        _registry = None
        _kernel_tables.clear()


def kernel_table(library: str) -> Mapping[str, str]:
    """Return the kernels for an array library without loading third parties for it.

    Until the registry is used, only our own backend package for that library is asked: an
    operation on plain arrays must not import every plugin of the machine.
    """
    table = _kernel_tables.get(library)
    if table is None:
        with _lock:
            if _registry is not None:
                table = _registry.kernels(library)
            else:
                module = own_plugin(library)
                table = dict(module.coreframe_kernels(backend=library)) if module else {}
            _kernel_tables[library] = table
    return table


@functools.cache
def own_plugin(library: str) -> Any:
    """Return the plugin module of our own backend package for an array library, or None."""
    for plugin in discover():
        if plugin.built_in and plugin.name == f"coreframe_{library}":
            return importlib.import_module(plugin.value)
    return None


# Building -----------------------------------------------------------------------------------


def parameters(component: Any) -> dict[str, inspect.Parameter]:
    """Return the named parameters of a component's constructor."""
    return {
        name: parameter
        for name, parameter in inspect.signature(component).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }


def argument_problems(name: str, component: Any, arguments: Mapping[str, Any]) -> Iterator[str]:
    """Yield one sentence for each unknown or missing argument of a component."""
    known = parameters(component)
    for key in arguments:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            takes = ", ".join(known) or "none"
            hint = f" Did you mean {close[0]!r}?" if close else f" It takes: {takes}."
            yield f"{name} takes no parameter {key!r}.{hint}"
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in arguments:
            yield f"{name} needs {key!r}."


def component(kind: str, given: Any, wanted: type) -> Any:
    """Return a component that is given as an object, or by a registered name."""
    found = build(kind, given) if isinstance(given, str) else given
    if not isinstance(found, wanted):
        came = f"{given!r}"
        if isinstance(given, str):
            origin = registry().find(kind, given).origin
            came += f"{origin}, which makes a {type(found).__name__}"
        raise ArgumentTypeError(f"{kind} takes a name or a coreframe.{wanted.__name__}, got {came}")
    return found


def build(kind: str, name: str, /, **arguments: Any) -> Any:
    """Build a component by name: ``build("losses", "info_nce", temperature=0.05)``.

    Kind and name are positional, since components have fields of these names too.
    """
    with naming_plugins():
        entry = registry().find(kind, name)
        component = entry.load()
        if problems := list(argument_problems(name, component, arguments)):
            raise ArgumentError(" ".join(problems))
        try:
            return component(**arguments)
        except Exception as error:
            if entry.origin and not place_of(error):  # an abstract class, in no code of it
                error.add_note(f"while making {name!r}{entry.origin}")
            raise


# Whose error it is ----------------------------------------------------------------------------


@contextlib.contextmanager
def naming_plugins() -> Iterator[None]:
    """Add to an error the plugin that it comes from; one that would end the program is an error.

    ``sys.exit`` in a component must not look like the end of a run.
    """
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        found = _owner(error)
        if found is None:
            raise
        if not isinstance(error, Exception):
            raise _made_an_error(found[0], error) from error
        note = place_of(error)
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise


def _made_an_error(plugin: Plugin, error: BaseException) -> BaseException:
    if isinstance(error, KeyboardInterrupt):
        return error
    return PluginError(f"{plugin.title} failed: {explain(plugin, error)}")


def title(component: Any) -> str:
    """Return the name of a component's class and, of a third party's, its module and plugin."""
    kind = type(component)
    plugin = registry().owner(kind.__module__)
    return f"{kind.__name__} ({kind.__module__}) of {plugin.title}" if plugin else kind.__name__


def place_of(error: BaseException) -> str:
    """Return "in plugin NAME VERSION (PLACE)" of an error that comes from one, else nothing."""
    found = _owner(error)
    return f"in {found[0].title} ({found[1]})" if found else ""


def _owner(error: BaseException) -> tuple[Plugin, str] | None:
    """Return the plugin of the innermost frame that is one's, or works on a component of one."""
    if _registry is None:
        return None
    found, step = None, error.__traceback__
    while step is not None:
        frame, line = step.tb_frame, step.tb_lineno
        component = type(frame.f_locals.get("self"))
        file = os.path.basename(frame.f_code.co_filename)
        for module, place in (
            (frame.f_globals.get("__name__"), f"{file}:{line}"),
            (component.__module__, component.__name__),
        ):
            if owner := _registry.owner(str(module)):
                found = owner, place
                break
        step = step.tb_next
    return found
