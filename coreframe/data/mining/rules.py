"""Which candidates become negatives: the filters, in their order, and the choice among the rest."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreframe import checks
from coreframe.data.relevance import Ints
from coreframe.errors import ArgumentError
from coreframe.random import fresh_seeds, hash_keys, stream

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]

STRATEGIES = ("top", "random")
FILTERS = ("absolute_margin", "relative_margin", "max_score", "min_score")


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The options of ``mine_hard_negatives`` that decide among candidates; see there."""

    num_negatives: int = 3
    range_min: int = 0
    range_max: int | None = None
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling_strategy: str = "top"
    include_positives: bool = False
    mask_anchors: bool = True
    false_negative_margin: float = 0.0
    seed: int = 42

    def __post_init__(self) -> None:
        checks.number(self, "num_negatives", minimum=1, integer=True)
        checks.number(self, "range_min", minimum=0, integer=True)
        if self.range_max is not None:
            checks.number(self, "range_max", minimum=1, integer=True)
            left = self.range_max - self.range_min
            if left < self.num_negatives:
                raise ArgumentError(
                    f"Rules.range_max must leave num_negatives={self.num_negatives} candidates "
                    f"after range_min={self.range_min}, got {self.range_max}; use at least "
                    f"{self.range_min + self.num_negatives}"
                )
        for name in FILTERS:
            if getattr(self, name) is not None:
                checks.number(self, name)
        if None not in (self.min_score, self.max_score) and self.min_score > self.max_score:  # type: ignore[operator]
            raise ArgumentError(
                f"Rules.min_score must not be above max_score={self.max_score:g}, which leaves "
                f"nothing, got {self.min_score:g}"
            )
        checks.choice(self, "sampling_strategy", STRATEGIES)
        checks.flag(self, "include_positives")
        checks.flag(self, "mask_anchors")
        checks.number(self, "false_negative_margin")
        checks.number(self, "seed", minimum=0, integer=True)

    @property
    def filters(self) -> bool:
        """Whether candidates are dropped by their scores."""
        return any(getattr(self, name) is not None for name in FILTERS)

    def window(self, max_positives: int, *, rescored: bool) -> int:
        """Return ``range_max``, or what it is where it is not given: ten times the negatives
        where filters may drop some, else as many as there are.
        """
        if self.range_max is not None:
            return self.range_max
        filters = [name for name in FILTERS if name != "min_score" or rescored]
        wide = any(getattr(self, name) is not None for name in filters)
        return self.range_min + self.num_negatives * (10 if wide else 1) + max_positives


@dataclass(frozen=True, eq=False)
class Chosen:
    """What is chosen for some queries: (r, k), best first; -1 and -inf where there are too few."""

    documents: Ints
    scores: Scores
    skipped: Counter[str]
    """How many candidates each filter dropped."""
    above: Mask
    """(r, c) the candidates that look like right documents."""
    used: Mask
    """(r, c) the candidates that are chosen."""


def choose(
    rules: Rules,
    documents: Ints,
    scores: Scores,
    positive: Mask,
    lowest: Scores,
    *,
    window: int,
    rows: Ints,
) -> Chosen:
    """Choose among the candidates of some queries.

    documents (r, c), -1 = none, best first; scores (r, c); positive (r, c): right documents of
    the query; lowest (r,): the score of its worst right document; rows (r,): which queries these
    are, rising; a random choice depends on it.
    """
    there = documents >= 0
    left = np.where(there, scores, -np.inf)
    wrong = there & ~positive
    above = wrong & (scores > lowest[:, None] - rules.false_negative_margin)
    if not rules.include_positives:
        left[~wrong] = -np.inf
    skipped: Counter[str] = Counter()
    for name in FILTERS:
        value = getattr(rules, name)
        if value is None:
            continue
        if name == "absolute_margin":
            drop = left + value > lowest[:, None]
        elif name == "relative_margin":  # of the size of the score, which may be negative
            drop = left > (lowest - np.abs(lowest) * value)[:, None]
        elif name == "max_score":
            drop = left > value
        else:
            drop = (left < value) & (left > -np.inf)
        skipped[name] += int(drop.sum())
        left[drop] = -np.inf
    order = np.argsort(-left, axis=1, kind="stable")[:, rules.range_min : window]
    columns = _choose_columns(rules, np.take_along_axis(left, order, axis=1), rows)
    order = np.take_along_axis(order, columns, axis=1)
    found = np.take_along_axis(left, order, axis=1)
    number = np.where(found > -np.inf, np.take_along_axis(documents, order, axis=1), -1)
    used = np.zeros(documents.shape, dtype=bool)
    np.put_along_axis(used, order, found > -np.inf, axis=1)
    short = rules.num_negatives - number.shape[1]  # there are fewer candidates than that
    number = np.pad(number, ((0, 0), (0, short)), constant_values=-1)
    found = np.pad(found, ((0, 0), (0, short)), constant_values=-np.inf)
    return Chosen(number, found, skipped, above, used)


def _choose_columns(rules: Rules, ranked: Scores, rows: Ints) -> Ints:
    """Return the columns (r, k) of the chosen among ranked candidates, in order."""
    k, width = min(rules.num_negatives, ranked.shape[1]), ranked.shape[1]
    if rules.sampling_strategy == "top":
        return np.broadcast_to(np.arange(k), (len(ranked), k))
    options = np.maximum((ranked > -np.inf).sum(axis=1), k)
    seeds = fresh_seeds(stream(rules.seed, "hard negatives"))
    keys: Any = hash_keys(seeds, slice(int(rows[0]), int(rows[-1]) + 1), width, np, None)
    keys = keys[rows - rows[0]].astype(np.float64)
    keys[np.arange(width) >= options[:, None]] = np.inf
    columns = np.argsort(keys, axis=1, kind="stable")[:, :k]
    return np.sort(columns, axis=1)
