"""Losses of coreframe for the trainer of sentence-transformers.

loss = SentenceTransformerLoss(model, "info_nce")
SentenceTransformerTrainer(model=model, train_dataset=data, loss=loss).train()
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from coreframe.errors import ArgumentError, ArgumentTypeError, MissingExtra

try:
    from sentence_transformers import SentenceTransformer
except ImportError as error:
    raise MissingExtra(
        "sentence_transformers", "sentence-transformers", "coreframe.interop.sentence_transformers"
    ) from error

try:  # positives and negatives in one pass of the model, as its own losses have it
    from sentence_transformers.base.losses.merged_forward import embed_columns
except ImportError:  # before version 6
    embed_columns = None

import torch
from torch import nn

from coreframe.batch import Batch
from coreframe.following import describe
from coreframe.interop.torch import LossModule, cached
from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.relation import Aligned

__all__ = ["SentenceTransformerLoss"]

_log = logging.getLogger(__name__)

Features = Mapping[str, Any]
"""The tokens of one column of texts, as the trainer makes them."""

WRAPPED = (
    "MatryoshkaLoss and AdaptiveLayerLoss work on a SentenceTransformerLoss without "
    "mini_batch_size alone"
)


class SentenceTransformerLoss(nn.Module):
    """Any loss of coreframe as a loss for ``SentenceTransformerTrainer``.

        loss = MultipleNegativesRankingLoss(model)                                      # before
        loss = SentenceTransformerLoss(model, InfoNCE.preset("sentence-transformers"))  # the same

    What a batch is follows from its columns:

        (anchor, positive)                  pairs, row i with row i
        (anchor, positive, negative, ...)   pairs; the negatives of all rows are candidates for each
                                            anchor, or triplets for a loss that reads these
        (text, label)                       classes
        (a, b, label)                       pairs, each similar (1) or not (0 or -1); a loss that
                                            needs a positive for each anchor, as InfoNCE does, or
                                            reads triplets does not read it, and a warning is logged
        (a, b, score)                       graded pairs, for a loss that reads ``scores``

    Args:
        model: a ``SentenceTransformer``; the trainer puts its wrapped one in place.
        loss: any ``coreframe.Loss``, or the name of a registered one.
        miner: picks the pairs of each batch, an object or a name. Default: none, all pairs count.
        mini_batch_size: texts that the model sees at a time, where a batch is larger than its
            activations may be (GradCache); gradients are the same, for one more forward pass. The
            loss sees the whole batch. Default: None, the model sees a column at once.
        negatives: "shared", or "own": each anchor's alone. Default: "shared", as in
            MultipleNegativesRankingLoss.
        batch: how the batch is made of the columns' embeddings, as in ``torch_loss``: called with
            two-dimensional (anchors, positives, negatives) and labels, as far as there are some;
            further columns stand behind each other in negatives. Default: as above.
        dim: the width of the embeddings, for losses with parameters that depend on it. Default:
            the model's own.
        seed: of the loss's parameters and the miner's draws. Default: 0.
        library: who computes; see ``torch_loss``. Default: NumPy on the processor, else torch.

    Shapes: columns of n texts each; labels (n,). The value is a 0-d tensor.

    Dtypes: as ``torch_loss``; a model in bfloat16 gets gradients in it.

    Edges: schedules in the loss or the miner, and parameters that it bounds, need the callback
    ``coreframe.interop.transformers.LossSchedules``, which also lets a miner draw anew at each
    step, and puts the loss's own parameters into checkpoints, which hold the model's alone. With
    several processes each sees its own batch; nothing is gathered. MatryoshkaLoss and
    AdaptiveLayerLoss around this loss need it without ``mini_batch_size``; so do models whose
    tokens have no row for each text, as static embeddings and flattened inputs.

    Cost: that of the model and the loss; memory of one part's activations with
    ``mini_batch_size``.

    References: Gao et al. 2021, arXiv 2101.06983 (GradCache).
    """

    def __init__(
        self,
        model: SentenceTransformer,
        loss: Loss | str,
        *,
        miner: Miner | str | None = None,
        mini_batch_size: int | None = None,
        negatives: str = "shared",
        batch: Callable[..., Batch] | None = None,
        dim: int | None = None,
        seed: int = 0,
        library: str | None = None,
    ) -> None:
        super().__init__()
        if not callable(model):
            raise ArgumentTypeError(f"model must be a SentenceTransformer, got {model!r}")
        if negatives not in ("shared", "own"):
            raise ArgumentError(f"negatives must be 'shared' or 'own', got {negatives!r}")
        if mini_batch_size is not None and (
            isinstance(mini_batch_size, bool)
            or not isinstance(mini_batch_size, int)
            or mini_batch_size < 1
        ):
            raise ArgumentError(
                f"mini_batch_size must be a whole number from 1, or None, got {mini_batch_size!r}"
            )
        self.model = model
        self.loss = LossModule(
            loss,
            miner=miner,
            dim=_width(model) if dim is None else dim,
            seed=seed,
            library=library,
        )
        self.mini_batch_size, self.negatives, self.batch = mini_batch_size, negatives, batch
        self._told = False

    def forward(
        self, sentence_features: Iterable[Features], labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the loss of a batch, given as the tokens of each column of texts."""
        columns = self._embedded(list(sentence_features))
        if not columns:
            raise ArgumentError("there is no column of texts in the batch")
        anchors, *others = columns
        positives, *negatives = others or [None]
        return self.loss(
            anchors, positives, self._stacked(negatives), **self._read(columns, labels)
        )

    def get_config_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, for the model card."""
        now = _Settings(self.loss.loss, self.loss.miner, self.mini_batch_size, self.negatives)
        return describe(now)

    @property
    def uses_gradient_cache(self) -> bool:
        """Whether parts are run again in the backward pass; sentence-transformers asks for it."""
        return self.mini_batch_size is not None

    @property
    def calculate_loss(self) -> Any:
        """What MatryoshkaLoss would change in a cached loss of sentence-transformers."""
        if self.mini_batch_size is None:
            raise AttributeError("calculate_loss")
        raise ArgumentError(WRAPPED)

    def _embedded(self, columns: list[Features]) -> list[torch.Tensor]:
        if self.mini_batch_size is not None:
            return [self._in_parts(features, self.mini_batch_size) for features in columns]
        if embed_columns is not None:
            return list(embed_columns(self.model, columns))
        return [self.model(features)["sentence_embedding"] for features in columns]

    def _in_parts(self, features: Features, rows_a_part: int) -> torch.Tensor:
        if type(getattr(self.model, "__dict__", {}).get("forward")).__name__ == "ForwardDecorator":
            raise ArgumentError(WRAPPED)  # before release 6 MatryoshkaLoss comes here too
        rows, constant = _parted(features)
        return cached(_Encoder(self.model, constant), rows, mini_batch_size=rows_a_part)

    def _stacked(self, negatives: list[torch.Tensor]) -> torch.Tensor | None:
        if not negatives:
            return None
        own = self.negatives == "own" or self.loss.loss.reads_triplets
        if own and self.batch is None:
            return torch.stack(negatives, dim=1)
        return torch.cat(negatives)

    def _read(self, columns: list[torch.Tensor], labels: torch.Tensor | None) -> dict[str, Any]:
        """Return how the loss is to read the columns: its labels, and how a batch is made."""
        count, loss = len(columns), self.loss.loss
        name = type(loss).__name__
        if self.batch is not None:
            return {"batch": self.batch} | ({} if labels is None else {"labels": labels})
        if labels is None:
            if count == 1:
                raise ArgumentError(
                    f"{name} got one column of texts and no labels; the data must have columns "
                    "(text, label), (anchor, positive) or (anchor, positive, negative)"
                )
            return {}
        if count == 1:
            return {"labels": labels}
        if count == 2 and _any(loss, lambda part: "scores" in part.needs):
            return {"labels": labels, "batch": _graded}
        if _any(loss, _compares_pairs):
            if not self._told:
                _log.warning(
                    "%s does not read the labels of pairs and triplets, as little as "
                    "MultipleNegativesRankingLoss does; for pairs that are similar or not take "
                    "'contrastive' or 'cosine_embedding'",
                    name,
                )
            self._told = True
            return {}
        if count > 2:
            raise ArgumentError(
                f"{name} got {count} columns of texts and labels, and there is no one way to read "
                "them; remove the column of labels, or give batch= a function that makes the batch"
            )
        return {"labels": _similar(labels, name), "batch": Batch.labelled_pairs}


class _Encoder(nn.Module):
    """The model as a function of a part of its tokens."""

    def __init__(self, model: nn.Module, constant: Features) -> None:
        super().__init__()
        self.model, self.constant = model, constant

    def forward(self, rows: Features) -> torch.Tensor:
        found: torch.Tensor = self.model({**self.constant, **rows})["sentence_embedding"]
        return found


@dataclass(frozen=True)
class _Settings:
    loss: Loss
    miner: Miner | None
    mini_batch_size: int | None
    negatives: str


def _parted(features: Features) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return the tokens that have a row for each text, and what is the same for all texts."""
    mask = features.get("attention_mask")
    if not isinstance(mask, torch.Tensor) or mask.ndim != 2:
        raise ArgumentError(
            "mini_batch_size needs tokens with a row for each text (an attention_mask of two "
            f"dimensions), and this model has {', '.join(sorted(features))}; leave it out"
        )
    rows, constant = {}, {}
    for name, x in features.items():
        if not isinstance(x, torch.Tensor) or x.ndim == 0 or name == "prompt_length":
            constant[name] = x
        elif len(x) == len(mask):
            rows[name] = x
        else:
            raise ArgumentError(
                f"mini_batch_size needs tokens with a row for each text, and {name!r} has "
                f"{len(x)} rows for {len(mask)} texts; leave it out"
            )
    return rows, constant


