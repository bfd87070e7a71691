"""Data that comes in given parts: a DatasetDict in memory, or the folder that it was saved to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np

from coreframe.data.cells import SPLITS
from coreframe.data.files import Places, Rows, read_rows
from coreframe.data.spool import blocks_of, collect
from coreframe.errors import DataError


def parts_of(source: Any) -> dict[str, Any] | None:
    """Return the sources of the parts by the names they are given, or None if there are none."""
    if isinstance(source, str | os.PathLike):
        return _folder(os.fspath(source))
    if isinstance(source, Mapping) and source:
        tables = all(
            hasattr(part, "column_names") or hasattr(part, "columns") for part in source.values()
        )
        return dict(source) if tables else None
    return None


def _folder(path: str) -> dict[str, Any] | None:
    where = os.path.join(path, "dataset_dict.json")
    if os.path.isfile(where):
        try:
            with open(where, encoding="utf-8") as file:
                names = json.load(file)["splits"]
            return {str(name): os.path.join(path, os.path.basename(str(name))) for name in names}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{where} is not what datasets.save_to_disk writes: {error}") from None
    if not os.path.isdir(path) or os.path.exists(os.path.join(path, "state.json")):
        return None
    found: dict[str, Any] = {}  # train.jsonl, test.jsonl, ...
    for name in sorted(os.listdir(path)):
        stem, ending = os.path.splitext(name)
        if stem.lower() in SPLITS and ending:
            if stem in found:
                raise DataError(f"{path} has two files of the part {stem!r}")
            found[stem] = os.path.join(path, name)
    return found or None


def read_parts(
    source: Any, parts: Mapping[str, Any], columns: Mapping[str, str]
) -> tuple[Rows, tuple[str, ...]]:
    """Read the rows of all parts as one, with the part of each; and the files that were read."""
    name = os.fspath(source) if isinstance(source, str | os.PathLike) else "the data"
    read: list[tuple[str, Rows]] = []
    files: list[str] = []
    for given, part in parts.items():
        if given.lower() not in SPLITS:
            raise DataError(
                f"{name} has a part {given!r}; expected train, dev (or validation) and test"
            )
        known = SPLITS[given.lower()]
        if any(known == other for other, _ in read):
            raise DataError(f"{name} has two parts that are {known}: {', '.join(parts)}")
        read.append((known, read_rows(part, columns=columns)))
        if isinstance(part, str):
            files += (
                [part]
                if os.path.isfile(part)
                else [os.path.join(part, entry) for entry in sorted(os.listdir(part))]
            )
    return _joined(name, read), tuple(files)


def _joined(name: str, read: list[tuple[str, Rows]]) -> Rows:
    first = read[0][1]
    for part, rows in read:
        if rows.mapping != first.mapping:
            raise DataError(
                f"{name}: the part {part} has the columns {', '.join(rows.mapping.values())}, "
                f"but {read[0][0]} has {', '.join(first.mapping.values())}"
            )
    lists: dict[str, Any] = {}
    for field in fields(Rows):
        values = [getattr(rows, field.name) for _, rows in read]
        if isinstance(values[0], list):
            lists[field.name] = [entry for value in values for entry in value]
    vectors = {}
    for role in first.vectors:
        widths = {rows.vectors[role].shape[1] for _, rows in read}
        if len(widths) > 1:
            raise DataError(f"{name}: the vectors of the parts have widths {sorted(widths)}")
        dtype = np.result_type(*(rows.vectors[role] for _, rows in read))
        blocks = (
            block.astype(dtype, copy=False)
            for _, rows in read
            for block in blocks_of(rows.vectors[role])
        )
        joined = collect(blocks)
        assert joined is not None  # no file is empty
        vectors[role] = joined
    lists["splits"] = [part for part, rows in read for _ in range(rows.count)]
    places = Places(
        np.concatenate([rows.places.numbers for _, rows in read]),
        first.places.unit,
        tuple((rows.count, part) for part, rows in read),
    )
    return replace(
        first,
        name=name,
        format=f"{first.format} in parts",
        count=sum(rows.count for _, rows in read),
        places=places,
        vectors=vectors,
        **lists,
    )
