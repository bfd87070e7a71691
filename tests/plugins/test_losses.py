"""The losses: against formulas in float64 NumPy, brute force, central differences and autograd."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import (
    Case,
    assert_is_gradient,
    assert_near,
    assert_result,
    dense_loss,
    random_case,
)

from coreframe.batch import Batch
from coreframe.relation import Listed
from coreframe.similarity import NAMES
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.nca import NCA
from coreframe_losses.sup_con import SupCon
from coreframe_losses.triplet import MODES, Triplet

N, M, D, K = 19, 23, 5, 3  # as in test_engine
LOSSES = [
    InfoNCE(temperature=0.3),
    InfoNCE(temperature=0.3, margin=0.2),
    SupCon(temperature=0.3),
    *(Triplet(mode=mode) for mode in MODES),
]


# Rows of each loss in NumPy, by loops over the formulas ---------------------------------------


def info_nce_rows(temperature, margin=0.0):
    def rows(s, positive, negative):
        losses, g = np.zeros(len(s)), np.zeros_like(s)
        for i in range(len(s)):
            ps, ns = np.flatnonzero(positive[i]), np.flatnonzero(negative[i])
            for p in ps:
                gaps = (s[i, ns] - s[i, p] + margin) / temperature
                losses[i] += np.logaddexp.reduce([0.0, *gaps]) / len(ps)
                shares = np.exp(gaps - np.logaddexp.reduce([0.0, *gaps])) / temperature / len(ps)
                g[i, ns] += shares
                g[i, p] -= np.sum(shares)
        return losses, g

    return rows


def sup_con_rows(temperature):
    def rows(s, positive, negative):
        losses, g = np.zeros(len(s)), np.zeros_like(s)
        for i in range(len(s)):
            ps, used = np.flatnonzero(positive[i]), np.flatnonzero(positive[i] | negative[i])
            if len(ps):
                z = s[i] / temperature
                total = np.logaddexp.reduce(z[used])
                losses[i] = total - np.mean(z[ps])
                g[i, used] += np.exp(z[used] - total) / temperature
                g[i, ps] -= 1 / len(ps) / temperature
        return losses, g

    return rows


def triplet_rows(margin, mode):
    def rows(s, positive, negative):
        losses, g = np.zeros(len(s)), np.zeros_like(s)
        for i, row in enumerate(s):
            ps, ns = np.flatnonzero(positive[i]), np.flatnonzero(negative[i])
            if not len(ps) or not len(ns):
                continue
            if mode == "hardest":
                triplets = [(ps[np.argmin(row[ps])], ns[np.argmax(row[ns])])]
            elif mode == "all":
                triplets = [(p, n) for p in ps for n in ns]
            else:
                triplets = []
                for p in ps:
                    farther = [n for n in ns if row[n] < row[p]]
                    nearest = max(farther, key=lambda n: row[n]) if farther else None
                    triplets.append((p, ns[np.argmin(row[ns])] if nearest is None else nearest))
            for p, n in triplets:
                slack = row[n] - row[p] + margin
                if slack > 0:
                    losses[i] += slack / len(triplets)
                    g[i, n] += 1 / len(triplets)
                    g[i, p] -= 1 / len(triplets)
        return losses, g

    return rows


def rows_of(loss):
    if isinstance(loss, InfoNCE):
        return info_nce_rows(loss.temperature, loss.margin)
    if isinstance(loss, SupCon):
        return sup_con_rows(loss.temperature)
    return triplet_rows(loss.margin, loss.mode)


def named(loss):
    return "-".join([type(loss).__name__, *(str(getattr(loss, f, "")) for f in ("mode", "margin"))])


# Every loss, against the oracle and against differences -----------------------------------------


@pytest.mark.parametrize("similarity", NAMES)
@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_against_the_oracle(library, loss, similarity, rng):
    from dataclasses import replace

    loss = replace(loss, similarity=similarity)
    for case in (
        random_case(rng, N, M, D, K, weights=True),
        random_case(rng, N, None, D, weights=True),
    ):
        want = dense_loss(case, rows_of(loss), similarity)
        assert_result(library, loss.value_and_grad(case.batch(library)), want, case, 1e-8)


@given(
    st.sampled_from(LOSSES),
    st.integers(1, 25),
    st.integers(1, 25),
    st.integers(2, 6),
    st.one_of(st.none(), st.integers(0, 3)),
    st.integers(0, 2**32),
)
def test_random_shapes(on_numpy, loss, n, m, d, k, seed):
    rng = np.random.default_rng(seed)
    case = random_case(rng, n, m, d, k, weights=True)
    result = loss.value_and_grad(case.batch(on_numpy))
    want = dense_loss(case, rows_of(loss), loss.similarity)
    assert_result(on_numpy, result, want, case, 1e-8)
    if isinstance(loss, Triplet):
        return  # kinks: differences are taken below, away from them
    for name in case.fields:
        assert_is_gradient(
            lambda x, name=name: float(
                loss.value_and_grad(case.replace(**{name: x}).batch(on_numpy), wrt=()).value
            ),
            getattr(case, name),
            result.grads[name],
            rng,
        )


@pytest.mark.parametrize("mode", MODES)
def test_triplet_against_differences(on_numpy, mode, rng):
    case = random_case(rng, 9, 11, 4, 2, weights=True)
    loss = Triplet(mode=mode)
    result = loss.value_and_grad(case.batch(on_numpy))
    for name in case.fields:
        assert_is_gradient(
            lambda x, name=name: float(
                loss.value_and_grad(case.replace(**{name: x}).batch(on_numpy), wrt=()).value
            ),
            getattr(case, name),
            result.grads[name],
            rng,
        )


@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_a_column_in_neither_mask_has_no_influence(library, loss, rng):
    s = rng.standard_normal((N, M))
    kind = rng.random((N, M))
    positive, negative = kind < 0.2, kind > 0.6
    other = np.where(positive | negative, s, 100 * rng.standard_normal((N, M)))
    one, two = (loss.row_terms(*map(library.asarray, (x, positive, negative))) for x in (s, other))
    for x, y in zip(one, two, strict=True):
        assert_near(library.to_numpy(x), library.to_numpy(y), 1e-9)
    assert not library.to_numpy(one[1])[~(positive | negative)].any()


# Against autograd ---------------------------------------------------------------------------------


def autograd(formula, *arrays):
    """Return the value of a torch formula and its gradients by the arrays."""
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    leaves = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in arrays]
    value = formula(torch, *leaves)
    gradients = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
    return value.item(), [g.numpy() for g in gradients]


def assert_autograd(library, loss_call, names, formula, *arrays, rtol=1e-8):
    value, gradients = autograd(formula, *arrays)
    result = loss_call(*map(library.asarray, arrays))
    assert_near(library.to_numpy(result.value), value, rtol)
    for name, want in zip(names, gradients, strict=True):
        assert_near(library.to_numpy(result.grads[name]), want, rtol)


def unit(torch, x):
    return torch.nn.functional.normalize(x, dim=-1, eps=1e-300)


def distances(torch, a, b):
    return (a[:, None] - b[None]).square().sum(-1).clamp_min(1e-300).sqrt()


SIZES = [(1, 3), (7, 4), (N, D)]


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_info_nce_is_cross_entropy(library, n, d, rng):
    def formula(torch, a, p):
        logits = unit(torch, a) @ unit(torch, p).T / 0.1
        return torch.nn.functional.cross_entropy(logits, torch.arange(n))

    a, p = rng.standard_normal((2, n, d))
    assert_autograd(library, InfoNCE(temperature=0.1), ("anchors", "references"), formula, a, p)


def test_info_nce_with_shared_and_own_negatives_and_margin(library, rng):
    def formula(torch, a, p, shared, own):
        a, p, shared, own = (unit(torch, x) for x in (a, p, shared, own))
        s = torch.cat([a @ p.T, a @ shared.T, torch.einsum("nd,nkd->nk", a, own)], 1)
        s = s - 0.1 * torch.eye(*s.shape)
        return torch.nn.functional.cross_entropy(s / 0.2, torch.arange(len(a)))

    arrays = [rng.standard_normal(s) for s in ((N, D), (N, D), (M - N, D), (N, K, D))]
    value, (ga, gp, gs, go) = autograd(formula, *arrays)
    a, p, shared, own = map(library.asarray, arrays)
    result = InfoNCE(temperature=0.2, margin=0.1).value_and_grad(
        Batch.with_negatives(a, p, shared=shared, own=own)
    )
    assert_near(library.to_numpy(result.value), value, 1e-8)
    assert_near(library.to_numpy(result.grads["anchors"]), ga, 1e-8)
    assert_near(library.to_numpy(result.grads["references"]), np.concatenate([gp, gs]), 1e-8)
    assert_near(library.to_numpy(result.grads["negatives"]), go, 1e-8)


@pytest.mark.parametrize("text", [False, True])
def test_info_nce_leaves_out_the_same_item(library, text, rng):
    ids = rng.integers(0, 6, N)
    same = ids[:, None] == ids[None, :]

    def formula(torch, a, p):
        z = unit(torch, a) @ unit(torch, p).T / 0.2
        left_out = torch.as_tensor(same & ~np.eye(N, dtype=bool))
        return torch.nn.functional.cross_entropy(
            z.masked_fill(left_out, -torch.inf), torch.arange(N)
        )

    given_ids = [f"item {i}" for i in ids] if text else library.asarray(ids)
    arrays = rng.standard_normal((2, N, D))
    assert_autograd(
        library,
        lambda a, p: InfoNCE(temperature=0.2)(a, p, ids=given_ids),
        ("anchors", "references"),
        formula,
        *arrays,
    )


def test_ids_of_shared_negatives(library, rng):
    a, p, shared = (rng.standard_normal(s) for s in ((N, D), (N, D), (M - N, D)))
    ids, shared_ids = np.arange(N) % 5, np.array([0, 3, 77, 78])
    for known in (False, True):
        reference_ids = np.concatenate([ids, shared_ids]) if known else None
        result = InfoNCE(temperature=0.2).value_and_grad(
            Batch.with_negatives(
                *map(library.asarray, (a, p)),
                shared=library.asarray(shared),
                ids=library.asarray(ids),
                reference_ids=library.asarray(reference_ids),
            )
        )
        every = np.concatenate([ids, shared_ids if known else [-1, -2, -3, -4]])
        case = Case(
            anchors=a,
            references=np.concatenate([p, shared]),
            positive=np.eye(N, M, dtype=bool),
            negative=ids[:, None] != every[None, :],
        )
        assert_result(library, result, dense_loss(case, info_nce_rows(0.2), "cosine"), case, 1e-8)


@pytest.mark.parametrize("weighted", [False, True])
def test_symmetric_info_nce_is_clips_loss(library, weighted, rng):
    w = rng.uniform(0.1, 2, N) if weighted else np.ones(N)

    def formula(torch, a, p):
        z = unit(torch, a) @ unit(torch, p).T / 0.1
        losses = sum(
            torch.nn.functional.cross_entropy(x, torch.arange(N), reduction="none")
            for x in (z, z.T)
        )
        return (torch.as_tensor(w) * losses).sum() / w.sum() / 2

    assert_autograd(
        library,
        lambda a, p: InfoNCE(temperature=0.1, symmetric=True)(
            a, p, weights=library.asarray(w) if weighted else None
        ),
        ("anchors", "references"),
        formula,
        *rng.standard_normal((2, N, D)),
    )


def test_symmetric_leaves_negatives_out_of_the_second_direction(library, rng):
    arrays = [rng.standard_normal(s) for s in ((N, D), (N, D), (M - N, D), (N, K, D))]

    def formula(torch, a, p, shared, own):
        a, p, shared, own = (unit(torch, x) for x in (a, p, shared, own))
        forth = torch.cat([a @ p.T, a @ shared.T, torch.einsum("nd,nkd->nk", a, own)], 1)
        losses = [
            torch.nn.functional.cross_entropy(s / 0.2, torch.arange(N)) for s in (forth, p @ a.T)
        ]
        return sum(losses) / 2

    value, (ga, gp, gs, go) = autograd(formula, *arrays)
    a, p, shared, own = map(library.asarray, arrays)
    for weights in (None, library.asarray(np.ones(N))):
        batch = Batch.with_negatives(a, p, shared=shared, own=own, weights=weights)
        loss = InfoNCE(temperature=0.2, symmetric=True)
        result = loss.value_and_grad(batch)
        assert_near(library.to_numpy(result.value), value, 1e-8)
        assert_near(library.to_numpy(result.grads["anchors"]), ga, 1e-8)
        assert_near(library.to_numpy(result.grads["references"]), np.concatenate([gp, gs]), 1e-8)
        assert_near(library.to_numpy(result.grads["negatives"]), go, 1e-8)
        for wrt in (("anchors",), ("references",), ("negatives",)):
            some = loss.value_and_grad(batch, wrt=wrt)
            assert list(some.grads) == list(wrt)
            assert_near(
                library.to_numpy(some.grads[wrt[0]]), library.to_numpy(result.grads[wrt[0]])
            )


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_sup_con_by_autograd(library, n, d, rng):
    labels = rng.integers(0, 3, n)
    other = ~np.eye(n, dtype=bool)
    same = (labels[:, None] == labels[None, :]) & other
    rows = np.flatnonzero(same.any(1))

    def formula(torch, x):
        if not len(rows):
            return (x * 0).sum()
        z = unit(torch, x) @ unit(torch, x).T / 0.1
        log_p = z - torch.logsumexp(z.masked_fill(~torch.as_tensor(other), -torch.inf), 1)[:, None]
        here = torch.as_tensor(same).double()
        return -((here * log_p).sum(1)[rows] / here.sum(1)[rows]).mean()

    assert_autograd(
        library,
        lambda x: SupCon(temperature=0.1)(x, labels=labels),
        ("anchors",),
        formula,
        rng.standard_normal((n, d)),
    )


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_nca_by_autograd(library, n, d, rng):
    labels = rng.integers(0, 3, n)
    other = ~np.eye(n, dtype=bool)
    same = (labels[:, None] == labels[None, :]) & other
    rows = np.flatnonzero(same.any(1))

    def formula(torch, x):
        if not len(rows):
            return (x * 0).sum()
        z = -((x[:, None] - x[None]) ** 2).sum(-1) / 2
        p = torch.softmax(z.masked_fill(~torch.as_tensor(other), -torch.inf), 1)
        return -torch.log((p * torch.as_tensor(same)).sum(1)[rows]).mean()

    assert_autograd(
        library,
        lambda x: NCA(temperature=2.0)(x, labels=labels),
        ("anchors",),
        formula,
        rng.standard_normal((n, d)),
    )


def test_nca_keeps_its_gradient_on_well_separated_classes():
    """1 - p is 4e-22, where p in float32 is 1 and its logarithm 0."""
    x = np.array([[0.0], [1.0], [-7.07]], np.float32)
    result = NCA(reduction="none")(x, labels=[0, 0, 1])
    np.testing.assert_allclose(result.value[0], np.exp(1 - 7.07**2), rtol=1e-4)
    assert result.grads["anchors"][0, 0] != 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_triplet_by_autograd(library, mode, n, d, rng):
    labels = rng.integers(0, 3, n)
    other = ~np.eye(n, dtype=bool)
    same = (labels[:, None] == labels[None, :]) & other
    apart = labels[:, None] != labels[None, :]

    def formula(torch, x):
        distance = distances(torch, x, x)
        losses, counted = [(x * 0).sum()], 0
        for i in range(n):
            ps, ns = np.flatnonzero(same[i]), np.flatnonzero(apart[i])
            counted += len(ps) > 0
            if not len(ps) or not len(ns):
                continue
            d_p, d_n = distance[i, ps], distance[i, ns]
            if mode == "hardest":
                terms = (d_p.max() - d_n.min() + 0.5)[None]
            elif mode == "all":
                terms = (d_p[:, None] - d_n[None, :] + 0.5).ravel()
            else:
                farther = [d_n[d_n > p].min() if (d_n > p).any() else d_n.max() for p in d_p]
                terms = d_p - torch.stack(farther) + 0.5
            losses.append(torch.relu(terms).mean())
        return sum(losses) / max(counted, 1)

    assert_autograd(
        library,
        lambda x: Triplet(mode=mode)(x, labels=labels),
        ("anchors",),
        formula,
        rng.standard_normal((n, d)),
    )


def test_listed_triplets_are_torchs_triplet_margin_loss(library, rng):
    def formula(torch, a, p, q):
        return torch.nn.TripletMarginLoss(margin=0.5, eps=0.0)(a, p, q)

    arrays = rng.standard_normal((3, N, D))
    value, (ga, gp, gn) = autograd(formula, *arrays)
    for mode in MODES:
        result = Triplet(mode=mode)(*map(library.asarray, arrays))
        assert_near(library.to_numpy(result.value), value, 1e-8)
        assert_near(library.to_numpy(result.grads["anchors"]), ga, 1e-8)
        assert_near(library.to_numpy(result.grads["references"]), gp, 1e-8)
        assert_near(library.to_numpy(result.grads["negatives"])[:, 0], gn, 1e-8)


def test_triplets_by_index(library, rng):
    positives, negatives = rng.integers(0, 40, (N, 1)), rng.integers(0, 40, (N, 2))
    a, r = rng.standard_normal((N, D)), rng.standard_normal((40, D))
    span = np.arange(40)
    positive = (positives[:, :, None] == span).any(1)
    case = Case(
        anchors=a,
        references=r,
        positive=positive,
        negative=(negatives[:, :, None] == span).any(1) & ~positive,
    )
    relation = Listed(library.asarray(positives), library.asarray(negatives), 40)
    for mode in MODES:
        result = Triplet(mode=mode).value_and_grad(case.batch(library, relation=relation))
        want = dense_loss(case, triplet_rows(0.5, mode), "euclidean")
        assert_result(library, result, want, case, 1e-8)


# Ties ----


@pytest.mark.parametrize("mode", MODES)
@given(st.integers(1, 12), st.integers(1, 10), st.sampled_from([0.0, 0.7]), st.integers(0, 2**32))
def test_triplet_ties_and_duplicates(on_numpy, mode, n, m, margin, seed):
    """Similarities that are small integers: ties between columns of one kind and of both."""
    rng = np.random.default_rng(seed)
    s = rng.integers(-2, 3, (n, m)).astype(float)
    kind = rng.random((n, m))
    positive, negative = kind < 0.4, kind > 0.5
    losses, gradient = Triplet(mode=mode, margin=margin).row_terms(s, positive, negative)
    want, want_gradient = triplet_rows(margin, mode)(s, positive, negative)
    assert_near(losses, want)
    assert_near(gradient, want_gradient)  # of equal columns the first takes the gradient
    assert not gradient[~(positive | negative)].any()


@pytest.mark.parametrize("mode", MODES)
def test_triplet_of_identical_points_is_the_margin(library, mode):
    x = library.asarray(np.ones((4, 3)))
    result = Triplet(mode=mode, margin=0.25)(x, labels=[0, 0, 1, 1])
    assert_near(library.to_numpy(result.value), 0.25)
    assert not library.to_numpy(result.grads["anchors"]).any()


# Precision and edges of InfoNCE -------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [4e-5, 1e-10])
def test_info_nce_keeps_its_gradient_on_well_separated_pairs(library, wanted, rng):
    a = np.linalg.qr(rng.standard_normal((64, 64)))[0][:8].astype(np.float32)
    p = (a + 0.03 * rng.standard_normal((8, 64))).astype(np.float32)
    case = Case(
        anchors=a.astype(np.float64),
        references=p.astype(np.float64),
        positive=np.eye(8, dtype=bool),
        negative=~np.eye(8, dtype=bool),
    )
    low, high = 0.01, 1.0  # the temperature at which the loss is the wanted one
    for _ in range(60):
        temperature = float(np.sqrt(low * high))
        value = dense_loss(case, info_nce_rows(temperature), "cosine")["value"]
        low, high = (temperature, high) if value < wanted else (low, temperature)
    want = dense_loss(case, info_nce_rows(temperature), "cosine")
    assert abs(want["value"] / wanted - 1) < 1e-6
    result = InfoNCE(temperature=temperature).value_and_grad(case.batch(library, "float32"))
    assert_near(library.to_numpy(result.value), want["value"], 1e-5, 0)
    for name in case.fields:
        assert_near(library.to_numpy(result.grads[name]), want[name], 1e-5, 0)


def test_info_nce_at_a_tiny_temperature(library, rng):
    a, p = rng.standard_normal((2, N, D))
    for dtype in ("float32", "float64"):
        result = InfoNCE(temperature=1e-4)(library.asarray(a, dtype), library.asarray(p, dtype))
        case = Case(
            anchors=np.float64(a.astype(dtype)),
            references=np.float64(p.astype(dtype)),
            positive=np.eye(N, dtype=bool),
            negative=~np.eye(N, dtype=bool),
        )
        want = dense_loss(case, info_nce_rows(1e-4), "cosine")
        for x in (result.value, *result.grads.values()):
            assert np.isfinite(library.to_numpy(x)).all()
        assert_near(library.to_numpy(result.value), want["value"], 1e-5)
    assert_result(library, result, want, case, 1e-7)


def test_zero_vectors_have_cosine_and_gradient_zero(library, rng):
    a, p = rng.standard_normal((2, N, D))
    a[2], p[5] = 0, 0
    result = InfoNCE(temperature=1.0)(library.asarray(a), library.asarray(p))
    assert not library.to_numpy(result.grads["anchors"])[2].any()
    assert not library.to_numpy(result.grads["references"])[5].any()
    nothing = library.asarray(np.zeros((N, D)))
    result = InfoNCE(temperature=1.0)(nothing, nothing)
    assert_near(library.to_numpy(result.value), np.log(N))
    assert not library.to_numpy(result.grads["anchors"]).any()


@pytest.mark.parametrize("similarity", NAMES)
@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_identical_pairs_are_finite(library, loss, similarity, rng):
    from dataclasses import replace

    a = library.asarray(rng.standard_normal((N, D)), "float32")
    for batch in (Batch.pairs(a, a), Batch.labelled(a[:1, :], [0])):
        result = replace(loss, similarity=similarity).value_and_grad(batch)
        for x in (result.value, *result.grads.values()):
            assert np.isfinite(library.to_numpy(x)).all()


@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_one_row_and_no_negatives_are_zero(library, loss, rng):
    one = [library.asarray(x) for x in rng.standard_normal((2, 1, D))]
    many = [library.asarray(x) for x in rng.standard_normal((2, N, D))]
    results = [loss(*one), loss(one[0], labels=[3])]
    if not isinstance(loss, SupCon):  # with two positives its loss is above 0
        results += [loss(*many, ids=[7] * N), loss(many[0], labels=[7] * N)]
    for result in results:
        assert_near(library.to_numpy(result.value), 0.0)
        for g in result.grads.values():
            assert_near(library.to_numpy(g), np.zeros(g.shape))


@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_one_class_and_all_alone(library, loss, rng):
    x = library.asarray(rng.standard_normal((N, D)))
    alone = loss(x, labels=list(range(N)))  # nobody has a positive
    assert not library.to_numpy(alone.value)
    assert not library.to_numpy(alone.grads["anchors"]).any()


def test_values_in_the_docstrings():
    a = np.eye(3, dtype=np.float32)
    assert_near(InfoNCE(temperature=1.0)(a, a).value, np.log(1 + 2 / np.e), 1e-6)
    assert_near(
        SupCon(temperature=1.0)(np.eye(4, dtype=np.float32), labels=[0, 0, 1, 1]).value,
        np.log(3),
        1e-6,
    )


@pytest.mark.parametrize("loss", LOSSES, ids=named)
def test_jit(loss, rng):
    jax = pytest.importorskip("jax", reason="the package jax is not installed")
    jax.config.update("jax_enable_x64", True)
    a, p = jax.numpy.asarray(rng.standard_normal((2, N, D)))

    def run(a, p):
        result = loss(a, p)
        return result.value, dict(result.grads)

    for x, y in zip(*(jax.tree.leaves(f(a, p)) for f in (run, jax.jit(run))), strict=True):
        assert_near(x, y, 1e-10)
