"""Components made of components: they are registered, configured and checked like any other."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coreframe import checks
from coreframe.backend import Array, Params, namespace
from coreframe.batch import Batch
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.loss import Loss, LossResult
from coreframe.miner import Miner
from coreframe.random import stream
from coreframe.relation import Relation
from coreframe.result import wanted_fields
from coreframe.scheduler import Scheduler, plain, require_resolved

__all__ = ["Mined", "Symmetric", "WeightedSum", "under"]


@dataclass(frozen=True, kw_only=True)
class Symmetric(Loss):
    """The mean of a loss in both directions: anchors to references, and references to anchors.

        value = (loss(anchors -> references) + loss(references -> anchors)) / 2

    References without a positive anchor, and own negatives, take no part in the second (unless the
    batch is not aligned and the loss counts rows without a positive, as ``contrastive`` does). With
    InfoNCE this is CLIP's loss (there also ``InfoNCE(symmetric=True)``).

    Args:
        loss: the loss of one direction, with a reduction other than none.

    Shapes: anchors (n, d); references (m, d); own negatives (n, k, d); gradients for all.

    Edges: a batch without references is an error. With weights the batch must be aligned:
    reference i takes the weight of anchor i, and shared negatives behind them have none.

    Cost: twice that of the loss.

    References: Radford et al. 2021, arXiv 2103.00020, figure 3.

    >>> import numpy as np
    >>> from coreframe_losses.info_nce import InfoNCE
    >>> a, b = np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)
    >>> float(Symmetric(loss=InfoNCE(temperature=1.0))(a, b).value)  # log(1 + 2 / e)
    0.551444...
    """

    loss: Loss

    def init(self, rng: Any, dim: int) -> Params:
        return self.loss.init(rng, dim)

    def project(self, params: Params) -> Params:
        return self.loss.project(params)

    def value_and_grad(
        self,
        batch: Batch,
        params: Params | None = None,
        *,
        wrt: tuple[str, ...] | None = None,
    ) -> LossResult:
        if batch.references is None:
            raise ArgumentError("a symmetric loss needs references: two sides of pairs")
        xp = namespace(anchors=batch.anchors)
        n, m = batch.relation.rows, batch.relation.columns
        weights = batch.weights
        if weights is None and batch.aligned and m > n:
            weights = xp.ones_like(batch.anchors[:, 0])  # some losses count rows of negatives alone
        if weights is not None:
            if not batch.aligned:
                raise ArgumentError(
                    "weights in a symmetric loss need aligned rows, where reference i takes the "
                    "weight of anchor i: Batch.pairs, or Batch(..., aligned=True)"
                )
            if m > n:
                weights = xp.concat([weights, xp.zeros_like(batch.references[n:, 0])])
        swap = {"anchors": "references", "references": "anchors"}
        back_wrt = None if wrt is None else tuple(swap[f] for f in wrt if f in swap)
        turned = Batch(
            anchors=batch.references,
            references=batch.anchors,
            relation=batch.relation.transpose(),
            weights=weights,
            labels=batch.labels if m == n else None,
            aligned=batch.aligned and m == n,
        )
        forth = self.loss.value_and_grad(batch, params, wrt=wrt)
        back = self.loss.value_and_grad(turned, params, wrt=back_wrt)
        if forth.value.ndim:
            raise ArgumentError("a symmetric loss needs a reduction other than 'none'")
        grads = {
            name: 0.5 * (g + back.grads[swap[name]]) if name in swap else 0.5 * g
            for name, g in forth.grads.items()
        }
        param_grads = {
            name: 0.5 * (g + back.param_grads[name]) for name, g in forth.param_grads.items()
        }
        return LossResult(0.5 * (forth.value + back.value), grads, param_grads, forth.parts)


@dataclass(frozen=True, kw_only=True)
class WeightedSum(Loss):
    """The weighted sum of losses on one batch, with the value of each.

        value = sum_name weight_name * value_name

    Weights are not normalised. ``LossResult.parts[name]`` is the value of a part before its
    weight, so that a change of weights does not look like a change of the part; parts of parts
    are ``name.key``. Parameters of the losses are named ``name.parameter``.

    Args:
        losses: the losses by name; at least one, names without a dot.
        weights: finite numbers or schedulers by the names of losses. Default: a loss without a
            weight counts once.

    Shapes: whatever the losses take: each must be made for the batch. With reduction="none" in
    all of them, value and parts are (n,). Gradients as the batch's fields.

    Edges: no losses, unknown names in weights, and reductions that give values of different
    shapes are errors. A field that a loss does not read adds 0 to its gradient. A part of weight
    0 is still computed and reported. A loss given twice under two names counts twice.

    Cost: the sum of the losses' costs.

    References: our own.

    >>> import numpy as np
    >>> from coreframe_losses.mse import MSE
    >>> from coreframe_losses.cosine_embedding import CosineEmbedding
    >>> both = WeightedSum(losses={"mse": MSE(), "angle": CosineEmbedding()}, weights={"mse": 0.5})
    >>> result = both(np.eye(2), np.zeros((2, 2)))
    >>> float(result.value), {name: float(x) for name, x in result.parts.items() if "." not in name}
    (1.25, {'mse': 0.5, 'angle': 1.0})
    """

    losses: Mapping[str, Loss]
    weights: Mapping[str, float | Scheduler] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.losses, Mapping):
            raise ArgumentTypeError(
                f"WeightedSum.losses must map names to losses, got {type(self.losses).__name__}"
            )
        if not self.losses:
            raise ArgumentError("WeightedSum.losses must name at least one loss")
        for name, loss in self.losses.items():
            if not isinstance(loss, Loss):
                raise ArgumentTypeError(
                    f"WeightedSum.losses[{name!r}] must be a loss, got {loss!r}"
                )
        if dotted := [name for name in self.losses if "." in name]:
            raise ArgumentError(
                f"WeightedSum.losses names {dotted}; a dot parts a loss's name from its parameters"
            )
        if unknown := set(self.weights) - set(self.losses):
            raise ArgumentError(f"WeightedSum.weights names {sorted(unknown)}, which are no losses")
        for name, weight in self.weights.items():
            if checks.is_scheduler(weight) or checks.is_traced(weight):
                continue
            if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
                raise ArgumentTypeError(
                    f"WeightedSum.weights[{name!r}] must be a number, got {weight!r}"
                )
            if not math.isfinite(weight):
                raise ArgumentError(f"WeightedSum.weights[{name!r}] must be finite, got {weight}")

    def init(self, rng: Any, dim: int) -> Params:
        return {
            f"{name}.{key}": x
            for name, loss in self.losses.items()
            for key, x in loss.init(rng, dim).items()
        }

    def project(self, params: Params) -> Params:
        return {
            f"{name}.{key}": x
            for name, loss in self.losses.items()
            for key, x in loss.project(under(name, params)).items()
        }

    def value_and_grad(
        self,
        batch: Batch,
        params: Params | None = None,
        *,
        wrt: tuple[str, ...] | None = None,
    ) -> LossResult:
        require_resolved(self)
        wanted = wanted_fields(batch, wrt)
        value: Array = None
        grads: dict[str, Array] = {}
        param_grads: dict[str, Array] = {}
        parts: dict[str, Array] = {}
        for name, loss in self.losses.items():
            result = loss.value_and_grad(batch, under(name, params or {}), wrt=wrt)
            weight = plain(self.weights.get(name, 1.0))
            if parts and result.value.ndim != value.ndim:
                raise ArgumentError(
                    f"the losses of a WeightedSum must share their reduction: {name!r} has a value "
                    f"of shape {tuple(result.value.shape)}, those before it {tuple(value.shape)}"
                )
            value = weight * result.value if value is None else value + weight * result.value
            for key, g in result.grads.items():
                grads[key] = grads[key] + weight * g if key in grads else weight * g
            for key, g in result.param_grads.items():
                param_grads[f"{name}.{key}"] = weight * g
            parts[name] = result.value
            parts |= {f"{name}.{key}": x for key, x in result.parts.items()}
        xp = namespace(anchors=batch.anchors)
        for key in wanted:  # a field that no part reads
            grads[key] = grads[key] if key in grads else xp.zeros_like(getattr(batch, key))
        return LossResult(value, grads, param_grads, parts)


def under(prefix: str, params: Params) -> dict[str, Array]:
    """Return the parameters that are named ``prefix.<name>``, by their own names."""
    start = prefix + "."
    return {name.removeprefix(start): x for name, x in params.items() if name.startswith(start)}


@dataclass(frozen=True, kw_only=True)
class Mined(Loss):
    """A loss on the pairs that a miner picks.

        value = loss(batch with the relation that the miner leaves)

    The mined pairs are constants: no gradient goes through the choice.

    Args:
        miner: chooses among the batch's pairs; it may drop pairs and never invents one.
        loss: the loss on what is left.
        seed: of the miner's draws, which are the same at every call. Default: 0; a trainer with
            a miner of its own draws anew at every step.

    Shapes: those of the loss; gradients have the shapes of the whole batch.

    Edges: an anchor that is left without a positive or without negatives is the loss's matter.

    Cost: the miner's look at all similarities, and the loss on the pairs that are left.

    References: our own.

    >>> import numpy as np
    >>> from coreframe_losses.info_nce import InfoNCE
    >>> from coreframe_miners.hardest import Hardest
    >>> a = np.eye(4, dtype=np.float32)
    >>> float(Mined(miner=Hardest(k=1), loss=InfoNCE(temperature=1.0))(a, a).value)  # log(1 + 1/e)
    0.313261...
    """

    miner: Miner
    loss: Loss
    seed: int = 0

    def init(self, rng: Any, dim: int) -> Params:
        return self.loss.init(rng, dim)

    def project(self, params: Params) -> Params:
        return self.loss.project(params)

    def value_and_grad(
        self,
        batch: Batch,
        params: Params | None = None,
        *,
        wrt: tuple[str, ...] | None = None,
    ) -> LossResult:
        relation: Relation = self.miner.mine(batch, rng=stream(self.seed, "mined"))
        return self.loss.value_and_grad(replace(batch, relation=relation), params, wrt=wrt)
