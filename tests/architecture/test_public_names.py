"""What others may rely on does not change by accident; docs/stability.md says what that is."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path

import public_names
import pytest

import coreframe
from coreframe import plugin

ROOT = Path(__file__).parents[2]
COMMAND = "python tests/public_names.py"
INSIDE = {
    "blocks", "data", "dtypes", "duplicates", "http_json", "lazy", "model_files", "storage",
    "tiles",
}  # fmt: skip
"""Internal modules that our own packages use: they are released together with the core."""


def test_public_names_are_those_that_are_stored() -> None:
    stored = public_names.STORED.read_text(encoding="utf-8").splitlines()
    found = public_names.collect()
    gone = "\n".join(f"  - {line}" for line in sorted(set(stored) - set(found)))
    new = "\n".join(f"  + {line}" for line in sorted(set(found) - set(stored)))
    assert not gone, (
        f"public names were removed or changed:\n{gone}\n{new}\nIf that is meant, let the old name "
        "warn for one minor release (docs/stability.md), note it in CHANGELOG.md, and run "
        f"{COMMAND}"
    )
    assert not new, f"new public names:\n{new}\nNote them in CHANGELOG.md and run {COMMAND}"


def test_the_list_knows_all_sorts() -> None:
    lines = public_names.collect()
    for line in (
        "coreframe.PairwiseLoss is coreframe.loss.PairwiseLoss",
        "coreframe.loss.PairwiseLoss.row_terms(self, similarities, positive, negative)",
        "entry point group coreframe",
        "component losses info_nce is coreframe_losses.info_nce:InfoNCE",
        "hook coreframe_kernels(backend)",
        "command train --seed",
        "variable COREFRAME_PLUGINS",
        "exit code NOT_BETTER = 3",
        "format coreframe-adapter 1",
    ):
        assert line in lines, line
    assert any(line.startswith("component losses info_nce(*, ") for line in lines)


@pytest.mark.parametrize("module", public_names.modules())
def test_every_public_module_says_what_is_public(module: str) -> None:
    names = importlib.import_module(module).__all__
    assert len(names) == len(set(names)) > 0
    assert not [name for name in names if name.startswith("_") and name != "__version__"]


def test_what_the_package_offers_is_public_where_it_lives() -> None:
    for name, home in coreframe._HOMES.items():
        module = f"coreframe.{home}"
        if module in public_names.modules():
            assert name in importlib.import_module(module).__all__


def imported(code: str) -> set[tuple[str, str]]:
    """Return what code imports from the core: pairs of module and name."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "coreframe":
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                whole = (ROOT / module.replace(".", "/")).with_suffix(".py").exists()
                found.add((module, "") if whole else (str(node.module), alias.name))
    return found


def offered(module: str) -> list[str]:
    """Return the ``__all__`` of a module whose framework may be missing, so unimported."""
    path = ROOT / module.replace(".", "/")
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return []


def test_documents_use_public_names_alone() -> None:
    blocks = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    pages = [page for page in pages if "components" not in page.parts]  # which are doctests
    sources = {
        f"{p}:{m.start()}": m[1]
        for p in pages
        for m in blocks.finditer(p.read_text(encoding="utf-8"))
    }
    programs = (ROOT / "tests" / "example_plugin").rglob("*.py")
    sources |= {str(path): path.read_text(encoding="utf-8") for path in programs}
    used = {(module, name) for code in sources.values() for module, name in imported(code)}
    assert len(used) > 30
    known = set(public_names.modules())
    hidden = {
        f"{module}.{name}"
        for module, name in used
        if not (
            name in offered(module)
            if module.startswith("coreframe.interop.")
            else module in known and (not name or name in importlib.import_module(module).__all__)
        )
    }
    assert hidden == set()


def core() -> set[str]:
    return {
        path.stem
        for path in (ROOT / "coreframe").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem[0] != "_"
    }


def test_the_import_contract_is_the_page() -> None:
    """Each module of the core is public, or forbidden to our plugins, or known to be inside."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contract = next(c for c in contracts["contracts"] if "public modules" in c["name"])
    forbidden = {name.removeprefix("coreframe.") for name in contract["forbidden_modules"]}
    text = public_names.PAGE.read_text(encoding="utf-8")
    table = text.partition("For authors of plugins")[2].partition("For programs")[0]
    public = set(re.findall(r"^\| `coreframe\.(\w+)", table, re.MULTILINE))
    assert forbidden == core() - public - INSIDE


# Hooks --------------------------------------------------------------------------------------


def test_no_retired_hook_is_overdue() -> None:
    """In the version that it names an entry goes, and so does the old hook."""

    def numbers(version: str) -> list[int]:
        return [int(part) for part in version.split(".")[:2]]

    for name, retired in plugin.RETIRED.items():
        assert name not in plugin.HOOKS
        assert retired.now in plugin.HOOKS
        assert numbers(coreframe.__version__) < numbers(retired.until), name
