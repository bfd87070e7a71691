"""Vectors on disk: asked for once, by any number of processes, and never wrong."""

from __future__ import annotations

import copy
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coreframe.data import disk_cache
from coreframe.data.cache import Cached
from coreframe.data.disk_cache import DiskCache, DiskCached, cache_folder
from coreframe.data.pairs import Pairs
from coreframe.embedder import Embedder, Side
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe_text import callable as any_function
from coreframe_text.hashing import Hashing
from coreframe_text.sha256 import Sha256


@dataclass(frozen=True, kw_only=True)
class Recording(Embedder):
    """Notes every call, and stops at a text that is "stop"."""

    model: str = "small"
    dimensions: int = 4
    prompt: str = ""
    asked: list[list[str]] = field(default_factory=list, compare=False)

    def embed(self, texts: Sequence[str]) -> Any:
        if "stop" in texts:
            raise KeyboardInterrupt
        self.asked.append(list(texts))
        return Sha256(dimensions=self.dimensions).embed(texts)

    def embed_queries(self, texts: Sequence[str]) -> Any:
        return self.embed([self.prompt + text for text in texts])

    def fingerprint(self, side: Side | None = None) -> Mapping[str, Any]:
        return {"model": self.model, "prompt": self.prompt if side == "query" else ""}


@pytest.fixture
def cache(tmp_path: Path) -> DiskCache:
    return DiskCache(tmp_path / "cache")


def again(cache: DiskCache) -> DiskCache:
    """The cache as a new process sees it."""
    return DiskCache(cache.folder)


def row_files(cache: DiskCache) -> list[Path]:
    return sorted(cache.folder.glob("*/*.rows"))


def test_each_text_is_asked_for_once_whatever_the_process(cache: DiskCache) -> None:
    first = Recording()
    rows = DiskCached(embedder=first, cache=cache).embed(["a", "b", "a"])
    assert first.asked == [["a", "b"]]
    second = Recording()
    cached = DiskCached(embedder=second, cache=again(cache))
    mixed = ["c", "b", "c", "a"]
    np.testing.assert_array_equal(cached.embed(mixed), Sha256(dimensions=4).embed(mixed))
    assert second.asked == [["c"]]
    assert (cached.cache.hits, cached.cache.misses, cached.cache.damaged) == (2, 1, 0)
    assert rows.dtype == np.float32
    assert "hits" in repr(cached.cache)


def test_rows_are_those_of_the_embedder_in_every_bit(cache: DiskCache) -> None:
    texts = ["", "x", "\ud800", "日本語", *map(str, range(600))]
    want = Sha256(dimensions=5).embed(texts)
    for _ in range(2):
        got = DiskCached(embedder=Recording(dimensions=5), cache=again(cache), batch=7).embed(texts)
        np.testing.assert_array_equal(got, want)


def test_sides_share_what_they_have_in_common(cache: DiskCache) -> None:
    plain = Recording()
    cached = DiskCached(embedder=plain, cache=cache)
    pairs = Pairs.from_texts(["a", "b"], ["b", "c"], cached)
    assert plain.asked == [["a", "b"], ["c"]]
    prompted = Recording(prompt="query: ")
    cached = DiskCached(embedder=prompted, cache=again(cache))
    data = Pairs.from_texts(["a", "b"], ["b", "c"], cached)
    assert prompted.asked == [["query: a", "query: b"]]  # documents were there
    want = Sha256(dimensions=4)
    np.testing.assert_array_equal(data.queries, want.embed(["query: a", "query: b"]))
    np.testing.assert_array_equal(data.documents, pairs.documents)


def test_a_cache_in_memory_knows_sides_too() -> None:
    prompted = Recording(prompt="query: ")
    cached = Cached(embedder=prompted)
    rows = cached.embed_queries(["a"]), cached.embed_documents(["a"]), cached.embed_queries(["a"])
    assert prompted.asked == [["query: a"], ["a"]]
    np.testing.assert_array_equal(rows[0], rows[2])
    assert cached.fingerprint("query") == prompted.fingerprint("query")
    assert cached.base_model == "coreframe:Recording"


def test_other_fingerprints_share_nothing(cache: DiskCache) -> None:
    for model in ("small", "large"):
        embedder = Recording(model=model)
        DiskCached(embedder=embedder, cache=cache).embed(["a"])
        assert embedder.asked == [["a"]]
    stored = sorted(json.loads(p.read_text())["model"] for p in cache.folder.glob("*/about.json"))
    assert stored == ["large", "small"]


