"""The kit for whole plugins: the example keeps all promises, and each fault is named by one."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from coreframe import registry
from coreframe.errors import UnknownName
from coreframe.testing import arrays, check, check_plugin, report
from coreframe.testing.plugins import packages, promises
from coreframe.testing.suites import Suite

TESTS = Path(__file__).parents[1]
HEAD = "from coreframe.plugin import hookimpl\n"
LOSSES = """
@hookimpl
def coreframe_losses():
    return {"acme_square": "acme.square:Square"}
"""
SQUARE = '''
from dataclasses import dataclass

from coreframe import RowLoss, namespace


@dataclass(frozen=True, kw_only=True)
class Square(RowLoss):
    """The squared distance, l_i = scale |a_i - r_i|^2.

    Args:
        scale: > 0. Default: 1.0, the distance itself.

    >>> Square().scale
    1.0
    """

    scale: float = 1.0
    needs = ("anchors", "references")

    def rows(self, arrays, batch):
        apart = arrays["anchors"] - arrays["references"]
        xp, slope = namespace(apart=apart), 2 * self.scale * apart
        return self.scale * xp.sum(apart * apart, axis=1), {"anchors": slope, "references": -slope}
'''
Written = Callable[..., str]


@pytest.fixture(autouse=True)
def few_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy alone: what components do on others is not the matter here."""
    monkeypatch.setattr(arrays, "libraries", lambda: {"numpy": arrays.on_numpy})


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Written]:
    """Install a distribution acme 1.0 of the package acme; return its name."""

    def written(
        source: str = LOSSES,
        *,
        requires: str = "coreframe-ml>=0.1,<0.2",
        entry: str = "acme.plugin",
        **files: str,
    ) -> str:
        folder, about = tmp_path / "acme", tmp_path / "acme-1.0.dist-info"
        folder.mkdir()
        about.mkdir()
        lines = ["Metadata-Version: 2.1", "Name: acme", "Version: 1.0"]
        lines += [f"Requires-Dist: {requires}"] if requires else []
        (about / "METADATA").write_text("\n".join(lines) + "\n")
        (about / "entry_points.txt").write_text(f"[coreframe]\nacme = {entry}\n")
        modules = {"__init__": "", "plugin": HEAD + source, "square": SQUARE, **files}
        for name, text in modules.items():
            (folder / f"{name}.py").write_text(dedent(text))
        (folder / "py.typed").touch()
        monkeypatch.syspath_prepend(str(tmp_path))
        registry.reset()
        return "acme"

    for variable in ("COREFRAME_PLUGINS", "COREFRAME_STRICT"):
        monkeypatch.delenv(variable, raising=False)
    yield written
    registry.reset()
    for module in [name for name in sys.modules if name.partition(".")[0] == "acme"]:
        del sys.modules[module]


def outcome(plugin: str, name: str) -> Any:
    package = packages.package(plugin)
    return Suite("", "", promises.PROMISES, lambda: package).check(name)


def test_a_right_plugin_passes_with_its_components(write: Written) -> None:
    checks = check_plugin(write())
    assert all(checks), report([c for c in checks if not c])
    found = {c.name: c for c in checks}
    assert found["packaging"].checked
    assert found["losses:acme_square.gradient"].checked
    assert check("acme")[0].name == checks[0].name


def test_the_example_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS / "example_plugin"))
    checks = check_plugin("soft_margin_plugin.plugin")
    assert all(checks), report([c for c in checks if not c])
    names = {c.name for c in checks}
    assert {"losses:soft_margin.gradient", "miners:threshold.deterministic"} <= names


def test_components_are_made_with_arguments(write: Written) -> None:
    required = SQUARE.replace("scale: float = 1.0", "scale: float").replace(
        "Square()", "Square(scale=1.0)"
    )
    name = write(square=required)
    found = {c.name: c for c in check_plugin(name)}
    assert "needs 'scale'" in found["losses:acme_square.made"].detail
    assert not found["losses:acme_square.made"].checked
    found = {
        c.name: c for c in check_plugin(name, arguments={"losses:acme_square": {"scale": 2.0}})
    }
    assert found["losses:acme_square.gradient"].checked
    with pytest.raises(UnknownName, match=r"does not offer 'losses:square'\. Did you mean"):
        check_plugin(name, arguments={"losses:square": {}})


def test_an_unknown_plugin(write: Written) -> None:
    write()
    with pytest.raises(UnknownName, match=r"no module\. Did you mean 'acme'\?"):
        check_plugin("acmee")


