"""A run that is stopped after any batch, and goes on in another process, is the same run."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from runs_to_stop import RUNS
from support import assert_near

from coreframe.course import fingerprints
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import ListedRelevance

SCRIPT = Path(__file__).parents[1] / "runs_to_stop.py"


def run(name, library, folder, *words, seed):
    """Run the script in a process of its own, with a hash seed of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SCRIPT), name, library, str(folder), *words],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_stopped_after_any_batch_goes_on_with_every_bit(name, tmp_path):
    """Within an epoch, at its last batch, in the middle of an update that takes several batches,
    before and after evaluations: parameters, optimizer, average, history, scores and adapter.
    """
    [[count, whole, _]] = run(name, "numpy", tmp_path, "stop", seed=2)
    assert count == (11 if name == "curriculum" else 15)
    stops = [str(k) for k in range(count)]
    found = run(name, "numpy", tmp_path, "on", *stops, seed=3)
    assert [k for k, _, _ in found] == stops
    assert [k for k, digest, _ in found if digest != whole] == []


@pytest.mark.parametrize("library", ["array_api_strict", "torch"])
def test_on_another_library_it_goes_on_within_rounding(library, tmp_path):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    stops = ["0", "4", "6", "9", "14"]
    [[_, _, whole]] = run("all", library, tmp_path, "stop", *stops, seed=2)
    for _, _, numbers in run("all", library, tmp_path, "on", *stops, seed=3):
        assert_near(np.array(numbers), np.array(whole), 1e-6, 1e-6)


def test_other_grades_are_other_data():
    """They move ndcg on dev, and so the epoch that is kept."""
    right, x = np.array([[0, 0], [0, 1], [1, 1]]), np.eye(2)
    one, two = (
        Pairs(x, x, relevance=ListedRelevance.of(right, 2, 2, gains))
        for gains in ([1, 2, 1], [2, 1, 1])
    )
    first, second = fingerprints("dev", one), fingerprints("dev", two)
    assert [key for key in first if first[key] != second[key]] == ["dev.gains"]
