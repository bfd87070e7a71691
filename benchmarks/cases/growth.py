"""The same losses as n grows: the lines of the plots, and the slopes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from benchmarks import floors, peers
from benchmarks.case import US, Case, Compare
from benchmarks.cases import labelled, pairs
from benchmarks.data import pairs as make_pairs

SIZES = (4096, 8192, 16384, 32768, 65536)
QUICK = (256, 512, 1024)
LABELLED = (512, 1024, 2048, 4096, 8192)
GROUPS = {"growth": "Pairs: InfoNCE", "growth_labelled": "Labels: SupCon"}


def _fits(n: int, matrices: int) -> bool:
    """Whether so many (n, n) arrays of float32 fit into half of the memory that there is."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return matrices * 4 * n * n < there / 2


def _at(n: int, quick: bool) -> Case:
    d = 64 if quick else 384
    case = pairs.one_direction(False, n, d, f"growth/{n}")
    sides, gone = [], {}
    for side in case.sides:
        held = 1 if side.name == floors.WHOLE else 4  # (n, n) arrays; ours and blocks hold none
        if side.name == peers.TORCH_COMPILE:
            continue  # it compiles anew for every size
        if side.name not in (US, floors.BLOCKS) and not _fits(n, held):
            gone[side.name] = f"does not fit: it holds {held * 4 * n * n / 2**30:.0f} GiB or more"
        elif side.name == floors.BLOCKS and n > 32768:
            gone[side.name] = "takes long, and stands beside the fixed size"
        else:
            sides.append(side)
    return dataclasses.replace(
        case,
        small=make_pairs(min(n, 1024), d),
        sides=tuple(sides),
        rows=tuple(Compare(row.to) for row in case.rows if row.to != peers.TORCH_COMPILE),
        exact=None,
        rounds=1 if n > 8192 else 3,
        long=n > 16384,
        left_out=gone,
    )


def _labelled_at(n: int, quick: bool) -> Case:
    case = labelled.sup_con(False, n, 64 if quick else 128, f"growth_labelled/{n}")
    rows = tuple(Compare(row.to) for row in case.rows)
    return dataclasses.replace(case, rows=rows, exact=None, rounds=3)


def sizes(name: str, quick: bool) -> tuple[int, ...]:
    return QUICK if quick else SIZES if name == "growth" else LABELLED


def _maker(at: Callable[[int, bool], Case], n: int) -> Callable[[bool], Case]:
    return lambda quick: at(n, quick)


CASES = {
    f"{name}/{n}": _maker(at, n)
    for name, at in (("growth", _at), ("growth_labelled", _labelled_at))
    for n in sorted({*sizes(name, True), *sizes(name, False)})
}
