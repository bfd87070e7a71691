"""How unequal the spread of embeddings is over their dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from coreframe import checks
from coreframe.backend import Array, Params, namespace
from coreframe.errors import ArgumentError
from coreframe.regularizer import Regularizer
from coreframe.result import LossResult
from coreframe.scheduler import Scheduler, plain, require_resolved

FIELDS = ("anchors", "references", "negatives")


@dataclass(frozen=True, kw_only=True)
class VarianceOfVariances(Regularizer):
    """The variance, over dimensions, of the variance of embeddings over rows.

        v_d = mean_i (e_id - mean_i e_id)^2
        value = strength * mean_d (v_d - mean_d v_d)^2
        gradient_id = strength * 4 / (n D) (v_d - mean_d v_d) (e_id - mean_i e_id)

    Both are population variances. It is 0 where all dimensions spread alike, collapsed rows
    included, so it evens the spread out and keeps none of it.

    Args:
        strength: >= 0. Default: 0.01, small beside a loss of order 1.
        on: anchors, references, negatives, or all of them stacked as one set of rows.
            Default: "all".

    Shapes: rows (n, D), or own negatives (n, k, D), which count as n k rows.

    Edges: one row, no row or one dimension gives 0 with gradient 0.

    Cost: O(n D) time and memory.

    References: none; the spectral term of the older Rust library, under a name of its own. It
    is no spectral term of a graph: for that see ``graph_laplacian``.

    >>> import numpy as np
    >>> rows = np.array([[0.0, 0.0], [2.0, 0.0]])
    >>> float(VarianceOfVariances(strength=1.0).value_and_grad({"anchors": rows}).value)
    0.25
    """

    strength: float | Scheduler = 0.01
    on: str = "all"

    of: ClassVar[Literal["parameters", "embeddings"]] = "embeddings"

    def __post_init__(self) -> None:
        checks.number(self, "strength", minimum=0)
        checks.choice(self, "on", (*FIELDS, "all"))

    def value_and_grad(self, arrays: Params, *, ids: Mapping[str, Any] | None = None) -> LossResult:
        """Return the term for the embeddings of a batch, and its gradient by each field in it."""
        require_resolved(self)
        strength = plain(self.strength)
        names = [name for name in FIELDS if name in arrays and self.on in (name, "all")]
        if not names:
            raise ArgumentError(
                f"VarianceOfVariances.on is {self.on!r}, but this batch has "
                f"{', '.join(arrays) or 'nothing'}"
            )
        xp = namespace(**{name: arrays[name] for name in names})
        width = arrays[names[0]].shape[-1]
        sets = [xp.reshape(arrays[name], (-1, width)) for name in names]
        rows: Array = xp.concat(sets, axis=0) if len(sets) > 1 else sets[0]
        n = max(1, rows.shape[0])
        away = rows - xp.sum(rows, axis=0, keepdims=True) / n
        spread = xp.sum(away * away, axis=0) / n
        uneven = spread - xp.sum(spread) / width
        gradient = (strength * 4 / (n * width)) * uneven[None, :] * away
        grads, first = {}, 0
        for name, part in zip(names, sets, strict=True):
            last = first + part.shape[0]
            grads[name] = xp.reshape(gradient[first:last, :], arrays[name].shape)
            first = last
        return LossResult((strength / width) * xp.sum(uneven * uneven), grads)
