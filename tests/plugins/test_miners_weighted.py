"""Miners that draw by weights: the weights against their formulas, the draws by chi-square.

Seeds are fixed. A limit on a chi-square stands where a right miner fails once in a million seeds.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support import dense_similarity

from coreframe.batch import Batch
from coreframe.errors import ArgumentError
from coreframe.random import stream
from coreframe.relation import Listed
from coreframe.similarity import NAMES
from coreframe_miners.distance_weighted import DistanceWeighted
from coreframe_miners.random import Random
from coreframe_miners.softmax_weighted import SoftmaxWeighted

DRAWS = 20_000
DRAWING = [Random(k=3), SoftmaxWeighted(k=3), DistanceWeighted(k=3)]


def draws(miner, anchor, candidates, k, seed=0):
    """Draw k for DRAWS anchors that are alike, in one call."""
    a = np.repeat(anchor[None], DRAWS, axis=0)
    batch = Batch(
        anchors=a,
        references=candidates,
        relation=Listed(np.full((DRAWS, 1), -1), None, len(candidates)),
    )
    return miner.choose(batch, k, rng=stream(seed, "draws"))


def assert_follows(found, shares, limit):
    """Chi-square of the first draw, and of pairs of the first and second."""
    m = len(shares)
    p = shares / shares.sum()
    expected = DRAWS * p
    counts = np.bincount(found[:, 0], minlength=m)
    assert np.sum((counts - expected) ** 2 / expected) < limit
    pairs = np.asarray(
        [[0 if i == j else p[i] * p[j] / (1 - p[i]) for j in range(m)] for i in range(m)]
    )
    counts = np.bincount(found[:, 0] * m + found[:, 1], minlength=m * m)
    expected = DRAWS * pairs.ravel()
    assert not counts[expected == 0].any()
    rare = expected < 10  # which are counted as one
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum() + 1e-9)
    degrees = len(counts) - 1
    chi = np.sum((counts - expected) ** 2 / expected)
    assert chi < degrees + 5.5 * np.sqrt(2 * degrees)


def on_sphere(rng, n, d):
    x = rng.standard_normal((n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def at_distances(distances, d):
    """Unit vectors at given distances of the first axis."""
    cosines = 1 - np.square(distances) / 2
    x = np.zeros((len(cosines), d))
    x[:, 0] = cosines
    x[np.arange(len(x)), 1 + np.arange(len(x)) % (d - 1)] = np.sqrt(1 - cosines**2)
    return x


# Every miner that draws ---------------------------------------------------------------------------


@pytest.mark.parametrize("miner", DRAWING, ids=lambda m: type(m).__name__)
def test_each_call_draws_anew_from_the_generator_that_is_passed(library, miner, rng):
    x = library.asarray(rng.standard_normal((30, 8)))
    first, second = (stream(0, "test") for _ in range(2))
    found = [library.to_numpy(miner.select(x, x, x, 3, rng=first)) for _ in range(3)]
    again = [library.to_numpy(miner.select(x, x, x, 3, rng=second)) for _ in range(3)]
    assert np.array_equal(found, again)
    for a, b in itertools.combinations(found, 2):
        assert not np.array_equal(a, b)


@pytest.mark.parametrize("miner", DRAWING, ids=lambda m: type(m).__name__)
def test_draws_are_the_same_in_single_and_double_precision(library, miner, rng):
    """Integers decide, so that rounding changes next to nothing: here not one of 3 x 200."""
    x = rng.standard_normal((30, 8) if library.name == "jax" else (200, 16))
    a, b = (
        library.to_numpy(miner.select(*[library.asarray(x, t)] * 3, 3, rng=stream(1, "test")))
        for t in ("float32", "float64")
    )
    assert np.array_equal(a, b)


# Softmax ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", NAMES)
@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_softmax_draws_follow_the_softmax(similarity, temperature, rng):
    anchor, candidates = 0.5 * rng.standard_normal(3), 0.5 * rng.standard_normal((6, 3))
    shares = np.exp(dense_similarity(anchor[None], candidates, similarity)[0][0] / temperature)
    miner = SoftmaxWeighted(temperature=temperature, similarity=similarity, keep_equal=True)
    assert_follows(draws(miner, anchor, candidates, 2), shares, 39)


def test_a_low_temperature_takes_the_hardest_and_a_high_one_any(library, rng):
    a, p = rng.standard_normal((2, 40, 8))
    c = rng.standard_normal((50, 8))
    arrays = [library.asarray(x, "float32") for x in (a, p, c)]
    unit = c / np.linalg.norm(c, axis=1, keepdims=True)
    hardest = np.argsort(-(a @ unit.T), axis=1)[:, :5]
    cold = SoftmaxWeighted(temperature=1e-12).select(*arrays, 5, rng=stream(0, "test"))
    assert np.array_equal(library.to_numpy(cold), hardest)
    # Without any weight left, the order is that of the keys alone.
    hot = SoftmaxWeighted(temperature=1e12).select(*arrays, 5, rng=stream(0, "test"))
    uniform = Random().select(*arrays, 5, rng=stream(0, "test"))
    assert np.array_equal(library.to_numpy(hot), library.to_numpy(uniform))


def test_temperature_must_be_above_zero():
    with pytest.raises(ArgumentError, match=r"SoftmaxWeighted\.temperature must be above 0, got 0"):
        SoftmaxWeighted(temperature=0)


# Distances ----------------------------------------------------------------------------------------


def published(x, cutoff, nonzero_loss_cutoff):
    """Return the weights of the published formula on unit vectors, row by row."""
    n = x.shape[1]
    d = np.linalg.norm(x[:, None] - x[None], axis=2)
    clipped = np.maximum(d, cutoff)
    log_q = (n - 2) * np.log(clipped) + (n - 3) / 2 * np.log(1 - clipped**2 / 4)
    weights = np.exp(-log_q + log_q.min()) * (d < nonzero_loss_cutoff)
    np.fill_diagonal(weights, 0)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("d", [2, 3, 8, 64, 512])
def test_the_weights_are_the_published_ones(library, d, rng):
    x = on_sphere(rng, 12, d)
    x[1:4] = on_sphere(rng, 1, d) + 0.3 * on_sphere(rng, 3, d)  # some are near each other
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    miner = DistanceWeighted(cutoff=0.4, nonzero_loss_cutoff=1.9)
    logs = library.to_numpy(miner.log_weights(library.asarray(x @ x.T), d))
    want = published(x, 0.4, 1.9)
    drawn = want > 0
    weights = np.where(drawn, np.exp(np.where(drawn, logs, 0)), 0)
    np.testing.assert_allclose(weights / weights.sum(1, keepdims=True), want, rtol=1e-9)


def test_the_weights_are_those_of_the_library(rng):
    library = pytest.importorskip("pytorch_metric_learning.miners", reason="not installed")
    torch = pytest.importorskip("torch")
    x = on_sphere(rng, 12, 16)
    seen = {}

    def keep(labels, ref_labels=None, t_per_anchor=1, weights=None):
        seen["weights"] = weights
        return torch.zeros(0), torch.zeros(0), torch.zeros(0)

    module = pytest.importorskip("pytorch_metric_learning.utils.loss_and_miner_utils")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "get_random_triplet_indices", keep)
        library.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4)(
            torch.asarray(x), torch.arange(12)
        )
    np.testing.assert_allclose(np.asarray(seen["weights"]), published(x, 0.5, 1.4), rtol=1e-6)


@pytest.mark.parametrize("d", [4, 16])
def test_draws_by_distance_follow_the_weights(d):
    distances = np.asarray([0.2, 0.5, 0.8, 1.0, 1.2, 1.3])
    candidates = at_distances(distances, d)
    clipped = np.maximum(distances, 0.5)
    shares = clipped ** (2.0 - d) * (1 - clipped**2 / 4) ** (-(d - 3) / 2)
    used = DRAWS * shares / shares.sum() > 20
    anchor = np.eye(d)[0]
    found = draws(DistanceWeighted(), 3 * anchor, 2 * candidates[used], 2)
    assert_follows(found, shares[used], 39)


def test_distances_beyond_the_cutoff_are_drawn_last_and_evenly():
    candidates = at_distances(np.asarray([1.5, 0.9, 1.7, 1.99, 1.1]), 8)
    found = draws(DistanceWeighted(), np.eye(8)[0], candidates, 5)
    assert set(found[:, :2].ravel().tolist()) == {1, 4}
    counts = np.bincount(found[:, 2], minlength=5)[[0, 2, 3]]
    assert np.sum((counts - DRAWS / 3) ** 2) / (DRAWS / 3) < 28
    far = draws(DistanceWeighted(), np.eye(8)[0], candidates[[0, 2, 3]], 3)
    assert (np.sort(far, axis=1) == np.arange(3)).all()


def test_opposite_and_zero_vectors_and_any_width_are_finite(library):
    for d in (1, 2048) if library.name == "jax" else (1, 2, 3, 2048):
        x = np.zeros((4, d))
        x[0, 0], x[1, 0], x[3, 0] = 1.0, -1.0, 0.5  # opposite, zero, and in one direction
        x = library.asarray(x, "float32")
        miner = DistanceWeighted(nonzero_loss_cutoff=2.0, keep_equal=True)
        batch = Batch(anchors=x, relation=Listed(library.asarray(np.full((4, 1), -1)), None, 4))
        found = library.to_numpy(miner.choose(batch, 3, rng=stream(0, "test")))
        assert np.array_equal(np.sort(found, axis=1), [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cutoff": 0.0}, "DistanceWeighted.cutoff must be above 0"),
        ({"nonzero_loss_cutoff": 2.1}, "nonzero_loss_cutoff must be above 0 and at most 2"),
        ({"cutoff": 1.5}, "cutoff must be below nonzero_loss_cutoff, got 1.5 and 1.4"),
    ],
)
def test_nonsense_is_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        DistanceWeighted(**options)
