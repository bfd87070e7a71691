"""Import plugins one by one, take their hooks, and leave out those that fail.

Entry points are loaded by hand, each on its own, because pluggy's loader stops at the first
broken plugin and silently drops a second entry point of the same name. A plugin that fails is
left out with one warning that names it; everything else goes on.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import logging
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import pluggy

from coreframe import isolation
from coreframe.discovery import VERSION, Plugin
from coreframe.errors import PluginError, PluginWarning
from coreframe.isolation import explain, isolated
from coreframe.plugin import GROUP, HOOKS, KINDS, RETIRED, Hooks

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*\Z")
_log = logging.getLogger(__name__)


def import_target(target: str) -> Any:
    """Import ``package.module:attribute``."""
    module, _, attribute = target.partition(":")
    found = importlib.import_module(module)
    try:
        return getattr(found, attribute)
    except AttributeError:
        raise ImportError(f"module {module!r} has no attribute {attribute!r}") from None


def warn(message: str) -> None:
    """Warn, or raise where COREFRAME_STRICT asks for it."""
    if os.environ.get("COREFRAME_STRICT") == "1":
        raise PluginError(message)
    warnings.warn(message, PluginWarning, stacklevel=3)


class Loader:
    """The plugins of a process while they are imported and asked."""

    def __init__(self, plugins: list[Plugin]) -> None:
        self._manager = pluggy.PluginManager(GROUP)
        self._manager.add_hookspecs(Hooks)
        self.plugins = plugins
        self.done = False
        self._raised: list[PluginWarning] = []

    def load(self) -> None:
        """Import all plugins that are wanted."""
        for plugin in self.plugins:
            if plugin.state == "failed":  # by its metadata; it is not imported
                self._say_failed(plugin)
            elif plugin.state == "found":
                if plugin.deeds:  # a doubt that the metadata raises
                    self._say(f"{plugin.title}: {plugin.deeds}")
                self._load(plugin)
        self.done = True

    def _load(self, plugin: Plugin) -> None:
        started, deeds = time.perf_counter(), []
        plugin.state = "importing"
        try:
            with isolated(plugin, "importing") as deeds:
                module = importlib.import_module(plugin.module)
                target = import_target(plugin.value) if ":" in plugin.value else module
                self._manager.register(target, name=plugin.key)
            plugin.hooks = dict(self._implementations(plugin, target))
            plugin.state = "loaded"
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._fail(plugin, error, deeds)
        else:
            self._say_deeds(plugin, "at import", deeds)
        plugin.seconds = time.perf_counter() - started
        if plugin.seconds > isolation.SLOW_SECONDS:
            _log.warning("%s took %.1f s to import", plugin.title, plugin.seconds)

    def _implementations(self, plugin: Plugin, target: Any) -> Iterator[tuple[str, Any]]:
        """Yield the hooks that a registered module implements; a misspelt one is an error."""
        hooks = self._manager.get_hookcallers(target)
        if not hooks:
            raise PluginError("it implements no hook; is the decorator @hookimpl missing?")
        names = {hook.name for hook in hooks}
        for hook in hooks:
            ours = next(i for i in hook.get_hookimpls() if i.plugin is target)
            if hook.has_spec():
                yield hook.name, ours
            elif hook.name in RETIRED:
                retired = RETIRED[hook.name]
                if retired.now not in names:  # it offers both to serve older versions too
                    yield retired.now, ours
                    _warn_of_retired(plugin, hook.name)
            elif not ours.optionalhook:
                # Compared without the prefix that all share, or everything would be near.
                plain = hook.name.removeprefix("coreframe_")
                close = difflib.get_close_matches(plain, [*KINDS, "kernels"], n=1)
                hint = f" Did you mean 'coreframe_{close[0]}'?" if close else ""
                raise PluginError(
                    f"unknown hook {hook.name!r}.{hint} "
                    f"coreframe {VERSION} knows: {', '.join(HOOKS)}"
                )

    def _fail(self, plugin: Plugin, error: BaseException, deeds: list[str]) -> None:
        """Roll a plugin back and say so once, naming it."""
        if self._manager.has_plugin(plugin.key):
            self._manager.unregister(name=plugin.key)
        plugin.fail(explain(plugin, error))
        _add_deeds(plugin, deeds)
        also = f". Also, {'; '.join(deeds)}" if deeds else ""
        self._say_failed(plugin, also, error)

    def _say_failed(
        self, plugin: Plugin, also: str = "", error: BaseException | None = None
    ) -> None:
        self._say(f"{plugin.title} was left out: {plugin.error}{also}", error)

    def _say_deeds(self, plugin: Plugin, when: str, deeds: list[str]) -> None:
        if deeds:
            _add_deeds(plugin, deeds)
            self._say(f"{plugin.title}, {when}: {'; '.join(deeds)}")

    def _say(self, message: str, error: BaseException | None = None) -> None:
        """Warn. Where warnings are errors, keep it until all plugins are loaded."""
        try:
            warn(message)
        except PluginWarning as warning:
            self._raised.append(warning)
        except PluginError as strict:
            raise strict from error

    def raise_kept(self) -> None:
        """Raise a warning that was made an error, once all else is in order."""
        if self._raised:
            raise self._raised.pop(0)

    def ask(self, plugin: Plugin, hook: str, **arguments: str) -> Mapping[str, str]:
        """Call one hook of one plugin and check the table that it returns."""
        if hook not in plugin.hooks:
            return {}
        deeds: list[str] = []
        try:
            ours = plugin.hooks[hook]  # which may take fewer arguments than the hook has
            with isolated(plugin, f"in {hook}") as deeds:
                table = ours.function(*(arguments[name] for name in ours.argnames))
                if not isinstance(table, Mapping):
                    if inspect.iscoroutine(table):
                        table.close()  # or Python warns of it too
                    raise PluginError(f"{hook} must return a mapping, got {type(table).__name__}")
                table = dict(table)
            table = _checked(hook, table)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            self._fail(plugin, error, deeds)
            return {}
        self._say_deeds(plugin, f"in {hook}", deeds)
        return table


def _add_deeds(plugin: Plugin, deeds: list[str]) -> None:
    plugin.deeds = "; ".join(filter(None, (plugin.deeds, *deeds)))


def _checked(hook: str, table: Mapping[Any, Any]) -> dict[str, str]:
    """Return a table as plain texts, or raise PluginError."""
    found = {}
    for name, target in table.items():
        # A kernel may be keyed by a class, "module:Class"; a component name may not.
        if not isinstance(name, str) or (hook != "coreframe_kernels" and not _NAME.match(name)):
            raise PluginError(f"{hook}: {name!r} is not a name (a-z, 0-9 and _)")
        if not isinstance(target, str) or not _TARGET.match(target):
            raise PluginError(f"{hook}: {target!r} is not 'package.module:attribute'")
        found[str.__str__(name)] = str.__str__(target)  # of a subclass, the text alone
    return found


def _warn_of_retired(plugin: Plugin, hook: str) -> None:
    warnings.warn(
        f"{plugin.title} implements {hook!r}, which is {RETIRED[hook].now!r} now; "
        f"the old name is not called any more from coreframe {RETIRED[hook].until} on",
        DeprecationWarning,
        stacklevel=2,
    )
