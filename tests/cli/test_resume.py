"""``coreframe train``, stopped in the middle and gone on with: the same results at the end."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

WORDS = [
    "train", "pairs.jsonl", "--queries", "q.npy", "--documents", "d.npy", "--epochs", "6",
    "--set", "train.batch_size=16", "--set", "curve.minimum_queries=4",
    "--set", "gate.resamples=100", "--side", "both",
]  # fmt: skip
"""Two starts and two shares of the pairs: four fits."""
OF_THE_RUN = ("metrics.json", "environment.json", "report.html", "report.json", "README.md")
SHORT = ("--epochs", "3", "--set", "curve.enabled=never", "--set", "train.start=identity")


@pytest.fixture
def folder(tmp_path, vectors):
    """Pairs by row numbers, with vectors on both sides."""
    np.save(tmp_path / "q.npy", vectors.queries[:160])
    np.save(tmp_path / "d.npy", vectors.documents[:160])
    (tmp_path / "pairs.jsonl").write_text(
        "".join(json.dumps({"anchor": f"q{i}", "positive": f"d{i}"}) + "\n" for i in range(160))
    )
    return tmp_path


def start(folder, *more, program=("-m", "coreframe"), **environment):
    return subprocess.Popen(
        [sys.executable, *program, *WORDS, *more],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "COREFRAME_CACHE": "off", **environment},
    )  # fmt: skip


def ended(process, code):
    out, err = process.communicate(timeout=600)
    assert process.returncode == code, (process.returncode, err)
    return out, err


def results(out):
    """Return all that a run leaves, but for what is of this very run: seconds and the command."""
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics.pop("seconds") > 0
    files = {
        str(p.relative_to(out)): p.read_bytes()
        for p in sorted(out.rglob("*"))
        if p.is_file() and "checkpoint-" not in str(p) and p.name not in OF_THE_RUN
    }
    for name in ("report.html", "report.json", "README.md"):
        text = (out / name).read_text()
        text = re.sub(
            r'"?seconds(?:"?: |</dt><dd>)[0-9.]+|'
            r"[0-9.,]+ ?(?:s|seconds?)\b",
            "SECONDS",
            text,
        )
        files[name] = re.sub(r"coreframe train [^<\n\"]*", "COMMAND", text).encode()
    return metrics, files


def latest(out):
    """Return the step of the newest checkpoint of a run, or 0."""
    return max((int(p.name.partition("-")[2]) for p in out.glob("checkpoint-*")), default=0)


def wait_for(out, step, process):
    """Wait until a run, which still goes on, has a checkpoint of this step or of a later one."""
    while latest(out) < step:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)


KILLED = """
import os, signal, sys
from coreframe.checkpoint import Scope

at, save = int(sys.argv.pop(1)), Scope.save

def save_or_die(scope, step, arrays, state):
    if scope.owner._before(scope.name) + step > at:  # the steps since then are lost
        os.kill(os.getpid(), signal.SIGKILL)
    return save(scope, step, arrays, state)

