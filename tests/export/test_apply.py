"""Files through an adapter: every format, in little memory, after a kill, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from export_cases import D, make, random_side
from safetensors.numpy import load_file, save_file

from coreframe import applying
from coreframe.applying import apply_file
from coreframe.artefact import TrainedAdapter
from coreframe.data.vectors import read_vectors
from coreframe.errors import ArgumentError, CheckpointError, DataError, OutputError
from coreframe.lock import FolderLock

ROWS = 900
X = np.random.default_rng(0).standard_normal((ROWS, D)).astype(np.float32)
ADAPTER = make("query", form="low_rank", bias=True)
SOURCES = ["x.npy", "x.npz", "x.safetensors", "x.parquet", "x.csv", "x.jsonl"]
TARGETS = [".npy", ".npz", ".safetensors", ".parquet", ".csv", ".tsv"]


def write_source(folder: Path, name: str, x: np.ndarray = X) -> Path:
    path = folder / name
    if path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".npz":
        np.savez(path, vectors=x, other=np.arange(3))
    elif path.suffix == ".safetensors":
        save_file({"v": x}, path)
    elif path.suffix == ".parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = {"id": [f"d{i}" for i in range(len(x))], "none": [None] * len(x),
                   "vector": pa.array(x.tolist(), pa.list_(pa.float32()))}  # fmt: skip
        pq.write_table(pa.table(columns), path, row_group_size=100)
    elif path.suffix == ".csv":
        lines = [f'd{i},"[{",".join(map(repr, row))}]"\n' for i, row in enumerate(x.tolist())]
        path.write_text("id,vector\n" + "".join(lines))
    else:
        rows = ({"id": f"d{i}", "vector": row} for i, row in enumerate(x.tolist()))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks and many journals, so that small files are like large ones."""
    monkeypatch.setattr("coreframe.data.spool.BLOCK", 64 * D)
    monkeypatch.setattr(applying, "SYNC_EVERY", 150 * D * 4)
    for module in ("csv_rows", "json_rows", "arrow_rows", "tables"):
        if hasattr(sys.modules.get(f"coreframe.data.{module}"), "CHUNK"):
            monkeypatch.setattr(f"coreframe.data.{module}.CHUNK", 64)


# Formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_any_format_in_and_out(source, ending, tmp_path) -> None:
    path = write_source(tmp_path, source)
    column = None if source != "x.npz" else "vectors"
    done = apply_file(ADAPTER, path, tmp_path / f"y{ending}", column=column)
    got = read_vectors(tmp_path / f"y{ending}", column=done.column)
    np.testing.assert_allclose(got, ADAPTER(X), atol=1e-6)
    assert (done.rows, done.width, done.resumed_at, done.side) == (ROWS, D, 0, "query")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([source, f"y{ending}"])


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_columns_are_kept(ending, tmp_path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    done = apply_file(ADAPTER, write_source(tmp_path, "x.parquet"), tmp_path / f"y{ending}")
    assert done.column == "vector_adapted"
    if ending == ".csv":
        head, first, *_ = (tmp_path / "y.csv").read_text().splitlines()
        assert head == "id,none,vector,vector_adapted"
        assert first.startswith('d0,,"[')
    else:
        table = pq.read_table(tmp_path / "y.parquet")
        assert table.column_names == ["id", "none", "vector", "vector_adapted"]
        assert table["id"].to_pylist() == [f"d{i}" for i in range(ROWS)]
        assert (
            str(table.schema.field("vector_adapted").type)
            == f"fixed_size_list<element: float>[{D}]"
        )
    old = read_vectors(tmp_path / f"y{ending}", column="vector")
    np.testing.assert_allclose(old, X, atol=1e-6)


@pytest.mark.parametrize(("dtype", "error"), [("float16", 1e-3), ("int8", 5e-3)])
@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors", ".parquet"])
def test_narrow_numbers(dtype, error, ending, tmp_path) -> None:
    x = X.copy()
    x[5] = 0
    plain = make("query", form="low_rank")
    path = tmp_path / f"y{ending}"
    done = apply_file(plain, write_source(tmp_path, "x.npy", x), path, dtype=dtype)
    assert done.zero_rows == 1
    scale = np.ones(ROWS, np.float32)
    if ending == ".npy":
        stored = np.load(path)
        if dtype == "int8":
            scale = np.load(tmp_path / "y.scale.npy")
    elif ending == ".parquet":
        table = pytest.importorskip("pyarrow.parquet").read_table(path)
        stored = np.array(table["embedding"].to_pylist())
        assert ("embedding_scale" in table.column_names) == (dtype == "int8")
        if dtype == "int8":
            scale = table["embedding_scale"].to_numpy()
    else:
        found = dict(np.load(path)) if ending == ".npz" else load_file(path)
        stored, scale = found["embedding"], found.get("scale", scale)
        assert stored.dtype == dtype
    assert scale.shape == (ROWS,)
    np.testing.assert_allclose(stored * scale[:, None], plain(x), atol=error)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8"])
def test_what_comes_in_may_be_narrow_or_wide(dtype, tmp_path) -> None:
    x = (20 * X).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    apply_file(ADAPTER, tmp_path / "x.npy", tmp_path / "y.npy")
    got = np.load(tmp_path / "y.npy")
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, ADAPTER(x.astype(np.float32)), atol=1e-6)


