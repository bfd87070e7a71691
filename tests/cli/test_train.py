"""``coreframe train`` on a user's own data: what it takes, what it says, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import coreframe
from coreframe import __main__ as start
from coreframe import config

from .conftest import run_command

FEW = ("--set", "train.epochs=8", "--set", "train.batch_size=128", "--set", "gate.resamples=500")
FEW += ("--set", "curve.enabled=never")
FILES = 12


def lines(path: Path, records: list[object]) -> Path:
    """Write JSON lines; texts are written as they are."""
    path.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records),
        encoding="utf-8",
    )
    return path


@pytest.fixture
def arrays(tmp_path: Path, vectors) -> Path:
    """The three files of pairs with vectors: q.npy, d.npy and pairs.jsonl."""
    np.save(tmp_path / "q.npy", vectors.queries)
    np.save(tmp_path / "d.npy", vectors.documents)
    records = [{"anchor": f"question {i}", "positive": f"answer {i}"} for i in range(400)]
    lines(tmp_path / "pairs.jsonl", records)
    return tmp_path


def metrics(folder: Path) -> dict[str, object]:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def refused(ran, code: int, *expected: str) -> None:
    """Check the exit code, that one error and no traceback is shown, and nothing on stdout."""
    assert ran.returncode == code, ran.stderr
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    for text in expected:
        assert text in ran.stderr


# What it takes --------------------------------------------------------------------------------


def test_texts(coreframe_, texts, tmp_path) -> None:
    ran = coreframe_("train", "pairs.jsonl", *FEW)
    assert ran.returncode == 0, ran.stderr
    assert "columns anchor = anchor, positive = positive" in ran.stderr
    assert "95% interval" in ran.stdout
    folder = tmp_path / "coreframe-run"
    assert len(list(folder.iterdir())) == FILES
    assert metrics(folder)["promoted"] != "identity"
    inputs = json.loads((folder / "environment.json").read_text())["inputs"]
    assert list(inputs) == ["pairs.jsonl"]
    adapter = coreframe.load(folder)
    embedder = config.read(folder / "run.toml").embedder
    assert adapter(embedder.embed(["ba ke lo"])).shape == (1, adapter.dimensions)


def test_columns_of_other_names_are_taken_in_order_and_printed(coreframe_, tmp_path) -> None:
    records = [{"frage": f"was ist {i}", "antwort": f"das ist {i}"} for i in range(60)]
    lines(tmp_path / "faq.jsonl", records)
    ran = coreframe_("train", "faq.jsonl", *FEW)
    assert ran.returncode in (0, 3), ran.stderr
    assert "columns frage = anchor, antwort = positive" in ran.stderr


def test_columns_by_the_configuration(coreframe_, tmp_path) -> None:
    records = [{"id": f"a{i}", "de": f"was ist {i}", "en": f"what is {i}"} for i in range(60)]
    lines(tmp_path / "faq.jsonl", records)
    columns = ("--set", "data.anchor=de", "--set", "data.positive=en")
    ran = coreframe_("train", "faq.jsonl", *FEW, *columns)
    assert ran.returncode in (0, 3), ran.stderr
    assert "columns de = anchor, en = positive" in ran.stderr


def test_negatives(coreframe_, tmp_path, records) -> None:
    others = [r["positive"] for r in records[1:] + records[:1]]
    rows = [r | {"negative": n} for r, n in zip(records, others, strict=True)]
    lines(tmp_path / "triplets.jsonl", rows)
    ran = coreframe_("train", "triplets.jsonl", *FEW)
    assert ran.returncode == 0, ran.stderr
    assert "negative = negative" in ran.stderr


def test_parquet(coreframe_, tmp_path, records) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "pairs.parquet")
    lines(tmp_path / "pairs.jsonl", records)
    runs = [
        coreframe_("train", f"pairs.{kind}", *FEW, "--json", "-o", kind)
        for kind in ("parquet", "jsonl")
    ]
    found = [json.loads(ran.stdout) for ran in runs]
    for one in found:
        one.pop("seconds")
    assert found[0] == found[1]
    assert runs[0].returncode == 0


def test_vectors(coreframe_, arrays) -> None:
    ran = coreframe_("train", "pairs.jsonl", "--queries", "q.npy", "--documents", "d.npy", *FEW)
    assert ran.returncode == 0, ran.stderr
    folder = arrays / "coreframe-run"
    inputs = json.loads((folder / "environment.json").read_text())["inputs"]
    assert sorted(inputs) == ["d.npy", "pairs.jsonl", "q.npy"]
    assert json.loads((folder / "config.json").read_text())["base_model"] is None
    adapter = coreframe.load(folder)
    assert adapter.dimensions == 24
    assert not adapter.rebuilds_index


def test_vectors_by_row_numbers(coreframe_, arrays) -> None:
    """Ids name rows, so the order of the lines says nothing."""
    records = [{"anchor_id": i, "positive_id": i} for i in reversed(range(400))]
    lines(arrays / "ids.jsonl", records)
    ran = coreframe_("train", "ids.jsonl", "--queries", "q.npy", "--documents", "d.npy", *FEW)
    assert ran.returncode == 0, ran.stderr


def test_labels(coreframe_, tmp_path, vectors) -> None:
    np.save(tmp_path / "X.npy", vectors.queries)
    np.save(tmp_path / "y.npy", vectors.labels)
    ran = coreframe_("train", "X.npy", "y.npy", "--side", "both", *FEW)
    assert ran.returncode in (0, 3), ran.stderr
    assert "400 vectors with labels" in ran.stderr
    found = metrics(tmp_path / "coreframe-run")
    assert found["promoted"] == ("identity" if ran.returncode else found["kept"])

    ran = coreframe_("train", "X.npy", "y.npy", "-o", "other")
    refused(ran, 2, "labelled rows are one set: train them with", "--side both")


def test_one_value_by_set(coreframe_, texts, tmp_path) -> None:
    values = ("losses.0.temperature=0.2", "train.start=identity", "adapter.name=low_rank")
    options = [word for value in values for word in ("--set", value)]
    ran = coreframe_("train", "pairs.jsonl", *FEW, *options, "--seed", 5)
    assert ran.returncode in (0, 3), ran.stderr
    stored = config.read(tmp_path / "coreframe-run" / "run.toml")
    assert stored.loss.temperature == 0.2
    assert type(stored.adapter).__name__ == "LowRank"
    assert (stored.train.start, stored.train.seed, stored.train.epochs) == ("identity", 5, 8)


def test_a_configuration(coreframe_, texts, tmp_path) -> None:
    """A stored run, read again, is the same run."""
    assert coreframe_("train", "pairs.jsonl", *FEW, "-o", "one").returncode == 0
    ran = coreframe_("train", "pairs.jsonl", "-c", "one/run.toml", "--output-dir", "two")
    assert ran.returncode == 0, ran.stderr
    for name in ("model.safetensors", "run.toml", "metrics.jsonl"):
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two, name


# Trained, but not better ------------------------------------------------------------------------


@pytest.mark.parametrize("as_json", [False, True])
def test_random_pairs_are_not_promoted(coreframe_, tmp_path, as_json) -> None:
    rng = np.random.default_rng(0)
    for name in ("q", "d"):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(300, 16)).astype(np.float32))
    lines(tmp_path / "pairs.jsonl", [{"anchor_id": i, "positive_id": i} for i in range(300)])
    words = ["train", "pairs.jsonl", "--queries", "q.npy", "--documents", "d.npy", *FEW]
    ran = coreframe_(*words, *["--json"] * as_json)
    assert ran.returncode == 3, ran.stderr
    folder = tmp_path / "coreframe-run"
    found = metrics(folder)
    assert found["promoted"] == "identity"
    assert found["gate"]["passed"] is False
    assert found["gate"]["reason"]
    assert found["gate"]["hint"]
    if as_json:
        assert json.loads(ran.stdout) == found
        assert ran.stderr == ""
    else:
        assert "✗ no proof of gain" in ran.stdout
        assert "identity kept, nothing promoted" in ran.stdout
        assert found["gate"]["hint"] in ran.stdout
    x = rng.normal(size=(5, 16))
    adapter = coreframe.load(folder)
    assert adapter.is_identity
    np.testing.assert_allclose(adapter(x), x / np.linalg.norm(x, axis=1, keepdims=True))


def test_a_gain_below_the_minimum_is_not_promoted(coreframe_, arrays) -> None:
    """The best on dev is trained and shown, and still the identity is what is stored."""
    words = ["train", "pairs.jsonl", "--queries", "q.npy", "--documents", "d.npy", *FEW]
    ran = coreframe_(*words, "--set", "gate.minimum_gain=0.99")
    assert ran.returncode == 3, ran.stderr
    found = metrics(arrays / "coreframe-run")
    assert found["kept"] != "identity"
    assert found["gain"]["ndcg@10"] > 0
    assert found["promoted"] == "identity"
    assert coreframe.load(arrays / "coreframe-run").is_identity
    assert "identity kept, nothing promoted" in ran.stdout


# Data that is refused -------------------------------------------------------------------------

GOOD = {"anchor": "a question", "positive": "an answer"}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([GOOD, GOOD, '{"anchor": "a'], "pairs.jsonl, line 3: not valid JSON"),
        ([GOOD, {"anchor": "a"}], "pairs.jsonl, line 2: other columns than in line 1"),
        ([GOOD, GOOD | {"positive": 3}], "pairs.jsonl, line 2: 'positive' must be a text, got"),
        ([GOOD, GOOD | {"anchor": " "}], "pairs.jsonl, line 2: 'anchor' is empty"),
        ([{"anchor": "a"}], "pairs.jsonl has no column for the positive: expected 'positive'"),
        ([{"anchor": "a", "psitive": "b", "x": "c"}], "Did you mean 'psitive'?"),
        ([], "pairs.jsonl is empty: it has no rows"),
    ],
)
def test_broken_lines(coreframe_, tmp_path, rows, expected) -> None:
    lines(tmp_path / "pairs.jsonl", rows)
    ran = coreframe_("train", "pairs.jsonl")
    refused(ran, 4, f"error: {expected}" if expected.startswith("pairs") else expected)
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]


def broken(x: np.ndarray, how: str) -> np.ndarray:
    with_nan = x.copy()
    with_nan[17, 3] = np.nan
    shapes = {"short": x[:-1], "flat": x[0], "empty": x[:0]}
    return {"nan": with_nan, "integers": x.astype(np.int64), **shapes}[how]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("nan", "error: d.npy, row 17 (from 0): has NaN or infinity"),
        (
            "integers",
            "error: d.npy must hold float16, float32, float64, int8 or uint8, got int64; convert",
        ),
        ("short", "error: --documents has 399 vectors for 400 rows of pairs.jsonl"),
        ("flat", "error: d.npy must hold a matrix (rows, width), got shape (24,)"),
        ("empty", "error: d.npy is empty: its shape is (0, 24)"),
    ],
)
def test_broken_vectors(coreframe_, arrays, how, expected) -> None:
    np.save(arrays / "d.npy", broken(np.load(arrays / "d.npy"), how))
    ran = coreframe_("train", "pairs.jsonl", "--queries", "q.npy", "--documents", "d.npy")
    refused(ran, 4, expected)
    assert not (arrays / "coreframe-run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        (["nowhere.jsonl"], 4, "error: nowhere.jsonl cannot be read: No such file"),
        (["pairs.txt"], 4, "error: pairs.txt: rows are read from .jsonl, "),
        (["pairs.csv"], 4, "error: pairs.csv cannot be read: No such file"),
        (
            ["q.npy"],
            2,
            "error: DATA is one file of pairs (such as .jsonl, .csv or .parquet), one folder, or ",
        ),
        (["pairs.jsonl", "--queries", "q.npy"], 2, "--queries and --documents go together"),
        (["q.npy", "pairs.jsonl"], 2, "got q.npy, pairs.jsonl"),
        (
            ["pairs.jsonl", "--queries", "q.npy", "--documents", "no.npy"],
            4,
            "error: no.npy cannot be read: No such file",
        ),
        ([], 2, "Missing argument 'DATA...'"),
    ],
)
def test_files_that_do_not_fit(coreframe_, arrays, arguments, code, expected) -> None:
    refused(coreframe_("train", *arguments), code, expected)


@pytest.mark.parametrize("rows", [1, 2])
def test_too_few_rows(coreframe_, tmp_path, rows) -> None:
    lines(tmp_path / "pairs.jsonl", [{"anchor": f"a{i}", "positive": f"b{i}"} for i in range(rows)])
    ran = coreframe_("train", "pairs.jsonl")
    refused(ran, 4, "part is empty: ", "are too few for dev=0.1 and test=0.2")
    assert not (tmp_path / "coreframe-run").exists()


def test_one_document_for_all(coreframe_, tmp_path) -> None:
    """Queries that share a document stay on one side, so here there is nothing to split."""
    lines(tmp_path / "pairs.jsonl", [{"anchor": f"a{i}", "positive": "b"} for i in range(50)])
    refused(coreframe_("train", "pairs.jsonl"), 4, "50 queries in 1 groups that share no document")


# Settings and folders that are refused ----------------------------------------------------------

FIVE = """\
[train]
epochs = 0
side = "left"

