"""Vectors of every format are the same vectors; large ones stay on disk; broken ones are named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from coreframe.data import spool
from coreframe.data.vectors import open_vectors, read_vectors
from coreframe.errors import DataError, OutputError

X = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
IDS = [f"d{i}" for i in range(30)]


def lists(x: np.ndarray, kind: str) -> Any:
    flat = pyarrow.array(x.ravel())
    if kind == "fixed":
        return pyarrow.FixedSizeListArray.from_arrays(flat, x.shape[1])
    offsets = pyarrow.array(np.arange(len(x) + 1) * x.shape[1])
    if kind == "large":
        return pyarrow.LargeListArray.from_arrays(offsets.cast(pyarrow.int64()), flat)
    return pyarrow.ListArray.from_arrays(offsets.cast(pyarrow.int32()), flat)


def as_text(x: np.ndarray) -> list[str]:
    return ["[" + ",".join(repr(float(v)) for v in row) + "]" for row in x]


def write(folder: Path, kind: str, x: np.ndarray = X) -> Path:
    path = folder / f"x.{kind.partition('-')[0]}"
    if kind == "npy":
        np.save(path, x)
    elif kind == "npz":
        np.savez(path, embeddings=x, ids=np.asarray(IDS))
    elif kind == "npz-small":
        np.savez_compressed(path, x=x)
    elif kind == "safetensors":
        save_file({"vectors": x, "ids": np.arange(30)}, path)
    elif kind.startswith("parquet"):
        table = pyarrow.table({"id": IDS, "embedding": lists(x, kind.partition("-")[2])})
        pyarrow.parquet.write_table(table, path, row_group_size=max(7, len(x) // 10))
    elif kind == "arrow":
        table = pyarrow.table({"_id": IDS, "vector": lists(x, "fixed")})
        with pyarrow.OSFile(str(path), "wb") as f, pyarrow.ipc.new_stream(f, table.schema) as w:
            w.write_table(table, max_chunksize=7)
    elif kind == "csv":
        lines = [f'{i},"{v}"' for i, v in zip(IDS, as_text(x), strict=True)]
        path.write_text("\n".join(["id,embedding", *lines]) + "\n")
    elif kind == "csv-copy":  # \copy (select id, embedding from docs) to 'x.csv' csv
        lines = [f'{i},"{v}"' for i, v in zip(IDS, as_text(x), strict=True)]
        path.write_text("\n".join(lines) + "\n")
    elif kind == "tsv-copy":  # \copy (select id, embedding from docs) to 'x.tsv'
        path.write_text("".join(f"{i}\t{v}\n" for i, v in zip(IDS, as_text(x), strict=True)))
    elif kind == "jsonl":
        rows = zip(IDS, x.tolist(), strict=True)
        path.write_text("".join(json.dumps({"id": i, "embedding": v}) + "\n" for i, v in rows))
    return path


KINDS = [
    "npy", "npz", "npz-small", "safetensors", "parquet-fixed", "parquet-variable",
    "parquet-large", "arrow", "csv", "csv-copy", "tsv-copy", "jsonl",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_vectors(tmp_path: Path, kind: str) -> None:
    found = open_vectors(write(tmp_path, kind))
    np.testing.assert_array_equal(found.array, X)
    assert found.array.dtype == np.float32
    if kind in ("npy", "npz-small"):
        assert found.ids is None
    else:
        assert list(found.ids) == ([*map(str, range(30))] if kind == "safetensors" else IDS)


@pytest.mark.parametrize("kind", ["npy", "npz", "safetensors"])
def test_arrays_are_mapped(tmp_path: Path, kind: str) -> None:
    assert isinstance(read_vectors(write(tmp_path, kind)), np.memmap)


def test_fortran_order_in_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.asfortranarray(X))
    np.savez_compressed(tmp_path / "y.npz", x=np.asfortranarray(X))
    for name in ("x.npz", "y.npz"):
        np.testing.assert_array_equal(read_vectors(tmp_path / name), X)


DTYPES = ["f2", "f4", "f8", "i1", "u1", ">f2", ">f4", ">f8"]


@given(
    data=st.lists(st.lists(st.integers(0, 120), min_size=3, max_size=3), min_size=1, max_size=6),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(["npy", "npz", "npz-small", "safetensors"]),
)
def test_every_dtype(
    data: list[list[int]], dtype: str, kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if kind == "safetensors" and dtype.startswith(">"):
        return  # the format has little-endian numbers only
    folder = tmp_path_factory.mktemp("v")
    x = np.asarray(data).astype(dtype)
    path = folder / f"x.{kind.partition('-')[0]}"
    {"npy": np.save, "npz": np.savez, "npz-small": np.savez_compressed}.get(
        kind, lambda p, a: save_file({"x": a}, p)
    )(path, x)
    found = open_vectors(path)
    assert found.array.dtype == (x.dtype.newbyteorder("=") if x.dtype.kind == "f" else np.float32)
    assert found.array.dtype.isnative
    np.testing.assert_array_equal(found.array, np.asarray(data, np.float64))


def test_bfloat16(tmp_path: Path) -> None:
    """Written by hand: NumPy has no bfloat16. It is the upper half of a float32."""
    exact = np.asarray([[1.5, -2.0, 0.0], [3.140625, 1e30, -7.0]], np.float32)
    half = (exact.view(np.uint32) >> 16).astype("<u2")
    kept = (half.astype(np.uint32) << 16).view(np.float32)
    header = json.dumps({"x": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}}).encode()
    header += b" " * (-len(header) % 8)
    content = len(header).to_bytes(8, "little") + header + half.tobytes()
    (tmp_path / "x.safetensors").write_bytes(content)
    np.testing.assert_array_equal(read_vectors(tmp_path / "x.safetensors"), kept)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8"])
@pytest.mark.parametrize("kind", ["parquet-fixed", "parquet-variable"])
def test_columns_of_other_numbers(tmp_path: Path, kind: str, dtype: str) -> None:
    x = (10 * X).astype(dtype)
    found = read_vectors(write(tmp_path, kind, x))
    np.testing.assert_array_equal(found, x)
    assert found.dtype == ("float32" if dtype == "int8" else dtype)


def test_a_column_or_an_array_by_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=X, b=2 * X)
    np.testing.assert_array_equal(read_vectors(tmp_path / "x.npz", column="b"), 2 * X)
    with pytest.raises(DataError, match=r"has no array 'c'"):
        read_vectors(tmp_path / "x.npz", column="c")
    with pytest.raises(DataError, match=r"must hold one matrix, .* a \(30, 6\), b \(30, 6\)"):
        read_vectors(tmp_path / "x.npz")
    table = pyarrow.table({"a_embedding": lists(X, "fixed"), "b_embedding": lists(2 * X, "fixed")})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    found = read_vectors(tmp_path / "x.parquet", column="b_embedding")
    np.testing.assert_array_equal(found, 2 * X)
    with pytest.raises(DataError, match="has several columns of vectors"):
        read_vectors(tmp_path / "x.parquet")
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "y.parquet")
    with pytest.raises(DataError, match=r"has no column of vectors: .*Its columns: 'text'\."):
        read_vectors(tmp_path / "y.parquet")


# Ids


@pytest.mark.parametrize("ending", ["txt", "json", "npy"])
def test_ids_beside_the_file(tmp_path: Path, ending: str) -> None:
    np.save(tmp_path / "x.npy", X)
    beside = tmp_path / f"x.ids.{ending}"
    if ending == "npy":
        np.save(beside, np.asarray(IDS))
    else:
        beside.write_text("\n".join(IDS) if ending == "txt" else json.dumps(IDS))
    assert list(open_vectors(tmp_path / "x.npy").ids) == IDS


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (IDS[:-1], "has 30 vectors, but 29 ids"),
        ([*IDS[:-1], "d3"], r"the id 'd3' stands in rows 3 and 29 \(from 0\); ids must differ"),
    ],
)
def test_ids_that_do_not_fit(tmp_path: Path, ids: list[str], expected: str) -> None:
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.ids.txt").write_text("\n".join(ids))
    with pytest.raises(DataError, match=expected):
        open_vectors(tmp_path / "x.npy")


# Broken


def broken_table(tmp_path: Path, values: list[Any]) -> str:
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"embedding": values}), path)
    with pytest.raises(DataError) as caught:
        read_vectors(path)
    return str(caught.value).replace(str(path), path.name)


def test_broken_cells_of_tables(tmp_path: Path) -> None:
    good = [1.0, 2.0]
    assert broken_table(tmp_path, [good, [1.0]]) == (
        "x.parquet, row 1 (from 0): 'embedding' has 1 numbers, but the first row has 2"
    )
    assert broken_table(tmp_path, [good, good, None]) == (
        "x.parquet, row 2 (from 0): 'embedding' has null, but the first row has 2"
    )
    assert broken_table(tmp_path, [good, [1.0, None]]).endswith(
        "row 1 (from 0): has NaN or infinity; drop such rows or replace the values"
    )
    assert broken_table(tmp_path, ["text", "more"]) == (
        "x.parquet, row 0 (from 0): 'embedding' must be a vector such as [0.1, 0.2], got a text"
    )
    assert broken_table(tmp_path, [good, [float("nan"), 1.0]]).endswith(
        "row 1 (from 0): has NaN or infinity; drop such rows or replace the values"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('id,embedding\na,"[1,2]"\nb,"[1,x]"\n', "line 3: 'embedding' must be a list of numbers"),
        ('id,embedding\na,"[1,2]"\nb,"[1]"\n', "line 3: 'embedding' has 1 numbers, but the first"),
        ('id,embedding\na,"[1,2]"\n,"[1,3]"\n', "line 3: 'id' is empty"),
        ('1,"[1,2]",x\n', "line 1: holds vectors, so it is no header"),
        ("id,embedding\n", "is empty: it has no rows"),
    ],
)
def test_broken_csv(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(DataError, match=r"x\.csv") as caught:
        open_vectors(tmp_path / "x.csv")
    assert expected in str(caught.value)


@pytest.mark.parametrize("kind", ["npz", "npz-small", "safetensors", "parquet-fixed", "arrow"])
def test_files_that_are_cut(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    whole = path.read_bytes()
    for size in (0, 7, 60, len(whole) // 2, len(whole) - 20):
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=path.name):
            open_vectors(path)


def test_a_damaged_member(tmp_path: Path) -> None:
    path = write(tmp_path, "npz-small")
    whole = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        member = archive.infolist()[0]
    whole[member.header_offset + 200] ^= 0xFF
    path.write_bytes(bytes(whole))
    with pytest.raises(DataError, match=r"x\.npz"):
        open_vectors(path)


def test_no_objects_are_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.asarray([[None, "a"]], dtype=object))
    with pytest.raises(DataError, match="Python objects, which are never loaded"):
        read_vectors(tmp_path / "x.npz")


def test_other_endings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"vectors are read from \.npy, .*not '\.pkl'"):
        read_vectors(tmp_path / "x.pkl")
    for name in ("x.npz", "x.safetensors", "x.parquet", "x.csv", "x.arrow"):
        with pytest.raises(DataError, match=r"cannot be read: .*No such file or directory"):
            read_vectors(tmp_path / name)


# What is seen


def test_facts(tmp_path: Path) -> None:
    x = X / np.linalg.norm(X, axis=1, keepdims=True)
    np.save(tmp_path / "x.npy", x.astype(np.float16))
    assert open_vectors(tmp_path / "x.npy").facts.normalised
    x = 3 * x
    x[[4, 9]] = 0
    np.save(tmp_path / "x.npy", x)
    facts = open_vectors(tmp_path / "x.npy").facts
    assert (facts.rows, facts.width, facts.zero_rows, facts.first_zero) == (30, 6, 2, 4)
    assert not facts.normalised
    assert (facts.low, facts.mean, facts.high) == pytest.approx((3, 3, 3), rel=1e-6)


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_rows_whose_squares_are_out_of_range_are_neither_zero_nor_infinite(
    tmp_path: Path, size: float
) -> None:
    x = np.full((2, 3), size, np.float32)
    x[1] = 1
    np.save(tmp_path / "x.npy", x)
    facts = open_vectors(tmp_path / "x.npy").facts
    assert facts.zero_rows == 0
    expected = sorted((float(np.float32(size)) * 3**0.5, 3**0.5))
    assert (facts.low, facts.high) == pytest.approx(expected, rel=1e-6)


# Large files


def test_collect_goes_to_disk_beyond_its_limit() -> None:
    blocks = [X[:10], X[10:11], X[11:]]
    held = spool.collect(blocks, in_memory=10**6)
    mapped = spool.collect(blocks, in_memory=100)
    assert not isinstance(held, np.memmap)
    assert isinstance(mapped, np.memmap)
    np.testing.assert_array_equal(held, X)
    np.testing.assert_array_equal(mapped, X)
    assert spool.collect([]) is None


def test_a_disk_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def __enter__(self) -> Full:
            return self

        def __exit__(self, *error: object) -> None:
            pass

        def write(self, data: object) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool.tempfile, "TemporaryFile", lambda **options: Full())
    with pytest.raises(OutputError, match="No space left on device; TMPDIR names another folder"):
        spool.collect([X], in_memory=0)


def test_take_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spool.take_rows(X, np.arange(30)) is X
    monkeypatch.setattr(spool, "BLOCK", 12)
    rows = np.asarray([5, 5, 0, 29, 3])
    np.testing.assert_array_equal(spool.take_rows(X, rows), X[rows])


PROGRAM = """
    import sys
    from coreframe.data import spool
    from coreframe.data.vectors import read_vectors

    def anonymous():
        with open("/proc/self/status") as file:
            return int(next(l for l in file if l.startswith("RssAnon")).split()[1])

    spool.IN_MEMORY = 1 << 20
    read_vectors(sys.argv[1])  # imports, buffers
    before, found = anonymous(), read_vectors(sys.argv[2])
    print(anonymous() - before, type(found).__name__, *found.shape)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("kind", ["npy", "npz", "npz-small", "safetensors", "parquet"])
