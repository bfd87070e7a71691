"""``coreframe export`` and ``coreframe apply``: what they print, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from export_cases import D, make

from coreframe import cli

X = np.random.default_rng(0).standard_normal((50, D)).astype(np.float32)
ADAPTER = make("alike", form="low_rank", bias=True)
MOVED = [{"what": "the best cut", "before": 0.71, "after": 0.48}]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder as a run leaves it, as far as these verbs look at it."""
    ADAPTER.save(tmp_path / "first")
    write_metrics(tmp_path / "first", passed=True)
    np.save(tmp_path / "x.npy", X)
    return tmp_path / "first"


@pytest.fixture
def here(run, tmp_path, monkeypatch, capfd) -> Callable[..., SimpleNamespace]:
    """Run the command line in this process, which starts no other."""
    monkeypatch.chdir(tmp_path)

    def command(*words: str) -> SimpleNamespace:
        code = cli.run([*words])
        out, err = capfd.readouterr()
        return SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return command


def write_metrics(folder: Path, *, passed: bool) -> None:
    gate = {"passed": passed, "reason": "ndcg@10 0.544 -> 0.548"}
    (folder / "metrics.json").write_text(json.dumps({"gate": gate, "thresholds": MOVED}))


def test_export_tells_what_must_be_known(here, tmp_path) -> None:
    ran = here("export", "first", "--to", "pgvector", "--table", "weights")
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "first-pgvector" / "adapter.sql").exists()
    for text in ("pgvector: first-pgvector", "queries and documents", "must be rebuilt", "cosine",
                 "the best cut  0.710 -> 0.480", "a base model"):  # fmt: skip
        assert text in ran.stdout
    ran = here("export", "first", "--to", "numpy", "-o", "out", "--json")
    facts = json.loads(ran.stdout)
    assert (facts["folder"], facts["target"], facts["rebuild_index"]) == ("out", "numpy", True)
    assert facts["thresholds"] == MOVED


def test_apply_tells_what_it_did(here, tmp_path) -> None:
    ran = here("apply", "first", "x.npy", "y.csv", "--side", "document")
    assert ran.returncode == 0, ran.stderr
    assert "y.csv: 50 x 8 document vectors, column embedding" in ran.stdout
    assert "50 rows must be put in again" in ran.stdout
    ran = here("apply", "first", "y.csv", "z.npz", "--dtype", "int8", "--json")
    facts = json.loads(ran.stdout)
    assert (facts["rows"], facts["path"], facts["column"]) == (50, "z.npz", None)
    ran = here("apply", "first", "x.npy", "q.npy", "--side", "query")
    assert "index   stays as it is" in ran.stdout
    np.testing.assert_allclose(np.load(tmp_path / "q.npy"), ADAPTER(X), atol=1e-6)


@pytest.mark.parametrize("verb", ["export", "apply"])
def test_a_closed_gate_ends_a_pipeline(verb, here, run, tmp_path) -> None:
    write_metrics(run, passed=False)
    before = sorted(os.listdir(tmp_path))
    words = {"export": ("--to", "numpy", "-o", "y"), "apply": ("x.npy", "y.npy")}[verb]
    ran = here(verb, "first", *words)
    assert ran.returncode == 3
    assert ran.stdout == ""
    assert "the gate of first stayed closed (ndcg@10 0.544 -> 0.548)" in ran.stderr
    assert sorted(os.listdir(tmp_path)) == before
    assert here(verb, "first", *words, "--force").returncode == 0
    assert len(os.listdir(tmp_path)) == len(before) + 1


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("export", "first", "--to", "onxn"), 2, "Invalid value for '--to'"),
        (("export", "none", "--to", "numpy"), 2, "none is no stored adapter: config.json is"),
        (("export", "first", "--to", "numpy", "--table", "x"), 2, "has no option 'table'"),
        (("export", "first", "--to", "numpy", "-o", "first"), 2, "is not empty; use"),
        (("export", "first", "--to", "numpy", "-o", "x.npy"), 1, "is a file, not a folder"),
        (("apply", "first", "x.npy", "y.txt"), 2, "vectors are written to"),
        (("apply", "first", "wide.npy", "y.npy"), 4, "holds vectors of 9 numbers"),
        (("apply", "first", "x.npy", "y.npy", "--base-model", "b"), 4, "are of 'b' (given)"),
        (("apply", "first", "none.npy", "y.npy"), 4, "none.npy cannot be read"),
        (("apply", "first", "nan.npy", "y.npy"), 4, "nan.npy, row 3 (from 0): has NaN"),
        (("apply", "first", "x.npy", "no/y.npy"), 1, "there is no folder"),
    ],
)
def test_mistakes(words, code, text, here, tmp_path) -> None:
    np.save(tmp_path / "wide.npy", np.ones((3, 9), np.float32))
    x = X.copy()
    x[3, 1] = np.nan
    np.save(tmp_path / "nan.npy", x)
    before = sorted(os.listdir(tmp_path))
    ran = here(*words)
    assert ran.returncode == code, ran.stderr
    assert text in ran.stderr
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    assert sorted(os.listdir(tmp_path)) == before


def test_metrics_that_cannot_be_read(here, run) -> None:
    (run / "metrics.json").write_text("{")
    ran = here("export", "first", "--to", "numpy")
    assert ran.returncode == 2
    assert "metrics.json cannot be read" in ran.stderr


SMALL_STEPS = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which jobs in the background ignore
from coreframe import applying
from coreframe.__main__ import main
from coreframe.data import spool
spool.BLOCK, applying.SYNC_EVERY = 8 * 256, 8 * 256 * 4
sys.exit(main())
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are sent as on Unix")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_interruption_and_the_same_command_again(
    name, run, coreframe_, clean_environment, tmp_path
) -> None:
    x = np.tile(X, (10_000, 1))
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-c", SMALL_STEPS, "apply", "first", "x.npy", "y.npy"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=clean_environment(), stderr=subprocess.PIPE, text=True
    )
    journal, rows = tmp_path / ".y.npy.part" / "journal.json", 0
    for _ in range(60_000):
        if journal.exists():
            rows = json.loads(journal.read_text())["rows"]
        if rows > 1000 or process.poll() is not None:
            break
        time.sleep(0.01)
    assert process.poll() is None, "it was too fast to be interrupted"
    process.send_signal(getattr(signal, name))
    _, told = process.communicate(timeout=600)
    assert process.returncode in {"SIGINT": {130}, "SIGTERM": {-15, 143}}[name], told
    assert not (tmp_path / "y.npy").exists()
    ran = coreframe_("apply", "first", "x.npy", "y.npy")
    assert ran.returncode == 0, ran.stderr
    assert "went on after" in ran.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), ADAPTER(x), atol=1e-6)
