"""Triplet margin loss: the positive nearer than a negative, by a margin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from coreframe import checks
from coreframe.backend import Array, device_of, namespace
from coreframe.blocks import WORKING_ARRAYS
from coreframe.component import Preset
from coreframe.loss import PairwiseLoss
from coreframe.scheduler import Scheduler, plain

MODES = ("hardest", "semi_hard", "all")


@dataclass(frozen=True, kw_only=True)
class Triplet(PairwiseLoss):
    """Triplet margin loss max(0, s_n - s_p + margin), over the triplets of each anchor.

        l = max(0, d_p - d_n + margin),   l_i = mean of l over the triplets of anchor i

    With distances (the default) d = -s. ``mode`` says which triplets of an anchor count:

    - hardest: its farthest positive with its nearest negative (batch hard);
    - semi_hard: each positive with the nearest of the negatives that are farther than it, or,
      where none is, with the farthest negative;
    - all: each positive with each negative, by sorting in O(m log m) and not O(m^2) a row.

    On row-aligned triplets (``Triplet()(anchors, positives,
    negatives)``) the modes agree where there is one negative an anchor. Equals torch's
    ``TripletMarginLoss`` on triplets, and sentence-transformers' ``BatchHardTripletLoss`` in the
    mode hardest.

    Args:
        margin: >= 0, in units of the similarity. Default: 0.5, for distances of unit vectors,
            which are between 0 and 2.
        mode: hardest, semi_hard or all. Default: hardest, which was best in Hermans et al.
        similarity: Default: euclidean, not squared, as in Hermans et al.

    Shapes: anchors and positives (n, d) with negatives (n, d) or (n, k, d), row by row;
    embeddings (n, d) with labels (n,); or any batch with a relation. Gradients for all fields.

    Edges: an anchor without a negative has loss 0; one without a positive does not count. Inactive
    triplets count in the mean (reduction="mean_active" leaves out anchors of loss 0). A term of
    exactly 0 is not active. Coinciding points have distance 0 and no gradient: where all
    embeddings are one point the loss is the margin and nothing moves. Of equally far columns the
    first is taken.

    Cost: three matrix products of n m d, O(m) a row in the mode hardest and O(m log m) in the
    others, and memory linear in the batch; row-aligned triplets O(n k d).

    References: Weinberger & Saul 2009; Schroff et al. 2015, arXiv 1503.03832 (semi-hard);
    Hermans et al. 2017, arXiv 1703.07737 (hardest).

    >>> import numpy as np
    >>> a, p, n = np.array([[[0.0, 0]], [[1.0, 0]], [[0, 1.25]]])
    >>> float(Triplet()(a, p, n).value)  # 1 - 1.25 + 0.5
    0.25
    """

    margin: float | Scheduler = 0.5
    mode: str = "hardest"
    similarity: str = "euclidean"

    reads_triplets: ClassVar[bool] = True

    presets: ClassVar[Mapping[str, Preset]] = {
        "torch": Preset(
            equals="torch.nn.TripletMarginLoss",
            fields={"margin": 1.0, "similarity": "euclidean"},
            arguments={"margin": 1.0, "p": 2.0, "swap": False, "reduction": "mean"},
            version="torch 2.13.0",
            note="On triplets, row by row, up to the 1e-6 that torch adds to each difference.",
        ),
        "sentence-transformers": Preset(
            equals="sentence_transformers.losses.TripletLoss",
            fields={"margin": 5.0, "similarity": "euclidean"},
            arguments={"triplet_margin": 5},
            version="sentence-transformers 6.2.0",
            note="On triplets, row by row, up to the 1e-6 that torch adds to each difference.",
        ),
        "sentence-transformers-batch-hard": Preset(
            equals="sentence_transformers.losses.BatchHardTripletLoss",
            fields={"margin": 5.0, "similarity": "euclidean", "mode": "hardest"},
            arguments={"distance_metric": "euclidean_distance", "margin": 5},
            version="sentence-transformers 6.2.0",
            note="On embeddings with labels, at least two rows a class.",
        ),
        "sentence-transformers-semi-hard": Preset(
            equals="sentence_transformers.losses.BatchSemiHardTripletLoss",
            fields={"margin": 5.0, "similarity": "euclidean", "mode": "semi_hard"},
            arguments={"distance_metric": "euclidean_distance", "margin": 5},
            version="sentence-transformers 6.2.0",
            note="On embeddings with labels, where all classes have as many rows in the batch; "
            "else it averages over pairs there, and here over anchors.",
        ),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        checks.number(self, "margin", minimum=0)
        checks.choice(self, "mode", MODES)

    @property
    def working_arrays(self) -> int:
        # Orders are int64, twice as large as a float32.
        return {"hardest": WORKING_ARRAYS, "semi_hard": 27, "all": 17}[self.mode]

    def row_terms(
        self, similarities: Array, positive: Array, negative: Array
    ) -> tuple[Array, Array]:
        terms = {"hardest": _hardest, "semi_hard": _semi_hard, "all": all_triplets}[self.mode]
        return terms(similarities, positive, negative, plain(self.margin))


def _hardest(s: Array, positive: Array, negative: Array, margin: Any) -> tuple[Array, Array]:
    xp = namespace(similarities=s)
    both = xp.any(positive, axis=1, keepdims=True) & xp.any(negative, axis=1, keepdims=True)
    far, near = _farthest(s, positive), _farthest(-s, negative)
    slack = xp.take_along_axis(s, near, axis=1) - xp.take_along_axis(s, far, axis=1) + margin
    active = both & (slack > 0)
    losses = xp.where(active, slack, xp.zeros_like(slack))[:, 0]
    columns = xp.arange(s.shape[1], dtype=far.dtype, device=device_of(s))[None, :]
    n = active & (columns == near)
    p = active & (columns == far)
    return losses, xp.astype(n, s.dtype) - xp.astype(p, s.dtype)


def all_triplets(s: Array, positive: Array, negative: Array, margin: Any) -> tuple[Array, Array]:
    """Sort positives by s and negatives by s + margin together; then a triplet is active where
    the negative stands above the positive, and running sums count and add what is above.
    """
    xp = namespace(similarities=s)
    moved = xp.take_along_axis
    here, there = xp.astype(positive, s.dtype), xp.astype(negative, s.dtype)
    n_positive = xp.sum(here, axis=1, keepdims=True)
    n_negative = xp.sum(there, axis=1, keepdims=True)
    pairs = n_positive * n_negative
    scale = xp.where(pairs > 0, 1 / xp.where(pairs > 0, pairs, xp.ones_like(pairs)), 0 * pairs)
    used = here + there
    size = xp.sum(used, axis=1, keepdims=True)
    middle = xp.sum(used * s, axis=1, keepdims=True) / xp.where(size > 0, size, xp.ones_like(size))
    key = s + margin * there
    # Positives first among equals: a term of exactly 0 is not active.
    order, place = _sorted(key, positive)
    # A shift of the row changes no triplet, and keeps the running sums small.
    key = moved(key - middle, order, axis=1)
    here, there = moved(here, order, axis=1), moved(there, order, axis=1)
    above = xp.cumulative_sum(there, axis=1)
    above_sum = xp.cumulative_sum(there * key, axis=1)
    below = n_positive - xp.cumulative_sum(here, axis=1)
    losses = xp.sum(here * (above_sum - above * key), axis=1) * scale[:, 0]
    losses = xp.where(losses > 0, losses, xp.zeros_like(losses))
    return losses, moved(there * below - here * above, place, axis=1) * scale


def _semi_hard(s: Array, positive: Array, negative: Array, margin: Any) -> tuple[Array, Array]:
    """With all columns in falling order of s, the partner of a positive is the next negative."""
    xp = namespace(similarities=s)
    moved = xp.take_along_axis
    zero = xp.zeros_like(s)
    n_positive = xp.sum(xp.astype(positive, s.dtype), axis=1, keepdims=True)
    far = _farthest(s, negative)
    farthest = moved(s, far, axis=1)
    # Negatives first among equals: a negative exactly as far as the positive is not farther.
    order, place = _sorted(s, negative)
    s = moved(s, order, axis=1)
    here, there = moved(positive, order, axis=1), moved(negative, order, axis=1)
    position = xp.arange(s.shape[1], dtype=order.dtype, device=device_of(s))[None, :]
    last = xp.full_like(order, s.shape[1] - 1)
    at = xp.sort(xp.where(there, position, last), axis=1)  # the places of the negatives
    so_far = xp.cumulative_sum(xp.astype(there, order.dtype), axis=1)
    n_negative = so_far[:, -1:]
    found = here & (so_far < n_negative)
    partner = moved(s, moved(at, xp.where(found, so_far, 0 * so_far), axis=1), axis=1)
    slack = xp.where(found, partner, farthest) - s + margin
    active = here & (n_negative > 0) & (slack > 0)
    share = 1 / xp.where(n_positive > 0, n_positive, xp.ones_like(n_positive))
    losses = xp.sum(xp.where(active, slack, zero), axis=1) * share[:, 0]
    # A negative is chosen by the active positives between the negative before it and itself.
    active = xp.astype(active, s.dtype)
    chosen = xp.cumulative_sum(xp.where(found, active, zero), axis=1)
    before = moved(chosen, moved(at, xp.where(so_far > 1, so_far - 2, 0 * so_far), axis=1), axis=1)
    count = xp.where(there, chosen - xp.where(so_far > 1, before, zero), zero)
    gradient = moved(count - active, place, axis=1)
    # The farthest negative also by those that have none behind them.
    behind = xp.sum(active, axis=1, keepdims=True) - chosen[:, -1:]
    gradient = gradient + xp.where(position == far, behind, zero)
    return losses, gradient * share


def _farthest(s: Array, mask: Array) -> Array:
    """Return the column of the smallest s in the mask, the first of equal ones, (r, 1)."""
    xp = namespace(similarities=s)
    # finite, since argmin with infinities is unreliable on CuPy
    big = xp.full_like(s, xp.finfo(s.dtype).max)
    return xp.argmin(xp.where(mask, s, big), axis=1, keepdims=True)


def _sorted(key: Array, first: Array) -> tuple[Array, Array]:
    """Return the falling order of each row, columns of ``first`` first among equals, and the
    place of each column in it.
    """
    xp = namespace(key=key)
    # int8, since NumPy sorts small integers by radix
    lead = xp.argsort(xp.astype(first, xp.int8), axis=1, descending=True, stable=True)
    by_key = xp.argsort(xp.take_along_axis(key, lead, axis=1), axis=1, descending=True, stable=True)
    order = xp.take_along_axis(lead, by_key, axis=1)
    return order, xp.argsort(order, axis=1)
