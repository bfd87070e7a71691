"""metrics.jsonl: the history, a line a record, there at once, and never twice after a resume."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coreframe import Pairs, fit, registry
from coreframe.callbacks import About, Record
from coreframe.errors import PluginWarning


def pairs() -> Pairs:
    rng = np.random.default_rng(0)
    documents = rng.normal(size=(64, 8))
    return Pairs(documents @ np.linalg.qr(rng.normal(size=(8, 8)))[0], documents)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def log(path: Path, **options: Any) -> Any:
    return registry.build("callbacks", "jsonl", path=str(path), **options)


def line(step: int, kind: str = "train", fit: str = "identity", **values: float) -> Record:
    named = {f"{kind}/{name}": value for name, value in (values or {"loss": float(step)}).items()}
    return Record(fit=fit, first=True, kind=kind, step=step, epoch=1, values=named)


def test_it_is_the_history(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    run = fit(pairs(), pairs(), epochs=2, batch_size=16, callbacks=[log(path)])
    found = read(path)
    assert len(found) == len(run.history)
    for stored, entry in zip(found, run.history, strict=True):
        kind = "eval" if "ndcg@10" in entry else "train"
        values = {f"{kind}/{k}": v for k, v in entry.items() if k not in ("step", "epoch")}
        want = {"fit": "identity", "step": entry["step"], "epoch": entry["epoch"]} | values
        assert stored == want
        assert list(stored)[:3] == ["fit", "step", "epoch"]


def test_the_same_run_writes_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        fit(pairs(), pairs(), epochs=1, callbacks=[log(tmp_path / name)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    fit(pairs(), pairs(), epochs=1, callbacks=[log(tmp_path / "a")])  # it starts anew
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_killed_run_has_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    code = f"""
import time
import numpy as np
from coreframe import Callback, Pairs, fit, registry
class Slow(Callback):
    def on_step(self, status):
        time.sleep(0.05)
x = np.random.default_rng(0).normal(size=(64, 8))
log = registry.build("callbacks", "jsonl", path={str(path)!r})
fit(Pairs(x, x), Pairs(x, x), epochs=500, batch_size=16, callbacks=[log, Slow()])
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + 90
        while not path.exists() or path.read_bytes().count(b"\n") < 5:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -signal.SIGKILL
    found = read(path)
    assert len(found) >= 5
    assert [one["step"] for one in found] == sorted(one["step"] for one in found)


def test_a_resumed_run_doubles_no_line(tmp_path: Path) -> None:
    """From step 3 on it is measured again; what stood there is replaced, a torn line is gone."""
    path = tmp_path / "log.jsonl"
    session = log(path).open(About())
    session.log(line(0, "eval", score=0.1))
    for step in range(1, 6):
        session.log(line(step))
    session.log(line(5, "eval", score=0.2))
    session.log(line(1, fit="whitening"))
    session.close("failed")
    with path.open("ab") as file:
        file.write(b'{"fit": "identity", "step": 6, "tra')

    session = log(path, resume=True).open(About())
    for step in range(3, 6):
        session.log(line(step, loss=10.0 * step))
    session.log(line(5, "eval", score=0.3))
    session.log(line(1, fit="whitening", loss=7.0))
    session.close("finished")
    found = read(path)
    assert [(one["fit"], one["step"]) for one in found] == [
        *[("identity", s) for s in (0, 1, 2, 3, 4, 5, 5)],
        ("whitening", 1),
    ]
    assert [one.get("train/loss") for one in found] == [None, 1, 2, 30, 40, 50, None, 7]
    assert [p.name for p in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_resume_that_begins_with_an_evaluation_keeps_the_step_before(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    session = log(path).open(About())
    session.log(line(4))
    session.log(line(4, "eval", score=0.2))
    session.close("failed")
    session = log(path, resume=True).open(About())
    session.log(line(4, "eval", score=0.5))
    session.close("finished")
    assert [(one["step"], one.get("eval/score")) for one in read(path)] == [(4, None), (4, 0.5)]


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    session = log(path).open(About())
    session.log(line(1, loss=math.nan, grad_norm=math.inf))
    session.close("finished")
    assert "NaN" not in path.read_text()
    assert read(path)[0]["train/loss"] is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:  # pragma: no cover
    tmp_path.chmod(0o500)
    with pytest.warns(PluginWarning, match="cannot write"):
        fit(pairs(), epochs=1, callbacks=[log(tmp_path / "a" / "b")])


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(PluginWarning, match="Jsonl failed in start .*cannot write"):
        fit(pairs(), epochs=1, callbacks=[log(tmp_path / "file" / "b")])
