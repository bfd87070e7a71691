"""Checkpoints on disk: whole or not there, every byte checked, the newest found, one writer."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from disks import FAULTS, Recorder, faulty, leftovers, mutated

from coreframe import Pairs, checkpoint_files, fit
from coreframe.checkpoint import Checkpoints
from coreframe.errors import ArgumentError, CheckpointError, Interrupted, OutputError
from coreframe.lock import FolderLock
from coreframe.storage import temporary
from coreframe_losses.info_nce import InfoNCE

STATE = {
    "history": [{"step": 1, "epoch": 1, "loss": 0.5}], "metric": "ndcg@10", "best_metrics": {},
    "best_step": 0, "step": 1, "steps": 9, "epoch": 1, "epochs": 3, "batch_size": 8,
}  # fmt: skip


def arrays(version, size=20):
    return {"params.W": np.full(size, float(version)), "optimizer.step": version,
            "best.W": np.full((2, 3), version, np.float32)}  # fmt: skip


def save(checkpoints, version, **more):
    scope = checkpoints.scope("fit")
    with scope:
        scope.found({"losses.0.temperature": 0.05})
        return scope.save(version, arrays(version, **more), {**STATE, "step": version})


def version_in(folder):
    """Return the version that the newest checkpoint holds, all of whose arrays must agree."""
    found = checkpoint_files.read(checkpoint_files.complete(folder)[-1][1])
    versions = {float(x) for a in found.arrays.values() for x in np.ravel(a)}
    assert versions == {float(found.step)}
    assert found.progress["fits"]["fit"]["state"]["step"] == found.step
    return found.step


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    queries, documents = rng.standard_normal((2, 40, 6))
    return Pairs(documents + 0.3 * queries, documents)


def stopped(data, folder, *, after=2, **options):
    """Train until some log line, and be interrupted; return the checkpoint."""
    from coreframe.callbacks import Callback

    checkpoints = Checkpoints(folder)

    class Stop(Callback):
        def on_step(self, status):
            if status.step == after:
                checkpoints.stop()

    with pytest.raises(Interrupted) as caught:
        fit(data, epochs=2, batch_size=8, callbacks=[Stop()], checkpoints=checkpoints, **options)
    assert caught.value.step == after
    return caught.value.path


# The folder -------------------------------------------------------------------------------------


def test_a_checkpoint_is_a_folder_of_plain_files(tmp_path):
    path = save(Checkpoints(tmp_path), 3)
    assert path == tmp_path / "checkpoint-3"
    assert sorted(os.listdir(path)) == [
        "manifest.json", "progress.json", "state.safetensors", "trainer_state.json",
    ]  # fmt: skip
    listed = json.loads((path / "manifest.json").read_text())
    assert (listed["format"], listed["version"], listed["step"]) == ("coreframe-checkpoint", 1, 3)
    assert listed["arrays"].keys() == {"fit::params.W", "fit::best.W"}
    assert all(len(about["sha256"]) == 64 for about in listed["arrays"].values())
    state = json.loads((path / "trainer_state.json").read_text())
    assert state["global_step"] == 3
    assert state["log_history"] == [{"loss": 0.5, "epoch": 1.0, "step": 1}]


def test_the_newest_is_the_one_of_the_highest_step_whatever_the_clock_says(tmp_path):
    checkpoints = Checkpoints(tmp_path, save_total_limit=None)
    for version in (2, 10, 9):
        save(checkpoints, version)
    os.utime(tmp_path / "checkpoint-2", (4e9, 4e9))
    assert [step for step, _ in checkpoint_files.complete(tmp_path)] == [2, 9, 10]
    for name in ("manifest.json", "state.safetensors"):  # what is not whole does not count
        broken = tmp_path / "checkpoint-11"
        shutil.copytree(tmp_path / "checkpoint-10", broken)
        (broken / name).unlink()
        assert version_in(tmp_path) == 10
        shutil.rmtree(broken)
    (tmp_path / "checkpoint-99").mkdir()
    (tmp_path / "checkpoint-98").write_text("")
    with Checkpoints(tmp_path, resume="latest") as found:
        assert found.path == tmp_path / "checkpoint-10"


def test_only_the_newest_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, save_total_limit=2)
    for version in range(1, 6):
        save(checkpoints, version)
    assert [step for step, _ in checkpoint_files.complete(tmp_path)] == [4, 5]
    checkpoints.remove()
    assert os.listdir(tmp_path) == []


def test_an_earlier_run_in_the_folder_is_not_written_over_unasked(tmp_path, data):
    save(Checkpoints(tmp_path), 3)
    with pytest.raises(CheckpointError, match="checkpoint-3: it is of an earlier run; go on"):
        fit(data, epochs=1, checkpoints=Checkpoints(tmp_path))
    fit(data, epochs=1, checkpoints=Checkpoints(tmp_path, overwrite=True))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"save_strategy": "often"}, "save_strategy must be one of auto, .* got 'often'"),
        ({"save_steps": 0}, "save_steps must be a whole number from 1 or None, got 0"),
        ({"save_total_limit": True}, "save_total_limit must be a whole number from 1"),
        ({"save_strategy": "steps"}, "save_strategy='steps' and save_steps=None do not go"),
        ({"save_strategy": "epoch", "save_steps": 4}, "do not go together"),
    ],
)
def test_bad_arguments(tmp_path, options, text):
    with pytest.raises(ArgumentError, match=text):
        Checkpoints(tmp_path, **options)


# Calls that fail, power that goes ----------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_every_call_that_fails_leaves_the_old_checkpoint(tmp_path, fault):
    failed = []
    for k in range(1, 200):
        folder = tmp_path / str(k)
        checkpoints = Checkpoints(folder)
        with checkpoints:
            save(checkpoints, 1)
            with faulty(folder, k, fault) as faults:
                try:
                    save(checkpoints, 2)
                except OutputError as error:
                    text = str(error)
                    failed.append(faults.failed)
                else:
                    text = ""
            assert version_in(folder) in ((1, 2) if text else (2,))
            if text:
                assert os.strerror(FAULTS[fault]) in text
                save(checkpoints, 3)
                assert version_in(folder) == 3
            assert leftovers(folder) == [".lock"]
        if not faults.failed:
            break
    assert failed.count("write") == 4
    assert failed.count("fsync") == 6  # four files and two folders
    assert failed.count("rename") == 1


def test_a_power_cut_at_any_moment_leaves_the_old_checkpoint_or_the_new(tmp_path):
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    checkpoints = Checkpoints(disk)
    with checkpoints:
        save(checkpoints, 1)
        recorder = Recorder(disk)
        with recorder.recording():
            save(checkpoints, 2)
    found = [version_in(folder) for folder in recorder.replay(copy)]
    assert set(found) == {1, 2}
    assert found[-1] == 2


# Bytes that change ------------------------------------------------------------------------------


def check_mutations(folder, count):
    path = save(Checkpoints(folder), 3)
    want = checkpoint_files.read(path)
    names = sorted(os.listdir(path))
    rng = np.random.default_rng(11)
    outcomes = {"refused": 0, "same": 0}
    for i in range(count):
        name = names[i % len(names)]
        whole = (path / name).read_bytes()
        what, data = mutated(whole, rng)
        (path / name).write_bytes(data)
        try:
            found = checkpoint_files.read(path)
        except CheckpointError as error:
            outcomes["refused"] += 1
            told = str(error)
        else:
            outcomes["same"] += 1
            told = str(path)
            assert found.progress == want.progress, (name, what)
            for key, x in want.arrays.items():
                assert np.array_equal(found.arrays[key], x), (name, what)
            assert data == whole or name == "manifest.json", (name, what)
        assert str(path) in told
        (path / name).write_bytes(whole)
    assert outcomes["refused"] > 0.9 * count


def test_no_changed_file_loads_as_something_else(tmp_path):
    check_mutations(tmp_path, 200)


@pytest.mark.long
def test_no_changed_file_of_5000_loads_as_something_else(tmp_path):
    check_mutations(tmp_path, 5000)


def test_the_error_names_the_file_and_the_array_and_what_is_whole(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    save(checkpoints, 2)
    path = save(checkpoints, 3)
    state = path / "state.safetensors"
    data = state.read_bytes()
    at = data.index(np.full(2, 3, np.float32).tobytes())
    state.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
    with pytest.raises(CheckpointError) as caught, Checkpoints(tmp_path, resume="latest"):
        pass
    assert (caught.value.path, caught.value.array) == (state, "fit::best.W")
    assert str(caught.value) == (
        f"{state}, array 'fit::best.W': it is damaged: its bytes are not those that were stored "
        "(sha256); checkpoint-2 beside it is whole"
    )
    state.write_bytes(data[:-9])
    with pytest.raises(CheckpointError, match=r"bytes were stored, there are [\d,]+"):
        checkpoint_files.read(path)
    state.write_bytes(data)
    for name in ("progress.json", "manifest.json"):
        (path / name).unlink()
        with pytest.raises(CheckpointError, match=rf"{name}: No such file"):
            checkpoint_files.read(path)


def test_a_manifest_that_points_elsewhere_is_refused(tmp_path):
    from coreframe.storage import checksum

    path = save(Checkpoints(tmp_path), 3)
    listed = json.loads((path / "manifest.json").read_text())
    for change in (
        {"files": {**listed["files"], "../../x": {"bytes": 1, "sha256": "0" * 64}}},
        {"files": {"state.safetensors": listed["files"]["state.safetensors"]}},
        {"step": "3"},
        {"arrays": []},
        {"files": {key: {"bytes": -1} for key in listed["files"]}},
    ):
        rest = {**listed, **change}
        del rest["checksum"]
        text = json.dumps({**rest, "checksum": checksum(rest)})
        (path / "manifest.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"manifest\.json"):
            checkpoint_files.read(path)
        assert checkpoint_files.complete(tmp_path) == []


def test_loading_runs_no_code(tmp_path):
    """No pickle, no exec, no process, whatever the files say."""
    path = save(Checkpoints(tmp_path), 3)
    code = f"""
