"""``export``: a run's adapter in the shape of another program. ``apply`` is in its own file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from coreframe.cli.common import NOT_BETTER

TARGETS = (
    "native", "numpy", "sentence-transformers", "llama-index", "langchain", "chroma", "onnx",
    "faiss", "pgvector", "static", "matrix",
)  # fmt: skip
"""As in coreframe.export.TARGETS, which a test holds it to: listing verbs imports nothing."""


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "target", required=True, type=click.Choice(TARGETS), help="Which form.")
@click.option(
    "-o",
    "--out",
    "--output-dir",
    "out",
    type=click.Path(path_type=Path),
    help="Folder to write; RUN-TARGET if not given.",
)
@click.option(
    "--base",
    "--into",
    "base",
    type=click.Path(path_type=Path, exists=True),
    help="The model that takes the adapter in (sentence-transformers, static, matrix).",
)
@click.option(
    "--side",
    type=click.Choice(["query", "document"]),
    help="The side to write, where there is room for one (static, matrix).",
)
@click.option("--table", help="Name of the table (pgvector).")
@click.option("--function", help="Name of the function (pgvector).")
@click.option("--overwrite", is_flag=True, help="Replace the folder if it has files.")
@click.option("--force", is_flag=True, help="Export although the run promoted nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, nothing else.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def export(
    run: Path, target: str, out: Path | None, overwrite: bool, force: bool, as_json: bool,
    debug: bool, **options: Any,
) -> int:  # fmt: skip
    """Write the adapter of RUN so that another program loads it.

    RUN is the folder of a run or of a stored adapter. What was written is read back and compared
    with the adapter before it takes its place. Exit code 3: the run promoted nothing.
    """
    from coreframe.artefact import load
    from coreframe.export import export as export_to

    adapter = load(run)
    metrics = read_metrics(run)
    if (code := refused(run, metrics, force=force)) is not None:
        return code
    given = {name: value for name, value in options.items() if value is not None}
    folder = out or Path(f"{run.resolve().name}-{target}")
    found = export_to(adapter, folder, to=target, thresholds=metrics.get("thresholds"),
                      overwrite=overwrite, **given)  # fmt: skip
    if as_json:
        click.echo(json.dumps({"folder": str(folder), **found.facts}, indent=2))
    else:
        click.echo(f"{target}: {folder}\n{found.text}")
    return 0


def read_metrics(run: Path) -> dict[str, Any]:
    """Return what ``metrics.json`` of a run says; an adapter that was only stored has none."""
    from coreframe.errors import ArtefactError

    path = run / "metrics.json"
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict) or not isinstance(found.get("gate", {}), dict):
        raise ArtefactError(f"{path} holds no figures of a run")
    return found


def refused(run: Path, metrics: Mapping[str, Any], *, force: bool) -> int | None:
    """Return the exit code if the gate of a run stayed closed, None to go on."""
    gate = metrics.get("gate")
    if gate is None or gate.get("passed") is True or force:
        return None
    click.echo(
        f"not better: the gate of {run} stayed closed ({gate.get('reason', 'no reason given')}); "
        "nothing was promoted and nothing is written. --force goes on with the identity",
        err=True,
    )
    return NOT_BETTER
