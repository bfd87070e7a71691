"""What a sampler promises, and how each promise is checked."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from coreframe.data.batches import Batches
from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError, CoreframeError
from coreframe.sampler import Sampler
from coreframe.sampler import checked as checked_batches
from coreframe.testing import checks, kit
from coreframe.testing.checks import Check, NotApplicable, Promise, explain, resting_on
from coreframe.testing.field_checks import FIELDS
from coreframe.testing.shared import SHARED
from coreframe.trainer import fit

SIZES = (8, 10, 12, 1, 500)
"""Batch sizes, of which those are used that a sampler does not refuse; 500 is more than there is.
"""
LATE = 1_000_000
"""An epoch that is past every curriculum."""
EPOCHS = (1, 2, LATE)
ALL = [*range(1, 25), *range(LATE, LATE + 25)]

OWN: list[Promise] = []


def check_sampler(sampler: Sampler) -> list[Check]:
    """Check all promises of a sampler on seeded pairs, with texts and labels, and without.

    Of the data and batch sizes, those are used that it does not refuse by an ArgumentError or a
    DataError.
    """
    return KIT.check(sampler)


class Use(NamedTuple):
    """What a sampler is asked to cut, and into batches of which size."""

    name: str
    pairs: Pairs
    size: int

    @property
    def where(self) -> str:
        return f"{self.name}, batch_size={self.size}"

    @property
    def examples(self) -> int:
        return len(self.pairs.examples)


class Subject(kit.Subject):
    """A sampler, and what it is checked on."""

    base = Sampler

    @property
    def sampler(self) -> Sampler:
        found: Sampler = self.component
        return found

    def exercise(self, component: Any, variant: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for use, epoch in itertools.product(self.uses, EPOCHS):
            batches = ask(component, use, epoch, seed=variant)
            found[f"{use.where}, epoch {epoch}: how many batches"] = len(batches)
            for number, batch in enumerate(batches):
                found[f"{use.where}, epoch {epoch}: batch {number}"] = batch
        return found

    @cached_property
    def refusals(self) -> dict[str, str]:
        return {}

    @cached_property
    def uses(self) -> list[Use]:
        """The data and batch sizes that it does not refuse."""
        found = []
        for (name, pairs), size in itertools.product(data().items(), SIZES):
            use = Use(name, pairs, size)
            try:
                ask(self.sampler, use)
            except CoreframeError as error:
                self.refusals[use.where] = str(error)
                continue
            except Exception:
                pass  # which a promise will find and explain
            found.append(use)
        return found

    @property
    def cut(self) -> list[Use]:
        """Those where there are several batches of several examples."""
        return [use for use in self.uses if 1 < use.size < use.examples]


def ask(
    sampler: Sampler, use: Use, epoch: int = 1, *, seed: int = 0, drop_last: bool = False
) -> list[Any]:
    asked = {"batch_size": use.size, "seed": seed, "epoch": epoch, "drop_last": drop_last}
    found = sampler.epoch(use.pairs, **asked)  # type: ignore[arg-type]
    return [np.asarray(found[i]) for i in range(len(found))]  # as a run takes them


def in_order(batches: list[Any]) -> list[int]:
    return [int(i) for batch in batches for i in batch]


def data() -> dict[str, Pairs]:
    """Return pairs of each kind that occurs in practice."""
    rng = np.random.default_rng(7)

    def normal(rows: int) -> Any:
        return rng.standard_normal((rows, 4))

    # Queries with several documents, documents with several queries, and texts that are repeated.
    relevant = np.stack([np.arange(44) % 22, np.arange(44) // 2], axis=1)
    whole = Pairs(
        normal(22),
        normal(30),
        relevant,
        query_texts=[f"query {i % 20}" for i in range(22)],
        document_texts=[f"document {i % 29}" for i in range(30)],
        weights=rng.permutation(44) + 1.0,
        difficulty=rng.permutation(44),
        irrelevant=[[0, 29], [3, 28]],
    )
    labels = np.repeat(np.arange(4), (9, 10, 12, 15))  # rows of a class are of no one count
    order = rng.permutation(46)
    return {
        "plain pairs": Pairs(normal(45), normal(45)),
        "pairs with texts, weights and difficulty": whole,
        "a part of pairs": whole.take(np.arange(5, 21)),  # whose rows count from 0 again
        "rows with labels": Pairs.labelled(
            normal(46), labels[order], weights=rng.permutation(46), difficulty=rng.permutation(46)
        ),
    }


# Form ---------------------------------------------------------------------------------------


@checks.promise(
    OWN,
    "It accepts at least one kind of pairs, with several batches an epoch.",
    fix="Raise ArgumentError or DataError only for pairs and batch sizes without meaning for it.",
)
def accepts(subject: Subject) -> Iterator[str]:
    for use in subject.uses:
        try:
            ask(subject.sampler, use)
        except Exception as error:
            yield f"{use.where}: {explain(error)}"
    if not subject.cut:
        yield from (f"{where}: {reason}" for where, reason in subject.refusals.items())


@checks.promise(
    OWN,
    "Each batch is an array of 1 to batch_size integers, rows of pairs.examples.",
    fix="Draw from range(len(pairs.examples)), and cut with coreframe.sampler.cut(order, ...).",
)
def batches(subject: Subject) -> Iterator[str]:
    for use, epoch, drop in itertools.product(subject.uses, EPOCHS, (False, True)):
        asked = {"batch_size": use.size, "seed": 0, "epoch": epoch, "drop_last": drop}
        found = subject.sampler.epoch(use.pairs, **asked)  # type: ignore[arg-type]
        raw = [found[i] for i in range(len(found))]
        where = f"{use.where}, epoch {epoch}, drop_last={drop}"
        if any(not hasattr(batch, "dtype") for batch in raw):
            yield f"{where}: a batch is no array"
            continue
        try:
            checked_batches(subject.sampler, raw, use.examples, use.size)
        except ArgumentError as error:
            yield f"{where}: {error}"


@checks.promise(
    OWN,
    "With drop_last there is no short batch; without it, an epoch has at least one batch.",
    fix="Leave the last batch out where drop_last and it has fewer than batch_size examples: "
    "coreframe.sampler.cut(order, batch_size, drop_last=drop_last) does.",
)
def short_batches(subject: Subject) -> Iterator[str]:
    for use, epoch in itertools.product(subject.uses, EPOCHS):
        short = [len(b) for b in ask(subject.sampler, use, epoch, drop_last=True)]
        if short and min(short) < use.size:
            yield f"{use.where}, epoch {epoch}: a batch of {min(short)}, though drop_last=True"
        if not ask(subject.sampler, use, epoch):
            yield f"{use.where}, epoch {epoch}: there is no batch, though drop_last=False"


@checks.promise(
    OWN,
    "size says how many batches epoch returns.",
    fix="Delete size: the base class counts; or count as epoch cuts, drop_last and pool included.",
    needs=("accepts",),
)
def size(subject: Subject) -> Iterator[str]:
    for use, epoch, drop in itertools.product(subject.uses, EPOCHS, (False, True)):
        asked = {"batch_size": use.size, "seed": 1, "epoch": epoch, "drop_last": drop}
        said = subject.sampler.size(use.pairs, **asked)  # type: ignore[arg-type]
        there = len(subject.sampler.epoch(use.pairs, **asked))  # type: ignore[arg-type]
        if said != there:
            yield f"{use.where}, epoch {epoch}, drop_last={drop}: size says {said}, got {there}"


# What stands in a batch ---------------------------------------------------------------------


@checks.promise(
    OWN,
    "No example stands twice in a batch: it would be a positive, or a false negative, of itself.",
    fix="Draw the examples of a batch without replacement.",
)
def no_twins(subject: Subject) -> Iterator[str]:
    for use, epoch in itertools.product(subject.cut, EPOCHS):
        for number, batch in enumerate(ask(subject.sampler, use, epoch)):
            if len(np.unique(batch)) < len(batch):
                yield f"{use.where}, epoch {epoch}: batch {number} is {batch.tolist()}"
                break


@checks.promise(
    OWN,
    "Every example comes in time: none is left out of all epochs.",
    fix="Go over all of range(len(pairs.examples)), the last one and the last short batch too.",
)
def coverage(subject: Subject) -> Iterator[str]:
    for use in subject.cut:
        seen: set[int] = set()
        for epoch in ALL:
            seen.update(in_order(ask(subject.sampler, use, epoch)))
            if len(seen) == use.examples:
                break
        if missing := sorted(set(range(use.examples)) - seen):
            yield f"{use.where}: in {len(ALL)} epochs example {missing[0]} never comes"


# A pure function ----------------------------------------------------------------------------


@checks.promise(
    OWN,
    "The same pairs, seed and epoch give the same batches, whatever was asked before.",
    fix="Draw from coreframe.random.stream(seed, 'its name', epoch), made anew in each call.",
)
def deterministic(subject: Subject) -> Iterator[str]:
    for use, drop in itertools.product(subject.uses, (False, True)):
        alone = in_order(ask(copy.deepcopy(subject.sampler), use, 3, drop_last=drop))
        for before in ((1, 2), (LATE, 4)):
            for epoch in before:
                ask(subject.sampler, use, epoch, drop_last=drop)
            if in_order(ask(subject.sampler, use, 3, drop_last=drop)) != alone:
                yield f"{use.where}: epoch 3 is another after epochs {before[0]} and {before[1]}"
                break


@checks.promise(
    OWN,
    "Where it draws, it draws from the seed and the epoch: another of either is another order.",
    fix="Give both to the stream: coreframe.random.stream(seed, 'its name', epoch).",
)
def seeds(subject: Subject) -> Iterator[str]:
    drawn = False
    for use in subject.cut:
        by_seed = [in_order(ask(subject.sampler, use, LATE, seed=s)) for s in range(4)]
        by_epoch = [in_order(ask(subject.sampler, use, LATE + e)) for e in range(4)]
        of_seed, of_epoch = (any(x != xs[0] for x in xs) for xs in (by_seed, by_epoch))
        drawn = drawn or of_seed or of_epoch
        if of_seed and not of_epoch:
            yield f"{use.where}: epochs {LATE} to {LATE + 3} all are the same"
        if of_epoch and not of_seed:
            yield f"{use.where}, epoch {LATE}: seeds 0 to 3 all give the same"
    if not drawn:
        raise NotApplicable("it has one order, and draws nothing")


@checks.promise(
    OWN,
    "A run that goes on in the middle of an epoch has what was still to come.",
    fix="Return all batches of an epoch at once, as a list or an array: a generator is used up.",
    needs=("accepts", "batches"),
)
def goes_on(subject: Subject) -> Iterator[str]:
    for use in subject.cut:
        asked: dict[str, Any] = {"pairs": use.pairs, "batch_size": use.size, "seed": 5}
        loop = Batches(sampler=subject.sampler, **asked).epoch(2)
        count = loop.remaining
        whole = [np.asarray(batch.ids).tolist() for batch in loop]
        again = Batches(sampler=copy.deepcopy(subject.sampler), **asked).epoch(2, done=2)
        rest = [np.asarray(batch.ids).tolist() for batch in again]
        if len(whole) != count or rest != whole[2:]:
            yield f"{use.where}: after two batches of epoch 2 others come than without a stop"


# Good manners -------------------------------------------------------------------------------


@checks.promise(
    OWN,
    "The pairs are not changed.",
    fix="Shuffle a copy: rng.permutation(n) in place of rng.shuffle(pairs.examples).",
)
def inputs_are_kept(subject: Subject) -> Iterator[str]:
    for use in subject.uses:
        before = copy.deepcopy(contents(use.pairs))
        for epoch in EPOCHS:
            ask(subject.sampler, use, epoch)
        for name, x in contents(use.pairs).items():
            if not np.array_equal(np.asarray(x), np.asarray(before[name])):
                yield f"{use.where}: {name} was changed"


def contents(pairs: Pairs) -> dict[str, Any]:
    """Return what pairs hold, by name."""
    names = ("queries", "documents", "groups", "irrelevant", "weights", "difficulty", "examples")
    labels = {"labels": pairs.relevance.query_labels} if pairs.has_labels else {}  # type: ignore[attr-defined]
    texts = {name: getattr(pairs, name) or () for name in ("query_texts", "document_texts")}
    found = {name: getattr(pairs, name) for name in names}
    return {name: x for name, x in {**found, **texts, **labels}.items() if x is not None}


@checks.promise(
    OWN,
    "No warning is raised.",
    fix="Guard the operation before it happens, not its result.",
)
def no_warnings(subject: Subject) -> Iterator[str]:
    for use, epoch in itertools.product(subject.uses, EPOCHS):
        with checks.recorded_warnings() as caught:
            ask(subject.sampler, use, epoch)
        for warning in caught:
            yield f"{use.where}, epoch {epoch}: {warning.message}"


@checks.promise(
    OWN,
    "fit trains with it.",
    fix="See the promises above; `fit(pairs, sampler=...)` is how a run uses it.",
    needs=("accepts", "batches", "size"),
)
def trains(subject: Subject) -> Iterator[str]:
    for use in subject.cut:
        side = "both" if use.pairs.has_labels else "query"
        asked: dict[str, Any] = {"batch_size": use.size, "seed": 0, "drop_last": False}
        wanted = sum(subject.sampler.size(use.pairs, epoch=e, **asked) for e in (1, 2))
        run = fit(
            use.pairs, sampler=subject.sampler, epochs=2, side=side, batch_size=use.size, seed=0
        )
        done = max(int(entry["step"]) for entry in run.history)
        if done != wanted:
            yield f"{use.where}: two epochs made {done} steps of {wanted}"


PROMISES = [*SHARED, *FIELDS, *resting_on(("usable", "accepts"), OWN)]

KIT = kit.Kit("samplers", Sampler, Subject, PROMISES)
