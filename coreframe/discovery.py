"""What is installed, by its metadata alone: plugins, what they ask for, and who is wanted.

Nothing is imported here, so that everything can be listed even where every import hangs or fails.
Each distribution is read on its own, because ``importlib.metadata.entry_points`` raises for all
where one of them is damaged.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import coreframe
from coreframe.errors import PluginWarning, nearest
from coreframe.plugin import GROUP

BUILT_IN = "coreframe-ml"
VERSION = coreframe.__version__
VARIABLE = "COREFRAME_PLUGINS"
_VALUE = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?::[A-Za-z_]\w*)?)\s*(?:\[.*\])?\Z")


@dataclass
class Plugin:
    """One entry point: where it comes from and how loading it went."""

    distribution: str
    version: str
    name: str
    value: str
    requires: tuple[str, ...] = field(default=(), repr=False)
    state: str = "found"  # found | importing | loaded | failed | off
    error: str = ""
    deeds: str = ""  # what it changed and printed, and what became of it
    seconds: float = 0.0
    hooks: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def key(self) -> str:
        return f"{self.distribution}/{self.name}"

    @property
    def title(self) -> str:
        """How warnings and errors call it."""
        return f"plugin {self.key} {self.version}"

    @property
    def module(self) -> str:
        return self.value.partition(":")[0]

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

    def fail(self, reason: str) -> None:
        self.state, self.error = "failed", reason
        self.hooks.clear()


def normalised(name: str) -> str:
    """Return the one spelling of a distribution's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def discover() -> list[Plugin]:
    """Read the metadata of all installed plugins, our own first; import nothing.

    One whose metadata is damaged, or that asks for another version of coreframe, has failed.
    """
    found: dict[str, Plugin] = {}
    seen: dict[str, tuple[str, str]] = {}
    for distribution in metadata.distributions():
        lines = _lines(distribution)
        if not lines:
            continue
        name, version, requires = _about(distribution)
        folder = _folder(distribution)[0]
        if name in seen:  # a second copy, later on the path: Python does not import it either
            if folder == seen[name][0] and version != seen[name][1]:
                _doubt(found, name, version)
            continue
        seen[name] = folder, version
        for line in lines:
            plugin = _plugin(line, name, version, requires)
            other = found.setdefault(plugin.key, plugin)
            if other.value != plugin.value:
                other.fail(f"its entry_points.txt has {plugin.name!r} twice")
    return sorted(found.values(), key=lambda p: (not p.built_in, p.key))


def _doubt(found: dict[str, Plugin], distribution: str, version: str) -> None:
    """Say, once, of a distribution that it is there a second time, in the same folder."""
    plugin = next(plugin for plugin in found.values() if plugin.distribution == distribution)
    plugin.deeds = (
        f"version {version} of it is installed in the same folder, and either may be imported; "
        f"pip uninstall {distribution}, as often as it takes, and install it anew"
    )


def _lines(distribution: metadata.Distribution) -> list[str]:
    """Return the lines of our section of entry_points.txt."""
    return _sections(distribution).get(GROUP, [])


def _sections(distribution: metadata.Distribution) -> dict[str, list[str]]:
    try:
        text = distribution.read_text("entry_points.txt") or ""
    except UnicodeDecodeError as error:  # what is ours stays readable, and names itself
        text = error.object.decode(errors="replace")
    section = ""
    found: dict[str, list[str]] = {}
    for line in map(str.strip, text.removeprefix("\ufeff").splitlines()):  # a byte order mark
        if line.startswith("["):
            section = line.strip("[] ")
        elif line and not line.startswith(("#", ";")):
            found.setdefault(section, []).append(line)
    return found


def not_of_our_group(name: str) -> str:
    """Return what an installed distribution has in place of our entry points; else nothing."""
    try:
        groups = list(_sections(metadata.distribution(name)))
    except (metadata.PackageNotFoundError, ValueError):
        return ""
    others = f", only of {', '.join(map(repr, groups))}" if groups else ""
    return f"is installed and has no entry point of the group {GROUP!r}{others}"


def _folder(distribution: metadata.Distribution) -> tuple[str, str]:
    """Return where the metadata lies, and the name of its own folder."""
    path = getattr(distribution, "_path", None)
    return str(getattr(path, "parent", "")), str(getattr(path, "name", ""))


def _about(distribution: metadata.Distribution) -> tuple[str, str, tuple[str, ...]]:
    """Return name, version and requirements; of damaged metadata, what its folder's name says."""
    try:
        about: Any = distribution.metadata or {}
    except (UnicodeDecodeError, OSError):
        about = {}
    stem = re.sub(r"\.(dist|egg)-info$", "", _folder(distribution)[1]).split("-")
    name = about.get("Name") or stem[0] or "unknown"
    version = about.get("Version") or (stem[1] if len(stem) > 1 else "?")
    requires = tuple(about.get_all("Requires-Dist") or ()) if about else ()
    return normalised(str(name)), str(version), tuple(map(str, requires))


