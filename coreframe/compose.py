"""Components made of components: they are registered, configured and checked like any other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from coreframe import checks
from coreframe.backend import Array, Params, namespace
from coreframe.batch import Batch
from coreframe.errors import ArgumentError
from coreframe.loss import Loss, LossResult
from coreframe.miner import Miner
from coreframe.random import stream
from coreframe.relation import Aligned, Relation
from coreframe.scheduler import Scheduler, require_resolved


@dataclass(frozen=True, kw_only=True)
class Symmetric(Loss):
    """The mean of a loss in both directions: anchors to references, and references to anchors.

    References without a positive anchor, and own negatives, take no part in the second.
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
        if weights is not None:
            if not isinstance(batch.relation, Aligned):
                raise ArgumentError(
                    "weights in a symmetric loss need an aligned relation, where reference i "
                    "takes the weight of anchor i"
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
    """The weighted sum of losses on one batch; ``parts`` has the value of each by name.

    Parameters of the losses are named ``<loss name>.<parameter>``. A part without a weight
    counts once.
    """

    losses: Mapping[str, Loss]
    weights: Mapping[str, float | Scheduler] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.losses:
            raise ArgumentError("WeightedSum.losses must name at least one loss")
        if unknown := set(self.weights) - set(self.losses):
            raise ArgumentError(f"WeightedSum.weights names {sorted(unknown)}, which are no losses")
        for name, weight in self.weights.items():
            if not checks.is_scheduler(weight) and not math.isfinite(weight):  # type: ignore[arg-type]
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
        value: Array = 0.0
        grads: dict[str, Array] = {}
        param_grads: dict[str, Array] = {}
        parts: dict[str, Array] = {}
        for name, loss in self.losses.items():
            result = loss.value_and_grad(batch, under(name, params or {}), wrt=wrt)
            weight = self.weights.get(name, 1.0)
            value = value + weight * result.value
            for key, g in result.grads.items():
                grads[key] = grads[key] + weight * g if key in grads else weight * g
            for key, g in result.param_grads.items():
                param_grads[f"{name}.{key}"] = weight * g
            parts[name] = result.value
            parts |= {f"{name}.{key}": x for key, x in result.parts.items()}
        return LossResult(value, grads, param_grads, parts)


def under(prefix: str, params: Params) -> dict[str, Array]:
    """Return the parameters that are named ``prefix.<name>``, by their own names."""
    start = prefix + "."
    return {name.removeprefix(start): x for name, x in params.items() if name.startswith(start)}


@dataclass(frozen=True, kw_only=True)
class Mined(Loss):
    """A loss on the pairs that a miner picks; the draws follow from ``seed``."""

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
