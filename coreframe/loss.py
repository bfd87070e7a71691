"""The interface of losses: Loss for any, PairwiseLoss for functions of rows of similarities."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from coreframe import checks
from coreframe.backend import Array, Params, namespace
from coreframe.batch import Batch
from coreframe.blocks import WORKING_ARRAYS, DiagonalTerms, RowTerms
from coreframe.component import Component
from coreframe.errors import ArgumentError
from coreframe.ops import kernel
from coreframe.result import REDUCTIONS, LossResult
from coreframe.scheduler import require_resolved
from coreframe.similarity import NAMES
from coreframe.tiles import pairwise

__all__ = ["Loss", "LossResult", "PairwiseLoss"]


class Loss(Component, ABC):
    """A function of a batch, with its exact gradient.

    Subclasses are frozen, keyword-only dataclasses without state. ``needs`` names the Batch
    fields that are read. ``detached = True`` declares that the formula stops gradients
    somewhere, so that the gradient is not the derivative of the value.
    """

    needs: ClassVar[tuple[str, ...]] = ("anchors",)
    detached: ClassVar[bool] = False
    reads_triplets: ClassVar[bool] = False
    """Whether the easy call takes (anchors, positives, negatives) as triplets, row by row."""

    @abstractmethod
    def value_and_grad(
        self,
        batch: Batch,
        params: Params | None = None,
        *,
        wrt: tuple[str, ...] | None = None,
    ) -> LossResult:
        """Return the value and its gradients by the Batch fields named in wrt (None: all)."""

    def init(self, rng: Any, dim: int) -> Params:
        """Return the loss's own parameters as NumPy arrays; most losses have none."""
        return {}

    def project(self, params: Params) -> Params:
        """Return the parameters after an update, moved back to where they are allowed to be."""
        return params

    def __call__(
        self,
        anchors: Array,
        positives: Array | None = None,
        negatives: Array | None = None,
        *,
        labels: Any = None,
        ids: Any = None,
        weights: Array | None = None,
        params: Params | None = None,
        wrt: tuple[str, ...] | None = None,
    ) -> LossResult:
        """Call the loss on plain arrays.

        ``loss(anchors, positives)`` takes pairs, row i with row i, (n, d) each; negatives are
        (s, d), shared by all, or (n, k, d), each anchor's own. ``loss(embeddings, labels=...)``
        takes classes. Gradients are keyed by Batch field: anchors, references (the positives,
        and shared negatives behind them) and negatives.
        """
        return self.value_and_grad(
            self.batch(anchors, positives, negatives, labels=labels, ids=ids, weights=weights),
            params,
            wrt=wrt,
        )

    def batch(
        self,
        anchors: Array,
        positives: Array | None = None,
        negatives: Array | None = None,
        *,
        labels: Any = None,
        ids: Any = None,
        weights: Array | None = None,
    ) -> Batch:
        """Build the batch of the easy call; a loss with another reading of it overrides this."""
        given = positives is not None and negatives is not None
        if self.reads_triplets and given and ids is None and labels is None:
            return Batch.triplets(anchors, positives, negatives, weights=weights)
        if (positives is None) == (labels is None):
            raise ArgumentError(
                f"{type(self).__name__} is called with positives or with labels=, and not with "
                "both; for anything else build a coreframe.Batch and call value_and_grad"
            )
        if positives is None:
            if negatives is not None:
                raise ArgumentError("negatives go with positives; with labels= they are implied")
            return Batch.labelled(anchors, labels, weights=weights, ids=ids)
        namespace(anchors=anchors, positives=positives, negatives=negatives)
        own = negatives if negatives is not None and negatives.ndim == 3 else None
        return Batch.with_negatives(
            anchors,
            positives,
            shared=None if own is not None else negatives,
            own=own,
            ids=ids,
            weights=weights,
        )


