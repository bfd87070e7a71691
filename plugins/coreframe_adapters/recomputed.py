"""Gradient checkpointing of an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from coreframe import checks
from coreframe.adapter import Adapter, ClosedForm, Pullback
from coreframe.backend import Array, Params
from coreframe.chain import Layered
from coreframe.compose import under
from coreframe.errors import ArgumentTypeError
from coreframe.recompute import Layer, Recomputation, check_segments, checkpointed


@dataclass(frozen=True, kw_only=True)
class Recomputed(Adapter):
    """Another adapter, with less memory for activations: gradient checkpointing.

        y = adapter(x);   held for the gradients: the inputs of S segments of its layers

    The pullback runs each segment again, with the same random stream for each layer, and its
    gradients equal those of the adapter alone in every bit. What is stored lives in the pullback,
    so nothing has to be cleared. Parameters, the stored map and everything else are the adapter's.

    Args:
        adapter: a ``chain``, ``micro_lora`` or any other.
        segments: how many, from 1; more than there are layers means one a layer. Default: "sqrt",
            the square root of the number of layers, rounded up (Chen et al.).
        budget_bytes: instead of segments: the fewest segments whose activations stay within that
            many bytes. Default: None, no budget.
        enabled: False makes it the plain pass. Default: True.

    Shapes: as the adapter's.

    Edges: an adapter of one layer is run as a chain of one, in one segment: nothing is run again,
    and its noise comes from that layer's stream. A budget that cannot be met is an error that
    names the least that can. ``run`` returns what was held and run again besides.

    Cost: of time, at most one more forward pass for each pullback; of memory, S inputs and the
    activations of one segment. ``squared_gradients`` are the adapter's and hold all layers.

    References: Griewank & Walther 2000, algorithm 799; Chen et al. 2016, arXiv 1604.06174,
    section 4.

    >>> from numpy import ones
    >>> from coreframe_adapters.micro_lora import MicroLoRA
    >>> from coreframe.random import stream
    >>> adapter = Recomputed(adapter=MicroLoRA(rank=1))
    >>> y, pullback, count = adapter.run(adapter.init(stream(0, "x"), 8), ones((2, 8)))
    >>> _ = pullback(ones((2, 8)))
    >>> count.segments, count.forward_calls, count.recomputed_calls
    (2, 4, 2)
    """

    adapter: Adapter
    segments: int | Literal["sqrt"] = "sqrt"
    budget_bytes: int | None = None
    enabled: bool = True

    def __post_init__(self) -> None:
        checks.flag(self, "enabled")
        if isinstance(self.adapter, ClosedForm) or not isinstance(self.adapter, Adapter):
            raise ArgumentTypeError(
                f"Recomputed.adapter must be an adapter that is trained, got {self.adapter!r}"
            )
        check_segments(self.segments, self.budget_bytes, owner="Recomputed.")

    def run(
        self, params: Params, x: Array, *, rng: Any = None
    ) -> tuple[Array, Pullback, Recomputation]:
        """Do as ``forward``, and return what was held and run again too."""
        layers: dict[str, Layer] = {"": (self.adapter, params)}
        if isinstance(self.adapter, Layered):
            layers = {
                name: (layer, under(name, params)) for name, layer in self.adapter.layers().items()
            }
        y, inner, count = checkpointed(
            layers,
            x,
            segments=self.segments,
            budget_bytes=self.budget_bytes,
            enabled=self.enabled,
            rng=rng,
        )

        def pullback(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            grads, dx = inner(dy, need_dx=need_dx)
            return {name.removeprefix("."): g for name, g in grads.items()}, dx

        return y, pullback, count

    def init(self, rng: Any, dim_in: int) -> Params:
        return self.adapter.init(rng, dim_in)

    def forward(self, params: Params, x: Array, *, rng: Any = None) -> tuple[Array, Pullback]:
        y, pullback, _ = self.run(params, x, rng=rng)
        return y, pullback

    def squared_gradients(self, params: Params, x: Array, dy: Array, *, rng: Any = None) -> Params:
        return self.adapter.squared_gradients(params, x, dy, rng=rng)

    def matrix(self, params: Params) -> tuple[Array, Array | None]:
        return self.adapter.matrix(params)

    def thin(self, params: Params) -> tuple[Array, Array, float] | None:
        return self.adapter.thin(params)