@pytest.mark.parametrize("embedder", [Hashing(), any_function.Callable(function=len)])
def test_what_has_no_fingerprint_is_not_stored(cache: DiskCache, embedder: Embedder) -> None:
    if isinstance(embedder, Hashing):
        DiskCached(embedder=embedder, cache=cache).embed(["a"])
    assert embedder.fingerprint() is None
    assert not cache.folder.exists()


# Stopped, killed, damaged ---------------------------------------------------------------------


def test_a_run_that_is_stopped_goes_on_where_it_was(cache: DiskCache) -> None:
    texts = [f"text {i}" for i in range(10)]
    first = Recording()
    with pytest.raises(KeyboardInterrupt):
        DiskCached(embedder=first, cache=cache, batch=3).embed([*texts[:7], "stop", *texts[7:]])
    assert first.asked == [texts[:3], texts[3:6]]
    second = Recording()
    rows = DiskCached(embedder=second, cache=again(cache), batch=3).embed(texts)
    assert second.asked == [texts[6:9], texts[9:]]
    np.testing.assert_array_equal(rows, Sha256(dimensions=4).embed(texts))


def test_an_entry_that_is_cut_off_is_embedded_again(cache: DiskCache) -> None:
    texts = ["a", "b", "c"]
    DiskCached(embedder=Recording(), cache=cache).embed(texts)
    [path] = row_files(cache)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        embedder = Recording()
        here = DiskCache(cache.folder)
        rows = DiskCached(embedder=embedder, cache=here).embed(texts)
        np.testing.assert_array_equal(rows, Sha256(dimensions=4).embed(texts))
        there = max(0, size - 32) // 40
        assert embedder.asked == [texts[there:]]
        for other in row_files(cache):
            if other != path:
                other.unlink()


def test_no_byte_can_change_unnoticed(cache: DiskCache) -> None:
    texts = ["a", "b", "c"]
    DiskCached(embedder=Recording(), cache=cache).embed(texts)
    [path] = row_files(cache)
    whole = path.read_bytes()
    want = Sha256(dimensions=4).embed(texts)
    for place in range(len(whole)):
        changed = bytearray(whole)
        changed[place] ^= 0x41
        path.write_bytes(changed)
        embedder = Recording()
        rows = DiskCached(embedder=embedder, cache=DiskCache(cache.folder)).embed(texts)
        np.testing.assert_array_equal(rows, want)
        if place >= 32:  # one entry, and no other
            assert [len(call) for call in embedder.asked] == [1]
        elif place < 24:
            assert embedder.asked == [texts]
        # What was written anew stands for the damaged entry.
        embedder = Recording()
        rows = DiskCached(embedder=embedder, cache=DiskCache(cache.folder)).embed(texts)
        np.testing.assert_array_equal(rows, want)
        assert embedder.asked == []
        for other in row_files(cache):
            if other != path:
                other.unlink()


def test_damage_is_counted(cache: DiskCache) -> None:
    DiskCached(embedder=Recording(), cache=cache).embed(["a"])
    [path] = row_files(cache)
    path.write_bytes(path.read_bytes()[:-1] + b"\x77")
    here = again(cache)
    DiskCached(embedder=Recording(), cache=here).embed(["a"])
    assert (here.damaged, here.misses) == (1, 1)


def test_other_files_in_the_folder_are_left_alone(cache: DiskCache) -> None:
    DiskCached(embedder=Recording(), cache=cache).embed(["a"])
    [path] = row_files(cache)
    (path.parent / "short.rows").write_bytes(b"x")
    (path.parent / "long.rows").write_bytes(b"x" * 1000)
    (path.parent / "notes.txt").write_text("mine")
    embedder = Recording()
    DiskCached(embedder=embedder, cache=again(cache)).embed(["a"])
    assert embedder.asked == []
    assert (path.parent / "long.rows").read_bytes() == b"x" * 1000


WRITER = """
import sys
import numpy as np
from coreframe.data.disk_cache import DiskCache, DiskCached
from coreframe_text import callable as any_function
from coreframe_text.sha256 import Sha256

def embed(texts):
    print(len(texts), flush=True)
    return Sha256(dimensions=8).embed(texts)

embedder = any_function.Callable(function=embed, identity="kill")
cached = DiskCached(embedder=embedder, cache=DiskCache(sys.argv[1]), batch=1)
cached.embed([f"text {i}" for i in range(int(sys.argv[2]))])
"""