@dataclass(frozen=True, kw_only=True)
class PairwiseLoss(Loss):
    """A loss that is a function of rows of similarities: write ``row_terms``, get the rest.

    Args:
        similarity: cosine, dot, euclidean or squared_euclidean (minus the distance). Default:
            what text and image embeddings are compared by.
        reduction: mean, sum, mean_active or none; see ``coreframe.pairwise``. Default: torch's,
            and a value that does not grow with the batch.
        learnable_scale: give row_terms exp(log_scale) s + bias, both learned, from 0 and 0.
            Default: off, a loss without parameters.
        memory_budget: bytes for the blocks that are worked on at one time, over all threads.
            Default: None, which is 64 MiB on a processor (in our measurements blocks of some
            hundred rows cost little beside the matrix products, and much lower ones cost more
            than they save), and 1 GiB on a device of its own.
    """

    similarity: str = "cosine"
    reduction: str = "mean"
    learnable_scale: bool = False
    memory_budget: int | None = None

    needs: ClassVar[tuple[str, ...]] = ("anchors", "relation")
    needs_positive: ClassVar[bool] = True

    def __post_init__(self) -> None:
        checks.flag(self, "learnable_scale")
        checks.choice(self, "similarity", NAMES)
        checks.choice(self, "reduction", REDUCTIONS)
        if self.memory_budget is not None:
            checks.number(self, "memory_budget", minimum=1, integer=True)

    @abstractmethod
    def row_terms(
        self, similarities: Array, positive: Array, negative: Array
    ) -> tuple[Array, Array]:
        """Return losses (r,) and d losses / d similarities (r, m) for a block of rows.

        similarities (r, m) floating; positive and negative (r, m) bool, never both. The contract
        is that of ``coreframe.pairwise``.
        """

    def value_and_grad(
        self,
        batch: Batch,
        params: Params | None = None,
        *,
        wrt: tuple[str, ...] | None = None,
    ) -> LossResult:
        require_resolved(self)
        if self.learnable_scale and not params:
            raise ArgumentError(
                f"{type(self).__name__}(learnable_scale=True) has parameters; "
                "pass params=loss.init(rng, dim), brought to the library of the batch"
            )
        if (result := self.at_once(batch, wrt)) is not None:
            return result
        fused = self._fused(batch)
        return pairwise(
            fused or self.row_terms,
            batch,
            similarity=self.similarity,
            reduction=self.reduction,
            needs_positive=self.needs_positive,
            params=params if self.learnable_scale else None,
            wrt=wrt,
            memory_budget=self.memory_budget,
            working_arrays=WORKING_ARRAYS if fused else self.working_arrays,
            diagonal_terms=self._diagonal(batch) if batch.relation.diagonal else None,
        )

    @property
    def working_arrays(self) -> int:
        """How many arrays of a block's size row_terms has alive at once: see ``pairwise``."""
        return WORKING_ARRAYS

    def at_once(self, batch: Batch, wrt: tuple[str, ...] | None) -> LossResult | None:
        """Return the result of the backend's kernel for a whole call, if it serves this one."""
        whole = self._kernel(batch, ".value_and_grad")
        result = NotImplemented if whole is None else whole(self, batch, wrt)
        return None if result is NotImplemented else result

    def _kernel(self, batch: Batch, part: str = "") -> Any:
        """Return the backend's kernel for this very class; a subclass never inherits it."""
        kind = type(self)
        return kernel(f"{kind.__module__}:{kind.__qualname__}{part}", batch.anchors)

    def _diagonal(self, batch: Batch) -> DiagonalTerms | None:
        fast = self._kernel(batch, ".diagonal")
        return None if fast is None else functools.partial(fast, self)

    def _fused(self, batch: Batch) -> RowTerms | None:
        """Return a kernel in place of row_terms, which may write to similarities."""
        fast = self._kernel(batch)
        if fast is None:
            return None

        def terms(similarities: Array, positive: Array, negative: Array) -> tuple[Array, Array]:
            result = fast(self, similarities, positive, negative)
            if result is NotImplemented:
                return self.row_terms(similarities, positive, negative)
            return result  # type: ignore[no-any-return]

        return terms

    def init(self, rng: Any, dim: int) -> Params:
        if not self.learnable_scale:
            return {}
        import numpy as np

        return {"log_scale": np.zeros((), np.float32), "bias": np.zeros((), np.float32)}