import sys
from coreframe import checkpoint_files
from pathlib import Path
checkpoint_files.read(Path({str(path)!r}))  # all is imported
events = []
sys.addaudithook(lambda name, args: events.append(name))
checkpoint_files.read(Path({str(path)!r}))
evil = ("pickle", "marshal", "exec", "compile", "subprocess", "os.system")
bad = [e for e in events if e.startswith(evil)]
assert not bad, bad
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# Other runs -------------------------------------------------------------------------------------


def test_a_changed_setting_or_changed_data_is_named(tmp_path, data):
    loss = InfoNCE(temperature=0.05)
    path = stopped(data, tmp_path, loss=loss)
    same = {"epochs": 2, "batch_size": 8, "loss": loss}

    def refused(data, **change):
        with pytest.raises(CheckpointError) as caught:
            fit(data, **{**same, **change}, checkpoints=Checkpoints(tmp_path, resume="latest"))
        assert caught.value.path == path
        return caught.value.reason

    text = "it has losses.0.temperature=0.05, the run has 0.07. A run goes on with the settings"
    assert text in refused(data, loss=InfoNCE(temperature=0.07))
    assert "it has train.epochs=2, the run has 3" in refused(data, epochs=3)
    assert "optimizer=AdamW, the run has SGD" in refused(data, optimizer="sgd")
    assert "it has gate.metric=ndcg@10, the run has mrr@10" in refused(data, metric="mrr@10")
    other = Pairs(data.queries, data.documents + 1e-9)
    assert "it has train.documents=" in refused(other)
    assert "dev=none, the run has nothing" in refused(data, dev=data)
    run = fit(data, **same, max_skipped_steps=3, checkpoints=Checkpoints(tmp_path, resume=True))
    assert run.history[-1]["step"] == 10


