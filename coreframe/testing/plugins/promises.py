"""What a plugin promises as a package: its metadata, its hooks, and what its import does."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from coreframe import registry
from coreframe.adapter import Adapter
from coreframe.callbacks import Callback
from coreframe.discovery import BUILT_IN, discover, normalised
from coreframe.embedder import Embedder
from coreframe.isolation import isolated
from coreframe.loading import import_target
from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.optimizer import Optimizer
from coreframe.plugin import HOOKS
from coreframe.regularizer import Regularizer
from coreframe.sampler import Sampler
from coreframe.scheduler import Scheduler
from coreframe.testing import checks
from coreframe.testing.backends.promises import is_backend
from coreframe.testing.backends.subject import METHODS
from coreframe.testing.checks import NotApplicable, Promise, Remark, explain
from coreframe.testing.plugins.packages import Package

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
            with isolated(plugin, "importing"):
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
    for name in sorted({plugin.module for plugin in subject.plugins if ":" not in plugin.value}):
        module = importlib.import_module(name)
        for hook in HOOKS:
            found = getattr(module, hook, None)
            if callable(found) and not hasattr(found, "coreframe_impl"):
                yield f"{name}.{hook} has no @hookimpl, and is never asked"


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
    again = subject.anew.offers
    if [offer[:3] for offer in again] != [offer[:3] for offer in offers]:
        yield "it offers something else when it is asked a second time"


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
    "It imports public names of coreframe alone, and no other plugin.",
    fix="Import what docs/stability.md lists for authors of plugins; copy a helper that you need "
    "from elsewhere, or ask for it to be made public.",
    needs=("importable",),
)
def public_imports(subject: Package) -> Iterator[str]:
    if subject.plugins[0].built_in:
        raise NotApplicable("it is coreframe itself")
    others = {p.module.partition(".")[0] for p in discover()} - subject.roots
    for path in subject.sources():
        for module, name, line in _imports(path):
            if module.partition(".")[0] in others:
                yield f"{path.name}:{line} imports {module}, another plugin"
            elif not is_public(module, name):
                yield f"{path.name}:{line} imports {module} {name}".rstrip() + ", not public"


PUBLIC = {
    "adapter",
    "backend",
    "batch",
    "callbacks",
    "chain",
    "checks",
    "component",
    "compose",
    "data.batches",
    "data.pairs",
    "data.relevance",
    "embedder",
    "errors",
    "fisher_information",
    "gradients",
    "loss",
    "miner",
    "ops",
    "optimizer",
    "plugin",
    "random",
    "recompute",
    "regularizer",
    "relation",
    "result",
    "row_loss",
    "sampler",
    "scheduler",
    "similarity",
    "testing",
}
"""The modules of coreframe that plugins may use: the first table of docs/stability.md."""


def is_public(module: str, name: str = "") -> bool:
    """Say whether a plugin may write ``from module import name``, or ``import module``."""
    package, _, inside = module.partition(".")
    if package != "coreframe":
        return True
    if name and (f"{inside}.{name}" if inside else name) in PUBLIC:
        return True  # the name is a module
    if inside and inside not in PUBLIC:
        return False
    return not name or name in importlib.import_module(module).__all__


def _imports(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield what a file imports, also inside functions: module, name in it, and line."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((node.module, alias.name, node.lineno) for alias in node.names)