def _graded(anchors: Any, positives: Any, *, labels: Any) -> Batch:
    n = anchors.shape[0]
    return Batch(
        anchors=anchors,
        references=positives,
        relation=Aligned(n, n),
        scores=labels.to(anchors.dtype),
    )


def _similar(labels: torch.Tensor, name: str) -> torch.Tensor:
    """Return labels as integers: a column of 0.0 and 1.0 is a tensor of floats."""
    if not labels.is_floating_point():
        return labels
    if not bool(((labels.abs() == 1) | (labels == 0)).all()):
        raise ArgumentError(
            f"{name} takes pairs that are similar (1) or not (0 or -1), got labels between; for "
            "graded pairs take a loss that names 'scores' in its needs"
        )
    return labels.long()


def _compares_pairs(loss: Loss) -> bool:
    """Whether a loss has use for a positive and negatives of each anchor alone."""
    return loss.reads_triplets or bool(getattr(loss, "needs_positive", False))


def _any(part: Any, test: Callable[[Loss], bool]) -> bool:
    """Whether a test holds of a loss, or of one inside of it."""
    if isinstance(part, Loss) and test(part):
        return True
    if isinstance(part, Mapping):
        return any(_any(x, test) for x in part.values())
    return is_dataclass(part) and any(_any(getattr(part, f.name), test) for f in fields(part))


def _width(model: Any) -> int | None:
    """Return the width of the model's embeddings, None where it does not know."""
    for name in ("get_embedding_dimension", "get_sentence_embedding_dimension"):  # new, and old
        if hasattr(model, name):
            width: int | None = getattr(model, name)()
            return width
    return None
