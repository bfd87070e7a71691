"""Losses of coreframe in loops that are written for pytorch-metric-learning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from coreframe.batch import Batch
from coreframe.errors import ArgumentError
from coreframe.interop.torch.loss_module import LossModule
from coreframe.relation import SameLabel, masked

__all__ = ["MetricLearningLoss"]


class MetricLearningLoss(LossModule):
    """A loss on labels that is called as those of pytorch-metric-learning are.

        loss_fn(embeddings, labels)
        loss_fn(embeddings, labels, indices_tuple)
        loss_fn(embeddings, labels, ref_emb=ref_emb, ref_labels=ref_labels)

    Arguments as those of ``LossModule``; a miner of coreframe given there works beside the
    ``indices_tuple`` of theirs. Their losses have other defaults: see the presets, as in
    ``SupCon.preset("pytorch-metric-learning")``.

    Shapes: embeddings (n, d), labels (n,), ref_emb (m, d), ref_labels (m,); a 0-d tensor, or (n,)
    with reduction="none".

    Edges: four arrays of indices (anchor, positive, anchor, negative) are the pairs that take part,
    each once, as a mask of (n, m). Three (anchor, positive, negative) are triplets, row by row,
    for losses that read triplets, and pairs for the others. No pair at all gives 0. Losses of a
    batch of one class are not set to 0, as theirs are: see ``docs/interop/torch.md``.

    >>> loss_fn = MetricLearningLoss("sup_con")
    >>> loss_fn(torch.eye(4), torch.tensor([0, 0, 1, 1])).shape
    torch.Size([])
    """

    def forward(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor | None = None,
        indices_tuple: Sequence[torch.Tensor] | None = None,
        ref_emb: torch.Tensor | None = None,
        ref_labels: torch.Tensor | None = None,
        **arguments: Any,
    ) -> torch.Tensor:
        """Return the value; ``arguments`` are weights, progress and rng of ``LossModule``."""
        device = embeddings.device
        if ref_emb is embeddings:
            ref_emb = ref_labels = None
        if (ref_emb is None) != (ref_labels is None) and labels is not None:
            raise ArgumentError("ref_emb and ref_labels go together: give both or none")
        if indices_tuple is not None:
            found = [index.to(device) for index in indices_tuple]
            if not any(index.numel() for index in found):
                rows = 0 if len(found) == 3 and self.loss.reads_triplets else len(embeddings)
                return _zero(embeddings, rows, getattr(self.loss, "reduction", "mean"))
            return self._of_indices(embeddings, ref_emb, found, arguments)
        if labels is None:
            raise ArgumentError("labels or indices_tuple must be given, got neither")
        labels = labels.to(device)
        if ref_emb is None or ref_labels is None:
            return super().forward(embeddings, labels=labels, **arguments)
        others = ref_labels.to(device)

        def between(anchors: torch.Tensor, positives: torch.Tensor, **more: Any) -> Batch:
            relation = SameLabel(labels, others)
            return Batch(anchors=anchors, references=positives, relation=relation, **more)

        return super().forward(embeddings, ref_emb, batch=between, **arguments)

    def _of_indices(
        self,
        embeddings: torch.Tensor,
        ref_emb: torch.Tensor | None,
        indices: list[torch.Tensor],
        arguments: dict[str, Any],
    ) -> torch.Tensor:
        others = embeddings if ref_emb is None else ref_emb
        if len(indices) == 3:
            a, p, n = indices
            if self.loss.reads_triplets:
                return super().forward(embeddings[a], others[p], others[n], **arguments)
            indices = [a, p, a, n]
        if len(indices) != 4:
            raise ArgumentError(
                "indices_tuple must be (anchor, positive, anchor, negative) or "
                f"(anchor, positive, negative), got {len(indices)} arrays"
            )
        positive, negative = (
            torch.zeros(len(embeddings), len(others), dtype=torch.bool, device=others.device)
            for _ in range(2)
        )
        positive[indices[0], indices[1]] = True
        negative[indices[2], indices[3]] = True
        relation = masked(positive, negative)

        def chosen(anchors: torch.Tensor, positives: Any = None, **more: Any) -> Batch:
            return Batch(anchors=anchors, references=positives, relation=relation, **more)

        return super().forward(embeddings, ref_emb, batch=chosen, **arguments)


def _zero(embeddings: torch.Tensor, rows: int, reduction: str) -> torch.Tensor:
    """Return a value of 0 that has a gradient of 0, whatever stands in the embeddings."""
    zero = embeddings[:0].sum()
    return zero.expand(rows).clone() if reduction == "none" else zero
