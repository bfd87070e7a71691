"""One checkpoint on disk: a folder that is there whole or not at all, and every byte of it counts.

    checkpoint-1200/
        state.safetensors     arrays and numbers, a file of ``coreframe.state``
        progress.json         settings, inputs, and what is no array: position, history, scores
        trainer_state.json    the history in the form of Hugging Face's Trainer, for people
        manifest.json         format, step, and the size and sha256 of each file and each array

The manifest is written last and holds a hash of itself. No pickle, no code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coreframe.errors import ArtefactError, CheckpointError, OutputError
from coreframe.state import decode, encode
from coreframe.storage import (
    checksum,
    differing,
    remove_folder,
    sync_folder,
    write_folder,
)

FORMAT, VERSION = "coreframe-checkpoint", 1
PREFIX = "checkpoint-"
STATE, PROGRESS, TRAINER, MANIFEST = (
    "state.safetensors", "progress.json", "trainer_state.json", "manifest.json",
)  # fmt: skip
_HASH = 64


@dataclass(frozen=True)
class Stored:
    """What a checkpoint holds."""

    path: Path
    step: int
    arrays: Mapping[str, Any]
    """NumPy arrays and numbers by name."""
    progress: Mapping[str, Any]


def write(
    folder: Path,
    step: int,
    arrays: Mapping[str, Any],
    progress: Mapping[str, Any],
    trainer_state: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of a step into a folder and return its own folder.

    One of this step that is whole stays as it is. Raises OutputError.
    """
    path = folder / f"{PREFIX}{step}"
    if path.exists():
        if (found := manifest(path)) is not None and found["step"] == step:
            try:
                sync_folder(folder)  # whoever wrote it may have been stopped before that
            except OSError as error:
                text = f"cannot write {path}: {error.strerror or error}"
                raise OutputError(text) from None
            return path
        remove_folder(path)  # what is no checkpoint is in the way of one
    state = encode(arrays, kind="checkpoint")
    head = json.loads(json.loads(state[8 : 8 + int.from_bytes(state[:8], "little")])
                      ["__metadata__"]["coreframe"])  # fmt: skip
    contents = {
        STATE: state,
        PROGRESS: (json.dumps(progress) + "\n").encode(),
        TRAINER: (json.dumps(trainer_state, indent=2) + "\n").encode(),
    }
    listed = {
        "format": FORMAT,
        "version": VERSION,
        "step": step,
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in contents.items()
        },
        "arrays": head["arrays"],
    }
    listed["checksum"] = checksum(listed)
    contents[MANIFEST] = (json.dumps(listed, indent=2) + "\n").encode()
    write_folder(path, contents)
    return path


def manifest(path: Path) -> dict[str, Any] | None:
    """Return the manifest of a checkpoint whose files are all there in full length, else None."""
    try:
        found = _manifest(path)
    except CheckpointError:
        return None
    for name, about in found["files"].items():
        try:
            if (path / name).stat().st_size != about["bytes"]:
                return None
        except OSError:
            return None
    return found


def complete(folder: Path) -> list[tuple[int, Path]]:
    """Return step and path of the checkpoints in a folder that are whole, by step."""
    found = []
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(PREFIX) and path.is_dir() and not path.is_symlink():
                listed = manifest(path)
                if listed is not None:
                    found.append((int(listed["step"]), path))
    return sorted(found)


def read(path: Path) -> Stored:
    """Return what a checkpoint holds, once every hash is found right. Raises CheckpointError."""
    try:
        return _read(path)
    except CheckpointError as error:
        others = [step for step, other in complete(path.parent) if other != path]
        if not others:
            raise
        hint = f"{error.reason}; {PREFIX}{max(others)} beside it is whole"
        raise CheckpointError(error.path, error.array, hint) from None


def _read(path: Path) -> Stored:
    listed = _manifest(path)
    contents = {}
    for name, about in listed["files"].items():
        try:
            data = (path / name).read_bytes()
        except OSError as error:
            raise CheckpointError(path / name, None, f"{error.strerror or error}") from None
        if len(data) != about["bytes"] or hashlib.sha256(data).hexdigest() != about["sha256"]:
            array = _changed_array(data, listed["arrays"]) if name == STATE else None
            size = f"{about['bytes']:,} bytes were stored"
            if len(data) != about["bytes"]:
                reason = f"{size}, there are {len(data):,}"
            else:
                reason = "it is damaged: its bytes are not those that were stored (sha256)"
            raise CheckpointError(path / name, array, reason)
        contents[name] = data
    try:
        arrays, _ = decode(contents[STATE], path / STATE, kind="checkpoint")
        progress = json.loads(contents[PROGRESS])
    except (ArtefactError, ValueError) as error:
        raise CheckpointError(path, None, str(error)) from None
    return Stored(path, listed["step"], arrays, progress)


def _manifest(path: Path) -> dict[str, Any]:
    """Return a manifest that says what was written, and nothing about files elsewhere."""
    file = path / MANIFEST
    try:
        found = json.loads(file.read_bytes())
    except OSError as error:
        raise CheckpointError(file, None, f"{error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(file, None, f"it is damaged: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise CheckpointError(file, None, f"it is not of the format {FORMAT!r}")
    if found.get("version") != VERSION:
        raise CheckpointError(
            file, None,
            f"format version {found.get('version')!r}; this coreframe reads version {VERSION}",
        )  # fmt: skip
    rest = {key: x for key, x in found.items() if key != "checksum"}
    if found.get("checksum") != checksum(rest):
        raise CheckpointError(file, None, "it is damaged: it is not what was stored")
    files, step = found.get("files"), found.get("step")
    if type(step) is not int or not isinstance(files, dict) or set(files) != {
        STATE, PROGRESS, TRAINER
    }:  # fmt: skip
        raise CheckpointError(file, None, "it lists other files than those of a checkpoint")
    if not isinstance(found.get("arrays"), dict):
        raise CheckpointError(file, None, "it lists no arrays")
    for name, about in files.items():
        sound = isinstance(about, dict) and type(about.get("bytes")) is int
        if not sound or len(str(about.get("sha256"))) != _HASH:
            raise CheckpointError(file, None, f"it says nothing of {name}")
    return found


def _changed_array(data: bytes, wanted: Mapping[str, Any]) -> str | None:
    """Return the first array that is not what it was; None if the head of the file is damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
    except (SafetensorError, ValueError, TypeError, KeyError):
        return None
    return next((name for name, _ in differing(tensors, wanted)), None)