def _plugin(line: str, distribution: str, version: str, requires: tuple[str, ...]) -> Plugin:
    name, equals, value = (part.strip() for part in line.partition("="))
    target = _VALUE.match(value)
    plugin = Plugin(distribution, version, name, target[1] if target else value, requires)
    if not equals or not name or target is None:
        plugin.fail(
            f"its entry_points.txt has the line {line!r}, which is not "
            "'name = package.module' or 'name = package.module:object'"
        )
    elif not plugin.built_in and (reason := _refusal(plugin)):
        plugin.fail(reason)
    return plugin


# What it asks for ---------------------------------------------------------------------------


def _refusal(plugin: Plugin) -> str | None:
    """Return why this version of coreframe is not the one that a plugin asks for, or None."""
    wanted = [text for text in plugin.requires if _name_of(text) == BUILT_IN]
    if not wanted:
        return None
    from packaging.requirements import InvalidRequirement, Requirement

    for text in wanted:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            return f"its metadata asks for {text!r}, which is no requirement"
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and not requirement.specifier.contains(VERSION, prereleases=True):
            return (
                f"it asks for {BUILT_IN}{requirement.specifier}, and this is {BUILT_IN} "
                f"{VERSION}; install a version of {plugin.distribution} "
                "that is made for it"
            )
    return None


def _name_of(requirement: str) -> str:
    return normalised(re.split(r"[^\w.-]", requirement.strip(), maxsplit=1)[0])


def missing_package(plugin: Plugin, module: str) -> str:
    """Say where a module that a plugin could not import would come from."""
    package = module.partition(".")[0]
    if package == "coreframe":
        return f"this is {BUILT_IN} {VERSION}, which has no such module"
    absent = list(_absent(plugin))
    exact = [found for found in absent if normalised(package) == _name_of(found[0])]
    if not (exact or absent):
        return f"{plugin.distribution} does not say in its metadata what brings {package!r}"
    requirement, extra = (exact or absent)[0]
    if extra:
        return (
            f"{plugin.distribution} asks for {requirement!r} with its extra {extra!r}: "
            f"pip install '{plugin.distribution}[{extra}]'"
        )
    return (
        f"{plugin.distribution} asks for {requirement!r}, which is not installed: "
        f"pip install '{requirement}'"
    )


def _absent(plugin: Plugin) -> Iterator[tuple[str, str]]:
    """Yield what a plugin asks for and is not installed, each with the extra that brings it."""
    from packaging.requirements import InvalidRequirement, Requirement

    optional = []
    for text in plugin.requires:
        try:
            requirement = Requirement(text)
            metadata.version(requirement.name)
        except InvalidRequirement:
            continue
        except metadata.PackageNotFoundError:
            extra = re.search(r"""extra\s*==\s*["']([^"']+)""", str(requirement.marker or ""))
            wanted = f"{requirement.name}{requirement.specifier}"
            if extra:
                optional.append((wanted, extra[1]))
            elif requirement.marker is None or requirement.marker.evaluate():
                yield wanted, ""
    yield from optional


# Who is wanted ------------------------------------------------------------------------------


def switch_off(plugins: list[Plugin]) -> None:
    """Mark as off what ``COREFRAME_PLUGINS`` leaves out; warn of a name that is not installed."""
    setting = os.environ.get(VARIABLE)
    if setting is None:
        return
    known = {"none"}.union(*(plugin.names for plugin in plugins))
    for name in (word.removeprefix("-") for word in _words(setting)):
        if name not in known:
            what = not_of_our_group(name) or f"is not installed.{nearest(name, known)}"
            warnings.warn(
                f"COREFRAME_PLUGINS names {name!r}, which {what}",
                PluginWarning,
                stacklevel=2,
            )
    for plugin in plugins:
        if not _wanted(plugin, setting):
            plugin.state = "off"


def _wanted(plugin: Plugin, setting: str) -> bool:
    """Apply a setting: empty or none = built-ins; ``a,b`` = those too; ``-a`` = all but a."""
    words, names = _words(setting), plugin.names
    if any(word[1:] in names for word in words if word.startswith("-")):
        return False
    only = [word for word in words if not word.startswith("-")]
    if plugin.built_in or (words and not only):
        return True
    return any(word in names for word in only if word != "none")


def _words(setting: str) -> list[str]:
    return [word.strip() for word in setting.split(",") if word.strip()]
