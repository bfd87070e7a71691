"""A run's folder: results that cannot be written leave those that were there."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import numpy as np
import pytest
from disks import FAULTS, faulty, leftovers

from coreframe import Pairs, config
from coreframe.errors import OutputError
from coreframe.experiment import experiment
from coreframe.outputs import write_run

RUN = """
[adapter]
name = "linear"
[embedder]
name = "hashing"
[[losses]]
name = "info_nce"
[optimizer]
name = "sgd"
[train]
epochs = 1
start = "identity"
seed = {seed}
[gate]
resamples = 100
[curve]
enabled = "never"
"""


@pytest.fixture(scope="module")
def outcomes():
    rng = np.random.default_rng(0)
    documents = rng.standard_normal((60, 5)).astype(np.float32)
    pairs = Pairs(documents + 0.2 * documents[:, ::-1], documents)
    found = []
    for seed in (1, 2):
        settings = config.parse(tomllib.loads(RUN.format(seed=seed)))
        found.append((experiment(*pairs.split(0.2, 0.2), settings), settings))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }  # fmt: skip


def write(folder, found):
    write_run(*found, folder, title="A run", inputs={})


def test_results_that_cannot_be_written_leave_the_old_ones(tmp_path, outcomes):
    check_faults(tmp_path, outcomes, "ENOSPC", every=17)


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
def test_every_call_of_a_run_that_fails_leaves_the_old_results(tmp_path, outcomes, fault):
    failed, files = check_faults(tmp_path, outcomes, fault, every=1)
    assert failed.count("replace") == files


def check_faults(tmp_path, outcomes, fault, *, every):
    """Let calls fail, one a run and every n-th of them; return which were, and how many files."""
    old, new = tmp_path / "old", tmp_path / "new"
    write(old, outcomes[0])
    write(new, outcomes[1])
    before, after = contents(old), contents(new)
    folder, failed = tmp_path / "run", []
    text = ""
    write(folder, outcomes[0])
    for k in range(1, 400, every):
        with faulty(folder, k, fault) as faults:
            try:
                write(folder, outcomes[1])
            except OutputError as error:
                text = str(error)
                failed.append(faults.failed)
            else:
                if not faults.failed:
                    break
                assert faults.failed == "mkdir"  # of a folder that is there
                write(folder, outcomes[0])
                continue
        assert os.strerror(FAULTS[fault]) in text
        assert contents(folder).keys() == before.keys(), faults.failed
        assert same(contents(folder), before), faults.failed
        assert leftovers(folder) == []
    assert same(contents(folder), after)
    return failed, len(after)


def same(found: dict[str, bytes], wanted: dict[str, bytes]) -> bool:
    return all(found[name] == wanted[name] for name in wanted)
