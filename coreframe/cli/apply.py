"""``apply``: a file of vectors through an adapter, into a file of any format."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import click

from coreframe.cli.export import read_metrics, refused


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--side",
    type=click.Choice(["query", "document"]),
    help="Which map; needed where queries and documents move differently.",
)
@click.option("--column", help="The column (or array) of vectors in SOURCE.")
@click.option("--to-column", help="Name of the new column; COLUMN_adapted if not given.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="Of the result; int8 has a scale a row.",
)
@click.option("--base-model", help="What made the vectors; refused if the adapter names another.")
@click.option("--overwrite", is_flag=True, help="Replace TARGET if it exists.")
@click.option("--force", is_flag=True, help="Apply although the run promoted nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def apply(
    run: Path, source: Path, target: Path, force: bool, as_json: bool, quiet: bool, debug: bool,
    **options: Any,
) -> int:  # fmt: skip
    """Write the adapted vectors of SOURCE to TARGET.

    Formats follow the endings: .npy, .npz, .safetensors, .parquet, .lance, .csv and .tsv (with
    vectors as pgvector has them). Columns of a table are kept, the old vectors too. It needs
    little memory, and after an interruption the same call goes on where it was. Exit code 3: the
    run promoted nothing, and nothing is written.
    """
    from coreframe.applying import apply_file
    from coreframe.artefact import load

    adapter = load(run)
    if (code := refused(run, read_metrics(run), force=force)) is not None:
        return code
    progress = None if quiet or as_json else _Progress()
    done = apply_file(adapter, source, target, progress=progress, **options)
    if progress is not None:
        progress.end()
    if as_json:
        facts = {name: getattr(done, name) for name in done.__dataclass_fields__}
        click.echo(json.dumps(facts | {"path": str(done.path)}, indent=2))
        return 0
    if done.resumed_at:
        click.echo(f"went on after {done.resumed_at:,} rows that were done before", err=True)
    if done.zero_rows:
        click.echo(f"{done.zero_rows:,} rows are zeros: their cosine with anything is 0", err=True)
    where = f", column {done.column}" if done.column else ""
    click.echo(f"{done.path}: {done.rows:,} x {done.width} {done.side} vectors{where}")
    if done.reindex:
        click.echo(f"index   {done.reindex:,} rows must be put in again: rebuild it from this file")
    else:
        click.echo("index   stays as it is")
    return 0


class _Progress:
    """A line that counts on a terminal; elsewhere one every ten seconds."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.last = time.monotonic()
        self.shown = False

    def __call__(self, rows: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self.last < (0.2 if self.live else 10):
            return
        self.last = now
        share = f" of {total:,} ({rows / total:.0%})" if total else ""
        text = f"apply   {rows:,} rows{share}"
        click.echo(f"\r{text}" if self.live else text, nl=not self.live, err=True)
        self.shown = self.live

    def end(self) -> None:
        """End the line that counted."""
        if self.shown:
            click.echo("", err=True)
