"""SQL for PostgreSQL with pgvector: a table that holds the columns of W, and one function.

pgvector has no product of a matrix and a vector, but minus the inner products of a vector with
all rows of a table are one. Row i of the table is column i of W.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from coreframe.artefact import TrainedAdapter
from coreframe.errors import ArgumentError
from coreframe.export.target import (
    Floats,
    Map,
    Target,
    affine,
    maps,
    unit,
)
from coreframe.storage import write_files

WIDEST = 16000  # of pgvector's type vector
_NAME = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,52}")
_ROW = re.compile(r"^\((\d+), (?:(\S+), )?'\[(.*)\]'\)[,;]$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Pgvector(Target):
    """``adapter.sql``: runs in one transaction, and again next week with the next adapter.

    Args:
        table: name of the table, maybe with its schema.
        function: name of the function, maybe with its schema.

    Where queries and documents move differently there are two of each, and the names get
    ``_query`` and ``_document`` at their end.
    """

    name: ClassVar[str] = "pgvector"
    table: str = "coreframe_adapter"
    function: str = "coreframe_adapt"

    def __post_init__(self) -> None:
        for field in ("table", "function"):
            value = getattr(self, field)
            if not isinstance(value, str) or not _NAME.fullmatch(value):
                raise ArgumentError(
                    f"{field} must be a name of letters, digits and _, at most 53 of them, maybe "
                    f"with a schema and a dot before it, got {value!r}"
                )

    def write(self, adapter: TrainedAdapter, folder: Path) -> None:
        w, _ = affine(adapter, "query")
        if max(w.shape) > WIDEST:
            raise ArgumentError(
                f"pgvector's vectors have at most {WIDEST:,} numbers, this adapter is "
                f"{w.shape[0]} x {w.shape[1]}"
            )
        parts = [f"-- A coreframe adapter: {self._about(adapter)}.", "begin;"]
        for suffix, sides in _maps(adapter).items():
            parts.append(self._one(adapter, sides, suffix))
        parts += ["commit;", ""]
        write_files(folder, {"adapter.sql": "\n".join(parts).encode()})

    def _about(self, adapter: TrainedAdapter) -> str:
        base = re.sub(r"\s+", " ", adapter.base_model or "not named")
        return (
            f"similarity {adapter.similarity}, {adapter.dimensions} dimensions, base model {base}"
        )

    def _one(self, adapter: TrainedAdapter, sides: tuple[str, ...], suffix: str) -> str:
        w, b = affine(adapter, sides[0])
        table, function = _quoted(self.table + suffix), _quoted(self.function + suffix)
        whom = " and ".join({"query": "queries", "document": "documents"}[s] for s in sides)
        comment = f"coreframe adapter of {whom}: {self._about(adapter)}".replace("'", "''")
        entry = "-(w <#> q)" if b is None else "b - (w <#> q)"
        adapted = f"array_agg({entry} order by i)::vector"
        if adapter.normalize:
            adapted = f"l2_normalize({adapted})"
        shift = "" if b is None else " b real not null,"
        rows = ",\n".join(_rows(w, b))
        return f"""
do $guard$ begin  -- replaces an adapter, and no table of another kind
  if to_regclass('{table}') is not null
     and coalesce(obj_description(to_regclass('{table}'), 'pg_class'), '') not like 'coreframe %'
  then raise exception 'the table {table} exists and holds no coreframe adapter'; end if;
end $guard$;
drop table if exists {table};
create table {table} (i int primary key,{shift} w vector({w.shape[0]}) not null);
comment on table {table} is '{comment}';
insert into {table} (i,{"" if b is None else " b,"} w) values
{rows};
create or replace function {function}(q vector) returns vector
language sql stable strict parallel safe as
$$ select {adapted} from {table} $$;
comment on function {function}(vector) is '{comment}';
"""

    def read(self, adapter: TrainedAdapter, folder: Path) -> Mapping[str, Map]:
        text = (folder / "adapter.sql").read_text(encoding="utf-8")
        found: dict[str, Map] = {}
        for suffix, sides in _maps(adapter).items():
            start = text.index(f"insert into {_quoted(self.table + suffix)} ")
            body = text[start : text.index(";\ncreate", start) + 1]
            rows = _ROW.findall(body)
            w = np.array([[float(x) for x in row[2].split(",")] for row in rows], np.float32)
            b = np.array([float(row[1] or 0) for row in rows], np.float32)
            order = np.argsort([int(row[0]) for row in rows])

            def apply(x: Floats, w: Floats = w[order], b: Floats = b[order]) -> Floats:
                y = x @ w.T + b
                return unit(y) if adapter.normalize else y

            found |= dict.fromkeys(sides, apply)
        return found

    def usage(self, adapter: TrainedAdapter) -> list[str]:
        operator = {"cosine": "<=>", "dot": "<#>"}.get(adapter.similarity, "<->")
        lines = ["psql -v ON_ERROR_STOP=1 -f FOLDER/adapter.sql"]
        for suffix, sides in _maps(adapter).items():
            function = self.function + suffix
            if "document" in sides:
                lines.append(f"update documents set adapted = {function}(embedding);")
            if "query" in sides:
                column = "adapted" if adapter.rebuilds_index else "embedding"
                order = f"{column} {operator} {function}($1)"
                lines.append(f"select id from documents order by {order} limit 10;")
        return lines


def _maps(adapter: TrainedAdapter) -> dict[str, tuple[str, ...]]:
    """Return the end of the names of each map, and the sides that it serves."""
    return {"" if n == "adapter" else f"_{n}": sides for n, sides in maps(adapter).items()}


def _rows(w: Floats, b: Floats | None) -> Iterator[str]:
    for i, column in enumerate(w.T):
        numbers = ",".join(map(_number, column))
        shift = "" if b is None else f"{_number(b[i])}, "
        yield f"({i}, {shift}'[{numbers}]')"


def _number(x: np.floating) -> str:
    """Return the shortest text that is the same float32."""
    return np.format_float_scientific(x, unique=True, trim="-", exp_digits=1)


def _quoted(name: str) -> str:
    return ".".join(f'"{part}"' for part in name.split("."))
