"""``train --continue RUN --keep EVAL...`` as a user starts it, and the folder that it leaves."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coreframe
from coreframe.errors import ArgumentError, ArtefactError, DataError
from coreframe.evaluation.trec import read_qrels, read_run
from coreframe.runs import StoredRun, go_on, remember, without_kept

from .conftest import run_command, write_lines

WIDTH, COUNT = 16, 300
FEW = ["--set", "train.start=identity", "--epochs", "12", "--batch-size", "64"]
FEW += ["--learning-rate", "0.02", "--lr-scheduler-type", "constant", "--set", "gate.resamples=300"]
FEW += ["--set", "curve.enabled=never", "--set", "continual.strengths=[1.0, 30.0]"]


def write_subject(folder: Path, number: int, *, name: str | None = None, seed: int = 0) -> None:
    """Write pairs whose documents lie in one half of the space, where queries are bent."""
    rng = np.random.default_rng(10 * number + seed)
    here = np.arange(WIDTH) % 2 == number % 2
    documents = rng.standard_normal((COUNT, WIDTH)) * np.where(here, 1.0, 0.05)
    half = WIDTH // 2
    turn = np.linalg.qr(np.random.default_rng(number).standard_normal((half, half)))[0]
    bent = np.eye(WIDTH)
    bent[np.ix_(here, here)] = 0.3 * np.eye(half) + turn
    noise = 0.3 * rng.standard_normal((COUNT, WIDTH)) * np.where(here, 1, 0.05)
    name = name or f"s{number}"
    np.save(folder / f"{name}.q.npy", ((documents + noise) @ bent).astype(np.float32))
    np.save(folder / f"{name}.d.npy", documents.astype(np.float32))
    rows = [{"anchor_id": i, "positive_id": i} for i in range(COUNT)]
    write_lines(folder / f"{name}.jsonl", rows)


def words(name: str, out: str, *more: object) -> list[object]:
    vectors = ["--queries", f"{name}.q.npy", "--documents", f"{name}.d.npy"]
    return ["train", f"{name}.jsonl", *vectors, "-o", out, *more]


@dataclass(frozen=True)
class Weeks:
    """Three runs, each going on from the one before."""

    folder: Path
    ran: dict[str, subprocess.CompletedProcess[str]]

    def metrics(self, week: str) -> dict[str, Any]:
        found = json.loads((self.folder / week / "metrics.json").read_text(encoding="utf-8"))
        assert isinstance(found, dict)
        return found


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory) -> Weeks:
    cwd = tmp_path_factory.mktemp("weeks")
    for number in (1, 2, 3):
        write_subject(cwd, number)
    for name, number in (("old", 1), ("other", 2)):
        write_subject(cwd, number, name=name, seed=5)
    keep = [f"{name}.jsonl,{name}.q.npy,{name}.d.npy" for name in ("old", "other")]
    ran = {}
    for week, call in (
        ("week1", words("s1", "week1", *FEW)),
        ("week2", words("s2", "week2", "--continue", "week1", "--keep", *keep, "-q")),
        ("week3", words("s3", "runs/week3", "--continue", "week2")),
    ):
        ran[week] = run_command(*call, cwd=cwd)
        assert ran[week].returncode in (0, 3), ran[week].stderr
    return Weeks(cwd, ran)


def test_the_second_week_keeps_the_first(weeks: Weeks) -> None:
    assert weeks.ran["week1"].returncode == 0
    found = weeks.metrics("week2")
    rows = {row["name"]: row for row in found["forgetting"]}
    assert list(rows) == ["week1: test", "old.jsonl", "other.jsonl"]
    first = weeks.metrics("week1")
    for metric, value in first["adapted"].items():
        assert rows["week1: test"]["before"][metric] == pytest.approx(value, abs=1e-6)
        assert rows["week1: test"]["base"][metric] == pytest.approx(first["baseline"][metric])
    assert found["gate"]["passed"] == (weeks.ran["week2"].returncode == 0)
    assert found["gate"]["over"] == "previous"
    assert found["promoted"] == "trained"
    assert not any(row["forgotten"] for row in rows.values())
    out = weeks.ran["week2"].stdout
    assert "held by ewc" in out
    for name in ("new: test", "week1: test", "old.jsonl"):
        assert f"  {name}" in out


def test_a_run_that_went_on_goes_on(weeks: Weeks) -> None:
    found = weeks.metrics("runs/week3")
    names = [row["name"] for row in found["forgetting"]]
    assert names == ["week1: test", "old.jsonl", "other.jsonl", "week2: test"]
    assert (
        "kept    week2: test: 60 queries, 30 more choose the strength" in weeks.ran["week3"].stderr
    )
    stored = coreframe.read_run(weeks.folder / "runs" / "week3")
    assert stored.learned is not None
    assert stored.learned.tasks >= 2
    if not found["gate"]["passed"]:
        assert found["promoted"] == "previous"
        assert "the earlier adapter stays" in weeks.ran["week3"].stdout


def test_the_folder_holds_what_is_promised(weeks: Weeks) -> None:
    folder = weeks.folder / "week1"
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {
        "model.safetensors", "config.json", "README.md", "metrics.json", "report.html", "run.toml",
        "environment.json", "metrics.jsonl", "trainer_state.json", "learned.safetensors",
        "eval/qrels.trec", "eval/run.base.trec", "eval/run.adapted.trec", "eval/changed.jsonl",
        "eval/per_query.jsonl",
    } <= names  # fmt: skip
    environment = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
    digest = hashlib.sha256((weeks.folder / "s1.q.npy").read_bytes()).hexdigest()
    assert environment["sources"]["files"]["../s1.q.npy"] == f"sha256:{digest}"
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    assert state["best_metric"] == max(
        line["eval_ndcg@10"] for line in state["log_history"] if "eval_ndcg@10" in line
    )


def test_the_lists_say_what_the_figures_say(weeks: Weeks) -> None:
    folder = weeks.folder / "week1"
    found = weeks.metrics("week1")
    qrels = read_qrels(folder / "eval" / "qrels.trec")
    assert len(qrels) == found["queries"]["test"]
    for name, key in (("base", "baseline"), ("adapted", "adapted")):
        run = read_run(folder / "eval" / f"run.{name}.trec")
        best = {query: max(scores, key=scores.__getitem__) for query, scores in run.items()}
        hits = [qrels[query].get(best[query], 0) for query in qrels]
        assert np.mean(hits) == pytest.approx(found[key]["recall@1"])
    lines = [
        json.loads(line)
        for line in (folder / "eval" / "per_query.jsonl").read_text("utf-8").splitlines()
    ]
    moved = [line for line in lines if line["rank"]["base"] != line["rank"]["adapted"]]
    changed = (folder / "eval" / "changed.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line) for line in changed] == moved
    assert 0 < len(moved) <= len(lines) == len(qrels)


def test_a_stored_run_is_read(weeks: Weeks) -> None:
    stored = coreframe.read_run(weeks.folder / "week2")
    assert isinstance(stored, StoredRun)
    assert stored.promoted == "trained"
    assert stored.config.train.batch_size == 64  # the first week's settings
    assert stored.learned is not None
    assert set(stored.learned.own) == {"W"}
    assert stored.history
    x = np.load(weeks.folder / "s2.q.npy")
    np.testing.assert_array_equal(stored.adapter(x), coreframe.load(weeks.folder / "week2")(x))
    # An update goes on from it, held by what the runs need.
    pairs = coreframe.Pairs(x, np.load(weeks.folder / "s2.d.npy"))
    new = coreframe.update(stored, pairs, epochs=2)
    assert new.learned is not None
    assert new.learned.tasks == stored.learned.tasks + new.promoted


# What cannot be ---------------------------------------------------------------------------------


def copied(weeks: Weeks, tmp_path: Path) -> Path:
    return Path(shutil.copytree(weeks.folder / "week1", tmp_path / "copy"))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("metrics.json", None, "holds an adapter, but no run: metrics.json is missing"),
        ("model.safetensors", None, "is no run: model.safetensors is missing"),
        ("metrics.json", "{", "metrics.json is damaged: no JSON"),
        ("metrics.json", "[]", "metrics.json is damaged: no object, but list"),
        ("metrics.json", "{}", "metrics.json is damaged: it has no 'promoted'"),
        ("run.toml", "[adapter]\nname = 'of_another_plugin'", "may need a plugin"),
        ("learned.safetensors", "x", "learned.safetensors cannot be read"),
    ],
)
def test_a_folder_that_is_no_run(weeks: Weeks, tmp_path: Path, name, content, told) -> None:
    folder = copied(weeks, tmp_path)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(ArtefactError, match=told):
        coreframe.read_run(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match="missing is not there; a run is the folder that"):
        coreframe.read_run(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(ArtefactError, match="file is a file"):
        coreframe.read_run(tmp_path / "file")


def test_a_run_of_an_older_version(weeks: Weeks, tmp_path: Path) -> None:
    folder = copied(weeks, tmp_path)
    (folder / "learned.safetensors").unlink()
    stored = coreframe.read_run(folder)
    pairs = coreframe.Pairs(*np.eye(WIDTH, dtype=np.float32)[None].repeat(2, 0))
    with pytest.raises(ArgumentError, match="by an older version; train it again"):
        go_on(stored, stored.config, pairs, base_model=None)


def test_all_that_does_not_fit_is_listed(weeks: Weeks, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 100, 8)).astype(np.float32)
    np.save(tmp_path / "q.npy", x[0])
    np.save(tmp_path / "d.npy", x[1])
    write_lines(tmp_path / "n.jsonl", [{"anchor_id": i, "positive_id": i} for i in range(100)])
    ran = run_command(
        "train", "n.jsonl", "--queries", "q.npy", "--documents", "d.npy", "--continue",
        weeks.folder / "week1", "--set", "adapter.name=low_rank", "--side", "both", cwd=tmp_path,
    )  # fmt: skip
    assert ran.returncode == 2
    assert "cannot be continued like this" in ran.stderr
    for line in (
        "its vectors have width 16, the new ones 8",
        "its adapter is Linear(",
        "its train.side is 'query', the new one 'both'",
    ):
        assert f"  - {line}" in ran.stderr
    assert not (tmp_path / "coreframe-run").exists()


def test_keep_needs_a_run_to_go_on_from(weeks: Weeks) -> None:
    ran = run_command(*words("s1", "x", "--keep", "old.jsonl"), cwd=weeks.folder)
    assert ran.returncode == 2
    assert "--continue RUN" in ran.stderr


def test_data_that_has_changed_is_not_measured(weeks: Weeks, tmp_path: Path) -> None:
    stored = coreframe.read_run(weeks.folder / "week2")
    root = Path(shutil.copytree(weeks.folder, tmp_path / "all"))
    np.save(root / "s2.q.npy", np.load(root / "s2.q.npy") + 1)
    (root / "old.jsonl").unlink()
    moved = coreframe.read_run(root / "week2")
    found = remember(moved, [], moved.config, root / "next")
    assert [kept.name for kept in found.kept] == ["week1: test", "other.jsonl"]
    text = "\n".join(found.notes)
    assert "old.jsonl is not measured: " in text
    assert "old.jsonl is not there any more" in text
    assert "s2.q.npy has changed since" in text
    # Moved as a whole, it is found; and a set that is kept already is kept once.
    fresh = remember(stored, [], stored.config, weeks.folder / "next")
    assert len(fresh.kept) == 4
    given = (
        f"{weeks.folder / 'old.jsonl'},{weeks.folder / 'old.q.npy'},{weeks.folder / 'old.d.npy'}"
    )
    assert len(remember(stored, [given], stored.config, weeks.folder / "next").kept) == 4
    with pytest.raises(ArgumentError, match="--keep takes FILE or FILE,QUERIES,DOCUMENTS"):
        remember(stored, ["a,b"], stored.config, weeks.folder / "next")


def test_what_is_kept_is_not_trained_on(weeks: Weeks) -> None:
    stored = coreframe.read_run(weeks.folder / "week2")
    kept = remember(stored, [], stored.config, weeks.folder / "next").kept
    test = next(one.test for one in kept if one.name == "week2: test")
    x, d = (np.load(weeks.folder / f"s2.{name}.npy") for name in "qd")
    rest, count = without_kept(coreframe.Pairs(x, d), kept)
    assert count == len(test) == 60
    assert len(rest) == COUNT - 60
    assert not set(rest.query_rows) & set(test.query_rows)
    texts = coreframe.Pairs.from_texts(
        ["a", "b"], ["x", "y"], coreframe.build("embedders", "hashing", dimensions=16)
    )
    kept = [type(kept[0])(name="k", test=texts.take([0]))]
    assert without_kept(texts, kept)[1] == 1
    with pytest.raises(DataError, match="all 1 queries to train on, or to choose by"):
        without_kept(texts.take([0]), kept)


def test_what_is_kept_chooses_nothing(weeks: Weeks) -> None:
    """The same data, split in another way: some of its dev part was the test of the week before."""
    call = words("s1", "again", "--continue", "week1", "--seed", "7", "--json")
    ran = run_command(*call, cwd=weeks.folder)
    assert ran.returncode in (0, 3), ran.stderr
    found = json.loads(ran.stdout)
    (line,) = (row for row in found["data"] if "stand in a kept set" in row)
    train, dev = (int(word) for word in line.split() if word.isdecimal())
    assert 0 < train < 60
    assert 0 < dev < 30
    assert found["queries"]["dev"] == 30 - dev
