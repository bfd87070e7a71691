"""Test files of other libraries, run with our losses and miners in the place of theirs.

They are not part of what these libraries install, so a checkout of each is needed:

    git clone https://github.com/KevinMusgrave/pytorch-metric-learning
    export COREFRAME_TESTS_OF_METRIC_LEARNING=$PWD/pytorch-metric-learning
    git clone https://github.com/UKPLab/sentence-transformers
    export COREFRAME_TESTS_OF_SENTENCE_TRANSFORMERS=$PWD/sentence-transformers
    pytest -m integration tests/integration/test_their_tests.py

``adapters.py`` puts ours in their place, and lists the tests that must fail, with the reason.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent

# By file: dtypes, an expression for -k, and what of ours has to run. One dtype where files are
# slow. NTXent's own test in float16 fails with their loss too: its reference is too rough.
METRIC_LEARNING = {
    "losses/test_ntxent_loss.py": ("float32,float64", "", "InfoNCE SupCon"),
    "losses/test_nca_loss.py": ("float16,float32,float64", "", "NCA"),
    "losses/test_triplet_margin_loss.py": ("float16,float32,float64", "", "Triplet"),
    "losses/test_losses_without_labels.py": ("float32", "", "InfoNCE SupCon Triplet"),
    "losses/test_multiple_losses.py": ("float32", "", "Triplet"),
    "losses/test_self_supervised_loss.py": ("float32", "", "InfoNCE NCA SupCon Triplet"),
    "losses/test_cross_batch_memory.py": ("float32", "sanity or weighted", "InfoNCE"),
    "miners/test_batch_hard_miner.py": ("float32,float64", "", "Hardest"),
    "miners/test_triplet_margin_miner.py": ("float32,float64", "", "SemiHard"),
    "miners/test_distance_weighted_miner.py": ("float32", "", "DistanceWeighted"),
}


def run(swap: str, file: str, dtypes: str = "", expression: str = "") -> str:
    """Run a file of theirs in a process of its own, and return what pytest prints."""
    variable = f"COREFRAME_TESTS_OF_{swap.upper()}"
    if not (checkout := os.environ.get(variable)):
        pytest.skip(f"{variable} names no checkout of theirs")
    pytest.importorskip({"metric_learning": "pytorch_metric_learning"}.get(swap, swap))
    command = [sys.executable, "-m", "pytest", "-q", "-rfx", "-p", "adapters"]
    command += ["-p", "no:cacheprovider", f"tests/{file}", "-k", expression]
    env = {
        **os.environ,
        "COREFRAME_SWAP": swap,
        "PYTHONPATH": str(HERE),
        "PYTEST_ADDOPTS": "",
        "TEST_DEVICE": "cpu",
        "TEST_DTYPES": dtypes,
    }
    ran = subprocess.run(command, cwd=checkout, env=env, text=True, capture_output=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("file", METRIC_LEARNING)
def test_those_of_pytorch_metric_learning(file: str) -> None:
    dtypes, expression, ours = METRIC_LEARNING[file]
    printed = run("metric_learning", file, dtypes, expression)
    for name in ours.split():
        assert f"'{name}': " in printed, printed


def test_those_of_sentence_transformers() -> None:
    """The cached loss beside the plain one: both ours, on a model that is made on the spot."""
    printed = run("sentence_transformers", "test_cmnrl.py", expression="same_grad")
    assert "'CachedMultipleNegativesRankingLoss': 3" in printed, printed
