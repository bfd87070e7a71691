"""Every file that docs/data.md shows is read, and gives the line that the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from coreframe import config
from coreframe.data.columns import NAMES
from coreframe.data.loading import load_pairs
from coreframe.data.opening import SUFFIXES

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
FILE = re.compile(r"^`([\w./-]+)`\n```\w+\n(.*?)^```\n(?:    (columns [^\n]*)\n)?", re.M | re.S)
FILES = FILE.findall(PAGE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    for name, content, _ in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return folder


def test_the_page_shows_files() -> None:
    assert len(FILES) >= 10
    assert sum(bool(line) for *_, line in FILES) >= 8


@pytest.mark.parametrize(("name", "line"), [(n, line) for n, _, line in FILES if line])
def test_a_file_of_the_page(folder: Path, name: str, line: str) -> None:
    path = folder / name.partition("/")[0]
    loaded = load_pairs([path], config=config.default())
    assert loaded.notes[0] == line
    assert len(loaded.pairs) >= 2


def test_every_name_and_ending_is_on_the_page() -> None:
    names = {name for known in NAMES.values() for name in known}
    assert {name for name in (*names, *SUFFIXES) if f"`{name}`" not in PAGE} == set()
