"""What the kernels of losses and optimizers are checked on: calls, and rows of similarities."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from coreframe.backend import Array, device_of, namespace, to_numpy
from coreframe.batch import Batch
from coreframe.blocks import DiagonalTerms, block_loop
from coreframe.errors import CoreframeError
from coreframe.loss import Loss, PairwiseLoss
from coreframe.ops import kernel
from coreframe.optimizer import Optimizer
from coreframe.relation import Aligned, Relation, SameLabel
from coreframe.result import REDUCTIONS
from coreframe.similarity import NAMES, Similarity
from coreframe.testing import arrays
from coreframe.testing.arrays import Case, Place
from coreframe.testing.kernels.inputs import LAYOUTS, Ground, Trial, unchanged
from coreframe.tiles import rows_of

OPTIONS = ("similarity", "reduction", "learnable_scale", "memory_budget")

DRAWS = 48
"""Calls of a loss in each of its settings, of all that its options can be put together to."""

ROWS_DRAWN = 2
"""Of the dtypes and layouts, for each kind of rows of similarities."""

FLOOR = 1e-2
"""Gradients may be zero but for rounding, in batches whose vectors are of length 1 or so; 1 where
batches and options meet as it happens, such as far points and a low temperature."""

ROUNDINGS = 256
"""More than of an operation: a temperature multiplies those of the similarities."""

TINY_BUDGET = 2**12


# Settings ---------------------------------------------------------------------------------------


def settings(kind: type) -> list[Any]:
    """Return a component in its defaults and with each field changed, as far as it allows it."""
    try:
        first = kind()
    except (CoreframeError, TypeError):
        return []
    base = PairwiseLoss if isinstance(first, PairwiseLoss) else Loss
    shared = {"rules", *getattr(base, "__dataclass_fields__", ())}
    own = [f.name for f in dataclasses.fields(first) if f.name not in shared]
    moved = first
    found = [first]
    for name in own:
        for value in _others(first, name):
            # Some are allowed only beside others: Nesterov's form needs a momentum.
            one = _with(first, name, value) or _with(moved, name, value)
            found += [one] if one is not None and one not in found else []
            if isinstance(value, float) and value not in (0.0, 1.0):
                moved = _with(moved, name, value) or moved
    return found


def _others(component: Any, name: str) -> list[Any]:
    value = getattr(component, name)
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, float):
        return [x for x in (0.0, 1.0, value / 4, value / 2 + 0.05) if x != value]
    if isinstance(value, str):
        try:  # a choice says what it may be
            dataclasses.replace(component, **{name: ""})
        except CoreframeError as error:
            words = re.findall(r"'(\w+)'", str(error).partition(", got")[0])
            return [word for word in words if word != value]
    return []


def _with(component: Any, name: str, value: Any) -> Any:
    try:
        return dataclasses.replace(component, **{name: value})
    except CoreframeError:
        return None


# Losses -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Smooth(PairwiseLoss):
    """A loss of the kit's own, without kernels: smooth, so that rounding stays what it is."""

    def row_terms(
        self, similarities: Array, positive: Array, negative: Array
    ) -> tuple[Array, Array]:
        xp = namespace(similarities=similarities)
        slopes = xp.where(negative, similarities, xp.zeros_like(similarities))
        losses = xp.sum(slopes * slopes, axis=1) / 2
        here = xp.astype(positive, similarities.dtype)
        return losses - xp.sum(here * similarities, axis=1), slopes - here


@dataclass(frozen=True, kw_only=True)
class SmoothPairs(Smooth):
    """The same with a form for pairs, which overwrites the similarities where it can."""

    def _diagonal(self, batch: Batch) -> DiagonalTerms:
        def terms(similarities: Array, first: int) -> Any:
            xp, (r, m) = namespace(similarities=similarities), similarities.shape
            columns = xp.arange(m, device=device_of(similarities))[None, :]
            own = columns == columns[0, first : first + r][:, None]
            losses, slopes = self.row_terms(similarities, own, ~own)
            if isinstance(similarities, np.ndarray):
                similarities[...] = slopes
                slopes = similarities
            return losses, slopes, {"columns": xp.sum(slopes, axis=0)}

        return terms