@pytest.mark.parametrize("ending", TARGETS)
def test_an_output_of_another_width(ending, tmp_path) -> None:
    narrow = TrainedAdapter(D, {"query": random_side(to=3, bias=True)})
    done = apply_file(narrow, write_source(tmp_path, "x.npy"), tmp_path / f"y{ending}")
    got = read_vectors(tmp_path / f"y{ending}", column=done.column)
    assert done.width == 3
    np.testing.assert_allclose(got, narrow(X), atol=1e-6)


def test_sides(tmp_path) -> None:
    path = write_source(tmp_path, "x.npy")
    apart = make("apart")
    with pytest.raises(ArgumentError, match="say which these are"):
        apply_file(apart, path, tmp_path / "y.npy")
    done = apply_file(apart, path, tmp_path / "y.npy", side="document")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), apart(X, "document"), atol=1e-6)
    assert done.reindex == ROWS
    assert apply_file(ADAPTER, path, tmp_path / "z.npy").reindex == 0
    assert apply_file(make("alike"), path, tmp_path / "u.npy").reindex == ROWS


@pytest.mark.integration
@pytest.mark.parametrize("source", ["x.npy", "x.csv"])
def test_lance(source, tmp_path) -> None:
    lance = pytest.importorskip("lance")
    path, target = write_source(tmp_path, source), tmp_path / "y.lance"
    with pytest.raises(Stopped):
        apply_file(ADAPTER, path, target, progress=stop_after(500))
    part = str(tmp_path / ".y.lance.part" / "result")
    lance.write_dataset(lance.dataset(part).to_table().slice(0, 5), part, mode="append")
    done = apply_file(ADAPTER, path, target)
    assert 300 < done.resumed_at < ROWS
    np.testing.assert_allclose(read_vectors(target, column=done.column), ADAPTER(X), atol=1e-6)
    with pytest.raises(DataError, match="adapted already"):
        apply_file(ADAPTER, target, tmp_path / "twice.npy", column=done.column)


# Interruptions --------------------------------------------------------------------------------


class Stopped(Exception):
    """What stands for a kill between two blocks."""


def stop_after(rows: int):
    def progress(done: int, total: int | None) -> None:
        if done >= rows:
            raise Stopped

    return progress


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors", ".parquet", ".csv"])
@pytest.mark.parametrize("source", ["x.npy", "x.parquet", "x.csv"])
def test_it_goes_on_where_it_was(source, ending, dtype, tmp_path) -> None:
    if ending == ".csv" and dtype == "int8":
        pytest.skip("CSV has no int8")
    path = write_source(tmp_path, source)
    apply_file(ADAPTER, path, tmp_path / f"whole{ending}", dtype=dtype)
    target = tmp_path / f"y{ending}"
    resumed = []
    for rows in (200, 500, 800):
        with pytest.raises(Stopped):
            apply_file(ADAPTER, path, target, dtype=dtype, progress=stop_after(rows))
        assert not target.exists()
        # What a killed process wrote after its last journal, in part:
        for leftover in ("result", "scale"):
            if (file := tmp_path / f".{target.name}.part" / leftover).exists():
                with open(file, "ab") as f:
                    f.write(b"\x01\x02\x03")
    seen: list[int] = []
    done = apply_file(
        ADAPTER, path, target, dtype=dtype, progress=lambda rows, _: seen.append(rows)
    )
    resumed.append(done.resumed_at)
    assert 600 <= done.resumed_at < ROWS
    assert seen[0] > done.resumed_at
    same = target.read_bytes() == (tmp_path / f"whole{ending}").read_bytes()
    if ending == ".parquet":  # row groups may be cut elsewhere
        pq = pytest.importorskip("pyarrow.parquet")
        same = pq.read_table(target).equals(pq.read_table(tmp_path / "whole.parquet"))
    assert same
    assert not (tmp_path / f".{target.name}.part").exists()