# Plugins that are wrong -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "name", "words"),
    [
        ({"requires": ""}, "packaging", "acme 1.0 does not require coreframe-ml"),
        ({"requires": "coreframe-ml<0.1"}, "packaging", "it asks for coreframe-ml<0.1"),
        ({"entry": "acme.plugins"}, "importable", "No module named 'acme.plugins'"),
        ({"source": "import nothing_like_it"}, "importable", "'nothing_like_it'"),
        ({"source": "raise SystemExit(3)"}, "importable", "SystemExit: 3"),
        ({"source": LOSSES.replace("losses", "loses")}, "hooks", "'coreframe_loses'"),
        ({"source": "x = 1"}, "hooks", "it implements no hook"),
        (
            {"source": LOSSES + "def coreframe_miners():\n    return {}\n"},
            "hooks",
            "acme.plugin.coreframe_miners has no @hookimpl, and is never asked",
        ),
        ({"source": LOSSES.replace("acme_square", "Acme Square")}, "tables", "is not a name"),
        ({"source": LOSSES.replace(":Square", "")}, "tables", "package.module:attribute"),
        ({"source": LOSSES.replace("return", "return {} and")}, "tables", "it offers nothing"),
        (
            {
                "source": "n = []\n"
                + LOSSES.replace("return", "n.append(1); return {} if n[1:] else")
            },
            "tables",
            "something else when it is asked a second time",
        ),
        ({"source": LOSSES.replace(":Square", ":Sqare")}, "targets", "no attribute 'Sqare'"),
        (
            {"source": LOSSES.replace("losses", "miners")},
            "targets",
            "is no subclass of coreframe.Min",
        ),
        (
            {"source": LOSSES.replace("losses", "backends")},
            "targets",
            "has not all of missing, asar",
        ),
        (
            {"source": LOSSES + LOSSES.replace("losses():", "kernels(backend):")},
            "kernels",
            "it offers kernels for 'a_library_that_nobody_has'",
        ),
        ({"source": "import acme.square" + LOSSES}, "light_import", "imports acme.square"),
        ({"source": "import numpy" + LOSSES}, "light_import", "imports numpy"),
        ({"source": "print('welcome')" + LOSSES}, "silent_import", "prints 'welcome"),
        (
            {"source": "import os; os.write(1, b'welcome')" + LOSSES},
            "silent_import",
            "prints 'welcome'",
        ),
        (
            {"source": "import numpy; numpy.seterr(all='raise')" + LOSSES},
            "clean_import",
            "floating point",
        ),
        (
            {"source": "import warnings; warnings.simplefilter('ignore')" + LOSSES},
            "clean_import",
            "warnings",
        ),
        ({"source": "import random; random.seed(0)" + LOSSES}, "clean_import", "random"),
        (
            {"source": "import builtins; builtins.print = None" + LOSSES},
            "clean_import",
            "it changes functions of Python",
        ),
        ({"source": "import os; os._exit(7)" + LOSSES}, "quick_import", "ended with code 7"),
        (
            {"extra": "from coreframe.loading import Loader"},
            "public_imports",
            "extra.py:1 imports coreframe.loading Loader, not public",
        ),
        (
            {"extra": "def f():\n    from coreframe.loss import _check_wrt"},
            "public_imports",
            "extra.py:2 imports coreframe.loss _check_wrt, not public",
        ),
        (
            {"extra": "import coreframe_losses.triplet"},
            "public_imports",
            "imports coreframe_losses.triplet, another plugin",
        ),
    ],
)
def test_a_wrong_plugin_is_named(
    write: Written, changed: dict[str, str], name: str, words: str
) -> None:
    plugin = write(**changed)
    if "os._exit" in changed.get("source", ""):  # which this process would not outlive
        package = packages.package(plugin)
        (promise,) = [p for p in promises.PROMISES if p.name == name]
        vars(package)["offers"] = []
        found = promise.check(package)
    else:
        found = outcome(plugin, name)
    assert not found.ok
    assert words in found.detail, found.detail
    assert "To fix: " in found.detail
    assert callable(print)  # what the plugin does at import is undone in this process


def test_a_slow_import_is_named(write: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = write("import time; time.sleep(0.2)" + LOSSES)
    assert outcome(plugin, "quick_import")
    monkeypatch.setattr(promises, "SLOW_SECONDS", 0.15)
    found = outcome(plugin, "quick_import")
    assert not found.ok
    assert re.match(r"importing acme.plugin took \d\.\d s", found.detail)


def test_what_is_only_worth_knowing_is_a_remark(write: Written, tmp_path: Path) -> None:
    plugin = write(LOSSES.replace("acme_square", "info_nce"), requires="coreframe-ml")
    (tmp_path / "acme" / "py.typed").unlink()
    found = outcome(plugin, "unique")
    assert found.ok
    assert found.detail == "losses:info_nce is offered by coreframe-ml/coreframe_losses too"
    found = outcome(plugin, "packaging")
    assert found.ok
    assert "acme has no py.typed" in found.detail
    assert "'coreframe-ml' has no upper bound" in found.detail


def test_one_name_offered_twice_is_no_remark(write: Written, tmp_path: Path) -> None:
    plugin = write(more=HEAD + LOSSES)
    path = tmp_path / "acme-1.0.dist-info" / "entry_points.txt"
    path.write_text(path.read_text() + "acme_more = acme.more\n")
    assert "is offered twice" in outcome(plugin, "unique").detail


def test_the_public_modules_are_those_of_the_page() -> None:
    page = (TESTS.parent / "docs" / "stability.md").read_text(encoding="utf-8")
    table = page.partition("For authors of plugins")[2].partition("For programs")[0]
    listed = set(re.findall(r"^\| `coreframe\.([\w.]+)`", table, re.MULTILINE))
    assert listed == promises.PUBLIC
