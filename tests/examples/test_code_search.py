"""examples/code_search.py: what it reads from the standard library, and what it finds."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
from support import load_example
from tutorials import untrue

SCRIPT = Path(__file__).parents[2] / "examples" / "code_search.py"

SOURCE = '''
def documented(x):
    """Return twice the number
    that was given.

    A second paragraph.
    """
    return 2 * x


def bare(x):
    return x


def only_words():
    """This one has a docstring and nothing else to find."""


def short():
    """Too short."""
    return 1


class Thing:
    async def method(self):
        """Wait for the thing to be done, somehow."""
        def inner():
            """Say what the inner function does here."""
            return 3
        return inner
'''


@pytest.fixture
def example() -> ModuleType:
    return load_example("code_search")


def test_functions(example: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(SOURCE)
    found = dict(example.functions(tmp_path / "m.py"))
    assert found["Return twice the number that was given."] == (
        "def documented(x):\n    return 2 * x"
    )
    assert set(found) == {
        "Return twice the number that was given.",
        "Wait for the thing to be done, somehow.",
        "Say what the inner function does here.",
    }
    for doc, source in found.items():
        assert doc not in source  # or the answer would stand in the question
        compile(source, "function", "exec")


def test_a_file_that_is_no_python(example: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("def broken(:\n")
    assert list(example.functions(tmp_path / "m.py")) == []


def test_rows(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one.py", "two/__init__.py", "two/deep.py", "test/t.py", "two/tests/u.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(SOURCE)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    rows = example.rows()
    assert len(rows) == 9
    assert [module for *_, module in rows] == ["one"] * 3 + ["two"] * 6


@pytest.mark.slow
def test_whitening_brings_most_of_the_gain(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", "out"], cwd=tmp_path, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert sum(metrics["queries"].values()) > 3000
    base, adapted = metrics["baseline"]["ndcg@10"], metrics["adapted"]["ndcg@10"]
    whitening = metrics["candidates"]["whitening"]["test"]["ndcg@10"]
    assert metrics["gate"]["passed"]
    assert whitening - base > (adapted - base) / 2
    assert "whitening" in ran.stdout
    assert "rebuild" in ran.stdout
    assert untrue("code-search.md", "code_search.py", ran.stdout) == []