def test_settings_and_inputs_of_a_whole_run_are_compared_too(tmp_path, data):
    config = {"train.epochs": 2, "gate.minimum_gain": 0.0, "losses.0.temperature": 0.05}
    first = Checkpoints(tmp_path, config=config, inputs={"a.jsonl": "sha256:1"})
    save(first, 1)

    def resumed(config, inputs):
        return Checkpoints(tmp_path, resume="latest", config=config, inputs=inputs)

    with resumed({**config, "gate.minimum_gain": 0.1}, first.inputs):
        pass
    with (
        pytest.raises(CheckpointError, match=r"temperature=0\.05, the run has 0\.07"),
        resumed({**config, "losses.0.temperature": 0.07}, first.inputs),
    ):
        pass
    with (
        pytest.raises(CheckpointError, match=r"it has a\.jsonl=sha256:1, the run has sha256:2"),
        resumed(config, {"a.jsonl": "sha256:2"}),
    ):
        pass


def test_a_path_may_be_a_checkpoint_or_a_folder_of_them(tmp_path, data):
    path = stopped(data, tmp_path / "first")
    for resume in (path, str(path), tmp_path / "first"):
        checkpoints = Checkpoints(tmp_path / "second", resume=resume, overwrite=True)
        run = fit(data, epochs=2, batch_size=8, checkpoints=checkpoints)
        assert run.history[-1]["step"] == 10
    with (
        pytest.raises(CheckpointError, match="there is no complete checkpoint here"),
        Checkpoints(tmp_path / "third", resume=tmp_path / "nothing"),
    ):
        pass
    with Checkpoints(tmp_path / "third", resume="latest") as new:
        assert new.path is None


