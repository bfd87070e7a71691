"""The repository's shape: what must agree in several places does, and nothing is in the way."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import coreframe
from coreframe import registry
from coreframe.plugin import KINDS

ROOT = Path(__file__).parents[2]
TOP = {
    "mkdocs.yml",
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "coreframe",
    "backends",
    "plugins",
    "tests",
    "docs",
    "examples",
    "benchmarks",
}
LONGEST = 600
ARRAYS = ("numpy", "cupy", "torch", "jax", "array_api_compat", "array_api_strict")


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@cache
def tracked() -> list[str]:
    """Return the files that git tracks, or skip the test outside of a checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    found = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [name for name in found.stdout.split("\0") if name and (ROOT / name).exists()]


def packages() -> dict[str, Path]:
    """Return our plugin packages and their folders, as they lie in the two source roots."""
    roots = (ROOT / "backends", ROOT / "plugins")
    return {p.name: p for root in roots for p in sorted(root.glob("*")) if p.name[0] not in "._"}


def python(code: str, **variables: str) -> str:
    """Run code in a fresh Python, with warnings as errors, and return what it prints."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("COREFRAME_", "PYTHON"))}
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT / "docs",
        env=env | variables,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


# One list of packages -------------------------------------------------------------------------


def test_every_list_of_packages_is_the_folders() -> None:
    tool = project()["tool"]
    ours = set(packages())
    with_core = {"coreframe", *ours}
    paths = {f"{path.parent.name}/{path.name}" for path in packages().values()}
    assert len(ours) >= 11
    assert set(tool["hatch"]["build"]["targets"]["wheel"]["packages"]) == {"coreframe", *paths}
    assert set(tool["importlinter"]["root_packages"]) == with_core
    assert set(tool["mypy"]["packages"]) == with_core
    assert set(tool["ruff"]["lint"]["isort"]["known-first-party"]) == with_core
    entry_points = project()["project"]["entry-points"]["coreframe"]
    assert entry_points == {name: f"{name}.plugin" for name in ours}
    assert set(tool["hatch"]["build"]["dev-mode-dirs"]) == {".", "backends", "plugins"}


def test_every_import_contract_knows_every_package() -> None:
    ours = set(packages())
    contracts = project()["tool"]["importlinter"]["contracts"]
    lists = [c[key] for c in contracts for key in ("modules", "source_modules", "forbidden_modules")
             if key in c]  # fmt: skip
    naming = [set(names) for names in lists if any(n.startswith("coreframe_") for n in names)]
    assert len(naming) >= 3
    assert all(names == ours for names in naming)


def test_what_is_installed_is_what_is_written() -> None:
    found = importlib.metadata.entry_points(group="coreframe")
    ours = {e.name: e.value for e in found if e.dist and e.dist.name == "coreframe-ml"}
    assert ours == project()["project"]["entry-points"]["coreframe"]
    assert importlib.metadata.version("coreframe-ml") == coreframe.__version__


def test_versions_agree() -> None:
    assert project()["project"]["version"] == coreframe.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    newest = re.search(r"^## (\S+)", changelog, re.MULTILINE)
    assert newest
    assert newest[1] in (coreframe.__version__, "Unreleased")


@pytest.mark.parametrize("name", ["coreframe", *packages()])
def test_every_package_is_typed(name: str) -> None:
    folder = packages().get(name, ROOT / name)
    assert (folder / "py.typed").exists()
    assert (folder / "__init__.py").exists()


def test_extras_bring_no_heavy_library() -> None:
    heavy = {"torch", "jax", "scipy", "scikit-learn", "pandas", "matplotlib", "cupy"}
    extras = project()["project"]["optional-dependencies"]
    for wanted in (project()["project"]["dependencies"], extras["cli"], extras["demo"]):
        assert not heavy & {re.split(r"[^\w-]", requirement)[0] for requirement in wanted}
    assert not {"torch", "jax"} & {re.split(r"[^\w-]", r)[0] for r in extras["dev"]}


# Where things lie -----------------------------------------------------------------------------


def test_the_top_level_is_this() -> None:
    names = {name.partition("/")[0] for name in tracked()}
    assert {name for name in names if not name.startswith(".")} == TOP
    assert any(name.startswith(".ci/") for name in tracked())


def test_a_component_lies_in_the_file_of_its_name() -> None:
    ours = [
        entry
        for kind in KINDS
        if kind != "backends"
        for entry in registry.registry().entries(kind)
        if entry.plugin.built_in and entry.target.startswith("coreframe_")
    ]
    assert len(ours) > 12
    for entry in ours:
        module, _, attribute = entry.target.partition(":")
        assert module.rpartition(".")[2] == entry.name
        assert attribute.lower() == entry.name.replace("_", "")
        assert entry.load().__module__ == module


def test_every_file_of_a_plugin_is_a_component() -> None:
    """A file that no table names is dead, or a helper in the wrong place."""
    entries = [entry for kind in KINDS for entry in registry.registry().entries(kind)]
    targets = {entry.target.partition(":")[0] for entry in entries}
    for name, folder in packages().items():
        if folder.parent.name == "plugins":
            files = {path.stem for path in folder.glob("*.py")} - {"__init__", "plugin"}
            assert {f"{name}.{stem}" for stem in files} <= targets


def test_no_file_is_too_long() -> None:
    sources = [*(ROOT / "coreframe").rglob("*.py"), *(ROOT / "examples").glob("*.py")]
    sources += [path for folder in packages().values() for path in folder.rglob("*.py")]
    sizes = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in sources}
    assert {name: size for name, size in sizes.items() if size > LONGEST} == {}


def test_nothing_says_to_install_the_package_of_another_project() -> None:
    wrong = re.compile(r"install(?:\s+-{1,2}[\w-]+)*\s+['\"]?coreframe(?![\w-])")
    assert wrong.search("pip install -U 'core" + "frame[cli]'")
    assert not wrong.search("pip install 'coreframe-ml[cli]'")
    for name in tracked():
        if Path(name).suffix in {".md", ".py", ".toml", ".html", "", ".txt"}:
            text = (ROOT / name).read_text(encoding="utf-8")
            if name != Path(__file__).relative_to(ROOT).as_posix():
                assert not wrong.search(text), name


def test_nothing_names_a_home_folder() -> None:
    private = re.compile(r"/(?:home|Users|root|work)/\w+")
    for name in tracked():
        if Path(name).suffix in {".md", ".py", ".toml", ".html"}:
            assert not private.search((ROOT / name).read_text(encoding="utf-8")), name


# What is imported when ------------------------------------------------------------------------

HEAVY = (
    "rich", "jinja2", "tomli_w", "safetensors", "threadpoolctl", "numba", "emoji", "pyarrow",
    "asyncio", "multiprocessing", "unittest",
)  # fmt: skip
PRINT_ARRAYS = f"print([m for m in {ARRAYS!r} if m in sys.modules])"


def test_importing_imports_no_array_library() -> None:
    assert python(f"import sys, coreframe; {PRINT_ARRAYS}") == "[]\n"
    ours = "[m for m in sys.modules if m.partition('.')[0].startswith('coreframe')]"
    assert python(f"import sys, coreframe; print({ours})") == "['coreframe']\n"
    assert python(f"import sys, coreframe; coreframe.hookimpl; {PRINT_ARRAYS}") == "[]\n"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["demo", "--help"], ["list"], ["list", "losses"], ["plugins"],
     ["show", "losses", "info_nce"]],
)  # fmt: skip
def test_looking_around_is_fast(arguments: list[str]) -> None:
    """It imports no array library, nothing that draws or renders, and little of the core."""
    code = f"""
