"""Several adapters, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coreframe.adapter import Adapter
from coreframe.chain import Layered, check_layers


@dataclass(frozen=True, kw_only=True)
class Chain(Layered):
    """Several adapters, applied one after the other.

        y = f_L(... f_2(f_1(x)))

    Gradients follow the chain rule: each layer's are taken at its own input, which is the output
    of the layer before it. The layers are affine, so a stored chain is one map: the thin form
    (I + A B)(I + s A' B') = I + [A, s (A' + A (B A'))] [B; B'] where all layers have one and the
    sum of the ranks is below half the width, else one matrix and bias.

    Args:
        adapters: the layers by name, in the order in which they are applied. Names have no dots.
            In a file, tables: ``[adapter.adapters.first]``.

    Parameters: ``<name>.<parameter>`` of each layer. Each layer is drawn from a stream of its own,
    which depends on its name and not on the other layers; the noise of a forward pass likewise.

    Shapes: (n, d) to (n, d), or to the width of the last layer.

    Edges: no adapters is an error. Adapters in closed form (whitening, procrustes) are not
    trained and belong to ``start``. A chain of one equals that adapter.

    Cost: the sum of the layers' time; all layers' inputs are held until the gradients come
    back, unless the chain is ``recomputed``.

    References: Griewank & Walther 2008, Evaluating Derivatives, chapter 3 (the reverse mode).

    >>> from coreframe_adapters.low_rank import LowRank
    >>> from coreframe.random import stream
    >>> chain = Chain(adapters={"first": LowRank(rank=2), "second": LowRank(rank=1)})
    >>> {name: x.shape for name, x in chain.init(stream(0, "x"), 8).items()}
    {'first.A': (8, 2), 'first.B': (2, 8), 'second.A': (8, 1), 'second.B': (1, 8)}
    """

    adapters: Mapping[str, Adapter]

    def __post_init__(self) -> None:
        check_layers("Chain.adapters", self.adapters)

    def layers(self) -> Mapping[str, Adapter]:
        return self.adapters