@pytest.mark.parametrize("change", ["rows", "adapter", "side", "dtype", "journal"])
def test_it_starts_over_if_anything_has_changed(change, tmp_path, caplog) -> None:
    path, target = write_source(tmp_path, "x.npy"), tmp_path / "y.npy"
    with pytest.raises(Stopped):
        apply_file(ADAPTER, path, target, progress=stop_after(500))
    x, adapter, options = X, ADAPTER, {}
    if change == "rows":
        x = X.copy()
        x[3, 2] += 1
        np.save(path, x)
    elif change == "adapter":
        adapter = make("query")
    elif change == "journal":
        (tmp_path / ".y.npy.part" / "journal.json").write_text("{")
    else:
        options = {"side": "document"} if change == "side" else {"dtype": "float16"}
    done = apply_file(adapter, path, target, **options)
    assert done.resumed_at == 0
    assert "starting over" in caplog.text
    want = adapter(x, options.get("side", "query"))
    np.testing.assert_allclose(np.load(target), want, atol=1e-3 if change == "dtype" else 1e-6)


def test_rows_that_were_not_read_yet_may_change(tmp_path) -> None:
    """Somebody mends the row that stopped it: the rows before it need not be done again."""
    x = X.copy()
    x[700, 1] = np.nan
    path, target = write_source(tmp_path, "x.npy", x), tmp_path / "y.npy"
    with pytest.raises(DataError, match=r"x\.npy, row 700 \(from 0\): has NaN or infinity"):
        apply_file(ADAPTER, path, target)
    np.save(path, X)
    assert apply_file(ADAPTER, path, target).resumed_at > 400
    np.testing.assert_allclose(np.load(target), ADAPTER(X), atol=1e-6)


SCRIPT = """
import sys
from coreframe import applying
from coreframe.artefact import load
from coreframe.data import spool
spool.BLOCK = 64 * 8
applying.SYNC_EVERY = 100 * 8 * 4
folder, name = sys.argv[1:]
print("started", flush=True)
applying.apply_file(load(folder + "/adapter"), folder + "/x.npy", folder + "/" + name)
"""


@pytest.mark.parametrize("most", [5, pytest.param(300, marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["y.npy", "y.parquet"])
def test_a_process_that_is_killed_again_and_again(name, most, tmp_path) -> None:
    x = np.tile(X, (40, 1))
    np.save(tmp_path / "x.npy", x)
    ADAPTER.save(tmp_path / "adapter")
    rng, kills = np.random.default_rng(0), 0
    for _ in range(most + 1):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path), name], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(float(rng.uniform(0.02, 0.3)) if kills < most else 600)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        process.stdout.close()
        if process.returncode == 0:
            break
    assert process.returncode == 0
    np.testing.assert_allclose(read_vectors(tmp_path / name), ADAPTER(x), atol=1e-6)
    assert sorted(os.listdir(tmp_path)) == sorted(["adapter", "x.npy", name])


def test_a_disk_that_fails_leaves_the_old_result_and_can_go_on(tmp_path, monkeypatch) -> None:
    path, target = write_source(tmp_path, "x.npy"), tmp_path / "y.npy"
    target.write_bytes(b"the old one")
    calls = []

    def fails(file: int) -> None:
        calls.append(file)
        if len(calls) > 12:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises(OutputError, match="No space left"):
            apply_file(ADAPTER, path, target, overwrite=True)
    assert target.read_bytes() == b"the old one"
    assert apply_file(ADAPTER, path, target, overwrite=True).resumed_at > 0
    np.testing.assert_allclose(np.load(target), ADAPTER(X), atol=1e-6)
    assert sorted(os.listdir(tmp_path)) == ["x.npy", "y.npy"]


def test_two_at_once(tmp_path) -> None:
    path, target = write_source(tmp_path, "x.npy"), tmp_path / "y.npy"

    def again(rows: int, total: int | None) -> None:
        apply_file(ADAPTER, path, target)

    with pytest.raises(CheckpointError, match="writes here"):
        apply_file(ADAPTER, path, target, progress=again)


# Refusals -------------------------------------------------------------------------------------


def test_vectors_that_do_not_belong_to_the_adapter(tmp_path) -> None:
    path, target = write_source(tmp_path, "x.npy", X[:, :5].copy()), tmp_path / "y.npy"
    with pytest.raises(DataError, match="holds vectors of 5 numbers, and the adapter was trained"):
        apply_file(ADAPTER, path, target)
    np.save(path, X)
    with pytest.raises(DataError, match=r"are of 'another' \(given\)"):
        apply_file(ADAPTER, path, target, base_model="another")
    assert os.listdir(tmp_path) == ["x.npy"]
    apply_file(ADAPTER, path, target, base_model="a base model")


