"""examples/continual_learning.py: EWC keeps the first task and does not cost the second."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support import load_example
from tutorials import untrue

SCRIPT = Path(__file__).parents[2] / "examples" / "continual_learning.py"

SOURCE = '''
def documented(x):
    """Return twice the number
    that was given.

    More of it.
    """
    return 2 * x


class Thing:
    async def method(self):
        """Wait."""
        return 3

    def bare(self):
        return 4

    def only_words(self):
        """Nothing but this."""
'''


@pytest.fixture
def example() -> ModuleType:
    return load_example("continual_learning")


def test_functions(example: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(SOURCE)
    (tmp_path / "two" / "tests").mkdir(parents=True)
    (tmp_path / "two" / "deep.py").write_text(SOURCE)
    (tmp_path / "two" / "tests" / "test.py").write_text(SOURCE)
    for module in ("one", "two"):
        assert list(example.functions(module, tmp_path)) == [
            ("Return twice the number that was given.", "def documented(x):\n    return 2 * x"),
            ("Wait.", "async def method(self):\n    return 3"),
        ]
    assert list(example.functions("three", tmp_path)) == []


def test_less_than_half_is_forgotten(tmp_path: Path) -> None:
    """With EWC, less than half of what is forgotten without, and task two within 2 percent."""
    ran = subprocess.run([sys.executable, SCRIPT], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    rows = {
        words.strip(): [float(x) for x in numbers.split()]
        for words, numbers in re.findall(r"^(.{24})((?: +-?\d\.\d+){3})$", ran.stdout, re.M)
    }
    assert len(rows) == 4
    _, _, before = rows["after task one"]
    _, forgotten, learned = rows["task two, unprotected"]
    _, kept, protected = rows["task two, ewc 0.02"]
    assert forgotten > 0.03  # something to keep, also where tkinter is not installed
    assert learned > before + 0.05
    assert kept < forgotten / 2
    assert protected > 0.98 * learned
    assert untrue("two-tasks.md", "continual_learning.py", ran.stdout) == []
