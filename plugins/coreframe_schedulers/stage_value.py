"""One value of a curriculum's stage."""

from __future__ import annotations

from dataclasses import dataclass

from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.scheduler import Progress, Scheduler
from coreframe_schedulers.curriculum import NO_STAGE, Curriculum


@dataclass(frozen=True, kw_only=True)
class StageValue(Scheduler):
    """One number of the stage that a curriculum is in: what joins a curriculum to a component.

        value(progress) = curriculum(progress).value(name)

    ``curriculum.value("temperature")`` is short for it. Several components may hold values of one
    curriculum, and all change in the same step.

    Args:
        curriculum: the curriculum.
        name: difficulty, temperature, negatives, or a name in each stage's ``values``.

    Shapes: a Progress comes in, one number goes out.

    Edges: as the curriculum: the last stage's value past the end. A name that a stage lacks is an
        error when this is made.

    Cost: constant.

    References: none.

    >>> from coreframe_schedulers.curriculum import Curriculum, Stage
    >>> stages = (Stage(name="a", duration=2), Stage(name="b", duration=2, temperature=0.1))
    >>> value = StageValue(curriculum=Curriculum(stages=stages), name="temperature")
    >>> [value.at(t) for t in range(6)]
    [1.0, 1.0, 0.1, 0.1, 0.1, 0.1]
    """

    curriculum: Curriculum
    name: str

    def __post_init__(self) -> None:
        if not isinstance(self.curriculum, Curriculum):
            raise ArgumentTypeError(
                f"StageValue.curriculum must be a Curriculum, got {self.curriculum!r}"
            )
        for stage in self.curriculum.stages or (NO_STAGE,):
            try:
                stage.value(self.name)
            except ArgumentError as error:
                raise ArgumentError(f"StageValue.name: {error}") from None

    def __call__(self, progress: Progress, /) -> float:
        return self.curriculum(progress).value(self.name)
