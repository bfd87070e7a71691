"""What a run leaves behind: one folder, written whole or not at all.

model.safetensors config.json    the adapter that was promoted
README.md report.html            what was found, to read
report.json                      what the page shows: coreframe report draws it again
metrics.json                     and for programs
run.toml environment.json        what ran, with what; hashes of what was read
metrics.jsonl trainer_state.json how training went, line by line
learned.safetensors              what the next run goes on from (--continue)
eval/qrels.trec                  what is right for the test queries
eval/run.base.trec run.adapted.trec   what was found for them, before and after
eval/per_query.jsonl             every test query with its metrics and ranks
eval/changed.jsonl               every one whose rank moved
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from coreframe import checkpoint_files, registry
from coreframe.config import RunConfig, dump
from coreframe.curve import CurvePoint
from coreframe.errors import ArgumentError, OutputError
from coreframe.evaluation.compare import Gain
from coreframe.evaluation.per_query import per_query_lines
from coreframe.evaluation.trec import qrels_lines, run_lines
from coreframe.experiment import Candidate, Outcome
from coreframe.following import named_lines
from coreframe.forgetting import KeptSet
from coreframe.learned import FILE as LEARNED
from coreframe.report import model_card, render, report_data
from coreframe.storage import make_folder, write_files

PACKAGES = ("coreframe-ml", "numpy", "array-api-compat", "pluggy", "safetensors", "threadpoolctl")


def claim_folder(folder: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Make sure, before any work, that a run can be written to this folder.

    Raises OutputError if it cannot be written, and ArgumentError if it holds files and
    ``overwrite`` is not set.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise OutputError(f"{path} is a file, not a folder; choose another with --out")
    if not overwrite and checkpoint_files.complete(path):
        raise ArgumentError(
            f"the output folder {path} holds a run that was saved; go on with it by "
            "--resume-from-checkpoint latest, or begin anew with --overwrite"
        )
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        what = "holds a finished run" if (path / "metrics.json").exists() else "is not empty"
        raise ArgumentError(f"the output folder {path} {what}; use --overwrite, or another --out")
    # Tried in the nearest folder that exists, so that a run that fails leaves no empty ones.
    nearest = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {path}: {error.strerror or error}") from None
    return path


def write_run(
    outcome: Outcome,
    config: RunConfig,
    folder: Path,
    *,
    title: str,
    inputs: Mapping[str, str],
    sources: Mapping[str, Any] | None = None,
    kept: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
    logged: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Write all files of a run and return what ``metrics.json`` says.

    ``sources`` is how the data can be read again, and ``kept`` the same of each set that must not
    be forgotten: see ``coreframe.runs``. ``notes`` are what was said of the data while it was
    read and split. ``logged`` says that ``metrics.jsonl`` is there already, written by the callback
    ``jsonl`` as the run went. ``command`` is what was typed.

    All are on the disk before the first takes its place, so that a run that fails here leaves
    nothing half-written. Files of an earlier run are replaced.
    """
    environment = describe_environment(outcome, inputs)
    environment |= {"sources": sources, "kept": [dict(entry) for entry in kept]}
    environment |= {"command": command} if command else {}
    metrics = summary(outcome, config) | {"data": list(notes)}
    text = dump(config)
    data = report_data(outcome, title=title, config_text=text, environment=environment)
    contents = {
        "run.toml": text,
        "metrics.json": to_json(metrics) + "\n",
        "environment.json": to_json(environment) + "\n",
        "report.json": json.dumps(data, ensure_ascii=False, allow_nan=False) + "\n",
        "report.html": render(data),
        "README.md": model_card(outcome, title=title, environment=environment, data=data),
    }
    contents["trainer_state.json"] = to_json(dict(outcome.run.trainer_state)) + "\n"
    if not logged:
        lines = named_lines(outcome.run.history, outcome.start)
        contents["metrics.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines)
    contents |= evidence(outcome)
    files = outcome.adapter.files() | {name: x.encode() for name, x in contents.items()}
    if outcome.learned is not None:
        files[LEARNED] = outcome.learned.encode()
    write_files(make_folder(folder), files)
    return metrics


def evidence(outcome: Outcome) -> dict[str, str]:
    """Return the files in ``eval/``, by name: what was found for each test query."""
    test, base, kept = (
        outcome.test,
        outcome.candidates["identity"],
        outcome.candidates[outcome.kept],
    )
    shown = {"base": base, "adapted": kept}
    lines: dict[str, Iterable[str]] = {"qrels.trec": qrels_lines(test)}
    for name, candidate in shown.items():
        lines[f"run.{name}.trec"] = run_lines(
            candidate.adapter, test, candidate.test.found, tag=f"coreframe-{name}"
        )
    evaluations = {name: candidate.test for name, candidate in shown.items()}
    if outcome.promoted not in ("identity", outcome.kept):
        evaluations["stored"] = outcome.candidates[outcome.promoted].test
    found = [*per_query_lines(test, evaluations, outcome.ranks)]
    lines["per_query.jsonl"] = (f"{line}\n" for line in found)
    moved = (line for line in found if _moved(json.loads(line)["rank"]))
    lines["changed.jsonl"] = (f"{line}\n" for line in moved)
    return {f"eval/{name}": "".join(text) for name, text in lines.items()}


def _moved(ranks: Mapping[str, int | None]) -> bool:
    return ranks["base"] != ranks["adapted"]


def summary(outcome: Outcome, config: RunConfig) -> dict[str, Any]:
    """Return the figures of a run: base, trained, and the kept candidate with its gain."""
    gains = outcome.comparison.gains
    gate = outcome.gate
    main = gains[gate.metric]

    def row(candidate: Candidate) -> dict[str, Any]:
        return {
            "test": candidate.test.mean(),
            "dev": dict(candidate.dev),
            "rebuild_index": candidate.adapter.rebuilds_index,
            "allowed": candidate.allowed,
        }

    return {
        "promoted": outcome.promoted,
        "kept": outcome.kept,
        "gate": {
            "passed": gate.passed,
            "metric": gate.metric,
            "minimum_gain": gate.minimum_gain,
            "reason": gate.reason,
            "hint": gate.hint,
            "p": gate.p,
            "coverage": {"before": gate.coverage[0], "after": gate.coverage[1]},
            "over": outcome.reference,
        },
        "baseline": {name: g.base for name, g in gains.items()},
        "trained": outcome.candidates["trained"].test.mean(),
        "adapted": {name: g.adapted for name, g in gains.items()},
        "gain": {name: g.gain for name, g in gains.items()},
        "ci95": {name: [g.low, g.high] for name, g in gains.items()},
        "p": {name: g.p for name, g in gains.items()},
        "better": main.better,
        "worse": main.worse,
        "same": main.same,
        "candidates": {name: row(c) for name, c in outcome.candidates.items()},
        "queries": {
            "train": len(outcome.train),
            "dev": len(outcome.dev),
            "test": len(outcome.test),
        },
        "documents": int(outcome.test.documents.shape[0]),
        "health": {name: found.as_dict() for name, found in outcome.health.items()},
        "thresholds": [dict(row) for row in outcome.thresholds],
        "learning_curve": {
            "answer": outcome.more_labels,
            "left_out": outcome.no_curve,
            "points": [_point(point) for point in outcome.curve],
        },
        "forgetting": [_row_of_table(row) for row in outcome.forgetting],
        "continued": _continued(outcome),
        "start": outcome.start,
        "best_epoch": outcome.run.best_epoch,
        "skipped_steps": outcome.run.skipped_steps,
        "seed": config.train.seed,
        "backend": outcome.run.backend,
        "backend_source": outcome.run.backend_source,
        "seconds": round(outcome.seconds, 3),
    }


def _gain(g: Gain) -> dict[str, Any]:
    return {"gain": g.gain, "ci95": [g.low, g.high], "p": g.p}


def _point(point: CurvePoint) -> dict[str, Any]:
    return {
        "share": point.share,
        "queries": point.queries,
        "pairs": point.pairs,
        "test": dict(point.metrics),
        **_gain(point.gain),
        "over_the_point_before": None if point.step is None else _gain(point.step),
    }


def _row_of_table(row: KeptSet) -> dict[str, Any]:
    return {
        "name": row.name,
        "queries": row.queries,
        "base": dict(row.base),
        "before": dict(row.before),
        "after": dict(row.after),
        **_gain(row.gain),
        "better": row.gain.better,
        "worse": row.gain.worse,
        "same": row.gain.same,
        "forgotten": row.forgotten,
    }


def _continued(outcome: Outcome) -> dict[str, Any] | None:
    """Return what a run that went on tried, and its gain over the earlier adapter."""
    if outcome.over_previous is None or outcome.trial is None:
        return None
    return {
        "hold": outcome.trial.hold,
        "strength": outcome.trial.strength,
        "trials": [
            {
                "strength": trial.strength,
                "new": trial.new,
                "kept": dict(trial.changes),
                "epoch": trial.run.best_epoch,
            }
            for trial in outcome.trials
        ],
        "over_previous": {
            name: {"before": g.base, "after": g.adapted, **_gain(g)}
            for name, g in outcome.over_previous.gains.items()
        },
    }


def describe_environment(outcome: Outcome, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Return versions, plugins, BLAS, and the hashes of what was read."""
    from threadpoolctl import threadpool_info

    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed as a package"
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": versions,
        "plugins": {
            plugin.key: plugin.version
            for plugin in registry.registry().plugins
            if plugin.state == "loaded"
        },
        "backend": outcome.run.backend,
        "backend_source": outcome.run.backend_source,
        "blas": [
            f"{info['internal_api']} {info['version']}, {info['num_threads']} threads"
            for info in threadpool_info()
            if info["user_api"] == "blas"
        ],
        "inputs": dict(inputs),
    }


def hash_file(path: str | os.PathLike[str]) -> str:
    """Return ``sha256:`` and the hash of a file's content."""
    with open(path, "rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def hash_texts(texts: Any) -> str:
    """Return ``sha256:`` and a hash of a list of texts."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return "sha256:" + digest.hexdigest()


def to_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