def test_large_files_stay_out_of_memory(tmp_path: Path, kind: str) -> None:
    """Of 51 MB of vectors, at most 20 are memory of the process afterwards."""
    paths = []
    x = np.random.default_rng(0).standard_normal((1000, 128)).astype(np.float32)
    for name, rows in (("small", x), ("large", np.tile(x, (100, 1)))):
        (tmp_path / name).mkdir()
        path = tmp_path / name / f"x.{kind.partition('-')[0]}"
        paths.append(path)
        if kind == "parquet":
            column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(rows.ravel()), 128)
            pyarrow.parquet.write_table(pyarrow.table({"vector": column}), path, compression=None,
                                        use_dictionary=False, row_group_size=20_000)  # fmt: skip
        elif kind == "safetensors":
            save_file({"x": rows}, path)
        elif kind == "npz-small":  # as np.savez_compressed, but sooner done
            deflated = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
            with deflated as archive, archive.open("x.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, rows)
        else:
            {"npy": np.save, "npz": np.savez}[kind](path, rows)
    ran = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), *map(str, paths)],
        capture_output=True, text=True, timeout=600, check=True,
        env=os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system"},  # the others keep what is freed
    )  # fmt: skip
    grown, kind_of, *shape = ran.stdout.split()
    assert (kind_of, shape) == ("memmap", ["100000", "128"])
    assert int(grown) < 20_000, f"{grown} KiB"
