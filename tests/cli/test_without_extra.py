"""What is said where an optional package is not installed: which extra to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = """
import importlib.machinery, runpy, sys

gone, original = sys.argv[1].split(","), importlib.machinery.PathFinder.find_spec

def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in gone else original(name, path, target)

importlib.machinery.PathFinder.find_spec = classmethod(find_spec)
sys.argv = ["coreframe", *sys.argv[2:]]
runpy.run_module("coreframe", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def without(tmp_path: Path, clean_environment):
    """Run ``python -m coreframe`` where some packages are not installed."""

    def run(packages: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", WITHOUT, packages, *arguments],
            cwd=tmp_path,
            env=clean_environment(),
            encoding="utf-8",
            capture_output=True,
        )

    return run


def test_the_way_to_leave_packages_out_is_sound(without) -> None:
    ran = without("nothing", "--version")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("coreframe ")


@pytest.mark.parametrize(
    ("packages", "named"),
    [
        ("click,rich,jinja2,tomli_w", "click, rich, jinja2, tomli_w"),
        ("click", "click"),
        ("rich", "rich"),
    ],
)
@pytest.mark.parametrize("arguments", [[], ["demo"], ["--version"]])
def test_without_the_command_line_extra(without, tmp_path, packages, named, arguments) -> None:
    ran = without(packages, *arguments)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        f"the command line needs {named}; install it with: pip install 'coreframe-ml[cli]'\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("packages", "arguments", "expected"),
    [
        ("emoji", ["demo", "--quick"], "the demo needs the package 'emoji'"),
        ("pyarrow", ["train", "x.parquet"], "reading Parquet needs the package 'pyarrow'"),
        ("wordllama", ["demo", "--embedder", "wordllama"], "needs the package 'wordllama'"),
    ],
)
def test_without_another_extra(without, tmp_path, packages, arguments, expected) -> None:
    extra = {"emoji": "demo", "pyarrow": "parquet"}.get(packages, packages)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    ran = without(packages, *arguments)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert expected in ran.stderr
    assert f"Install it with: pip install 'coreframe-ml[{extra}]'" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]


def test_the_library_needs_no_extra(tmp_path, clean_environment) -> None:
    """Vectors can be trained and an adapter stored without the command line's packages."""
    code = WITHOUT.replace('runpy.run_module("coreframe", run_name="__main__", alter_sys=True)', "")
    code += """
import numpy as np, coreframe
x = np.random.default_rng(0).normal(size=(60, 8))
run = coreframe.fit(coreframe.Pairs(x, x[:, ::-1].copy()), epochs=2)
run.adapter.save("adapter")
assert coreframe.load("adapter")(x).shape == x.shape
"""
    gone = "click,rich,jinja2,tomli_w,emoji,pyarrow,torch,jax,sklearn,scipy"
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, gone],
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
