"""Paragraphs, tables and methods of docstrings, as Markdown."""

from __future__ import annotations

import inspect
import re
import textwrap
from functools import cached_property
from typing import Any

from coreframe.testing.docstrings import Parameter


def inline(text: str) -> str:
    """Bring one paragraph of a docstring to Markdown: code, links, and nothing by accident."""
    pieces = re.split(r"(``.+?``|`[^`]+`)", " ".join(text.split()))
    for i, piece in enumerate(pieces):
        if i % 2:
            pieces[i] = f"`{piece.strip('`')}`"
        else:
            piece = re.sub(r"([*\\])", r"\\\1", piece)
            piece = re.sub(r"<(?=[A-Za-z/!])", "&lt;", piece)
            piece = re.sub(
                r"arXiv:? ?(\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)", piece
            )
            pieces[i] = re.sub(
                r"doi:? ?(10\.\d+/[^\s,;)]*[^\s,;.)])", r"[doi \1](https://doi.org/\1)", piece
            )
    return "".join(pieces)


def blocks(text: str) -> str:
    """Bring paragraphs, lists and indented formulas to Markdown."""
    done: list[str] = []
    formula: list[str] = []
    for paragraph in [*re.split(r"\n\s*\n", text.strip("\n")), ""]:
        if paragraph.startswith("    "):
            formula.append(paragraph)
            continue
        if formula:
            code = textwrap.dedent("\n\n".join(formula)).replace("``", "")
            done.append(f"```text\n{code}\n```")
            formula = []
        if not paragraph.strip():
            continue
        # A formula may follow its sentence without a blank line.
        words, rest = paragraph.splitlines(), ""
        while len(words) > 1 and words[-1].startswith("    "):
            rest = f"{words.pop()}\n{rest}"
        items = re.split(r"\n(?=- )", "\n".join(words))
        if items[0].startswith("- "):
            done.append("\n".join("- " + inline(item[2:]) for item in items))
        else:
            done.append(inline(items[0]))
            if len(items) > 1:
                done.append("\n".join("- " + inline(item[2:]) for item in items[1:]))
        if rest:
            formula = [rest.rstrip()]
    return "\n\n".join(done)


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def table(rows: list[Parameter]) -> str:
    lines = ["| Name | Type | Default | Meaning |", "|---|---|---|---|"]
    for p in rows:
        default = f"`{p.default}`" if p.default else "required"
        meaning = inline(p.meaning)
        if p.origin and p.default:
            meaning += f"<br>*Default:* {inline(p.origin)}"
        kind = f"`{p.type}`" if p.type else ""
        lines.append(f"| `{p.name}` | {cell(kind)} | {cell(default)} | {cell(meaning)} |")
    return "\n".join(lines)


def methods(target: Any) -> list[str]:
    """Return a line of a table for each public method that has a docstring of its own."""
    lines = []
    for name, member in vars(target).items() if isinstance(target, type) else ():
        function = getattr(member, "__func__", member)  # of a class method or static method
        if isinstance(member, property | cached_property):
            call = name
            function = member.fget if isinstance(member, property) else member.func
        elif inspect.isfunction(function):
            given = inspect.signature(function)
            bare = [p.replace(annotation=p.empty) for p in given.parameters.values()]
            bare = bare[0 if isinstance(member, staticmethod) else 1 :]
            plain = given.replace(parameters=bare, return_annotation=given.empty)
            call = f"{name}{plain}"
        else:
            continue
        text = inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0]
        if text and not name.startswith("_"):
            lines.append(f"| {cell(f'`{call}`')} | {cell(inline(text))} |")
    return lines
