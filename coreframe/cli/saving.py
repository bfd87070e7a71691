"""The folder of a run and its checkpoints, as the options of the command line ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from coreframe.cli.common import NOT_BETTER, tell

if TYPE_CHECKING:  # at run time it would bring what listing does not need
    from coreframe.checkpoint import Checkpoints


def claim(options: dict[str, Any], default: Path) -> Path:
    """Return the output folder, made sure of before any work.

    A run that goes on may find its own files there: with a path and without --out it goes on where
    the checkpoint lies. With "latest" so may a run that was stopped before its first checkpoint.
    """
    from coreframe import checkpoint_files, outputs

    resume = options["resume_from_checkpoint"]
    if options["out"] is None and resume not in (None, "latest"):
        path = Path(resume)
        options["out"] = path.parent if path.name.startswith(checkpoint_files.PREFIX) else path
    options["out"] = out = options["out"] or default
    own = resume is not None and (
        resume != "latest"
        or bool(checkpoint_files.complete(out))
        or not (out / "metrics.json").exists()
    )
    return outputs.claim_folder(out, overwrite=options["overwrite"] or own)


def finished(
    options: Mapping[str, Any], settings: Any, default: Path, data: Sequence[Path]
) -> int | None:
    """Tell what a run found that is over, and return its exit code, where "latest" is asked for.

    So a job that is started again until it ends ends well. None where there is something to do: no
    run yet, a checkpoint to go on from, or other settings or data than those of the run.
    """
    from coreframe import checkpoint_files, config, outputs, runs

    out = options["out"] or default
    if options["resume_from_checkpoint"] != "latest" or options["overwrite"]:
        return None
    if not (out / "metrics.json").exists() or checkpoint_files.complete(out):
        return None
    run = runs.read_run(out)
    read = run.environment["inputs"]
    given = all(any(p == str(x) or Path(p).is_relative_to(x) for p in read) for x in data)
    same = given and all(Path(p).is_file() and outputs.hash_file(p) == h for p, h in read.items())
    if not same or (out / "run.toml").read_text(encoding="utf-8") != config.dump(settings):
        return None
    gate = run.metrics["gate"]
    if options["as_json"]:
        click.echo(outputs.to_json(run.metrics))
    else:
        verdict = "better" if gate["passed"] else "no proof of gain"
        tell(options, f"{out} holds this run, and it is over: {verdict}: {gate['reason']}")
    return 0 if gate["passed"] else NOT_BETTER


def checkpoints(
    options: Mapping[str, Any], settings: Any, folder: Path, inputs: Mapping[str, str]
) -> Checkpoints:
    """Return the checkpoints of a run, and what it shares with the one that it goes on from."""
    from coreframe.checkpoint import Checkpoints
    from coreframe.fields import described

    train = settings.train
    return Checkpoints(
        folder,
        save_strategy=train.save_strategy,
        save_steps=train.save_steps,
        save_total_limit=train.save_total_limit,
        resume=options["resume_from_checkpoint"],
        config=described(settings),
        inputs=inputs,
        overwrite=options["overwrite"] or options["resume_from_checkpoint"] is not None,
    )
