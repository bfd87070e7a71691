"""A log as JSON lines: one file, one line a record, on the disk as soon as it is written."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from coreframe.callbacks import About, Record, Session, Tracker
from coreframe.errors import ArgumentTypeError, OutputError

NAME = "metrics.jsonl"
_ORDER = {"train": 0, "eval": 1}


@dataclass(frozen=True, kw_only=True)
class Jsonl(Tracker):
    """Write each record as one line of JSON: the log that every run of the command line has.

        {"fit": "identity", "step": 12, "epoch": 1, "train/loss": 0.31, "train/grad_norm": 0.2}

    Lines are flushed as they are written, so a run that is killed has all of them. There is no
    time in a line: a run that is repeated writes the same file. Values that are not finite are
    null, as JSON has no other word for them.

    Args:
        path: the file. Default: None, ``metrics.jsonl`` in the folder of the run, or here.
        resume: go on with the file of a run that was interrupted: what is measured again takes the
            place of its old lines, and a last line that is cut off is removed. Default: False, the
            file starts anew.

    Shapes: one line a record: ``fit`` (where it starts), ``step``, ``epoch``, then ``train/...`` or
    ``eval/...``.

    Edges: the folder is made if it is not there. A result on the test queries is no line; it stands
    in ``metrics.json``.

    Cost: one short write a record.

    References: https://jsonlines.org

    >>> Jsonl(path="log.jsonl").resume
    False
    """

    path: str | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if self.path is not None and not isinstance(self.path, str):
            raise ArgumentTypeError(f"Jsonl.path must be a text or None, got {self.path!r}")
        if not isinstance(self.resume, bool):
            raise ArgumentTypeError(f"Jsonl.resume must be true or false, got {self.resume!r}")

    def check(self) -> None:
        """Nothing is needed."""

    def open(self, about: About) -> Session:
        path = Path(self.path) if self.path is not None else (about.folder or Path()) / NAME
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self.resume:
                path.write_bytes(b"")
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror or error}") from None
        return _Lines(path)


class _Lines(Session):
    """An open file. The first record of a fit says from where its old lines are replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fits: set[str] = set()
        self.file: IO[bytes] | None = None

    def log(self, record: Record) -> None:
        if record.kind not in _ORDER:
            return
        if record.fit not in self.fits:
            self.fits.add(record.fit)
            self._drop(record)
        if self.file is None:
            self.file = self.path.open("ab")
        values = {name: _finite(value) for name, value in record.values.items()}
        line = {"fit": record.fit, "step": record.step, "epoch": record.epoch, **values}
        self.file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        self.file.flush()

    def close(self, state: str) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def _drop(self, record: Record) -> None:
        """Remove the lines of a fit from this record on, and lines that are no JSON."""
        if not self.path.exists() or not self.path.stat().st_size:
            return
        if self.file is not None:
            self.file.close()
            self.file = None
        begin = (record.step, _ORDER[record.kind])
        kept = [
            raw for raw, line in _read(self.path) if line["fit"] != record.fit or _key(line) < begin
        ]
        with tempfile.NamedTemporaryFile(
            dir=self.path.parent, prefix=".part-", delete=False
        ) as file:
            file.writelines(kept)
        os.chmod(file.name, 0o644)
        os.replace(file.name, self.path)


def _read(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Yield each whole line of a log, as it is and as what it says."""
    with path.open("rb") as file:
        for raw in file:
            try:
                line = json.loads(raw)
            except ValueError:
                continue
            if raw.endswith(b"\n") and isinstance(line, dict) and {"fit", "step"} <= set(line):
                yield raw, line


def _key(line: dict[str, Any]) -> tuple[int, int]:
    is_eval = any(name.startswith("eval/") for name in line)
    return int(line["step"]), _ORDER["eval" if is_eval else "train"]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
