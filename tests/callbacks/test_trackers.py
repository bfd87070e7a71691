"""The same run in TensorBoard, MLflow, W&B and trackio: read back from each, and compared.

pip install 'coreframe-ml[tensorboard,mlflow,wandb,trackio]' && pytest -m integration
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from coreframe import registry
from coreframe.errors import MissingExtra

PROGRAM = """
import sys
import numpy as np
from coreframe import Pairs, fit, registry
from coreframe.callbacks import About
from coreframe.following import Following
from pathlib import Path
import json

name, ending = sys.argv[1:3]
rng = np.random.default_rng(0)
documents = rng.normal(size=(64, 8))
pairs = Pairs(documents @ np.linalg.qr(rng.normal(size=(8, 8)))[0], documents)
about = About(name="first try", config={"train": {"epochs": 2}, "losses": [{"temperature": 0.05}]},
              folder=Path("out"))
history = {}
log = [registry.build("callbacks", name), registry.build("callbacks", "jsonl")]
with Following(log, about=about) as following:
    fit(pairs, pairs, epochs=2, batch_size=16, callbacks=[following])
    fit(pairs, pairs, epochs=1, batch_size=16, side="both", start="whitening",
        callbacks=[following])
    if ending == "failed":
        raise SystemExit("on purpose")
    if ending == "interrupted":
        raise KeyboardInterrupt
    following.on_result({"test/ndcg@10": 0.625})
"""

pytestmark = [
    pytest.mark.integration,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the tools themselves
]


def run(name: str, folder: Path, ending: str = "finished", **variables: str) -> Any:
    """Run the program in a folder; return what it says, and its records by name and step."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("WANDB", "MLFLOW", "TRACKIO"))}
    ran = subprocess.run(
        [
            sys.executable,
            "-W",
            "error::coreframe.errors.PluginWarning",
            "-c",
            PROGRAM,
            name,
            ending,
        ],
        cwd=folder,
        env=env | {"WANDB_SILENT": "true"} | variables,
        capture_output=True,
        encoding="utf-8",
        timeout=600,
    )
    assert (ran.returncode == 0) == (ending == "finished"), ran.stderr
    assert ran.stdout == ""
    assert "left out" not in ran.stderr
    return ran


def expected(folder: Path, at: str = "@") -> dict[str, list[tuple[int, float]]]:
    """Return the curves that metrics.jsonl has, by the names that trackers use."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for text in (folder / "out" / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        prefix = "" if line["fit"] == "identity" else line["fit"] + "/"
        for name in [n for n in line if n.startswith(("train/", "eval/"))]:
            key = (prefix + name).replace("@", at)
            curves.setdefault(key, []).append((line["step"], line[name]))
    assert {"train/loss", f"eval/ndcg{at}10", "whitening/train/learning_rate"} <= set(curves)
    return curves


def same(found: Mapping[str, Any], wanted: Mapping[str, Any], rel: float = 1e-9) -> None:
    assert sorted(found) == sorted(wanted)
    for name, points in wanted.items():
        assert [s for s, _ in found[name]] == [s for s, _ in points], name
        assert [v for _, v in found[name]] == pytest.approx([v for _, v in points], rel=rel), name


# TensorBoard ----------------------------------------------------------------------------------


def events(folder: Path) -> tuple[dict[str, list[tuple[int, float]]], dict[str, str]]:
    from tensorboardX.proto.event_pb2 import Event

    scalars: dict[str, list[tuple[int, float]]] = {}
    texts: dict[str, str] = {}
    for path in sorted(folder.rglob("events.out.tfevents*")):
        data = path.read_bytes()
        at = 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
                else:
                    texts[value.tag.split("/")[0]] = value.tensor.string_val[0].decode()
    return scalars, texts


@pytest.mark.parametrize("ending", ["finished", "failed", "interrupted"])
def test_tensorboard(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("tensorboardX")
    run("tensorboard", tmp_path, ending)
    scalars, texts = events(tmp_path / "out" / "runs" / "first try")
    if ending == "finished":
        assert scalars.pop("test/ndcg_at_10") == [(4, 0.625)]
    same(scalars, expected(tmp_path, "_at_"), rel=1e-6)  # float32
    assert '"temperature": 0.05' in texts["config"]
    assert texts["state"] == ending


def test_tensorboard_obeys_its_variable(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    run("tensorboard", tmp_path, TENSORBOARD_LOGGING_DIR=str(tmp_path / "there"))
    assert events(tmp_path / "there")[0]
    assert not (tmp_path / "out" / "runs").exists()


# MLflow ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "status"),
    [("finished", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")],
)
def test_mlflow(tmp_path: Path, ending: str, status: str) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/store.db"
    run("mlflow", tmp_path, ending, MLFLOW_TRACKING_URI=uri, MLFLOW_EXPERIMENT_NAME="adapters")
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("adapters")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == status
    assert found.info.run_name == "first try"
    assert found.data.params == {"train.epochs": "2", "losses.0.temperature": "0.05"}
    curves = {
        name: [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
    }
    if ending == "finished":
        assert [v for _, v in curves.pop("test/ndcg_at_10")] == [0.625]
    same(curves, expected(tmp_path, "_at_"))


def test_mlflow_leaves_an_active_run_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    from coreframe.callbacks import About

    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/store.db")
    with mlflow.start_run() as active:
        session = registry.build("callbacks", "mlflow").open(About(config={"a": 1}))
        session.close("failed")
        assert mlflow.active_run().info.run_id == active.info.run_id
    found = mlflow.get_run(active.info.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.params == {"a": "1"}


# W&B ------------------------------------------------------------------------------------------


def wandb_records(data: bytes) -> Iterator[bytes]:
    """Yield the records of a .wandb file: LevelDB's log format behind a header of 7 bytes."""
    block, at, parts = 32768, 7, b""
    assert data[:4] == b":W&B"
    while at + 7 <= len(data):
        if block - at % block < 7:  # no header fits: zeros up to the next block
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


