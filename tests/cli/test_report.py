"""``coreframe report``: the page again, and several runs side by side, without any vectors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

FEW = ("--epochs", "2", "--batch-size", "64", "-q", "--set", "curve.enabled=never")


@pytest.fixture
def runs(coreframe_, texts, tmp_path) -> Path:
    """Two runs that differ in one setting."""
    for name, rate in (("one", "0.003"), ("two", "0.01")):
        ran = coreframe_("train", "pairs.jsonl", *FEW, "--learning-rate", rate, "-o", name)
        assert ran.returncode in (0, 3), ran.stderr
    return tmp_path


def test_the_page_is_drawn_again_and_several_side_by_side(coreframe_, runs) -> None:
    texts = runs / "pairs.jsonl"
    texts.unlink()  # what it was trained on may be gone
    first = runs / "one" / "report.html"
    before = first.read_bytes()
    first.unlink()
    for name in ("model.safetensors", "learned.safetensors"):
        (runs / "one" / name).unlink(missing_ok=True)
    ran = coreframe_("report", "one")
    assert (ran.returncode, ran.stdout) == (0, "one/report.html\n"), ran.stderr
    assert first.read_bytes() == before

    ran = coreframe_("report", "one", "two", "-o", "new/both.html")
    assert (ran.returncode, ran.stdout) == (0, "new/both.html\n"), ran.stderr
    both = (runs / "new" / "both.html").read_text(encoding="utf-8")
    for text in ("2 runs side by side", "optimizer.learning_rate.peak", "0.003", "0.01"):
        assert text in both
    assert "Different test queries" not in both
    assert "train.epochs" not in both  # they agree

    found = json.loads(coreframe_("report", "one", "two", "--json").stdout)
    assert list(found) == ["one", "two"]
    assert found["one"]["format"] == "coreframe-report"

    # The same with other test queries: such runs are not compared.
    other = json.loads((runs / "two" / "report.json").read_text(encoding="utf-8"))
    other["data"]["test"][0] += 1
    (runs / "three").mkdir()
    (runs / "three" / "report.json").write_text(json.dumps(other), encoding="utf-8")
    assert coreframe_("report", "one", "three").returncode == 0
    page = (runs / "compare.html").read_text(encoding="utf-8")
    assert "Different test queries" in page
    assert '<b class="good">0.' not in page  # nothing is called the best

    shutil.copytree(runs / "two", runs / "deep" / "one")
    ran = coreframe_("report", "one", "deep/one")
    assert ran.returncode == 0, ran.stderr
    assert "deep/one" in (runs / "compare.html").read_text(encoding="utf-8")


def test_what_cannot_be_read_is_named(coreframe_, tmp_path) -> None:
    ran = coreframe_("report", "nowhere")
    assert ran.returncode == 2
    assert "nowhere/report.json is missing: nowhere is no run" in ran.stderr
    folder = tmp_path / "broken"
    folder.mkdir()
    for text, expected in (
        ("{", "report.json cannot be read"),
        ("[]", "is not of the format 'coreframe-report'"),
        ('{"format": "coreframe-report", "version": 99}', "has format version 99"),
    ):
        (folder / "report.json").write_text(text)
        ran = coreframe_("report", "broken")
        assert ran.returncode == 2, ran.stderr
        assert expected in ran.stderr
    ran = coreframe_("report", "broken", "broken")
    assert ran.returncode == 2
    assert "the same run is named twice" in ran.stderr
