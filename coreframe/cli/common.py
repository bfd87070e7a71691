"""What the verbs share: exit codes, options, and lines on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from coreframe.cli import logs
from coreframe.cli import options as hf
from coreframe.cli.options import grouped, training_options

FAILED, USAGE, NOT_BETTER, BAD_DATA, INTERRUPTED, TERMINATED = 1, 2, 3, 4, 130, 143


def run_options(command: Any) -> Any:
    """Add the options that every command with a run has."""
    options = [
        click.option("-o", "--out", "--output-dir", "out", type=click.Path(path_type=Path),
                     help="Folder for the results."),
        click.option("--overwrite", is_flag=True, help="Replace files in a folder that has some."),
        click.option("-c", "--config", type=click.Path(path_type=Path), help="A run.toml."),
        click.option("--set", "assignments", multiple=True, metavar="PATH=VALUE",
                     help="Override one value, such as losses.0.temperature=0.1."),
        click.option("--seed", type=click.IntRange(0), help="Seed of all draws."),
        click.option("--side", type=click.Choice(["query", "both"]),
                     help="Adapt queries only (the index stays), or both sides."),
        click.option("--backend", help="numpy, cupy, cupy:1, torch, jax or auto."),
        click.option("--json", "as_json", is_flag=True, help="Print metrics.json, nothing else."),
        grouped("Logging")("-q", "--quiet", is_flag=True, callback=logs.quieter,
                           help="No progress, and of the log only errors."),
        grouped("Logging")("-v", "--verbose", is_flag=True, callback=logs.louder,
                           help="Every evaluation, and what the library logs."),
        click.option("--debug", is_flag=True, help="Show tracebacks."),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return training_options(command)


def assignments(options: Mapping[str, Any], *, default: str | None = None) -> list[str]:
    """Return --set and the options that stand for one, as PATH=VALUE.

    ``default`` is the configuration of a command without a file.
    """
    from coreframe import config

    return hf.assignments(
        options, config.tables(options["config"], default=default or config.DEFAULT)
    )


def tell(options: Mapping[str, Any], text: str) -> None:
    """Say a line on stderr, unless the user wants silence."""
    if not (options["quiet"] or options["as_json"]):
        click.echo(text, err=True)
