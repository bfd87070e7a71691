"""Find plugins, resolve names, build components.

Entry points are loaded by hand, each on its own, because pluggy's loader stops at the first
broken plugin and silently drops a second entry point of the same name. A plugin that fails is
left out with one warning that names it; everything else goes on. This is robustness, not a
sandbox: a plugin is code that runs with the rights of the process.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import os
import re
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import pluggy

from coreframe.errors import (
    AmbiguousName,
    ArgumentError,
    PluginError,
    PluginWarning,
    UnknownName,
    nearest,
)
from coreframe.plugin import GROUP, HOOKS, KINDS, Hooks

_lock = threading.RLock()  # one for all of this module, so that no two can be taken crosswise

BUILT_IN = "coreframe-ml"
SLOW_IMPORT_SECONDS = 5.0
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")


@dataclass
class Plugin:
    """One entry point: where it comes from and how loading it went."""

    distribution: str
    version: str
    name: str
    value: str
    state: str = "found"  # found | loaded | failed | off
    error: str = ""
    seconds: float = 0.0
    hooks: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def key(self) -> str:
        return f"{self.distribution}/{self.name}"

    @property
    def names(self) -> set[str]:
        """The names by which COREFRAME_PLUGINS may call it."""
        return {self.name, self.distribution, self.key}

    @property
    def kinds(self) -> list[str]:
        return [hook.removeprefix("coreframe_") for hook in self.hooks]

    @property
    def built_in(self) -> bool:
        return self.distribution == BUILT_IN


@dataclass(frozen=True)
class Entry:
    """One registered component: its name, its import target, and who offers it."""

    name: str
    target: str
    plugin: Plugin

    @property
    def qualified(self) -> str:
        return f"{self.plugin.key}:{self.name}"

    def load(self) -> Any:
        """Import the component. An error on the way says which plugin it belongs to."""
        try:
            return import_target(self.target)
        except Exception as error:
            error.add_note(
                f"while loading {self.name!r} ({self.target}) "
                f"of {self.plugin.distribution} {self.plugin.version}"
            )
            raise


def import_target(target: str) -> Any:
    """Import ``package.module:attribute``."""
    module, _, attribute = target.partition(":")
    found = importlib.import_module(module)
    try:
        return getattr(found, attribute)
    except AttributeError:
        raise ImportError(f"module {module!r} has no attribute {attribute!r}") from None


def discover() -> list[Plugin]:
    """Read the metadata of all installed plugins; import nothing."""
    found: dict[str, Plugin] = {}
    for entry_point in metadata.entry_points(group=GROUP):
        # The remains of a failed installation have neither name nor version.
        about: Any = entry_point.dist.metadata if entry_point.dist else {}
        name = re.sub(r"[-_.]+", "-", about.get("Name") or "unknown").lower()
        version = about.get("Version") or "?"
        plugin = Plugin(name, version, entry_point.name, entry_point.value)
        found.setdefault(plugin.key, plugin)
    return sorted(found.values(), key=lambda p: (not p.built_in, p.key))


def _wanted(plugin: Plugin, setting: str | None) -> bool:
    """Apply ``COREFRAME_PLUGINS``: unset = all; empty or none = built-ins; ``a,b`` or ``-a``."""
    if setting is None:
        return True
    words, names = _words(setting), plugin.names
    if any(word[1:] in names for word in words if word.startswith("-")):
        return False
    only = [word for word in words if not word.startswith("-")]
    if plugin.built_in or (words and not only):
        return True
    return any(word in names for word in only if word != "none")


def _words(setting: str) -> list[str]:
    return [word.strip() for word in setting.split(",") if word.strip()]


def _warn_of_unknown_names(plugins: list[Plugin], setting: str | None) -> None:
    known = {"none"}.union(*(plugin.names for plugin in plugins))
    for name in (word.removeprefix("-") for word in _words(setting or "")):
        if name not in known:
            warnings.warn(
                f"COREFRAME_PLUGINS names {name!r}, which is not installed.{nearest(name, known)}",
                PluginWarning,
                stacklevel=2,
            )


class Registry:
    """All plugins of this process and the tables they offer. Built once, on first use."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(Hooks)
        self.plugins = discover()
        self._tables: dict[str, list[Entry]] = {}
        setting = os.environ.get("COREFRAME_PLUGINS")
        _warn_of_unknown_names(self.plugins, setting)
        for plugin in self.plugins:
            if _wanted(plugin, setting):
                self._load(plugin)
            else:
                plugin.state = "off"

    # Loading ------------------------------------------------------------------------------

    def _load(self, plugin: Plugin) -> None:
        started = time.perf_counter()
        try:
            module = importlib.import_module(plugin.value.partition(":")[0])
            target = import_target(plugin.value) if ":" in plugin.value else module
            self._manager.register(target, name=plugin.key)
            plugin.hooks = dict(self._implementations(target))
            plugin.state = "loaded"
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._fail(plugin, error)
        plugin.seconds = time.perf_counter() - started
        if plugin.seconds > SLOW_IMPORT_SECONDS:
            warnings.warn(
                f"plugin {plugin.key} {plugin.version} took {plugin.seconds:.1f} s to import; "
                f"COREFRAME_PLUGINS=-{plugin.key} leaves it out",
                PluginWarning,
                stacklevel=2,
            )

    def _implementations(self, target: Any) -> Iterator[tuple[str, Any]]:
        """Yield the hooks that a registered module implements; a misspelt one is an error."""
        hooks = self._manager.get_hookcallers(target)
        if not hooks:
            raise PluginError("it implements no hook; is the decorator @hookimpl missing?")
        for hook in hooks:
            ours = next(i for i in hook.get_hookimpls() if i.plugin is target)
            if hook.has_spec():
                yield hook.name, ours
            elif not ours.optionalhook:
                # Compared without the prefix that all share, or everything would be near.
                plain = hook.name.removeprefix("coreframe_")
                close = difflib.get_close_matches(plain, [*KINDS, "kernels"], n=1)
                known = f"Known: {', '.join(HOOKS)}."
                hint = f"Did you mean 'coreframe_{close[0]}'?" if close else known
                raise PluginError(f"unknown hook {hook.name!r}. {hint}")

    def _fail(self, plugin: Plugin, error: BaseException) -> None:
        """Roll a plugin back and say so once, naming it."""
        if self._manager.has_plugin(plugin.key):
            self._manager.unregister(name=plugin.key)
        plugin.hooks.clear()
        plugin.state = "failed"
        plugin.error = _explain(error)
        message = f"plugin {plugin.key} {plugin.version} was left out: {plugin.error}"
        if os.environ.get("COREFRAME_STRICT") == "1":
            raise PluginError(message) from error
        warnings.warn(message, PluginWarning, stacklevel=2)

    def _ask(self, plugin: Plugin, hook: str, **arguments: str) -> Mapping[str, str]:
        """Call one hook of one plugin and check the table that it returns."""
        if hook not in plugin.hooks:
            return {}
        try:
            ours = plugin.hooks[hook]  # which may take fewer arguments than the hook has
            table = ours.function(*(arguments[name] for name in ours.argnames))
            if not isinstance(table, Mapping):
                raise PluginError(f"{hook} must return a mapping, got {type(table).__name__}")
            for name, target in table.items():
                # A kernel may be keyed by a class, "module:Class"; a component name may not.
                if hook != "coreframe_kernels" and not _NAME.match(str(name)):
                    raise PluginError(f"{hook}: {name!r} is not a name (a-z, 0-9 and _)")
                if not isinstance(target, str) or not _TARGET.match(target):
                    raise PluginError(f"{hook}: {target!r} is not 'package.module:attribute'")
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._fail(plugin, error)
            # What it had offered before goes too: a plugin is in or out as a whole.
            for entries in self._tables.values():
                entries[:] = [entry for entry in entries if entry.plugin is not plugin]
            return {}
        return table

    # Looking up ---------------------------------------------------------------------------

    def entries(self, kind: str) -> list[Entry]:
        """Return all components of a kind, our own first. Imports none of them."""
        if kind not in KINDS:
            raise UnknownName(f"there is no kind of component {kind!r}.{nearest(kind, KINDS)}")
        with _lock:
            if kind not in self._tables:
                self._tables[kind] = [
                    Entry(name, target, plugin)
                    for plugin in self.plugins
                    for name, target in self._ask(plugin, f"coreframe_{kind}").items()
                ]
            return list(self._tables[kind])

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
            options = ", ".join(entry.qualified for entry in matches)
            raise AmbiguousName(f"{name!r} is offered by several plugins; write one of: {options}")
        known = {entry.name for entry in entries} | {
            f"{entry.plugin.distribution}:{entry.name}" for entry in entries if owner
        }
        failed = [p.key for p in self.plugins if p.state == "failed"]
        hint = f" (Left out because they failed: {', '.join(failed)}.)" if failed else ""
        singular = kind.removesuffix("s") if kind != "losses" else "loss"
        raise UnknownName(f"no {singular} is named {name!r}.{nearest(name, known)}{hint}")

    def kernels(self, library: str) -> dict[str, str]:
        """Return all kernels for one array library; the first plugin to offer a name has it.

        Our operations on a library that we have a backend for, and our own components, take
        kernels from us alone: another plugin cannot change their results.
        """
        table: dict[str, str] = {}
        ours = own_plugin(library) is not None
        with _lock:
            for plugin in self.plugins:
                for name, target in self._ask(plugin, "coreframe_kernels", backend=library).items():
                    guarded = name.startswith("coreframe") if ":" in name else ours
                    if guarded and not plugin.built_in:
                        warnings.warn(
                            f"plugin {plugin.key} {plugin.version} offers a kernel {name!r} for "
                            f"{library}, which only coreframe itself may; it is not used",
                            PluginWarning,
                            stacklevel=2,
                        )
                    else:
                        table.setdefault(name, target)
        return table


_registry: Registry | None = None
_kernel_tables: dict[str, dict[str, str]] = {}


def registry() -> Registry:
    """Return the registry of this process, loading all plugins on the first call."""
    global _registry
    with _lock:
        if _registry is None:
            _registry = Registry()
            _kernel_tables.clear()
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


def build(kind: str, name: str, **arguments: Any) -> Any:
    """Build a component by name: ``build("losses", "info_nce", temperature=0.05)``."""
    component = registry().find(kind, name).load()
    if problems := list(argument_problems(name, component, arguments)):
        raise ArgumentError(" ".join(problems))
    return component(**arguments)


def _explain(error: BaseException) -> str:
    """One line for an exception, with the place inside the plugin where it happened."""
    if isinstance(error, PluginError):  # ours: it happened in no place of the plugin
        return str(error)
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    frames = traceback.extract_tb(error.__traceback__)
    foreign = [f for f in frames if "importlib" not in f.filename and f.filename != __file__]
    if not foreign:
        return text
    return f"{text} ({os.path.basename(foreign[-1].filename)}:{foreign[-1].lineno})"
