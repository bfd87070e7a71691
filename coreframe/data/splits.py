"""Train, dev and test: at random, by group, by time, or as the data gives them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coreframe.config.settings import DataSettings
from coreframe.data.joining import PARTS
from coreframe.data.loading import Loaded
from coreframe.data.pairs import Pairs
from coreframe.data.relevance import Floats, Ints, components
from coreframe.data.seeing import some
from coreframe.errors import ArgumentError, DataError


@dataclass(frozen=True, eq=False)
class Split:
    """The three parts, how they were made (random, group, time or given), and what to tell."""

    train: Pairs
    dev: Pairs
    test: Pairs
    method: str
    notes: tuple[str, ...]


def split_pairs(loaded: Loaded, settings: DataSettings, *, seed: int) -> Split:
    """Split loaded pairs as the settings say; a pure function of the data and the seed.

    At random and by group, queries of one group, of equal text (or vector) or with an equal
    right document stay together. By time, the latest queries are the test and those before
    them dev. Given parts are taken as they are; a part that is missing is drawn from train.
    """
    pairs, wanted = loaded.pairs, settings.split
    if wanted == "given" and loaded.parts is None:
        raise ArgumentError(
            "data.split = 'given' needs data in parts: a column 'split', a BEIR folder with qrels "
            "of several parts, or a DatasetDict"
        )
    if wanted == "time" and loaded.times is None:
        raise ArgumentError(
            "data.split = 'time' needs a column 'time', 'date' or 'timestamp'; data.time names it"
        )
    if wanted == "group" and not loaded.has_groups:
        raise ArgumentError("data.split = 'group' needs a column 'group'; data.group names it")
    notes: list[str] = []
    given = wanted == "given" or (wanted == "auto" and _has_parts(loaded.parts))
    if given:
        assert loaded.parts is not None
        side, method = _completed(pairs, loaded.parts, settings, seed, notes), "given"
    elif wanted == "time":
        assert loaded.times is not None
        side, method = _by_time(loaded.times, settings), "time"
    else:
        if loaded.parts is not None and wanted == "auto":
            have = " and ".join(PARTS[i] for i in np.unique(loaded.parts))
            notes.append(f"split   the data has the part {have} only, so all of it is split")
        train, dev, test = pairs.split(settings.dev, settings.test, seed=seed)
        method = "group" if loaded.has_groups else "random"
        return Split(train, dev, test, method, (*notes, _counts(train, dev, test, _TOLD[method])))
    side = _without_leaks(pairs, side, settings.leakage, notes)
    try:
        train, dev, test = pairs.parted(side)
    except DataError as error:
        raise DataError(f"{error} after the split {_TOLD[method]}") from None
    if not pairs.has_labels:
        notes += _shared(pairs, side)
    return Split(train, dev, test, method, (_counts(train, dev, test, _TOLD[method]), *notes))


_TOLD = {
    "random": "by group: no text and no group on two sides",
    "group": "by group: no text and no group on two sides",
    "time": "by time: the latest are the test",
    "given": "as given",
}


def _counts(train: Pairs, dev: Pairs, test: Pairs, how: str) -> str:
    counts = f"{len(train):,} train · {len(dev):,} dev · {len(test):,} test"
    return f"split   {counts} queries, {how}"


def _has_parts(parts: Ints | None) -> bool:
    """Say whether there is something to learn from, and something else."""
    return parts is not None and 0 in parts and len(np.unique(parts)) > 1


def _by_time(times: Floats, settings: DataSettings) -> Ints:
    """Return the part of each query; queries of one moment stay together."""
    moments = np.sort(times)
    q = len(times)
    cuts = [
        moments[min(q - 1, int(np.ceil(q * (1 - share))))]
        for share in (settings.test, settings.test + settings.dev)
    ]
    side: Ints = np.where(times >= cuts[0], 2, np.where(times >= cuts[1], 1, 0))
    if len(np.unique(side)) < 3:
        raise DataError(
            f"{len(np.unique(times))} different times of {q} queries are too few to split by: "
            "dev, test and train would not all have some"
        )
    return side


def _completed(
    pairs: Pairs, parts: Ints, settings: DataSettings, seed: int, notes: list[str]
) -> Ints:
    """Draw the parts that are not given from train."""
    side = parts.copy()
    missing = [i for i in (1, 2) if not (parts == i).any()]
    if not (parts == 0).any():
        raise DataError("the data gives no train part; data.split = 'random' splits what there is")
    if not missing:
        return side
    rows = np.nonzero(parts == 0)[0]
    taken = pairs.take(rows)
    share = {1: settings.dev, 2: settings.test}
    drawn = taken.split(share[1], share[2], seed=seed)
    for number in missing:
        side[_positions(pairs, drawn[number])] = number
        notes.append(
            f"split   no {PARTS[number]} part is given: {share[number]:.0%} of train are drawn"
        )
    return side


def _positions(pairs: Pairs, part: Pairs) -> Ints:
    place = np.full(int(pairs.query_rows.max()) + 1, -1)
    place[pairs.query_rows] = np.arange(len(pairs))
    found: Ints = place[part.query_rows]
    return found


def _without_leaks(pairs: Pairs, side: Ints, leakage: str, notes: list[str]) -> Ints:
    """Find queries that stand on two sides, and do what the settings say with the earlier one.

    A query is the same if its text (or vector) or its group is.
    """
    codes = _same(pairs)
    order = {2: "test", 1: "dev"}
    side = side.copy()
    for later, name in order.items():
        held = np.unique(codes[side == later])
        for earlier in range(later):
            leaks = (side == earlier) & np.isin(codes, held)
            count = int(leaks.sum())
            if not count:
                continue
            what = f"{some(count, f'{PARTS[earlier]} query')} also in {name}, by text or group"
            if leakage == "refuse":
                row = int(np.nonzero(leaks)[0][0])
                text = "" if pairs.query_texts is None else f", such as {pairs.query_texts[row]!r}"
                raise DataError(
                    f"leakage: {what}{text}; data.leakage = 'drop' leaves them out of "
                    f"{PARTS[earlier]}"
                )
            if leakage == "drop":
                side[leaks] = -1
                notes.append(f"leakage {what}: left out of {PARTS[earlier]}")
            else:
                notes.append(
                    f"leakage {what}: KEPT, as asked, so the evidence is not of unseen queries"
                )
    return side


def _same(pairs: Pairs) -> Ints:
    """Return a number a query, equal for the same text (or vector) and for the same group."""
    q = len(pairs)
    own, groups = pairs.codes[0], pairs.groups
    first = q + int(own.max()) + 1
    rows = np.arange(q)
    ends = np.concatenate([q + own, first + groups])
    return components(np.concatenate([rows, rows]), ends, first + int(groups.max()) + 1)[:q]


def _shared(pairs: Pairs, side: Ints) -> list[str]:
    """Tell how many right documents of the test are right in train too."""
    relevance = pairs.relevance
    of_document = pairs.codes[1]
    right = relevance.pairs  # type: ignore[attr-defined]
    test: NDArray[np.int64] = np.unique(of_document[right[side[right[:, 0]] == 2, 1]])
    train = np.unique(of_document[right[side[right[:, 0]] == 0, 1]])
    count = int(np.isin(test, train).sum())
    if not count:
        return []
    return [
        f"shared  {count:,} of {len(test):,} right documents of test are right in train too: "
        "the test is of new queries, not of new documents"
    ]
