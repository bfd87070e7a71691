"""A run's folder: results that cannot be written leave those that were there."""

from __future__ import annotations

import json
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
from coreframe.trainer_state import trainer_state

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


def test_the_history_has_the_form_of_trainer(tmp_path, outcomes):
    """An update that was left out has a loss that JSON has no word for."""
    outcome, settings = outcomes[0]
    write(tmp_path, outcomes[0])
    state = json.loads((tmp_path / "trainer_state.json").read_text())
    assert state["global_step"] == state["max_steps"] == outcome.run.history[-1]["step"]
    assert (state["epoch"], state["num_train_epochs"]) == (1.0, 1)
    assert state["best_metric"] == outcome.run.dev["ndcg@10"]
    assert state["best_global_step"] == outcome.run.best_step
    first = state["log_history"][0]
    assert first["eval_ndcg@10"] == outcome.run.history[0]["ndcg@10"]
    found = trainer_state(
        {**CALM, "history": [{"step": 1, "epoch": 1, "loss": float("nan"), "grad_norm": 1.0}]}
    )
    assert found["log_history"] == [{"loss": None, "grad_norm": 1.0, "epoch": 1.0, "step": 1}]
    assert settings.train.epochs == 1


CALM = {"metric": "ndcg@10", "best_metrics": {}, "best_step": 0, "step": 1, "steps": 1,
        "epochs": 1, "batch_size": 8}  # fmt: skip


@pytest.mark.integration
@pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")  # of umap
def test_transformers_reads_it(tmp_path, outcomes):
    callback = pytest.importorskip("transformers.trainer_callback")
    write(tmp_path, outcomes[0])
    state = callback.TrainerState.load_from_json(str(tmp_path / "trainer_state.json"))
    assert state.global_step == outcomes[0][0].run.history[-1]["step"]
    assert state.best_metric == outcomes[0][0].run.dev["ndcg@10"]
