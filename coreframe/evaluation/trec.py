"""Run and qrels files as TREC's tools read them: trec_eval, pytrec-eval, ir_measures, ranx.

    qrels.trec         q17 0 d4 1                            query, 0, document, grade
    run.base.trec      q17 Q0 d4 1 0.8321 coreframe-base     query, Q0, document, rank, score, name

Queries and documents are called by their rows. trec_eval reads only the score, in float32, and
breaks ties by name: so a score that is not below the one before it in float32 is written as the
next lower number, and the order of the file is that of the search.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe.backend import to_numpy
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Ints, LabelRelevance, ListedRelevance
from coreframe.errors import DataError
from coreframe.evaluation.retrieval import Evaluation, Map
from coreframe.lazy import take
from coreframe.similarity import Similarity
from coreframe.storage import make_folder, whole_file

__all__ = ["lists_of", "read_run", "write_trec"]

QRELS, RUN = "qrels.trec", "run.{}.trec"
_AT_ONCE = 1 << 22  # entries of vectors that scores are made from at once


def write_trec(
    folder: str | os.PathLike[str],
    pairs: Pairs,
    runs: Mapping[str, tuple[Map | None, Evaluation]],
    *,
    similarity: str = "cosine",
) -> list[Path]:
    """Write ``qrels.trec`` and ``run.<name>.trec`` of each adapter (None: the base) and what it
    found; return the paths. Each file is whole or not there.
    """
    path = make_folder(folder)
    written = [path / QRELS]
    write_lines(path / QRELS, qrels_lines(pairs))
    for name, (adapter, found) in runs.items():
        written.append(path / RUN.format(name))
        write_lines(
            written[-1],
            run_lines(adapter, pairs, found.found, tag=f"coreframe-{name}", similarity=similarity),
        )
    return written


def qrels_lines(pairs: Pairs) -> Iterator[str]:
    """Yield a line for each query and document that is right for it.

    A query without any has one line of grade 0, so that it counts 0 as it does here. Grades that
    are not whole are multiplied by 10, 100 or 1000 until they are, which changes no metric.
    """
    relevance, rows = pairs.relevance, pairs.query_rows
    grades: Ints | None = None
    if isinstance(relevance, ListedRelevance) and relevance.gains is not None:
        grades = _whole(relevance.gains)
    for i in range(len(pairs)):
        numbers, found = _right(pairs, i)
        for number, document in zip(numbers, found, strict=True):
            yield f"q{rows[i]} 0 d{document} {1 if grades is None else grades[number]}\n"
        if not len(found):
            yield f"q{rows[i]} 0 d0 0\n"


def _right(pairs: Pairs, query: int) -> tuple[Any, Any]:
    """Return the numbers of the pairs of a query, and its right documents."""
    relevance = pairs.relevance
    if isinstance(relevance, ListedRelevance):
        first, last = np.searchsorted(relevance.pairs[:, 0], [query, query + 1])
        return range(first, last), relevance.pairs[first:last, 1]
    everything = np.arange(relevance.documents)[None, :]
    found = np.flatnonzero(relevance.take(np.array([query])).hits(everything)[0])
    if isinstance(relevance, LabelRelevance) and relevance.own is not None:
        found = found[found != relevance.own[query]]
    return range(len(found)), found


def _whole(gains: NDArray[np.float64]) -> Ints:
    for factor in (1, 10, 100, 1000):
        grades = np.rint(gains * factor)
        if np.allclose(grades, gains * factor, rtol=0, atol=1e-6):
            break
    return np.maximum(grades, 1).astype(np.int64)


def run_lines(
    adapter: Map | None,
    pairs: Pairs,
    found: Ints,
    *,
    tag: str = "coreframe",
    similarity: str = "cosine",
) -> Iterator[str]:
    """Yield the lines of ranked lists ``found`` (q, k) of an adapter, with their scores."""
    for start, scores in _scores(adapter, pairs, found, similarity):
        falling = strictly_falling(scores)
        for i, row in enumerate(falling, start):
            name = f"q{pairs.query_rows[i]}"
            for rank, (document, score) in enumerate(zip(found[i], row, strict=True), 1):
                yield f"{name} Q0 d{document} {rank} {score!s} {tag}\n"


def strictly_falling(scores: NDArray[Any]) -> NDArray[np.float32]:
    """Return scores (q, k) in float32, each below the one before it, by as little as can be."""
    falling = np.array(scores, np.float32)
    for rank in range(1, falling.shape[1]):
        below = np.nextafter(falling[:, rank - 1], np.float32(-np.inf))
        falling[:, rank] = np.minimum(falling[:, rank], below)
    return falling


def _scores(
    adapter: Map | None, pairs: Pairs, found: Ints, similarity: str
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield the first query of a block, and the scores of its lists (block, k)."""
    kind = Similarity(similarity)
    k, width = found.shape[1], int(pairs.queries.shape[1])

    def rows(x: Any, numbers: Ints, side: str) -> NDArray[np.float64]:
        part = take(x, numbers)
        part = part if adapter is None else adapter(part, side=side)
        unit = kind.prepare(to_numpy(part).astype(np.float64), None)[0]
        return np.asarray(unit)

    step = max(1, _AT_ONCE // max(1, k * width))
    for start in range(0, len(found), step):
        part = found[start : start + step]
        queries = rows(pairs.queries, np.arange(start, start + len(part)), "query")
        documents = rows(pairs.documents, part.reshape(-1), "document").reshape(*part.shape, -1)
        if kind.is_distance:
            scores = kind.finish_differences(queries[:, None, :] - documents)
        else:
            scores = np.einsum("qd,qkd->qk", queries, documents)
        yield start, scores


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file line by line, whole or not at all. Raises OutputError."""
    with whole_file(path) as part, open(part, "x", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)


# Reading --------------------------------------------------------------------------------------


def read_run(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """Return the scores of each query's documents by their names, as pytrec-eval takes them.

    Raises DataError that names the file and line.
    """
    found: dict[str, dict[str, float]] = {}
    for where, fields in _fields(path, "query Q0 document rank score name"):
        try:
            score = float(fields[4])
        except ValueError:
            score = float("nan")
        if score != score:
            raise DataError(f"{where}: the score must be a number, got {fields[4]!r}")
        _put(found, fields[0], fields[2], score, where)
    return found


def read_qrels(path: str | os.PathLike[str]) -> dict[str, dict[str, int]]:
    """Return the grades of each query's documents by their names, as pytrec-eval takes them."""
    found: dict[str, dict[str, int]] = {}
    for where, fields in _fields(path, "query 0 document grade"):
        try:
            grade = int(fields[3])
        except ValueError:
            raise DataError(f"{where}: the grade must be whole, got {fields[3]!r}") from None
        _put(found, fields[0], fields[2], grade, where)
    return found


def _fields(path: str | os.PathLike[str], wanted: str) -> Iterator[tuple[str, list[str]]]:
    count = len(wanted.split())
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                where, fields = f"{path}, line {number}", line.split()
                if fields and len(fields) != count:
                    raise DataError(
                        f"{where}: must be '{wanted}', got {len(fields)} fields: {line[:80]!r}"
                    )
                if fields:
                    yield where, fields
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


def _put(found: dict[str, dict[str, Any]], query: str, document: str, x: Any, where: str) -> None:
    own = found.setdefault(query, {})
    if document in own:
        raise DataError(f"{where}: query {query!r} has document {document!r} twice")
    own[document] = x


def lists_of(run: Mapping[str, Mapping[str, float]], pairs: Pairs) -> Ints:
    """Return the ranked lists of a run by names as ``write_trec`` gives them: rows of documents
    (q, k), best first, -1 where a list is shorter. Equal scores rank by row.

    So any system's run can be measured: ``measure(Judged.of(lists, pairs.relevance), metrics)``.
    """
    count = int(pairs.documents.shape[0])
    place = {f"q{row}": i for i, row in enumerate(pairs.query_rows)}
    if unknown := next((name for name in run if name not in place), None):
        raise DataError(f"the run has query {unknown!r}, which is none of the {len(place)} here")
    found = np.full((len(pairs), max([1, *map(len, run.values())])), -1, np.int64)
    for query, scores in run.items():
        numbers = np.array([_row(name, count) for name in scores], np.int64)
        order = np.lexsort((numbers, -np.array(list(scores.values()))))
        found[place[query], : len(numbers)] = numbers[order]
    return found


def _row(name: str, count: int) -> int:
    digits = name.removeprefix("d")
    if name[:1] != "d" or not digits.isdecimal() or int(digits) >= count:
        raise DataError(f"the run has document {name!r}; here they are d0 to d{count - 1}")
    return int(digits)