[gate]
metric = "ndgc@10"

[[losses]]
name = "info_nse"

[optimizer]
name = "adamw"
learning_rates = 0.1
"""


def test_five_mistakes_are_shown_at_once(coreframe_, texts, tmp_path) -> None:
    (tmp_path / "run.toml").write_text(FIVE, encoding="utf-8")
    ran = coreframe_("train", "pairs.jsonl", "-c", "run.toml")
    expected = ["epochs", "'left'", "'ndgc@10'", "'info_nce'", "learning_rate"]
    refused(ran, 2, "error: run.toml has 5 mistakes:", *expected)
    assert ran.stderr.count("\n  - ") == 5
    assert not (tmp_path / "coreframe-run").exists()


@pytest.mark.parametrize("debug", [False, True])
def test_a_traceback_only_when_asked_for(tmp_path, debug) -> None:
    lines(tmp_path / "pairs.jsonl", [GOOD, "{"])
    ran = run_command("train", "pairs.jsonl", *["--debug"] * debug, cwd=tmp_path)
    assert ran.returncode == (1 if debug else 4)
    assert ("Traceback" in ran.stderr) is debug
    assert "pairs.jsonl, line 2: not valid JSON" in ran.stderr


@pytest.mark.parametrize(
    ("out", "code", "expected"),
    [
        ("pairs.jsonl", 1, "error: pairs.jsonl is a file, not a folder; choose another with --out"),
        ("pairs.jsonl/below", 1, "error: cannot write to pairs.jsonl/below: Not a direct"),
        (".", 2, "error: the output folder . is not empty; use --overwrite, or another --out"),
    ],
)
def test_a_folder_that_cannot_be_used(coreframe_, texts, tmp_path, out, code, expected) -> None:
    before = texts.read_bytes()
    refused(coreframe_("train", "pairs.jsonl", "-o", out), code, expected)
    assert [p.name for p in tmp_path.iterdir()] == ["pairs.jsonl"]
    assert texts.read_bytes() == before


# Interrupted ----------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")
@pytest.mark.parametrize("existed", [False, True])
def test_an_interrupt_leaves_nothing_half_written(
    clean_environment, texts, tmp_path, existed
) -> None:
    if existed:
        (tmp_path / "out").mkdir()
    command = [sys.executable, "-m", "coreframe", "train", "pairs.jsonl", "-o", "out", "-v"]
    with subprocess.Popen(
        [*command, "--set", "train.epochs=100000"],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        watchdog = threading.Timer(600, process.kill)
        watchdog.start()
        for line in process.stderr:
            if "epoch 2/" in line:
                break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
        watchdog.cancel()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].endswith("--resume-from-checkpoint latest")
    assert out == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "pairs.jsonl"]
    left = {p.name for p in (tmp_path / "out").iterdir()}
    assert left.isdisjoint({"model.safetensors", "config.json", "report.html", "metrics.json"})
    assert any(name.startswith("checkpoint-") for name in left)


def test_an_interrupt_while_modules_are_imported(monkeypatch, capsys) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("coreframe.cli.run", interrupted)
    assert start.main() == 130
    assert capsys.readouterr().err == "interrupted\n"
