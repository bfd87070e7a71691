"""What a miner promises, and how each promise is checked."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from coreframe.backend import device_of, library_of, namespace, to_numpy
from coreframe.batch import Batch
from coreframe.errors import ArgumentError
from coreframe.miner import Miner
from coreframe.random import stream
from coreframe.relation import Relation
from coreframe.testing import arrays, checks, kit
from coreframe.testing.arrays import Case, Place, on_numpy
from coreframe.testing.checks import Check, NotApplicable, Promise, explain
from coreframe.testing.shared import SHARED, global_random_state

PROMISES: list[Promise] = [*SHARED]

KINDS = ("positives", "negatives")


def check_miner(miner: Miner) -> list[Check]:
    """Check all promises of a miner on seeded batches and on every array library of this machine.

    Of the batches, those are used that the miner does not refuse by an ArgumentError.
    """
    return KIT.check(miner)


class Subject(kit.Subject):
    """A miner, and what it is checked on."""

    base = Miner

    @property
    def miner(self) -> Miner:
        found: Miner = self.component
        return found

    def exercise(self, component: Any, variant: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for case in self.cases:
            moved = {name: np.flip(case.floats[name], 0) for name in case.embeddings * variant}
            batch = case.batch(**moved)
            masks = whole(self.mine(batch, miner=component, seed=variant), batch)
            found |= {f"{case.name}: {name}": x for name, x in zip(KINDS, masks, strict=True)}
        return found

    @cached_property
    def places(self) -> dict[str, Place]:
        return arrays.libraries()

    @cached_property
    def cases(self) -> list[Case]:
        return self.usable([*arrays.ordinary_cases(), arrays.tall_case(), arrays.tall_pairs()])

    @cached_property
    def placed(self) -> list[tuple[Case, str, Place]]:
        """The cases on each library where they run; ``libraries`` explains where they do not."""
        found = []
        for case, (library, place) in itertools.product(self.cases, self.places.items()):
            with contextlib.suppress(Exception):
                self.masks(case, place)
                found.append((case, library, place))
        return found

    def usable(self, cases: list[Case]) -> list[Case]:
        """Return the cases that the miner does not refuse."""
        found = []
        for case in cases:
            try:
                self.mine(case.batch())
            except ArgumentError:
                continue
            except Exception:
                pass  # which a promise will find and explain
            found.append(case)
        return found

    def mine(self, batch: Batch, *, miner: Miner | None = None, seed: int = 0) -> Relation:
        return (miner or self.miner).mine(batch, rng=stream(seed, "check"))

    def masks(
        self, case: Case, place: Place = on_numpy, dtype: Any = np.float32, seed: int = 0
    ) -> tuple[Any, Any]:
        """Mine a case and return the whole masks, positive and negative, in NumPy."""
        batch = case.batch(place, dtype)
        return whole(self.mine(batch, seed=seed), batch)


def whole(relation: Relation, batch: Batch, step: int | None = None) -> tuple[Any, Any]:
    """Ask a relation for all its pairs, in tiles of ``step`` rows and columns."""
    xp, device = namespace(anchors=batch.anchors), device_of(batch.anchors)
    n, m = relation.rows, relation.columns
    masks = np.zeros((2, n, m), np.bool_)
    for top in range(0, n, step or n):
        for left in range(0, m, step or m):
            rows = slice(top, min(n, top + (step or n)))
            cols = slice(left, min(m, left + (step or m)))
            for mask, tile in zip(masks, relation.tile(rows, cols, xp, device), strict=True):
                mask[rows, cols] = to_numpy(tile)
    if batch.references is None:  # the engine leaves self pairs out
        masks &= ~np.eye(n, dtype=np.bool_)
    return masks[0], masks[1]


# Form ---------------------------------------------------------------------------------------


@checks.promise(
    PROMISES,
    "It accepts at least one kind of batch.",
    fix="Raise ArgumentError only for batches that have no meaning for the miner.",
)
def accepts(subject: Subject) -> Iterator[str]:
    if not subject.cases:
        yield "every batch is refused by an ArgumentError"
    for case in subject.cases:
        subject.masks(case)


# The result ---------------------------------------------------------------------------------


@checks.promise(
    PROMISES,
    "The result is a part of the batch's relation: pairs are dropped, none is invented.",
    fix="Choose only where the masks that similarity_rows yields are true; "
    "coreframe.miner.with_negatives(batch, columns) keeps the positives and the rest out.",
)
def part_of_the_relation(subject: Subject) -> Iterator[str]:
    for case in [*subject.cases, *subject.usable(arrays.edge_cases())]:
        batch = case.batch()
        mined = subject.mine(batch)
        if (mined.rows, mined.columns) != (batch.relation.rows, batch.relation.columns):
            yield (
                f"{case.name}: the result is for {mined.rows} x {mined.columns}, the batch has "
                f"{batch.relation.rows} x {batch.relation.columns}"
            )
            continue
        pairs = zip(whole(mined, batch), whole(batch.relation, batch), strict=True)
        for kind, (after, before) in zip(("positive", "negative"), pairs, strict=True):
            if invented := np.argwhere(after & ~before).tolist():
                row, column = invented[0]
                yield f"{case.name}: ({row}, {column}) is a {kind} of the result, not of the batch"


@checks.promise(
    PROMISES,
    "The relation says the same whole, in tiles of any size, and as a list.",
    fix="tile(rows, cols) must honour both slices; listed() must name the pairs that tile() has.",
)
def consistent(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        batch = case.batch()
        mined = subject.mine(batch)
        masks = whole(mined, batch)
        for mask, tiled in zip(masks, whole(mined, batch, step=3), strict=True):
            if not np.array_equal(mask, tiled):
                yield f"{case.name}: tiles of 3 x 3 say something else than the whole"
        xp, device = namespace(anchors=batch.anchors), device_of(batch.anchors)
        listed = mined.listed(slice(0, mined.rows), xp, device)
        if listed is None:
            continue
        columns = to_numpy(listed[0])
        for kind, mask, chosen in zip(("positive", "negative"), masks, listed[1:], strict=True):
            again = np.zeros_like(mask)
            row, place = np.nonzero(to_numpy(chosen))
            again[row, columns[row, place]] = True
            if batch.references is None:
                np.fill_diagonal(again, False)
            if not np.array_equal(mask, again):
                yield f"{case.name}: listed() and tile() have other {kind} pairs"


@checks.promise(
    PROMISES,
    "The same seed gives the same pairs.",
    fix="Draw from the rng that is given, in an order that depends on shapes alone; break ties "
    "by index, as coreframe.ops.top_k does.",
)
def deterministic(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        before = global_random_state()
        first, second = subject.masks(case, seed=3), subject.masks(case, seed=3)
        if not np.array_equal(first, second):
            yield f"{case.name}: the second call with the same seed gives other pairs"
        if global_random_state() != before:
            yield f"{case.name}: a global random generator was used"


@checks.promise(
    PROMISES,
    "All array libraries of this machine give the same pairs.",
    fix="Use only functions of the array API standard, from xp = namespace(...); draw with "
    "coreframe.random.hash_keys, or on the host from rng.",
)
def libraries(subject: Subject) -> Iterator[str]:
    for case in subject.cases:
        expected = subject.masks(case, seed=4)
        for library, place in subject.places.items():
            try:
                got = subject.masks(case, place, seed=4)
            except Exception as error:
                yield f"{case.name}, {library}: {explain(error)}"
                continue
            if not np.array_equal(got, expected):
                yield f"{case.name}, {library}: other pairs than on NumPy"


@checks.promise(
    PROMISES,
    "Shapes depend on the shapes of the batch, not on its values.",
    fix="Fill up with -1 where there are fewer pairs than places, as with_negatives expects.",
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


@checks.promise(
    PROMISES,
    "More negatives may be asked for than there are, of a batch or of candidates.",
    fix="Use min(k, columns) and -1 for the places that stay empty.",
)
def more_than_there_are(subject: Subject) -> Iterator[str]:
    names = [f.name for f in dataclasses.fields(subject.miner)]  # type: ignore[arg-type]
    if "k" in names:
        greedy = dataclasses.replace(subject.miner, k=1000)  # type: ignore[type-var]
        for case in [*subject.cases, *subject.usable(arrays.edge_cases())]:
            batch = case.batch()
            whole(subject.mine(batch, miner=greedy), batch)
    if type(subject.miner).choose is Miner.choose:
        if "k" not in names:
            raise NotApplicable("it has no field k, and does not choose among candidates")
        return
    rng = np.random.default_rng(17)
    x, y, candidates = (rng.standard_normal((n, 5)) for n in (4, 4, 6))
    candidates[0] = x[0]  # its anchor's own double, which must not be chosen
    for library, place in subject.places.items():
        a, p, c = (place(np.asarray(array, np.float32)) for array in (x, y, candidates))
        columns = subject.miner.select(a, p, c, 9, rng=stream(5, "check"))
        found = to_numpy(columns)
        if found.shape != (4, 9):
            yield f"select(..., k=9) of 6 candidates has shape {found.shape}, expected (4, 9)"
        elif found.max(initial=-1) > 5 or found.min(initial=0) < -1:
            yield "select returns an index that is neither a candidate nor -1"
        elif 0 in found[0]:
            yield "select chooses the anchor itself"
        if library_of(columns) != library_of(a):
            yield f"select returns an array of {library_of(columns)} for arrays of {library}"


# Good manners -------------------------------------------------------------------------------


@checks.promise(
    PROMISES,
    "Inputs are not written to; read-only arrays are accepted.",
    fix="Write x = x + y in place of x += y, and xp.where in place of assignments to a mask.",
)
def inputs_are_kept(subject: Subject) -> Iterator[str]:
    for case, library, place in subject.placed:
        batch = case.batch(np.array if library == "numpy" else place)
        before = {name: np.array(to_numpy(getattr(batch, name))) for name in case.floats}
        subject.mine(batch)
        for name, x in before.items():
            if not np.array_equal(to_numpy(getattr(batch, name)), x):
                yield f"{case.name}, {library}: {name} was changed"
    for case in subject.cases:
        subject.mine(case.batch())  # on read-only arrays


@checks.promise(
    PROMISES,
    "No warning is raised, edge cases included.",
    fix="Guard the operation before it happens, not its result.",
)
def no_warnings(subject: Subject) -> Iterator[str]:
    for case in [*subject.cases, *subject.usable(arrays.edge_cases())]:
        with checks.recorded_warnings() as caught:
            subject.masks(case)
        for warning in caught:
            yield f"{case.name}: {warning.message}"


KIT = kit.Kit("miners", Miner, Subject, PROMISES)
