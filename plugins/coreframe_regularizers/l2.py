"""A pull of parameters to zero, or to where the run started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coreframe import checks
from coreframe.backend import Array, Params, namespace
from coreframe.regularizer import Regularizer
from coreframe.result import LossResult
from coreframe.scheduler import Scheduler, plain, require_resolved


@dataclass(frozen=True, kw_only=True)
class L2(Regularizer):
    """A pull of parameters to where the run started (L2-SP), or to zero (ridge).

        strength / 2 * sum (p - center)^2
        gradient = strength (p - center)

    With toward="start" the center is where the run starts, which for a fresh adapter is the
    identity: the pull that keeps an adapter from forgetting what the base model knows. Every
    parameter counts the same; ``ewc`` weighs them by what earlier tasks need.

    Args:
        strength: >= 0. Default: 1e-3, small beside a loss of order 1.
        toward: "start" or "zero". Default: "start", since an adapter at zero forgets all.
        center: parameters by name; set by ``begin`` when toward="start". A parameter that it
            lacks is pulled to zero. Default: empty.

    Shapes: parameters of any shapes; a center has the shape of its parameter.

    Edges: before ``begin``, toward="start" is a pull to zero.

    Cost: O(p) for p parameters.

    References: Li et al. 2018, arXiv 1802.01483, eq. 2.

    >>> import numpy as np
    >>> result = L2(strength=2.0, toward="zero").value_and_grad({"W": np.array([1.0, 2.0])})
    >>> float(result.value), result.grads["W"].tolist()
    (5.0, [2.0, 4.0])
    """

    strength: float | Scheduler = 1e-3
    toward: str = "start"
    center: Mapping[str, Array] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        checks.number(self, "strength", minimum=0)
        checks.choice(self, "toward", ("start", "zero"))

    def begin(self, params: Mapping[str, Array]) -> Regularizer:
        return replace(self, center=dict(params)) if self.toward == "start" else self

    def value_and_grad(self, arrays: Params, *, ids: Mapping[str, Any] | None = None) -> LossResult:
        require_resolved(self)
        strength = plain(self.strength)
        value: Array = 0.0
        grads: dict[str, Array] = {}
        for name, p in arrays.items():
            xp = namespace(**{name: p, "center": self.center.get(name)})
            away = p - self.center[name] if name in self.center else p
            value = value + 0.5 * strength * xp.sum(away * away)
            grads[name] = strength * away
        return LossResult(value, grads)
