"""What a run has gone through: all that changes as it trains, beside what an update moves.

With the state of ``Updates`` this is the whole of a run: saved in a checkpoint and put back, a run
goes on as if nothing had been.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from coreframe.backend import Params, to_numpy
from coreframe.data.pairs import Pairs
from coreframe.storage import fingerprint

HASHED = 1 << 22
"""Entries of an array up to which all of it is hashed; of a larger one, rows at even distances."""


@dataclass
class Course:
    """Where a run stands, and what it has found."""

    epoch: int = 1
    """The epoch under way, and how many of its batches are done."""
    batches: int = 0
    turn: int = 0
    """Batches since the start, and their examples."""
    samples: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    """Of the metric that decides, one an evaluation."""
    evaluated: int = -1
    """The update after which the last evaluation was."""
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    best_step: int = 0
    stopped: bool = False
    """By a callback."""
    findings: list[str] = field(default_factory=list)
    """What was not finite, of the first updates that were left out."""
    named: int = 0
    """The updates left out that have been looked at."""
    best: Params = field(default_factory=dict)
    window: Mapping[str, Any] | None = None
    """Gradients of an update that takes several batches, while it lacks some."""

    def plain(self) -> dict[str, Any]:
        """Return all but the arrays, as JSON can hold it."""
        names = [f.name for f in fields(self) if f.name not in ("best", "window")]
        return {name: getattr(self, name) for name in names}

    @classmethod
    def of(cls, plain: Mapping[str, Any], best: Params, window: Mapping[str, Any] | None) -> Course:
        """Return the course that ``plain`` and the arrays describe."""
        names = {f.name for f in fields(cls)} - {"best", "window"}
        return cls(**{name: plain[name] for name in names}, best=best, window=window)


def fingerprints(name: str, pairs: Pairs | None) -> dict[str, str]:
    """Return hashes of what a run learns from or chooses by, by path.

    Of vectors with more than four million entries only rows at even distances are hashed.
    """
    if pairs is None:
        return {name: "none"}
    relevance = pairs.relevance
    found = {
        "queries": _vectors(pairs.queries),
        "documents": _vectors(pairs.documents),
        "examples": _hash(pairs.examples),
        "irrelevant": _hash(pairs.irrelevant),
    }
    for key in ("query_labels", "document_labels", "gains"):
        if (numbers := getattr(relevance, key, None)) is not None:
            found[key] = _hash(numbers)
    for key in ("weights", "difficulty"):
        if (numbers := getattr(pairs, key)) is not None:
            found[key] = _hash(numbers)
    return {f"{name}.{key}": value for key, value in found.items()}


def _vectors(x: Any) -> str:
    rows, width = (int(n) for n in x.shape)
    step = max(1, -(-rows * width // HASHED))
    return f"{rows} x {width} {_hash(to_numpy(x[::step, :] if step > 1 else x[:, :]))}"


def _hash(x: Any) -> str:
    about = fingerprint(to_numpy(x))
    text = f"{about['dtype']} {about['shape']} {about['sha256']}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