@pytest.mark.parametrize(("ending", "code"), [("finished", 0), ("failed", 1), ("interrupted", 130)])
def test_wandb_offline(tmp_path: Path, ending: str, code: int) -> None:
    """Read back from the file that ``wandb sync`` would send."""
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    run("wandb", tmp_path, ending, WANDB_MODE="offline", WANDB_PROJECT="adapters")
    (path,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    curves: dict[str, list[tuple[int, float]]] = {}
    summary: dict[str, Any] = {}
    axes: dict[str, str] = {}
    about = exit_code = None
    for data in wandb_records(path.read_bytes()):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            about = record.run
        elif kind == "exit":
            exit_code = record.exit.exit_code
        elif kind == "metric":
            axes[record.metric.glob_name or record.metric.name] = record.metric.step_metric
        elif kind == "summary":
            for item in record.summary.update:
                summary["/".join(item.nested_key) or item.key] = json.loads(item.value_json)
        elif kind == "history":
            line = {
                "/".join(i.nested_key) or i.key: json.loads(i.value_json)
                for i in record.history.item
            }
            axis = next(name for name in line if name in ("step", "whitening/step"))
            for name in [n for n in line if "train/" in n or "eval/" in n]:
                curves.setdefault(name, []).append((line[axis], line[name]))
    same(curves, expected(tmp_path))
    assert axes["train/*"] == axes["eval/*"] == "step"
    assert axes["whitening/train/*"] == "whitening/step"
    assert about is not None
    assert (about.display_name, about.project) == ("first try", "adapters")
    config = {item.key: json.loads(item.value_json) for item in about.config.update}
    assert config["train"] == {"epochs": 2}
    assert config["losses"] == [{"temperature": 0.05}]
    assert exit_code == code
    assert summary.get("test/ndcg@10") == (0.625 if ending == "finished" else None)


def test_wandb_that_cannot_log_in_is_left_out(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    env = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    home = {"HOME": str(tmp_path), "WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, "wandb", "finished"],
        cwd=tmp_path, env=env | home, stdin=subprocess.DEVNULL,
        capture_output=True, encoding="utf-8", timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "the callback Wandb failed in start and is left out" in ran.stderr
    assert expected(tmp_path)


# trackio --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["finished", "failed"])
def test_trackio(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("trackio")
    run(
        "trackio", tmp_path, ending,
        TRACKIO_DIR=str(tmp_path / "store"), TRACKIO_PROJECT_NAME="adapters", HF_HUB_OFFLINE="1",
    )  # fmt: skip
    code = """
import json, trackio
(run,) = trackio.Api().runs("adapters")
from trackio.sqlite_storage import SQLiteStorage
logs = SQLiteStorage.get_logs("adapters", run.name)
print(json.dumps([run.name, run.config, logs], default=str))
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "store"), "HF_HUB_OFFLINE": "1"},
        capture_output=True, encoding="utf-8", timeout=600,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    name, config, logs = json.loads(ran.stdout.splitlines()[-1])
    assert name == "first try"
    assert config["train"] == {"epochs": 2}
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in logs:
        for key, value in line.items():
            if "/" in key or key == "failed":
                curves.setdefault(key, []).append((line["step"], value))
    assert [v for _, v in curves.pop("failed")] == [int(ending == "failed")]
    if ending == "finished":
        assert [v for _, v in curves.pop("test/ndcg@10")] == [0.625]
    same(curves, expected(tmp_path))


@pytest.mark.parametrize("name", ["mlflow", "tensorboard", "trackio", "wandb"])
def test_what_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, where the tools may be installed, as if they were not."""
    target = registry.registry().find("callbacks", name).load()
    module = "coreframe_callbacks.wandb" if name == "trackio" else target.__module__
    monkeypatch.setattr(f"{module}.find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=rf"the callback {name} needs .*coreframe-ml\[{name}\]"):
        target().check()
