"""``inspect``: what is in a file or folder of data, before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from coreframe.cli.common import BAD_DATA


@click.command("inspect")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def inspect_(paths: tuple[Path, ...], as_json: bool, debug: bool) -> int:
    """Say what is in files or folders of data: format, columns, vectors, problems.

    The exit code is 4 if one of them would be refused.
    """
    from coreframe.data.summary import describe

    found = [describe(path) for path in paths]
    if as_json:
        click.echo(json.dumps({"files": found}, indent=2, ensure_ascii=False))
    else:
        click.echo("\n\n".join("\n".join(_lines(entry)) for entry in found))
    return BAD_DATA if any(entry["problems"] for entry in found) else 0


def _lines(found: dict[str, Any], indent: str = "") -> list[str]:
    """Return the description of one file for people."""
    rows = f", {found['rows']:,} rows" if "rows" in found else ""
    lines = [f"{indent}{found['path']}: {found['format']}, {found['holds']}{rows}"]
    inner = indent + "  "
    columns = found.get("columns", ())
    width = max((len(column["name"]) for column in columns), default=0)
    for column in columns:
        role = column["role"] or "not used"
        lines.append(f"{inner}{column['name']:<{width}}  {role:<15}  {column['example']}")
    for vectors in found.get("vectors", ()):
        low, mean, high = vectors["norms"]
        norm = "normalised" if vectors["normalised"] else (
            f"norms {low:.3g} to {high:.3g}, mean {mean:.3g}"
        )  # fmt: skip
        parts = [f"{vectors['rows']:,} x {vectors['width']} {vectors['dtype']}", norm]
        odd = [what for what in ("zero_rows", "repeated_rows") if vectors[what]]
        parts += [f"{vectors[what]:,} {what.replace('_', ' ')}" for what in odd]
        if vectors["ids"]:
            parts.append(f"ids from {vectors['ids']}")
        lines.append(f"{inner}{vectors['name']}: {' · '.join(parts)}")
    if "array" in found:
        lines.append(f"{inner}{found['array']}")
    counts = [f"{count:,} {what}" for what, count in found.get("counts", {}).items() if count]
    if counts:
        lines.append(f"{inner}{' · '.join(counts)}")
    for part in found.get("parts", {}).values():
        lines += _lines(part, inner)
    if not found.get("parts"):
        lines += [f"{inner}problem: {problem}" for problem in found["problems"]]
    return lines
