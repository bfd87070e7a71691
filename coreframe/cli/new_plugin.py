"""``new-plugin``: a distribution to begin with."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

LICENSES = ("MIT", "Apache-2.0", "none")
"""As in coreframe.scaffold, which a test holds it to: listing verbs imports nothing."""


@click.command("new-plugin")
@click.argument("name")
@click.option(
    "-o",
    "--out",
    "--output-dir",
    "out",
    type=click.Path(path_type=Path),
    help="Folder to write; NAME if not given.",
)
@click.option(
    "--loss",
    default="",
    metavar="NAME",
    help="What its loss is called; after the plugin if not given.",
)
@click.option("--miner", default="", metavar="NAME", help="What its miner is called; likewise.")
@click.option("--author", default="", help="A name, or 'Name <mail@example.org>'.")
@click.option(
    "--license",
    "license_",
    type=click.Choice(LICENSES),
    default="MIT",
    show_default=True,
    help="With none, PyPI refuses it.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def new_plugin(
    name: str, out: Path | None, loss: str, miner: str, author: str, license_: str, debug: bool
) -> None:  # fmt: skip
    """Write a plugin to begin with: a package with one loss, one miner, tests, CI and licence.

    It works as it is: install it, run its tests, and put your own formula in its place. An
    existing folder must be empty; nothing is overwritten.
    """
    from coreframe.scaffold import NewPlugin, write

    plugin = NewPlugin(name=name, loss=loss, miner=miner, author=author, license=license_)
    folder = out or Path(name)
    for path in write(plugin, folder):
        click.echo(f"wrote {folder / path}")
    click.echo(f"\nNext:\n  cd {shlex.quote(os.fspath(folder))}")
    click.echo("  python -m pip install -e '.[test]'")
    click.echo("  python -m pytest")
    click.echo(
        f"then write your formula in src/{plugin.package}/{plugin.loss}.py, "
        f"until coreframe check {name} has nothing to say."
    )
