"""The training loop, readable top to bottom.

rows -> batch -> adapter.forward -> Batch -> miner narrows the relation -> loss gives value and dE
-> pullback -> + regularizers -> accumulate -> clip -> optimizer -> average -> callbacks. Nothing
later calls something earlier. The best epoch on dev is kept, with the start as a candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from coreframe.adapter import Adapter, ClosedForm
from coreframe.artefact import Side, TrainedAdapter
from coreframe.backend import Array, Backend, Params, is_array, namespace, to_numpy
from coreframe.batch import Batch
from coreframe.callbacks import Callback, Status
from coreframe.compose import under
from coreframe.data.batches import Batches, Order
from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError, ArgumentTypeError, nearest
from coreframe.evaluation import METRICS
from coreframe.evaluation.metrics import several
from coreframe.evaluation.retrieval import evaluate
from coreframe.gradients import Accumulation
from coreframe.lazy import lazily
from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.optimizer import Optimizer
from coreframe.random import stream
from coreframe.regularizer import Regularizer
from coreframe.sampler import Sampler
from coreframe.scheduler import Progress, Scheduler
from coreframe.step import Step, named
from coreframe.updates import Updates

LOG_LINES = 100
"""About how many lines of a run carry the loss: each is a wait for the device."""


@dataclass(frozen=True, eq=False)
class Run:
    """What ``fit`` returns: the adapter of the best epoch, and how the run went."""

    adapter: TrainedAdapter
    history: Sequence[Mapping[str, float]]
    """One entry a log line: step, epoch (from 1; 0 is the start), and loss or dev metrics."""
    best_epoch: int
    dev: Mapping[str, float]
    """Dev metrics of the kept epoch; empty without a dev part."""
    backend: str
    backend_source: str
    skipped_steps: int = 0
    params: Mapping[str, Any] = field(default_factory=dict)
    """The kept parameters, as NumPy arrays."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The resolved arguments of ``fit``, without the data."""

    adapter: Adapter
    loss: Loss
    miner: Miner | None = None
    optimizer: Optimizer
    regularizers: tuple[Regularizer, ...] = ()
    start: ClosedForm | Mapping[str, Side] | None = None
    initial: Mapping[str, Any] | None = None
    side: str
    epochs: int
    batch_size: int
    drop_last: bool = False
    order: Order = field(default_factory=Order)
    sampler: Sampler | None = None
    own_negatives: int = 0
    mini_batch_size: int | None = None
    gradient_accumulation_steps: int = 1
    max_grad_norm: float | None = None
    max_grad_value: float | None = None
    ema_decay: float | Scheduler | None = None
    metric: str
    seed: int
    base_model: str | None = None


def solve(kind: ClosedForm, train: Pairs) -> dict[str, Side]:
    """Solve a closed-form adapter on pairs and return its map for each side it moves."""
    params = kind.solve_blocks(train.aligned_blocks)
    side = Side.of(kind, params)
    return {"query": side, "document": side} if kind.rebuilds_index else {"query": side}


