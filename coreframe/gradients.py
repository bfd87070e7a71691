"""What happens to gradients before a step, and to parameters after it: pure functions.

Nothing here looks at a value on the host. What is not finite is passed on for everybody to see,
never hidden: the trainer asks the norm, on the device, and leaves such a step out.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coreframe import checks
from coreframe.backend import Array, Params, device_of, is_array, namespace
from coreframe.dtypes import cast, widened
from coreframe.errors import ArgumentError, ArgumentTypeError, nearest
from coreframe.scheduler import Scheduler, plain, require_resolved

__all__ = ["Accumulation", "MovingAverage", "clip_by_global_norm", "clip_by_value", "global_norm"]

State = Mapping[str, Any]
"""Flat, as an optimizer's: whole numbers and arrays by name. ``coreframe.state`` stores it."""


# Clipping -------------------------------------------------------------------------------------


def global_norm(grads: Params) -> Array:
    """Return the Euclidean length of all gradients together.

        sqrt(sum_i g_i^2), over the entries of all arrays

    Args:
        grads: arrays by name, at least one.

    Shapes: any; the result is a 0-d array, float32 or wider.

    Edges: entries are divided by the largest before they are squared, so that neither huge nor
        tiny ones are lost. Infinity gives infinity, NaN gives NaN. Float16 and bfloat16 are
        added in float32. Arrays without entries count as zero.

    Cost: two passes over the gradients.

    References: none needed.

    >>> import numpy as np
    >>> float(global_norm({"W": np.array([[3e300]]), "b": np.array([4e300])}))
    5e+300
    """
    if not grads:
        raise ArgumentError("grads is empty: there is no norm of nothing")
    xp = namespace(**grads)
    wide = [widened(g, xp) for g in grads.values()]
    filled = [g for g in wide if 0 not in g.shape]
    if not filled:
        return xp.sum(wide[0])
    largest = _peak(filled[0], xp)
    for g in filled[1:]:
        largest = xp.maximum(largest, _peak(g, xp))
    usable = xp.isfinite(largest) & (largest > 0)
    unit = xp.where(usable, largest, xp.ones_like(largest))
    total: Any = 0.0
    for g in filled:
        scaled = cast(g, unit.dtype, xp) / unit
        total = total + xp.sum(scaled * scaled)
    return xp.asarray(unit * xp.sqrt(xp.asarray(total)))


def clip_by_global_norm(grads: Params, limit: float) -> tuple[dict[str, Array], Array]:
    """Scale gradients to a global norm of at most ``limit``; return them and the norm before.

        g                    where norm <= limit
        (g / norm) limit     where norm > limit

    The form of ``optax.clip_by_global_norm``. ``torch.nn.utils.clip_grad_norm_`` divides by
    norm + 1e-6 instead, and so shrinks a little what just fits.

    Args:
        grads: arrays by name, at least one.
        limit: above 0.

    Shapes: any; each gradient keeps its shape and dtype, the norm is 0-d.

    Edges: gradients of zero stay. If the norm is infinite or NaN, so that no direction is left,
        every entry comes back as NaN: PyTorch and optax return NaN for the infinite entries and
        zeros for the others, which look like a sound step. Ask the norm; the trainer does, and
        leaves the step out.

    Cost: four passes over the gradients.

    References: Pascanu et al. 2013, arXiv 1211.5063, algorithm 1.

    >>> import numpy as np
    >>> clipped, norm = clip_by_global_norm({"W": np.array([6.0, 8.0])}, 5.0)
    >>> clipped["W"].tolist(), float(norm)
    ([3.0, 4.0], 10.0)
    """
    _above_zero("limit", limit)
    norm = global_norm(grads)
    xp = namespace(norm=norm)
    over = norm > limit
    one = xp.ones_like(norm)
    divisor = xp.where(xp.isfinite(norm), xp.where(over, norm, one), xp.nan * one)
    factor = xp.where(over, limit * one, one)
    clipped = {}
    for name, g in grads.items():
        clipped[name] = cast(cast(g, norm.dtype, xp) / divisor * factor, g.dtype, xp)
    return clipped, norm


