"""The gradients of one batch: forward, miner, loss, regularizers, and back to the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from coreframe import registry
from coreframe.adapter import Adapter, Pullback
from coreframe.backend import Array, Params, namespace
from coreframe.batch import Batch
from coreframe.cached import cached
from coreframe.compose import under
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.loss import Loss, LossResult
from coreframe.miner import Miner
from coreframe.random import stream
from coreframe.regularizer import Regularizer
from coreframe.relation import Relation
from coreframe.scheduler import Progress, resolve


@dataclass(frozen=True, kw_only=True)
class Step:
    """From a batch of frozen embeddings to the gradients of all parameters."""

    adapter: Adapter
    loss: Loss
    miner: Miner | None
    side: str
    seed: int
    mini_batch_size: int | None = None
    """Rows that go through the adapter at a time; None, all of a batch."""

    def gradients(
        self,
        inputs: Batch,
        params: Params,
        regularizers: Sequence[Regularizer],
        progress: Progress,
        turn: int,
    ) -> dict[str, Array]:
        """Return the ``value`` of batch number ``turn``, and its gradients by parameter name."""
        xp = namespace(anchors=inputs.anchors)
        own = under("adapter", params)
        rng = stream(self.seed, "adapter noise", turn)
        # Own negatives are documents, so they move where the documents do.
        sides = {"query": ("anchors",), "both": ("anchors", "references", "negatives")}
        adapted: dict[str, Array] = {}
        pullbacks: dict[str, Pullback] = {}
        for name in sides[self.side]:
            if (x := getattr(inputs, name)) is not None:
                flat = xp.reshape(x, (-1, x.shape[-1]))
                y, pullbacks[name] = self._forward(own, flat, rng)
                adapted[name] = xp.reshape(y, (*x.shape[:-1], y.shape[-1]))
        wrt = tuple(adapted)
        batch = replace(inputs, **adapted)
        if self.miner is not None:
            rng = stream(self.seed, "miner", turn)
            mined = resolve(self.miner, progress).mine(batch, rng=rng)
            batch = replace(batch, relation=_returned(mined, Relation, self.miner, "mine"))
        result = resolve(self.loss, progress).value_and_grad(batch, under("loss", params), wrt=wrt)
        _returned(result, LossResult, self.loss, "value_and_grad")
        if result.value.ndim:
            raise ArgumentError("training needs a loss with one value: a reduction but 'none'")
        value, slopes = result.value, dict(result.grads)
        total: dict[str, Array] = {}
        for regularizer in regularizers:
            term = resolve(regularizer, progress)
            if term.of == "embeddings":
                fields = {"anchors": batch.anchors}
                if batch.references is not None:
                    fields["references"] = batch.references
                ids = {"anchors": inputs.ids, "references": inputs.reference_ids}
                found = term.value_and_grad(fields, ids=ids)
                _returned(found, LossResult, term, "value_and_grad")
                for name in wrt:
                    if name in found.grads:
                        slopes[name] = slopes[name] + found.grads[name]
            else:
                found = term.value_and_grad(own)
                _returned(found, LossResult, term, "value_and_grad")
                _add(total, found.grads)
            value = value + found.value
        for name in wrt:
            slope = slopes.pop(name)
            slope = xp.reshape(slope, (-1, slope.shape[-1]))
            _add(total, pullbacks.pop(name)(slope, need_dx=False)[0])
        grads = {**named("adapter", total), **named("loss", result.param_grads)}
        return {"value": xp.asarray(value), **grads}

    def _forward(self, params: Params, x: Array, rng: Any) -> tuple[Array, Pullback]:
        """Adapt rows at once, or part by part, each again when its gradient comes."""
        if self.mini_batch_size is None:
            return self.adapter.forward(params, x, rng=rng)

        def forward(part: Array, rng: Any) -> tuple[Array, Pullback]:
            return self.adapter.forward(params, part, rng=rng)

        return cached(forward, x, mini_batch_size=self.mini_batch_size, rng=rng)


def _returned(found: Any, wanted: type, component: Any, method: str) -> Any:
    """Return what a component returned, if it is what it must be; else name whose it is."""
    if isinstance(found, wanted):
        return found
    raise ArgumentTypeError(
        f"{method} of {registry.title(component)} must return a {wanted.__name__}, "
        f"got {type(found).__name__}"
    )


def named(prefix: str, params: Params) -> dict[str, Array]:
    """Return parameters under names that begin with a prefix and a dot."""
    return {f"{prefix}.{name}": x for name, x in params.items()}


def _add(total: dict[str, Array], more: Params) -> None:
    for name, g in more.items():
        total[name] = total[name] + g if name in total else g
