"""What compares a tutorial with its script can fail, and the index lists every tutorial."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tutorials

FOLDER = tutorials.ROOT / "docs" / "tutorials"
SCRIPT = """\
def main():
    for x in range(3):
        print(x)
"""
PAGE = """\
```py
for x in range(3):
    print(x)
```

```text
recall@1    0.500 [+0.400, +0.600]   12 better
```
"""
PRINTED = "  recall@1   0.510 [+0.390, +0.600]   13 better\nmore"


@pytest.fixture
def untrue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for folder in ("docs/tutorials", "examples"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr(tutorials, "ROOT", tmp_path)

    def compared(page: str = PAGE, printed: str = PRINTED) -> list[str]:
        (tmp_path / "docs/tutorials/p.md").write_text(page, "utf-8")
        (tmp_path / "examples/s.py").write_text(SCRIPT, "utf-8")
        return tutorials.untrue("p.md", "s.py", printed)

    return compared


def test_a_true_page(untrue) -> None:
    assert untrue() == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("range(3)", "range(4)", "not in s.py"),
        ("0.500", "0.550", "not printed"),
        ("12 better", "40 better", "not printed"),
        ("[+0.400", "[-0.400", "not printed"),
        ("12 better", "12 worse", "not printed"),
        ("```text\n", "```sh\n", "it quotes no code, or nothing"),
    ],
)
def test_an_untrue_page(untrue, old: str, new: str, problem: str) -> None:
    assert any(problem in found for found in untrue(PAGE.replace(old, new)))


def test_the_index_lists_every_tutorial() -> None:
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", (FOLDER / "index.md").read_text("utf-8")))
    assert listed == {path.name for path in FOLDER.glob("*.md")} - {"index.md"}