def clip_by_value(grads: Params, limit: float) -> dict[str, Array]:
    """Move each entry into [-limit, limit], which changes the direction.

        min(max(g, -limit), limit)

    Equals ``torch.nn.utils.clip_grad_value_`` on finite gradients.

    Args:
        grads: arrays by name.
        limit: above 0.

    Shapes: any; each gradient keeps its shape and dtype.

    Edges: infinite entries and NaN stay as they are, so that a broken step is still seen as one;
        PyTorch turns infinity into the limit.

    Cost: three passes over the gradients.

    References: none needed.

    >>> import numpy as np
    >>> clip_by_value({"W": np.array([0.5, -3.0, np.inf])}, 1.0)["W"].tolist()
    [0.5, -1.0, inf]
    """
    _above_zero("limit", limit)
    clipped = {}
    for name, g in grads.items():
        xp = namespace(**{name: g})
        most = min(float(limit), float(xp.finfo(g.dtype).max))
        held = xp.clip(g, -most, most)
        clipped[name] = xp.where(xp.isfinite(g), held, g)
    return clipped


# Accumulation ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Accumulation:
    """One update from the weighted mean of the gradients of several micro-batches.

        mean = sum_i w_i g_i / sum_i w_i,   i = 1 .. steps

    With w_i the number of examples (or the sum of their weights) of micro-batch i this is the
    gradient of the whole batch, for losses that are a mean over examples. The mean of the means,
    which weighs a short micro-batch as much as a full one, is not.

    For in-batch contrastive losses accumulation is not a larger batch: each anchor still
    meets the candidates of its own micro-batch only. There a larger batch is what it takes; the
    row engine keeps its memory linear.

    Args:
        steps: micro-batches an update, from 1.

    Shapes: ``init(params)`` makes a sum of each parameter's shape; ``mean`` returns arrays of
        these shapes.

    Edges: ``mean`` may be asked at any time after the first ``add``, so that the last window of
        a run, if it is short, is the mean of what it holds. Clip the mean, not the micro-batches.
        A parameter without a gradient in a micro-batch counts as zero there. Weights of zero
        only give zero. One gradient that is not finite makes the mean not finite. Sums of
        float16 and bfloat16 are kept, and returned, in float32. Optimizer and schedulers count
        updates, not micro-batches.

    Cost: the memory of one gradient; two passes over it a micro-batch.

    References: Goyal et al. 2017, arXiv 1706.02677, section 2.

    >>> import numpy as np
    >>> window = Accumulation(steps=2)
    >>> state = window.init({"W": np.zeros(1)})
    >>> state = window.add(state, {"W": np.array([1.0])}, weight=3)
    >>> state = window.add(state, {"W": np.array([5.0])}, weight=1)
    >>> window.full(state), window.mean(state)["W"].tolist()
    (True, [2.0])
    """

    steps: int

    def __post_init__(self) -> None:
        checks.number(self, "steps", minimum=1, integer=True)

    def init(self, params: Params) -> State:
        """Return an empty window."""
        xp = namespace(**params)
        sums = {name: xp.zeros_like(widened(x, xp)) for name, x in params.items()}
        first = next(iter(params.values()))
        dtype = xp.result_type(*(x.dtype for x in sums.values()))
        weight = xp.zeros((), dtype=dtype, device=device_of(first))
        return {"count": 0, "weight": weight, **{f"sum/{name}": x for name, x in sums.items()}}

    def add(self, state: State, grads: Params, weight: Any = 1.0) -> State:
        """Return the window after one more micro-batch; ``weight`` a number or a 0-d array."""
        total = state["weight"]
        xp = namespace(weights=total, **grads)
        if isinstance(weight, numbers.Real) and not isinstance(weight, bool):
            number = float(weight)
            if not (math.isfinite(number) and number >= 0):
                raise ArgumentError(f"weight must be finite and at least 0, got {weight!r}")
            given = number * xp.ones_like(total)
        elif is_array(weight) and not weight.ndim:
            given = xp.astype(weight, total.dtype)
        else:
            raise ArgumentTypeError(f"weight must be a number or a 0-d array, got {weight!r}")
        new = {**state, "count": state["count"] + 1, "weight": total + given}
        for name, g in grads.items():
            before = _kept(state, "sum", name, g)
            new[f"sum/{name}"] = before + xp.astype(given, before.dtype) * cast(g, before.dtype, xp)
        return new

    def full(self, state: State) -> bool:
        """Say whether the window holds as many micro-batches as an update takes."""
        return bool(state["count"] >= self.steps)

    def mean(self, state: State) -> dict[str, Array]:
        """Return the weighted mean of what the window holds; begin the next with ``init``."""
        if not state["count"]:
            raise ArgumentError("the window is empty: add a gradient before its mean is asked")
        total = state["weight"]
        xp = namespace(weight=total)
        total = xp.where(total == 0, xp.ones_like(total), total)
        sums = {k.removeprefix("sum/"): x for k, x in state.items() if k.startswith("sum/")}
        return {name: x / xp.astype(total, x.dtype) for name, x in sums.items()}


