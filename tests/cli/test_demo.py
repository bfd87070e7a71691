"""``coreframe demo``, as a new user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coreframe
from coreframe import config, console
from coreframe import demo as demo_module
from coreframe.callbacks import Status

METRICS = ["recall@1", "recall@10", "mrr@10", "ndcg@10"]
FILES = [
    "README.md",
    "config.json",
    "environment.json",
    "eval",
    "learned.safetensors",
    "metrics.json",
    "metrics.jsonl",
    "model.safetensors",
    "report.html",
    "report.json",
    "run.toml",
    "trainer_state.json",
]
SHORT = ("--quick", "--set", "train.epochs=3", "--set", "curve.enabled=never")


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return metrics without what may differ between two equal runs."""
    return {key: value for key, value in metrics.items() if key != "seconds"}


# What it leaves behind ------------------------------------------------------------------------


def test_it_is_better_and_says_so(demo) -> None:
    assert demo.ran.returncode == 0, demo.ran.stderr
    metrics = demo.metrics
    assert metrics["promoted"] == "trained"
    assert metrics["gate"]["passed"] is True
    assert metrics["gate"]["metric"] == "ndcg@10"
    assert metrics["trained"]["recall@10"] > 1.25 * metrics["baseline"]["recall@10"]


def test_the_folder_holds_these_files_and_no_other(demo) -> None:
    assert sorted(p.name for p in demo.folder.iterdir()) == FILES
    assert [p.name for p in demo.folder.parent.iterdir()] == [demo.folder.name]
    assert all(path.stat().st_size for path in demo.folder.iterdir())


def test_metrics(demo) -> None:
    metrics = demo.metrics
    for key in ("baseline", "trained", "adapted", "gain", "ci95"):
        assert list(metrics[key]) == METRICS
    for name in METRICS:
        base, adapted, gain = (metrics[key][name] for key in ("baseline", "adapted", "gain"))
        low, high = metrics["ci95"][name]
        assert 0 < base < adapted < 1
        assert gain == pytest.approx(adapted - base)
        assert low < gain < high
    assert metrics["trained"] == metrics["adapted"]  # as it is what was kept
    counts = [metrics[key] for key in ("better", "worse", "same")]
    assert min(counts) > 0
    assert sum(counts) == metrics["queries"]["test"]
    assert list(metrics["candidates"]) == ["identity", "whitening", "procrustes", "trained"]
    assert [c["rebuild_index"] for c in metrics["candidates"].values()] == [0, 1, 0, 0]
    assert metrics["candidates"]["identity"]["test"] == metrics["baseline"]
    assert (metrics["seed"], metrics["backend"]) == (42, "numpy")
    assert metrics["seconds"] > 0


