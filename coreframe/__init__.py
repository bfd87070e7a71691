"""Train embeddings and small adapters with contrastive and metric learning, without autograd.

Importing this package imports no array library: every public name is loaded when it is used.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Adapter": "adapter",
    "Backend": "backend",
    "Batch": "batch",
    "Callback": "callbacks",
    "ClosedForm": "adapter",
    "Embedder": "embedder",
    "Listed": "batch",
    "Loss": "loss",
    "LossResult": "loss",
    "Masked": "batch",
    "Miner": "miner",
    "Mined": "compose",
    "Optimizer": "optimizer",
    "PairwiseLoss": "loss",
    "Pairs": "data.pairs",
    "Progress": "scheduler",
    "Regularizer": "regularizer",
    "Relation": "batch",
    "Rule": "optimizer",
    "SameLabel": "batch",
    "Scheduler": "scheduler",
    "Symmetric": "compose",
    "WeightedSum": "compose",
    "build": "registry",
    "compare": "evaluation.compare",
    "evaluate": "evaluation.retrieval",
    "fit": "trainer",
    "get_backend": "backend",
    "hookimpl": "plugin",
    "load": "artefact",
    "namespace": "backend",
    "pairwise": "tiles",
    "resolve": "scheduler",
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
