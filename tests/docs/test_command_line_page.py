"""The page of the command line names all that there is: verbs, options, defaults, exit codes."""

from __future__ import annotations

import re
from pathlib import Path

import click
from from_docs import from_docs

from coreframe import cli

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "cli.md").read_text("utf-8")
command_line = from_docs("making.command_line")


def test_every_command_has_its_options() -> None:
    for name, command in cli.main.commands.items():
        section = TEXT.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        assert section
        shown = set(
            re.findall(r"`(--?[a-z][\w-]*)`", "\n".join(re.findall(r"^\| .*?\|", section, re.M)))
        )
        options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
        assert shown == {o for p in options for o in [*p.opts, *p.secondary_opts]} - {"--help"}


def test_every_exit_code_is_explained() -> None:
    section = TEXT.partition("\n## Exit codes\n")[2].partition("\n## ")[0]
    codes = {
        0,
        cli.FAILED,
        cli.USAGE,
        cli.NOT_BETTER,
        cli.BAD_DATA,
        cli.INTERRUPTED,
        cli.TERMINATED,
    }
    assert {int(c) for c in re.findall(r"^\| (\d+) \|", section, re.M)} == codes


def test_a_row_says_value_default_and_meaning() -> None:
    @click.command()
    @click.option(
        "--level", type=click.IntRange(1, 5), default=3, help="How loud; or *train.seed*."
    )
    @click.option("--kind", type=click.Choice(["a", "b"]), required=True, help="A <kind>.")
    @click.option("--on/--off", default=True, help="As --level 2.")
    @click.option("--name", default="", help="Its name.")
    @click.option("--secret", hidden=True)
    def made() -> None:
        r"""Do it.

        Then say "coreframe list".
        """

    text = command_line.section("made", made)
    for row in (
        r"| `--level` | integer, at least 1, at most 5 | `3` | How loud; or \*`train.seed`\*. |",
        "| `--kind` | `a`, `b` | required | A &lt;kind>. |",
        "| `--on`, `--off` |  | on | As `--level` 2. |",
        "| `--name` | text |  | Its name. |",
        "\n\nDo it.\n\nThen say `coreframe list`.\n\n",
        "```text\ncoreframe made [OPTIONS]\n```",
    ):
        assert row in text
    assert "secret" not in text