@pytest.mark.parametrize("ending", [".safetensors", ".parquet"])
def test_vectors_are_not_adapted_twice(ending, tmp_path) -> None:
    once = tmp_path / f"once{ending}"
    apply_file(ADAPTER, write_source(tmp_path, "x.parquet"), once)
    column = "vector_adapted" if ending == ".parquet" else None
    with pytest.raises(DataError, match="its vectors are adapted already"):
        apply_file(ADAPTER, once, tmp_path / "twice.npy", column=column)
    if ending == ".parquet":  # the old column may go through another adapter
        apply_file(make("query"), once, tmp_path / "y.npy", column="vector")


@pytest.mark.parametrize(
    ("source", "target", "options", "error", "text"),
    [
        ("x.npy", "y.pickle", {}, ArgumentError, "vectors are written to .npy, .npz"),
        ("x.npy", "y.csv", {"dtype": "int8"}, ArgumentError, "which has no 8-bit vectors"),
        ("x.npy", "y.npy", {"dtype": "int4"}, ArgumentError, "dtype must be one of float32"),
        ("x.npy", "y.npy", {"side": "both"}, ArgumentError, "side must be 'query' or 'document'"),
        ("x.npy", "no/y.npy", {}, OutputError, "there is no folder"),
        ("x.npy", "x.npy", {}, ArgumentError, r"exists; use overwrite \(--overwrite\)"),
        ("x.parquet", "y.parquet", {"to_column": "id"}, ArgumentError, "has a column 'id' already"),
        ("x.parquet", "y.parquet", {"column": "vec"}, DataError, "has no column 'vec'"),
        ("none.npy", "y.npy", {}, DataError, "none.npy cannot be read: No such file"),
        ("x.npz", "y.npy", {"column": "vec"}, DataError, "has no array 'vec'"),
    ],
)
def test_bad_calls(source, target, options, error, text, tmp_path) -> None:
    if source != "none.npy":
        write_source(tmp_path, source)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(error, match=text):
        apply_file(ADAPTER, tmp_path / source, tmp_path / target, **options)
    assert sorted(os.listdir(tmp_path)) == before


def test_numbers_too_large_for_float16(tmp_path) -> None:
    big = make("query", normalize=False)
    np.save(tmp_path / "x.npy", X * 1e5)
    with pytest.raises(DataError, match="too large for float16"):
        apply_file(big, tmp_path / "x.npy", tmp_path / "y.npy", dtype="float16")


def test_a_file_may_be_replaced_by_its_own_result(tmp_path) -> None:
    path = write_source(tmp_path, "x.npy")
    apply_file(ADAPTER, path, path, overwrite=True)
    np.testing.assert_allclose(np.load(path), ADAPTER(X), atol=1e-6)


def test_memory_does_not_grow_with_the_file(tmp_path) -> None:
    """Anonymous memory, as the kernel counts it: pages of mapped files are not in it."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    code = """
import re, sys
from pathlib import Path
from coreframe.applying import apply_file
from coreframe.artefact import load
folder = sys.argv[1]
def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10
apply_file(load(folder + "/adapter"), folder + "/small.npy", folder + "/y0.npy")
before, most = anonymous(), []
apply_file(load(folder + "/adapter"), folder + "/x.npy", folder + "/y.npy",
           progress=lambda rows, total: most.append(anonymous()))
print(max(most) - before)
"""
    big = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", "float32", (4_000_000, D))
    for start in range(0, len(big), ROWS * 100):
        big[start : start + ROWS * 100] = np.tile(X, (100, 1))[: len(big) - start]
    big.flush()
    np.save(tmp_path / "small.npy", big[:600_000])
    ADAPTER.save(tmp_path / "adapter")
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    shutil.rmtree(tmp_path)
    assert int(ran.stdout) < 40 << 20  # the file has 128 MB


def test_the_work_of_another_call_is_not_removed(tmp_path) -> None:
    """Before its first journal there is nothing to go on from, but somebody is at work."""
    path, target = write_source(tmp_path, "x.npy"), tmp_path / "y.npy"
    part = tmp_path / ".y.npy.part"
    with FolderLock(part):
        (part / "result").write_bytes(b"of another")
        with pytest.raises(CheckpointError, match="writes here"):
            apply_file(ADAPTER, path, target)
        assert (part / "result").read_bytes() == b"of another"
    apply_file(ADAPTER, path, target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npy", "y.npy"]
