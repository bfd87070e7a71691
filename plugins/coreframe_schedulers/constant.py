"""One value for the whole run."""

from __future__ import annotations

from dataclasses import dataclass

from coreframe.scheduler import Progress, Scheduler, check_number


@dataclass(frozen=True, kw_only=True)
class Constant(Scheduler):
    """The same value at every step.

        value

    A plain number does the same; this is the piece to put between others in ``joined``. How to
    reproduce: optax's ``constant_schedule``, transformers' ``constant``. torch's ``ConstantLR`` is
    something else: a factor for some steps, which then becomes 1.

    Args:
        value: any finite number.

    Shapes: a Progress comes in, one float goes out.

    Edges: the same past the end and in an open-ended run.

    Cost: none.

    References: none.

    >>> Constant(value=0.1).at(7)
    0.1
    """

    value: float

    def __post_init__(self) -> None:
        check_number(self, "value")

    def __call__(self, progress: Progress, /) -> float:
        return self.value
