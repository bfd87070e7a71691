"""The part of the Array API standard that components use, as calls that can be compared.

``xp`` is a namespace; ``a`` has x and y, (3, 4) floats; p, positive ones; v, a sorted vector; m, a
mask; i, (3, 2) columns; rows, row numbers; odd, with NaN and infinities; and the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Calls = dict[str, Callable[[Any, Any], Any]]

FUNCTIONS: Calls = {
    # made
    "arange": lambda xp, a: xp.arange(5, dtype=a.x.dtype, device=a.device),
    "asarray": lambda xp, a: xp.asarray(a.x, dtype=xp.float32),
    "eye": lambda xp, a: xp.eye(3, dtype=a.x.dtype, device=a.device),
    "full": lambda xp, a: xp.full((2, 3), 0.5, dtype=a.x.dtype, device=a.device),
    "full_like": lambda xp, a: xp.full_like(a.x, -1e9),
    "ones": lambda xp, a: xp.ones((2, 3), dtype=a.x.dtype, device=a.device),
    "ones_like": lambda xp, a: xp.ones_like(a.x),
    "zeros": lambda xp, a: xp.zeros((0, 3), dtype=a.x.dtype, device=a.device),
    "zeros_like": lambda xp, a: xp.zeros_like(a.m),
    # of one dtype or another
    "astype": lambda xp, a: xp.astype(a.m, a.x.dtype),
    "finfo": lambda xp, a: a.x + xp.finfo(a.x.dtype).eps,
    "iinfo": lambda xp, a: a.i + xp.iinfo(xp.int8).max,
    "isdtype": lambda xp, a: a.x + float(xp.isdtype(a.x.dtype, "real floating")),
    "result_type": lambda xp, a: xp.astype(a.m, xp.result_type(a.x, a.y)),
    # element by element
    "abs": lambda xp, a: xp.abs(a.x),
    "clip": lambda xp, a: xp.clip(a.x, -0.5, 0.5),
    "exp": lambda xp, a: xp.exp(a.x),
    "expm1": lambda xp, a: xp.expm1(a.x),
    "floor": lambda xp, a: xp.floor(a.x),
    "isfinite": lambda xp, a: xp.isfinite(a.odd),
    "isinf": lambda xp, a: xp.isinf(a.odd),
    "isnan": lambda xp, a: xp.isnan(a.odd),
    "log": lambda xp, a: xp.log(a.p),
    "log1p": lambda xp, a: xp.log1p(a.p),
    "logical_and": lambda xp, a: xp.logical_and(a.m, a.y > 0),
    "logical_not": lambda xp, a: xp.logical_not(a.m),
    "maximum": lambda xp, a: xp.maximum(a.x, a.y),
    "minimum": lambda xp, a: xp.minimum(a.x, a.y),
    "sign": lambda xp, a: xp.sign(a.x),
    "sqrt": lambda xp, a: xp.sqrt(a.p),
    "square": lambda xp, a: xp.square(a.x),
    "tanh": lambda xp, a: xp.tanh(a.x),
    "where": lambda xp, a: xp.where(a.m, a.x, xp.zeros_like(a.x)),
    # along an axis
    "all": lambda xp, a: xp.all(a.m, axis=1),
    "any": lambda xp, a: xp.any(a.m),
    "argmax": lambda xp, a: xp.argmax(a.x, axis=1),
    "argmin": lambda xp, a: xp.argmin(a.x, axis=0),
    "argsort": lambda xp, a: xp.argsort(a.x, axis=1, descending=True, stable=True),
    "cumulative_sum": lambda xp, a: xp.cumulative_sum(a.x, axis=1),
    "max": lambda xp, a: xp.max(a.x, axis=1, keepdims=True),
    "mean": lambda xp, a: xp.mean(a.x, axis=0),
    "min": lambda xp, a: xp.min(a.x),
    "searchsorted": lambda xp, a: xp.searchsorted(a.v, a.x[1, :], side="right"),
    "sort": lambda xp, a: xp.sort(a.x, axis=1),
    "sum": lambda xp, a: xp.sum(a.x, axis=1, keepdims=True),
    # shapes and places
    "broadcast_to": lambda xp, a: xp.broadcast_to(a.x[:1, :], (3, 4)),
    "concat": lambda xp, a: xp.concat([a.x, a.y], axis=1),
    "expand_dims": lambda xp, a: xp.expand_dims(a.x, axis=1),
    "flip": lambda xp, a: xp.flip(a.x, axis=1),
    "matmul": lambda xp, a: xp.matmul(a.x, xp.matrix_transpose(a.y)),
    "matrix_transpose": lambda xp, a: xp.matrix_transpose(a.x),
    "permute_dims": lambda xp, a: xp.permute_dims(a.x, (1, 0)),
    "reshape": lambda xp, a: xp.reshape(a.x, (-1, 2)),
    "squeeze": lambda xp, a: xp.squeeze(a.x[:1, :], axis=0),
    "stack": lambda xp, a: xp.stack([a.x, a.y]),
    "take": lambda xp, a: xp.take(a.x, a.rows, axis=0),
    "take_along_axis": lambda xp, a: xp.take_along_axis(a.x, a.i, axis=1),
}
"""By name: a call whose result says whether the function works as the standard has it."""

OPERATORS: Calls = {
    "x + y": lambda xp, a: a.x + a.y,
    "x - 1": lambda xp, a: a.x - 1,
    "2.0 * x": lambda xp, a: 2.0 * a.x,
    "x / p": lambda xp, a: a.x / a.p,
    "1 / p": lambda xp, a: 1 / a.p,
    "p ** 2": lambda xp, a: a.p**2,
    "-x": lambda xp, a: -a.x,
    "i % 3": lambda xp, a: a.i % 3,
    "i // 2": lambda xp, a: a.i // 2,
    "x @ y.T": lambda xp, a: a.x @ xp.matrix_transpose(a.y),
    "x > 0": lambda xp, a: a.x > 0,
    "x <= y": lambda xp, a: a.x <= a.y,
    "i == 1": lambda xp, a: a.i == 1,
    "i != 1": lambda xp, a: a.i != 1,
    "m & (x < y)": lambda xp, a: a.m & (a.x < a.y),
    "m | ~m": lambda xp, a: a.m | ~a.m,
    "x[1:, :]": lambda xp, a: a.x[1:, :],
    "x[:, ::2]": lambda xp, a: a.x[:, ::2],
    "x[:, None, 1]": lambda xp, a: a.x[:, None, 1],
    "x[-1, ...]": lambda xp, a: a.x[-1, ...],
}
