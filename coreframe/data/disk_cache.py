"""Vectors of texts on disk: a text that was embedded once is not embedded again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe import checks
from coreframe.data.row_files import Shelf, key_of
from coreframe.embedder import Embedder, Side, Wrapped, check_texts, embed_side
from coreframe.errors import ArgumentError

__all__ = ["DiskCache", "DiskCached"]

logger = logging.getLogger(__name__)

_TELL = 10.0  # seconds between two lines of the log


def cache_folder() -> Path:
    """Return ``COREFRAME_CACHE_DIR``, else where this system keeps a user's caches."""
    if given := os.environ.get("COREFRAME_CACHE_DIR"):
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local", "coreframe")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "coreframe"
    given = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(given) if os.path.isabs(given) else Path.home() / ".cache") / "coreframe"


class DiskCache:
    """A folder of embeddings, by the fingerprint of the embedder and the content of the text.

        key of an entry = BLAKE2b-128 of the text in UTF-8, in the folder of the fingerprint

    Safe to share between threads and processes. If the folder cannot be written, a warning is
    logged, and everything goes on without it.

    Args:
        folder: where it is. Default: ``embeddings`` in ``COREFRAME_CACHE_DIR``, else in the
            user's cache folder (``~/.cache/coreframe`` on Linux).

    Shapes: one vector (d,) an entry, as the embedder gave it: float16, float32 or float64.

    Edges: an entry that is damaged, or cut off by a kill, counts as not there. A row with NaN is
    not kept. Only fingerprints, texts' hashes and vectors are stored: no text, and no key of a
    service. Deleting the folder, or a part of it, is always safe.

    Cost: 24 bytes an entry beside the vector; a look reads the entries' keys once a process.

    References: RFC 7693 (BLAKE2).

    >>> import tempfile
    >>> cache = DiskCache(tempfile.mkdtemp())
    >>> cache.size, cache.hits, cache.misses
    (0, 0, 0)
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self.folder = cache_folder() / "embeddings" if folder is None else Path(folder)
        self.hits = 0
        """Different texts that were found."""
        self.misses = 0
        """Different texts for which an embedder was asked."""
        self.damaged = 0
        """Entries whose checksum was wrong."""
        self.lock = threading.RLock()
        self._shelves: dict[str, Shelf] = {}

    def __reduce__(self) -> Any:
        return DiskCache, (self.folder,)

    def __repr__(self) -> str:
        return f"DiskCache({str(self.folder)!r}, {self.hits} hits, {self.misses} misses)"

    @property
    def size(self) -> int:
        """The bytes that it takes on the disk."""
        return sum(path.stat().st_size for path in self.folder.glob("*/*") if path.is_file())

    def shelf(self, fingerprint: Mapping[str, Any]) -> Shelf:
        """Return what is kept for a fingerprint, as it stands on the disk now."""
        text = json.dumps(fingerprint, sort_keys=True, ensure_ascii=True)
        with self.lock:
            name = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
            if name not in self._shelves:
                self._shelves[name] = Shelf(self.folder / name, fingerprint)
            self._shelves[name].refresh()
            return self._shelves[name]


@dataclass(frozen=True, kw_only=True)
class DiskCached(Wrapped):
    """An embedder that asks another one only for texts that no run has embedded before.

        embed(texts) = the rows of the other embedder, each different text asked for once

    New texts are embedded and stored ``batch`` at a time, so a run that is stopped in the middle
    goes on from there when it is started again.

    Args:
        embedder: the one that is asked. One without a fingerprint is asked always.
        cache: what is remembered. Default: that of the user, see ``DiskCache``.
        batch: >= 1, texts between two writes. Default: 256, some seconds of a small model's work.

    Shapes: n texts to (n, d), as the other embedder has them.

    Edges: texts are compared by content, exactly. If a model gives rows of another width than
    what was stored under its name, what was stored is not used, and a warning is logged. An
    embedder whose vectors depend on the other texts of a call must not be cached.

    Cost: one hash of each text and of each row that is read, beside the embedder's own cost.

    References: none; content addressing.

    >>> import tempfile
    >>> from coreframe import build
    >>> cached = DiskCached(
    ...     embedder=build("embedders", "callable", function=lambda texts: np.eye(len(texts), 4),
    ...                    identity="first four"),
    ...     cache=DiskCache(tempfile.mkdtemp()),
    ... )
    >>> rows = cached.embed(["a", "b", "a"]), cached.embed(["b"])
    >>> cached.cache.hits, cached.cache.misses
    (1, 2)
    """

    cache: DiskCache = field(default_factory=DiskCache, compare=False)
    batch: int = 256

    def __post_init__(self) -> None:
        checks.number(self, "batch", minimum=1, integer=True)

    def _embed(self, texts: Sequence[str], side: Side | None) -> Any:
        check_texts(texts)
        fingerprint = self.embedder.fingerprint(side)
        if fingerprint is None or not len(texts):
            return embed_side(self.embedder, texts, side)
        place: dict[bytes, int] = {}
        of_text = [place.setdefault(key_of(text), len(place)) for text in texts]
        different: list[str] = [""] * len(place)
        for text, i in zip(texts, of_text, strict=True):
            different[i] = text
        with self.cache.lock:
            shelf = self.cache.shelf(fingerprint)
            rows = self._rows(shelf, list(place), different, side, known=True)
        return rows if len(place) == len(texts) else rows[of_text]

    def _rows(
        self, shelf: Shelf, keys: list[bytes], texts: list[str], side: Side | None, known: bool
    ) -> NDArray[Any]:
        """Return the rows of different texts, from the disk where ``known``, else all anew."""
        rows, missing = self._read(shelf, keys) if known else (None, list(range(len(keys))))
        self.cache.hits += len(keys) - len(missing)
        self.cache.misses += len(missing)
        told = time.monotonic()
        for start in range(0, len(missing), self.batch):
            part = missing[start : start + self.batch]
            new = np.asarray(embed_side(self.embedder, [texts[i] for i in part], side))
            if new.ndim != 2 or len(new) != len(part) or new.dtype.kind != "f" or not new.shape[1]:
                raise ArgumentError(
                    f"{type(self.embedder).__name__} must return one row of floating-point numbers "
                    f"a text, ({len(part)}, d), got {new.dtype} {new.shape}"
                )
            if rows is None:
                rows = np.empty((len(keys), new.shape[1]), new.dtype)
            elif (rows.dtype, rows.shape[1]) != (new.dtype, new.shape[1]):
                logger.warning(
                    "%s gives %s numbers a text, but %s were stored under its name: what is in %s "
                    "is not used", self.base_model, new.shape[1], rows.shape[1], shelf.folder,
                )  # fmt: skip
                if not known:
                    raise ArgumentError(f"{self.base_model} gives rows of several widths")
                self.cache.hits -= len(keys) - len(missing)
                self.cache.misses -= len(missing)
                return self._rows(shelf, keys, texts, side, known=False)
            rows[part] = new
            shelf.keep([keys[i] for i in part], new)
            if time.monotonic() - told > _TELL:
                told = time.monotonic()
                logger.info(
                    "embedded %s of %s texts", f"{start + len(part):,}", f"{len(missing):,}"
                )
        assert rows is not None  # there is at least one text
        return rows

    def _read(self, shelf: Shelf, keys: list[bytes]) -> tuple[NDArray[Any] | None, list[int]]:
        """Return the rows that are on the disk, all of the latest layout, and which are not."""
        found = shelf.find(keys)
        latest = [entries[0][0] for entries in found if entries]
        if not latest:
            return None, list(range(len(keys)))
        layout = max(latest, key=shelf.files.index).layout
        rows: NDArray[Any] = np.empty((len(keys), layout[1]), layout[0])
        missing = []
        for i, entries in enumerate(found):
            for file, number in entries:
                row = file.row(number) if file.layout == layout else None
                if row is not None:
                    rows[i] = row
                    break
                self.cache.damaged += file.layout == layout
            else:
                missing.append(i)
        return rows, missing


def kept_on_disk(embedder: Embedder, wanted: bool = True) -> Embedder:
    """Return an embedder that keeps its vectors in the user's cache, where that is wanted and
    there is a place for it.
    """
    if not wanted:
        return embedder
    try:
        return DiskCached(embedder=embedder)
    except RuntimeError:  # this user has no home
        return embedder


def told(embedder: Embedder) -> str | None:
    """Return a line on what an embedder found on the disk; None if it keeps nothing there."""
    if not isinstance(embedder, DiskCached) or not embedder.cache.hits + embedder.cache.misses:
        return None
    cache = embedder.cache
    damaged = f", {cache.damaged:,} damaged" if cache.damaged else ""
    return (
        f"cache   {cache.misses:,} texts embedded, {cache.hits:,} were there{damaged}; "
        f"{cache.size / 1e6:,.1f} MB in {cache.folder}"
    )
