"""The training loop, readable top to bottom.

rows -> batch -> adapter.forward -> Batch -> miner narrows the relation -> loss gives value and dE
-> pullback -> + regularizers -> clip -> optimizer -> callbacks. Nothing later calls something
earlier. The best epoch on the dev part is kept, with the start as a candidate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from coreframe import registry
from coreframe.adapter import Adapter, ClosedForm
from coreframe.artefact import Side, TrainedAdapter
from coreframe.backend import (
    Array,
    Backend,
    Params,
    choose_backend,
    device_of,
    namespace,
    to_numpy,
)
from coreframe.batch import Batch
from coreframe.callbacks import Callback, Status
from coreframe.compose import under
from coreframe.config.settings import SIDES
from coreframe.data.batches import examples, gather
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Ints
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.evaluation import METRICS
from coreframe.evaluation.retrieval import evaluate
from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.optimizer import Optimizer, Rule
from coreframe.random import stream
from coreframe.regularizer import Regularizer
from coreframe.scheduler import Progress, resolve

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


def fit(
    train: Pairs,
    dev: Pairs | None = None,
    *,
    adapter: str | Adapter = f"{registry.BUILT_IN}:linear",
    loss: str | Loss = f"{registry.BUILT_IN}:info_nce",
    miner: str | Miner | None = None,
    optimizer: str | Optimizer = f"{registry.BUILT_IN}:adamw",
    regularizers: Sequence[str | Regularizer] = (),
    side: str = "query",
    start: str | ClosedForm | None = None,
    epochs: int = 30,
    batch_size: int = 256,
    max_grad_norm: float | None = None,
    metric: str = "ndcg@10",
    seed: int = 42,
    backend: str | None = None,
    base_model: str | None = None,
    callbacks: Sequence[str | Callback] = (),
) -> Run:
    """Train an adapter on pairs, and keep the epoch that is best on ``dev``.

    Args:
        train, dev: pairs; without dev the last epoch is kept.
        adapter, loss, miner, optimizer, regularizers, callbacks: components, or names of
            registered ones.
        side: "query" moves queries only, so that an index of documents stays as it is; "both"
            moves queries and documents by one shared adapter, and the index must be rebuilt.
        start: a closed-form adapter that is solved and applied first, such as "whitening".
        epochs, batch_size: passes over the pairs, and pairs a step.
        max_grad_norm: clip gradients to this global norm.
        metric: what "best" means: recall@1, recall@10, mrr@10 or ndcg@10.
        seed: all draws follow from it, the same on every backend.
        backend: where arrays live during the run; None: COREFRAME_BACKEND, else the library of
            the given arrays.

    Weight decay is off for parameters of one dimension unless the optimizer has rules.
    """
    if side not in SIDES:
        raise ArgumentError(f"side must be 'query' or 'both', got {side!r}")
    for name, number in (("epochs", epochs), ("batch_size", batch_size)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ArgumentError(f"{name} must be a whole number from 1, got {number!r}")
    if metric not in METRICS:
        raise ArgumentError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    if max_grad_norm is not None and not max_grad_norm > 0:
        raise ArgumentError(f"max_grad_norm must be above 0 or None, got {max_grad_norm!r}")
    if train.has_labels and side == "query":
        raise ArgumentError("labelled vectors are one set: train them with side='both'")
    setup = Setup(
        adapter=_component("adapters", adapter, Adapter),
        loss=_component("losses", loss, Loss),
        miner=None if miner is None else _component("miners", miner, Miner),
        optimizer=_component("optimizers", optimizer, Optimizer),
        regularizers=tuple(_component("regularizers", r, Regularizer) for r in regularizers),
        start=None if start is None else _component("adapters", start, ClosedForm),
        side=side,
        epochs=epochs,
        batch_size=batch_size,
        max_grad_norm=max_grad_norm,
        metric=metric,
        seed=seed,
        base_model=base_model,
    )
    if side == "query" and setup.start is not None and setup.start.rebuilds_index:
        raise ArgumentError(
            f"start={start!r} moves the documents, which side='query' leaves as they are; "
            "use side='both', or start='procrustes'"
        )
    choice = choose_backend(backend, like=train.queries)
    followers = [_component("callbacks", c, Callback) for c in callbacks]
    run = Trainer(setup, train, dev, choice.backend, followers).run()
    return replace(run, backend_source=choice.source)


def _component(kind: str, given: Any, wanted: type) -> Any:
    found = registry.build(kind, given) if isinstance(given, str) else given
    if wanted is Adapter and isinstance(found, ClosedForm):
        raise ArgumentError(
            f"{type(found).__name__} is computed in closed form and not trained; use it as "
            "start=, and train another adapter on top"
        )
    if not isinstance(found, wanted):
        raise ArgumentTypeError(
            f"{kind} takes a name or a coreframe.{wanted.__name__}, got {given!r}"
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The resolved arguments of ``fit``."""

    adapter: Adapter
    loss: Loss
    miner: Miner | None
    optimizer: Optimizer
    regularizers: tuple[Regularizer, ...]
    start: ClosedForm | None
    side: str
    epochs: int
    batch_size: int
    max_grad_norm: float | None
    metric: str
    seed: int
    base_model: str | None


