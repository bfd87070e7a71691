"""What a plugin promises as a package: its metadata, its hooks, and what its import does."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from coreframe import registry
from coreframe.adapter import Adapter
from coreframe.callbacks import Callback
from coreframe.discovery import BUILT_IN, Plugin, discover, normalised
from coreframe.embedder import Embedder
from coreframe.errors import UnknownName, nearest
from coreframe.loading import Loader, import_target
from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.optimizer import Optimizer
from coreframe.plugin import KINDS
from coreframe.regularizer import Regularizer
from coreframe.sampler import Sampler
from coreframe.scheduler import Scheduler
from coreframe.testing import checks
from coreframe.testing.backends import METHODS, is_backend
from coreframe.testing.checks import NotApplicable, Promise, Remark, explain

SLOW_SECONDS = 5.0
HEAVY = ("cupy", "jax", "numpy", "tensorflow", "torch")
"""Libraries that listing components must not import."""
UNKNOWN_LIBRARY = "a_library_that_nobody_has"

PROMISES: list[Promise] = []

BASES: Mapping[str, type] = {
    "losses": Loss,
    "miners": Miner,
    "optimizers": Optimizer,
    "schedulers": Scheduler,
    "regularizers": Regularizer,
    "adapters": Adapter,
    "samplers": Sampler,
    "callbacks": Callback,
    "embedders": Embedder,
}
"""The interface of each kind; backends follow a protocol."""


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
        whole = {p.distribution for p in found} | {""}
        title = f"{found[0].distribution} {found[0].version}" if len(whole) == 2 else name
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


# Metadata -----------------------------------------------------------------------------------


@checks.promise(
    PROMISES,
    "Its metadata say that it needs coreframe-ml, in a version that is this one.",
    fix='Write dependencies = ["coreframe-ml>=0.1,<0.2"] in pyproject.toml, and install it again.',
)
def packaging(subject: Package) -> Iterator[str]:
    yield from _without_types(subject)
    if not subject.is_installed:
        raise NotApplicable("it is a module, no installed distribution")
    if subject.plugins[0].built_in:
        raise NotApplicable("it is coreframe itself")
    for plugin in subject.plugins:
        if plugin.state == "failed":
            yield f"{plugin.key}: {plugin.error}"
    wanted = [text for text in subject.plugins[0].requires if _names_coreframe(text)]
    if not wanted:
        yield f"{subject.title} does not require {BUILT_IN}"
    elif not any(mark in text for text in wanted for mark in ("<", "~=", "==")):
        yield Remark(
            f"{wanted[0]!r} has no upper bound, and a later coreframe may have changed what it "
            "uses: write coreframe-ml>=0.1,<0.2"
        )


def _names_coreframe(text: str) -> bool:
    return normalised(re.split(r"[^\w.-]", text.strip(), maxsplit=1)[0]) == BUILT_IN


def _without_types(subject: Package) -> Iterator[str]:
    """Yield a remark for each package whose annotations type checkers do not read."""
    for root in sorted(subject.roots):
        spec = importlib.util.find_spec(root)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        if folders and not any(Path(folder, "py.typed").exists() for folder in folders):
            yield Remark(f"{root} has no py.typed, so that type checkers do not look into it")


# What it offers -----------------------------------------------------------------------------


@checks.promise(
    PROMISES,
    "Each of its entry points can be imported.",
    fix='Write [project.entry-points.coreframe] my_plugin = "my_package.my_module" for a module '
    "that is in the wheel; leave what is optional to the functions that use it.",
)
def importable(subject: Package) -> Iterator[str]:
    for plugin in subject.plugins:
        try:
            import_target(plugin.value) if ":" in plugin.value else importlib.import_module(
                plugin.module
            )
        except (Exception, SystemExit) as error:
            yield f"{plugin.key or plugin.module}: {explain(error)}"


@checks.promise(
    PROMISES,
    "Its hooks are those that coreframe knows, with the arguments that they have.",
    fix="Mark functions of the names in coreframe.plugin with @hookimpl; only coreframe_kernels "
    "takes an argument, `backend`.",
    needs=("importable",),
)
def hooks(subject: Package) -> Iterator[str]:
    for plugin in subject.loader.plugins:
        if plugin.state == "failed":
            yield f"{plugin.key}: {plugin.error}"


@checks.promise(
    PROMISES,
    "Its hooks return tables of names, a to z, 0 to 9 and _, to 'package.module:attribute'.",
    fix="Return a plain dict from every hook, always the same one; nothing is imported for it.",
    needs=("hooks",),
)
def tables(subject: Package) -> Iterator[str]:
    offers = subject.offers
    for plugin in subject.loader.plugins:
        if plugin.state == "failed":
            yield f"{plugin.key}: {plugin.error}"
    if not offers and not subject.kernels("numpy"):
        yield "it offers nothing"
    again = replace_plugins(subject).offers
    if [offer[:3] for offer in again] != [offer[:3] for offer in offers]:
        yield "it offers something else when it is asked a second time"


def replace_plugins(subject: Package) -> Package:
    """Return the same package, not loaded yet."""
    fresh = (replace(plugin, state="found", hooks={}) for plugin in subject.plugins)
    return Package(subject.title, tuple(fresh))


@checks.promise(
    PROMISES,
    "Everything that it offers can be imported, and is a class of its kind.",
    fix="Correct the target in the table; subclass the interface of the kind.",
    needs=("tables",),
)
def targets(subject: Package) -> Iterator[str]:
    for offer in subject.offers:
        where = f"{offer.kind}:{offer.name} ({offer.target})"
        try:
            found = import_target(offer.target)
        except (Exception, SystemExit) as error:
            yield f"{where}: {explain(error)}"
            continue
        base = BASES.get(offer.kind)
        if base is None and not is_backend(found):
            yield f"{where} has not all of {', '.join(METHODS)}"
        elif base and not (isinstance(found, type) and issubclass(found, base)):
            yield f"{where} is no subclass of coreframe.{base.__name__}"


@checks.promise(
    PROMISES,
    "Its kernels can be imported where their library is, and for other libraries it has none.",
    fix="Look at the argument of coreframe_kernels(backend): return {} for libraries that are not "
    "yours, and correct the targets.",
    needs=("hooks",),
)
def kernels(subject: Package) -> Iterator[str]:
    if not any("coreframe_kernels" in plugin.hooks for plugin in subject.loader.plugins):
        raise NotApplicable("it offers no kernels")
    if subject.kernels(UNKNOWN_LIBRARY):
        yield f"it offers kernels for {UNKNOWN_LIBRARY!r}"
    for library in ("numpy", "torch", "jax", "cupy"):
        if importlib.util.find_spec(library) is None:
            continue
        for name, target in subject.kernels(library).items():
            try:
                import_target(target)
            except (Exception, SystemExit) as error:
                yield f"the kernel {name} for {library} ({target}): {explain(error)}"
    for plugin in subject.loader.plugins:
        if plugin.state == "failed":
            yield f"{plugin.key}: {plugin.error}"


@checks.promise(
    PROMISES,
    "Its names are its own, so that they can be used without its own name before them.",
    fix="Choose names that no other plugin offers; what two offer must be written "
    "distribution:name.",
    needs=("tables",),
)
def unique(subject: Package) -> Iterator[str]:
    mine = {plugin.key for plugin in subject.plugins}
    seen: dict[tuple[str, str], str] = {}
    for offer in subject.offers:
        key = (offer.kind, offer.name)
        if key in seen:
            yield f"{offer.kind}:{offer.name} is offered twice, as {seen[key]} and {offer.target}"
        seen[key] = offer.target
        for entry in registry.registry().entries(offer.kind):
            if entry.name == offer.name and entry.plugin.key not in mine:
                yield Remark(f"{offer.kind}:{offer.name} is offered by {entry.plugin.key} too")


# What its import does -----------------------------------------------------------------------


@checks.promise(
    PROMISES,
    "Importing the plugin imports no array library and none of the components.",
    fix="Keep the module of the entry point to its hooks, and name components by their import "
    "targets; leave the package's __init__.py without imports of them.",
    needs=("importable",),
)
def light_import(subject: Package) -> Iterator[str]:
    entry_points = {plugin.module for plugin in subject.plugins}
    components = {offer.target.partition(":")[0] for offer in subject.offers} - entry_points
    for module, found in subject.bare_import.items():
        for heavy in [*HEAVY, *sorted(components)]:
            if heavy in found["modules"]:
                yield f"importing {module} imports {heavy}"


@checks.promise(
    PROMISES,
    f"Importing the plugin takes less than {SLOW_SECONDS:g} seconds.",
    fix="Read files, open connections and load models when a component is used.",
    needs=("importable",),
)
def quick_import(subject: Package) -> Iterator[str]:
    for module, found in subject.bare_import.items():
        if found["seconds"] > SLOW_SECONDS:
            yield f"importing {module} took {found['seconds']:.1f} s"


@checks.promise(
    PROMISES,
    "Importing the plugin prints nothing.",
    fix="Delete the print, or log with logging.getLogger(__name__).debug(...).",
    needs=("importable",),
)
def silent_import(subject: Package) -> Iterator[str]:
    for module, found in subject.watched_import.items():
        if found["printed"]:
            yield f"importing {module} prints {found['printed'][:60]!r}"


@checks.promise(
    PROMISES,
    "Importing the plugin changes nothing that the process shares: warning filters, floating-point "
    "errors, threads, environment, signals, logging, random state.",
    fix="Do at no import what others would notice; do it around the operation, and put it back.",
    needs=("importable",),
)
def clean_import(subject: Package) -> Iterator[str]:
    for module, found in subject.watched_import.items():
        for change in found["changes"]:
            yield f"importing {module}: {change}"


@checks.promise(
    PROMISES,
    "It imports public modules of coreframe alone, and no other plugin.",
    fix="Import from coreframe and the modules that docs/stability.md lists; copy a helper that "
    "you need from elsewhere, or ask for it to be made public.",
    needs=("importable",),
)
def public_imports(subject: Package) -> Iterator[str]:
    others = {p.module.partition(".")[0] for p in discover()} - subject.roots - {"coreframe"}
    if subject.plugins[0].built_in:
        others = set()  # ours are held apart by import-linter, each from all others
    for path in subject.sources():
        for module, line in _imports(path):
            if not is_public(module):
                yield f"{path.name}:{line} imports {module}, which is not public"
            elif module.partition(".")[0] in others:
                yield f"{path.name}:{line} imports {module}, another plugin"


PRIVATE = {
    "coreframe.cli",
    "coreframe.config",
    "coreframe.console",
    "coreframe.experiment",
    "coreframe.outputs",
    "coreframe.registry",
    "coreframe.report",
    "coreframe.trainer",
}
"""Modules whose contents may change in any version."""


def is_public(module: str) -> bool:
    """Say whether a plugin may import a module."""
    parts = module.split(".")
    return not any(".".join(parts[:n]) in PRIVATE for n in range(1, len(parts) + 1))


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the modules that a file imports, also inside functions, with the lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module, node.lineno
            if node.module == "coreframe":  # from coreframe import registry
                yield from ((f"coreframe.{alias.name}", node.lineno) for alias in node.names)


def distributions() -> set[str]:
    """Return the names of all installed distributions with plugins in them."""
    return {plugin.distribution for plugin in discover()}
