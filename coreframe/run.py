"""What ``fit`` is given, with names resolved to components, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from coreframe.adapter import Adapter, ClosedForm
from coreframe.artefact import Side, TrainedAdapter
from coreframe.backend import Params, is_array, to_numpy
from coreframe.course import fingerprints
from coreframe.data.batches import Order
from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError, ArgumentTypeError, nearest
from coreframe.fields import RENAMED, described
from coreframe.lazy import lazily
from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.optimizer import Optimizer
from coreframe.regularizer import Regularizer
from coreframe.sampler import Sampler
from coreframe.scheduler import Scheduler


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
    best_step: int = 0
    """The updates done when the kept parameters were evaluated."""
    findings: Sequence[str] = ()
    """What was not finite in the first updates that were left out: which array, which rows."""
    trainer_state: Mapping[str, Any] = field(default_factory=dict)
    """The history in the form of Hugging Face's ``trainer_state.json``."""


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
    eval_strategy: str = "epoch"
    eval_steps: int | None = None
    max_skipped_steps: int | None = 10
    metric: str
    seed: int
    base_model: str | None = None


def solve(kind: ClosedForm, train: Pairs) -> dict[str, Side]:
    """Solve a closed-form adapter on pairs and return its map for each side it moves."""
    params = kind.solve_blocks(train.aligned_blocks)
    side = Side.of(kind, params)
    return {"query": side, "document": side} if kind.rebuilds_index else {"query": side}


def moved(pairs: Pairs, start: Mapping[str, Side]) -> Pairs:
    """Return pairs behind the maps that come first; of many documents, those of each batch."""
    queries, documents = pairs.queries, pairs.documents
    if "query" in start:
        queries = start["query"].apply(queries)
    if "document" in start:
        documents = lazily(documents, start["document"].apply)
    return pairs.mapped(queries, documents) if start else pairs


def identity(setup: Setup, train: Pairs, dev: Pairs | None) -> dict[str, Any]:
    """Return what must be the same for a run to go on: its settings, and hashes of its data."""
    rest = {f.name: getattr(setup, f.name) for f in fields(setup)}
    order = rest.pop("order")
    for name in ("base_model", "max_skipped_steps"):
        del rest[name]
    parts = (
        "adapter", "loss", "miner", "optimizer", "regularizers", "sampler", "start", "initial",
    )  # fmt: skip
    own = {RENAMED.get(name, name): rest.pop(name) for name in parts}
    own["gate"] = {"metric": rest.pop("metric")}
    own["train"] = {**rest, **{f.name: getattr(order, f.name) for f in fields(order)}}
    data = {**fingerprints("train", train), **fingerprints("dev", dev)}
    return {**described(own), **data}


def replaced(params: Params, given: Params) -> dict[str, Any]:
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
