"""Stages one after another: a schedule whose value is a stage."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coreframe import checks
from coreframe.errors import ArgumentError, ArgumentTypeError, nearest
from coreframe.scheduler import Progress, Scheduler

if TYPE_CHECKING:
    from coreframe_schedulers.stage_value import StageValue

NUMBERS = ("difficulty", "temperature", "negatives")
UNITS = {"steps": "step", "samples": "samples", "epochs": "epoch"}
"""What durations may count, and the field of Progress that counts it."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What holds during one stage of a curriculum, and for how long.

    Args:
        name: what the stage is called.
        duration: >= 1, in the unit of the curriculum.
        difficulty: in [0, 1], how hard the examples may be. Default: 0.5 (the middle).
        temperature: > 0. Default: 1.0 (no sharpening).
        negatives: >= 1, an integer, negatives an anchor. Default: 10 (a usual number).
        values: any other scheduled numbers of the stage, by name. Default: none.

    Shapes: plain numbers, no arrays.

    Edges: a value out of its range is an error, not clamped, and so is a duration of 0: leave such
        a stage out.

    Cost: none.

    References: Bengio et al. 2009, doi 10.1145/1553374.1553380.

    >>> Stage(name="hard", duration=100, temperature=0.1, values={"margin": 0.3}).value("margin")
    0.3
    """

    name: str
    duration: int
    difficulty: float = 0.5
    temperature: float = 1.0
    negatives: int = 10
    values: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ArgumentTypeError(f"Stage.name must be a text, got {self.name!r}")
        for name in ("duration", *NUMBERS):
            if checks.is_scheduler(getattr(self, name)):
                raise ArgumentTypeError(f"Stage.{name} must be a number: a stage does not change")
        checks.number(self, "duration", minimum=1, integer=True)
        checks.number(self, "difficulty", minimum=0, maximum=1)
        checks.number(self, "temperature", above=0)
        checks.number(self, "negatives", minimum=1, integer=True)
        if not isinstance(self.values, Mapping):
            raise ArgumentTypeError(f"Stage.values must be a mapping, got {self.values!r}")
        own = {f.name for f in dataclasses.fields(self)}
        for name, value in self.values.items():
            if name in own:
                raise ArgumentError(f"Stage.values must not hold {name!r}: it is a field of Stage")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ArgumentTypeError(f"Stage.values[{name!r}] must be a number, got {value!r}")
            if not math.isfinite(value):
                raise ArgumentError(f"Stage.values[{name!r}] must be finite, got {value!r}")

    def value(self, name: str) -> float:
        """Return difficulty, temperature, negatives, or one of ``values``, by name."""
        if name in NUMBERS:
            return float(getattr(self, name)) if name != "negatives" else self.negatives
        if name in self.values:
            return self.values[name]
        known = (*NUMBERS, *self.values)
        raise ArgumentError(f"stage {self.name!r} has no value {name!r}.{nearest(name, known)}")


NO_STAGE = Stage(name="none", duration=1, difficulty=1.0)
"""What a curriculum without stages says: full difficulty, and the defaults."""


@dataclass(frozen=True, kw_only=True)
class Curriculum(Scheduler):
    """Stages one after another, each for its number of steps, samples or epochs.

        value(progress) = stages[i],  starts[i] <= position < starts[i + 1]
        position = progress.step, .samples or .epoch,  starts = 0, d_0, d_0 + d_1, ...

    The value is the stage that the next update uses, as with every scheduler. It depends on the
    position alone: a run goes on where it stopped, a batch that reaches over a border is counted
    on in the next stage, and to begin anew is to begin with a new Progress. To schedule a field
    of a component, give it ``curriculum.value("temperature")``, or write the scheduler
    ``stage_value``.

    How to reproduce: no library that we know of has stages as a pure function of the step.

    Args:
        stages: in their order; each has a name, a duration of at least 1, and its values.
        unit: steps, samples or epochs, what durations count. Default: steps (as other schedules).

    Shapes: a Progress comes in, a Stage goes out.

    Edges: the last stage holds past the end. Without stages the value is a stage of full
        difficulty with the defaults of Stage, and the curriculum is complete.

    Cost: the number of stages.

    References: Bengio et al. 2009, doi 10.1145/1553374.1553380.

    >>> curriculum = Curriculum.linear(3, 1000, negatives=(5, 20), temperature=(1.0, 0.1))
    >>> progress = Progress()
    >>> for _ in range(10):
    ...     progress = progress.after(samples=150)
    >>> stage = curriculum(progress)
    >>> stage.negatives, stage.temperature, curriculum.elapsed(progress)
    (13, 0.55, 500)
    """

    stages: tuple[Stage, ...]
    unit: str = "steps"

    def __post_init__(self) -> None:
        checks.choice(self, "unit", tuple(UNITS))
        if not isinstance(self.stages, tuple):
            raise ArgumentTypeError(
                f"Curriculum.stages must be a tuple of Stage, got {self.stages!r}"
            )
        for stage in self.stages:
            if not isinstance(stage, Stage):
                raise ArgumentTypeError(f"Curriculum.stages must hold Stage, got {stage!r}")

    @classmethod
    def linear(
        cls,
        stages: int,
        samples: int,
        *,
        negatives: tuple[int, int],
        temperature: tuple[float, float],
        difficulty: tuple[float, float] = (0.0, 1.0),
    ) -> Curriculum:
        """Return stages of so many samples each, whose values go in equal steps from first to last.

        Negatives round half up. A single stage has the first values.
        """
        _whole("stages", stages, 1)
        _whole("samples", samples, 1)
        for name, ends in (
            ("negatives", negatives),
            ("temperature", temperature),
            ("difficulty", difficulty),
        ):
            if not isinstance(ends, tuple | list) or len(ends) != 2:
                raise ArgumentError(f"{name} must be two numbers, first and last, got {ends!r}")
        made = []
        for i in range(stages):
            x = i / (stages - 1) if stages > 1 else 0.0
            made.append(
                Stage(
                    name=f"stage_{i + 1}",
                    duration=samples,
                    difficulty=_between(difficulty, x),
                    temperature=_between(temperature, x),
                    negatives=math.floor(_between(negatives, x) + 0.5),
                )
            )
        return cls(stages=tuple(made), unit="samples")

    @classmethod
    def default(cls, total: int, *, unit: str = "steps") -> Curriculum:
        """Return warm_up, easy, medium and hard, which share ``total`` (at least 4) evenly.

        What does not divide by four is spread, so that the durations add up to ``total``.
        """
        _whole("total", total, 4)
        values = (
            ("warm_up", 0.1, 2.0, 5),
            ("easy", 0.3, 1.0, 10),
            ("medium", 0.6, 0.5, 20),
            ("hard", 1.0, 0.1, 50),
        )
        stages = tuple(
            Stage(
                name=name,
                duration=(i + 1) * total // 4 - i * total // 4,
                difficulty=difficulty,
                temperature=temperature,
                negatives=negatives,
            )
            for i, (name, difficulty, temperature, negatives) in enumerate(values)
        )
        return cls(stages=stages, unit=unit)

    def __call__(self, progress: Progress, /) -> Stage:
        return self.stages[self.stage_index(progress)] if self.stages else NO_STAGE

    def value(self, name: str) -> StageValue:
        """Return a scheduler for one value: difficulty, temperature, negatives or another."""
        from coreframe_schedulers.stage_value import StageValue

        return StageValue(curriculum=self, name=name)

    def position(self, progress: Progress) -> int:
        """Return the steps, samples or epochs so far."""
        return int(getattr(progress, UNITS[self.unit]))

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each stage starts, in the curriculum's unit."""
        return tuple(itertools.accumulate((s.duration for s in self.stages[:-1]), initial=0))

    @property
    def duration(self) -> int:
        """How long all stages last together."""
        return sum(stage.duration for stage in self.stages)

    def stage_index(self, progress: Progress) -> int:
        """Return the number of the stage, from 0; -1 if there is none."""
        if not self.stages:
            return -1
        return bisect.bisect_right(self.starts, self.position(progress)) - 1

    def elapsed(self, progress: Progress) -> int:
        """Return how long the present stage has lasted; 0 if there is none."""
        index = self.stage_index(progress)
        return self.position(progress) - self.starts[index] if self.stages else 0

    def completion(self, progress: Progress) -> float:
        """Return the share of the whole that is done, in [0, 1]; 1 if there is nothing to do."""
        return min(1.0, self.position(progress) / self.duration) if self.stages else 1.0

    def is_complete(self, progress: Progress) -> bool:
        """Say whether every stage has had its duration."""
        return self.position(progress) >= self.duration


def _between(ends: tuple[float, float], x: float) -> float:
    return ends[0] * (1 - x) + ends[1] * x


def _whole(name: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ArgumentTypeError(f"{name} must be an integer, got {value!r}")
    if value < minimum:
        raise ArgumentError(
            f"{name} must be at least {minimum}, got {value!r}"
            + ("; each of the four stages needs one" if minimum == 4 else "")
        )