def solve(kind: ClosedForm, train: Pairs) -> dict[str, Side]:
    """Solve a closed-form adapter on pairs and return its map for each side it moves."""
    params = kind.solve(*train.aligned())
    side = _stored(kind, {name: to_numpy(x) for name, x in params.items()})
    return {"query": side, "document": side} if kind.rebuilds_index else {"query": side}


def _stored(adapter: Adapter, params: Mapping[str, Any]) -> Side:
    """Return an adapter's parameters in the form of the artefact."""
    if (thin := adapter.thin(params)) is not None:
        a, b, scaling = thin
        thin_arrays = {"A": to_numpy(a), "B": to_numpy(b)}
        return Side("low_rank", {k: x.astype(np.float32) for k, x in thin_arrays.items()}, scaling)
    w, b = adapter.matrix(params)
    arrays = {"W": to_numpy(w).astype(np.float32)}
    if b is not None:
        arrays["b"] = to_numpy(b).astype(np.float32)
    return Side("linear", arrays)


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
        train = train.to(backend)
        self.start: dict[str, Side] = solve(setup.start, train) if setup.start else {}
        self.train = self._started(train)
        # The dev part is searched through the whole adapter, so it keeps its own vectors.
        self.dev = None if dev is None else dev.to(backend)
        self.xp = namespace(queries=self.train.queries)
        self.examples = examples(train)
        if len(self.examples) < 2:
            raise ArgumentError(f"training needs at least 2 pairs, got {len(self.examples)}")
        self.steps_an_epoch = -(-len(self.examples) // setup.batch_size)
        self.steps = setup.epochs * self.steps_an_epoch
        self.log_every = max(1, self.steps // LOG_LINES)

    def _started(self, pairs: Pairs) -> Pairs:
        """Apply the closed-form start once, so that no step pays for it."""
        if not self.start:
            return pairs
        moved = {
            name: self.start[name].apply(x) if name in self.start else x
            for name, x in (("query", pairs.queries), ("document", pairs.documents))
        }
        return pairs.mapped(moved["query"], moved["document"])

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
            skipped_steps=int(skipped),
            params={name: to_numpy(x) for name, x in params.items()},
        )

    def _epochs(self) -> tuple[dict[str, float], int, Params, Array]:
        """Return metrics, number and parameters of the best epoch, and the steps skipped."""
        setup, xp, data = self.setup, self.xp, self.train.queries
        params = self._initial()
        optimizer = setup.optimizer
        if not optimizer.rules and hasattr(optimizer, "weight_decay"):
            no_decay = Rule(lambda _, x: x.ndim <= 1, {"weight_decay": 0.0})
            optimizer = replace(optimizer, rules=(no_decay,))
        state = optimizer.init(params)
        regularizers = [r.begin(under("adapter", params)) for r in setup.regularizers]
        skipped = xp.zeros((), dtype=data.dtype, device=device_of(data))
        best = (self._evaluate(params, 0, 0, 0), 0, params)
        step = samples = 0
        for epoch in range(1, setup.epochs + 1):
            order = stream(setup.seed, "order", epoch).permutation(len(self.examples))
            stopped = False
            for first in range(0, len(order), setup.batch_size):
                chosen = self.examples[order[first : first + setup.batch_size]]
                progress = Progress(
                    step=step, steps=self.steps, samples=samples, epoch=epoch - 1,
                    history=tuple(self.scores),
                )  # fmt: skip
                now = resolve(optimizer, progress)
                value, grads = self._gradients(chosen, params, regularizers, progress)
                grads, norm = _clip(grads, setup.max_grad_norm, xp)
                # A value or gradient that is not finite never reaches the parameters.
                sound = xp.isfinite(value) & xp.isfinite(norm)
                update = _checked_update if step == 0 else type(now).update
                new_params, new_state = update(now, params, grads, state)
                new_params = {**new_params, **self._projected(new_params)}
                params = _choose(sound, new_params, params, xp)
                state = _choose(sound, new_state, state, xp)
                skipped = skipped + xp.astype(~sound, data.dtype)
                step, samples = step + 1, samples + len(chosen)
                if step % self.log_every == 0 or step == self.steps:
                    values = {"loss": float(value), "grad_norm": float(norm)}
                    if isinstance(now.learning_rate, int | float):
                        values["learning_rate"] = float(now.learning_rate)
                    stopped = self._tell("on_step", step, epoch, samples, values)
                if stopped:
                    break
            metrics = self._evaluate(params, step, epoch, samples)
            if not metrics or metrics[setup.metric] > best[0].get(setup.metric, -1.0):
                best = (metrics, epoch, params)
            if stopped:
                break
        return *best, skipped

    def _initial(self) -> dict[str, Array]:
        """Return the parameters of adapter and loss before the first step."""
        setup, data = self.setup, self.train.queries
        width = int(data.shape[1])
        params = {
            **_named("adapter", setup.adapter.init(stream(setup.seed, "adapter"), width)),
            **_named("loss", setup.loss.init(stream(setup.seed, "loss"), width)),
        }
        return {name: self.backend.asarray(x, dtype=data.dtype) for name, x in params.items()}

    def _projected(self, params: Params) -> dict[str, Array]:
        """Return the loss's parameters, moved back to where they are allowed to be."""
        # NumPy's arithmetic turns arrays without dimensions into its scalars.
        own = {name: self.xp.asarray(x) for name, x in under("loss", params).items()}
        return _named("loss", self.setup.loss.project(own))

    def _gradients(
        self,
        chosen: Ints,
        params: Params,
        regularizers: Sequence[Regularizer],
        progress: Progress,
    ) -> tuple[Array, dict[str, Array]]:
        """Return the value of a step and its gradients by parameter name."""
        setup = self.setup
        own = under("adapter", params)
        rng = stream(setup.seed, "adapter noise", progress.step)
        inputs = gather(self.train, chosen)
        anchors, pull_anchors = setup.adapter.forward(own, inputs.queries, rng=rng)
        references, pull_references = inputs.references, None
        if references is not None and setup.side == "both":
            references, pull_references = setup.adapter.forward(own, references, rng=rng)
        batch = Batch(
            anchors=anchors,
            references=references,
            relation=inputs.relation,
            labels=inputs.labels,
            ids=inputs.query_rows,
        )
        if setup.miner is not None:
            rng = stream(setup.seed, "miner", progress.step)
            batch = replace(batch, relation=resolve(setup.miner, progress).mine(batch, rng=rng))
        wrt = ("anchors",) if pull_references is None else ("anchors", "references")
        result = resolve(setup.loss, progress).value_and_grad(batch, under("loss", params), wrt=wrt)
        if result.value.ndim:
            raise ArgumentError("training needs a loss with one value: a reduction but 'none'")
        value, slopes = result.value, dict(result.grads)
        total: dict[str, Array] = {}
        for regularizer in regularizers:
            term = resolve(regularizer, progress)
            if term.of == "embeddings":
                fields = {"anchors": anchors}
                if references is not None:
                    fields["references"] = references
                ids = {"anchors": inputs.query_rows, "references": inputs.document_rows}
                found = term.value_and_grad(fields, ids=ids)
                for name in wrt:
                    if name in found.grads:
                        slopes[name] = slopes[name] + found.grads[name]
            else:
                found = term.value_and_grad(own)
                _add(total, found.grads)
            value = value + found.value
        _add(total, pull_anchors(slopes["anchors"], need_dx=False)[0])
        if pull_references is not None:
            _add(total, pull_references(slopes["references"], need_dx=False)[0])
        return value, {**_named("adapter", total), **_named("loss", result.param_grads)}

    def _evaluate(self, params: Params, step: int, epoch: int, samples: int) -> dict[str, float]:
        if self.dev is None:
            return {}
        metrics = evaluate(self.stored(params), self.dev).mean()
        self.scores.append(metrics[self.setup.metric])
        self._tell("on_evaluate", step, epoch, samples, metrics)
        return metrics

    def _tell(
        self, event: str, step: int, epoch: int, samples: int, values: Mapping[str, float]
    ) -> bool:
        self.history.append({"step": step, "epoch": epoch, **values})
        status = Status(step, self.steps, epoch, self.setup.epochs, samples, values)
        asked = [getattr(callback, event)(status) for callback in self.callbacks]
        return any(asked)

    def stored(self, params: Params) -> TrainedAdapter:
        """Return the start followed by the trained map, as an adapter that can be saved."""
        setup = self.setup
        own = {name: to_numpy(x) for name, x in under("adapter", params).items()}
        trained = _stored(setup.adapter, own)
        sides = {}
        for name in ("query", "document"):
            before = self.start.get(name, Side())
            adapted = name == "query" or setup.side == "both"
            sides[name] = before.then(trained, self.dimensions) if adapted else before
        return TrainedAdapter(self.dimensions, sides, base_model=setup.base_model)


def _checked_update(
    optimizer: Optimizer, params: Params, grads: Params, state: Mapping[str, Any]
) -> tuple[Params, Mapping[str, Any]]:
    """Update once, and make sure that the optimizer leaves its arguments as they are."""
    before = {name: to_numpy(x).copy() for name, x in params.items()}
    result = optimizer.update(params, grads, state)
    for name, x in params.items():
        if not np.array_equal(to_numpy(x), before[name], equal_nan=True):
            raise ArgumentError(
                f"{type(optimizer).__name__} writes to the parameter {name!r} that it was given; "
                "step must return new arrays, since the old ones are still needed"
            )
    return result


def _clip(grads: Params, limit: float | None, xp: Any) -> tuple[dict[str, Array], Array]:
    """Scale gradients to a global norm of at most ``limit``; return them and the norm before."""
    squares = [xp.sum(g * g) for g in grads.values()]
    norm = xp.sqrt(sum(squares[1:], squares[0]))
    if limit is None:
        return dict(grads), norm
    factor = xp.where(norm > limit, limit / xp.where(norm > 0, norm, xp.ones_like(norm)), 1.0)
    return {name: g * xp.astype(factor, g.dtype) for name, g in grads.items()}, norm


def _choose(ok: Array, new: Mapping[str, Any], old: Mapping[str, Any], xp: Any) -> dict[str, Any]:
    """Return new where the step was sound, else old, without looking at the flag on the host."""
    return {
        name: xp.where(ok, x, old[name]) if hasattr(x, "dtype") else x for name, x in new.items()
    }


def _add(total: dict[str, Array], more: Params) -> None:
    for name, g in more.items():
        total[name] = total[name] + g if name in total else g


def _named(prefix: str, params: Params) -> dict[str, Any]:
    return {f"{prefix}.{name}": x for name, x in params.items()}