def test_a_killed_process_loses_its_last_batch_at_most(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(50):
            assert process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGKILL)
        done = 50 + len(process.stdout.read().splitlines())
    asked: list[str] = []

    def embed(texts: list[str]) -> Any:
        asked.extend(texts)
        return Sha256(dimensions=8).embed(texts)

    texts = [f"text {i}" for i in range(done + 5)]
    named = any_function.Callable(function=embed, identity="kill")
    rows = DiskCached(embedder=named, cache=DiskCache(tmp_path)).embed(texts)
    np.testing.assert_array_equal(rows, Sha256(dimensions=8).embed(texts))
    assert texts[done:] == asked[-5:]
    assert len(asked) <= 6


def test_two_processes_write_at_the_same_time(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path), "200"]
    both = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    named = any_function.Callable(function=_refuse, identity="kill")
    texts = [f"text {i}" for i in range(200)]
    rows = DiskCached(embedder=named, cache=DiskCache(tmp_path)).embed(texts)
    np.testing.assert_array_equal(rows, Sha256(dimensions=8).embed(texts))
    assert len(row_files(DiskCache(tmp_path))) <= 2


def _refuse(texts: list[str]) -> Any:
    raise AssertionError(f"asked for {texts}")


def test_what_another_process_wrote_meanwhile_is_found(cache: DiskCache) -> None:
    ours, theirs = (DiskCached(embedder=Recording(), cache=again(cache)) for _ in range(2))
    ours.embed(["a"])
    theirs.embed(["a", "b"])
    ours.embed(["b", "c"])
    theirs.embed(["c", "d"])
    assert ours.embedder.asked == [["a"], ["c"]]  # type: ignore[attr-defined]
    assert theirs.embedder.asked == [["b"], ["d"]]  # type: ignore[attr-defined]


