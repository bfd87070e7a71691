"""What one measurement is: the same work done by several sides, and what is compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import util
from typing import Any

Inputs = Mapping[str, Any]
Call = Callable[[], Any]
Arrays = Mapping[str, Any]

US = "coreframe"
COMPILED = "coreframe, compiled"
PLAIN = {"COREFRAME_KERNELS": "plain"}


class LeftOut(Exception):
    """A side that cannot run here; the text says why."""


@dataclass(frozen=True)
class Side:
    """One way to do a case's work.

    ``build(inputs)`` imports what it needs and returns the call that is timed; ``outputs`` takes
    what the call returned to the arrays that are compared with float64. ``in_full``: its warm-up
    needs the full arrays, since it compiles for a shape, or makes its state in the first call.
    ``environment`` holds around its calls. ``memory=False``: what it holds is of no interest.
    """

    name: str
    build: Callable[[Inputs], Call]
    outputs: Callable[[Any], Arrays] | None = None
    needs: tuple[str, ...] = ()
    in_full: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    memory: bool = True

    def missing(self) -> str | None:
        """Return which library is not here, or None."""
        for name in self.needs:
            if util.find_spec(name) is None:
                return f"{name} is not installed"
        return None


@dataclass(frozen=True)
class Compare:
    """One line of the table: the time (and memory) of ``ours`` over that of ``to``.

    Several names in ``to`` are a floor: the fastest of them counts. ``minus`` is a side whose
    time is taken from ours first, round by round. A target is of the full size only.
    """

    to: str | tuple[str, ...]
    ours: str = US
    at_most: float | None = None
    goal: float | None = None
    memory_mib: float | None = None
    memory_share: float | None = None
    minus: str | None = None


@dataclass(frozen=True)
class Case:
    """The same work on the same arrays by several sides.

    ``inputs()`` makes the arrays and ``small()`` the same for a warm-up. ``exact(inputs)`` is
    the result in float64, by the names that ``outputs`` give. ``deducted(inputs)`` is how many
    bytes of the rise in memory are no extra memory: gradients that are returned, work space that
    is granted. A ``long`` case is warmed up with the small arrays only. ``calls`` are made in
    each timing, and ``memory=False`` leaves the memory out.
    """

    name: str
    what: str
    inputs: Callable[[], Inputs]
    small: Callable[[], Inputs]
    sides: tuple[Side, ...]
    rows: tuple[Compare, ...]
    exact: Callable[[Inputs], Arrays] | None = None
    deducted: Callable[[Inputs], int] = lambda inputs: 0
    accuracy: str = "gradient"
    rounds: int = 7
    calls: int = 1
    long: bool = False
    memory: bool = True
    n: int = 0
    note: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)

    def side(self, name: str) -> Side:
        return next(side for side in self.sides if side.name == name)


@dataclass(frozen=True)
class Command:
    """A process that is run whole, beside a limit in seconds and other processes."""

    name: str
    what: str
    arguments: tuple[str, ...]
    limit: float
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    rounds: int = 7
