"""The interface of regularizers: terms on parameters or on embeddings, beside the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from coreframe.backend import Array, Params
from coreframe.component import Component
from coreframe.result import LossResult

__all__ = ["Regularizer"]


class Regularizer(Component, ABC):
    """A term beside the loss. Subclasses are frozen, keyword-only dataclasses without state.

        objective = loss(batch) + sum of value(arrays),   each with its exact gradient

    ``of = "parameters"`` gets the adapter's parameters by name; ``of = "embeddings"`` gets the
    embeddings of the batch by Batch field, behind the adapter, and their ids. A run calls
    ``begin`` once, ``value_and_grad`` at each step, and ``after_step`` after each update.

    Shapes: arrays of any shapes; the value is 0-d, and gradients have the shapes of their arrays.

    Edges: a gradient that is left out is 0. Parameters of the loss itself are not seen.

    Cost: that of the term.

    References: our own.

    >>> class Shrink(Regularizer):
    ...     def value_and_grad(self, arrays, *, ids=None):
    ...         value = sum((x * x).sum() for x in arrays.values())
    ...         return LossResult(value, {name: 2 * x for name, x in arrays.items()})
    >>> import numpy as np
    >>> float(Shrink().value_and_grad({"W": np.ones(3)}).value)
    3.0
    """

    of: ClassVar[Literal["parameters", "embeddings"]] = "parameters"

    @abstractmethod
    def value_and_grad(self, arrays: Params, *, ids: Mapping[str, Any] | None = None) -> LossResult:
        """Return the value, 0-d, and grads keyed like ``arrays``."""

    def begin(self, params: Mapping[str, Array]) -> Regularizer:
        """Return this regularizer for a run that starts at these parameters."""
        return self

    def after_step(self, params: Params, learning_rates: Mapping[str, float]) -> Params:
        """Return the parameters after an update: where a proximal step is taken instead of adding
        a gradient. ``params`` has the names that ``value_and_grad`` gets, and so have the learning
        rates of this update, which an optimizer's rules may make differ.
        """
        return params
