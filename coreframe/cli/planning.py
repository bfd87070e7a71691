"""``train --dry-run``: what a run would do, its data and its memory, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from coreframe.cli.common import tell


def embedding_nothing(settings: Any, options: Mapping[str, Any]) -> Any:
    """Return settings that embed no texts where that costs anything."""
    from dataclasses import replace

    from coreframe.plan import StandIn

    embedder = StandIn.of(settings.embedder)
    if embedder is settings.embedder:
        return settings
    width = embedder.dimensions  # type: ignore[attr-defined]
    tell(options, f"texts   are not embedded in a dry run; {width} numbers a vector are assumed")
    return replace(settings, embedder=embedder)


def watched(dev: Any, settings: Any) -> str | None:
    """Say that a look at dev while training searches only some of many documents."""
    from coreframe.evaluation.pool import pool_size

    count = int(dev.documents.shape[0])
    size = pool_size(settings.train.eval_documents, count)
    if size is None:
        return None
    return (
        f"dev     {size:,} of {count:,} documents are searched while training "
        "(train.eval_documents); what is reported is measured on all"
    )


def show(loaded: Any, settings: Any, options: Mapping[str, Any]) -> int:
    """Split the data, print the plan, and return the exit code."""
    import json

    from coreframe.data.splits import split_pairs
    from coreframe.plan import plan

    split = split_pairs(loaded, settings.data, seed=settings.train.seed)
    for line in (*loaded.notes, *split.notes):
        tell(options, line)
    found = plan(split.train, split.dev, split.test, settings)
    if options["as_json"]:
        told = {**found.as_dict(), "notes": [*loaded.notes, *split.notes]}
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo("\n".join(found.lines()))
    return 0
