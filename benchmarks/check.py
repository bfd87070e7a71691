"""A small check that nothing became much slower: ratios at moderate sizes, with wide bounds.

``python -m benchmarks check`` ends with 1 where a ratio stays above its bound in three tries, as
machines are noisy. It needs no other library; with torch there is more to compare with. The
bounds are about twice what was measured on two and on one thread.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import util

from benchmarks import peers
from benchmarks.case import US, Case, Compare
from benchmarks.cases import labelled, optimizers, pairs, training
from benchmarks.floors import FLOOR

TRIES = 3


def _only(case: Case, *names: str, **changes: object) -> Case:
    """Return a case with the sides that a check needs, without what takes long."""
    sides = tuple(side for side in case.sides if side.name in (US, *names))
    return dataclasses.replace(case, sides=sides, exact=None, **changes)  # type: ignore[arg-type]


def _info_nce(quick: bool) -> Case:
    case = pairs.one_direction(False, 4096, 128, "check/info_nce")
    return _only(case, *FLOOR, peers.TORCH, rounds=5)


def _symmetric(quick: bool) -> Case:
    case = pairs.both_directions(False, 4096, 128, "check/symmetric")
    return _only(case, *FLOOR, rounds=5)


def _small(quick: bool) -> Case:
    return _only(pairs.small(True), pairs.FORMULA, peers.TORCH, name="check/small", rounds=9)


def _third_party(quick: bool) -> Case:
    case = pairs.third_party(False, 4096, 128, "check/third_party")
    return _only(case, "third-party row_terms", rounds=5)


def _sup_con(quick: bool) -> Case:
    return _only(labelled.sup_con(False, 2048, 128, "check/sup_con"), *FLOOR, rounds=5)


def _batch_hard(quick: bool) -> Case:
    return _only(labelled.batch_hard(False, 2048, 128, "check/batch_hard"), *FLOOR, rounds=5)


def _adamw(quick: bool) -> Case:
    case = optimizers.adamw("check/adamw", 1, 10_000_000)
    return _only(case, optimizers.FORMULA, optimizers.DEFAULT, rounds=9)


def _step(quick: bool) -> Case:
    return _only(training.step(False, 2048, 128, "check/step"), *FLOOR, peers.TORCH, rounds=5)


CASES: Mapping[str, Callable[[bool], Case]] = {
    "check/info_nce": _info_nce,
    "check/symmetric": _symmetric,
    "check/small": _small,
    "check/third_party": _third_party,
    "check/sup_con": _sup_con,
    "check/batch_hard": _batch_hard,
    "check/adamw": _adamw,
    "check/step": _step,
}


@dataclass(frozen=True)
class Bound:
    """What a case's ratio, or its extra memory in MiB, may be at most."""

    case: str
    at_most: float
    to: str | tuple[str, ...] = FLOOR
    ours: str = US
    memory: bool = False

    def missing(self) -> str | None:
        """Return the library that is compared with and is not here, or None."""
        torch = (peers.TORCH, optimizers.DEFAULT)
        return "torch" if self.to in torch and util.find_spec("torch") is None else None


BOUNDS = (
    Bound("check/info_nce", 2.6),
    Bound("check/info_nce", 1.0, peers.TORCH),
    Bound("check/info_nce", 64.0, memory=True),
    Bound("check/symmetric", 3.8),
    Bound("check/small", 6.5, pairs.FORMULA),
    Bound("check/small", 1.0, peers.TORCH),
    Bound("check/third_party", 3.2, US, "third-party row_terms"),
    Bound("check/sup_con", 3.2),
    Bound("check/batch_hard", 3.8),
    Bound("check/adamw", 0.8, optimizers.FORMULA),
    Bound("check/adamw", 1.2, optimizers.DEFAULT),
    Bound("check/step", 3.0),
    Bound("check/step", 1.1, peers.TORCH),
)


def run(
    time_of: Callable[[str], Mapping[str, list[float]]],
    memory_of: Callable[[str], float],
    say: Callable[[str], None],
    bounds: tuple[Bound, ...] = BOUNDS,
) -> int:
    """Return 0 if every bound holds, else 1. ``time_of`` measures a case, ``memory_of`` MiB."""
    from benchmarks.run import compared

    wrong = 0
    waiting = [bound for bound in bounds if bound.missing() is None]
    for bound in bounds:
        if bound not in waiting:
            say(f"left out: {bound.case} beside {bound.to}: {bound.missing()} is not installed")
    for name in dict.fromkeys(bound.case for bound in waiting):
        left = [bound for bound in waiting if bound.case == name]
        for attempt in range(1, TRIES + 1):
            times = time_of(name) if any(not bound.memory for bound in left) else {}
            above = []
            for bound in left:
                if bound.memory:
                    found, what = memory_of(name), "MiB of extra memory"
                else:
                    row = compared(Compare(bound.to, bound.ours), times)
                    if row is None:
                        found, what = float("inf"), "not measured: a side did not run"
                    else:
                        found, what = row["ratio"], f"x {row['to']}"
                holds = found <= bound.at_most
                say(
                    f"{'ok' if holds else 'ABOVE'}: {name}: {bound.ours} {found:.2f} {what}, "
                    f"at most {bound.at_most:g}" + ("" if holds else f" (try {attempt})")
                )
                if not holds:
                    above.append(bound)
            left = above
            if not left:
                break
        wrong += len(left)
    say(f"{wrong} of {len(waiting)} bounds are exceeded" if wrong else "every bound holds")
    return int(wrong > 0)
