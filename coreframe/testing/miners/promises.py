"""What a miner promises, and how each promise is checked."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from coreframe.backend import device_of, namespace, to_numpy
from coreframe.errors import ArgumentError
from coreframe.miner import Miner, RankingMiner
from coreframe.testing import arrays, kit
from coreframe.testing.checks import Check, NotApplicable, Promise, promise
from coreframe.testing.miners import manners
from coreframe.testing.miners.subject import PAIRS, Subject, invented, whole
from coreframe.testing.shared import SHARED

PROMISES: list[Promise] = []


def check_miner(miner: Miner) -> list[Check]:
    """Check all promises of a miner on seeded batches and on every array library of this machine.

    Of the batches, those are used that the miner does not refuse by an ArgumentError.
    """
    return KIT.check(miner)


@promise(
    PROMISES,
    "It accepts at least one kind of batch.",
    fix="Raise ArgumentError only for batches that have no meaning for the miner.",
    needs=("usable",),
)
def accepts(subject: Subject) -> Iterator[str]:
    if not subject.cases:
        yield "every batch is refused by an ArgumentError"


# The relation -------------------------------------------------------------------------------


@promise(
    PROMISES,
    "The result is a part of the batch's relation: pairs are dropped, none is invented.",
    fix="Choose only where the masks that similarity_rows yields are true; "
    "coreframe.miner.with_negatives(batch, columns) keeps the positives and the rest out.",
    needs=("usable", "accepts"),
)
def part_of_the_relation(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        batch = case.batch()
        yield from invented(case, subject.mine(batch), batch)


@promise(
    PROMISES,
    "The relation says the same whole and in tiles of any size.",
    fix="tile(rows, cols) must honour both slices: what it returns has as many columns as cols.",
    needs=PAIRS,
)
def tiles(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        batch = case.batch()
        mined = subject.mine(batch)
        for step in (1, 3):
            for mask, tiled in zip(whole(mined, batch), whole(mined, batch, step), strict=True):
                if not np.array_equal(mask, tiled):
                    yield f"{case.name}: tiles of {step} x {step} say something else than the whole"


@promise(
    PROMISES,
    "What the relation lists is what its tiles say.",
    fix="listed() must name the pairs that tile() has; coreframe.relation.Listed does both.",
    needs=(*PAIRS, "tiles"),
)
def listed(subject: Subject) -> Iterator[str]:
    some = False
    for case in subject.cases:
        batch = case.batch()
        mined = subject.mine(batch)
        xp, device = namespace(anchors=batch.anchors), device_of(batch.anchors)
        found = mined.listed(slice(0, mined.rows), xp, device)
        if found is None:
            continue
        some, columns = True, to_numpy(found[0])
        masks = whole(mined, batch)
        for kind, mask, chosen in zip(("positive", "negative"), masks, found[1:], strict=True):
            again = np.zeros_like(mask)
            row, place = np.nonzero(to_numpy(chosen))
            again[row, columns[row, place]] = True
            if batch.references is None:
                np.fill_diagonal(again, False)
            if not np.array_equal(mask, again):
                yield f"{case.name}: listed() and tile() have other {kind} pairs"
    if not some:
        raise NotApplicable("its relations are not listed")


@promise(
    PROMISES,
    "The relation seen from the references is the same, transposed.",
    fix="Return one of coreframe's relations, or write transpose() with rows and columns swapped.",
    needs=(*PAIRS, "tiles"),
)
def transposed(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        batch = case.batch()
        if batch.references is None:
            continue
        mined = subject.mine(batch)
        other = mined.transpose()
        if (other.rows, other.columns) != (mined.columns, mined.rows):
            yield f"{case.name}: transpose() is for {other.rows} x {other.columns}"
            continue
        pairs = zip(whole(mined, batch), whole(other, batch), strict=True)
        if any(not np.array_equal(mask, turned.T) for mask, turned in pairs):
            yield f"{case.name}: transpose() has other pairs"


@promise(
    PROMISES,
    "The same seed gives the same pairs.",
    fix="Draw from the rng that is given, in an order that depends on shapes alone; break ties "
    "by index, as coreframe.ops.top_k does.",
    needs=(*PAIRS, "no_global_random"),
)
def deterministic(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        first, second = subject.masks(case, seed=3), subject.masks(case, seed=3)
        if not np.array_equal(first, second):
            yield f"{case.name}: the second call with the same seed gives other pairs"


@promise(
    PROMISES,
    "Shapes depend on the shapes of the batch, not on its values.",
    fix="Fill up with -1 where there are fewer pairs than places, as with_negatives expects.",
    needs=PAIRS,
)
def fixed_shapes(subject: Subject) -> Iterator[str]:
    rng = np.random.default_rng(16)
    for case in subject.cases:
        like = {name: rng.standard_normal(x.shape) for name, x in case.floats.items()}
        same = {name: 0 * x + 1 for name, x in case.floats.items()}
        widths = {
            subject.mine(case.batch(**{k: v for k, v in x.items() if k in case.embeddings})).width
            for x in (case.floats, like, same)
        }
        if len(widths) > 1:
            yield f"{case.name}: the number of listed columns varies with the values: {widths}"


@promise(
    PROMISES,
    "The order of the batch does not matter: a miner that draws none chooses the same pairs.",
    fix="Score pairs by their similarity and the relation, never by the number of a row or column.",
    needs=(*PAIRS, "deterministic"),
)
def order_of_the_batch(subject: Subject) -> Iterator[str]:
    if subject.draws:
        raise NotApplicable("it draws, and other places get other draws")
    for case in subject.cases:
        moved, order = case.permuted()
        rows, columns = order["rows"], order["columns"]
        here, there = subject.masks(case), subject.masks(moved)
        for kind, mask, again in zip(("positives", "negatives"), here, there, strict=True):
            if not np.array_equal(mask[rows][:, columns], again):
                yield f"{case.name}: in another order other {kind} are chosen"


@promise(
    PROMISES,
    "Of candidates that are equally good those of lower index are chosen.",
    fix="Take the best by coreframe.ops.top_k, or xp.argsort(..., descending=True, stable=True).",
    needs=(*PAIRS, "deterministic"),
)
def ties(subject: Subject) -> Iterator[str]:
    if subject.draws:
        raise NotApplicable("it draws among the candidates")
    case = arrays.tied_case()
    if not subject.usable([case]):
        raise NotApplicable("it takes no masks of pairs")
    _, negative = subject.masks(case)
    for row, chosen in enumerate(negative):
        count = int(chosen.sum())
        if isinstance(subject.miner, RankingMiner) and not chosen[1 : 1 + count].all():
            yield f"row {row}: of equal columns {np.flatnonzero(chosen).tolist()} are chosen"


# Edges --------------------------------------------------------------------------------------


def _edge(name: str, sentence: str) -> None:
    """Promise that the edge cases of one name give pairs of the batch."""

    def problems(subject: Subject) -> Iterator[str]:
        cases = subject.edge_cases(name)
        if not cases:
            raise NotApplicable("it takes no such batch")
        for case in cases:
            batch = case.batch()
            yield from invented(case, subject.mine(batch), batch)

    problems.__name__ = name
    promise(
        PROMISES,
        f"{sentence} give pairs of the batch.",
        fix="Compute scores that are finite or -inf, and choose only where the mask is true; where "
        "nothing is left to choose, -1 says so. A batch without meaning may be refused by an "
        "ArgumentError.",
        needs=(*PAIRS, "part_of_the_relation"),
    )(problems)


_edge("one_row", "Batches of one row")
_edge("duplicates", "Rows that equal each other")
_edge("zero_vectors", "Zero vectors")
_edge("magnitudes", "Vectors 1e15 long, and 1e-15 short,")
_edge("no_positives", "Rows without positives")
_edge("no_negatives", "Rows without negatives")


@promise(
    PROMISES,
    "With NaN among the embeddings the batch is refused, or the pairs are pairs of the batch.",
    fix="Choose only where the masks are true: NaN compares as false, and sorts to an end.",
    needs=(*PAIRS, "part_of_the_relation"),
)
def nan_invents_nothing(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        for name in case.embeddings:
            batch = case.batch()
            spoiled = np.array(case.floats[name])
            spoiled[0] = np.nan
            object.__setattr__(batch, name, spoiled)  # as from a GPU, where no value is looked at
            try:
                mined = subject.mine(batch)
            except ArgumentError:
                continue
            yield from invented(case, mined, batch)


PROMISES = [*SHARED, *PROMISES, *manners.PROMISES]

KIT = kit.Kit("miners", Miner, Subject, PROMISES)