# Moving average of the parameters -------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class MovingAverage:
    """The exponential moving average of the parameters, which often evaluates better than they.

        a_0 = p_0;   a_t = a_(t-1) + (1 - d) (p_t - a_(t-1))
        d = decay, or with ``warmup`` min(decay, (1 + t) / (10 + t))

    p_0 are the parameters given to ``init`` and t counts updates from 1. It starts at the
    parameters, so there is no bias to correct. Equals ``torch.optim.swa_utils.AveragedModel``
    with ``get_ema_multi_avg_fn(decay)``, whose first ``update_parameters`` is our ``init``. The
    form of ``warmup`` is that of thinc.

    Args:
        decay: in [0, 1), a number or a scheduler. Default: 0.999 (PyTorch).
        warmup: whether early averages forget faster. Default: False.

    Shapes: one average a parameter, of its shape.

    Edges: a decay of 0 gives the parameters. Averages of float16 and bfloat16 parameters are
        kept, and returned, in float32, where small moves do not vanish. Parameters that are not
        finite stay in the average for good: call it after the trainer has chosen.

    Cost: three passes over the parameters, memory of one.

    References: Polyak & Juditsky 1992; Tarvainen & Valpola 2017, arXiv 1703.01780.

    >>> import numpy as np
    >>> average = MovingAverage(decay=0.9)
    >>> state = average.init({"W": np.array([0.0])})
    >>> state = average.update(state, {"W": np.array([1.0])})
    >>> average.params(state)["W"].round(6).tolist()
    [0.1]
    """

    decay: float | Scheduler = 0.999
    warmup: bool = False

    def __post_init__(self) -> None:
        checks.flag(self, "warmup")
        checks.number(self, "decay", minimum=0, below=1)

    def init(self, params: Params) -> State:
        """Return the average before the first update: the parameters themselves."""
        xp = namespace(**params)
        return {"updates": 0, **{f"average/{k}": widened(x, xp) for k, x in params.items()}}

    def update(self, state: State, params: Params) -> State:
        """Return the average after the parameters have changed once."""
        require_resolved(self)
        xp = namespace(**params)
        t = state["updates"] + 1
        decay = plain(self.decay)
        if self.warmup:
            decay = min(decay, (1 + t) / (10 + t))
        if missing := [name for name in self.params(state) if name not in params]:
            raise ArgumentError(f"params lacks {missing[0]!r}.{nearest(missing[0], params)}")
        new: dict[str, Any] = {"updates": t}
        for name, x in params.items():
            before = _kept(state, "average", name, x)
            moved = before + (1 - decay) * (cast(x, before.dtype, xp) - before)
            new[f"average/{name}"] = xp.asarray(moved)
        return new

    def params(self, state: State) -> dict[str, Array]:
        """Return the averaged parameters by name."""
        start = "average/"
        return {k.removeprefix(start): x for k, x in state.items() if k.startswith(start)}


# Shared ---------------------------------------------------------------------------------------


def _peak(x: Array, xp: Any) -> Array:
    """Return the largest size of an entry, as a 0-d array."""
    return xp.asarray(xp.max(xp.abs(x)))


def _above_zero(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ArgumentTypeError(f"{name} must be a number, got {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ArgumentError(f"{name} must be finite and above 0, got {value!r}")


def _kept(state: State, slot: str, name: str, x: Array) -> Array:
    """Return what the state keeps under a name, or say that it belongs to other parameters."""
    found = state.get(f"{slot}/{name}")
    if found is None:
        known = [k.removeprefix(f"{slot}/") for k in state if k.startswith(f"{slot}/")]
        raise ArgumentError(f"this state knows no parameter {name!r}.{nearest(name, known)}")
    if tuple(found.shape) != tuple(x.shape):
        raise ArgumentError(
            f"{name!r} has shape {tuple(x.shape)}, its state has {tuple(found.shape)}"
        )
    return found
