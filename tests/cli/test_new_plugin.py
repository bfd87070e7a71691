"""``coreframe new-plugin``: what it writes installs, keeps promises and clashes with nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from coreframe import scaffold, storage
from coreframe.cli import new_plugin
from coreframe.errors import ArgumentError, OutputError
from coreframe.scaffold import NewPlugin, requirement, write

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]
OFFLINE = "--quiet --no-deps --no-index --no-build-isolation --disable-pip-version-check"


@dataclass(frozen=True)
class Made:
    """A plugin that was written and installed: what was said, and where it lies."""

    told: str
    folder: Path
    installed: Path
    environment: dict[str, str]

    def run(self, *command: str) -> str:
        """Run a command in its folder, and return what it prints; it must not fail."""
        ran = subprocess.run(
            command, cwd=self.folder, env=self.environment, text=True, capture_output=True
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def python(self, *arguments: str) -> str:
        return self.run(sys.executable, *arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """``coreframe new-plugin acme-ring``, built and installed where a fresh Python sees it."""
    parent = tmp_path_factory.mktemp("new-plugin")
    left_out = ("COREFRAME_", "PYTHON", "PYTEST_", "FORCE_COLOR")
    env = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    command = [sys.executable, "-m", "coreframe", "new-plugin", "acme-ring", "--loss", "ring_loss"]
    command += ["--author", "Ada Lovelace <ada@example.org>"]
    ran = subprocess.run(command, cwd=parent, env=env, text=True, capture_output=True, check=True)
    folder, installed = parent / "acme-ring", parent / "installed"
    pip = [sys.executable, "-m", "pip", "install", *OFFLINE.split()]
    subprocess.run([*pip, "--target", str(installed), str(folder)], env=env, check=True)
    # Without libraries that are slow to start; strict, as in the plugin's own CI.
    env |= {"PYTHONPATH": str(installed), "COREFRAME_PLUGINS": "-coreframe_jax,-coreframe_torch"}
    env |= {"COREFRAME_STRICT": "1", "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
    return Made(ran.stdout, folder, installed, env)


# The result -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_its_own_tests_pass(made: Made) -> None:
    told = made.python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error")
    assert int(re.search(r"(\d+) passed", told)[1]) > 35  # type: ignore[index]
    assert "failed" not in told


def test_it_is_listed_at_once(made: Made) -> None:
    rows = json.loads(made.python("-m", "coreframe", "list", "--json"))
    ours = {(r["kind"], r["name"]): r["target"] for r in rows if r["distribution"] == "acme-ring"}
    assert ours == {
        ("losses", "ring_loss"): "acme_ring.ring_loss:RingLoss",
        ("miners", "acme_ring_miner"): "acme_ring.acme_ring_miner:AcmeRingMiner",
    }
    shown = made.python("-m", "coreframe", "show", "losses", "ring_loss")
    assert "margin: float | Scheduler = 0.3" in shown


def test_the_distribution_keeps_its_promises(made: Made) -> None:
    """Those of the components are among its own tests."""
    names = "packaging importable hooks tables targets unique light_import public_imports"
    only = [word for name in names.split() for word in ("--only", name)]
    told = made.python("-m", "coreframe", "check", "acme-ring", *only)
    assert "8 promises kept, 0 broken" in told


def test_it_is_clean_and_typed(made: Made) -> None:
    made.python("-m", "ruff", "check", "--isolated", "--no-cache", ".")
    made.python("-m", "ruff", "check", "--no-cache", ".")
    made.python("-m", "ruff", "format", "--check", "--no-cache", ".")
    # The path of coreframe itself for mypy, which does not follow an editable install's hook.
    env = {"MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache" / "new-plugin")}
    made.environment.update(env)
    assert "Success" in made.python("-m", "mypy", "--strict", "src")


def test_what_is_installed_is_whole(made: Made) -> None:
    package = {path.name for path in (made.installed / "acme_ring").iterdir()}
    assert package >= {"__init__.py", "plugin.py", "py.typed", "ring_loss.py", "acme_ring_miner.py"}
    about = made.installed / "acme_ring-0.1.0.dist-info"
    assert "[coreframe]\nacme_ring = acme_ring.plugin" in (about / "entry_points.txt").read_text()
    metadata = (about / "METADATA").read_text()
    assert f"Requires-Dist: {requirement('0.1.0')}".split(">=")[0] in metadata
    assert "Author-email: Ada Lovelace <ada@example.org>" in metadata
    assert "Ada Lovelace" in (about / "licenses" / "LICENSE").read_text()


def test_what_was_written_is_said(made: Made) -> None:
    written = {path.removeprefix("wrote acme-ring/") for path in made.told.splitlines()}
    files = {p.relative_to(made.folder).as_posix() for p in made.folder.rglob("*") if p.is_file()}
    assert {f for f in files if "__pycache__" not in f and f[:6] != "build/"} <= written
    for command in ("cd acme-ring", "python -m pip install -e '.[test]'", "python -m pytest"):
        assert f"\n  {command}\n" in made.told


@pytest.mark.integration
def test_in_a_fresh_environment(tmp_path: Path) -> None:
    """As a newcomer does it, with the index that pip knows of."""
    bin_ = tmp_path / "venv" / "bin"

    def run(*command: str, cwd: Path = tmp_path) -> str:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("COREFRAME_", "PYTHON"))}
        ran = subprocess.run(command, cwd=cwd, env=env, text=True, capture_output=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    run(sys.executable, "-m", "venv", "venv")
    run(f"{bin_}/pip", "install", "-q", f"{ROOT}[cli]")
    run(f"{bin_}/coreframe", "new-plugin", "acme-ring", "--loss", "ring_loss")
    folder = tmp_path / "acme-ring"
    run(f"{bin_}/python", "-m", "pip", "install", "-q", "-e", ".[test]", cwd=folder)
    assert " passed" in run(f"{bin_}/python", "-m", "pytest", "-q", cwd=folder)
    assert "ring_loss" in run(f"{bin_}/coreframe", "list", "losses")
    assert " 0 broken" in run(f"{bin_}/coreframe", "check", "acme-ring")


# What is written ------------------------------------------------------------------------------


@pytest.mark.parametrize("license_", scaffold.LICENSES)
def test_licences(license_: str) -> None:
    files = NewPlugin(name="acme-ring", license=license_, author='A "B" \\ C').files
    project = tomllib.loads(files["pyproject.toml"])["project"]
    assert project["authors"] == [{"name": 'A "B" \\ C'}]
    if license_ == "none":
        assert "LICENSE" not in files
        assert project["classifiers"] == ["Private :: Do Not Upload"]
    else:
        assert project["license"] == license_
        assert license_.partition("-")[0] in files["LICENSE"]
    assert ('A "B"' in files.get("LICENSE", "")) == (license_ == "MIT")


def test_without_an_author() -> None:
    files = NewPlugin(name="acme-ring").files
    assert "authors" not in tomllib.loads(files["pyproject.toml"])["project"]
    assert "the authors of acme-ring" in files["LICENSE"]


def test_nothing_is_left_to_fill_in() -> None:
    for path, text in NewPlugin(name="acme-ring").files.items():
        assert not re.search(r"\$(?!\{\{)", path + text), path
        assert text.endswith("\n") or path.endswith("py.typed")


def test_the_command_and_the_maker_know_the_same_licences() -> None:
    assert new_plugin.LICENSES == scaffold.LICENSES


@pytest.mark.parametrize(
    ("version", "wanted"),
    [("0.1.0", ">=0.1,<0.2"), ("0.9.3", ">=0.9,<0.10"), ("1.4.0.dev1", ">=1.4,<1.5")],
)
def test_it_asks_for_this_minor_release(version: str, wanted: str) -> None:
    assert requirement(version) == f"coreframe-ml{wanted}"


@pytest.mark.parametrize("name", ["Acme.Ring", "acme__ring", "acme-ring"])
def test_the_package_is_called_as_the_distribution(name: str) -> None:
    assert NewPlugin(name=name).package == "acme_ring"


# What is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acme ring", "cannot be the name of a distribution: letters, digits"),
        ("-acme", "cannot be the name of a distribution"),
        ("", "cannot be the name of a distribution"),
        ("größe", "cannot be the name of a distribution"),
        ("../acme", "cannot be the name of a distribution"),
        ("2ring", "makes the package '2ring', which Python cannot import; begin with a letter"),
        ("class", "'class' is a word of Python.* try 'my-class'"),
        ("json", "'json' is a module of Python's standard library; try 'my-json'"),
        ("coreframe", "names that begin with coreframe are of coreframe itself; try 'acme-losses'"),
        ("coreframe-ring", "names that begin with coreframe are.* try 'acme-ring'"),
        ("pytest", r"a distribution 'pytest' \(.*\) is installed here"),
        ("_pytest", "cannot be the name"),
        ("PyTest", "is installed here"),
        ("array.api.compat", "is installed here"),
        ("pkg-resources-ring", None),
    ],
)
def test_names_that_clash(name: str, message: str | None) -> None:
    if message is None:
        NewPlugin(name=name)
        return
    with pytest.raises(ArgumentError, match=message):
        NewPlugin(name=name)


def test_a_module_of_another_distribution_is_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib" / "acme_ring").mkdir(parents=True)
    (tmp_path / "lib" / "acme_ring" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    with pytest.raises(ArgumentError, match=r"'acme_ring' can be imported here already.*lib"):
        NewPlugin(name="acme-ring")


def test_a_folder_of_that_name_here_is_no_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "acme").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as with python -m coreframe
    assert NewPlugin(name="acme").package == "acme"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "SoftRing"}, "the loss 'SoftRing' must be small letters.*; try 'soft_ring'"),
        ({"loss": "soft-ring"}, "try 'soft_ring'"),
        ({"loss": "1ring"}, "the loss '1ring' must be small letters"),
        ({"loss": "lambda"}, "one of which is taken; try 'my_lambda_loss'"),
        ({"loss": "plugin"}, "would have the file plugin.py"),
        ({"loss": "pairwise_loss"}, "the class PairwiseLoss, one of which is taken"),
        ({"miner": "ranking_miner"}, "try 'my_ranking_miner'"),
        ({"miner": "value_error"}, "the class ValueError"),
        ({"loss": "info_nce"}, "there is a loss 'info_nce' of coreframe-ml"),
        ({"miner": "hardest"}, "there is a miner 'hardest' of coreframe-ml.*'coreframe-ml"),
        ({"loss": "ring", "miner": "ring"}, "loss and miner are both called 'ring'"),
        ({"author": "A\nB"}, "must be one line"),
        ({"license": "mit"}, "the licence 'mit' is not offered. "),
    ],
)
def test_words_that_cannot_be(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        NewPlugin(name="acme-ring", **fields)


def test_a_folder_with_files_is_left_alone(tmp_path: Path, coreframe_: Run) -> None:
    (tmp_path / "acme-ring").mkdir()
    (tmp_path / "acme-ring" / "mine.txt").write_text("mine")
    ran = coreframe_("new-plugin", "acme-ring")
    assert ran.returncode == 2
    assert ran.stderr == (
        "error: the folder acme-ring is not empty, and nothing is overwritten; "
        "choose another with --out\n"
    )
    assert [p.name for p in tmp_path.rglob("*")] == ["acme-ring", "mine.txt"]


def test_folders_that_can_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = NewPlugin(name="acme-ring")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for place in ("empty", "deep/er"):
        assert (tmp_path / place / write(plugin, tmp_path / place)[0]).exists()
    with pytest.raises(ArgumentError, match="is a file; choose another folder"):
        write(plugin, tmp_path / "file")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ArgumentError, match="the working directory cannot be replaced"):
        write(plugin, Path("."))
    assert {p.name for p in tmp_path.iterdir()} == {"empty", "deep", "file", "here"}


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def full(path: Path, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == 5:
            raise OSError(28, "No space left on device")
        path.write_bytes(data)

    monkeypatch.setattr(storage, "write_synced", full)
    with pytest.raises(OutputError, match=r"cannot write .*acme-ring.*: No space left on device"):
        write(NewPlugin(name="acme-ring"), tmp_path / "acme-ring")
    assert list(tmp_path.iterdir()) == []
