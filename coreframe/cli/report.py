"""``report``: the page of a run again, or of several runs side by side."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True,
                type=click.Path(path_type=Path))  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False),
              help="The page; report.html in RUN, or compare.html here for several.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print what the page shows; write nothing.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def report(runs: tuple[Path, ...], out: Path | None, as_json: bool, debug: bool) -> None:
    """Write the report of RUN again, or of several RUNs side by side.

    RUN is the folder that a run wrote. No vectors are needed.
    """
    import json

    from coreframe.report import compare_html, read_data, render
    from coreframe.storage import make_folder, write_files

    found = {name: read_data(run) for name, run in _named(runs).items()}
    if as_json:
        (first, *rest) = found.values()
        click.echo(json.dumps(found if rest else first, indent=2, ensure_ascii=False))
        return
    if len(found) > 1:
        page, path = compare_html(found), out or Path("compare.html")
    else:
        page, path = render(next(iter(found.values()))), out or runs[0] / "report.html"
    write_files(make_folder(path.parent), {path.name: page.encode()})
    click.echo(str(path))


def _named(runs: tuple[Path, ...]) -> dict[str, Path]:
    """Return the runs by the shortest end of their paths that tells all apart."""
    if len({run.resolve() for run in runs}) < len(runs):
        raise click.UsageError("the same run is named twice")
    parts = {run: run.resolve().parts for run in runs}
    depth = 1
    while len({parts[run][-depth:] for run in runs}) < len(runs):
        depth += 1
    return {"/".join(parts[run][-depth:]): run for run in runs}