Scope.save = save_or_die
from coreframe.__main__ import main
sys.exit(main())
"""


def test_a_run_that_is_killed_goes_on_to_the_same_results(folder):
    """Killed in the middle of the first, a later and the last fit, in one and the same run."""
    ended(start(folder, "-o", "whole", "--save-steps", "7"), 0)
    resume = ("-o", "run", "--save-steps", "7", "--resume-from-checkpoint", "latest")
    for at in (14, 49, 91):
        program = ("-c", KILLED, str(at))
        ended(start(folder, *resume, program=program, PYTHONHASHSEED=str(at)), -signal.SIGKILL)
        assert latest(folder / "run") == at
        assert not (folder / "run" / "metrics.json").exists()
    _, err = ended(start(folder, *resume), 0)
    assert "train   epoch 0" not in err
    kept = list((folder / "run").glob("checkpoint-*"))
    assert len(kept) == 2  # since --save-steps asked for them
    got, want = results(folder / "run"), results(folder / "whole")
    assert got[0] == want[0]
    assert got[1].keys() == want[1].keys()
    for name, data in want[1].items():
        assert got[1][name] == data, name


@pytest.mark.parametrize(
    ("number", "code", "name"), [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_signal_ends_the_step_saves_and_says_how_to_go_on(folder, number, code, name):
    process = start(folder, "-o", "my run", "--save-steps", "5", *SHORT[2:], "--epochs", "500")
    wait_for(folder / "my run", 5, process)
    process.send_signal(number)
    out, err = ended(process, code)
    assert out == ""
    assert f"{name}: stopping after this step; once more stops at once" in err
    (line,) = [x for x in err.splitlines() if x.startswith("the run was interrupted after step")]
    path = folder / line.partition("saved in ")[2]
    assert (path / "manifest.json").exists()
    assert "Traceback" not in err
    command = shlex.split(err.splitlines()[-1].strip())
    assert command[0] == "coreframe"
    assert command[-2:] == ["--resume-from-checkpoint", "latest"]
    again = subprocess.Popen(
        [sys.executable, "-m", "coreframe", *command[1:]],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    step = int(path.name.partition("-")[2])
    wait_for(folder / "my run", step + 6, again)
    again.send_signal(number)
    ended(again, code)


def test_a_changed_setting_and_changed_data_are_named(folder):
    process = start(folder, "-o", "run", "--save-steps", "5", *SHORT[2:], "--epochs", "500")
    wait_for(folder / "run", 5, process)
    process.send_signal(signal.SIGTERM)
    ended(process, 143)
    same = ("-o", "run", "--resume-from-checkpoint", "latest")
    _, err = ended(start(folder, *same, "--set", "losses.0.temperature=0.07"), 2)
    assert "it has losses.0.temperature=0.05, the run has 0.07" in err
    assert "it has train.epochs=500, the run has 6" in err
    _, err = ended(start(folder, "-o", "run"), 2)
    assert "--resume-from-checkpoint latest" in err
    vectors = np.load(folder / "q.npy")
    np.save(folder / "q.npy", vectors + 1)
    _, err = ended(start(folder, *same, *SHORT[2:], "--epochs", "500"), 2)
    assert "q.npy=sha256:" in err
    assert "A run goes on with the data it began with" in err


def test_checkpoints_go_once_the_results_are_there_unless_asked_for(folder):
    ended(start(folder, "-o", "a", *SHORT), 0)
    assert not list((folder / "a").glob(".*")) + list((folder / "a").glob("checkpoint-*"))
    before = (folder / "a" / "metrics.json").read_bytes()
    again = ("--resume-from-checkpoint", "latest")
    _, err = ended(start(folder, "-o", "a", *again, *SHORT), 0)
    assert "a holds this run, and it is over: better: ndcg@10" in err
    out, _ = ended(start(folder, "-o", "a", *again, *SHORT, "--json"), 0)
    assert json.loads(out) == json.loads(before)
    _, err = ended(start(folder, "-o", "a", *again, *SHORT, "--seed", "3"), 2)
    assert "the output folder a holds a finished run; use --overwrite, or another --out" in err
    assert (folder / "a" / "metrics.json").read_bytes() == before
    ended(
        start(folder, "-o", "b", "--save-strategy", "epoch", "--save-total-limit", "3", *SHORT), 0
    )
    assert len(list((folder / "b").glob("checkpoint-*"))) == 3
    ended(start(folder, "-o", "b", "--overwrite", *SHORT), 0)
    assert not list((folder / "b").glob("checkpoint-*"))


def test_a_path_says_where_the_results_go(folder):
    ended(start(folder, "-o", "b", "--save-strategy", "epoch", *SHORT), 0)
    path = max((folder / "b").glob("checkpoint-*"))
    before = json.loads((folder / "b" / "metrics.json").read_text())
    ended(start(folder, "--resume-from-checkpoint", f"b/{path.name}", *SHORT), 0)
    after = json.loads((folder / "b" / "metrics.json").read_text())
    assert after["trained"] == before["trained"]
    _, err = ended(start(folder, "--resume-from-checkpoint", "b/checkpoint-1"), 2)
    assert "checkpoint-1" in err


def test_evaluation_by_steps(folder):
    ended(start(folder, "-o", "a", "--eval-strategy", "steps", "--eval-steps", "3", *SHORT), 0)
    lines = [json.loads(x) for x in (folder / "a" / "metrics.jsonl").read_text().splitlines()]
    steps = [x["step"] for x in lines if "eval/ndcg@10" in x and x["fit"] == lines[0]["fit"]]
    assert steps[:4] == [0, 3, 6, 9]
    ended(start(folder, "-o", "b", "--eval-strategy", "no", *SHORT), 0)
    lines = [json.loads(x) for x in (folder / "b" / "metrics.jsonl").read_text().splitlines()]
    steps = [x["step"] for x in lines if "eval/ndcg@10" in x and x["fit"] == lines[0]["fit"]]
    assert len(steps) == 2  # the start and the end
    _, err = ended(start(folder, "-o", "c", "--eval-strategy", "steps"), 2)
    assert "eval_steps" in err


@pytest.mark.long
def test_a_signal_at_any_moment_leaves_a_run_that_goes_on(folder):
    """200 signals at random moments; one run, that goes on again and again."""
    rng = np.random.default_rng(3)
    more = ("-o", "run", "--save-steps", "5", *SHORT[2:], "--epochs", "3000",
            "--resume-from-checkpoint", "latest")  # fmt: skip
    reached = 0
    for _ in range(200):
        process = start(folder, *more)
        time.sleep(float(rng.uniform(0.2, 4)))
        number = signal.SIGINT if rng.random() < 0.5 else signal.SIGTERM
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
        early = -number  # Python itself had not yet come to the handlers
        assert process.returncode in (128 + number, early), err
        assert "Error" not in err or process.returncode == early, err
        steps = [int(p.name.partition("-")[2]) for p in (folder / "run").glob("checkpoint-*")]
        assert max(steps, default=0) >= reached
        reached = max(steps, default=0)
    assert reached > 100
