"""Going on from an earlier run: how hard to hold what it knows, and what was forgotten anyway.

The strength of the pull is chosen on dev sets, the new one and those of what is kept: of the
strengths that lose no more on each kept dev set than the gate allows, the one that is best on the
new dev set; where none does, the one that loses least. Without kept dev sets nothing can choose,
and the middle strength is taken.

The forgetting table is measured on queries that chose nothing: each kept set's test part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from coreframe import registry
from coreframe.artefact import TrainedAdapter
from coreframe.config.settings import ContinualSettings, GateSettings
from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError, DataError
from coreframe.evaluation.compare import Gain, paired
from coreframe.evaluation.retrieval import evaluate
from coreframe.gate import forgotten
from coreframe.learned import Learned
from coreframe.loop import Run
from coreframe.regularizer import Regularizer

DEV_SHARE = 0.3
LEAST_TO_CHOOSE = 40
"""A kept set with fewer queries goes into the table whole, and chooses nothing."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Kept:
    """Queries that must not get worse: what is measured, and what helps to choose the strength."""

    name: str
    test: Pairs
    dev: Pairs | None = None

    @classmethod
    def of(cls, name: str, pairs: Pairs, *, seed: int = 42) -> Kept:
        """Take a part of a set, by group, to choose the strength on; the rest is measured."""
        if len(pairs) < LEAST_TO_CHOOSE or pairs.has_labels:
            return cls(name=name, test=pairs)
        try:
            dev = pairs.split(DEV_SHARE, (1 - DEV_SHARE) / 2, seed=seed)[1]
        except DataError:  # too few groups
            return cls(name=name, test=pairs)
        rest = ~np.isin(pairs.query_rows, dev.query_rows)
        test = pairs.take(rest).replaced(groups=pairs.connected[rest])
        return cls(name=name, test=test, dev=dev)


@dataclass(frozen=True, eq=False, kw_only=True)
class Earlier:
    """What a run goes on from: an adapter, what holds it, and what must not get worse."""

    adapter: TrainedAdapter
    learned: Learned
    kept: tuple[Kept, ...] = ()
    name: str = "the earlier run"


@dataclass(frozen=True, eq=False, kw_only=True)
class KeptSet:
    """One line of the forgetting table."""

    name: str
    queries: int
    base: Mapping[str, float]
    """Metrics of the vectors as they are."""
    before: Mapping[str, float]
    """Of the earlier adapter."""
    after: Mapping[str, float]
    """Of the new one."""
    gain: Gain
    """Of after over before, in the metric of the gate."""
    forgotten: bool
    """Whether it is proven worse, and by more than the gate allows."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Trial:
    """One strength that was tried: what it gains on the new dev set, and loses on those kept."""

    hold: str
    strength: float
    pull: Regularizer | None
    run: Run
    new: float
    """The metric on the new dev set."""
    changes: Mapping[str, float] = field(default_factory=dict)
    """Of the metric on each kept dev set."""

    @property
    def worst(self) -> float:
        return min(self.changes.values(), default=0.0)


def holding(
    learned: Learned, settings: ContinualSettings
) -> tuple[str, Callable[[float], Regularizer | None]]:
    """Return what holds the parameters, and its regularizer for a strength."""
    hold = settings.hold
    if hold == "auto":
        hold = "ewc" if learned.fisher else "l2"
    if hold == "ewc":
        if not learned.fisher:
            raise ArgumentError(
                "continual.hold = 'ewc' needs a Fisher information, which the earlier run lacks: "
                f"{learned.without or 'its pairs gave no gradient'}; use 'l2'"
            )

        def ewc(strength: float) -> Regularizer:
            empty: Any = registry.build(
                "regularizers", f"{registry.BUILT_IN}:ewc", strength=strength
            )
            held: Regularizer = empty.learned(learned.own, learned.fisher)
            return held

        return hold, ewc
    if hold == "l2":
        return hold, lambda strength: registry.build(
            "regularizers", f"{registry.BUILT_IN}:l2", strength=strength
        )
    return hold, lambda _: None


def trials(
    earlier: Earlier,
    fit_held: Callable[[str, Regularizer | None], Run],
    config: ContinualSettings,
    metric: str,
) -> list[Trial]:
    """Train with each strength, from the weakest on. ``fit_held`` gets a name and the pull."""
    hold, pull = holding(earlier.learned, config)
    measured = [kept for kept in earlier.kept if kept.dev is not None]
    strengths = sorted(set(config.strengths))
    if hold == "none":
        strengths = [0.0]
    elif not measured:
        strengths = [strengths[len(strengths) // 2]]

    def score(adapter: TrainedAdapter, pairs: Pairs) -> float:
        return evaluate(adapter, pairs, metrics=(metric,)).mean()[metric]

    before = {kept.name: score(earlier.adapter, kept.dev) for kept in measured}  # type: ignore[arg-type]
    found = []
    for strength in strengths:
        held = pull(strength)
        run = fit_held(f"{hold}-{strength:g}", held)
        changes = {
            kept.name: score(run.adapter, kept.dev) - before[kept.name]  # type: ignore[arg-type]
            for kept in measured
        }
        found.append(
            Trial(
                hold=hold,
                strength=strength,
                pull=held,
                run=run,
                new=run.dev[metric],
                changes=changes,
            )
        )
    return found


def choose(found: Sequence[Trial], allowed: float) -> Trial:
    """Return the trial that is best on the new dev set among those that lose no more than is
    allowed on each kept one, else the one that loses least; of equals, the one that holds harder.
    """
    within = [trial for trial in found if trial.worst >= -allowed]
    if within:
        return max(within, key=lambda trial: (trial.new, trial.strength))
    return max(found, key=lambda trial: (trial.worst, trial.strength))


def forgetting(
    earlier: Earlier, adapter: TrainedAdapter, settings: GateSettings, *, seed: int
) -> tuple[KeptSet, ...]:
    """Return the forgetting table: each kept set under the base, the old and the new adapter."""
    table = []
    for kept in earlier.kept:
        base, before, after = (
            evaluate(x, kept.test, metrics=settings.evaluated)
            for x in (None, earlier.adapter, adapter)
        )
        gains = paired(
            before, after, groups=kept.test.groups, resamples=settings.resamples, seed=seed
        ).gains
        gain = gains[settings.metric]
        table.append(
            KeptSet(
                name=kept.name,
                queries=len(kept.test),
                base=base.mean(),
                before=before.mean(),
                after=after.mean(),
                gain=gain,
                forgotten=forgotten(gain, settings),
            )
        )
    return tuple(table)