FORKING = """
import os, sys
from coreframe.data.disk_cache import DiskCache, DiskCached
from coreframe_text.sha256 import Sha256
class Told(Sha256):
    def fingerprint(self, side):
        return {"model": "small", "prompt": ""}  # as Recording's
cached = DiskCached(embedder=Told(dimensions=4), cache=DiskCache(sys.argv[1]))
cached.embed(["a"])
child = os.fork()
if not child:
    cached.embed(["b"])
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_writes_a_file_of_its_own(cache: DiskCache) -> None:
    """In a process of its own: this one may hold libraries with threads, which cannot fork."""
    subprocess.run([sys.executable, "-c", FORKING, str(cache.folder)], check=True, timeout=600)
    assert len(row_files(cache)) == 2
    cached = DiskCached(embedder=Recording(), cache=cache)
    wanted = Sha256(dimensions=4).embed(["a", "b"])
    assert np.array_equal(cached.embed(["a", "b"]), wanted)
    assert cached.embedder.asked == []  # type: ignore[attr-defined]


def test_threads_share_it(cache: DiskCache) -> None:
    cached = DiskCached(embedder=Recording(), cache=cache, batch=5)
    texts = [f"text {i}" for i in range(40)]
    threads = [threading.Thread(target=cached.embed, args=(texts[i:],)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asked = [text for call in cached.embedder.asked for text in call]  # type: ignore[attr-defined]
    assert sorted(asked) == sorted(texts)


# What cannot be kept --------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_only_warns(tmp_path: Path, caplog) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = DiskCache(tmp_path / "file" / "cache")
    embedder = Recording()
    with caplog.at_level(logging.WARNING, "coreframe"):
        cached = DiskCached(embedder=embedder, cache=cache, batch=1)
        rows = cached.embed(["a", "b"])
    np.testing.assert_array_equal(rows, Sha256(dimensions=4).embed(["a", "b"]))
    assert len(caplog.records) == 1
    assert "embeddings are not kept" in caplog.text
    assert str(cache.folder) in caplog.text


def test_a_full_disk_only_warns(cache: DiskCache, monkeypatch, caplog) -> None:
    real = open

    def full(path: Any, *rest: Any, **more: Any) -> Any:
        if str(path).endswith(".rows") and rest[:1] == ("ab",):
            return real("/dev/full", "wb", buffering=0)
        return real(path, *rest, **more)

    monkeypatch.setattr("builtins.open", full)
    cached = DiskCached(embedder=Recording(), cache=cache, batch=1)
    rows = cached.embed(["a", "b"])
    np.testing.assert_array_equal(rows, Sha256(dimensions=4).embed(["a", "b"]))
    assert caplog.text.count("embeddings are not kept") == 1


def test_rows_that_are_not_finite_are_not_kept(cache: DiskCache) -> None:
    calls: list[int] = []

    def embed(texts: list[str]) -> Any:
        calls.append(len(texts))
        return [[np.nan if text == "bad" else 1.0] for text in texts]

    cached = DiskCached(embedder=any_function.Callable(function=embed, identity="x"), cache=cache)
    for _ in range(2):
        assert np.isnan(cached.embed(["good", "bad"])).tolist() == [[False], [True]]
    assert calls == [2, 1]


def test_a_model_that_changed_its_width_is_believed(cache: DiskCache, caplog) -> None:
    DiskCached(embedder=Recording(dimensions=4), cache=cache).embed(["a", "b"])
    embedder = Recording(dimensions=6)
    cached = DiskCached(embedder=embedder, cache=again(cache))
    rows = cached.embed(["b", "c"])
    np.testing.assert_array_equal(rows, Sha256(dimensions=6).embed(["b", "c"]))
    assert embedder.asked == [["c"], ["b", "c"]]
    assert "gives 6 numbers a text, but 4 were stored under its name" in caplog.text
    assert (cached.cache.hits, cached.cache.misses) == (0, 2)
    later = Recording(dimensions=6)
    DiskCached(embedder=later, cache=again(cache)).embed(["b", "c"])
    assert later.asked == []


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (np.zeros((1, 3)), r"one row of floating-point numbers a text, \(2, d\), got .* \(1, 3\)"),
        (np.zeros(2), r"got float64 \(2,\)"),
        (np.zeros((2, 0)), r"\(2, 0\)"),
        (np.zeros((2, 3), int), r"got int64"),
    ],
)
def test_an_embedder_that_gives_something_else(cache: DiskCache, rows: Any, text: str) -> None:
    class Wrong(Recording):
        def embed(self, texts: Sequence[str]) -> Any:
            return rows

    with pytest.raises(ArgumentError, match=text):
        DiskCached(embedder=Wrong(), cache=cache).embed(["a", "b"])
    assert not cache.folder.exists()


def test_bad_arguments(cache: DiskCache) -> None:
    with pytest.raises(ArgumentTypeError, match="one string"):
        DiskCached(embedder=Recording(), cache=cache).embed("text")
    with pytest.raises(ArgumentError, match=r"DiskCached.batch must be at least 1"):
        DiskCached(embedder=Recording(), cache=cache, batch=0)
    assert DiskCached(embedder=Recording(), cache=cache).embed([]).shape == (0, 4)


# Where and how much ---------------------------------------------------------------------------


def test_the_folder_follows_the_environment(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("COREFRAME_CACHE_DIR", str(tmp_path / "here"))
    assert DiskCache().folder == tmp_path / "here" / "embeddings"
    monkeypatch.delenv("COREFRAME_CACHE_DIR")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for platform, variables, want in (
        ("linux", {"XDG_CACHE_HOME": str(tmp_path / "xdg")}, tmp_path / "xdg" / "coreframe"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, tmp_path / ".cache" / "coreframe"),
        ("darwin", {}, tmp_path / "Library" / "Caches" / "coreframe"),
        ("win32", {"LOCALAPPDATA": str(tmp_path / "local")}, tmp_path / "local" / "coreframe"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(disk_cache.sys, "platform", platform)
            for name, value in variables.items():
                patch.setenv(name, value)
            assert cache_folder() == want


def test_its_size_is_told(cache: DiskCache) -> None:
    assert cache.size == 0
    DiskCached(embedder=Recording(), cache=cache).embed(["a", "b"])
    [path] = row_files(cache)
    assert path.stat().st_size == 32 + 2 * (16 + 8 + 16)
    assert cache.size == path.stat().st_size + (path.parent / "about.json").stat().st_size


def test_it_can_be_pickled_and_copied(cache: DiskCache) -> None:
    cached = DiskCached(embedder=Sha256(dimensions=4), cache=cache)
    for other in (pickle.loads(pickle.dumps(cached)), copy.deepcopy(cached)):
        assert other == cached
        assert other.cache.folder == cache.folder
