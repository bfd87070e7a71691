"""What became of each test query: one line of JSON each, to read, and to compare two runs by.

    {"query": "5b1c...", "text": "...", "group": 3, "right": 2, "collection": "5000:9e0d...",
     "base": {"ndcg@10": 0.63, ...}, "adapted": {"ndcg@10": 1.0, ...},
     "rank": {"base": 3, "adapted": 1}}

``query`` is a hash of what was asked and of what is right for it, by texts where there are some,
else by vectors; ``collection`` is the number of documents that were searched, and a hash of a
sample of them. Lines of two runs that have both in common are of the same question. A rank is that
of the first right document, null where it is not known.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coreframe.backend import Array, to_numpy
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Floats, Ints, ListedRelevance
from coreframe.errors import ArtefactError, DataError
from coreframe.evaluation.ranks import Ranks
from coreframe.evaluation.retrieval import Evaluation
from coreframe.lazy import take

FILE = "eval/per_query.jsonl"
_SAMPLE = 1024  # documents whose hash stands for the collection


def per_query_lines(
    pairs: Pairs,
    evaluations: Mapping[str, Evaluation],
    ranks: Mapping[str, Ranks] | None = None,
) -> Iterator[str]:
    """Yield a line of JSON (without its end) for each query of ``pairs``, in their order.

    ``evaluations`` are by the name that they get in the file: "base", "adapted", and "stored" for
    what a run stores, where that is another. ``ranks`` are exact ranks under the same names; where
    they are not given, the rank within the list is taken.
    """
    names = identify(pairs)
    collection = collection_of(pairs)
    counts = pairs.relevance.counts()
    found = {name: e.first for name, e in evaluations.items()}
    found |= {name: np.asarray(r.rank) for name, r in (ranks or {}).items() if name in found}
    columns = {
        name: {metric: x.tolist() for metric, x in e.values.items()}
        for name, e in evaluations.items()
    }
    for i, query in enumerate(names):
        line: dict[str, Any] = {
            "query": query,
            "text": None if pairs.query_texts is None else pairs.query_texts[i],
            "group": int(pairs.groups[i]),
            "right": int(counts[i]),
            "collection": collection,
        }
        for name, values in columns.items():
            line[name] = {metric: x[i] for metric, x in values.items()}
        line["rank"] = {name: int(x[i]) or None for name, x in found.items()}
        yield json.dumps(line, ensure_ascii=False, allow_nan=False)


# Reading --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PerQuery:
    """The lines of a file, as columns."""

    path: Path
    queries: tuple[str, ...]
    texts: tuple[str | None, ...]
    groups: Ints
    collections: frozenset[str]
    values: Mapping[str, Mapping[str, Floats]]
    """Of each evaluation ("base", "adapted", ...), its metrics (q,)."""
    ranks: Mapping[str, Ints]
    """0 where not known."""

    def evaluation(self, name: str, rows: Ints | None = None) -> Evaluation:
        """Return one of the evaluations, of some rows in turn, without its lists."""
        rows = np.arange(len(self.queries)) if rows is None else rows
        values = {metric: x[rows] for metric, x in self.values[name].items()}
        return Evaluation(values, np.zeros((len(rows), 0), np.int64), self.ranks[name][rows])


def read_per_query(path: str | os.PathLike[str]) -> PerQuery:
    """Read a file of such lines. Raises ArtefactError that names the file and line."""
    path = Path(path)
    lines: list[dict[str, Any]] = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                lines.append(_checked(json.loads(text), lines, path, number))
    except FileNotFoundError:
        raise ArtefactError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ArtefactError):
            raise
        raise ArtefactError(f"{path}, line {len(lines) + 1}, cannot be read: {error}") from None
    if not lines:
        raise ArtefactError(f"{path} has no lines")
    names = list(lines[0]["rank"])
    return PerQuery(
        path=path,
        queries=tuple(line["query"] for line in lines),
        texts=tuple(line["text"] for line in lines),
        groups=np.array([line["group"] for line in lines], np.int64),
        collections=frozenset(line["collection"] for line in lines),
        values={
            name: {
                metric: np.array([line[name][metric] for line in lines], np.float64)
                for metric in lines[0][name]
            }
            for name in names
        },
        ranks={
            name: np.array([line["rank"][name] or 0 for line in lines], np.int64) for name in names
        },
    )


def _checked(line: Any, before: Sequence[Any], path: Path, number: int) -> dict[str, Any]:
    """Check one line; all must have the evaluations and metrics of the first."""

    def refuse(what: str) -> ArtefactError:
        return ArtefactError(f"{path}, line {number}: {what}")

    if not isinstance(line, dict):
        raise refuse(f"must be an object, got {type(line).__name__}")
    kinds = {"query": str, "collection": str, "group": int, "rank": dict}
    for key, kind in kinds.items():
        if type(line.get(key)) is not kind:
            raise refuse(f"{key!r} must be of type {kind.__name__}, got {line.get(key)!r}")
    if not isinstance(line.get("text"), str | None):
        raise refuse(f"'text' must be a text or null, got {line['text']!r}")
    first = before[0] if before else line
    if list(line["rank"]) != list(first["rank"]):
        raise refuse(f"has {', '.join(line['rank'])}, the first line {', '.join(first['rank'])}")
    for name, rank in line["rank"].items():
        values = line.get(name)
        if not (rank is None or (type(rank) is int and rank > 0)):
            raise refuse(f"the rank of {name!r} must be a number from 1 or null, got {rank!r}")
        if not isinstance(values, dict) or list(values) != list(first[name]):
            raise refuse(f"{name!r} must have the metrics of the first line")
        if not all(type(x) in (int, float) and 0 <= x <= 1 + 1e-9 for x in values.values()):
            raise refuse(f"the metrics of {name!r} must be numbers from 0 to 1")
    return line


def same_questions(first: PerQuery, second: PerQuery) -> Ints:
    """Return the row in ``second`` of each query of ``first``; the same ones, in any order.

    Raises DataError if queries, what is right for them, or the collections differ.
    """
    if first.collections != second.collections:
        raise DataError(
            f"{first.path} and {second.path} are of searches in different collections "
            f"({_some(first.collections)} and {_some(second.collections)}: number of documents and "
            "hash), so their metrics cannot be compared; give one file for both with --data"
        )
    ours, theirs = Counter(first.queries), Counter(second.queries)
    if ours != theirs:
        common = sum((ours & theirs).values())
        raise DataError(
            f"{first.path} and {second.path} are of different test queries: {len(first.queries):,} "
            f"and {len(second.queries):,}, of which {common:,} are asked in both with the same "
            "right documents; give one file for both with --data"
        )
    return _order(second.queries)[np.argsort(_order(first.queries), kind="stable")]


def _order(names: Sequence[str]) -> Ints:
    return np.argsort(np.asarray(names), kind="stable")


def _some(collections: frozenset[str]) -> str:
    return ", ".join(sorted(collections)[:2])


# Names of questions ---------------------------------------------------------------------------


def identify(pairs: Pairs) -> list[str]:
    """Return a hash for each query, of what is asked and what is right: 16 hexadecimal digits."""
    queries = _keys(pairs.queries, pairs.query_texts, np.arange(len(pairs)))
    if not isinstance(pairs.relevance, ListedRelevance):
        return [
            _hash(key, b"%d" % n) for key, n in zip(queries, pairs.relevance.counts(), strict=True)
        ]
    listed = pairs.relevance.pairs
    wanted, place = np.unique(listed[:, 1], return_inverse=True)
    keys = _keys(pairs.documents, pairs.document_texts, wanted)
    gains = pairs.relevance.gains
    right: list[list[bytes]] = [[] for _ in queries]
    for i, (query, at) in enumerate(zip(listed[:, 0], place.reshape(-1), strict=True)):
        grade = b"" if gains is None else repr(float(gains[i])).encode()
        right[query].append(keys[at] + grade)
    return [_hash(key, *sorted(own)) for key, own in zip(queries, right, strict=True)]


def collection_of(pairs: Pairs) -> str:
    """Return the number of documents, and a hash of up to a thousand of them, evenly spaced."""
    count = int(pairs.documents.shape[0])
    rows = np.unique(np.linspace(0, count - 1, min(count, _SAMPLE)).astype(np.int64))
    return f"{count}:{_hash(*_keys(pairs.documents, pairs.document_texts, rows))}"


def _keys(x: Array, texts: Sequence[str] | None, rows: Ints) -> list[bytes]:
    """Return a hash of each of some rows: of its text, or else of its vector in float32."""
    if texts is not None:
        return [_digest(texts[i].encode("utf-8", "surrogatepass")) for i in rows]
    found: list[bytes] = []
    for i in range(0, len(rows), 4096):
        part = to_numpy(take(x, rows[i : i + 4096]))
        found += [_digest(row.tobytes()) for row in part.astype("<f4")]
    return found


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