def block_loop_trials(ground: Ground) -> Iterator[Trial]:
    """Yield calls of the kit's own losses, and of the loop itself for what no loss returns."""
    yield from _call_trials([Smooth(), SmoothPairs()], ground)
    case = large_batches()[0]
    for dtype in (dtype for dtype in ground.dtypes if dtype != "float16"):

        def run(dtype: str = dtype) -> tuple[Mapping[str, Any], list[str]]:
            batch = case.batch(lambda x: ground.lay(np.asarray(x), LAYOUTS[0]), np.dtype(dtype))
            loss, kind = SmoothPairs(), Similarity("dot")
            rows = rows_of(
                loss.row_terms,
                batch,
                kind,
                prepared=(batch.anchors, batch.targets, None, None),
                wants=frozenset({"right"}),
                memory_budget=None,
                diagonal_terms=loss._diagonal(batch),
            )
            part = block_loop(batch.anchors, rows)
            return {"losses": part.losses, "counted": part.counted, **part.sums}, []

        eps = float(np.finfo(dtype).eps)
        yield Trial(f"what is added up, {dtype}", eps, 1103, run, threads=True)


def loss_trials(name: str, part: str, losses: Sequence[Loss], ground: Ground) -> Iterator[Trial]:
    if not part:
        for loss in losses:
            if isinstance(loss, PairwiseLoss):
                yield from _row_trials(name, loss, ground)
                yield from _separated_rows(name, loss, ground)
    yield from _call_trials(losses, ground)


def _call_trials(losses: Sequence[Loss], ground: Ground) -> Iterator[Trial]:
    """Yield whole calls: in each setting every kind of batch, and a draw of all options."""
    rng = np.random.default_rng(31)
    ordinary, edges, large = ordinary_batches(), arrays.edge_cases(), large_batches()
    for setting in losses:
        plain = itertools.product(_usable(setting, ordinary), ground.dtypes)
        for (case, dtype), layout in zip(plain, itertools.cycle(ground.layouts), strict=False):
            yield _call_trial(setting, case, ground, dtype, layout, together=True)
        for case, dtype in zip(_usable(setting, large), ("float32", "float64"), strict=False):
            if dtype in ground.dtypes:
                yield _call_trial(setting, case, ground, dtype, LAYOUTS[0], together=True)
        options: list[Sequence[Any]] = [
            _usable(setting, [*ordinary, *edges]),
            ground.dtypes,
            ground.layouts,
            [None, None, ("anchors",), ("references",)],
        ]
        if isinstance(setting, PairwiseLoss):
            options += [NAMES, REDUCTIONS, [False, False, True], [None, TINY_BUDGET]]
        draws = zip(*(_shuffled(x, DRAWS, rng) for x in options), strict=True)
        for case, dtype, layout, wrt, *rest in draws:
            fields = dict(zip(OPTIONS, rest, strict=False))
            loss = dataclasses.replace(setting, **fields)  # type: ignore[type-var]
            yield _call_trial(loss, case, ground, dtype, layout, wrt, floor=1.0)


def _usable(loss: Loss, cases: Sequence[Case]) -> list[Case]:
    """Return the cases that have what the loss needs."""
    return [c for c in cases if all(getattr(c.batch(), x) is not None for x in loss.needs)]


