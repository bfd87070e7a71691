"""The kit for samplers: what is right passes, and what is wrong is named by the right promise."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from coreframe import Sampler
from coreframe.errors import DataError
from coreframe.random import stream
from coreframe.sampler import cut
from coreframe.testing import check_sampler, report
from coreframe.testing.samplers import KIT
from coreframe_samplers.m_per_class import MPerClass
from coreframe_samplers.no_duplicates import NoDuplicates
from coreframe_samplers.ordered import Ordered


@dataclass(frozen=True, kw_only=True)
class Plain(Sampler):
    """Every example once an epoch, shuffled.

        batch j = permutation(seed, epoch)[j n : (j + 1) n]

    Args:
        turned: whether the order is turned about. Default: False.
    """

    turned: bool = False

    def order(self, pairs: Any, seed: int, epoch: int) -> Any:
        found = stream(seed, "plain", epoch).permutation(len(pairs.examples))
        return found[::-1] if self.turned else found

    def epoch(self, pairs: Any, *, batch_size: int, seed: int, epoch: int, drop_last: bool) -> Any:
        return cut(self.order(pairs, seed, epoch), batch_size, drop_last=drop_last)


@pytest.mark.parametrize(
    "sampler",
    [
        Plain(),
        Ordered(by="quality", pool=0.5, epochs=3),
        NoDuplicates(),
        MPerClass(m=2, few="leave_out"),
        MPerClass(m=5, few="repeat"),
    ],
    ids=repr,
)
def test_a_right_sampler_passes(sampler: Sampler) -> None:
    checks = check_sampler(sampler)
    assert all(checks), report([c for c in checks if not c])
    assert all(
        c.checked
        for c in checks
        if c.name not in ("configuration", "examples", "presets", "fields_are_checked")
    )


def test_one_order_needs_no_seed() -> None:
    class Same(Plain):
        """The same order always.

        order = 0, 1, 2, ...
        """

        def order(self, pairs: Any, seed: int, epoch: int) -> Any:
            return np.arange(len(pairs.examples))

    (found,) = (c for c in check_sampler(Same()) if c.name == "seeds")
    assert found.detail == "not checked: it has one order, and draws nothing"


# Samplers that are wrong --------------------------------------------------------------------


class RefusesAll(Plain):
    def epoch(self, *_: Any, **asked: Any) -> Any:
        raise DataError("it needs what nobody has")


class CountsFromOne(Plain):
    def order(self, pairs: Any, seed: int, epoch: int) -> Any:
        return 1 + super().order(pairs, seed, epoch)


class GivesQueries(Plain):
    """Numbers of queries, which are no numbers of examples."""

    def order(self, pairs: Any, seed: int, epoch: int) -> Any:
        return pairs.examples[super().order(pairs, seed, epoch), 0]


class GivesLists(Plain):
    def epoch(self, *given: Any, **asked: Any) -> Any:
        return [batch.tolist() for batch in super().epoch(*given, **asked)]


class GivesFloats(Plain):
    def order(self, pairs: Any, seed: int, epoch: int) -> Any:
        return super().order(pairs, seed, epoch).astype(np.float64)


class TooLong(Plain):
    def epoch(self, pairs: Any, *, batch_size: int, **asked: Any) -> Any:
        return super().epoch(pairs, batch_size=batch_size + 1, **asked)


class KeepsTheLast(Plain):
    def epoch(self, *given: Any, **asked: Any) -> Any:
        return super().epoch(*given, **{**asked, "drop_last": False})


class ForgetsTheLast(Plain):
    def epoch(self, *given: Any, **asked: Any) -> Any:
        return super().epoch(*given, **{**asked, "drop_last": True})


class SaysAnotherSize(Plain):
    def size(self, pairs: Any, *, batch_size: int, **asked: Any) -> int:
        return len(pairs.examples) // batch_size


class DrawsWithReplacement(Plain):
    def order(self, pairs: Any, seed: int, epoch: int) -> Any:
        p = len(pairs.examples)
        return stream(seed, "plain", epoch).integers(p, size=p)


class LeavesOneOut(Plain):
    def order(self, pairs: Any, seed: int, epoch: int) -> Any:
        return stream(seed, "plain", epoch).permutation(len(pairs.examples) - 1)


class Counts(Plain):
    turns = itertools.count()

    def order(self, pairs: Any, seed: int, epoch: int) -> Any:
        return stream(seed, "plain", next(self.turns)).permutation(len(pairs.examples))


class ForgetsTheEpoch(Plain):
    def order(self, pairs: Any, seed: int, epoch: int) -> Any:
        return super().order(pairs, seed, 1)


class ForgetsTheSeed(Plain):
    def order(self, pairs: Any, seed: int, epoch: int) -> Any:
        return super().order(pairs, 0, epoch)


class Drawn(Sequence[Any]):
    """Batches that are drawn when they are asked for, one after the other."""

    def __init__(self, batches: list[Any], rng: Any) -> None:
        self.batches, self.rng = batches, rng

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, place: Any) -> Any:
        if place >= len(self):
            raise IndexError(place)
        return self.batches[(place + self.rng.integers(100)) % len(self)]


class CannotGoOn(Plain):
    def epoch(self, *given: Any, seed: int, epoch: int, **asked: Any) -> Any:
        batches = super().epoch(*given, seed=seed, epoch=epoch, **asked)
        return Drawn(batches, stream(seed, "drawn", epoch))


class Generates(Plain):
    def epoch(self, *given: Any, **asked: Any) -> Iterator[Any]:  # type: ignore[override]
        yield from super().epoch(*given, **asked)


class ShufflesTheExamples(Plain):
    def order(self, pairs: Any, seed: int, epoch: int) -> Any:
        stream(seed, "plain", epoch).shuffle(pairs.examples)
        return np.arange(len(pairs.examples))


class Warns(Plain):
    def order(self, pairs: Any, seed: int, epoch: int) -> Any:
        warnings.warn("careful", stacklevel=1)
        return super().order(pairs, seed, epoch)


@pytest.mark.parametrize(
    ("sampler", "name", "text"),
    [
        (RefusesAll(), "accepts", "plain pairs, batch_size=8: it needs what nobody has"),
        (CountsFromOne(), "batches", "the example 45; there are 45, counted from 0"),
        (GivesQueries(), "coverage", "pairs with texts, weights and difficulty"),
        (GivesLists(), "batches", "a batch is no array"),
        (GivesFloats(), "batches", "an array of float64"),
        (TooLong(), "batches", "it must hold from 1 to 8 integers"),
        (KeepsTheLast(), "short_batches", "a batch of 5, though drop_last=True"),
        (ForgetsTheLast(), "short_batches", "there is no batch, though drop_last=False"),
        (SaysAnotherSize(), "size", "size says 5, got 6"),
        (DrawsWithReplacement(), "no_twins", "epoch 1: batch"),
        (LeavesOneOut(), "coverage", "example 44 never comes"),
        (Counts(), "deterministic", "epoch 3 is another after epochs 1 and 2"),
        (ForgetsTheEpoch(), "seeds", "epochs 1000000 to 1000003 all are the same"),
        (ForgetsTheSeed(), "seeds", "seeds 0 to 3 all give the same"),
        (CannotGoOn(), "goes_on", "after two batches of epoch 2 others come"),
        (Generates(), "size", "TypeError"),
        (ShufflesTheExamples(), "inputs_are_kept", "examples was changed"),
        (Warns(), "no_warnings", "epoch 1: careful"),
        (Generates(), "trains", "TypeError"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_a_wrong_sampler_is_named(sampler: Sampler, name: str, text: str) -> None:
    found = next(p for p in KIT.promises if p.name == name).check(KIT.subject(sampler))
    assert not found, report(check_sampler(sampler))
    assert text in found.detail
    assert "To fix: " in found.detail


@dataclass(frozen=True, kw_only=True)
class Raising(Plain):
    """Takes every example for a pair, where some data has labels."""

    def epoch(self, pairs: Any, **asked: Any) -> Any:
        assert len(pairs.examples[0]) == 2
        return super().epoch(pairs, **asked)


def test_what_raises_everywhere_is_named_once() -> None:
    named = [c.name for c in check_sampler(Raising()) if not c and c.name != "documentation"]
    assert named == ["usable"]
