"""Write, read back, compare, and only then put in place."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from coreframe.artefact import TrainedAdapter
from coreframe.errors import ArgumentError, CoreframeError, ExportError, OutputError
from coreframe.export.target import TOLERANCE, Target, adapted_sides
from coreframe.export.targets import build
from coreframe.storage import make_folder, sweep, sync_folder, temporary, write_files

FORMAT = "coreframe-export"
VERSION = 1


@dataclass(frozen=True, eq=False)
class Exported:
    """An export that is in its place."""

    folder: Path
    facts: Mapping[str, Any]
    """What ``coreframe.json`` in the folder says."""

    @property
    def text(self) -> str:
        """What a person must know, with the lines that load it."""
        return describe(self.facts, self.folder)


def export(
    adapter: TrainedAdapter,
    folder: str | os.PathLike[str],
    *,
    to: str,
    thresholds: Sequence[Mapping[str, Any]] | None = None,
    overwrite: bool = False,
    **options: Any,
) -> Exported:
    """Write an adapter for another program, in a folder of its own.

    Args:
        adapter: what ``fit`` or ``load`` returned.
        folder: where to; it may not hold files, unless ``overwrite`` is set: then it is replaced.
        to: the target, one of ``TARGETS``.
        thresholds: how scores move, as ``metrics.json`` has it; None if it was not measured.
        options: fields of the target, such as ``base`` or ``table``.

    What was written is read back and compared with the adapter on 16 vectors. Raises ExportError
    if they differ by more than 1e-5; then, and after any other error, the folder is as it was.
    """
    target = build(to, options)
    path = Path(os.path.abspath(folder))
    occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if occupied and not path.is_dir():
        raise OutputError(f"{path} is a file, not a folder")
    if occupied and not overwrite:
        raise ArgumentError(
            f"the folder {path} is not empty; use overwrite (--overwrite), or another folder"
        )
    staging = _stage(path)
    try:
        target.write(adapter, staging)
        error = _check(target, adapter, staging)
        facts = _facts(target, adapter, thresholds, error)
        _tell(staging, facts, path)
        _publish(staging, path)
    except CoreframeError:
        raise
    except OSError as error_:
        raise ExportError(f"cannot write {path}: {error_.strerror or error_}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Exported(path, facts)


def _check(target: Target, adapter: TrainedAdapter, folder: Path) -> float:
    """Return the largest difference from the adapter; raise ExportError if it is too large."""
    largest, compared = 0.0, 0
    for found in target.compare(adapter, folder):
        compared += 1
        if not found.error <= TOLERANCE:
            raise ExportError(
                f"the export to {target.name} was read back and differs from the adapter: "
                f"{found.what} by {found.error:.1e}, where {TOLERANCE:.0e} is allowed; nothing "
                "was kept"
            )
        largest = max(largest, found.error)
    if not compared:
        raise ExportError(f"the export to {target.name} could not be compared; nothing was kept")
    return largest


# What must be known ---------------------------------------------------------------------------


def _facts(
    target: Target,
    adapter: TrainedAdapter,
    thresholds: Sequence[Mapping[str, Any]] | None,
    error: float,
) -> dict[str, Any]:
    moved = adapted_sides(adapter)
    if not adapter.normalize:
        normalised = "no: vectors keep the lengths that the map gives them"
    elif target.divides(adapter):
        normalised = "yes, to length 1, by what was exported"
    else:
        normalised = "not by the files: divide by the length, where the lines below do not do so"
    return {
        "format": FORMAT,
        "version": VERSION,
        "target": target.name,
        "adapted_sides": list(moved),
        "goes_on": _goes_on(moved),
        "rebuild_index": adapter.rebuilds_index,
        "similarity": adapter.similarity,
        "normalize": adapter.normalize,
        "normalised": normalised,
        "base_model": adapter.base_model,
        "dimensions": adapter.dimensions,
        "dimensions_out": adapter.side("query").matrix(adapter.dimensions)[0].shape[1],
        "thresholds": None if thresholds is None else [dict(entry) for entry in thresholds],
        "largest_difference": error,
        "adapter": hash_adapter(adapter),
        "coreframe": _version(),
        "usage": target.usage(adapter),
        "notes": target.notes(adapter),
    }


def _version() -> str:
    try:
        return metadata.version("coreframe-ml")
    except metadata.PackageNotFoundError:
        return "not installed as a package"


def _goes_on(moved: tuple[str, ...]) -> str:
    return {
        (): "neither side: the adapter is the identity",
        ("query",): "queries only: documents and their index stay as they are",
        ("document",): "documents only: adapt their vectors and rebuild the index",
        ("query", "document"): "queries and documents: adapt both and rebuild the index",
    }[moved]


def hash_adapter(adapter: TrainedAdapter) -> str:
    """Return ``sha256:`` and a hash of what is stored of an adapter."""
    digest = hashlib.sha256()
    for name, content in sorted(adapter.files().items()):
        digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
    return "sha256:" + digest.hexdigest()


def describe(facts: Mapping[str, Any], folder: str | os.PathLike[str] = "FOLDER") -> str:
    """Return in words what ``coreframe.json`` says."""
    base = facts["base_model"] or "not named: use the model whose vectors it was trained on"
    wide = f"{facts['dimensions']} numbers in, {facts['dimensions_out']} out"
    rebuild = "must be rebuilt" if facts["rebuild_index"] else "stays"
    known = {
        "goes on": facts["goes_on"],
        "index": rebuild,
        "similarity": facts["similarity"],
        "normalised": facts["normalised"],
        "base model": f"{base}; {wide}",
        "thresholds": "scores move; new thresholds were not measured in this run",
        "checked": f"16 vectors, largest difference {facts['largest_difference']:.0e}",
    }
    if moved := facts["thresholds"]:
        width = max(len(row["what"]) for row in moved)
        rows = [f"{t['what']:<{width}}  {t['before']:.3f} -> {t['after']:.3f}" for t in moved]
        known["thresholds"] = "\n".join(["scores move", *rows])
    lines = [line for name, text in known.items() for line in _entry(name, text)]
    lines += [line for note in facts["notes"] for line in _entry("note", note)]
    lines += ["", *(f"  {line}".replace("FOLDER", str(folder)) for line in facts["usage"])]
    return "\n".join(lines)


def _entry(name: str, text: str) -> list[str]:
    """Return a name and what is said of it, in lines of at most 96 characters."""
    parts = [part for line in text.split("\n") for part in textwrap.wrap(line, 83) or [line]]
    return [f"{name if i == 0 else '':<13}{part}" for i, part in enumerate(parts)]


def _tell(folder: Path, facts: Mapping[str, Any], place: Path) -> None:
    """Write the facts beside the export; a model card that came with the base keeps its text."""
    text = describe(facts, place.name)
    section = f"# A coreframe adapter for {facts['target']}\n\n```text\n{text}\n```\n"
    readme = folder / "README.md"
    if readme.exists():
        section = f"{readme.read_text(encoding='utf-8').rstrip()}\n\n{section}"
    content = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    write_files(folder, {"README.md": section.encode(), "coreframe.json": content.encode()})


# Files ----------------------------------------------------------------------------------------


def _stage(path: Path) -> Path:
    """Return a new folder beside the one to be written, so that a rename puts it in place."""
    make_folder(path.parent)
    sweep(path.parent)
    staging = temporary(path.parent)
    try:
        staging.mkdir()
    except OSError as error:
        raise OutputError(f"cannot write to {path.parent}: {error.strerror or error}") from None
    return staging


def _publish(staging: Path, path: Path) -> None:
    """Put a folder in its place; the one that was there is removed when the new one is in."""
    sync_folder(staging)
    old = None
    if path.exists():
        old = path.with_name(f".{path.name}-old-{secrets.token_hex(4)}")
        os.rename(path, old)
    try:
        os.rename(staging, path)
    except BaseException:
        if old is not None:
            os.rename(old, path)
        raise
    sync_folder(path.parent)
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
