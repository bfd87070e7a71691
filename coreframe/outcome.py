"""What an experiment found: every candidate, what is kept, the verdict, and what it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from coreframe.artefact import TrainedAdapter
from coreframe.curve import CurvePoint, would_more_help
from coreframe.data.pairs import Pairs
from coreframe.evaluation.compare import Comparison
from coreframe.evaluation.geometry import Health
from coreframe.evaluation.ranks import Ranks
from coreframe.evaluation.retrieval import Evaluation
from coreframe.forgetting import KeptSet, Trial
from coreframe.gate import Gate
from coreframe.learned import Learned
from coreframe.loop import Run

PREVIOUS = "previous"
"""The candidate of a continued run that is what was there before."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One row of the table: an adapter, what it costs to use, and how it does."""

    name: str
    adapter: TrainedAdapter
    allowed: bool
    """Whether it may be kept: with side="query" the index must stay as it is, and a continued
    run does not go back to the base."""
    dev: Mapping[str, float]
    test: Evaluation
    gain: Comparison
    """Over the base."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """All that a run found out."""

    train: Pairs
    dev: Pairs
    test: Pairs
    run: Run
    start: str
    """Where training started: identity, a baseline, or previous."""
    candidates: Mapping[str, Candidate]
    kept: str
    """The candidate that is best on dev."""
    gate: Gate
    seconds: float
    learned: Learned | None = None
    """What the next run goes on from."""
    curve: tuple[CurvePoint, ...] = ()
    no_curve: str = ""
    """Why there is no learning curve."""
    health: Mapping[str, Health] = field(default_factory=dict)
    """Of "base" and "adapted", the kept candidate."""
    ranks: Mapping[str, Ranks] = field(default_factory=dict)
    """Exact ranks of the test queries under the same two."""
    thresholds: tuple[Mapping[str, Any], ...] = ()
    """Score thresholds before and after: "what", "before", "after"."""
    forgetting: tuple[KeptSet, ...] = ()
    trials: tuple[Trial, ...] = ()
    """The strengths that a continued run tried."""
    over_previous: Comparison | None = None
    """The kept candidate against the earlier adapter: what the gate of a continued run asks."""

    @property
    def continued(self) -> bool:
        return PREVIOUS in self.candidates

    @property
    def reference(self) -> str:
        """What was there before, and stays if the gate does: the identity, or the previous."""
        return PREVIOUS if self.continued else "identity"

    @property
    def promoted(self) -> str:
        """What is stored: the kept candidate if the gate passed, else what was there before."""
        return self.kept if self.gate.passed else self.reference

    @property
    def adapter(self) -> TrainedAdapter:
        return self.candidates[self.promoted].adapter

    @property
    def comparison(self) -> Comparison:
        """The kept candidate against the base, on the test queries."""
        return self.candidates[self.kept].gain

    @property
    def if_rebuilt(self) -> str:
        """What is better than the kept candidate on dev but moves documents, in words; empty
        where nothing is, or where documents may be moved.
        """
        metric = self.gate.metric
        own = self.candidates[self.kept].dev[metric]
        others = [c for c in self.candidates.values() if c.adapter.rebuilds_index and not c.allowed]
        best = max(others, key=lambda c: c.dev[metric], default=None)
        if best is None or best.dev[metric] <= own:
            return ""
        return (
            f"{best.name} is better on dev ({metric} {best.dev[metric]:.3f}, kept {own:.3f}) and "
            "moves documents: if their index may be rebuilt, train with side = 'both'"
        )

    @property
    def more_labels(self) -> str:
        """Whether more labels would help, in words; empty without a learning curve."""
        return would_more_help(self.curve, self.gate.metric)

    @property
    def trial(self) -> Trial | None:
        """The strength that was chosen."""
        return next((trial for trial in self.trials if trial.run is self.run), None)
