"""Files on disk: formats that name themselves, and writes that happen whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coreframe.errors import ArtefactError, OutputError


def check_format(found: object, name: str, version: int, where: object) -> dict[str, Any]:
    """Return the header of a stored file, or raise ArtefactError unless we can read its format."""
    if not isinstance(found, dict) or found.get("format") != name:
        raise ArtefactError(f"{where} is not of the format {name!r}")
    if found.get("version") != version:
        raise ArtefactError(
            f"{where} has format version {found.get('version')!r}; "
            f"this coreframe reads version {version}"
        )
    return found


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Make a folder to write to, or raise OutputError."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror or error}") from None
    return path


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files that belong together: none takes its place before all are on the disk."""
    temporaries: dict[str, str] = {}
    path = folder
    try:
        for name, data in contents.items():
            path = folder / name
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".part-", delete=False) as file:
                temporaries[name] = file.name
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporaries[name], 0o644)
        for name in contents:
            path = folder / name
            os.replace(temporaries[name], path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
    finally:
        for temporary in temporaries.values():
            Path(temporary).unlink(missing_ok=True)
