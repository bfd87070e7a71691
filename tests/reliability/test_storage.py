"""Files are written whole or not at all: calls fail, the power goes, bytes change."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from disks import FAULTS, Recorder, faulty, leftovers, mutated

from coreframe.artefact import Side, TrainedAdapter, load
from coreframe.errors import ArtefactError, OutputError
from coreframe.state import load_state, save_state
from coreframe.storage import PART, remove_folder, temporary, write_files, write_folder

OLD = {"a.txt": b"old a", "b.txt": b"old b"}
NEW = {"a.txt": b"new and longer a", "b.txt": b"new b", "c.txt": b"new c"}


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


# Calls that fail --------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", FAULTS)
def test_every_call_that_fails_leaves_the_old_files_and_nothing_else(tmp_path, fault):
    """The k-th open, write, fsync or rename fails, for k = 1, 2, ... until none does."""
    failed = []
    for k in range(1, 100):
        folder = tmp_path / str(k)
        folder.mkdir()
        write_files(folder, OLD)
        with faulty(folder, k, fault) as faults:
            try:
                write_files(folder, NEW)
            except OutputError as error:
                text = str(error)
                failed.append(faults.failed)
            else:
                assert not faults.failed
                assert contents(folder) == NEW
                break
        assert os.strerror(FAULTS[fault]) in text
        assert str(folder) in text
        assert contents(folder) == OLD, faults.failed
        assert leftovers(folder) == []
        write_files(folder, NEW)
        assert contents(folder) == NEW
        assert leftovers(folder) == []
    assert failed.count("write") == 3
    assert failed.count("fsync") == 4  # three files and their folder
    assert failed.count("replace") == 3


def test_a_write_that_is_short_goes_on(tmp_path):
    for k in range(1, 20):
        with faulty(tmp_path, k, "short"):
            write_files(tmp_path, NEW)
        assert contents(tmp_path) == NEW


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_is_there_whole_or_not_at_all(tmp_path, fault):
    failed = []
    for k in range(1, 100):
        place = tmp_path / str(k)
        place.mkdir()
        with faulty(place, k, fault) as faults:
            try:
                write_folder(place / "new", NEW)
            except OutputError as error:
                text = str(error)
                failed.append(faults.failed)
            else:
                assert contents(place / "new") == NEW
                break
        assert os.strerror(FAULTS[fault]) in text
        assert leftovers(place) == []
        assert os.listdir(place) in ([], ["new"])
        if os.listdir(place):  # the rename was done, and only its sync failed
            assert contents(place / "new") == NEW
            assert failed[-1] == "fsync"
    assert {"mkdir", "open", "write", "fsync", "rename"} <= set(failed)


def test_a_disk_that_is_too_full_is_found_before_the_first_byte(tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(OutputError, match=r"21 bytes are needed, 10 are free"):
        write_files(tmp_path, {"x": b"x" * 21})
    assert os.listdir(tmp_path) == []


# Power that goes --------------------------------------------------------------------------------


def test_a_power_cut_at_any_moment_leaves_the_old_file_or_the_new(tmp_path):
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    path = disk / "run.safetensors"
    save_state(path, {"step": 1, "W": np.ones(50)}, kind="run")
    recorder = Recorder(disk)
    with recorder.recording():
        save_state(path, {"step": 2, "W": np.zeros(50)}, kind="run")
    found = [
        load_state(folder / path.name, kind="run")[0]["step"] for folder in recorder.replay(copy)
    ]
    assert set(found) == {1, 2}
    assert found == sorted(found)
    harsh = recorder.cuts[-1][0]
    assert harsh[str(path)] == path.read_bytes()  # when the call returns, all is on the disk


def test_a_power_cut_between_two_files_leaves_one_adapter(tmp_path):
    """Of a model and a config from two adapters, the model says what it is."""
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    old = TrainedAdapter(3, {"query": Side("linear", {"W": np.eye(3, dtype=np.float32)})})
    thin = {"A": np.ones((3, 1), np.float32), "B": np.ones((1, 3), np.float32)}
    new = TrainedAdapter(3, {"query": Side("low_rank", thin, 2.0)}, base_model="new")
    old.save(disk)
    recorder = Recorder(disk)
    with recorder.recording():
        new.save(disk)
    found, mixed = [], 0
    before = [(disk / n).read_bytes() for n in ("config.json", "model.safetensors")]
    for folder in recorder.replay(copy):
        adapter = load(folder)
        found.append(adapter.base_model)
        want = new if adapter.base_model == "new" else old
        assert adapter.side("query").form == want.side("query").form
        for name, x in want.side("query").arrays.items():
            assert np.array_equal(adapter.side("query").arrays[name], x)
        here = [(folder / n).read_bytes() for n in ("config.json", "model.safetensors")]
        mixed += here[0] != before[0] and here[1] == before[1]
    assert set(found) == {None, "new"}
    assert mixed


def test_a_recorded_disk_forgets_what_is_not_synced(tmp_path):
    """The shim itself: without syncs, a power cut loses the new file, or its bytes."""
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    (disk / "x").write_bytes(b"old")
    recorder = Recorder(disk)
    with recorder.recording():
        descriptor = os.open(disk / "y", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"new")
        os.close(descriptor)
        os.replace(disk / "y", disk / "x")
        folder = os.open(disk, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    assert b"" in [(f / "x").read_bytes() for f in recorder.replay(copy)]


# What killed processes leave --------------------------------------------------------------------


def test_temporaries_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path):
    dead = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    mine = temporary(tmp_path)
    theirs = tmp_path / mine.name.replace(f"-{os.getpid()}-", f"-{int(dead.stdout)}-")
    other = tmp_path / f"{PART}0badcafe-1-abcd"
    old = tmp_path / f"{PART}0badcafe-2-abcd"
    for path in (mine, theirs, other, old):
        path.write_bytes(b"half")
    folder = tmp_path / (theirs.name + "0")
    folder.mkdir()
    (folder / "file").write_bytes(b"half")
    os.utime(old, (0, 0))
    write_files(tmp_path, {"x": b"x"})
    assert sorted(os.listdir(tmp_path)) == sorted([mine.name, other.name, "x"])


def test_a_folder_that_is_removed_is_no_half_folder(tmp_path, monkeypatch):
    import shutil

    write_folder(tmp_path / "x", NEW)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # killed just then
    remove_folder(tmp_path / "x")
    assert contents(tmp_path) == {}
    with pytest.raises(OutputError, match="cannot remove"):
        remove_folder(tmp_path / "x")


# Bytes that change ------------------------------------------------------------------------------


def changes(count):
    rng = np.random.default_rng(5)
    return [int(rng.integers(2**31)) for _ in range(count)]


def equal(found, wanted):
    return found.keys() == wanted.keys() and all(
        type(found[k]) is type(x) and np.array_equal(found[k], x) and
        getattr(found[k], "dtype", None) == getattr(x, "dtype", None)
        for k, x in wanted.items()
    )  # fmt: skip


def check_state(tmp_path, count):
    path, rng = tmp_path / "run.safetensors", np.random.default_rng(0)
    values = {
        "step": 7, "rate": 0.1, "W": rng.standard_normal((4, 3)), "b": np.ones(3, np.float32),
        "m/W": rng.standard_normal((4, 3)), "flag": np.array([True, False]),
    }  # fmt: skip
    save_state(path, values, kind="run", meta={"scores": [0.5, 0.25]})
    whole = path.read_bytes()
    refused = others = 0
    for seed in changes(count):
        what, data = mutated(whole, np.random.default_rng(seed))
        path.write_bytes(data)
        try:
            found, meta = load_state(path, kind="run")
        except ArtefactError as error:
            refused += str(path) in str(error)
            others += str(path) not in str(error)
        else:
            assert equal(found, values), what
            assert meta == {"scores": [0.5, 0.25]}, what
    assert others == 0
    assert refused > 0.9 * count


def check_adapter(tmp_path, count):
    rng = np.random.default_rng(0)
    thin = {"A": rng.standard_normal((6, 2)), "B": rng.standard_normal((2, 6)), "b": np.ones(6)}
    side = Side("low_rank", {k: x.astype(np.float32) for k, x in thin.items()}, 0.5)
    adapter = TrainedAdapter(6, {"query": side}, base_model="mini", notes={"rows": [1, 2.5]})
    adapter.save(tmp_path)
    x = rng.standard_normal((5, 6)).astype(np.float32)
    want = adapter(x)
    for name in ("config.json", "model.safetensors"):
        whole = (tmp_path / name).read_bytes()
        refused = others = 0
        for seed in changes(count // 2):
            what, data = mutated(whole, np.random.default_rng(seed))
            (tmp_path / name).write_bytes(data)
            try:
                found = load(tmp_path)
            except ArtefactError as error:
                refused += str(tmp_path) in str(error)
                others += str(tmp_path) not in str(error)
            else:
                assert np.array_equal(found(x), want), what
                assert (found.base_model, found.notes) == ("mini", adapter.notes), what
                assert found.side("query").arrays.keys() == side.arrays.keys(), what
        (tmp_path / name).write_bytes(whole)
        assert others == 0
        assert refused > 0.6 * (count // 2)  # the others change spaces, or the copy in the model


@pytest.mark.parametrize("check", [check_state, check_adapter])
def test_no_changed_file_loads_as_something_else(tmp_path, check):
    check(tmp_path, 200)


@pytest.mark.long
@pytest.mark.parametrize("check", [check_state, check_adapter])
def test_no_changed_file_of_5000_loads_as_something_else(tmp_path, check):
    check(tmp_path, 5000)


def test_the_array_that_changed_is_named(tmp_path):
    path = tmp_path / "run.safetensors"
    save_state(path, {"W": np.full(4, 1.5), "b": np.full(4, 2.5)}, kind="run")
    data = path.read_bytes()
    at = data.index(np.float64(2.5).tobytes())
    path.write_bytes(data[:at] + b"\x01" + data[at + 1 :])
    with pytest.raises(ArtefactError, match=r"the array 'b': its bytes are not those"):
        load_state(path, kind="run")
    side = Side("linear", {"W": np.full((2, 2), 1.5, np.float32)})
    TrainedAdapter(2, {"query": side}).save(tmp_path)
    model = tmp_path / "model.safetensors"
    data = model.read_bytes()
    model.write_bytes(data[:-4] + np.float32(1.25).tobytes())
    with pytest.raises(ArtefactError, match=r"model.safetensors is damaged: the array 'query.W'"):
        load(tmp_path)