def test_history_and_environment(demo) -> None:
    lines = (demo.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    history = [json.loads(line) for line in lines]
    assert [e["epoch"] for e in history if "eval/ndcg@10" in e] == list(range(13))
    assert all(e["train/loss"] > 0 for e in history if "train/loss" in e)
    assert {e["fit"] for e in history} == {"identity"}
    environment = json.loads((demo.folder / "environment.json").read_text(encoding="utf-8"))
    assert environment["packages"]["numpy"] == np.__version__
    assert environment["plugins"]["coreframe-ml/coreframe_losses"] == coreframe.__version__
    assert environment["blas"]
    assert list(environment["inputs"]) == ["German names", "English names"]
    assert all(re.fullmatch("sha256:[0-9a-f]{64}", x) for x in environment["inputs"].values())


def test_the_report_and_the_card_say_the_verdict(demo) -> None:
    metrics = demo.metrics
    page = (demo.folder / "report.html").read_text(encoding="utf-8")
    card = (demo.folder / "README.md").read_text(encoding="utf-8")
    for text in (page, card):
        assert f"{metrics['adapted']['ndcg@10']:.3f}" in text
        assert str(demo.folder.parent) not in text  # a report is shared; paths are private
    assert "<svg" in page
    assert card.startswith("---\n")


# What it prints -------------------------------------------------------------------------------


def test_results_on_stdout_and_plain_progress_on_stderr(demo) -> None:
    out, err = demo.ran.stdout, demo.ran.stderr
    metrics = demo.metrics
    for name in ("base", "whitening", "procrustes", "trained *"):
        line = next(line for line in out.splitlines() if line.strip().startswith(name))
        assert re.search(r"(stays|rebuild)", line)
    for name in METRICS:
        low, high = metrics["ci95"][name]
        row = next(line for line in out.splitlines() if line.split()[:1] == [name])
        assert f"{metrics['gain'][name]:+.3f}   [{low:+.3f}, {high:+.3f}]" in row
    words = (metrics["better"], metrics["worse"], metrics["same"])
    assert "{} better · {} worse · {} same".format(*words) in out
    assert "✓ better: ndcg@10" in out
    assert "promoted: trained" in out
    assert str(Path("coreframe-demo", "report.html")) in out
    assert "\x1b" not in out + err
    assert "\r" not in err
    epochs = re.findall(r"^train   epoch (\d+)/12  .*dev ndcg@10 0\.\d{3}$", err, re.MULTILINE)
    assert epochs == [str(i) for i in range(13)]
    assert "by group" in err
    assert "epoch" not in out


@pytest.fixture
def on_a_terminal(tmp_path: Path, clean_environment):
    """Run the command line with stderr on a pseudo-terminal: (exit code, stdout, stderr).

    With ``until``, the process is interrupted as soon as this text has been shown.
    """
    pty = pytest.importorskip("pty", reason="no pseudo-terminals here")

    def run(*arguments: str, until: bytes = b"") -> tuple[int, str, str]:
        master, slave = pty.openpty()
        command = [sys.executable, "-m", "coreframe", *arguments]
        env = clean_environment(TERM="xterm-256color", COLUMNS="120")
        with subprocess.Popen(
            command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=slave, encoding="utf-8"
        ) as process:
            os.close(slave)
            watchdog = threading.Timer(600, process.kill)
            watchdog.start()
            seen = bytearray()
            with contextlib.suppress(OSError):  # how a terminal says on Linux that it is closed
                while part := os.read(master, 4096):
                    seen.extend(part)
                    if until and until in seen:
                        until = b""
                        process.send_signal(signal.SIGINT)
            out, _ = process.communicate()
            watchdog.cancel()
        os.close(master)
        return process.returncode, out, seen.decode()

    return run


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_a_bar_on_a_terminal(on_a_terminal) -> None:
    code, out, err = on_a_terminal("demo", *SHORT)
    assert code in (0, 3)
    assert "\x1b[" in err  # the bar is drawn over itself
    shown = without_codes(err)
    last = shown[shown.rindex("train  ") :]
    assert re.search(r"(\d+)/\1 ", last)
    for part in (r"loss \d+\.\d{4}", r"lr \d\.\de-\d\d", r"dev ndcg@10 0\.\d{3}"):
        assert re.search(part, last), part
    assert "epoch" not in shown
    assert "\x1b" not in out
    assert "recall@10" in out


def test_an_interrupt_gives_the_cursor_back(on_a_terminal, tmp_path) -> None:
    code, out, err = on_a_terminal("demo", "--set", "train.epochs=2000", until=b"dev ndcg")
    assert (code, out) == (130, "")
    assert without_codes(err).rstrip().endswith("--resume-from-checkpoint latest")
    assert "Traceback" not in err
    assert err.count("\x1b[?25l") == err.count("\x1b[?25h") > 0  # hidden, and shown again
    (folder,) = tmp_path.iterdir()
    assert any(p.name.startswith("checkpoint-") for p in folder.iterdir())
    assert not (folder / "model.safetensors").exists()


def test_quiet_prints_the_evidence_alone(coreframe_, demo) -> None:
    ran = coreframe_("demo", *SHORT, "-q")
    assert ran.stderr == ""
    assert "95% interval" in ran.stdout


def test_verbose_prints_every_epoch(capsys) -> None:
    def lines(verbose: bool) -> int:
        callback = console.progress(verbose=verbose)
        for epoch in range(41):
            callback.on_step(Status(epoch, 40, epoch, 40, epoch, {"loss": 1.0}))
            callback.on_evaluate(Status(epoch, 40, epoch, 40, epoch, {"ndcg@10": 0.5}))
        return len(capsys.readouterr().err.splitlines())

    assert (lines(False), lines(True)) == (11, 41)


def test_the_version(coreframe_) -> None:
    ran = coreframe_("--version")
    assert (ran.returncode, ran.stdout) == (0, f"coreframe {coreframe.__version__}\n")


# The same again, and other choices --------------------------------------------------------------


def test_a_second_run_has_the_same_figures_as_json_alone(coreframe_, demo, tmp_path) -> None:
    ran = coreframe_("demo", "--quick", "--json", "--seed", 42, "--out", tmp_path / "a" / "b")
    assert ran.returncode == 0
    assert ran.stderr == ""
    assert figures(json.loads(ran.stdout)) == figures(demo.metrics)
    for name in ("model.safetensors", "config.json", "run.toml", "metrics.jsonl"):
        mine, theirs = tmp_path / "a" / "b" / name, demo.folder / name
        assert mine.read_bytes() == theirs.read_bytes(), name


def test_what_is_stored_is_what_ran(coreframe_, demo, tmp_path) -> None:
    """``run.toml`` gives the same run: 12 epochs without ``--quick``."""
    shutil.copy(demo.folder / "run.toml", tmp_path)
    ran = coreframe_("demo", "--config", "run.toml", "--json")
    assert figures(json.loads(ran.stdout)) == figures(demo.metrics)
    assert (tmp_path / "coreframe-demo" / "run.toml").read_bytes() == (
        demo.folder / "run.toml"
    ).read_bytes()


def test_another_seed(coreframe_, demo) -> None:
    ran = coreframe_("demo", *SHORT, "--json", "--seed", 7)
    metrics = json.loads(ran.stdout)
    assert ran.returncode in (0, 3), ran.stderr
    assert metrics["seed"] == 7
    assert metrics["baseline"] != demo.metrics["baseline"]  # another split


def test_another_backend_by_the_environment(coreframe_, demo) -> None:
    pytest.importorskip("torch")
    variables = {"COREFRAME_BACKEND": "torch", "OMP_NUM_THREADS": "1"}
    ran = coreframe_("demo", "--quick", "--json", **variables)
    assert ran.returncode == 0, ran.stderr
    metrics = json.loads(ran.stdout)
    assert (metrics["backend"], metrics["backend_source"]) == ("torch", "COREFRAME_BACKEND")
    assert metrics["baseline"] == pytest.approx(demo.metrics["baseline"], abs=0.002)  # near-ties
    assert metrics["trained"] == pytest.approx(demo.metrics["trained"], abs=0.02)


def test_another_embedder(coreframe_, tmp_path, demo) -> None:
    pytest.importorskip("wordllama")
    ran = coreframe_("demo", *SHORT, "--embedder", "wordllama", "--json")
    assert ran.returncode in (0, 3), ran.stderr
    assert json.loads(ran.stdout)["baseline"] != demo.metrics["baseline"]
    stored = (tmp_path / "coreframe-demo" / "run.toml").read_text(encoding="utf-8")
    assert 'name = "wordllama"' in stored


def test_both_sides(coreframe_, tmp_path) -> None:
    ran = coreframe_("demo", *SHORT, "--side", "both")
    assert "not with side=query" not in ran.stdout
    line = next(x for x in ran.stdout.splitlines() if x.strip().startswith("trained"))
    assert line.endswith("rebuild")
    settings = config.read(tmp_path / "coreframe-demo" / "run.toml")
    assert settings.train.side == "both"


# Mistakes -------------------------------------------------------------------------------------


def test_a_folder_with_files_is_left_alone(coreframe_, tmp_path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("years of work")
    ran = coreframe_("demo", "--quick", "--out", "full")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        "error: the output folder full is not empty; use --overwrite, or another --out\n"
    )
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]

    ran = coreframe_("demo", *SHORT, "-q", "--out", "full", "--overwrite")
    assert "95% interval" in ran.stdout
    assert sorted(p.name for p in (tmp_path / "full").iterdir()) == sorted([*FILES, "thesis.txt"])
    assert (tmp_path / "full" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        (
            ["--backend", "nunpy"],
            {},
            "error: no backend is named 'nunpy' (from argument). Did you mean 'numpy'",
        ),
        (
            [],
            {"COREFRAME_BACKEND": "tensorflow"},
            "error: no backend is named 'tensorflow' (from COREFRAME_BACKEND). Known: ",
        ),
        (["--embedder", "hashin"], {}, "no embedder is named 'hashin'. Did you mean 'hashing'?"),
        (["--seed", "-1"], {}, "Invalid value for '--seed': -1 is not in the range x>=0"),
        (["--side", "left"], {}, "Invalid value for '--side': 'left' is not one of"),
        (["--config", "run.toml"], {}, "--quick shortens the demo's own settings"),
        (["--bakcend", "numpy"], {}, "No such option"),
        (["extra"], {}, "Got unexpected extra argument (extra)"),
    ],
)
def test_a_mistake_gets_one_line_and_writes_nothing(
    coreframe_, tmp_path, arguments, variables, expected
) -> None:
    ran = coreframe_("demo", "--quick", *arguments, **variables)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert expected in ran.stderr
    assert "Traceback" not in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_configuration_that_is_not_there(coreframe_) -> None:
    ran = coreframe_("demo", "--config", "nowhere.toml")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "nowhere.toml has 1 mistake:\n  - it cannot be read" in ran.stderr


