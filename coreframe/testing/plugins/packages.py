"""An installed distribution with plugins in it: what it offers, and what its import does."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from coreframe.discovery import Plugin, discover, normalised
from coreframe.errors import UnknownName, nearest
from coreframe.loading import Loader
from coreframe.plugin import KINDS


class Offer(NamedTuple):
    """A line of a table that a plugin returns."""

    kind: str
    name: str
    target: str
    plugin: Plugin


@dataclass(frozen=True, eq=False)
class Package:
    """An installed distribution with plugins in it, or a module that is none's."""

    title: str
    plugins: tuple[Plugin, ...]

    @property
    def is_installed(self) -> bool:
        return bool(self.plugins[0].distribution)

    @cached_property
    def loader(self) -> Loader:
        """The plugins, loaded beside the registry, which may have left them out or renamed them."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loader = Loader(list(self.plugins))
            loader.load()
        return loader

    @cached_property
    def offers(self) -> list[Offer]:
        """All components that the hooks offer."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [
                Offer(kind, name, target, plugin)
                for plugin in self.loader.plugins
                for kind in KINDS
                for name, target in self.loader.ask(plugin, f"coreframe_{kind}").items()
            ]

    @property
    def anew(self) -> Package:
        """The same package, not loaded yet."""
        fresh = (replace(plugin, state="found", hooks={}) for plugin in self.plugins)
        return Package(self.title, tuple(fresh))

    def kernels(self, library: str) -> dict[str, str]:
        """Return all kernels that the hooks offer for one array library."""
        found: dict[str, str] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for plugin in self.loader.plugins:
                found |= self.loader.ask(plugin, "coreframe_kernels", backend=library)
        return found

    @cached_property
    def roots(self) -> set[str]:
        """The top-level packages that the plugins and what they offer live in."""
        targets = [plugin.module for plugin in self.plugins]
        targets += [offer.target for offer in self.offers]
        return {target.partition(":")[0].partition(".")[0] for target in targets} - {"coreframe"}

    def first_import(self, mode: str) -> dict[str, dict[str, Any]]:
        """Return what the import of each plugin module does in a process just started."""
        modules = list(dict.fromkeys(plugin.module for plugin in self.plugins))
        code = Path(__file__).with_name("first_import.py").read_text(encoding="utf-8")
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = {**os.environ, "PYTHONPATH": path}
        with tempfile.TemporaryDirectory() as folder:
            result = Path(folder, "result.json")
            command = [sys.executable, "-c", code, mode, str(result), *modules]
            ran = subprocess.run(
                command, env=environment, cwd=folder, capture_output=True, text=True, check=False
            )
            if not result.exists():
                lines = (ran.stderr or "no message").strip().splitlines()
                raise RuntimeError(f"the process ended with code {ran.returncode}: {lines[-1]}")
            found: dict[str, dict[str, Any]] = json.loads(result.read_text(encoding="utf-8"))
        if said := (ran.stdout + ran.stderr).strip():  # past Python's own stdout
            found[modules[0]]["printed"] = found[modules[0]].get("printed", "") + said
        return found

    @cached_property
    def bare_import(self) -> dict[str, dict[str, Any]]:
        return self.first_import("bare")

    @cached_property
    def watched_import(self) -> dict[str, dict[str, Any]]:
        return self.first_import("watched")

    def sources(self) -> Iterator[Path]:
        """Yield the Python files of all packages."""
        for root in sorted(self.roots):
            spec = importlib.util.find_spec(root)
            if spec is None:
                continue
            for folder in spec.submodule_search_locations or ():
                yield from sorted(Path(folder).rglob("*.py"))
            if spec.submodule_search_locations is None and spec.origin:
                yield Path(spec.origin)


def package(name: str) -> Package:
    """Return what a distribution, an entry point or a module means.

    Raises UnknownName with the nearest of what is installed.
    """
    installed = discover()
    found = [p for p in installed if name in p.names or normalised(name) == p.distribution]
    found = found or [p for p in installed if name in (p.module, p.module.partition(".")[0])]
    if found:
        first = found[0]
        whole = normalised(name) == first.distribution
        title = f"{first.distribution} {first.version}" if whole else first.key
        return Package(title, tuple(found))
    if not is_module(name):
        known = {p.distribution for p in installed}
        raise UnknownName(
            f"{name!r} is no installed distribution with an entry point of the group coreframe, "
            f"and no module.{nearest(name, known)}"
        )
    return Package(name, (Plugin("", "?", name, name),))


def is_module(name: str) -> bool:
    """Say whether a text names a module that is there."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def distributions() -> set[str]:
    """Return the names of all installed distributions with plugins in them."""
    return {plugin.distribution for plugin in discover()}
