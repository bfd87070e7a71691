"""A few very small low-rank adapters in a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from coreframe import checks
from coreframe.adapter import Adapter
from coreframe.backend import Params
from coreframe.chain import Layered, check_layers
from coreframe.errors import ArgumentError
from coreframe_adapters.low_rank import INITIALIZATIONS, LowRank


@dataclass(frozen=True, kw_only=True)
class MicroLoRA(Layered):
    """Very small low-rank adapters with names, one after the other.

        y = f_L(... f_2(f_1(x))),   f_i(x) = x + (alpha / rank) (x A_i) B_i,   B_i = 0 at the start

    It is a ``chain`` of ``low_rank`` with one rank. On frozen embeddings the whole is one affine
    map, so the names only label the layers; they are those of the modules that such adapters
    sit on inside of a transformer. A stored one is folded: low-rank, with the sum of the ranks.

    Args:
        rank: r >= 1, of each layer. Default: 4, as in the older JavaScript library.
        alpha: > 0; each layer's product is scaled by alpha / rank. Default: 8, from there too:
            a scaling of 2.
        modules: the names of the layers, in order. Default: query, value, key and dense, from
            there too.
        initialization: how each A is drawn: see ``low_rank``. Default: "glorot",
            N(0, 2 / (d + rank)), from there too.

    Parameters: ``<module>.A`` (d, r) and ``<module>.B`` (r, d): with the defaults and d = 384,
    4 * 2 * 384 * 4 = 12,288 numbers, which ``coreframe.adapter.count_parameters`` counts.

    Shapes: (n, d) to (n, d).

    Edges: a fresh one is the identity, to the bit. A rank above the width, no module, and a name
    given twice are errors.

    Cost: O(n d r) time for each module; 2 d r numbers each.

    References: Hu et al. 2021, arXiv 2106.09685, section 4.1.

    >>> from coreframe.adapter import count_parameters
    >>> from coreframe.random import stream
    >>> count_parameters(MicroLoRA().init(stream(0, "x"), 384))
    12288
    """

    rank: int = 4
    alpha: float = 8.0
    modules: tuple[str, ...] = ("query", "value", "key", "dense")
    initialization: Literal["gaussian", "kaiming", "glorot"] = "glorot"

    def __post_init__(self) -> None:
        checks.number(self, "rank", minimum=1, integer=True)
        checks.number(self, "alpha", above=0)
        checks.choice(self, "initialization", INITIALIZATIONS)
        if isinstance(self.modules, str) or len(set(self.modules)) < len(self.modules):
            raise ArgumentError(
                f"MicroLoRA.modules must be names that differ, got {self.modules!r}"
            )
        check_layers("MicroLoRA.modules", self.layers())

    def layers(self) -> Mapping[str, Adapter]:
        layer = LowRank(rank=self.rank, alpha=self.alpha, initialization=self.initialization)
        return dict.fromkeys(self.modules, layer)

    def init(self, rng: Any, dim_in: int) -> Params:
        if self.rank > dim_in:
            raise ArgumentError(
                f"MicroLoRA.rank must be at most the width {dim_in}, got {self.rank}"
            )
        return super().init(rng, dim_in)
