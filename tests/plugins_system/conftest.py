"""Plugins for real: installed by pip and seen by a fresh Python, or written on the spot."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from coreframe import registry

TESTS = Path(__file__).parents[1]
Run = Callable[..., subprocess.CompletedProcess[str]]


def _install(source: Path, target: Path) -> Path:
    """Build and install a distribution into a folder of its own; nothing is downloaded."""
    options = "--quiet --no-deps --no-index --no-build-isolation --disable-pip-version-check"
    command = [sys.executable, "-m", "pip", "install", *options.split()]
    subprocess.run([*command, "--target", str(target), str(source)], check=True)
    return target


@pytest.fixture(scope="session")
def example_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _install(TESTS / "example_plugin", tmp_path_factory.mktemp("installed") / "example")


@pytest.fixture(scope="session")
def broken_plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _install(TESTS / "broken_plugin", tmp_path_factory.mktemp("installed") / "broken")


def fresh(
    cwd: Path, *arguments: str, plugins: tuple[Path, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a fresh Python with some plugins installed: ``fresh(cwd, "-c", code, plugins=...)``."""
    left_out = ("COREFRAME_", "PYTHONPATH", "PYTHONWARNINGS", "PYTEST_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(left_out)}
    env |= {"PYTHONPATH": os.pathsep.join(map(str, plugins)), "COLUMNS": "200", **variables}
    return subprocess.run(
        [sys.executable, *arguments], env=env, cwd=cwd, text=True, capture_output=True
    )


@pytest.fixture
def python(tmp_path: Path) -> Run:
    """Run a fresh Python in the folder of the test: ``python("-c", code, plugins=[folder])``."""
    return functools.partial(fresh, tmp_path)


@pytest.fixture
def write_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str], str]]:
    """Write a distribution and its one module to the path of this process; return its key.

    ``write_plugin("acme-one", source)`` gives the plugin ``acme-one/acme_one``; the module may
    use ``hookimpl``. The registry is read anew before and after the test.
    """
    written = []

    def write(
        distribution: str,
        source: str,
        *,
        entry: str = "",
        group: str = "coreframe",
        metadata: bool = True,
    ) -> str:
        module = distribution.replace("-", "_")
        folder = tmp_path / f"path_{distribution}"
        about = folder / f"{module}-1.0.dist-info"
        about.mkdir(parents=True)
        if metadata:
            text = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
            (about / "METADATA").write_text(text)
        entry = entry or module
        (about / "entry_points.txt").write_text(f"[{group}]\n{entry} = {module}\n")
        head = "from coreframe.plugin import hookimpl\n"
        (folder / f"{module}.py").write_text(head + dedent(source))
        monkeypatch.syspath_prepend(str(folder))
        written.append(module)
        return f"{distribution}/{entry}"

    for variable in ("COREFRAME_PLUGINS", "COREFRAME_STRICT"):
        monkeypatch.delenv(variable, raising=False)
    registry.reset()
    yield write
    registry.reset()
    for module in written:
        sys.modules.pop(module, None)
