"""Random negatives, drawn anew each step and the same on every backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from coreframe.backend import Array
from coreframe.miner import RankingMiner, Rows


@dataclass(frozen=True, kw_only=True)
class Random(RankingMiner):
    """The k negatives of an anchor that a fair draw without replacement gives.

        argtop_k over j of u_ij,  u_ij uniform on [0, 1),  j a negative of i

    Each (anchor, reference) pair gets a random key, an integer hash of two seeds from ``rng``
    and of the pair, computed on the device; the k largest keys win. ``rng`` is advanced, so that
    the next call draws others; the same rng draws the same on every backend.

    Args:
        k: negatives an anchor, >= 1. Default: 8, few enough that a loss gathers them instead of
            multiplying all.
        keep_equal: draw references that equal the anchor or its positive (in direction) too.
            Default: False, since they are false negatives.

    Shapes: ``mine`` narrows a batch of (n, d) and (m, d) to k negatives a row; ``choose`` gives
    (n, min(k, m)) and ``select`` (n, k) indices, -1 for an empty place.

    Edges: an anchor with fewer than k negatives keeps all it has; a batch of one has none.

    Cost: O(n m) time and no matrix product; memory linear in n and m.

    References: Appleby 2011, the finaliser of MurmurHash3, for the keys.

    >>> import numpy as np
    >>> x, rng = np.eye(4), np.random.default_rng(0)
    >>> drawn = [Random().select(x, x, x, 2, rng=rng) for _ in range(2)]
    >>> drawn[0].shape, bool(np.all(drawn[0] == drawn[1]))
    ((4, 2), False)
    """

    needs_similarities: ClassVar[bool] = False
    needs_keys: ClassVar[bool] = True

    def scores(self, rows: Rows) -> Array:
        return rows.keys