# Several fits -----------------------------------------------------------------------------------


def test_a_finished_fit_is_loaded_and_not_trained_again(tmp_path, data, monkeypatch):
    options = {"epochs": 2, "batch_size": 8}

    def both(checkpoints):
        with checkpoints:
            one = fit(data, data, **options, checkpoints=checkpoints.scope("one"))
            two = fit(data, data, seed=1, **options, checkpoints=checkpoints.scope("two"))
        return one, two

    want = both(Checkpoints(tmp_path / "whole", save_strategy="no"))
    saved = Checkpoints(tmp_path / "run", save_steps=13)
    both(saved)
    assert [step for step, _ in checkpoint_files.complete(tmp_path / "run")] == [13]
    steps = []
    from coreframe.step import Step

    gradients = Step.gradients
    monkeypatch.setattr(
        Step, "gradients", lambda self, *a: steps.append(self.seed) or gradients(self, *a)
    )
    got = both(Checkpoints(tmp_path / "run", resume="latest", save_strategy="no"))
    assert steps == [1] * 7  # of 20: the first fit, and three steps of the second, are there
    for a, b in zip(got, want, strict=True):
        assert a.history == b.history
        assert (a.best_epoch, a.dev, a.skipped_steps) == (b.best_epoch, b.dev, b.skipped_steps)
        assert a.trainer_state == b.trainer_state
        for name, x in b.params.items():
            assert np.array_equal(a.params[name], x)
    again = Checkpoints(tmp_path / "run", resume="latest", save_strategy="no")
    with again:
        fit(data, data, **options, checkpoints=again.scope("one"))
        with pytest.raises(ArgumentError, match="this run already has a fit 'one'"):
            fit(data, data, **options, checkpoints=again.scope("one"))


def test_when_a_run_is_saved(tmp_path, data, monkeypatch):
    def steps(**options):
        folder = tmp_path / str(options)
        fit(data, epochs=2, batch_size=8,
            checkpoints=Checkpoints(folder, save_total_limit=None, **options))  # fmt: skip
        return [step for step, _ in checkpoint_files.complete(folder)]

    assert steps(save_steps=3) == [3, 6, 9]
    assert steps(save_strategy="epoch") == [5, 10]
    assert steps(save_strategy="no") == []
    assert steps() == []  # it is over before it is worth it
    monkeypatch.setattr("coreframe.checkpoint.AUTO_SECONDS", 0.0)
    monkeypatch.setattr("coreframe.checkpoint.AUTO_SHARE", 1e9)
    assert steps(save_strategy="auto") == list(range(1, 11))


