"""Disks that fail, disks that forget, and files that change: for tests of what is stored."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CALLS = ("open", "write", "fsync", "replace", "rename", "mkdir")
FAULTS = {
    "ENOSPC": errno.ENOSPC,
    "EIO": errno.EIO,
    "EACCES": errno.EACCES,
}


class Faults:
    """Counts system calls that change a disk, and lets one of them fail."""

    def __init__(self, at: int | None, error: int | None) -> None:
        self.at, self.error = at, error
        self.count = 0
        self.failed = ""

    def __call__(self, name: str) -> bool:
        self.count += 1
        if self.count == self.at:
            self.failed = name
            return True
        return False


@contextmanager
def faulty(folder: Path, at: int | None, fault: str) -> Iterator[Faults]:
    """Let the call number ``at`` (from 1) under a folder fail, or be a short write."""
    faults = Faults(at, FAULTS.get(fault))
    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, _failing(name, getattr(os, name), folder, faults))
        yield faults


def _failing(name: str, real: Callable[..., Any], folder: Path, faults: Faults) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        where = args[0]
        if isinstance(where, str | os.PathLike) and not str(where).startswith(str(folder)):
            return real(*args, **kwargs)
        if name == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR):
            return real(*args, **kwargs)
        if faults(name):
            if faults.error is None:  # a short write, which is no error
                return real(args[0], args[1][:3]) if name == "write" else real(*args, **kwargs)
            if name == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            raise OSError(faults.error, os.strerror(faults.error))
        return real(*args, **kwargs)

    return call


class Recorder:
    """What a disk was told, call by call, so that a power cut after any of them can be replayed.

    The model is the harshest that POSIX allows: the bytes of a file count only once it is synced,
    and a name (a new one, a renamed one, one that is gone) only once its folder is. Beside it
    stands the kindest, in which all has reached the disk at once. After each call both are tried.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[int, Path] = {}
        self.data: dict[int, bytes] = {}  # by inode: what is synced
        self.names: dict[str, int] = {}  # by path: the inode that a synced name leads to
        self.cuts: list[tuple[dict[str, bytes], dict[str, bytes]]] = []
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                inode = path.stat().st_ino
                self.names[str(path)] = inode
                self.data[inode] = path.read_bytes()

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record; a cut is noted after each call."""
        with pytest.MonkeyPatch.context() as patch:
            for name in (*CALLS, "unlink", "link", "rmdir"):
                patch.setattr(os, name, self._seen(name, getattr(os, name)))
            yield
            self._cut()

    def _seen(self, name: str, real: Callable[..., Any]) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "fsync":
                self._synced(os.readlink(f"/proc/self/fd/{args[0]}"))
            result = real(*args, **kwargs)
            self._cut()
            return result

        return call

    def _synced(self, path: str) -> None:
        if os.path.isdir(path):
            here = {p: os.stat(p).st_ino for p in _under(Path(path)) if os.path.isfile(p)}
            near = {p: i for p, i in here.items() if os.path.dirname(p) == path}
            for known in [p for p in self.names if os.path.dirname(p) == path]:
                del self.names[known]
            self.names |= near
            moved = {os.path.dirname(p) for p in here} - {path}
            for inner in moved:  # a folder that was renamed takes its synced names along
                for known in [p for p in here if os.path.dirname(p) == inner]:
                    if here[known] in self.names.values():
                        self.names[known] = here[known]
            gone = [p for p in self.names if p.startswith(path + "/") and p not in here]
            for known in gone:
                del self.names[known]
        else:
            self.data[os.stat(path).st_ino] = Path(path).read_bytes()

    def _cut(self) -> None:
        harsh = {p: self.data.get(inode, b"") for p, inode in self.names.items()}
        kind = {p: Path(p).read_bytes() for p in _under(self.folder) if os.path.isfile(p)}
        self.cuts.append((harsh, kind))

    def replay(self, target: Path) -> Iterator[Path]:
        """Yield a folder as it is after a power cut, for each call and both kinds of disk."""
        seen = set()
        for pair in self.cuts:
            for files in pair:
                key = tuple(sorted(files.items()))
                if key in seen:
                    continue
                seen.add(key)
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir(parents=True)
                for path, data in files.items():
                    place = target / Path(path).relative_to(self.folder)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(data)
                yield target


def _under(folder: Path) -> list[str]:
    return [os.path.join(root, name) for root, _, names in os.walk(folder) for name in names]


def leftovers(folder: Path) -> list[str]:
    """Return what is hidden in a folder: temporaries and locks."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob(".*"))


# Files that change ----------------------------------------------------------------------------


def mutated(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """Return a file that is not quite the file: its change in words, and its bytes."""
    way = int(rng.integers(8))
    at = int(rng.integers(len(data)))
    if way <= 2:
        bit = 1 << int(rng.integers(8))
        return f"bit {bit} of byte {at}", data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :]
    if way == 3:
        byte = int(rng.integers(256))
        return f"byte {at} becomes {byte}", data[:at] + bytes([byte]) + data[at + 1 :]
    if way == 4:
        return f"cut at {at}", data[:at]
    if way == 5:
        more = rng.bytes(int(rng.integers(1, 20)))
        return f"{len(more)} bytes more at {at}", data[:at] + more + data[at:]
    count = int(rng.integers(1, 40))
    if way == 6:
        return f"{count} bytes gone at {at}", data[:at] + data[at + count :]
    other = int(rng.integers(len(data)))
    piece = data[other : other + count]
    return f"{count} bytes of {other} at {at}", data[:at] + piece + data[at + len(piece) :]


def same_json(one: bytes, other: bytes) -> bool:
    """Say whether two files say the same to a reader of JSON."""
    try:
        return bool(json.loads(one) == json.loads(other))
    except ValueError:
        return False
