"""Write vectors row block by row block: in bounded memory, and so that a killed writer goes on.

A writer works in a folder of its own. ``sync`` brings to the disk all that was written and says,
in a few numbers, where that ends; ``resume`` goes back to there, whatever a killed process wrote
after it; ``finish`` makes the file whole, for its owner to rename.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

RESULT = "result"
NAME = "embedding"
"""What the vectors are called, where nothing else is said."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RowBlock:
    """Some rows to write.

    Attributes:
        vectors: (n, d) float32, float16 or int8.
        scale: (n,) float32, what each row of int8 numbers is to be multiplied by; else None.
        cells: the other columns by name, of n cells each: lists, arrays of Arrow, or vectors
            (n, d).
    """

    vectors: NDArray[Any]
    scale: NDArray[np.float32] | None = None
    cells: Mapping[str, Any] = field(default_factory=dict)


@dataclass(kw_only=True, eq=False)
class VectorWriter(ABC):
    """Writes blocks to files in ``folder``; see the module.

    Attributes:
        folder: of this writer alone; it exists.
        column: the name of the column of vectors, in a table.
        metadata: texts that are stored in the file, where its format has room for them.
    """

    folder: Path
    column: str = NAME
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Get what is needed. Raises MissingExtra."""
        return None

    @abstractmethod
    def write(self, block: RowBlock) -> None:
        """Add rows. The first block decides width and dtype."""

    @abstractmethod
    def sync(self) -> dict[str, Any]:
        """Bring what was written to the disk and return where it ends, for ``resume``."""

    @abstractmethod
    def resume(self, state: Mapping[str, Any]) -> None:
        """Go back to where ``sync`` was; called before the first ``write``."""

    @abstractmethod
    def finish(self) -> list[tuple[str, str]]:
        """Make the result whole; return (file in the folder, what follows the name it gets)."""

    def close(self) -> None:
        """Close open files, whatever happened."""
        return None


class RawFile:
    """A file that grows at its end, and can go back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None
        self.size = 0

    def append(self, data: Any) -> None:
        if self._file is None:
            self._file = open(self.path, "r+b" if self.path.exists() else "x+b")  # noqa: SIM115
            self._file.truncate(self.size)
            self._file.seek(self.size)
        self._file.write(data)
        self.size += memoryview(data).nbytes

    def sync(self) -> int:
        """Bring the file to the disk, no longer than it is to be; return its length."""
        if self._file is None and self.path.exists():
            self.append(b"")
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        return self.size

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
