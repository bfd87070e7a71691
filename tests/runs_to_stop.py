"""Short runs that are stopped after any batch and go on in another process: see test_resume.py.

    python runs_to_stop.py NAME LIBRARY FOLDER stop [K ...] | on K ...

"stop" runs without a stop, and then once for each K (each batch, from 0), to stop after it; "on"
goes on from there. What comes to an end is printed: a hash of every bit, and the numbers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coreframe import Pairs, fit
from coreframe.checkpoint import Checkpoints, Scope
from coreframe.data.batches import Order
from coreframe.errors import Interrupted
from coreframe.scheduler import Progress, Scheduler
from coreframe_adapters.linear import Linear
from coreframe_adapters.low_rank import LowRank
from coreframe_adapters.micro_lora import MicroLoRA
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.sup_con import SupCon
from coreframe_miners.random import Random
from coreframe_miners.semi_hard import SemiHard
from coreframe_optimizers.adam import Adam
from coreframe_optimizers.adamw import AdamW
from coreframe_optimizers.sgd import SGD
from coreframe_regularizers.l2 import L2
from coreframe_schedulers.competence import Competence
from coreframe_schedulers.warmup_cosine import WarmupCosine

D = 6


@dataclass(frozen=True, kw_only=True)
class Falling(Scheduler):
    """Halves where the last evaluation was no better than the one before: it needs the history."""

    first: float

    def __call__(self, progress: Progress) -> float:
        worse = sum(b <= a for a, b in itertools.pairwise(progress.history))
        return self.first * 0.5**worse


def pairs(library: str, seed: int = 0, rows: int = 40, labels: bool = False) -> Pairs:
    rng = np.random.default_rng(seed)
    documents = rng.standard_normal((rows, D)).astype(np.float32)
    queries = (documents[:, ::-1] + 0.3 * rng.standard_normal((rows, D))).astype(np.float32)
    if labels:
        return Pairs.labelled(put(library, queries), np.arange(rows) % 5)
    wrong = np.stack([np.arange(rows), (np.arange(rows) + 7) % rows], axis=1)
    return Pairs(
        put(library, queries), put(library, documents), irrelevant=wrong,
        difficulty=rng.random(rows), weights=rng.uniform(0.5, 2, rows),
    )  # fmt: skip


def put(library: str, x: Any) -> Any:
    if library == "torch":
        import torch

        return torch.asarray(x)
    if library == "array_api_strict":
        import array_api_strict

        return array_api_strict.asarray(x)
    return x


RUNS: dict[str, dict[str, Any]] = {
    "plain": {"optimizer": AdamW(learning_rate=WarmupCosine(peak=0.05))},
    "all": {
        "adapter": LowRank(rank=2),
        "loss": InfoNCE(learnable_scale=True, temperature=0.1),
        "optimizer": SGD(learning_rate=WarmupCosine(peak=0.05), momentum=0.9, nesterov=True),
        "miner": Random(k=3),
        "regularizers": [L2(toward="start", strength=0.1)],
        "side": "both",
        "own_negatives": 2,
        "gradient_accumulation_steps": 3,
        "max_grad_norm": 0.5,
        "ema_decay": 0.8,
    },
    "curriculum": {
        "adapter": MicroLoRA(rank=2),
        "optimizer": Adam(learning_rate=Falling(first=0.3)),
        "miner": SemiHard(k=2),
        "order": Order(
            curriculum="difficulty", curriculum_epochs=2, pool=Competence(start=0.3)
        ),
    },
    "evaluated by steps": {
        "optimizer": SGD(learning_rate=Falling(first=0.5)),
        "eval_strategy": "steps",
        "eval_steps": 3,
        "gradient_accumulation_steps": 2,
        "ema_decay": 0.5,
    },
    "start": {"start": "whitening", "side": "both", "adapter": Linear(bias=True)},
    "labels": {"loss": SupCon(), "side": "both", "optimizer": Adam(learning_rate=0.05)},
}  # fmt: skip


def once(name: str, library: str, folder: Path, *, stop: int | None = None, resume: bool = False):
    """Run; return a hash of all there is at the end, or None where it was stopped."""
    options = {"epochs": 3, "batch_size": 8, "seed": 5, **RUNS[name]}
    labels = name == "labels"
    train = pairs(library, 0, 40, labels)
    dev = pairs(library, 1, 30, labels)
    checkpoints = Checkpoints(folder, resume="latest" if resume else None)
    scope = Counted(checkpoints, stop)
    try:
        run = fit(train, dev, **options, checkpoints=scope)
    except Interrupted as stopped:
        return None if stopped.path else "nothing was saved"
    end = {} if resume else {"batches": scope.batches}
    return {
        **end,
        "params": run.params, "optimizer and average": scope.last,
        "history": run.history, "best": (run.best_epoch, run.best_step, run.dev),
        "adapter": {k: s.arrays for k, s in run.adapter.sides.items()},
        "skipped": run.skipped_steps, "state": run.trainer_state,
    }  # fmt: skip


class Counted(Scope):
    """A scope that stops the run after some batch, and keeps the state after the last one."""

    def __init__(self, owner: Checkpoints, stop: int | None) -> None:
        super().__init__(owner, "fit")
        self.stop, self.batches, self.now = stop, 0, False
        self.last: dict[str, Any] = {}

    @property
    def stopping(self) -> bool:
        return self.now

    def found(self, setup):
        fit = super().found(setup)
        if fit is not None:
            self.last = {k: np.array(x) for k, x in fit["arrays"].items()}
        return fit

    def due(self, step: int, *, updated: bool, epoch_done: bool) -> bool:
        """Called after each batch; at the end of an epoch once that is evaluated."""
        self.now = self.batches == self.stop
        self.batches += 1
        return True

    def save(self, step, arrays, state):
        self.last = {k: np.array(_host(x)) for k, x in arrays.items()}
        return super().save(step, arrays, state) if self.now else None


def _host(x: Any) -> Any:
    from coreframe.backend import to_numpy

    return x if isinstance(x, int | float) else to_numpy(x)


def digest(found: Any) -> str:
    """Return a hash of every bit."""
    text = hashlib.sha256()

    def walk(x: Any) -> None:
        if isinstance(x, dict):
            for key in sorted(x):
                text.update(str(key).encode())
                walk(x[key])
        elif isinstance(x, list | tuple):
            for item in x:
                walk(item)
        elif isinstance(x, np.ndarray | np.generic):
            text.update(f"{x.dtype}{x.shape}".encode() + np.ascontiguousarray(x).tobytes())
        else:
            text.update(repr(x).encode())

    walk(found)
    return text.hexdigest()


def numbers(found: Any) -> list[float]:
    """Return all numbers in one list, for a comparison within a tolerance."""
    if isinstance(found, dict):
        return [n for key in sorted(found) for n in numbers(found[key])]
    if isinstance(found, list | tuple):
        return [n for item in found for n in numbers(item)]
    if isinstance(found, np.ndarray | np.generic):
        return [float(n) for n in np.ravel(found)]
    return [float(found)] if isinstance(found, int | float) else []


def main(words: list[str]) -> None:
    name, library, folder, what = words[0], words[1], Path(words[2]), words[3]
    if what == "on":
        for k in words[4:]:
            found = once(name, library, folder / k, resume=True)
            print(json.dumps([k, digest(found), numbers(found)]))
        return
    result = once(name, library, folder / "whole")
    count = result.pop("batches")
    print(json.dumps([count, digest(result), numbers(result)]))
    for k in words[4:] or range(count):
        assert once(name, library, folder / str(k), stop=int(k)) is None, k


if __name__ == "__main__":
    main(sys.argv[1:])
