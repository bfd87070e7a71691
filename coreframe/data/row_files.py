"""Files of vectors by the hash of a text, which processes append to and none ever changes.

One folder an embedder (by its fingerprint), and in it one file a process that wrote: a header,
then entries of one size, appended a batch at a time. So processes never write to one file, a
process that is killed loses its last batch at most, and what is damaged shows by its checksum.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import struct
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.errors import OutputError
from coreframe.storage import write_files

logger = logging.getLogger(__name__)

Layout = tuple[str, int]
"""Kind of the numbers (f2, f4 or f8) and width of the rows of a file."""

_HEADER = struct.Struct("<16s4sI8x")
_MAGIC = b"coreframe rows 1"
_KEY, _CHECK = 16, 8  # bytes of the key of an entry, and of its checksum


class RowFile:
    """One file of entries, mapped as far as it had been written when we looked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: Any = None
        with open(path, "rb") as file:
            self.header = file.read(_HEADER.size)
        magic, kind, width = _HEADER.unpack(self.header)  # struct.error if it is shorter
        self.layout: Layout = (kind.rstrip(b"\0").decode("ascii"), width)
        if magic != _MAGIC or self.layout[0] not in ("f2", "f4", "f8") or not width:
            raise ValueError("no file of embeddings")
        self.dtype = entry_type(self.layout)

    def grow(self, size: int) -> NDArray[Any]:
        """Map what is there of a file of that size, and return the keys that are new."""
        before = 0 if self.entries is None else len(self.entries)
        count = (size - _HEADER.size) // self.dtype.itemsize
        if count <= before:
            return np.zeros(0, f"S{_KEY}")
        self.entries = np.memmap(self.path, self.dtype, "r", _HEADER.size, (count,))
        return np.array(self.entries["key"][before:])

    def row(self, number: int) -> NDArray[Any] | None:
        """Return the row of an entry, or None if it is not what was written."""
        entry = self.entries[number]
        found = np.array(entry["row"])
        same = entry["check"].tobytes() == check_of(self.header, _padded(entry["key"]), found)
        return found if same else None


class Shelf:
    """The files of one fingerprint. Later entries of a key stand for earlier ones."""

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any]) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.files: list[RowFile] = []
        self.runs: list[tuple[NDArray[Any], NDArray[np.int64]]] = []
        self._sizes: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._own: dict[tuple[int, Layout], str] = {}  # by process: a fork has files of its own
        self._failed = False

    def refresh(self) -> None:
        """Look for what this or another process has written since."""
        try:
            with os.scandir(self.folder) as entries:
                there = [e for e in entries if e.name.endswith(".rows")]
            there.sort(key=lambda e: (e.stat().st_mtime_ns, e.name))
        except OSError:
            return
        for entry in there:
            size = entry.stat().st_size
            if size <= max(self._sizes.get(entry.name, 0), _HEADER.size):
                continue
            self._sizes[entry.name] = size
            try:
                if entry.name not in self._numbers:
                    self.files.append(RowFile(Path(entry.path)))
                    self._numbers[entry.name] = len(self.files) - 1
                number = self._numbers[entry.name]
                file = self.files[number]
                first = 0 if file.entries is None else len(file.entries)
                keys = file.grow(size)
            except (OSError, ValueError, struct.error):
                continue  # deleted meanwhile, or no file of ours
            self._add(keys, (number << 40) + first + np.arange(len(keys), dtype=np.int64))

    def _add(self, keys: NDArray[Any], places: NDArray[np.int64]) -> None:
        """Add a sorted run; runs of about one size become one, so that there are few."""
        if not len(keys):
            return
        order = np.argsort(keys, kind="stable")
        self.runs.append((keys[order], places[order]))
        while len(self.runs) > 1 and len(self.runs[-2][0]) <= 2 * len(self.runs[-1][0]):
            pair = [np.concatenate(x) for x in zip(self.runs.pop(-2), self.runs.pop(), strict=True)]
            order = np.argsort(pair[0], kind="stable")
            self.runs.append((pair[0][order], pair[1][order]))

    def find(self, keys: Sequence[bytes]) -> list[list[tuple[RowFile, int]]]:
        """Return the entries of each key, the latest first."""
        found: list[list[tuple[RowFile, int]]] = [[] for _ in keys]
        wanted = np.array(keys, dtype=f"S{_KEY}")
        for known, places in reversed(self.runs):
            low = np.searchsorted(known, wanted)
            high = np.searchsorted(known, wanted, side="right")
            for i in np.flatnonzero(high > low):
                for place in places[low[i] : high[i]][::-1].tolist():
                    found[i].append((self.files[place >> 40], place & ((1 << 40) - 1)))
        return found

    def keep(self, keys: Sequence[bytes], rows: NDArray[Any]) -> None:
        """Append entries to this process's own file; rows that are not finite are left out."""
        good = np.isfinite(rows).all(axis=1)
        layout = (rows.dtype.str[1:], rows.shape[1])
        header = _HEADER.pack(_MAGIC, layout[0].encode(), layout[1])
        entries = np.zeros(int(good.sum()), entry_type(layout))
        for entry, i in zip(entries, np.flatnonzero(good).tolist(), strict=True):
            entry["key"], entry["row"] = keys[i], rows[i]
            entry["check"] = np.void(check_of(header, keys[i], entry["row"]))
        if self._failed or not len(entries):
            return
        try:
            self._write(layout, header, entries.tobytes())
        except (OSError, OutputError) as error:
            self._failed = True  # a file that was cut off must not be appended to
            logger.warning("embeddings are not kept: %s cannot be written: %s", self.folder, error)

    def _write(self, layout: Layout, header: bytes, data: bytes) -> None:
        if not self.folder.is_dir():
            self.folder.mkdir(parents=True, exist_ok=True)
            about = json.dumps(dict(self.fingerprint), indent=2, sort_keys=True) + "\n"
            write_files(self.folder, {"about.json": about.encode()})
        name = self._own.setdefault((os.getpid(), layout), f"{uuid.uuid4().hex}.rows")
        with open(self.folder / name, "ab", buffering=0) as file:
            data = data if file.tell() else header + data
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def key_of(text: str) -> bytes:
    """Return the key of a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=_KEY).digest()


def check_of(header: bytes, key: bytes, row: NDArray[Any]) -> bytes:
    """Return the checksum of an entry: of its key, its row, and the header of its file."""
    return hashlib.blake2b(key + row.tobytes(), digest_size=_CHECK, key=header).digest()


def entry_type(layout: Layout) -> np.dtype[Any]:
    """Return how an entry lies in its file."""
    return np.dtype(
        [("key", f"S{_KEY}"), ("check", f"V{_CHECK}"), ("row", "<" + layout[0], (layout[1],))]
    )


def _padded(key: bytes) -> bytes:
    return bytes(key).ljust(_KEY, b"\0")  # NumPy drops zeros at the end of a text
