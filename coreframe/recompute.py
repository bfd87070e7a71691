"""Gradient checkpointing: less memory for activations, paid for with one more forward pass.

A pass through many layers keeps what each layer's pullback needs until the gradients come back.
``checkpointed`` keeps the inputs of a few segments only, and runs a segment again when its turn
comes. Nothing has to be cleared: what is stored lives in the pullback and goes when it goes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import numbers
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from coreframe import checks
from coreframe.adapter import Adapter, Pullback
from coreframe.backend import Array, Params, is_array, namespace
from coreframe.chain import layer_streams
from coreframe.errors import ArgumentError, ArgumentTypeError

__all__ = ["Layer", "Recomputation", "check_segments", "checkpointed", "savings"]

Forward: TypeAlias = Callable[[Array, Any], tuple[Array, Pullback]]
Layer: TypeAlias = tuple[Adapter, Params] | Forward
"""An adapter with its parameters, or ``forward(x, rng) -> (y, pullback)``."""


@dataclass(eq=False, kw_only=True)
class Recomputation:
    """What a checkpointed pass did so far; its pullback goes on counting.

    Bytes are those of the arrays that are really held: stored segment inputs, and everything that
    can be reached from the pullbacks of layers, each array once, without what the layers had
    before (their parameters).
    """

    layers: int
    segments: int
    forward_calls: int = 0
    """Layers run in the forward pass."""
    recomputed_calls: int = 0
    """Layers run again by the pullback."""
    probe_calls: int = 0
    """Layers run on one row, to find the segments that fit into a budget."""
    stored_bytes: int = 0
    """Held between the forward pass and the first pullback."""
    peak_bytes: int = 0
    """The most that was held at one time."""


def checkpointed(
    layers: Sequence[Layer] | Mapping[str, Layer],
    x: Array,
    *,
    segments: int | str = "sqrt",
    budget_bytes: int | None = None,
    enabled: bool = True,
    rng: Any = None,
) -> tuple[Array, Pullback, Recomputation]:
    """Run layers one after the other, and store the inputs of segments of them only.

        y = f_L(... f_2(f_1(x)));   stored: the inputs of S segments, not of L layers

    The pullback runs a segment again from its stored input, with the same random stream for each
    layer, and then pulls back through it: gradients equal those of the plain pass in every bit.
    The last segment is not run again, since its turn comes at once; segments differ by at most
    one layer, and the last is one of the longest. So S = 1 is the plain pass, more segments
    recompute more, and the least is held with about sqrt(L) of them.

    Layers must not write to their inputs and must draw from ``rng`` alone. Where that costs
    little it is checked: NumPy arrays are handed over read-only, PyTorch's are asked whether they
    were written to, and on the host (everywhere under COREFRAME_CHECKS=1) a segment that is run
    again has to give what it gave before.

    Args:
        layers: the layers in order, or a mapping that names them (else they are "0", "1", ...):
            an adapter with its parameters, ``(adapter, params)``, or a function
            ``forward(x, rng) -> (y, pullback)`` with ``pullback(dy, need_dx=True) -> (grads, dx)``.
        x: the input, rows first.
        segments: how many, from 1; more than there are layers means one a layer. Default: "sqrt",
            the square root of the number of layers, rounded up, which Chen et al. show to be of
            the best order.
        budget_bytes: instead of segments: the fewest segments whose activations stay within that
            many bytes, found by a pass of one row (so what a layer keeps has to grow no faster
            than the rows). Default: None, no budget.
        enabled: False makes it the plain pass, which keeps everything. Default: True.
        rng: a generator; one draw of it decides the stream of each layer by name. Default: None,
            layers get None.

    Returns:
        y, its pullback, and the count of what was held and run again (``Recomputation``). The
        pullback names gradients ``<layer>.<parameter>`` and may be called again, which recomputes
        again.

    Shapes: x (n, ...) to whatever the last layer returns; dy as y; dx as x.

    Edges: no layer is an error; so is a budget that no number of segments meets, and the error
    names the least that would do.

    Cost: time of one more forward pass at most, without the last segment; memory of S segment
    inputs and the activations of one segment, O(sqrt(L)) layers' for "sqrt", in place of L.

    References: Griewank & Walther 2000, algorithm 799; Chen et al. 2016, arXiv 1604.06174,
    section 4.

    >>> from numpy import ones
    >>> double = lambda x, rng: (2 * x, lambda dy, need_dx=True: ({}, 2 * dy))
    >>> y, pullback, count = checkpointed([double] * 9, ones((1, 1)))
    >>> float(y[0, 0]), float(pullback(ones((1, 1)))[1][0, 0]), count.recomputed_calls
    (512.0, 512.0, 6)
    """
    named = _named(layers)
    count = Recomputation(layers=len(named), segments=1)
    run = _Layers(named, layer_streams(rng), count)
    if enabled:
        count.segments = _how_many(run, x, segments, budget_bytes)
    borders = _borders(len(named), count.segments)
    inputs = []
    for span in borders[:-1]:
        inputs.append(_guarded(x))
        x = run.through(span, inputs[-1])
        count.forward_calls += len(span)
    inputs.append(_guarded(x))
    kept: list[tuple[str, Pullback]] = []
    y = run.collect(borders[-1], inputs[-1], kept)
    count.forward_calls += len(borders[-1])
    count.stored_bytes = run.measure(inputs, kept)

    def pullback(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
        grads: dict[str, Array] = {}
        for i in reversed(range(len(borders))):
            pulls = list(kept) if i == len(borders) - 1 else []
            if not pulls:
                again = run.collect(borders[i], inputs[i], pulls)
                count.recomputed_calls += len(borders[i])
                run.measure(inputs, pulls)
                if i + 1 < len(borders):
                    _check_again(again, inputs[i + 1], borders[i], run.names)
                del again
            elif len(borders) > 1:
                kept.clear()
            while pulls:
                name, pull = pulls.pop()
                wanted = need_dx or bool(pulls) or i > 0
                own, dy = pull(dy, need_dx=wanted)
                grads |= {f"{name}.{key}": g for key, g in own.items()}
                del pull
        return grads, dy if need_dx else None

    return y, pullback, count


class _Layers:
    """The layers of a pass, and what they hold."""

    def __init__(
        self, layers: Mapping[str, Forward], streams: Callable[[str], Any], count: Recomputation
    ) -> None:
        self.layers = layers
        self.names = list(layers)
        self.streams = streams
        self.count = count
        self.before = {key for forward in layers.values() for key in _arrays(forward)}

    def one(self, i: int, x: Array) -> tuple[Array, Pullback]:
        """Run one layer, and make sure that it leaves its input as it is."""
        name, writes = self.names[i], None
        version = getattr(x, "_version", None)  # PyTorch counts what is written to an array
        try:
            y, pullback = self.layers[name](_guarded(x), self.streams(name))
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            writes = error
        if writes is not None or getattr(x, "_version", None) != version:
            raise ArgumentError(
                f"layer {name!r} writes to its input, which is still needed for gradients; "
                "a layer must return a new array"
            ) from writes
        return y, pullback

    def through(self, span: range, x: Array) -> Array:
        """Run the layers of a span, keep nothing, and return the output."""
        for i in span:
            x = self.one(i, x)[0]
        return x

    def collect(self, span: range, x: Array, pulls: list[tuple[str, Pullback]]) -> Array:
        """Run the layers of a span, add their pullbacks to ``pulls``, and return the output."""
        for i in span:
            x, pullback = self.one(i, x)
            pulls.append((self.names[i], pullback))
        return x

    def held(self, *roots: Any) -> dict[int, int]:
        """Return the bytes of each array that can be reached, but those the layers had before."""
        found = _union([_arrays(root) for root in roots])
        return {key: size for key, size in found.items() if key not in self.before}

    def measure(self, inputs: Sequence[Array], pulls: Sequence[tuple[str, Pullback]]) -> int:
        """Return what is held now, and keep the most that ever was."""
        now = sum(self.held(list(inputs), [pull for _, pull in pulls]).values())
        self.count.peak_bytes = max(self.count.peak_bytes, now)
        return now


# Segments -----------------------------------------------------------------------------------


def _how_many(run: _Layers, x: Array, segments: int | str, budget_bytes: int | None) -> int:
    """Return the number of segments, from 1 to the number of layers."""
    check_segments(segments, budget_bytes)
    if budget_bytes is not None:
        return _that_fit(run, x, budget_bytes)
    total = len(run.names)
    return math.ceil(math.sqrt(total)) if isinstance(segments, str) else min(segments, total)


def check_segments(segments: Any, budget_bytes: Any = None, *, owner: str = "") -> None:
    """Check the two ways to say how many segments there are; only one may be used."""
    if segments != "sqrt" and not _is_count(segments):
        raise ArgumentError(
            f"{owner}segments must be 'sqrt' or a whole number from 1, got {segments!r}"
        )
    if budget_bytes is not None and not _is_count(budget_bytes):
        raise ArgumentError(
            f"{owner}budget_bytes must be a whole number from 1, or None, got {budget_bytes!r}"
        )
    if budget_bytes is not None and segments != "sqrt":
        raise ArgumentError(
            f"{owner}budget_bytes chooses the number of segments itself; give it without "
            f"segments={segments!r}"
        )


def _is_count(value: Any) -> bool:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return whole and int(value) >= 1


def _borders(layers: int, segments: int) -> list[range]:
    """Cut layers into segments that differ by one layer at most; the last is of the longest."""
    cuts = [layers * i // segments for i in range(segments + 1)]
    return [range(first, last) for first, last in itertools.pairwise(cuts)]


def _that_fit(run: _Layers, x: Array, budget: int) -> int:
    """Return the fewest segments whose peak stays within the budget."""
    rows, row = x.shape[0], x[:1, ...]
    inputs: list[Array] = []
    pulls: list[Pullback] = []
    for i in range(len(run.names)):
        inputs.append(row)
        row, pullback = run.one(i, row)
        pulls.append(pullback)
    run.count.probe_calls = len(pulls)
    stored, held = [run.held(x) for x in inputs], [run.held(pull) for pull in pulls]
    peaks = []
    for segments in range(1, len(held) + 1):
        borders = _borders(len(held), segments)
        at_borders = {k: size for span in borders for k, size in stored[span.start].items()}
        peak = rows * max(
            sum((at_borders | _union(held[span.start : span.stop])).values()) for span in borders
        )
        if peak <= budget:
            return segments
        peaks.append(peak)
    raise ArgumentError(
        f"budget_bytes={budget} is too little for {len(held)} layers and {rows} rows: the least "
        f"is {min(peaks)}, with {peaks.index(min(peaks)) + 1} segments; raise it, or take fewer "
        "rows at a time"
    )


def _union(parts: Sequence[Mapping[int, int]]) -> dict[int, int]:
    return {key: size for part in parts for key, size in part.items()}


# Layers and what they hold ------------------------------------------------------------------


def _named(layers: Sequence[Layer] | Mapping[str, Layer]) -> dict[str, Forward]:
    """Return functions by name."""
    if not isinstance(layers, Mapping):
        layers = {str(i): layer for i, layer in enumerate(layers)}
    if not layers:
        raise ArgumentError("layers must have at least one layer, got none")
    found: dict[str, Forward] = {}
    for name, layer in layers.items():
        if isinstance(layer, tuple) and len(layer) == 2 and isinstance(layer[0], Adapter):
            found[name] = functools.partial(_adapted, *layer)
        elif callable(layer):
            found[name] = layer
        else:
            hint = "; write (adapter, params)" if isinstance(layer, Adapter) else ""
            raise ArgumentTypeError(
                f"layer {name!r} must be a pair of an adapter and its parameters, or a function "
                f"forward(x, rng), got {type(layer).__name__}{hint}"
            )
    return found


def _adapted(adapter: Adapter, params: Params, x: Array, rng: Any) -> tuple[Array, Pullback]:
    return adapter.forward(params, x, rng=rng)


def _guarded(x: Array) -> Array:
    """Return a NumPy array as a view that cannot be written to; any other as it is."""
    if type(x).__module__ == "numpy" and hasattr(x, "flags") and x.flags.writeable:
        x = x[...]
        x.flags.writeable = False
    return x


def _check_again(again: Array, before: Array, span: range, names: Sequence[str]) -> None:
    """Make sure that a segment gave what it gave in the forward pass, where looking is cheap."""
    if not checks.visible(again):
        return
    xp = namespace(again=again)
    same = again.shape == before.shape
    if same:  # NaN is the same as NaN here
        same = bool(xp.all((again == before) | ((again != again) & (before != before))))
    if not same:
        which = names[span.start] if len(span) == 1 else f"{names[span.start]}..{names[span[-1]]}"
        raise ArgumentError(
            f"layers {which} gave another output when they were run again: a layer must not write "
            "to its input or to what it has returned, and must draw from the rng that it is given"
        )


_PLAIN = (type, str, bytes, numbers.Number, types.ModuleType, types.BuiltinFunctionType)


def _arrays(root: Any) -> dict[int, int]:
    """Return the bytes of every array that can be reached from an object, by its identity.

    Walks closures, partial functions, bound methods, attributes and containers. A view of a
    NumPy array counts as the array that it is a view of.
    """
    found: dict[int, int] = {}
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        x = waiting.pop()
        if id(x) in seen or x is None or isinstance(x, _PLAIN):
            continue
        seen.add(id(x))
        if hasattr(x, "shape") and is_array(x):
            whole = x
            while (base := getattr(whole, "base", None)) is not None and is_array(base):
                whole = base
            found[id(whole)] = max(found.get(id(whole), 0), _size(x))
        elif isinstance(x, Mapping):
            waiting += x.values()
        elif isinstance(x, (list, tuple, set, frozenset)):
            waiting += x
        elif isinstance(x, functools.partial):
            waiting += [x.func, x.args, x.keywords]
        elif isinstance(x, types.MethodType):
            waiting += [x.__self__, x.__func__]
        elif isinstance(x, types.FunctionType):
            waiting += [x.__defaults__, x.__kwdefaults__]
            for cell in x.__closure__ or ():
                with contextlib.suppress(ValueError):  # a cell that is still empty
                    waiting.append(cell.cell_contents)
        elif hasattr(x, "__dict__"):
            waiting += vars(x).values()
    return found


def _size(x: Array) -> int:
    """Return the bytes of an array."""
    if hasattr(x, "nbytes"):
        return int(x.nbytes)
    xp = namespace(x=x)
    bits: int = 8
    if not xp.isdtype(x.dtype, "bool"):
        bits = (xp.iinfo if xp.isdtype(x.dtype, "integral") else xp.finfo)(x.dtype).bits
    size: int = math.prod(x.shape) * bits // 8
    return size


# The estimate -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Savings:
    """Bytes of activations with and without checkpointing, and the fraction that is saved."""

    without: float
    stored: float
    fraction: float


def savings(
    layers: int, activation_bytes: float, segments: int | str = "sqrt", *, rule: str = "held"
) -> Savings:
    """Estimate what checkpointing saves where every layer keeps one activation of one size.

        without = L a
        held:     S a + (ceil(L / S) - 1) a     what ``checkpointed`` holds at its peak
        textbook: S a + (L / S) a               counts a segment's input twice, and no remainder

    ``checkpointed`` measures what really was held; this is for planning before there is a run.

    Args:
        layers: L >= 1.
        activation_bytes: a > 0, what one layer keeps.
        segments: S from 1 to L. Default: "sqrt", as in ``checkpointed``.
        rule: "held" or "textbook". Default: "held", which never saves less than nothing; the
            textbook's sum does for few layers.

    Returns:
        ``Savings``: the bytes without, those stored, and the fraction 1 - stored / without.

    Shapes: numbers in, numbers out.

    Edges: no layers, no bytes, more segments than layers, and NaN are errors.

    Cost: O(1).

    References: Chen et al. 2016, arXiv 1604.06174, section 4.1.

    >>> savings(100, 1024, 10).stored, round(savings(24, 1, 4, rule="textbook").fraction, 3)
    (19456, 0.583)
    """
    if not _is_count(layers):
        raise ArgumentError(f"layers must be a whole number from 1, got {layers!r}")
    number = isinstance(activation_bytes, numbers.Real) and not isinstance(activation_bytes, bool)
    if not number or not 0 < activation_bytes < math.inf:
        raise ArgumentError(
            f"activation_bytes must be a finite number above 0, got {activation_bytes!r}"
        )
    check_segments(segments)
    if rule not in ("held", "textbook"):
        raise ArgumentError(f"rule must be 'held' or 'textbook', got {rule!r}")
    count = math.ceil(math.sqrt(layers)) if isinstance(segments, str) else segments
    if count > layers:
        raise ArgumentError(f"segments must be at most the {layers} layers, got {count}")
    without = layers * activation_bytes
    if rule == "held":
        stored = (count + math.ceil(layers / count) - 1) * activation_bytes
    else:
        stored = count * activation_bytes + layers / count * activation_bytes
    return Savings(without=without, stored=stored, fraction=1 - stored / without)
