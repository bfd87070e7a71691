"""What a run leaves behind: one folder, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import tempfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from coreframe import registry
from coreframe.config import RunConfig, dump
from coreframe.errors import ArgumentError, OutputError
from coreframe.experiment import Candidate, Outcome
from coreframe.report import model_card, report_html
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
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ArgumentError(
            f"the output folder {path} is not empty; use --overwrite, or another --out"
        )
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
) -> dict[str, Any]:
    """Write all files of a run and return what ``metrics.json`` says.

    All are on the disk before the first takes its place, so that a run that fails here leaves
    nothing half-written. Files of an earlier run are replaced.
    """
    environment = describe_environment(outcome, inputs)
    metrics = summary(outcome, config)
    text = dump(config)
    lines = [json.dumps(entry) for entry in outcome.run.history]
    report = report_html(outcome, title=title, config_text=text, environment=environment)
    contents = {
        "run.toml": text,
        "metrics.json": to_json(metrics) + "\n",
        "metrics.jsonl": "\n".join(lines) + "\n",
        "environment.json": to_json(environment) + "\n",
        "report.html": report,
        "README.md": model_card(outcome, title=title, environment=environment),
    }
    files = outcome.adapter.files() | {name: x.encode() for name, x in contents.items()}
    write_files(make_folder(folder), files)
    return metrics


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
        },
        "baseline": {name: g.base for name, g in gains.items()},
        "trained": outcome.candidates["trained"].test.mean(),
        "adapted": {name: g.adapted for name, g in gains.items()},
        "gain": {name: g.gain for name, g in gains.items()},
        "ci95": {name: [g.low, g.high] for name, g in gains.items()},
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
        "start": outcome.start,
        "best_epoch": outcome.run.best_epoch,
        "skipped_steps": outcome.run.skipped_steps,
        "seed": config.train.seed,
        "backend": outcome.run.backend,
        "backend_source": outcome.run.backend_source,
        "seconds": round(outcome.seconds, 3),
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
