"""The public call that trains: ``fit``. The loop itself is in ``coreframe.loop``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from coreframe import registry
from coreframe.adapter import Adapter, ClosedForm
from coreframe.artefact import SIDES as SIDES_OF_MAPS
from coreframe.artefact import Side
from coreframe.backend import choose_backend
from coreframe.callbacks import Callback
from coreframe.checkpoint import Checkpoints, Scope, scope_of
from coreframe.config.settings import EVALUATIONS, SIDES
from coreframe.data.batches import Order
from coreframe.data.pairs import Pairs, require_pairs
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.evaluation import metrics
from coreframe.following import following
from coreframe.loop import Run, Setup, Trainer
from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.optimizer import Optimizer
from coreframe.regularizer import Regularizer
from coreframe.sampler import Sampler
from coreframe.scheduler import Scheduler

__all__ = ["fit"]


@registry.naming_plugins()
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
    start: str | ClosedForm | Mapping[str, Side] | None = None,
    initial: Mapping[str, Any] | None = None,
    epochs: int = 30,
    batch_size: int = 256,
    drop_last: bool = False,
    order: Order | None = None,
    sampler: str | Sampler | None = None,
    own_negatives: int = 0,
    mini_batch_size: int | None = None,
    gradient_accumulation_steps: int = 1,
    max_grad_norm: float | None = None,
    max_grad_value: float | None = None,
    ema_decay: float | Scheduler | None = None,
    eval_strategy: str | None = None,
    eval_steps: int | None = None,
    max_skipped_steps: int | None = 10,
    metric: str = "ndcg@10",
    seed: int = 42,
    backend: str | None = None,
    base_model: str | None = None,
    callbacks: Sequence[str | Callback] = (),
    checkpoints: Checkpoints | Scope | None = None,
) -> Run:
    """Train an adapter on pairs, and keep the epoch that is best on ``dev``.

    Components are given as objects or by the names of registered ones. Numbers of theirs may be
    schedulers, which are resolved before each update. Weight decay is off for parameters of one
    dimension unless the optimizer has rules.

    Args:
        train: the pairs to learn from.
        dev: the pairs that choose the epoch. Default: none; the last epoch is kept.
        adapter: what is trained. Default: linear, the most general of one matrix.
        loss: what is minimised. Default: info_nce, the field's usual loss for pairs.
        miner: picks the pairs of a batch. Default: none, all pairs count.
        optimizer: moves the parameters. Default: adamw, the field's usual choice.
        regularizers: terms beside the loss. Default: none.
        side: "query" moves queries only, so that an index of documents stays as it is; "both"
            moves queries and documents by one shared adapter, and the index must be rebuilt.
            Default: query.
        start: a closed-form adapter that is solved and applied first, such as "whitening", or the
            maps of the sides "query" and "document" as an earlier run had them.
            Default: none.
        initial: parameters to start at, as ``Run.params`` has them. Default: the adapter's own.
        epochs: passes over the pairs. Default: 30, that of our demo.
        batch_size: pairs per batch. Default: 256, that of our demo.
        drop_last: leave out a last, short batch. Default: False, as in ``Batches``.
        order: shuffling and curriculum, see ``Order``. Default: None, shuffled.
        own_negatives: so many known wrong documents are each anchor's own negatives. Default: 0,
            all are negatives of every anchor of their batch.
        sampler: which examples stand in a batch together, in place of the order. Default: none.
        mini_batch_size: so many rows of a batch go through the adapter at a time, and again for
            their gradients (see ``cached``): the memory of an adapter's activations is then that
            of a part, and the gradients are those of the whole batch. Default: all at once.
        gradient_accumulation_steps: batches an update; their gradients are averaged by their
            examples. For a loss over the batch this is no larger batch: negatives are those of
            each batch. Default: 1.
        max_grad_norm: clip gradients to this global norm. Default: not at all.
        max_grad_value: clip each entry of the gradients to this size, before the norm. Default:
            not at all.
        ema_decay: in [0, 1), keep and evaluate an exponential moving average of the parameters.
            Default: none is kept.
        eval_strategy: when ``dev`` is evaluated, beside the start: after each epoch, every
            ``eval_steps`` updates ("steps") and at the end, or, with "no", at the end alone, whose
            parameters are then kept. Default: epoch, or steps where eval_steps is given.
        eval_steps: updates between two evaluations, >= 1. Default: none.
        max_skipped_steps: how many updates in a row may be left out because they are not finite,
            >= 1; then ``Diverged`` says which array and which rows were, and what helps. None goes
            on for ever. Default: 10; fewer may be a batch's fault, more are the run's.
        metric: what "best" means: recall, precision, accuracy, mrr, map or ndcg, each with a depth
            as in recall@10, or r_precision. Default: ndcg@10, which sees the order too.
        seed: all draws follow from it, the same on every backend. Default: 42.
        backend: where arrays live during the run. Default: COREFRAME_BACKEND, else the library of
            the given arrays.
        base_model: the name of the model that the vectors come from, stored with the adapter.
            Default: not known.
        callbacks: told about each step and evaluation; they may stop the run. Default: none.
        checkpoints: where the run saves its state, and from where it goes on: see
            ``Checkpoints``. Default: none, nothing is saved.

    Shapes: pairs of queries (q, d) and documents (c, d); the adapter of the ``Run`` takes (n, d).

    Edges: a step whose loss or gradient is not finite is skipped, counted and, for the first few,
    explained (``Run.findings``). ``Interrupted`` is raised where the checkpoints are asked to stop,
    once the step is done and saved. Where no epoch is
    better than the start, the start is kept. One pair alone is an error.

    Cost: an epoch calls the loss on every batch, and evaluates dev once.

    References: our own.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> documents = rng.normal(size=(64, 8))
    >>> turn = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    >>> run = fit(Pairs(documents @ turn, documents), epochs=5)
    >>> run.adapter(documents @ turn).shape
    (64, 8)
    """
    if side not in SIDES:
        raise ArgumentError(f"side must be 'query' or 'both', got {side!r}")
    for name, number in (
        ("epochs", epochs),
        ("batch_size", batch_size),
        ("gradient_accumulation_steps", gradient_accumulation_steps),
        ("mini_batch_size", 1 if mini_batch_size is None else mini_batch_size),
    ):
        _from_1(name, number)
    for name, several in (("regularizers", regularizers), ("callbacks", callbacks)):
        if isinstance(several, str) or not isinstance(several, Iterable):
            raise ArgumentTypeError(
                f"{name} takes a sequence of names and objects, got {several!r}; "
                f"write [{several!r}]"
            )
    metrics.parse(metric)
    evaluated = _evaluated(eval_strategy, eval_steps)
    if max_skipped_steps is not None:
        _from_1("max_skipped_steps", max_skipped_steps)
    for name, limit in (("max_grad_norm", max_grad_norm), ("max_grad_value", max_grad_value)):
        if limit is None:
            continue
        if isinstance(limit, bool) or not isinstance(limit, int | float):
            raise ArgumentTypeError(f"{name} must be a number or None, got {limit!r}")
        if not 0 < limit < math.inf:
            raise ArgumentError(f"{name} must be above 0 or None, got {limit!r}")
    if isinstance(ema_decay, int | float) and not 0 <= ema_decay < 1:
        raise ArgumentError(f"ema_decay must be in [0, 1) or None, got {ema_decay!r}")
    require_pairs("train", train)
    if dev is not None:
        require_pairs("dev", dev)
    if train.has_labels and side == "query":
        raise ArgumentError("labelled rows are one set: train them with side='both' (--side both)")
    setup = Setup(
        adapter=_trained(adapter),
        loss=registry.component("losses", loss, Loss),
        miner=None if miner is None else registry.component("miners", miner, Miner),
        optimizer=registry.component("optimizers", optimizer, Optimizer),
        regularizers=tuple(
            registry.component("regularizers", r, Regularizer) for r in regularizers
        ),
        start=_start(start),
        initial=initial,
        side=side,
        epochs=epochs,
        batch_size=batch_size,
        drop_last=drop_last,
        order=order or Order(),
        sampler=None if sampler is None else registry.component("samplers", sampler, Sampler),
        own_negatives=own_negatives,
        mini_batch_size=mini_batch_size,
        gradient_accumulation_steps=gradient_accumulation_steps,
        max_grad_norm=max_grad_norm,
        max_grad_value=max_grad_value,
        ema_decay=ema_decay,
        eval_strategy=evaluated,
        eval_steps=eval_steps,
        max_skipped_steps=max_skipped_steps,
        metric=metric,
        seed=seed,
        base_model=base_model,
    )
    moves = isinstance(setup.start, ClosedForm) and setup.start.rebuilds_index
    if side == "query" and moves:
        raise ArgumentError(
            f"start={start!r} moves the documents, which side='query' leaves as they are; "
            "use side='both', or start='procrustes'"
        )
    choice = choose_backend(backend, like=train.queries)
    followers = [registry.component("callbacks", c, Callback) for c in callbacks]
    scope = scope_of(checkpoints)
    with following(followers) as told, scope or nullcontext():
        run = Trainer(setup, train, dev, choice.backend, [told], scope).run()
    return replace(run, backend_source=choice.source)


def _from_1(name: str, number: object) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ArgumentError(f"{name} must be a whole number from 1, got {number!r}")


def _evaluated(strategy: str | None, steps: int | None) -> str:
    """Return when dev is evaluated, from what was given of it."""
    found = strategy or ("epoch" if steps is None else "steps")
    if found not in EVALUATIONS:
        raise ArgumentError(
            f"eval_strategy must be one of {', '.join(EVALUATIONS)}, got {strategy!r}"
        )
    if (found == "steps") != (steps is not None):
        raise ArgumentError(
            f"eval_strategy={strategy!r} and eval_steps={steps!r} do not go together: eval_steps "
            "is for 'steps', and that needs it"
        )
    if steps is not None:
        _from_1("eval_steps", steps)
    return found


def _start(given: Any) -> ClosedForm | Mapping[str, Side] | None:
    if not isinstance(given, Mapping):
        return None if given is None else registry.component("adapters", given, ClosedForm)
    if wrong := [
        name for name, x in given.items() if name not in SIDES_OF_MAPS or type(x) is not Side
    ]:
        raise ArgumentTypeError(
            f"start[{wrong[0]!r}] must be a coreframe.artefact.Side of 'query' or 'document', "
            f"got {given[wrong[0]]!r}"
        )
    return given


def _trained(given: str | Adapter) -> Adapter:
    """Return the adapter that is trained."""
    found: Adapter = registry.component("adapters", given, Adapter)
    if isinstance(found, ClosedForm):
        raise ArgumentError(
            f"{type(found).__name__} is computed in closed form and not trained; use it as "
            "start=, and train another adapter on top"
        )
    return found
