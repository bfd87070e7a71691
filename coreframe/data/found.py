"""Data of any form as judged queries and documents: what every source of them gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.data.files import Rows
from coreframe.data.joining import Judged
from coreframe.data.relevance import Ints
from coreframe.data.spool import computable
from coreframe.data.vectors import Vectors, look_at
from coreframe.errors import DataError

ANY_GRADE = float(np.nextafter(0.0, 1.0))
"""The least grade that is right where grades are judgements: all above 0."""


@dataclass(frozen=True)
class Side:
    """The queries or documents that judgements number.

    ``rows`` are those of the vectors that are theirs, or None if they are numbered as the vectors.
    """

    texts: list[str] | None
    rows: Ints | None = None


class Found:
    """Data of one source. The three ways to judgements are by text, by the row or id of given
    vectors, and by the vectors in the rows.
    """

    name: str
    files: tuple[str, ...]
    notes: tuple[str, ...]
    classes: Rows | None = None
    has_vectors = False
    minimum_grade: float | None = None

    def by_text(self) -> tuple[Judged, list[str], list[str]]:
        raise DataError(
            f"{self.name} has ids but no texts; give their vectors with --queries and --documents"
        )

    def by_vectors(self, q: Vectors, d: Vectors) -> tuple[Judged, Side, Side]:
        raise NotImplementedError

    def own_vectors(self) -> tuple[Vectors, Vectors]:
        raise NotImplementedError

    def by_own_vectors(self, q: Vectors, d: Vectors) -> tuple[Judged, Side, Side]:
        raise NotImplementedError

    def parts_of_rows(self) -> Ints | None:
        return None


def as_vectors(x: NDArray[Any], name: str) -> Vectors:
    """Return vectors of rows, looked at."""
    array = computable(x)
    return Vectors(path=name, array=array, stored=x.dtype.name, facts=look_at(array, name))
