"""Sets for retrieval, which keep queries, documents and judgements apart: BEIR and LlamaIndex."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coreframe.data import json_rows
from coreframe.data.cells import SPLITS, kind
from coreframe.data.csv_rows import table as csv_table
from coreframe.data.tables import cannot_read
from coreframe.errors import DataError

_LLAMA_INDEX = ("queries", "corpus", "relevant_docs")


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalSet:
    """Queries, a collection, and which documents are right.

    Attributes:
        name: of the folder or file.
        format: in words.
        files: that were read.
        queries, corpus: id -> text.
        judgements: part (train, dev or test; "" if there are no parts) -> (query id, document id,
            grade); a grade above 0 is right, others are known to be wrong.
    """

    name: str
    format: str
    files: tuple[str, ...]
    queries: dict[str, str]
    corpus: dict[str, str]
    judgements: Mapping[str, list[tuple[str, str, float]]]


def is_beir(path: str) -> bool:
    """Say whether a folder has the files of BEIR."""
    return all(os.path.isfile(os.path.join(path, n)) for n in ("corpus.jsonl", "queries.jsonl"))


def read_beir(folder: str) -> RetrievalSet:
    """Read corpus.jsonl (_id, title, text), queries.jsonl (_id, text) and qrels/*.tsv.

    The title stands before the text, with a space, as BEIR's own code embeds them.
    """
    paths = [os.path.join(folder, name) for name in ("corpus.jsonl", "queries.jsonl")]
    try:
        corpus = _texts(paths[0], titled=True)
        queries = _texts(paths[1], titled=False)
        qrels = os.path.join(folder, "qrels")
        names = sorted(os.listdir(qrels)) if os.path.isdir(qrels) else []
        judgements: dict[str, list[tuple[str, str, float]]] = {}
        for name in names:
            stem, ending = os.path.splitext(name)
            if ending != ".tsv":
                continue
            part = SPLITS.get(stem.lower())
            path = os.path.join(qrels, name)
            if part is None:
                raise DataError(f"{path}: expected train.tsv, dev.tsv or test.tsv")
            if part in judgements:
                raise DataError(f"{qrels} has two files of the {part} part")
            judgements[part] = _judgements(path, queries, corpus)
            paths.append(path)
    except OSError as error:
        raise cannot_read(error.filename or folder, error) from error
    if not judgements:
        raise DataError(f"{folder} has no qrels/train.tsv, qrels/dev.tsv or qrels/test.tsv")
    return RetrievalSet(
        name=folder,
        format="BEIR folder",
        files=tuple(paths),
        queries=queries,
        corpus=corpus,
        judgements=judgements,
    )


def _texts(path: str, *, titled: bool) -> dict[str, str]:
    """Return id -> text of a file of BEIR; lines may have other fields, and a title or none."""
    found: dict[str, str] = {}
    for line, record in json_rows.lines(path):
        where = f"{path}, line {line}"
        for field in ("_id", "text"):
            if field not in record:
                raise DataError(
                    f"{where}: has no field {field!r}; its fields: "
                    f"{', '.join(map(repr, record)) or 'none'}"
                )
        id_, text, title = record["_id"], record["text"], record.get("title") if titled else None
        if not isinstance(id_, str | int) or isinstance(id_, bool):
            raise DataError(f"{where}: '_id' must be a text, got {kind(id_)}")
        for field, value in (("text", text), ("title", title or "")):
            if not isinstance(value, str):
                raise DataError(f"{where}: {field!r} must be a text, got {kind(value)}")
        if str(id_) in found:
            raise DataError(f"{where}: the id {str(id_)!r} is there twice")
        text = f"{title} {text}".strip() if title else text
        if not text.strip():
            raise DataError(f"{where}: 'text' is empty")
        found[str(id_)] = text
    if not found:
        raise DataError(f"{path} is empty: it has no rows")
    return found


def _judgements(
    path: str, queries: Mapping[str, str], corpus: Mapping[str, str]
) -> list[tuple[str, str, float]]:
    """Return the lines of a qrels file: query-id, corpus-id, score, with a header."""
    table = csv_table(path)
    if len(table.columns) != 3:
        raise DataError(
            f"{path}: expected the columns query-id, corpus-id, score, separated by tabs, got "
            f"{', '.join(table.columns)}"
        )
    try:
        float(table.columns[2])
    except ValueError:
        pass
    else:
        raise DataError(f"{path}, line 1: has no header; expected query-id, corpus-id, score")
    found = []
    for chunk in table.chunks(table.columns):
        for line, q, d, score in zip(chunk.places, *chunk.cells.values(), strict=True):
            where = f"{path}, line {line}"
            if q not in queries:
                raise DataError(f"{where}: the query {q!r} is not in queries.jsonl")
            if d not in corpus:
                raise DataError(f"{where}: the document {d!r} is not in corpus.jsonl")
            try:
                grade = float(score)
            except ValueError:
                grade = float("nan")
            if not abs(grade) < float("inf"):
                raise DataError(f"{where}: the score must be a number, got {score!r}")
            found.append((q, d, grade))
    if not found:
        raise DataError(f"{path} is empty: it has no rows")
    return found


def llama_index_of(path: str) -> dict[str, Any] | None:
    """Return the content of a .json file if it is of LlamaIndex' form, else None."""
    if not path.lower().endswith(".json") or not os.path.isfile(path):
        return None
    found = json_rows.document(path)
    is_one = isinstance(found, dict) and all(isinstance(found.get(k), dict) for k in _LLAMA_INDEX)
    return found if is_one else None


def read_llama_index(path: str, content: Mapping[str, Any]) -> RetrievalSet:
    """Read what ``EmbeddingQAFinetuneDataset.save_json`` writes."""
    for part in ("queries", "corpus"):
        for id_, text in content[part].items():
            if not isinstance(text, str) or not text.strip():
                told = "it is empty" if isinstance(text, str) else f"got {kind(text)}"
                raise DataError(f"{path}: {part}[{id_!r}] must be a text: {told}")
    judgements = []
    for query, documents in content["relevant_docs"].items():
        if query not in content["queries"]:
            raise DataError(f"{path}: relevant_docs names the query {query!r}, which is not there")
        if not isinstance(documents, list):
            raise DataError(f"{path}: relevant_docs[{query!r}] must be a list of ids")
        for document in documents:
            if document not in content["corpus"]:
                raise DataError(
                    f"{path}: relevant_docs[{query!r}] names the document {document!r}, "
                    "which is not in the corpus"
                )
            judgements.append((query, document, 1.0))
    if not judgements:
        raise DataError(f"{path} is empty: relevant_docs has no pairs")
    return RetrievalSet(
        name=path,
        format="LlamaIndex JSON",
        files=(path,),
        queries=dict(content["queries"]),
        corpus=dict(content["corpus"]),
        judgements={"": judgements},
    )
