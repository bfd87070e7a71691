"""Adapters one after the other: the chain rule, random streams by layer, and the folded map."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from coreframe.adapter import Adapter, ClosedForm, Pullback
from coreframe.backend import Array, Params, namespace
from coreframe.compose import under
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.random import stream

__all__ = ["Layered", "check_layers"]


def layer_streams(rng: Any) -> Callable[[str], Any]:
    """Return the random stream of each layer, by its name.

    One number is drawn from ``rng``; from there on a stream is a pure function of that number
    and the name, so a layer that is run again draws what it drew before, whatever ran in between.
    Without ``rng`` no layer has a stream.
    """
    if rng is None:
        return lambda name: None
    key = int(rng.integers(1 << 62))
    return lambda name: stream(key, f"layer {name}")


def check_layers(owner: str, layers: Mapping[str, Adapter]) -> None:
    """Check the layers of a chain: at least one, named without dots, and trained by gradients."""
    if not isinstance(layers, Mapping):
        raise ArgumentTypeError(
            f"{owner} must map names to adapters, in the order in which they are applied, "
            f"got {type(layers).__name__}"
        )
    if not layers:
        raise ArgumentError(f"{owner} must name at least one adapter, got none")
    for name, layer in layers.items():
        if not isinstance(name, str) or not name or "." in name:
            raise ArgumentError(
                f"{owner}: {name!r} cannot name a layer; parameters are called "
                "<name>.<parameter>, so a name is a text without dots"
            )
        if isinstance(layer, ClosedForm):
            raise ArgumentTypeError(
                f"{owner}[{name!r}] is a {type(layer).__name__}, which is computed in closed form "
                "and not trained; use it as start= of coreframe.fit"
            )
        if not isinstance(layer, Adapter):
            raise ArgumentTypeError(f"{owner}[{name!r}] must be an adapter, got {layer!r}")


class Layered(Adapter):
    """An adapter made of adapters: x -> layer 1 -> layer 2 -> ... -> y.

    A subclass says which, in ``layers``; all else follows. Parameters are named
    ``<layer>.<parameter>``. Each layer's gradient is that of its own input, which is the output of
    the layer before it.
    """

    @abstractmethod
    def layers(self) -> Mapping[str, Adapter]:
        """Return the adapters by name, in the order in which they are applied."""

    def init(self, rng: Any, dim_in: int) -> Params:
        streams = layer_streams(rng)
        params: dict[str, Any] = {}
        for name, layer in self.layers().items():
            own = layer.init(streams(name), dim_in)
            params |= _named(name, own)
            if layer.thin(own) is None:  # a thin layer keeps the width
                dim_in = int(layer.matrix(own)[0].shape[1])
        return params

    def forward(self, params: Params, x: Array, *, rng: Any = None) -> tuple[Array, Pullback]:
        y, _, pullbacks = self._run(params, x, layer_streams(rng))

        def pullback(dy: Array, need_dx: bool = True) -> tuple[Params, Array | None]:
            grads: dict[str, Array] = {}
            for i, name in reversed(list(enumerate(pullbacks))):
                own, dy = pullbacks[name](dy, need_dx=need_dx or i > 0)
                grads |= _named(name, own)
            return grads, dy if need_dx else None

        return y, pullback

    def squared_gradients(self, params: Params, x: Array, dy: Array, *, rng: Any = None) -> Params:
        streams, layers = layer_streams(rng), self.layers()
        _, inputs, pullbacks = self._run(params, x, streams)
        squares: dict[str, Array] = {}
        for i, name in reversed(list(enumerate(pullbacks))):
            own = layers[name].squared_gradients(
                under(name, params), inputs[name], dy, rng=streams(name)
            )
            squares |= _named(name, own)
            if i > 0:
                dy = pullbacks[name](dy, need_dx=True)[1]
        return squares

    def _run(
        self, params: Params, x: Array, streams: Callable[[str], Any]
    ) -> tuple[Array, dict[str, Array], dict[str, Pullback]]:
        """Return the output, and each layer's input and pullback."""
        inputs: dict[str, Array] = {}
        pullbacks: dict[str, Pullback] = {}
        for name, layer in self.layers().items():
            inputs[name] = x
            x, pullbacks[name] = layer.forward(under(name, params), x, rng=streams(name))
        return x, inputs, pullbacks

    def matrix(self, params: Params) -> tuple[Array, Array | None]:
        """Return all layers as one map: W1 W2 ..., and b1 W2 ... + b2 ... + ..."""
        w: Array = None
        b: Array | None = None
        for name, layer in self.layers().items():
            own_w, own_b = layer.matrix(under(name, params))
            w = own_w if w is None else w @ own_w
            if b is not None:
                b = b @ own_w
            if own_b is not None:
                b = own_b if b is None else b + own_b
        return w, b

    def thin(self, params: Params) -> tuple[Array, Array, float] | None:
        """Return the chain as one low-rank map, where that is smaller than its matrix.

        (I + A B)(I + s A' B') = I + [A, s (A' + A (B A'))] [B; B'], of the sum of the ranks.
        """
        a: Array = None
        b: Array = None
        for name, layer in self.layers().items():
            part = layer.thin(under(name, params))
            if part is None:
                return None
            own_a, own_b, scaling = part
            if a is None:
                a, b = scaling * own_a, own_b
                continue
            xp = namespace(A=a)
            next_a = scaling * (own_a + a @ (b @ own_a))
            a, b = xp.concat([a, next_a], axis=1), xp.concat([b, own_b], axis=0)
        return (a, b, 1.0) if 2 * a.shape[1] < a.shape[0] else None


def _named(name: str, params: Params) -> dict[str, Array]:
    return {f"{name}.{key}": x for key, x in params.items()}
