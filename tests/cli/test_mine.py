"""``coreframe mine``: rows that ``coreframe train`` reads, evidence, and nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

QUICK = ("--set", "train.epochs=2", "--set", "gate.resamples=100")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_texts_to_triplets_to_an_adapter(coreframe_, texts: Path, records, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("ba ke lo mi\nnu ra se ti\n", encoding="utf-8")
    ran = coreframe_("mine", texts, "-o", "hard.jsonl", "--corpus", "more.txt", "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    found = json.loads(ran.stdout)
    rows = lines(tmp_path / "hard.jsonl")
    assert found["rows"] == len(rows) == 3 * len(records)
    assert list(rows[0]) == ["anchor", "positive", "negative"]
    right = {(r["anchor"], r["positive"]) for r in records}
    assert {(r["anchor"], r["positive"]) for r in rows} == right
    assert not {(r["anchor"], r["negative"]) for r in rows} & right
    assert found["documents"] == len({r["positive"] for r in records}) + 2
    suspects = lines(tmp_path / "hard.suspects.jsonl")
    assert len(suspects) == found["suspects_listed"] > 0
    assert all(row["score"] > row["positive_score"] for row in suspects)
    trained = coreframe_("train", "hard.jsonl", *QUICK, "-o", "run", "--json")
    assert trained.returncode in (0, 3), trained.stderr
    inspected = coreframe_("inspect", "hard.jsonl")
    assert f"{len(rows):,} negatives" in inspected.stdout


@pytest.mark.parametrize(
    ("output_format", "suffix"),
    [("triplet", "parquet"), ("n-tuple", "jsonl"), ("labeled-pair", "jsonl")],
)
def test_train_reads_what_is_written(
    coreframe_, texts: Path, output_format: str, suffix: str
) -> None:
    out = f"hard.{suffix}"
    ran = coreframe_("mine", texts, "-o", out, "--output-format", output_format, "-q")
    assert ran.returncode == 0, ran.stderr
    checked = coreframe_("train", out, "--dry-run", "-o", "run")
    assert checked.returncode == 0, checked.stderr


def test_ids_of_vectors(coreframe_, vectors, tmp_path: Path) -> None:
    np.save(tmp_path / "q.npy", vectors.queries)
    np.save(tmp_path / "d.npy", vectors.documents)
    rows = [{"anchor_id": i, "positive_id": i} for i in range(0, 400, 2)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    files = ("--queries", "q.npy", "--documents", "d.npy")
    for output_format, column in (("triplet", "negative_id"), ("n-tuple", "negative_ids")):
        ran = coreframe_(
            "mine", "pairs.jsonl", *files, "-o", "hard.jsonl", "--overwrite", "--relative-margin",
            0.05, "--output-format", output_format, "--json",
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        found = lines(tmp_path / "hard.jsonl")
        assert list(found[0]) == ["anchor_id", "positive_id", column]
        q, d = (x / np.linalg.norm(x, axis=1, keepdims=True)
                for x in (vectors.queries, vectors.documents))  # fmt: skip
        for row in found[:50]:
            assert row["anchor_id"] == row["positive_id"]
            scores = d @ q[row["anchor_id"]]
            worst = scores[row["positive_id"]]
            assert (scores[row[column]] <= worst - 0.05 * abs(worst) + 1e-6).all()
        checked = coreframe_("train", "hard.jsonl", *files, "--dry-run", "-o", "run")
        assert checked.returncode == 0, checked.stderr


def test_what_is_printed(coreframe_, texts: Path, tmp_path: Path) -> None:
    ran = coreframe_(
        "mine", texts, "-o", "hard.jsonl", "--relative-margin", 0.05, "--num-negatives", 5
    )
    assert ran.returncode == 0, ran.stderr
    for text in (
        "search: exact, range_max 51",
        "dropped by relative_margin 0.05",
        "candidates score above a right document",
        "listed in hard.suspects.jsonl",
        "rows in hard.jsonl",
    ):
        assert text in ran.stdout
    queries = {json.loads(line)["anchor"] for line in texts.read_text("utf-8").splitlines()}
    without = len(queries) - len({row["anchor"] for row in lines(tmp_path / "hard.jsonl")})
    assert without
    assert f"{without:,} of {len(queries):,} queries have no row in hard.jsonl" in ran.stdout
    assert "mine    " in ran.stderr
    quiet = coreframe_("mine", texts, "-o", "hard.jsonl", "--overwrite", "-q")
    assert quiet.stderr == ""


def test_names_of_columns_go_in_and_out(coreframe_, records, tmp_path: Path) -> None:
    renamed = [{"frage": r["anchor"], "antwort": r["positive"], "n": 1} for r in records]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(r) + "\n" for r in renamed))
    ran = coreframe_(
        "mine", "x.jsonl", "-o", "y.jsonl", "--output-scores",
        "--anchor-column-name", "frage", "--positive-column-name", "antwort",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    rows = lines(tmp_path / "y.jsonl")
    assert list(rows[0]) == ["frage", "antwort", "negative", "scores"]
    assert all(len(row["scores"]) == 2 for row in rows)


def test_parts_of_a_retrieval_set_are_mined_apart(coreframe_, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    words = [f"{a}{b} {b}{a}" for a in ("ba", "ke", "lo") for b in ("mi", "nu", "ra", "se")]
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": f"d{i}", "title": "", "text": f"{w} x"}) + "\n"
                for i, w in enumerate(words))
    )  # fmt: skip
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{i}", "text": w}) + "\n" for i, w in enumerate(words))
    )
    for part, numbers in (("train", range(8)), ("test", range(8, 12))):
        body = "".join(f"q{i}\td{i}\t1\n" for i in numbers)
        (folder / "qrels" / f"{part}.tsv").write_text("query-id\tcorpus-id\tscore\n" + body)
    ran = coreframe_("mine", "set", "-o", "hard.jsonl", "--num-negatives", 2)
    assert ran.returncode == 0, ran.stderr
    assert "part    train: 8 queries" in ran.stderr
    assert {r["anchor"] for r in lines(tmp_path / "hard.jsonl")} == set(words[:8])
    ran = coreframe_("mine", "set", "-o", "all.jsonl", "--part", "all", "--num-negatives", 2)
    assert len(lines(tmp_path / "all.jsonl")) == 24


def test_vectors_of_texts_are_kept_and_used_again(coreframe_, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "plugin").mkdir()
    code = (
        "import sys\nimport coreframe_text.hashing as h\n"
        "h.Hashing.fingerprint = lambda self, side=None: {'embedder': 'hashing, slow'}\n"
    )
    (tmp_path / "plugin" / "sitecustomize.py").write_text(code)
    env = {
        "COREFRAME_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path / "plugin"),
    }  # fmt: skip
    first = coreframe_("mine", texts, "-o", "a.jsonl", **env)
    assert "texts embedded, 0 were there" in first.stderr
    again = coreframe_("mine", texts, "-o", "b.jsonl", **env)
    assert "cache   0 texts embedded" in again.stderr
    assert f"MB in {tmp_path / 'cache'}" in again.stderr
    trained = coreframe_("train", texts, "-o", "run", *QUICK, **env)
    assert "cache   0 texts embedded" in trained.stderr
    without = coreframe_("mine", texts, "-o", "c.jsonl", "--no-cache", **env)
    assert "cache" not in without.stderr
    files = [(tmp_path / name).read_bytes() for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    assert files[0] == files[1] == files[2]


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("-o", "x.csv"), 2, "--out must end in .jsonl, .ndjson, .parquet, got 'x.csv'"),
        (("-o", "x.jsonl", "--suspects", "s.txt"), 2, "--suspects must end in"),
        (("-o", "pairs.jsonl"), 2, "pairs.jsonl exists; give another --out, or --overwrite"),
        (("-o", "x.jsonl", "--num-negatives", 5000), 2, "num_negatives must be at most"),
        (("-o", "x.jsonl", "--range-min", 5, "--range-max", 6), 2, "after range_min=5, got 6"),
        (("-o", "x.jsonl", "--max-score", -2), 1, "no negatives: raise --range-max above"),
        (("-o", "x.jsonl", "--index", "Flat"), 2, "go with search='faiss' or 'usearch'"),
        (("-o", "x.jsonl", "--include-positives", "--output-format", "triplet", "--seed", -1), 2,
         "Invalid value for '--seed'"),
    ],
)  # fmt: skip
def test_mistakes_get_a_line_and_write_nothing(
    coreframe_, texts: Path, tmp_path: Path, arguments: tuple[Any, ...], code: int, text: str
) -> None:
    before = sorted(p.name for p in tmp_path.iterdir())
    ran = coreframe_("mine", texts, *arguments)
    assert ran.returncode == code, ran.stderr
    assert text in ran.stderr
    assert "Traceback" not in ran.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_bad_data_has_its_own_code(coreframe_, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"anchor": "a"}\n')
    ran = coreframe_("mine", "x.jsonl", "-o", "y.jsonl")
    assert ran.returncode == 4
    assert "no column for the positive" in ran.stderr
