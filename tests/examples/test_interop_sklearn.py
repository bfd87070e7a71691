"""examples/interop_sklearn.py: it runs, and is as good as NCA where it says so."""

from __future__ import annotations

import pytest
from support import load_example

pytest.importorskip("sklearn", reason="the package scikit-learn is not installed")


def test_it_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert load_example("interop_sklearn").main(["--quick"]) == 0
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("wine"))
    plain, nca, ours = map(float, line.split()[1:])
    assert min(plain, nca, ours) > 0.9
    assert ours >= nca - 0.01
    assert "metricembedder__loss__temperature" in printed


def test_the_other_sets() -> None:
    example = load_example("interop_sklearn")
    sets = example.others(0)
    assert len(sets) == 8
    assert all(len(X) == len(y) and len(set(y.tolist())) > 1 for X, y in sets.values())
    found = example.compare_others(2, lambda seed: {"iris": example.others(seed)["iris"]})
    assert {len(x) for x in found["iris"].values()} == {2}
    assert min(min(x) for x in found["iris"].values()) > 0.85
