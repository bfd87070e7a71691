"""Take the docstrings of components apart, in the one form that they have: see CONTRIBUTING.md.

A first line; the formula and prose; then Args, Shapes, Edges, Cost, References, and an example
that runs. Every parameter is described, and every default says where it comes from.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import textwrap
from dataclasses import dataclass
from typing import Any

from coreframe import registry

SECTIONS = ("Args", "Shapes", "Edges", "Cost", "References")
OPTIONAL = ("Returns", "Raises", "Parameters", "State")
_HEADING = re.compile(r"([A-Z][a-z]+):(?=\s|$)")
_FIELD = re.compile(r"    (\*{0,2}\w+(?:, \*{0,2}\w+)*):(?=\s|$)")


class Incomplete(Exception):
    """A docstring lacks something; the text names the component and the section."""


# Reading a docstring --------------------------------------------------------------------------


@dataclass(frozen=True)
class Doc:
    """A docstring in its parts."""

    summary: str
    body: str
    """Formula and prose, between the summary and the first section."""
    sections: dict[str, str]
    fields: dict[str, tuple[str, str]]
    """Meaning, and where the default comes from, by name of the argument."""
    example: str


def read(where: str, text: str) -> Doc:
    """Take a docstring apart. Raise Incomplete for a section that is unknown or empty."""
    text = inspect.cleandoc(text)
    parts = re.split(r"^(?=>>> )", text, maxsplit=1, flags=re.MULTILINE)
    example = parts[1].strip() if len(parts) == 2 else ""
    heads: dict[str, list[str]] = {}
    name, blank = "", True
    for line in parts[0].splitlines():
        heading = _HEADING.match(line)
        if heading and heading[1] in SECTIONS + OPTIONAL:
            name = heading[1]
            if name in heads:
                raise Incomplete(f"{where}: the section {name} stands there twice")
            line = line[heading.end() :].strip()
        elif heading and blank and name:
            raise Incomplete(f"{where}: unknown section {heading[1]!r}")
        heads.setdefault(name, []).append(line)
        blank = not line.strip()
    summary, _, body = "\n".join(heads.pop("", [""])).strip("\n").partition("\n\n")
    sections = {}
    for name, (first, *rest) in heads.items():
        sections[name] = f"{first}\n{textwrap.dedent(chr(10).join(rest))}".strip("\n")
        if not sections[name].strip():
            raise Incomplete(f"{where}: the section {name} is empty")
    fields = read_fields(where, heads.get("Args", []))
    if not summary:
        raise Incomplete(f"{where}: there is no docstring")
    return Doc(" ".join(summary.split()), body.strip("\n"), sections, fields, example)


def read_fields(where: str, lines: list[str]) -> dict[str, tuple[str, str]]:
    """Read ``name: meaning. Default: origin.`` and ``first, second: ...``, by name."""
    entries: list[tuple[list[str], list[str]]] = []
    for line in lines:
        if found := _FIELD.match(line):
            entries.append((found[1].replace("*", "").split(", "), [line[found.end() :].strip()]))
        elif line.strip() and not entries:
            raise Incomplete(f"{where}: Args must hold '    name: meaning', got {line!r}")
        elif line.strip() and not line.startswith("     "):
            raise Incomplete(f"{where}: Args has a line that belongs to no field: {line!r}")
        elif line.strip():
            entries[-1][1].append(line.strip())
    fields: dict[str, tuple[str, str]] = {}
    for names, words in entries:
        meaning, _, origin = " ".join(words).strip().partition("Default:")
        if not (meaning + origin).strip():
            raise Incomplete(f"{where}: Args says nothing about {', '.join(names)}")
        fields |= dict.fromkeys(names, (meaning.strip(), origin.strip()))
    return fields


# Parameters -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    name: str
    type: str
    default: str
    meaning: str
    origin: str
    owner: str
    """The class whose docstring describes it."""


def parameters(where: str, target: Any, doc: Doc) -> list[Parameter]:
    """Return the parameters of a class or function, with what the docstrings say of them.

    A field that a base class describes may be left out, unless its default is another one.
    """
    found, wrong = [], []
    for name, parameter in registry.parameters(target).items():
        owner, (meaning, origin) = described(target, name, doc)
        has_default = parameter.default is not parameter.empty
        if not meaning:
            wrong.append(f"Args does not describe {name!r}")
        elif has_default and not origin:
            wrong.append(f"Args has no 'Default:' for {name!r}, in {owner}")
        default = show_default(target, name, parameter) if has_default else ""
        annotation = parameter.annotation
        kind = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        kind = "" if annotation is parameter.empty else kind
        found.append(Parameter(name, kind, default, meaning, origin, owner))
    unknown = sorted(set(doc.fields) - set(inspect.signature(target).parameters))
    wrong += [f"Args describes {name!r}, which is no parameter" for name in unknown]
    if wrong:
        raise Incomplete(f"{where}: {'; '.join(wrong)}")
    return found


def described(target: Any, name: str, doc: Doc) -> tuple[str, tuple[str, str]]:
    """Return the class that describes a parameter, and what it says.

    ``name: Default: origin.`` alone is another default of what a base class describes.
    """
    meaning, origin = doc.fields.get(name, ("", ""))
    if meaning or not isinstance(target, type):
        return target.__name__, (meaning, origin)
    for base in target.__mro__[1:]:
        text = vars(base).get("__doc__") or ""
        if "Args:" not in text or name not in registry.parameters(base):
            continue
        about = read(f"{base.__module__}.{base.__name__}", text)
        if name in about.fields:
            if origin:
                return target.__name__, (about.fields[name][0], origin)
            ours, theirs = (registry.parameters(kind)[name].default for kind in (target, base))
            same = ours is theirs or bool(ours == theirs)
            return base.__name__, about.fields[name] if same else ("", "")
    return target.__name__, ("", "")


def show_default(target: Any, name: str, parameter: inspect.Parameter) -> str:
    default = parameter.default
    for field in dataclasses.fields(target) if dataclasses.is_dataclass(target) else ():
        if field.name == name and field.default_factory is not dataclasses.MISSING:
            made: Any = field.default_factory
            ours = isinstance(made, type) and made.__module__ != "builtins"
            if ours and not dataclasses.is_dataclass(made):
                return f"{made.__name__}()"  # what it shows of itself may be of this machine
            default = made()
    text = getattr(default, "__name__", None) or repr(default)
    return text if len(text) <= 60 else f"{text[:57]}..."