# One writer -------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from coreframe.lock import FolderLock
with FolderLock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()  # until it is killed
"""


def test_a_second_writer_is_refused_and_a_dead_one_is_not_waited_for(tmp_path, data):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=f"process {other.pid} on .* writes here"):
            fit(data, epochs=1, checkpoints=Checkpoints(tmp_path))
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
        other.stdin.close()
    assert (tmp_path / ".lock").exists()
    fit(data, epochs=1, checkpoints=Checkpoints(tmp_path))
    assert os.listdir(tmp_path) == []


def test_two_writers_in_one_process(tmp_path):
    with (
        FolderLock(tmp_path),
        pytest.raises(CheckpointError, match="writes here; choose another"),
        FolderLock(tmp_path),
    ):
        pass
    with FolderLock(tmp_path), Checkpoints(tmp_path / "inner"):
        pass
    assert leftovers(tmp_path) == []


def test_without_locks_of_the_system_a_living_process_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("coreframe.lock._locked", lambda _: None)
    import platform

    def write(pid, host):
        (tmp_path / ".lock").write_text(json.dumps({"pid": pid, "host": host}))

    write(os.getppid(), platform.node())
    with pytest.raises(CheckpointError, match=f"process {os.getppid()} on"), FolderLock(tmp_path):
        pass
    write(1, "elsewhere")
    with pytest.raises(CheckpointError, match="on elsewhere writes here"), FolderLock(tmp_path):
        pass
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, check=True)  # fmt: skip
    write(int(dead.stdout), platform.node())
    with FolderLock(tmp_path):
        pass


def test_what_a_killed_writer_left_is_swept_at_the_next_save(tmp_path):
    place = temporary(tmp_path)
    place.mkdir(parents=True)
    (place / "state.safetensors").write_bytes(b"half")
    save(Checkpoints(tmp_path), 1)
    assert os.listdir(tmp_path) == ["checkpoint-1"]


# kill -9 ----------------------------------------------------------------------------------------

LOOP = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[2])
from test_checkpoints import save
from coreframe.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1], resume="latest")
with checkpoints:
    first = 1 if checkpoints.path is None else int(checkpoints.path.name.rpartition("-")[2]) + 1
    for version in range(first, first + 10**6):
        save(checkpoints, version, size=200_000)
        sys.stdout.write(f"{version}\\n")
        sys.stdout.flush()
"""


def kill_loop(folder, kills):
    """Kill a process that saves, at random moments; what is there is whole, and not old."""
    rng = np.random.default_rng(7)
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([here, str(Path(here).parent)])}
    acknowledged, killed_early = 0, 0
    for _ in range(kills):
        child = subprocess.Popen(
            [sys.executable, "-c", LOOP, str(folder), here],
            stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        assert child.stdout is not None
        line = child.stdout.readline()  # it has begun
        acknowledged = int(line)
        try:
            child.wait(timeout=float(rng.uniform(0, 0.1)))
        except subprocess.TimeoutExpired:
            child.kill()
        rest = child.stdout.read().splitlines()
        child.wait()
        child.stdout.close()
        assert child.returncode == -9
        acknowledged = int(rest[-1]) if rest and rest[-1] else acknowledged
        assert version_in(folder) in (acknowledged, acknowledged + 1)
        killed_early += bool(leftovers(folder) != [".lock"])
    save(Checkpoints(folder, resume="latest"), 10**7)
    assert leftovers(folder) == []
    return killed_early


def test_a_process_that_is_killed_while_it_saves_leaves_a_whole_checkpoint(tmp_path):
    kill_loop(tmp_path, 8)


@pytest.mark.long
def test_a_process_killed_1000_times_while_it_saves(tmp_path):
    assert kill_loop(tmp_path, 1000) > 100  # many were in the middle of a save
