"""Train, compare with the cheap baselines, and decide by evidence whether to promote anything.

The candidates are the identity, the closed-form baselines and the trained adapter; in a run that
goes on from an earlier one, the identity, the earlier adapter and the trained one. The one that is
best on dev is kept; the gate then asks the unseen test queries whether its gain over what was there
before is proven. If it is not, nothing is promoted, and what was there before is what is stored.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from coreframe import registry
from coreframe.adapter import ClosedForm
from coreframe.artefact import Side, TrainedAdapter
from coreframe.backend import choose_backend
from coreframe.callbacks import Callback
from coreframe.checkpoint import Checkpoints
from coreframe.config import RunConfig
from coreframe.curve import learning_curve, left_out
from coreframe.data.batches import Order
from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError
from coreframe.evaluation import METRICS
from coreframe.evaluation.compare import paired
from coreframe.evaluation.geometry import health
from coreframe.evaluation.metrics import several
from coreframe.evaluation.pool import pool_size, pooled
from coreframe.evaluation.ranks import exact_ranks
from coreframe.evaluation.retrieval import Evaluation, evaluate
from coreframe.evaluation.thresholds import moved_thresholds
from coreframe.following import Following, following
from coreframe.forgetting import Earlier, KeptSet, Trial, choose, forgetting, trials
from coreframe.gate import FEW_TEST_QUERIES as FEW_TEST_QUERIES
from coreframe.gate import Evidence, decide
from coreframe.learned import Learned, learn
from coreframe.loop import Run, solve
from coreframe.outcome import PREVIOUS
from coreframe.outcome import Candidate as Candidate
from coreframe.outcome import Outcome as Outcome
from coreframe.random import stream
from coreframe.regularizer import Regularizer
from coreframe.step import named
from coreframe.trainer import fit

__all__ = ["experiment"]

BASELINES = ("whitening", "procrustes")


def experiment(
    train: Pairs,
    dev: Pairs,
    test: Pairs,
    config: RunConfig,
    *,
    backend: str | None = None,
    base_model: str | None = None,
    callbacks: Sequence[Callback] = (),
    earlier: Earlier | None = None,
    checkpoints: Checkpoints | None = None,
) -> Outcome:
    """Train by a configuration, evaluate every candidate on dev and test, and pass the gate.

    ``earlier`` is what to go on from: then training starts there, is held there, and must not
    forget what is kept (see ``coreframe.forgetting``). With ``checkpoints`` the run is saved, and
    fits that a checkpoint has to the end are not trained again.
    """
    started = time.perf_counter()
    where = backend or config.train.backend
    choice = choose_backend(where, like=train.queries)
    train, dev, test = (part.to(choice.backend) for part in (train, dev, test))
    with following(callbacks) as told:
        lab = _Lab(train, dev, config, where, base_model, told, checkpoints)
        found = lab.fresh() if earlier is None else lab.continued(earlier)

    asked, metric = config.gate.evaluated, config.gate.metric
    drawn: dict[str, Any] = {"resamples": config.gate.resamples, "seed": config.train.seed}
    base = evaluate(None, test, metrics=asked)
    candidates = {}
    for name, adapter in found.adapters.items():
        same = name == "identity"
        tested = base if same else evaluate(adapter, test, metrics=asked)
        gain = paired(base, tested, groups=test.groups, **drawn)
        allowed = not same if earlier else _stays(adapter, config)
        candidates[name] = Candidate(name, adapter, allowed, found.scores[name], tested, gain)
    # The first of equals is kept: of two that are as good, the simpler one.
    allowed_names = [name for name, c in candidates.items() if c.allowed]
    kept = max(allowed_names, key=lambda name: candidates[name].dev[metric])

    before = candidates[PREVIOUS if earlier else "identity"]
    over = candidates[kept].gain
    if earlier:
        over = paired(before.test, candidates[kept].test, groups=test.groups, **drawn)
    table: tuple[KeptSet, ...] = ()
    if earlier:
        kept_adapter = candidates[kept].adapter
        table = forgetting(earlier, kept_adapter, config.gate, seed=config.train.seed)
    gate = decide(
        Evidence(
            before=before.test,
            after=candidates[kept].test,
            gain=over,
            groups=test.groups,
            changed=kept != before.name,
            train_queries=len(train),
            forgotten=tuple(_lost(row.name, metric, row.gain) for row in table if row.forgotten),
            against="the earlier adapter" if earlier else "the base",
        ),
        config.gate,
    )
    no_curve = left_out(train, config.curve)
    curve = learning_curve(
        train,
        test,
        lambda name, part: lab.fit(name, part, **found.again, followed=False).adapter,
        config.curve,
        before=before.test,
        after=candidates["trained"].test,
        metric=metric,
        **drawn,
    )
    health_before = health(None, test, seed=config.train.seed)
    shown = candidates[kept].adapter
    base_adapter = candidates["identity"].adapter
    ranks = {"base": exact_ranks(base_adapter, test, base)}
    ranks["adapted"] = exact_ranks(shown, test, candidates[kept].test)
    outcome = Outcome(
        train=train,
        dev=dev,
        test=test,
        run=found.run,
        start=found.start,
        candidates=candidates,
        kept=kept,
        gate=gate,
        seconds=0.0,
        curve=curve,
        no_curve="" if curve else no_curve or "no share differs from the whole",
        health={
            "base": health_before,
            "adapted": health(shown, test, base=health_before, seed=config.train.seed),
        },
        ranks=ranks,
        thresholds=tuple(moved_thresholds(ranks["base"], ranks["adapted"])),
        forgetting=table,
        trials=found.trials,
        over_previous=over if earlier else None,
    )
    learned = lab.learned(outcome, found, earlier)
    return replace(outcome, learned=learned, seconds=time.perf_counter() - started)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Found:
    """What training found: all adapters with their dev metrics, and how to train again alike."""

    adapters: Mapping[str, TrainedAdapter]
    scores: Mapping[str, Mapping[str, float]]
    run: Run
    start: str
    sides: Mapping[str, Side]
    """The fixed maps that the trained one stands on."""
    again: Mapping[str, Any]
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True, eq=False)
class _Lab:
    """The data and settings that every training of one experiment shares."""

    train: Pairs
    dev: Pairs
    config: RunConfig
    backend: str | None
    base_model: str | None
    following: Following
    checkpoints: Checkpoints | None = None

    @property
    def dimensions(self) -> int:
        return int(self.train.queries.shape[1])

    def fit(
        self,
        name: str,
        train: Pairs,
        *,
        hold: Regularizer | None = None,
        followed: bool = True,
        **changes: Any,
    ) -> Run:
        """Train once; ``name`` tells the fits of one experiment apart."""
        settings = fit_arguments(self.config)
        if hold is not None:
            settings["regularizers"] = (*settings["regularizers"], hold)
        return fit(
            train,
            self.watched,
            **settings,
            backend=self.backend,
            base_model=self.base_model,
            callbacks=(self.following.scope(name.removeprefix("start-")),) if followed else (),
            checkpoints=None if self.checkpoints is None else self.checkpoints.scope(name),
            **changes,
        )

    def scores(self, adapter: TrainedAdapter) -> dict[str, float]:
        if adapter.is_identity:
            return self.base.mean()
        return evaluate(adapter, self.dev, metrics=self.metrics).mean()

    @property
    def metrics(self) -> tuple[str, ...]:
        return several(METRICS, self.config.gate.metric)

    @cached_property
    def base(self) -> Evaluation:
        """How the identity does on dev, in all documents."""
        return evaluate(TrainedAdapter(self.dimensions), self.dev, metrics=self.metrics)

    @cached_property
    def watched(self) -> Pairs:
        """The dev queries as they are looked at while training: in all documents, or in a pool."""
        count = int(self.dev.documents.shape[0])
        size = pool_size(self.config.train.eval_documents, count)
        if size is None:
            return self.dev
        return pooled(self.dev, size, nearest=self.base.found, seed=self.config.train.seed)

    def dev_of(self, run: Run) -> dict[str, float]:
        """Return the dev metrics of a run's adapter in all documents."""
        return dict(run.dev) if self.watched is self.dev else self.scores(run.adapter)

    def fresh(self) -> _Found:
        """Train from the identity, or from a baseline."""
        config, metric = self.config, self.config.gate.metric
        adapters = {"identity": TrainedAdapter(self.dimensions, base_model=self.base_model)}
        solvers: dict[str, ClosedForm] = {}
        for name in BASELINES:
            solver = registry.build("adapters", f"{registry.BUILT_IN}:{name}")
            if self.train.has_labels and not solver.rebuilds_index:
                continue  # the vectors are one set: moving half of it means nothing
            solvers[name] = solver
            sides = solve(solver, self.train)
            adapters[name] = TrainedAdapter(self.dimensions, sides, base_model=self.base_model)
        scores = {name: self.scores(adapter) for name, adapter in adapters.items()}
        runs = {
            start: self.fit(f"start-{start}", self.train, start=solvers.get(start))
            for start in _starts(config, adapters, scores, metric)
        }
        start = max(runs, key=lambda name: runs[name].dev[metric])
        return _Found(
            adapters={**adapters, "trained": runs[start].adapter},
            scores={**scores, "trained": self.dev_of(runs[start])},
            run=runs[start],
            start=start,
            sides=adapters[start].sides,
            again={"start": solvers.get(start)},
        )

    def continued(self, earlier: Earlier) -> _Found:
        """Train on from an earlier run, held at the strength that dev sets choose."""
        config, learned = self.config, earlier.learned
        here: dict[str, Any] = {"start": learned.start or None, "initial": learned.params}
        tried = trials(
            earlier,
            lambda name, hold: self.fit(f"hold-{name}", self.train, hold=hold, **here),
            config.continual,
            config.gate.metric,
        )
        chosen = choose(tried, config.gate.maximum_forgetting)
        previous = replace(earlier.adapter, base_model=self.base_model)
        adapters = {
            "identity": TrainedAdapter(self.dimensions, base_model=self.base_model),
            PREVIOUS: previous,
            "trained": chosen.run.adapter,
        }
        scores = {name: self.scores(adapters[name]) for name in ("identity", PREVIOUS)}
        return _Found(
            adapters=adapters,
            scores={**scores, "trained": self.dev_of(chosen.run)},
            run=chosen.run,
            start=PREVIOUS,
            sides=learned.start,
            again={**here, "hold": chosen.pull},
            trials=tuple(tried),
        )

    def learned(self, outcome: Outcome, found: _Found, earlier: Earlier | None) -> Learned:
        """Return what the next run goes on from: where the promoted adapter stands."""
        if outcome.promoted == PREVIOUS:
            assert earlier is not None
            return earlier.learned
        config, seed = self.config, self.config.train.seed
        sides: Mapping[str, Side] = found.sides
        params = found.run.params
        if outcome.promoted != "trained":  # a map of its own: what is trained next comes on top
            sides = outcome.adapter.sides
            params = {
                **named("adapter", config.adapter.init(stream(seed, "adapter"), self.dimensions)),
                **named("loss", config.loss.init(stream(seed, "loss"), self.dimensions)),
            }
        return learn(
            config.adapter,
            params,
            self.train,
            loss=config.loss,
            side=config.train.side,
            batch_size=config.train.batch_size,
            seed=seed,
            start=sides,
            earlier=earlier.learned if earlier else None,
        )


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
        "sampler": config.sampler,
        "own_negatives": settings.own_negatives,
        "mini_batch_size": settings.mini_batch_size,
        "gradient_accumulation_steps": settings.gradient_accumulation_steps,
        "max_grad_norm": settings.max_grad_norm,
        "max_grad_value": settings.max_grad_value,
        "ema_decay": settings.ema_decay,
        "eval_strategy": settings.eval_strategy,
        "eval_steps": settings.eval_steps,
        "max_skipped_steps": settings.max_skipped_steps,
        "metric": config.gate.metric,
        "seed": settings.seed,
    }


def _starts(
    config: RunConfig,
    adapters: Mapping[str, TrainedAdapter],
    scores: Mapping[str, Mapping[str, float]],
    metric: str,
) -> list[str]:
    """Return where training starts: where it is asked to, or, for "auto", from the identity and
    from the baseline that is best on dev, if one beats the identity; the better run is kept.
    """
    wanted, side = config.train.start, config.train.side
    possible = [name for name, adapter in adapters.items() if _stays(adapter, config)]
    if wanted == "auto":
        best = max(possible, key=lambda name: scores[name][metric])
        return ["identity"] if best == "identity" else ["identity", best]
    if wanted not in possible:
        raise ArgumentError(
            f"start={wanted!r} moves the documents, which side={side!r} leaves as they are; "
            "use side='both', or start='procrustes'"
        )
    return [wanted]


def _stays(adapter: TrainedAdapter, config: RunConfig) -> bool:
    """Say whether an adapter leaves the documents alone where it must."""
    return config.train.side == "both" or not adapter.rebuilds_index


def _lost(name: str, metric: str, gain: Any) -> str:
    return (
        f"{name}: {metric} {gain.base:.3f} -> {gain.adapted:.3f} "
        f"[{gain.low:+.3f}, {gain.high:+.3f}]"
    )
