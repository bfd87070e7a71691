"""The interface of regularizers: terms on parameters or on embeddings, beside the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from coreframe.backend import Array, Params
from coreframe.tiles import LossResult


class Regularizer(ABC):
    """A term that is added to the loss. Subclasses are frozen, keyword-only dataclasses.

    ``of = "parameters"`` gets the adapter's parameters by name; ``of = "embeddings"`` gets the
    embeddings of the batch by Batch field, and their ids.
    """

    of: ClassVar[Literal["parameters", "embeddings"]] = "parameters"

    @abstractmethod
    def value_and_grad(self, arrays: Params, *, ids: Mapping[str, Any] | None = None) -> LossResult:
        """Return the value, 0-d, and grads keyed like ``arrays``."""

    def begin(self, params: Mapping[str, Array]) -> Regularizer:
        """Return this regularizer for a run that starts at these parameters."""
        return self