def _shuffled(options: Sequence[Any], count: int, rng: Any) -> list[Any]:
    """Return so many of the options, each about as often as the others, in any order."""
    rounds = (rng.permutation(len(options)) for _ in range(-(-count // len(options))))
    return [options[i] for i in itertools.chain.from_iterable(rounds)][:count]


@dataclass(frozen=True)
class _Made(Case):
    """A batch whose relation is made by a function: with ids, or with labels of two sides."""

    make: Callable[[Place], Relation] = dataclasses.field(kw_only=True)

    def relation(self, place: Place) -> Relation:
        return self.make(place)


def ordinary_batches() -> list[Case]:
    """Return one batch of each kind; no value is special."""
    rng = np.random.default_rng(32)

    def pairs(name: str, n: int, m: int, d: int, **ids: Any) -> Case:
        floats = {
            "anchors": rng.standard_normal((n, d)),
            "references": rng.standard_normal((m, d)),
            "scores": rng.random(n),
        }
        return _Made(
            name, floats, make=lambda place: Aligned(n, m, **{k: place(x) for k, x in ids.items()})
        )

    return [
        *arrays.ordinary_cases(),
        arrays.tall_case(),
        pairs("two pairs", 2, 2, 3),
        pairs("101 pairs", 101, 101, 13),
        pairs("37 pairs and 10 shared negatives", 37, 47, 5),
        pairs("pairs with ids", 31, 31, 7, ids=(np.arange(31) % 23).astype(np.int32)),
    ]


def large_batches() -> list[Case]:
    """Return batches of several blocks, whatever the budget: pairs, and labels of two sides."""
    rng = np.random.default_rng(33)
    n, m, d = 211, 1103, 31
    labels, others = (rng.integers(40, size=x).astype(np.int32) for x in (n, m))
    floats = {"anchors": rng.standard_normal((n, d)), "references": rng.standard_normal((m, d))}
    return [
        Case(f"{n} pairs of {m}", floats),
        _Made(
            f"{n} and {m} with labels",
            {**floats, "weights": rng.random(n)},
            make=lambda place: SameLabel(place(labels), place(others)),
        ),
    ]


def _call_trial(
    loss: Loss,
    case: Case,
    ground: Ground,
    dtype: str,
    layout: str,
    wrt: tuple[str, ...] | None = None,
    *,
    floor: float = FLOOR,
    together: bool = False,
) -> Trial:
    wrt = None if wrt is None or wrt[0] not in case.embeddings else wrt
    kind = np.dtype(dtype)

    def run() -> tuple[Mapping[str, Any], list[str]]:
        batch = case.batch(lambda x: ground.lay(np.asarray(x), layout), kind)
        learned = getattr(loss, "learnable_scale", False)
        values = {"log_scale": 0.3, "bias": -0.1} if learned else {}
        params = {name: ground.lay(np.asarray(x, kind), "contiguous") for name, x in values.items()}
        raw = loss.value_and_grad(batch, params or None, wrt=wrt)
        found = {"value": raw.value, **raw.parts}
        found |= {f"grads[{name!r}]": g for name, g in raw.grads.items()}
        if raw.param_grads:  # together: that of a bias is often zero but for rounding
            found["param_grads"] = np.asarray([to_numpy(g) for g in raw.param_grads.values()])
        written = [
            name
            for name, x in case.floats.items()
            if not unchanged(getattr(batch, name), np.asarray(x, kind))
        ]
        return found, written

    where = f"{loss!r}, {case.name}, {dtype}, {layout}" + (f", wrt={wrt}" if wrt else "")
    width = max(max(np.shape(x), default=1) for x in case.floats.values())
    eps, threads = float(np.finfo(kind).eps), layout == LAYOUTS[0]
    return Trial(where, eps, width, run, ROUNDINGS, floor, threads, together)


def _row_trials(name: str, setting: PairwiseLoss, ground: Ground) -> Iterator[Trial]:
    """Yield rows of similarities: ties, no positives, no negatives, in every layout."""
    rng = np.random.default_rng(34)
    shapes = [(1, 1), (1, 13), (7, 1), (5, 61), (37, 401)]
    shares = [0.0, 0.03, 0.3, 1.0]
    dtypes = [dtype for dtype in ground.dtypes if dtype != "float16"]  # it is computed in float32
    ways = list(itertools.product(dtypes, ground.layouts, ("dot", "euclidean")))
    for (r, m), share, ties in itertools.product(shapes, shares, (False, True)):
        s = rng.integers(-8, 9, (r, m)) / 8 if ties else rng.uniform(-1, 1, (r, m))
        which = rng.random((r, m))
        positive, negative = which < share, which > share + 0.2 * (1 - share)
        for i in rng.choice(len(ways), ROWS_DRAWN, replace=False):
            dtype, layout, similarity = ways[i]
            loss = dataclasses.replace(setting, similarity=similarity)
            x = (s - 1 if similarity == "euclidean" else s).astype(dtype)
            yield _row_trial(name, loss, ground, layout, x, positive, negative)


def _separated_rows(name: str, setting: PairwiseLoss, ground: Ground) -> Iterator[Trial]:
    """Yield rows with nothing left to learn, where the reference keeps its digits in float32: its
    tiny losses and slopes are then held to their own norm.
    """
    s = np.random.default_rng(36).uniform(-1, -0.9, (5, 61))
    positive = np.eye(5, 61, 7, dtype=np.bool_)
    s[positive] += 1.9
    loss = dataclasses.replace(setting, similarity="dot")
    wide, narrow = (loss.row_terms(s.astype(t), positive, ~positive) for t in (float, np.float32))
    for x, y in zip(narrow, wide, strict=True):
        if not np.linalg.norm(x - y) <= 1e-4 * np.linalg.norm(y):
            return
    for dtype in (dtype for dtype in ground.dtypes if dtype != "float16"):
        x = s.astype(dtype)
        trial = _row_trial(name, loss, ground, LAYOUTS[0], x, positive, ~positive)
        yield dataclasses.replace(trial, where=f"{trial.where}, far apart", floor=0.0)


def _row_trial(
    name: str, loss: PairwiseLoss, ground: Ground, layout: str, s: Any, positive: Any, negative: Any
) -> Trial:
    free = loss.similarity != "euclidean"  # the engine needs distances again
    counted = (positive if loss.needs_positive else positive | negative).any(axis=1)

    def run() -> tuple[Mapping[str, Any], list[str]]:
        x = ground.lay(s, "contiguous" if free and layout == "read-only" else layout)
        masks = [ground.lay(mask, layout) for mask in (positive, negative)]
        fast = kernel(name, x)
        found = NotImplemented if fast is None else fast(loss, x, *masks)
        if found is NotImplemented:
            found = loss.row_terms(x, *masks)
        xp, keep = namespace(s=x), ground.lay(counted, "contiguous")
        losses, slopes = found
        # The engine drops the rows that do not count.
        results = {
            "losses": xp.where(keep, losses, xp.zeros_like(losses)),
            "derivatives": xp.where(keep[:, None], slopes, xp.zeros_like(slopes)),
        }
        kept = {"positive": (masks[0], positive), "negative": (masks[1], negative)}
        if not free:
            kept["similarities"] = (x, s)
        return results, [name for name, pair in kept.items() if not unchanged(*pair)]

    shares = f"{positive.sum()} positives, {negative.sum()} negatives"
    where = f"row_terms of {loss!r}, {s.shape} {s.dtype}, {shares}, {layout}"
    return Trial(where, float(np.finfo(s.dtype).eps), max(s.shape), run, ROUNDINGS, FLOOR)


# Optimizers -------------------------------------------------------------------------------------


def optimizer_trials(optimizers: Sequence[Optimizer], ground: Ground) -> Iterator[Trial]:
    """Yield three updates of parameters of many shapes, given up and not."""
    small: list[tuple[int, ...]] = [(), (1,), (1, 7), (13, 1), (37, 5), (997,), (3, 4, 5)]
    large = [(70_001,), (300, 801), (5,)]  # several blocks of memory, and of compiled loops
    both = (False, True)
    ways = list(itertools.product(ground.dtypes, ground.layouts, both))
    for number, optimizer in enumerate(optimizers):
        for dtype, layout, donate in ways[number % 5 if number else 0 :: 5 if number else 1]:
            yield _update_trial(optimizer, small, ground, dtype, layout, donate)
    for dtype, donate in itertools.product(ground.dtypes, both):
        yield _update_trial(optimizers[0], large, ground, dtype, LAYOUTS[0], donate)


def _update_trial(
    optimizer: Optimizer,
    shapes: list[tuple[int, ...]],
    ground: Ground,
    dtype: str,
    layout: str,
    donate: bool,
) -> Trial:
    rng = np.random.default_rng(35)
    names = {f"p{i}": shape for i, shape in enumerate(shapes)}
    start, *slopes = (
        {name: np.asarray(rng.standard_normal(shape), dtype) for name, shape in names.items()}
        for _ in range(4)
    )
    slopes[1].pop(f"p{len(shapes) - 1}")  # a parameter without a gradient
    slopes[2]["p0"] = np.full(shapes[0], np.nan, dtype)
    if donate and layout == "read-only":
        layout = "contiguous"

    def run() -> tuple[Mapping[str, Any], list[str]]:
        lay = functools.partial(ground.lay, layout=layout)
        params: Any = {name: lay(x) for name, x in start.items()}
        state: Any = optimizer.init(params)
        written = set()
        for number, now in enumerate(slopes):
            grads = {name: lay(x) for name, x in now.items()}
            held = {} if donate else {**params, **state}
            before = {name: to_numpy(x).copy() for name, x in held.items() if name != "step"}
            params, state = optimizer.update(params, grads, state, donate=donate)
            written |= {name for name, x in before.items() if not unchanged(held[name], x)}
            written |= {
                f"the gradient of {name}, update {number + 1}"
                for name, x in now.items()
                if not unchanged(grads[name], x)
            }
        return {**params, **state}, sorted(written)

    where = f"{optimizer!r}, {len(shapes)} arrays, {dtype}, {layout}, donate={donate}"
    return Trial(where, float(np.finfo(dtype).eps), 1, run, threads=layout == LAYOUTS[0])