import contextlib, io, sys
from coreframe.__main__ import main
sys.argv = ["coreframe", *{arguments!r}]
with contextlib.redirect_stdout(io.StringIO()) as out:
    assert main() == 0
assert out.getvalue()
print([m for m in {(*ARRAYS, *HEAVY)!r} if m in sys.modules])
core = [m for m in sys.modules if m.startswith("coreframe.")]
print(len([m for m in core if not m.startswith("coreframe.cli.")]))  # which hold the verbs
"""
    heavy, count = python(code).splitlines()
    assert heavy == "[]"
    # Showing a loss imports what a loss is made of; nothing else imports any component.
    assert int(count) <= (30 if arguments[0] == "show" else 14)


def test_every_public_name_can_be_imported() -> None:
    assert coreframe.__all__ == [*sorted(coreframe.__all__[:-1]), "__version__"]
    for name in coreframe.__all__:
        assert getattr(coreframe, name) is not None
        assert name in dir(coreframe)
    with pytest.raises(AttributeError, match="module 'coreframe' has no attribute 'Losss'"):
        _ = coreframe.Losss  # type: ignore[attr-defined]


def test_type_checkers_see_the_lazy_names() -> None:
    """The block for type checkers and the table of lazy names are one list."""
    tree = ast.parse((ROOT / "coreframe" / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname: str(node.module).removeprefix("coreframe.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert seen == coreframe._HOMES
