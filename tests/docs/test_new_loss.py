"""The tutorial on a new loss is true: its files are written, its commands run, in its order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from .test_examples import FENCE, ROOT, Block, blocks, says

PAGE = ROOT / "docs" / "tutorials" / "new-loss.md"
NEW = "# src/acme_losses/multi_similarity.py"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A virtual environment that sees what is installed here, and settings without a network."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place, with_pip=False)
    bin_ = place / "bin"
    # A path file that is read as a site folder, so that editable installs in it count too.
    site = next((place / "lib").glob("python*")) / "site-packages"
    (site / "here.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"
    )
    command = bin_ / "coreframe"
    command.write_text(f'#!/bin/sh\nexec {bin_}/python -m coreframe "$@"\n')
    command.chmod(0o755)
    left_out = ("COREFRAME_", "PYTHON", "PYTEST_", "PIP_", "FORCE_COLOR", "OPENBLAS", "OMP")
    env = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    offline = {"NO_INDEX": "1", "NO_DEPS": "1", "NO_BUILD_ISOLATION": "0"}  # 0 is no isolation
    env |= {f"PIP_{name}": value for name, value in offline.items()}
    env |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONIOENCODING": "utf-8", "COLUMNS": "200"}
    env |= {"COREFRAME_PLUGINS": "-coreframe_jax,-coreframe_torch", "OPENBLAS_NUM_THREADS": "1"}
    return env | {"PATH": f"{bin_}{os.pathsep}{env['PATH']}"}


@pytest.mark.slow
def test_every_step(tmp_path: Path, environment: dict[str, str]) -> None:
    """Blocks that name a file write it; commands are run where the last ones ended."""
    cwd, text = tmp_path, PAGE.read_text(encoding="utf-8")
    fences = list(FENCE.finditer(text))
    for fence, after in zip(fences, [*fences[1:], fences[-1]], strict=True):
        block = Block(PAGE, fence[1], fence[2], text.count("\n", 0, fence.start()))
        if named := re.match(r"# ([\w/]+\.\w+)\n", block.code):
            (cwd / named[1]).write_text(block.code, encoding="utf-8")
        if block.language == "sh":
            shown = after[2] if after[1] == "text" else ""
            cwd = run(block, shown, cwd, environment)
    assert cwd == tmp_path
    assert (tmp_path / "run" / "model.safetensors").exists()


def run(block: Block, shown: str, cwd: Path, environment: dict[str, str]) -> Path:
    """Run commands; return where they end. They may fail only if the page shows a failure."""
    place = environment["PATH"].partition(os.pathsep)[0] + "/where"
    ran = subprocess.run(
        ["bash", "-c", f"set -e; trap 'pwd > {place}' EXIT\n{block.code}"],
        cwd=cwd, env=environment, text=True, capture_output=True, timeout=120,
    )  # fmt: skip
    where, told = f"{PAGE.name}:{block.line}\n", ran.stdout + ran.stderr
    assert (ran.returncode != 0) == ("FAIL" in shown), where + told
    assert not shown or says(ran.stdout, shown), where + told
    return Path(Path(place).read_text().strip())


def test_it_is_fifteen_lines() -> None:
    first = next(b for b in blocks(PAGE, "py") if b.code.startswith(NEW))
    body = first.code[first.code.index("@dataclass") :]
    assert len([line for line in body.splitlines() if line.strip()]) <= 16


def test_the_last_form_is_typed(tmp_path: Path) -> None:
    last = [b for b in blocks(PAGE, "py") if b.code.startswith(NEW)][-1]
    (tmp_path / "multi_similarity.py").write_text(last.code, encoding="utf-8")
    cache = ROOT / ".mypy_cache" / "new-plugin"
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache)]
    env = {**os.environ, "MYPYPATH": str(ROOT)}
    subprocess.run([*command, str(tmp_path / "multi_similarity.py")], env=env, check=True)