@pytest.mark.skipif(util.find_spec("cupy") is not None, reason="CuPy is installed")
@pytest.mark.parametrize(
    ("arguments", "variables", "source"),
    [
        (["--backend", "cupy"], {}, "argument"),
        ([], {"COREFRAME_BACKEND": "cupy"}, "COREFRAME_BACKEND"),
    ],
)
def test_a_backend_that_is_not_installed(
    coreframe_, tmp_path, arguments, variables, source
) -> None:
    ran = coreframe_("demo", "--quick", *arguments, **variables)
    assert (ran.returncode, ran.stdout) == (2, "")
    said = f"error: backend 'cupy' (from {source}) cannot run here: the package cupy is not"
    assert ran.stderr.startswith(said)  # before any work
    assert "coreframe-ml[cupy-cuda12x]" in ran.stderr
    assert list(tmp_path.iterdir()) == []


# The artefact ---------------------------------------------------------------------------------

FOUR_LINES = """
import numpy as np
from safetensors.numpy import load_file

t, x = load_file("coreframe-demo/model.safetensors"), np.load("x.npy")
y = x @ t["query.W"] + t["query.b"]
y = y / np.linalg.norm(y, axis=1, keepdims=True)

import sys
assert not [m for m in sys.modules if m.startswith("coreframe")]
import coreframe
z = coreframe.load("coreframe-demo")(x)
assert z.dtype == x.dtype and z.shape == x.shape
print(float(abs(y - z).max()))
"""


def test_the_artefact_works_alone(demo, tmp_path) -> None:
    shutil.copytree(demo.folder, tmp_path / "coreframe-demo")
    x = np.random.default_rng(0).normal(size=(9, 512)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    ran = subprocess.run(
        [sys.executable, "-c", FOUR_LINES], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout) < 1e-6
    described = json.loads((demo.folder / "config.json").read_text(encoding="utf-8"))
    assert described["sides"]["query"]["form"] == "linear"
    assert described["sides"]["document"] == {
        "form": "identity",
        "scaling": 1.0,
        "bias": False,
        "rebuild_index": False,
    }
    assert described["base_model"] == "coreframe:Hashing"


def test_the_stored_adapter_gives_the_stored_figures(demo) -> None:
    settings = config.read(demo.folder / "run.toml")
    pairs = demo_module.pairs(settings.embedder)
    test = pairs.split(settings.data.dev, settings.data.test, seed=settings.train.seed)[2]
    gains = coreframe.compare(coreframe.load(demo.folder), test).gains
    assert {m: g.adapted for m, g in gains.items()} == pytest.approx(demo.metrics["trained"])
    assert {m: g.base for m, g in gains.items()} == pytest.approx(demo.metrics["baseline"])
