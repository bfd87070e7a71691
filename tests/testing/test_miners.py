"""The kit for miners: it passes what is right, and names what is wrong by the right promise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from coreframe import Batch, Masked, Miner, Relation, namespace
from coreframe.errors import ArgumentError
from coreframe.miner import RankingMiner, Rows, similarity_rows, with_negatives
from coreframe.testing import arrays, check_miner
from coreframe.testing.miners.promises import PROMISES
from coreframe.testing.shared import SHARED


def broken(miner: Miner) -> dict[str, str]:
    """Return the details of the promises that are broken, but for the docstring's."""
    return {c.name: c.detail for c in check_miner(miner) if not c and c.name != "documentation"}


# Miners that are right ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Nearest(Miner):
    """The k nearest negatives, by a plain sort."""

    k: int = 2

    def columns(self, similarities: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        scores = xp.where(negative, similarities, xp.full_like(similarities, -1e9))
        order = xp.argsort(scores, axis=1, descending=True, stable=True)
        order = order[:, : min(self.k, order.shape[1])]
        real = xp.take_along_axis(negative, order, axis=1)
        return xp.where(real, order, -xp.ones_like(order))

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        xp = namespace(anchors=batch.anchors)
        found = [self.columns(s, n) for _, s, _, n in similarity_rows(batch)]
        return with_negatives(batch, xp.concat(found, axis=0))


@dataclass(frozen=True, kw_only=True)
class Easiest(RankingMiner):
    """The least similar negatives."""

    def scores(self, rows: Rows) -> Any:
        return -rows.similarities


@pytest.mark.parametrize("miner", [Nearest(), Easiest()])
def test_a_right_miner_passes(few_libraries: None, miner: Miner) -> None:
    assert broken(miner) == {}


def test_numpy_alone_is_enough(fast: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "libraries", lambda: {"numpy": arrays.on_numpy})
    monkeypatch.setattr(arrays, "devices", dict)
    checks = {c.name: c for c in check_miner(Nearest())}
    assert "pip install array-api-strict" in checks["devices"].detail
    assert [name for name, c in checks.items() if not c] == ["documentation"]


# Miners that are wrong ----------------------------------------------------------------------


class RefusesAll(Nearest):
    """Has no batch that it likes."""

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        raise ArgumentError("no")


class ReturnsColumns(Nearest):
    """Returns indices in place of a relation."""

    def mine(self, batch: Batch, *, rng: Any) -> Any:
        return self.columns(batch.anchors @ batch.targets.T, True)


class InventsPairs(Nearest):
    """Says that all are negatives of all."""

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        def everything(rows: slice, cols: slice, xp: Any, device: Any) -> Any:
            shape = (rows.stop - rows.start, cols.stop - cols.start)
            yes = xp.ones(shape, dtype=xp.bool, device=device)
            return ~yes, yes

        return Masked(everything, batch.relation.rows, batch.relation.columns)


class KnowsOnlyRows(Nearest):
    """Has tiles that begin at column 0, wherever they are."""

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        n, m = batch.relation.rows, batch.relation.columns

        def function(rows: slice, cols: slice, xp: Any, device: Any) -> Any:
            whole = batch.relation.tile(rows, slice(0, m), xp, device)
            return tuple(x[:, : cols.stop - cols.start] for x in whole)

        return Masked(function, n, m)


class Own(Relation):
    """A relation of one's own, with whatever is wrong with it."""

    def __init__(self, inner: Relation) -> None:
        self.inner, self.rows, self.columns = inner, inner.rows, inner.columns

    def tile(self, rows: slice, cols: slice, xp: Any, device: Any) -> Any:
        return self.inner.tile(rows, cols, xp, device)

    def transpose(self) -> Relation:
        return self.inner.transpose()


class ListsOthers(Own):
    def listed(self, rows: slice, xp: Any, device: Any) -> Any:
        shape = (rows.stop - rows.start, 1)
        column = xp.zeros(shape, dtype=xp.int32, device=device)
        yes = xp.ones(shape, dtype=xp.bool, device=device)
        return column, ~yes, yes


class StaysAsItIs(Own):
    def transpose(self) -> Relation:
        return self


class ListsWrongly(Nearest):
    """Has a list that is not what its tiles say."""

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        return ListsOthers(super().mine(batch, rng=rng))


class TransposesWrongly(Nearest):
    """Has a transpose that is the relation itself."""

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        return StaysAsItIs(super().mine(batch, rng=rng))


class DrawsForItself(Nearest):
    """Draws from a generator that nobody gave it."""

    def columns(self, similarities: Any, negative: Any) -> Any:
        noise = np.random.default_rng().random(similarities.shape)
        xp = namespace(s=similarities)
        return super().columns(xp.asarray(noise, device=similarities.device), negative)


class DrawsGlobally(Nearest):
    """Draws from NumPy's global generator."""

    def columns(self, similarities: Any, negative: Any) -> Any:
        noise = np.random.rand(*similarities.shape)
        return super().columns(namespace(s=similarities).asarray(noise), negative)


class CountsItsCalls(Nearest):
    """Takes one more negative every second call."""

    calls: ClassVar[int] = 0

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        CountsItsCalls.calls += 1
        wider = Nearest(k=self.k + CountsItsCalls.calls % 2)
        return wider.mine(batch, rng=rng)


class ShapesByValues(Nearest):
    """Lists as many columns as it finds."""

    def columns(self, similarities: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        found = super().columns(similarities, negative)
        return found[:, :1] if bool(xp.all(similarities > 0.99)) else found


class PrefersTheFirst(Nearest):
    """Weighs columns by their number."""

    def columns(self, similarities: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        columns = xp.cumulative_sum(xp.ones_like(similarities), axis=1)
        return super().columns(similarities - columns, negative)


class LastOfEquals(Easiest):
    """Takes the last of those that are equally good."""

    def scores(self, rows: Rows) -> Any:
        xp = namespace(similarities=rows.similarities)
        columns = xp.cumulative_sum(xp.ones_like(rows.similarities), axis=1)
        return -rows.similarities + 1e-6 * columns


class NeedsNegatives(Nearest):
    """Takes positives where it finds no negative."""

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        mined = super().mine(batch, rng=rng)
        labels = batch.labels
        if isinstance(labels, np.ndarray) and len(labels) > 1 and np.ptp(labels) == 0:
            return _turned(mined)
        return mined


def _turned(mined: Relation) -> Relation:
    def function(rows: slice, cols: slice, xp: Any, device: Any) -> Any:
        positive, negative = mined.tile(rows, cols, xp, device)
        return negative, positive

    return Masked(function, mined.rows, mined.columns)


class TrustsNumbers(Nearest):
    """Chooses by a comparison that NaN turns round."""

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        mined = super().mine(batch, rng=rng)
        if isinstance(batch.anchors, np.ndarray) and not np.isfinite(batch.anchors).all():
            return _turned(mined)
        return mined


class WantsTooMany(Nearest):
    """Is at a loss where there are fewer than k."""

    def columns(self, similarities: Any, negative: Any) -> Any:
        if self.k > 50:
            raise IndexError("not so many")
        return super().columns(similarities, negative)


class ChoosesTwice(Easiest):
    """Names one candidate for every place, where there are others beside positives."""

    def _choose_beside(self, batch: Batch, positives: Any, k: int, rng: Any) -> Any:
        found = super()._choose_beside(batch, positives, k, rng)
        xp = namespace(found=found)
        return found if positives is None else xp.broadcast_to(found[:, :1], found.shape)


class MinesWithNumPy(Nearest):
    """Takes arrays out of their library."""

    def columns(self, similarities: Any, negative: Any) -> Any:
        return super().columns(np.asarray(similarities), np.asarray(negative))


class ForgetsTheDevice(Nearest):
    """Makes zeros wherever the library makes arrays by default."""

    def columns(self, similarities: Any, negative: Any) -> Any:
        xp = namespace(similarities=similarities)
        zeros = xp.zeros(similarities.shape, dtype=similarities.dtype)
        return super().columns(similarities + zeros, negative)


class NeedsFloat32(Nearest):
    """Cannot take what is narrower."""

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        if str(batch.anchors.dtype) == "float16":
            raise TypeError("float16 is too narrow")
        return super().mine(batch, rng=rng)


class WritesToItsBatch(Nearest):
    """Normalizes in place."""

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        if isinstance(batch.anchors, np.ndarray):
            batch.anchors[...] *= 2.0  # which changes no cosine
        return super().mine(batch, rng=rng)


KEPT: dict[int, Any] = {}


class CachesById(Nearest):
    """Keeps what it has mined by the number of an array."""

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        mined = super().mine(batch, rng=rng)
        key = (id(batch.anchors), batch.relation.rows, batch.relation.columns)
        return KEPT.setdefault(key, (batch.anchors, mined))[1]  # held, so that its number stays


class Warns(Nearest):
    """Warns."""

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        import warnings

        warnings.warn("careful", stacklevel=1)
        return super().mine(batch, rng=rng)


class CountsThreads(Nearest):
    """Takes as many negatives as there are threads."""

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        import os

        count = int(os.environ.get("COREFRAME_THREADS", "1"))
        return replace(Nearest(), k=1 + count).mine(batch, rng=rng)


class ComparesWithItsBlock(Easiest):
    """Scores by the distance from the mean of a block."""

    def scores(self, rows: Rows) -> Any:
        xp = namespace(similarities=rows.similarities)
        return -xp.abs(rows.similarities - xp.mean(rows.similarities))


class LooksAtValues(Easiest):
    """Decides on the host."""

    def scores(self, rows: Rows) -> Any:
        xp = namespace(similarities=rows.similarities)
        sign = 1.0 if float(xp.max(rows.similarities)) > 2.0 else -1.0
        return sign * rows.similarities


class ComparesColumns(Easiest):
    """Builds all pairs of the columns of a row."""

    def scores(self, rows: Rows) -> Any:
        s = rows.similarities
        apart = s[:, :, None] - s[:, None, :]
        return super().scores(rows) + 0 * namespace(s=s).sum(apart, axis=2)


FAULTS: list[tuple[Miner, str, str]] = [
    (ComparesWithItsBlock(), "blocks", "many rows: in lower blocks of rows other pairs are chosen"),
    (LooksAtValues(), "traceable", "float() of an array asks for its value (test_miners.py:"),
    (ComparesColumns(), "memory", "with 64 references 64 anchors take 2."),
    (RefusesAll(), "accepts", "every batch is refused by an ArgumentError"),
    (ReturnsColumns(), "usable", "Error: "),
    (InventsPairs(), "part_of_the_relation", "pairs: (0, 0) is a negative of the result"),
    (KnowsOnlyRows(), "tiles", "tiles of 3 x 3 say something else than the whole"),
    (ListsWrongly(), "listed", "listed() and tile() have other negative pairs"),
    (TransposesWrongly(), "transposed", "transpose() has other pairs"),
    (DrawsForItself(), "no_hidden_state", "negatives is another"),
    (DrawsGlobally(), "no_global_random", "a global random generator was used"),
    (CountsItsCalls(), "no_hidden_state", "calls of the class CountsItsCalls"),
    (ShapesByValues(), "fixed_shapes", "varies with the values"),
    (PrefersTheFirst(), "order_of_the_batch", "in another order other negatives are chosen"),
    (LastOfEquals(k=2), "ties", "row 0: of equal columns [19, 20] are chosen"),
    (NeedsNegatives(), "no_negatives", "no row has a negative: "),
    (TrustsNumbers(), "nan_invents_nothing", "is a positive of the result, not of the batch"),
    (WantsTooMany(), "more_than_there_are", "IndexError: not so many"),
    (ChoosesTwice(), "candidates", "a candidate is chosen twice for one anchor"),
    (MinesWithNumPy(), "libraries", "array-api-strict"),
    (ForgetsTheDevice(), "devices", "the second device of array-api-strict: "),
    (NeedsFloat32(), "dtypes", "TypeError: float16 is too narrow"),
    (WritesToItsBatch(), "inputs_are_kept", "numpy: anchors was changed"),
    (CachesById(), "looks_anew", "with other values in the same arrays the pairs are the old"),
    (Warns(), "no_warnings", "careful"),
    (CountsThreads(), "threads", "with 2 threads the pairs are others than with 1"),
]


@pytest.mark.parametrize(
    ("miner", "name", "words"),
    FAULTS,
    ids=lambda x: type(x).__name__ if isinstance(x, Miner) else "",
)
def test_each_fault_is_named_and_no_other(fast: None, miner: Miner, name: str, words: str) -> None:
    if name in ("libraries", "devices", "traceable"):
        pytest.importorskip("array_api_strict")
    found = broken(miner)
    assert list(found) == [name], found
    assert words in found[name], found[name]
    assert "\nTo fix: " in found[name]


class Broadcasts(Nearest):
    """Compares all with all, coordinate by coordinate."""

    def mine(self, batch: Batch, *, rng: Any) -> Relation:
        apart = batch.anchors[:, None, :] - batch.targets[None, :, :]
        assert apart.ndim == 3
        return super().mine(batch, rng=rng)


def test_memory_that_grows_too_fast_is_named(few_libraries: None) -> None:
    found = broken(Broadcasts())
    assert list(found) == ["memory"]
    assert "an array of rows x rows x width" in found["memory"]


def test_every_promise_has_a_fault_that_it_names() -> None:
    edges = {"one_row", "duplicates", "zero_vectors", "magnitudes", "no_positives"}
    named = {name for _, name, _ in FAULTS} | edges | {"memory", "deterministic"}
    own = [p.name for p in PROMISES if p not in SHARED]
    assert set(own) <= named
