"""Collect what is public, one line a name, with what a caller can see of it.

``python tests/public_names.py`` writes ``architecture/public_names.txt`` anew; a test compares.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import coreframe
from coreframe import cli, plugin, registry
from coreframe.cli import common

ROOT = Path(__file__).parents[1]
STORED = ROOT / "tests" / "architecture" / "public_names.txt"
PAGE = ROOT / "docs" / "stability.md"
EXIT_CODES = ("FAILED", "USAGE", "NOT_BETTER", "BAD_DATA", "INTERRUPTED", "TERMINATED")
FORMATS = {
    "coreframe.artefact": "an adapter's folder",
    "coreframe.state": "state",
    "coreframe.checkpoint_files": "a checkpoint",
    "coreframe.applying": "progress of apply",
    "coreframe.report.data": "metrics.json",
    "coreframe.export.exporting": "an export's record",
}


def modules() -> list[str]:
    """Return the public modules, as docs/stability.md lists them."""
    table = PAGE.read_text(encoding="utf-8").partition("## What is public")[2]
    found = re.findall(r"^\| `(coreframe(?:\.\w+)*)` \|", table, re.MULTILINE)
    return sorted(set(found))


def collect() -> list[str]:
    """Return all lines, sorted."""
    lines = {*_names(), *_hooks(), *_command_line(), *_components()}
    lines |= {f"variable {name}" for name in variables()}
    lines |= {f"exit code {name} = {getattr(common, name)}" for name in EXIT_CODES}
    for module in FORMATS:
        found = importlib.import_module(module)
        lines.add(f"format {found.FORMAT} {found.VERSION}")
    return sorted(lines)


def variables() -> list[str]:
    """Return the environment variables that the source reads."""
    sources = [p for top in ("coreframe", "backends") for p in (ROOT / top).rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    return sorted(set(re.findall(r"\bCOREFRAME_[A-Z_]+\b", text)))


# Python -------------------------------------------------------------------------------------


def _names() -> Iterator[str]:
    for module in modules():
        found = importlib.import_module(module)
        for name in found.__all__:
            yield from _described(f"{module}.{name}", getattr(found, name))


def _described(path: str, value: Any) -> Iterator[str]:
    home = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    if path.count(".") == 1 and home != path and home.startswith("coreframe."):
        yield f"{path} is {home}"
        if home.rpartition(".")[0] in modules():
            return
    if inspect.isclass(value):
        yield f"{path}{'' if issubclass(value, enum.Enum) else signature(value)}"
        for base in value.__mro__:
            if not base.__module__.startswith("coreframe"):
                continue
            for name, member in vars(base).items():
                if not name.startswith("_") or name == "__call__":
                    yield f"{path}.{name}{_member(member)}"
    elif callable(value) and hasattr(value, "__name__"):
        yield f"{path}{signature(value)}"
    else:
        yield path


def _member(member: Any) -> str:
    if isinstance(member, classmethod | staticmethod):
        member = member.__func__
    return signature(member) if inspect.isfunction(member) else ""


def signature(function: Any) -> str:
    """Return the arguments of a call, with their defaults and without annotations."""
    try:
        found = inspect.signature(function)
    except (TypeError, ValueError):
        return "(...)"
    parameters = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
    text = str(found.replace(parameters=parameters, return_annotation=inspect.Signature.empty))
    return re.sub(r" at 0x[0-9a-f]+", "", text)


# What has names outside of Python -----------------------------------------------------------


def _hooks() -> Iterator[str]:
    yield f"entry point group {plugin.GROUP}"
    for name in plugin.HOOKS:
        arguments = ", ".join(list(inspect.signature(getattr(plugin.Hooks, name)).parameters)[1:])
        yield f"hook {name}({arguments})"


def _command_line() -> Iterator[str]:
    for name, command in cli.main.commands.items():
        yield f"command {name}"
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                yield f"command {name} {parameter.make_metavar(click.Context(command))}"
            else:
                for option in [*parameter.opts, *parameter.secondary_opts]:
                    yield f"command {name} {option}"


def _components() -> Iterator[str]:
    for kind in plugin.KINDS:
        for entry in registry.registry().entries(kind):
            if entry.plugin.built_in:
                yield f"component {kind} {entry.name}{signature(entry.load())}"
                yield f"component {kind} {entry.name} is {entry.target}"


def main() -> None:
    STORED.write_text("\n".join(collect()) + "\n", encoding="utf-8")
    print(f"{len(collect())} public names of coreframe {coreframe.__version__} in {STORED}")


if __name__ == "__main__":
    main()