class Trainer:
    """One run: data on its backend, parameters, and the loop."""

    def __init__(
        self,
        setup: Setup,
        train: Pairs,
        dev: Pairs | None,
        backend: Backend,
        callbacks: Sequence[Callback],
    ) -> None:
        self.setup = setup
        self.backend = backend
        self.callbacks = callbacks
        self.dimensions = int(train.queries.shape[1])
        self.history: list[dict[str, float]] = []
        self.scores: list[float] = []  # of the metric that decides, one an evaluation
        self.stopped = False  # by a callback
        train = train.to(backend)
        self.start: Mapping[str, Side] = setup.start if isinstance(setup.start, Mapping) else {}
        if isinstance(setup.start, ClosedForm):
            self.start = solve(setup.start, train)
        self.train = self._started(train)
        # The dev part is searched through the whole adapter, so it keeps its own vectors.
        self.dev = None if dev is None else dev.to(backend)
        self.xp = namespace(queries=self.train.queries)
        self.batches = Batches(
            pairs=self.train,
            batch_size=setup.batch_size,
            drop_last=setup.drop_last,
            order=setup.order,
            sampler=setup.sampler,
            own_negatives=setup.own_negatives,
            seed=setup.seed,
        )
        if len(self.train.examples) < 2:
            raise ArgumentError(f"training needs at least 2 pairs, got {len(self.train.examples)}")
        if self.train.weights is not None and not self.train.weights.any():
            raise ArgumentError("the weights of the training pairs are all 0: nothing to learn")
        every = setup.gradient_accumulation_steps
        self.steps = sum(-(-self.batches.size(e) // every) for e in range(1, setup.epochs + 1))
        if not self.steps:
            raise ArgumentError(
                f"drop_last leaves no batch: {len(self.train.examples)} pairs are fewer than "
                f"batch_size={setup.batch_size}"
            )
        self.log_every = max(1, self.steps // LOG_LINES)

    def _started(self, pairs: Pairs) -> Pairs:
        """Apply the closed-form start once, so that no step pays for it; of many documents, to
        those that a batch takes.
        """
        if not self.start:
            return pairs
        queries, documents = pairs.queries, pairs.documents
        if "query" in self.start:
            queries = self.start["query"].apply(queries)
        if "document" in self.start:
            documents = lazily(documents, self.start["document"].apply)
        return pairs.mapped(queries, documents)

    def run(self) -> Run:
        """Train, and return the best epoch. Callbacks hear of the end whatever happens."""
        for callback in self.callbacks:
            callback.on_start(self.setup)
        try:
            metrics, epoch, params, skipped = self._epochs()
        finally:
            for callback in self.callbacks:
                callback.on_end(self.setup)
        return Run(
            adapter=self.stored(params),
            history=self.history,
            best_epoch=epoch,
            dev=metrics,
            backend=self.backend.name,
            backend_source="",
            skipped_steps=skipped,
            params={name: to_numpy(x) for name, x in params.items()},
        )

    def _epochs(self) -> tuple[dict[str, float], int, Params, int]:
        """Return metrics, number and parameters of the best epoch, and the updates left out."""
        setup = self.setup
        updates = Updates(
            self._initial(),
            optimizer=setup.optimizer,
            loss=setup.loss,
            regularizers=setup.regularizers,
            max_grad_norm=setup.max_grad_norm,
            max_grad_value=setup.max_grad_value,
            ema_decay=setup.ema_decay,
        )
        window = Accumulation(steps=setup.gradient_accumulation_steps)
        step = Step(
            adapter=setup.adapter,
            loss=setup.loss,
            miner=setup.miner,
            mini_batch_size=setup.mini_batch_size,
            side=setup.side,
            seed=setup.seed,
        )
        best = (self._evaluate(updates.params, 0, 0, 0), 0, updates.copy())
        samples = turn = 0
        for epoch in range(1, setup.epochs + 1):
            if self.stopped:
                break
            held = None
            batches = self.batches.epoch(epoch)
            for batch in batches:
                progress = Progress(
                    step=updates.done, steps=self.steps, samples=samples, epoch=epoch - 1,
                    history=tuple(self.scores),
                )  # fmt: skip
                found = step.gradients(batch, updates.params, updates.regularizers, progress, turn)
                turn, samples = turn + 1, samples + batch.anchors.shape[0]
                if window.steps > 1:
                    held = window.add(held or window.init(found), found, weight=_weight(batch))
                    if batches.remaining and not window.full(held):
                        continue
                    found, held = window.mean(held), None
                value = found.pop("value")
                norm, now = updates.take(value, found, progress)
                done = updates.done
                if done % self.log_every == 0 or done == self.steps:
                    values = {"loss": float(value), "grad_norm": float(norm)}
                    if isinstance(now.learning_rate, int | float):
                        values["learning_rate"] = float(now.learning_rate)
                    self._tell("on_step", done, epoch, samples, values)
                if self.stopped:
                    break
            metrics = self._evaluate(updates.averaged(), updates.done, epoch, samples)
            if not metrics or metrics[setup.metric] > best[0].get(setup.metric, -1.0):
                kept = updates.copy() if updates.average is None else updates.averaged()
                best = (metrics, epoch, kept)
        return *best, updates.skipped

    def _initial(self) -> dict[str, Array]:
        """Return the parameters of adapter and loss before the first step."""
        setup, data = self.setup, self.train.queries
        width = int(data.shape[1])
        params = {
            **named("adapter", setup.adapter.init(stream(setup.seed, "adapter"), width)),
            **named("loss", setup.loss.init(stream(setup.seed, "loss"), width)),
        }
        if setup.initial is not None:
            params = _replaced(params, setup.initial)
        return {name: self.backend.asarray(x, dtype=data.dtype) for name, x in params.items()}

    def _evaluate(self, params: Params, step: int, epoch: int, samples: int) -> dict[str, float]:
        if self.dev is None:
            return {}
        names = several(METRICS, self.setup.metric)
        metrics = evaluate(self.stored(params), self.dev, metrics=names).mean()
        self.scores.append(metrics[self.setup.metric])
        self._tell("on_evaluate", step, epoch, samples, metrics)
        return metrics

    def _tell(
        self, event: str, step: int, epoch: int, samples: int, values: Mapping[str, float]
    ) -> None:
        self.history.append({"step": step, "epoch": epoch, **values})
        status = Status(step, self.steps, epoch, self.setup.epochs, samples, values)
        asked = [getattr(callback, event)(status) for callback in self.callbacks]
        self.stopped = self.stopped or any(asked)

    def stored(self, params: Params) -> TrainedAdapter:
        """Return the start followed by the trained map, as an adapter that can be saved."""
        setup = self.setup
        trained = Side.of(setup.adapter, under("adapter", params))
        sides = {}
        for name in ("query", "document"):
            before = self.start.get(name, Side())
            adapted = name == "query" or setup.side == "both"
            sides[name] = before.then(trained, self.dimensions) if adapted else before
        return TrainedAdapter(self.dimensions, sides, base_model=setup.base_model)


def _weight(batch: Batch) -> Array | float:
    """Return how much a batch counts among others: its examples, by their weights."""
    if batch.weights is None:
        return float(batch.anchors.shape[0])
    return namespace(weights=batch.weights).sum(batch.weights)


def _replaced(params: Params, given: Params) -> dict[str, Any]:
    """Return given parameters in place of fresh ones; names and shapes must be theirs."""
    for name, x in params.items():
        if name not in given:
            raise ArgumentError(
                f"initial lacks the parameter {name!r}; it has {', '.join(given) or 'nothing'}"
            )
        if not is_array(given[name]):
            raise ArgumentTypeError(
                f"initial[{name!r}] must be an array, got {type(given[name]).__name__}"
            )
        if tuple(given[name].shape) != tuple(x.shape):
            raise ArgumentError(
                f"initial[{name!r}] must have shape {tuple(x.shape)}, "
                f"got {tuple(given[name].shape)}"
            )
    if unknown := [name for name in given if name not in params]:
        raise ArgumentError(
            f"initial has {unknown[0]!r}, which is no parameter here."
            + nearest(unknown[0], list(params))
        )
    return {name: to_numpy(x) for name, x in given.items()}
