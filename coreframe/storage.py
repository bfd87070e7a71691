"""Files on disk: formats that name themselves, and writes that happen whole or not at all.

A write goes to a hidden temporary beside its place, is brought to the disk, and takes its place by
a rename, which is brought to the disk in turn. So at every moment, and after a power cut at any
moment, the place holds what was there or what is new, and nothing in between.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from coreframe.errors import ArtefactError, OutputError

PART = ".part-"
"""How the names of temporaries begin: then host, process and a draw."""
_DAY = 86400.0
_NO_LINKS = {errno.EPERM, errno.EXDEV, errno.EMLINK, errno.ENOSYS, errno.EOPNOTSUPP}


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
    """Write files that belong together: none takes its place before all are on the disk.

    If anything fails, the files that were there are there again, and OutputError says what failed.
    Temporaries that a killed process left are swept. They take their places one after another,
    in the order of ``contents``: a power cut just then can leave new ones beside old ones.
    """
    sweep(folder)
    parts: dict[str, Path] = {}
    before: dict[str, Path] = {}
    moved: list[str] = []
    path = folder
    try:
        _need_room(folder, contents)
        for name, data in contents.items():
            path = folder / name
            if path.parent != folder:
                path.parent.mkdir(parents=True, exist_ok=True)
            parts[name] = temporary(path.parent)
            write_synced(parts[name], data)
        for name in contents:
            path = folder / name
            if path.exists():
                before[name] = temporary(path.parent)
                _link(path, before[name])
        for name in contents:
            path = folder / name
            os.replace(parts[name], path)
            moved.append(name)
        for parent in dict.fromkeys((folder / name).parent for name in contents):
            path = parent
            sync_folder(parent)
    except BaseException as error:
        for name in reversed(moved):
            _put_back(folder / name, before.pop(name, None))
        if isinstance(error, OSError):
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
        raise
    finally:
        for part in (*parts.values(), *before.values()):
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def write_folder(path: Path, contents: Mapping[str, bytes]) -> None:
    """Write a new folder whole: hidden beside its place, each file on the disk, then renamed.

    Files are written in the order of ``contents``, so that what stands last, a manifest, says that
    all the others are there. Raises OutputError; nothing is left then.
    """
    part = temporary(path.parent)
    where = path
    try:
        _need_room(path.parent, contents)
        part.mkdir()
        for name, data in contents.items():
            where = path / name
            if (folder := (part / name).parent) != part:
                folder.mkdir(parents=True, exist_ok=True)
            write_synced(part / name, data)
        where = path
        sync_folder(part)
        os.rename(part, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {where}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield the name of a temporary to write, which then takes the place of a file.

    Whatever fails before, what was there is there. Raises OutputError.
    """
    part = temporary(path.parent)
    try:
        yield part
        descriptor = os.open(part, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            _sync(descriptor)
        finally:
            os.close(descriptor)
        os.chmod(part, 0o644)
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def remove_folder(path: Path) -> None:
    """Remove a folder such that no half of it can be taken for the whole."""
    part = temporary(path.parent)
    try:
        os.rename(path, part)
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror or error}") from None
    shutil.rmtree(part, ignore_errors=True)


def temporary(folder: Path) -> Path:
    """Return a name for a temporary in a folder, which says whose it is."""
    return folder / f"{PART}{_host()}-{os.getpid()}-{secrets.token_hex(4)}"


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and bring it to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0))
    try:
        rest = memoryview(data)
        while rest:  # a write may be short
            if not (written := os.write(descriptor, rest)):
                raise OSError(errno.EIO, "the disk took none of the bytes")
            rest = rest[written:]
        _sync(descriptor)
    finally:
        os.close(descriptor)
    os.chmod(path, 0o644)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # no such thing on this file system
            raise
    finally:
        os.close(descriptor)


def sweep(folder: Path, *, all_of_them: bool = False) -> None:
    """Remove the temporaries of processes that are gone; of all, if nobody else can write here.

    Those of other machines, whose processes cannot be asked, go after a day.
    """
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            if not entry.name.startswith(PART):
                continue
            host, _, rest = entry.name.removeprefix(PART).rpartition("-")[0].rpartition("-")
            old = time.time() - entry.stat(follow_symlinks=False).st_mtime > _DAY
            gone = host == _host() and rest.isdigit() and not alive(int(rest))
            if all_of_them or old or gone:
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    os.unlink(entry.path)


def alive(process: int) -> bool:
    """Say whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is another user's
    return True


# Hashes -----------------------------------------------------------------------------------------


def fingerprint(x: Any) -> dict[str, Any]:
    """Return dtype, shape and ``sha256`` of the bytes of a NumPy array, in the order of C."""
    import numpy as np

    data = np.ascontiguousarray(x)
    digest = hashlib.sha256(data.reshape(-1).view(np.uint8).data if data.size else b"")
    return {"dtype": str(x.dtype), "shape": list(x.shape), "sha256": digest.hexdigest()}


def checksum(head: Mapping[str, Any]) -> str:
    """Return the sha256 of what JSON can hold, whatever its order and its spaces."""
    import json

    plain = json.loads(json.dumps(head))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differing(arrays: Mapping[str, Any], wanted: object) -> Iterator[tuple[str, str]]:
    """Yield each array that is not what its ``fingerprint`` says, and in what it differs."""
    if not isinstance(wanted, dict):
        yield "", "the list of its arrays is damaged"
        return
    for name in dict.fromkeys((*wanted, *arrays)):
        if name not in arrays:
            yield name, "it is missing"
        elif name not in wanted:
            yield name, "nothing is known of it"
        elif (found := fingerprint(arrays[name])) != wanted[name]:
            known = wanted[name] if isinstance(wanted[name], dict) else {}
            shape = f"{found['dtype']} {tuple(found['shape'])}"
            same = all(found[key] == known.get(key) for key in ("dtype", "shape"))
            yield name, "its bytes are not those that were stored" if same else f"it is {shape}"


# Details ----------------------------------------------------------------------------------------


def _host() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]


def _sync(descriptor: int) -> None:
    try:
        import fcntl

        full = getattr(fcntl, "F_FULLFSYNC", None)  # on macOS fsync stops at the drive's cache
    except ImportError:
        full = None
    if full is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)


def _need_room(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Raise before the first byte where a disk is too full."""
    needed = sum(len(data) for data in contents.values())
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return
    if free < needed:
        text = f"No space left on device: {needed:,} bytes are needed, {free:,} are free"
        raise OSError(errno.ENOSPC, text)


def _link(path: Path, other: Path) -> None:
    """Keep an old file under a second name, where the file system can."""
    try:
        os.link(path, other)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise


def _put_back(path: Path, old: Path | None) -> None:
    """Undo a rename; where the file system keeps no second name of the old file, the new stays."""
    with contextlib.suppress(OSError):
        if old is None:
            path.unlink(missing_ok=True)
        elif old.exists():
            os.replace(old, path)
