"""Train embeddings and small adapters with contrastive and metric learning, without autograd.

Importing this package imports no array library: every public name is loaded when it is used.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers see of the lazy names below
    from coreframe.adapter import Adapter as Adapter
    from coreframe.adapter import ClosedForm as ClosedForm
    from coreframe.artefact import load as load
    from coreframe.backend import (
        Backend as Backend,
    )
    from coreframe.backend import (
        get_backend as get_backend,
    )
    from coreframe.backend import (
        namespace as namespace,
    )
    from coreframe.batch import Batch as Batch
    from coreframe.cached import cached_step as cached_step
    from coreframe.callbacks import Callback as Callback
    from coreframe.checkpoint import Checkpoints as Checkpoints
    from coreframe.compose import Mined as Mined
    from coreframe.compose import Symmetric as Symmetric
    from coreframe.compose import WeightedSum as WeightedSum
    from coreframe.continual import Updated as Updated
    from coreframe.continual import update as update
    from coreframe.data.batches import Batches as Batches
    from coreframe.data.batches import Order as Order
    from coreframe.data.examples import Example as Example
    from coreframe.data.loading import load_pairs as load_pairs
    from coreframe.data.pairs import Pairs as Pairs
    from coreframe.data.preprocess import Preprocessor as Preprocessor
    from coreframe.embedder import Embedder as Embedder
    from coreframe.evaluation.compare import compare as compare
    from coreframe.evaluation.retrieval import evaluate as evaluate
    from coreframe.fisher_information import Fisher as Fisher
    from coreframe.fisher_information import fisher as fisher
    from coreframe.loop import Run as Run
    from coreframe.loss import Loss as Loss
    from coreframe.loss import LossResult as LossResult
    from coreframe.loss import PairwiseLoss as PairwiseLoss
    from coreframe.miner import Miner as Miner
    from coreframe.miner import RankingMiner as RankingMiner
    from coreframe.optimizer import Optimizer as Optimizer
    from coreframe.optimizer import Rule as Rule
    from coreframe.plugin import hookimpl as hookimpl
    from coreframe.registry import build as build
    from coreframe.regularizer import Regularizer as Regularizer
    from coreframe.relation import Listed as Listed
    from coreframe.relation import Masked as Masked
    from coreframe.relation import Relation as Relation
    from coreframe.relation import SameLabel as SameLabel
    from coreframe.row_loss import RowLoss as RowLoss
    from coreframe.runs import StoredRun as StoredRun
    from coreframe.runs import read_run as read_run
    from coreframe.sampler import Sampler as Sampler
    from coreframe.scheduler import Progress as Progress
    from coreframe.scheduler import Scheduler as Scheduler
    from coreframe.scheduler import resolve as resolve
    from coreframe.tiles import pairwise as pairwise
    from coreframe.trainer import fit as fit

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())  # what is shown, others decide

_HOMES = {
    "Adapter": "adapter",
    "Backend": "backend",
    "Batch": "batch",
    "Batches": "data.batches",
    "Callback": "callbacks",
    "Checkpoints": "checkpoint",
    "ClosedForm": "adapter",
    "Embedder": "embedder",
    "Example": "data.examples",
    "Fisher": "fisher_information",
    "Listed": "relation",
    "Loss": "loss",
    "LossResult": "loss",
    "Masked": "relation",
    "Miner": "miner",
    "Mined": "compose",
    "Optimizer": "optimizer",
    "Order": "data.batches",
    "PairwiseLoss": "loss",
    "Pairs": "data.pairs",
    "Preprocessor": "data.preprocess",
    "Progress": "scheduler",
    "RankingMiner": "miner",
    "Regularizer": "regularizer",
    "Relation": "relation",
    "RowLoss": "row_loss",
    "Rule": "optimizer",
    "Run": "loop",
    "SameLabel": "relation",
    "Sampler": "sampler",
    "Scheduler": "scheduler",
    "StoredRun": "runs",
    "Symmetric": "compose",
    "Updated": "continual",
    "WeightedSum": "compose",
    "build": "registry",
    "cached_step": "cached",
    "compare": "evaluation.compare",
    "evaluate": "evaluation.retrieval",
    "fisher": "fisher_information",
    "fit": "trainer",
    "get_backend": "backend",
    "hookimpl": "plugin",
    "load": "artefact",
    "load_pairs": "data.loading",
    "namespace": "backend",
    "pairwise": "tiles",
    "read_run": "runs",
    "resolve": "scheduler",
    "update": "continual",
}

__all__ = [*sorted(_HOMES), "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"coreframe.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'coreframe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
