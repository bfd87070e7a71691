"""The pages on errors, environment variables and plugins say what the source does."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import click
import public_names
import pytest

from coreframe import cli, errors, process_state
from coreframe.cli import common

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    """Return the cells of all tables."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# Errors ---------------------------------------------------------------------------------------

CLASSES = {
    name: found
    for name, found in vars(errors).items()
    if inspect.isclass(found) and found.__module__ == errors.__name__
}


def classes_of_the_page() -> dict[str, list[str]]:
    section = page("errors.md").partition("## Classes")[2].partition("## Messages")[0]
    return {row[0].strip("`"): row[1:] for row in rows(section) if row[0].startswith("`")}


def test_every_class_is_in_the_index_with_its_base() -> None:
    found = classes_of_the_page()
    assert set(found) == set(CLASSES)
    assert set(errors.__all__) == {*CLASSES, "nearest", "with_notes"}
    for name, (base, _, _) in found.items():
        bases = {b.__name__ for b in CLASSES[name].__bases__}
        beside = bases - {"CoreframeError", "Exception"}
        assert beside == ({base.strip("`")} if base else set()), name


def made(kind: type[BaseException]) -> BaseException:
    """Return an error of a class, made as its own arguments ask for."""
    if kind is errors.MissingExtra:
        return kind("package", "extra")
    if kind is errors.ConfigError:
        return kind(["a mistake"])
    if kind is errors.CheckpointError:
        return kind("path", None, "reason")
    if kind is errors.Interrupted:
        return kind(None, 3)
    return kind("text")


@pytest.mark.parametrize("name", [n for n, c in CLASSES.items() if not issubclass(c, Warning)])
def test_exit_codes_are_those_of_the_command_line(name: str, monkeypatch, capsys) -> None:
    error = made(CLASSES[name])

    @click.command()
    def boom() -> None:
        raise error

    monkeypatch.setitem(cli.main.commands, "boom", boom)
    code = cli.run(["boom"])
    assert str(code) in classes_of_the_page()[name][2].split(" or ")
    assert "Traceback" not in capsys.readouterr().err


def test_all_exit_codes_are_listed() -> None:
    section = page("errors.md").partition("## Exit codes")[2]
    codes = {int(row[0]) for row in rows(section) if row[0].isdigit()}
    assert codes == {0, *(getattr(common, name) for name in public_names.EXIT_CODES)}


@cache
def texts_of_the_source() -> str:
    """Return all texts of the source, each with … where a value is put in."""
    found = []
    for top in ("coreframe", "backends", "plugins"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    parts = (v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
                    found.append("".join(map(str, parts)))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(node.value)
    return "\n".join(re.sub(r"\s+", " ", text) for text in found)


def messages() -> list[str]:
    section = page("errors.md").partition("## Messages")[2].partition("## Exit codes")[0]
    return [row[0].strip("`") for row in rows(section) if row[0].startswith("`")]


def test_there_are_many_messages() -> None:
    assert len(messages()) >= 35


@pytest.mark.parametrize("message", messages())
def test_every_message_is_in_the_source(message: str) -> None:
    """Its fixed words stand in one text of the source, in this order."""
    words = [re.escape(part) for part in message.split("…")]
    assert re.search("[^\n]*".join(words), texts_of_the_source()), message


# Environment ----------------------------------------------------------------------------------


def test_every_variable_of_ours_has_a_row() -> None:
    ours, others = page("environment.md").partition("## Ours")[2].split("## Of others")
    found = [row[0].strip("`") for row in rows(ours) if row[0].startswith("`")]
    assert sorted(found) == public_names.variables()
    assert all(len(row) == 4 for row in rows(ours))
    assert "COREFRAME_" not in "".join(row[0] for row in rows(others))


def test_variables_of_others_that_we_read_have_a_row() -> None:
    others = page("environment.md").partition("## Of others")[2]
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TENSORBOARD_LOGGING_DIR",
                 "OPENAI_API_KEY", "HF_HUB_OFFLINE"):  # fmt: skip
        assert f"`{name}`" in others


# Plugins --------------------------------------------------------------------------------------


def test_all_that_is_put_back_is_named() -> None:
    text = page("plugins.md")
    for part in process_state.PARTS:
        words = re.split(", | or ", re.sub(r"^the ", "", part.name).replace("np.", ""))
        for word in words:
            head = word.split(" of ")[-1] if "state of" in word else word.split()[0]
            assert head in text, part.name


def test_every_state_is_explained() -> None:
    section = page("plugins.md").partition("## What is installed")[2].partition("## Choose")[0]
    states = [row[0] for row in rows(section)[1:]]
    source = (ROOT / "coreframe" / "discovery.py").read_text(encoding="utf-8")
    known = re.search(r'state: str = "found"  # (.*)', source)
    assert known
    assert states == [word.strip() for word in known[1].split("|")]
