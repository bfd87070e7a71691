"""What an adapter promises: its form and its mathematics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from coreframe.adapter import Adapter, ClosedForm
from coreframe.backend import device_of, library_of, to_numpy
from coreframe.random import stream
from coreframe.testing import kit
from coreframe.testing.adapters import closed_forms, manners
from coreframe.testing.adapters.subject import (
    NOISY,
    ROWS,
    TOLERANCE,
    Subject,
    differences,
    numbers,
    out,
)
from coreframe.testing.checks import (
    Check,
    NotApplicable,
    Promise,
    difference,
    promise,
    resting_on,
    same_bits,
)
from coreframe.testing.field_checks import FIELDS
from coreframe.testing.shared import SHARED

DIRECTIONS = 50

FORM: list[Promise] = []


def check_adapter(adapter: Adapter) -> list[Check]:
    """Check all promises of an adapter on seeded rows and on every array library of this machine.

    Rows are 6, 20, 80 and 1 numbers wide; of these, those that it does not refuse.
    """
    return KIT.check(adapter)


@promise(
    FORM,
    "It takes rows of at least one usual width.",
    fix="Raise ArgumentError only for widths that the fields make impossible.",
)
def accepts(subject: Subject) -> Iterator[str]:
    if not subject.widths:
        yield from (f"{width} numbers a row: {why}" for width, why in subject.refusals.items())
    for width in subject.widths:
        subject.run(subject.params(width), numbers(ROWS, width, 1))


@promise(
    FORM,
    "init returns NumPy float32 arrays, which are finite and follow from rng alone.",
    fix="Draw from the rng that is given, and end with .astype(np.float32).",
)
def initial(subject: Subject) -> Iterator[str]:
    for width in subject.widths:
        first, second = (subject.adapter.init(stream(3, "check"), width) for _ in range(2))
        if not isinstance(first, Mapping) or not first:
            yield f"init returns {first!r}, and no parameters by name"
            return
        for name, p in first.items():
            if not isinstance(p, np.ndarray) or p.dtype != np.float32:
                kind = getattr(p, "dtype", type(p).__name__)
                yield f"{name} is of {type(p).__name__} and {kind}, expected NumPy float32"
            elif not np.isfinite(p).all():
                yield f"{name} is not finite"
            if not same_bits(p, second.get(name)):
                yield f"{name} is another with the same rng"


@promise(
    FORM,
    "A fresh adapter that is trained is the identity, so that training starts from what is there.",
    fix="Start with the identity matrix, or with a zero factor in what is added to x.",
    needs=("rows_are_independent",),
)
def fresh_identity(subject: Subject) -> Iterator[str]:
    if isinstance(subject.adapter, ClosedForm):
        raise NotApplicable("it is computed in closed form")
    for width in subject.widths:
        params = subject.adapter.init(stream(4, "check"), width)
        x = numbers(ROWS, width, 3).astype(np.float32)
        y = to_numpy(subject.adapter.forward(params, x)[0])
        if y.shape[1] != width:
            raise NotApplicable(f"it turns {width} numbers a row into {y.shape[1]}")
        if (gap := difference(y, x)) > 1e-6:
            yield f"rows of {width} numbers: y differs from x by {gap:.1g} of its largest entry"


@promise(
    FORM,
    "Results have the rows, library, device and dtype of x, and gradients those of parameters.",
    fix="Build arrays with xp = namespace(x=x) and with dtype= and device= of the inputs; return "
    "one gradient for each parameter, and dx with the shape of x.",
)
def shapes(subject: Subject) -> Iterator[str]:
    rows = (ROWS, out(subject.start, subject.adapter))
    for library, place, dtype in subject.placed:
        where = f"{library}, {np.dtype(dtype).name}"
        params = {name: place(np.asarray(p, dtype)) for name, p in subject.start.items()}
        x = place(numbers(ROWS, subject.width, 1).astype(dtype))
        result = subject.run(place=place, dtype=dtype)
        if set(result.grads) != set(params):
            yield f"{where}: gradients of {sorted(result.grads)}, expected {sorted(params)}"
            continue
        named = [("y", result.y, x, rows), ("dx", result.dx, x, tuple(x.shape))]
        named += [
            (f"the gradient of {name}", g, params[name], tuple(params[name].shape))
            for name, g in result.grads.items()
        ]
        for name, got, like, shape in named:
            if got is None:
                yield f"{where}: {name} is None"
                continue
            is_, wanted = (
                f"{library_of(a)} {a.dtype} on {device_of(a)} {s}"
                for a, s in ((got, tuple(got.shape)), (like, shape))
            )
            if is_ != wanted:
                yield f"{where}: {name} is {is_}, expected {wanted}"


@promise(
    FORM,
    "pullback(dy, need_dx=False) returns None for dx, and the same gradients.",
    fix="Write `def pullback(dy, need_dx=True)`, and leave dx alone out where it is False; it may "
    "be called more than once.",
    needs=("inputs_are_kept",),
)
def without_dx(subject: Subject) -> Iterator[str]:
    for seed in (None, NOISY):
        rng = None if seed is None else stream(seed, "noise")
        _, pullback = subject.adapter.forward(
            subject.start, numbers(ROWS, subject.width, 1), rng=rng
        )
        dy = numbers(ROWS, out(subject.start, subject.adapter), 2)
        whole = pullback(dy)[0]
        grads, dx = pullback(dy, need_dx=False)
        if dx is not None:
            yield "dx is not None"
        for name, g in whole.items():
            if difference(grads.get(name, np.nan), g) > 1e-12:
                yield f"the gradient of {name} is another without dx, or in a second call"


# The mathematics --------------------------------------------------------------------------


@promise(
    FORM,
    "forward is the map that matrix says: y = x W + b, W (d_in, d_out) and b (d_out,) or None.",
    fix="Write matrix() from the same parameters as forward; noise is for passes with an rng.",
    needs=("rows_are_independent",),
)
def affine(subject: Subject) -> Iterator[str]:
    for width in subject.widths:
        params, x = subject.params(width), numbers(ROWS, width, 1)
        y = to_numpy(subject.adapter.forward(params, x)[0])
        w, b = subject.adapter.matrix(params)
        if w.shape[0] != width or (b is not None and tuple(b.shape) != (w.shape[1],)):
            yield f"W has shape {tuple(w.shape)}, b {None if b is None else tuple(b.shape)}"
            continue
        gap = difference(y, x @ to_numpy(w) + (0 if b is None else to_numpy(b)))
        if gap > TOLERANCE["float64"]:
            yield f"rows of {width} numbers: y and x W + b differ by {gap:.1g} of the largest entry"


@promise(
    FORM,
    "The pullback is the derivative of forward: central differences in float64 agree.",
    fix="Derive the formula again for the array named here: the gradient of sum(y dy). With an "
    "rng, both passes must see the same noise: keep it in the pullback.",
    needs=("shapes",),
)
def gradient(subject: Subject) -> Iterator[str]:
    x = numbers(ROWS, subject.width, 1)
    dy = numbers(ROWS, out(subject.start, subject.adapter), 2)
    for seed in (None, NOISY):
        result = subject.run(dy=dy, seed=seed)
        for name, start in [*subject.start.items(), ("x", x)]:
            g = result.dx if name == "x" else result.grads[name]

            def value(moved: Any, name: str = name, seed: int | None = seed) -> float:
                params = subject.start if name == "x" else {**subject.start, name: moved}
                rng = None if seed is None else stream(seed, "noise")
                rows = moved if name == "x" else x
                return float(np.sum(subject.adapter.forward(params, rows, rng=rng)[0] * dy))

            yield from _slopes(name if seed is None else f"{name}, with noise", start, g, value)


def _slopes(name: str, start: Any, g: Any, value: Any, step: float = 1e-4) -> Iterator[str]:
    """Compare a gradient with central differences in random directions."""
    rng = np.random.default_rng(14)
    for _ in range(DIRECTIONS):
        direction = rng.standard_normal(start.shape)
        got = float(np.sum(to_numpy(g) * direction))
        slope = (value(start + step * direction) - value(start - step * direction)) / 2 / step
        if abs(slope - got) > 1e-5 * float(np.linalg.norm(g)) + 1e-7:
            yield (
                f"along a random direction of {name} sum(y dy) changes by {slope:.6g} a unit, the "
                f"gradient says {got:.6g}"
            )
            return


@promise(
    FORM,
    "Row i of y and of dx follows from row i alone, wherever it stands.",
    fix="Reduce over no rows in forward; mean and scale of a batch are no part of an affine map.",
)
def rows_are_independent(subject: Subject) -> Iterator[str]:
    x, dy = numbers(ROWS, subject.width, 1), numbers(ROWS, out(subject.start, subject.adapter), 2)
    whole = subject.run(x=x, dy=dy)
    for i in range(ROWS):
        alone = subject.run(x=x[i : i + 1], dy=dy[i : i + 1])
        for name, one, every in (("y", alone.y, whole.y), ("dx", alone.dx, whole.dx)):
            if difference(one, every[i : i + 1]) > TOLERANCE["float64"]:
                yield f"row {i} of {name} is another without the other rows"
    turned = subject.run(x=x[::-1], dy=dy[::-1])
    back = {**turned.all, "y": turned.y[::-1], "dx": turned.dx[::-1]}
    yield from differences("rows in another order", back, whole.all, TOLERANCE["float64"])


@promise(
    FORM,
    "squared_gradients is the sum over rows of each row's own gradient, squared.",
    fix="Square before summing over rows: coreframe.adapter.squared_product does it for a matrix; "
    "or leave the method to the base class.",
    needs=("gradient", "rows_are_independent", "inputs_are_kept"),
)
def squares(subject: Subject) -> Iterator[str]:
    x, dy = numbers(ROWS, subject.width, 1), numbers(ROWS, out(subject.start, subject.adapter), 2)
    expected = Adapter.squared_gradients(subject.adapter, subject.start, x, dy)
    found = subject.adapter.squared_gradients(subject.start, x, dy)
    yield from differences("squared_gradients", found, expected, TOLERANCE["float64"])


@promise(
    FORM,
    "thin, where it is given, is the same map: y = x + s (x A) B.",
    fix="Return A (d, r), B (r, d) and s; where there is a b, or no such form, return None.",
)
def thin(subject: Subject) -> Iterator[str]:
    form = subject.adapter.thin(subject.start)
    if form is None:
        raise NotApplicable("it has no thin form")
    a, b, scaling = form
    x = numbers(ROWS, subject.width, 1)
    gap = difference(x + scaling * ((x @ a) @ b), subject.run(x=x).y)
    if gap > TOLERANCE["float64"]:
        yield f"it differs from forward by {gap:.1g} of the largest entry"


@promise(
    FORM,
    "Noise comes from rng alone: the same rng gives the same y and gradients.",
    fix="Draw in forward from the rng that is given, and draw nothing where it is None.",
)
def noise(subject: Subject) -> Iterator[str]:
    for seed in (None, NOISY):
        first, second = subject.run(seed=seed).all, subject.run(seed=seed).all
        for name, x in first.items():
            if not same_bits(x, second[name]):
                how = "without an rng" if seed is None else "with an rng of the same seed"
                yield f"{name} is another in a second pass {how}"


OWN = [*FORM, *manners.MANNERS, *closed_forms.SOLVING]

PROMISES = [*SHARED, *FIELDS, *resting_on(("usable", "accepts"), OWN)]

KIT = kit.Kit("adapters", Adapter, Subject, PROMISES)
