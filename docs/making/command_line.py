"""The page of the command line, from its own declarations: docs/cli.md."""

from __future__ import annotations

import inspect
import re
from typing import Any

import click

from coreframe import cli

EXITS = {
    0: "done, and better where something was compared",
    cli.FAILED: "failed: a file could not be written, an extra or a plugin is missing, "
    "training diverged",
    cli.USAGE: "usage or configuration: the text names the option or key, and the nearest fix",
    cli.NOT_BETTER: "trained or compared, but not proven better: nothing is promoted",
    cli.BAD_DATA: "the input data was rejected",
    cli.INTERRUPTED: "interrupted, with a checkpoint where there was a run to go on with",
    cli.TERMINATED: "terminated, likewise",
}

START = """\
# The command line

Made from the program itself: every command with its arguments, options and defaults, as
`coreframe COMMAND --help` shows them. Results go to stdout and all else to stderr, so that
`--json` can be piped. What a command reads from the environment is on
[a page of its own](environment.md), and what stands in a `run.toml` on [another](configuration.md).
"""


CODE = re.compile(
    r"(?<![\w`.-])"
    r"(--[a-z][\w-]*|(?:train|gate|optimizer|losses)\.[\w.]*\w(?:=[\w.]*\w)?)(?![\w`])"
)
"""Options and keys of a run in the words of a help text."""


def page() -> str:
    """Return the page."""
    commands = cli.main.commands
    rows = [f"| [`{name}`](#{name}) | {first(command)} |" for name, command in commands.items()]
    exits = [f"| {code} | {meaning} |" for code, meaning in EXITS.items()]
    parts = [
        START.strip(),
        "\n".join(["| Command | What it does |", "|---|---|", *rows]),
        "## Exit codes",
        "\n".join(["| Code | Meaning |", "|---|---|", *exits]),
        *(section(name, command) for name, command in commands.items()),
    ]
    return "\n\n".join(parts) + "\n"


def section(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=f"coreframe {name}", **command.context_settings)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    paragraphs = re.split(r"\n\s*\n", told(command).replace("\b", ""))
    parts = [f"## {name}", f"```text\n{usage}\n```", *(prose(text) for text in paragraphs)]
    groups: dict[str, list[str]] = {}
    for parameter in command.get_params(context):
        hidden = not isinstance(parameter, click.Option) or parameter.hidden
        if not hidden and "--help" not in parameter.opts:
            title = getattr(parameter, "group", None) or "Options"
            groups.setdefault(title, []).append(row(parameter))
    for title in sorted(groups, key=lambda title: title != "Options"):
        head = [f"**{title}**"] if title != "Options" else []
        parts += [
            *head,
            "\n".join(
                ["| Option | Value | Default | Meaning |", "|---|---|---|---|", *groups[title]]
            ),
        ]
    return "\n\n".join(parts)


def row(option: click.Option) -> str:
    flags = ", ".join(f"`{flag}`" for flag in [*option.opts, *option.secondary_opts])
    cells = (flags, value(option), default(option), prose(option.help or ""))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def value(option: click.Option) -> str:
    """Return what an option takes, in words."""
    if option.is_flag or option.count:
        return ""
    kind = option.type
    if isinstance(kind, click.Choice):
        return ", ".join(f"`{choice}`" for choice in kind.choices)
    if option.metavar:
        return f"`{option.metavar}`"
    bounds = []
    if isinstance(kind, click.IntRange | click.FloatRange):
        if kind.min is not None:
            bounds.append(f"above {kind.min}" if kind.min_open else f"at least {kind.min}")
        if kind.max is not None:
            bounds.append(f"below {kind.max}" if kind.max_open else f"at most {kind.max}")
    name = {"integer range": "integer", "float range": "number", "float": "number"}
    return ", ".join([name.get(kind.name, kind.name), *bounds])


def default(option: click.Option) -> str:
    given: Any = option.default
    if option.required:
        return "required"
    nothing = given is None or given is False or given in ((), "")
    if nothing or callable(given) or "UNSET" in repr(given).upper():
        return ""
    if given is True:
        return "on"
    text = ", ".join(map(str, given)) if isinstance(given, list | tuple) else str(given)
    return f"`{text}`"


def told(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").partition("\f")[0]


def first(command: click.Command) -> str:
    return prose(re.split(r"\n\s*\n", told(command))[0])


def prose(text: str) -> str:
    """Return words of a help text as Markdown: nothing by accident, commands as code."""
    text = " ".join(text.split())
    text = re.sub(r'"(coreframe [^"]+)"', r"`\1`", text)
    text = CODE.sub(r"`\1`", text)
    pieces = re.split(r"(`[^`]*`)", text)
    pieces[::2] = [
        re.sub(r"([*_\\])", r"\\\1", piece).replace("<", "&lt;") for piece in pieces[::2]
    ]
    return "".join(pieces)
