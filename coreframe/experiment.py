"""Train, compare with the cheap baselines, and decide by evidence whether to promote anything.

The candidates are the identity, the closed-form baselines and the trained adapter. The one that
is best on dev is kept; the gate then asks the unseen test queries whether its gain over the base
is proven. If it is not, nothing is promoted and the identity is what is stored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coreframe import registry
from coreframe.adapter import ClosedForm
from coreframe.artefact import TrainedAdapter
from coreframe.backend import choose_backend
from coreframe.callbacks import Callback
from coreframe.config import RunConfig
from coreframe.data.batches import Order
from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError
from coreframe.evaluation import METRICS
from coreframe.evaluation.compare import Comparison, paired
from coreframe.evaluation.metrics import several
from coreframe.evaluation.retrieval import Evaluation, evaluate
from coreframe.gate import FEW_TEST_QUERIES as FEW_TEST_QUERIES
from coreframe.gate import Gate, Tested, decide
from coreframe.loop import Run, solve
from coreframe.trainer import fit

BASELINES = ("whitening", "procrustes")


@dataclass(frozen=True, eq=False)
class Candidate:
    """One row of the table: an adapter, what it costs to use, and how it does."""

    name: str
    adapter: TrainedAdapter
    allowed: bool
    """Whether the run's side permits it: with side="query" the index must stay as it is."""
    dev: Mapping[str, float]
    test: Evaluation
    gain: Comparison


@dataclass(frozen=True, eq=False)
class Outcome:
    """All that a run found out."""

    train: Pairs
    dev: Pairs
    test: Pairs
    run: Run
    start: str
    candidates: Mapping[str, Candidate]
    kept: str
    """The candidate that is best on dev."""
    gate: Gate
    seconds: float

    @property
    def promoted(self) -> str:
        """What is stored: the kept candidate if the gate passed, else "identity"."""
        return self.kept if self.gate.passed else "identity"

    @property
    def adapter(self) -> TrainedAdapter:
        return self.candidates[self.promoted].adapter

    @property
    def comparison(self) -> Comparison:
        """The kept candidate against the base, on the test queries."""
        return self.candidates[self.kept].gain


def experiment(
    train: Pairs,
    dev: Pairs,
    test: Pairs,
    config: RunConfig,
    *,
    backend: str | None = None,
    base_model: str | None = None,
    callbacks: Sequence[Callback] = (),
) -> Outcome:
    """Train by a configuration, evaluate every candidate on dev and test, and pass the gate."""
    started = time.perf_counter()
    settings, metric = config.train, config.gate.metric
    choice = choose_backend(backend or settings.backend, like=train.queries)
    train, dev, test = (part.to(choice.backend) for part in (train, dev, test))
    dimensions = int(train.queries.shape[1])
    adapters = {"identity": TrainedAdapter(dimensions, base_model=base_model)}
    solvers: dict[str, ClosedForm] = {}
    for name in BASELINES:
        solver = registry.build("adapters", f"{registry.BUILT_IN}:{name}")
        if train.has_labels and not solver.rebuilds_index:
            continue  # the vectors are one set: moving half of it means nothing
        solvers[name] = solver
        adapters[name] = TrainedAdapter(dimensions, solve(solver, train), base_model=base_model)
    scores: dict[str, Mapping[str, float]] = {
        name: evaluate(adapter, dev, metrics=several(METRICS, metric)).mean()
        for name, adapter in adapters.items()
    }
    runs = {}
    for start in _starts(settings.start, settings.side, adapters, scores, metric):
        runs[start] = fit(
            train,
            dev,
            **fit_arguments(config),
            start=solvers.get(start),
            backend=backend or settings.backend,
            base_model=base_model,
            callbacks=callbacks,
        )
    start = max(runs, key=lambda name: runs[name].dev[metric])
    run = runs[start]
    adapters["trained"], scores["trained"] = run.adapter, run.dev

    asked = config.gate.evaluated
    base = evaluate(None, test, metrics=asked)
    drawn = {"resamples": config.gate.resamples, "seed": settings.seed}
    candidates = {}
    for name, adapter in adapters.items():
        found = base if name == "identity" else evaluate(adapter, test, metrics=asked)
        gain = paired(base, found, groups=test.groups, **drawn)
        allowed = settings.side == "both" or not adapter.rebuilds_index
        candidates[name] = Candidate(name, adapter, allowed, scores[name], found, gain)
    # The first of equals is kept: of two that are as good, the simpler one.
    allowed_names = [name for name, c in candidates.items() if c.allowed]
    kept = max(allowed_names, key=lambda name: candidates[name].dev[metric])
    tested = Tested(
        before=base,
        after=candidates[kept].test,
        gain=candidates[kept].gain,
        groups=test.groups,
        changed=kept != "identity",
        train_queries=len(train),
    )
    gate = decide(tested, config.gate)
    seconds = time.perf_counter() - started
    return Outcome(train, dev, test, run, start, candidates, kept, gate, seconds)


def fit_arguments(config: RunConfig) -> dict[str, Any]:
    """Return what a configuration says of training, as keyword arguments of ``fit``."""
    settings = config.train
    return {
        "adapter": config.adapter,
        "loss": config.loss,
        "miner": config.miner,
        "optimizer": config.optimizer,
        "regularizers": config.regularizers,
        "side": settings.side,
        "epochs": settings.epochs,
        "batch_size": settings.batch_size,
        "drop_last": settings.drop_last,
        "order": Order(
            curriculum=settings.curriculum,
            curriculum_epochs=settings.curriculum_epochs,
            pool=settings.pool,
        ),
        "own_negatives": settings.own_negatives,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "max_grad_norm": settings.max_grad_norm,
        "max_grad_value": settings.max_grad_value,
        "ema_decay": settings.ema_decay,
        "metric": config.gate.metric,
        "seed": settings.seed,
    }


def _starts(
    wanted: str,
    side: str,
    adapters: Mapping[str, TrainedAdapter],
    scores: Mapping[str, Mapping[str, float]],
    metric: str,
) -> list[str]:
    """Return where training starts: where it is asked to, or, for "auto", from the identity and
    from the baseline that is best on dev, if one beats the identity; the better run is kept.
    """
    possible = [n for n, a in adapters.items() if side == "both" or not a.rebuilds_index]
    if wanted == "auto":
        best = max(possible, key=lambda name: scores[name][metric])
        return ["identity"] if best == "identity" else ["identity", best]
    if wanted not in possible:
        raise ArgumentError(
            f"start={wanted!r} moves the documents, which side={side!r} leaves as they are; "
            "use side='both', or start='procrustes'"
        )
    return [wanted]
