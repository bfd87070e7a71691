"""Negatives that are given and no others: ``Batch.with_negatives(..., in_batch=False)``."""

from __future__ import annotations

import numpy as np
import pytest
from support import Case, assert_near, assert_result, dense_loss

from coreframe.batch import Batch
from coreframe.compose import Symmetric
from coreframe.errors import ArgumentError
from coreframe_losses.contrastive import Contrastive
from coreframe_losses.info_nce import InfoNCE

N, S, K, D = 5, 4, 3, 6
LOSS = InfoNCE(temperature=0.3)


def info_nce_rows(s, positive, negative):
    """The row terms with one positive a row, temperature 0.3."""
    losses, g = np.zeros(len(s)), np.zeros_like(s)
    for i in range(len(s)):
        (p,), ns = np.flatnonzero(positive[i]), np.flatnonzero(negative[i])
        gaps = (s[i, ns] - s[i, p]) / 0.3
        losses[i] = np.logaddexp.reduce([0.0, *gaps])
        g[i, ns] = np.exp(gaps - losses[i]) / 0.3
        g[i, p] = -np.sum(g[i, ns])
    return losses, g


@pytest.mark.parametrize("with_ids", [False, True])
@pytest.mark.parametrize(("s", "k"), [(S, None), (0, K), (S, K)])
def test_only_the_given_negatives_count(library, s, k, with_ids, rng):
    if library.name == "jax" and with_ids != (s > 0 and k is not None):
        pytest.skip("half are enough where every shape is compiled")
    a, p, shared = (rng.standard_normal((rows, D)) for rows in (N, N, s))
    own = None if k is None else rng.standard_normal((N, k, D))
    ids = np.arange(N) if with_ids else None
    reference_ids = np.concatenate([ids, np.arange(s)]) if with_ids else None
    negative = np.zeros((N, N + s), bool)
    negative[:, N:] = True
    if with_ids:  # shared negative j is the item of anchor j
        negative[np.arange(s), N + np.arange(s)] = False
    case = Case(
        anchors=a,
        references=np.concatenate([p, shared]),
        negatives=own,
        positive=np.eye(N, N + s, dtype=bool),
        negative=negative,
    )
    batch = Batch.with_negatives(
        *map(library.asarray, (a, p)),
        shared=library.asarray(shared),
        own=library.asarray(own),
        ids=library.asarray(ids),
        reference_ids=library.asarray(reference_ids),
        in_batch=False,
    )
    want = dense_loss(case, info_nce_rows, "cosine")
    assert_result(library, LOSS.value_and_grad(batch), want, case, 1e-9)


def test_no_negatives_at_all_are_zero(library, rng):
    a, p = (library.asarray(x) for x in rng.standard_normal((2, N, D)))
    for negatives in (
        {},
        {"shared": library.asarray(np.zeros((0, D)))},
        {"own": library.asarray(np.zeros((N, 0, D)))},
    ):
        result = LOSS.value_and_grad(Batch.with_negatives(a, p, in_batch=False, **negatives))
        assert library.to_numpy(result.value) == 0
        for g in result.grads.values():
            assert not library.to_numpy(g).any()


def test_an_empty_list_beside_the_batch_is_an_error():
    """It would read as "no negatives" and mean "those of the batch"."""
    with pytest.raises(ArgumentError, match="shared negatives is empty"):
        LOSS(np.eye(3), np.eye(3), np.zeros((0, 3)))


def test_seen_from_the_references(library, rng):
    """Pairs are the same from either side; shared negatives have no positive there."""
    arrays = [rng.standard_normal((rows, D)) for rows in (N, N, S)]
    a, p, shared = map(library.asarray, arrays)
    batch = Batch.with_negatives(a, p, shared=shared, in_batch=False)
    one = LOSS.value_and_grad(batch)
    both = Symmetric(loss=LOSS).value_and_grad(batch)
    assert_near(library.to_numpy(both.value), library.to_numpy(one.value) / 2)
    # All pairs count in the contrastive loss, from the shared negatives as well.
    loss = Contrastive(margin=9.0, reduction="sum")
    turned = Batch(
        anchors=batch.references, references=batch.anchors, relation=batch.relation.transpose()
    )
    apart = np.linalg.norm(arrays[0][:, None] - arrays[2][None], axis=-1)
    near = np.sum((arrays[0] - arrays[1]) ** 2)
    want = near + np.sum(np.mean((9 - apart) ** 2, axis=0))
    assert_near(library.to_numpy(loss.value_and_grad(turned).value), want)
