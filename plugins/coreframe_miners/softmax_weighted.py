"""Negatives drawn by a softmax of their similarities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from coreframe import checks
from coreframe.backend import Array
from coreframe.miner import RankingMiner, Rows
from coreframe.random import gumbel
from coreframe.scheduler import Scheduler, plain
from coreframe.similarity import NAMES


@dataclass(frozen=True, kw_only=True)
class SoftmaxWeighted(RankingMiner):
    """The k negatives of an anchor drawn in proportion to exp(similarity / temperature).

        argtop_k over j of s(a_i, r_j) / temperature + g_ij,  g_ij standard Gumbel

    which is exactly the draw of one after the other without replacement, each time in proportion
    to what is left, in the order of the draws. The g_ij come from integer hashes of two seeds
    from ``rng`` and of the pair, the same on every backend; ``rng`` is advanced. Between
    ``Hardest`` (temperature near 0) and ``Random`` (large). It is called distance weighted in
    some libraries, and is not ``DistanceWeighted``.

    Args:
        k: negatives an anchor, >= 1. Default: 8, few enough that a loss gathers them instead of
            multiplying all.
        temperature: > 0; the lower, the harder. Default: 1, the softmax of the similarities
            themselves.
        similarity: cosine, dot, euclidean or squared_euclidean. Default: cosine, as the losses.
        keep_equal: draw references that equal the anchor or its positive too. Default: False.

    Shapes: ``mine`` narrows a batch of (n, d) and (m, d) to k negatives a row; ``choose`` gives
    (n, min(k, m)) and ``select`` (n, k) indices, -1 for an empty place.

    Edges: an anchor with fewer than k negatives keeps all it has; a batch of one has none. No
    exponential is taken, so that no temperature over- or underflows.

    Cost: one matrix product, O(n m d) time, and memory linear in n and m.

    References: Kool et al. 2019, arXiv 1903.06059, section 2.3, for the Gumbel top-k; Robinson et
    al. 2021, arXiv 2010.04592, for negatives weighted by exp(beta s).

    >>> import numpy as np
    >>> x, rng = np.eye(4), np.random.default_rng(0)
    >>> SoftmaxWeighted(temperature=0.5).select(x, x, x, 3, rng=rng).shape
    (4, 3)
    """

    temperature: float | Scheduler = 1.0
    similarity: str = "cosine"

    needs_keys: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self, "temperature", above=0)
        checks.choice(self, "similarity", NAMES)

    def scores(self, rows: Rows) -> Array:
        s = rows.similarities
        return s / plain(self.temperature) + gumbel(rows.keys, s.dtype)
