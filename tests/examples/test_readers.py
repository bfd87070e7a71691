"""Readers in other languages give what ours gives, and refuse what the format says they must."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from export_cases import D, make

from coreframe.artefact import TrainedAdapter

READERS = Path(__file__).parents[2] / "examples" / "readers"
X = np.random.default_rng(0).standard_normal((6, D))
X[4] = 0
CASES = [
    make(kind, form=form, bias=bias, normalize=normalize, base_model='a "sides" model: {}')
    for kind in ("query", "apart", "identity")
    for form in ("linear", "low_rank")
    for bias, normalize in ((False, True), (True, True), (True, False))
]


def by_javascript(folder: Path, side: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    code = f"""
        import {{ load }} from {json.dumps((READERS / "adapter.mjs").as_uri())};
        const adapt = load({json.dumps(str(folder))});
        const rows = {json.dumps(X.tolist())};
        console.log(JSON.stringify(rows.map((x) => Array.from(adapt(x, {json.dumps(side)})))));
    """
    return subprocess.run(
        ["node", "--input-type=module", "-e", code], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("side", ["query", "document"])
def test_javascript(side, tmp_path) -> None:
    for number, adapter in enumerate(CASES[::2] if side == "query" else CASES[1::4]):
        adapter.save(tmp_path / str(number))
        ran = by_javascript(tmp_path / str(number), side)
        assert ran.returncode == 0, ran.stderr
        np.testing.assert_allclose(json.loads(ran.stdout), adapter(X, side), atol=1e-9)


@pytest.mark.parametrize(
    ("name", "change", "text"),
    [
        ("config.json", {"format": "other"}, "format other 1 is not read here"),
        ("config.json", {"version": 2}, "format coreframe-adapter 2 is not read here"),
        ("config.json", {"dimensions": 5}, "expected 5 numbers, got 8"),
        ("model.safetensors", None, "the array query.W is damaged"),
    ],
)
def test_javascript_refuses(name, change, text, tmp_path) -> None:
    make("query").save(tmp_path)
    path = tmp_path / name
    if change is None:
        data = bytearray(path.read_bytes())
        data[-5] ^= 1
        path.write_bytes(data)
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    ran = by_javascript(tmp_path, "query")
    assert ran.returncode != 0
    assert text in ran.stderr


@pytest.mark.integration
def test_rust(tmp_path) -> None:
    if shutil.which("rustc") is None:
        pytest.skip("rustc is not installed")
    program = tmp_path / "adapter"
    source = READERS / "adapter.rs"
    command = ["rustc", "-O", "--edition", "2021", "-D", "warnings", "-o", program, source]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    rows = "".join(" ".join(map(repr, row)) + "\n" for row in X.tolist())

    def run(folder: Path, side: str, given: str = rows) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, folder, side], input=given, capture_output=True, text=True)

    for number, adapter in enumerate(CASES):
        adapter.save(tmp_path / str(number))
        for side in ("query", "document"):
            ran = run(tmp_path / str(number), side)
            assert ran.returncode == 0, ran.stderr
            got = np.array([line.split() for line in ran.stdout.splitlines()], np.float64)
            np.testing.assert_allclose(got, adapter(X, side), atol=1e-9)
    assert "another width" in run(tmp_path / "0", "query", "1 2 3\n").stderr
    path = tmp_path / "0" / "config.json"
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    assert "another version" in run(tmp_path / "0", "query").stderr


def test_the_page_is_true_of_what_is_stored(tmp_path) -> None:
    """docs/format.md names every key of config.json, and no other in its table."""
    import re

    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    adapter: TrainedAdapter = make("apart", bias=True)
    adapter.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    stored = {*config, *(f"sides.SIDE.{key}" for key in config["sides"]["query"]),
              *(f"arrays.NAME.{key}" for key in config["arrays"]["query.W"])}  # fmt: skip
    section = page.partition("## `config.json`")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE))
    assert named == stored
