"""Fisher information: beside dense oracles, cut into batches in any way, and what is refused."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Case, assert_near, dense_loss, random_case

from coreframe import Batch, Loss, LossResult, Mined, Symmetric, WeightedSum, namespace
from coreframe.adapter import Adapter, squared_product
from coreframe.errors import ArgumentError, ArgumentTypeError, MixedArrays
from coreframe.fisher_information import Fisher, fisher
from coreframe.relation import masked
from coreframe_adapters.linear import Linear
from coreframe_adapters.low_rank import LowRank
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.mse import MSE
from coreframe_miners.hardest import Hardest

T = 0.3
LOSS = InfoNCE(temperature=T)
N, M, D, K = 5, 7, 4, 2


def info_nce(s, positive, negative):
    """The rows of InfoNCE as a dense softmax a positive: losses and derivatives."""
    losses, slopes = np.zeros(len(s)), np.zeros_like(s)
    for i in range(len(s)):
        ones = np.nonzero(positive[i])[0]
        for p in ones:
            columns = np.append(np.nonzero(negative[i])[0], p)
            e = np.exp(s[i, columns] / T)
            losses[i] -= np.log(e[-1] / e.sum()) / len(ones)
            slopes[i, columns] += e / e.sum() / T / len(ones)
            slopes[i, p] -= 1 / T / len(ones)
    return losses, slopes


def linear(rng, d=D):
    return Linear(bias=True), {"W": rng.standard_normal((d, d)), "b": rng.standard_normal(d)}


def low_rank(rng, d=D):
    a, b = rng.standard_normal((d, 2)), rng.standard_normal((2, d))
    return LowRank(rank=2, alpha=3.0), {"A": a, "B": b}


def summed(adapter, params, pairs):
    """The gradient of the parameters for rows x with output gradients dy, of several sets."""
    total = {name: np.zeros_like(p) for name, p in params.items()}
    for x, dy in pairs:
        x, dy = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
        if isinstance(adapter, Linear):
            total["W"] += x.T @ dy
            total["b"] += dy.sum(0)
        else:
            total["A"] += x.T @ (1.5 * dy @ params["B"].T)
            total["B"] += 1.5 * (x @ params["A"]).T @ dy
    return total


def mapped(adapter, params, x):
    if isinstance(adapter, Linear):
        return x @ params["W"] + params["b"]
    return x + 1.5 * x @ params["A"] @ params["B"]


def oracle(adapter, params, case: Case, side, method="exact", only=None):
    """The Fisher diagonal, one example after the other, everything in whole arrays."""
    fields = ["anchors", *(f for f in case.fields[1:] if side == "both")]
    after = case.replace(**{f: mapped(adapter, params, getattr(case, f)) for f in fields})
    n = len(case.anchors)
    weights = np.ones(n) if case.weights is None else case.weights
    if side == "query" and case.references is None:
        other = ~np.eye(n, dtype=bool)
        after = after.replace(
            references=after.anchors,
            positive=case.positive & other,
            negative=case.negative & other,
        )
    rows = range(n) if only is None else only
    total = {name: np.zeros_like(p) for name, p in params.items()}
    sums = {f: np.zeros_like(getattr(case, f)) for f in fields}
    for i in rows:
        alone = after.replace(weights=weights * (np.arange(n) == i))
        found = dense_loss(alone, info_nce, "cosine", "sum")
        if method == "row_wise":
            sums = {f: sums[f] + found[f] for f in fields}
            continue
        grads = summed(adapter, params, [(getattr(case, f), found[f]) for f in fields])
        for name, g in grads.items():
            total[name] += g * g
    if method == "row_wise":
        for f in fields:
            x, dy = getattr(case, f).reshape(-1, D), sums[f].reshape(-1, D)
            for j in range(len(x)):
                grads = summed(adapter, params, [(x[j : j + 1], dy[j : j + 1])])
                for name, g in grads.items():
                    total[name] += g * g
    return {name: x / len(rows) for name, x in total.items()}


def here(library, params, dtype="float64"):
    return {name: library.asarray(p, dtype) for name, p in params.items()}


def assert_fisher(library, found: Fisher, want, rtol=1e-9):
    assert sorted(found.diagonal) == sorted(want)
    for name, x in want.items():
        assert_near(library.to_numpy(found.diagonal[name]), x, rtol)


@pytest.mark.parametrize("make", [linear, low_rank])
@pytest.mark.parametrize(
    ("side", "method"), [("query", "exact"), ("both", "exact"), ("both", "row_wise")]
)
@pytest.mark.parametrize("kind", ["references", "labelled", "own negatives"])
def test_the_diagonal(library, make, side, method, kind, rng):
    few = make is low_rank or kind == "own negatives" or (kind, side) == ("labelled", "query")
    if library.name == "jax" and few:
        pytest.skip("one of each is enough where every shape is compiled")
    adapter, params = make(rng)
    m, k = (None, None) if kind == "labelled" else (M, K if kind == "own negatives" else None)
    case = random_case(rng, N, m, D, k, weights=True)
    found = fisher(
        adapter, here(library, params), LOSS, case.batch(library), side=side, method=method
    )
    assert found.examples == N
    assert found.method == method
    assert_fisher(library, found, oracle(adapter, params, case, side, method))


def test_with_labels(library, rng):
    """The relation of labels, which marks the self pair in neither mask."""
    adapter, params = linear(rng)
    x, labels = rng.standard_normal((6, D)), np.array([0, 0, 1, 1, 1, 2])
    same = labels[:, None] == labels[None, :]
    case = Case(anchors=x, positive=same, negative=~same)
    batch = Batch.labelled(library.asarray(x), library.asarray(labels))
    for side in ("query",) if library.name == "jax" else ("query", "both"):
        found = fisher(adapter, here(library, params), LOSS, batch, side=side)
        assert_fisher(library, found, oracle(adapter, params, case, side))


def test_gradients_of_torch(rng):
    """One pass of torch's autograd an example, through the adapter."""
    torch = pytest.importorskip("torch")
    adapter, params = linear(rng)
    x, r = rng.standard_normal((N, D)), rng.standard_normal((N, D))
    for side in ("query", "both"):
        own = {name: torch.tensor(p, requires_grad=True) for name, p in params.items()}
        total = {name: np.zeros_like(p) for name, p in params.items()}
        for i in range(N):
            y = torch.tensor(x) @ own["W"] + own["b"]
            t = torch.tensor(r)
            if side == "both":
                t = t @ own["W"] + own["b"]
            normal = torch.nn.functional.normalize
            z = normal(y) @ normal(t).T / T
            loss = torch.nn.functional.cross_entropy(z[i : i + 1], torch.tensor([i]))
            for name, g in zip(own, torch.autograd.grad(loss, list(own.values())), strict=True):
                total[name] += g.numpy() ** 2 / N
        found = fisher(adapter, params, LOSS, Batch.pairs(x, r), side=side)
        for name, want in total.items():
            assert_near(found.diagonal[name], want)


@given(data=st.data())
def test_the_cut_into_batches_does_not_matter(data):
    """With the same references, any cut of the examples gives the same."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    n, m = data.draw(st.integers(2, 9)), data.draw(st.integers(1, 6))
    adapter, params = data.draw(st.sampled_from([linear, low_rank]))(rng)
    side = data.draw(st.sampled_from(["query", "both"]))
    case = random_case(rng, n, m, D, weights=True)
    ends = sorted(data.draw(st.sets(st.integers(1, n - 1))))
    parts = [slice(a, b) for a, b in zip([0, *ends], [*ends, n], strict=True)]
    batches = [
        Batch(
            anchors=case.anchors[part],
            references=case.references,
            weights=case.weights[part],
            relation=masked(case.positive[part], case.negative[part]),
        )
        for part in parts
    ]
    want = oracle(adapter, params, case, side)
    found = fisher(adapter, params, LOSS, iter(batches), side=side)
    assert found.examples == n
    for name, x in want.items():
        assert_near(found.diagonal[name], x)


@pytest.mark.parametrize("side", ["query", "both"])
@pytest.mark.parametrize("method", ["exact", "row_wise"])
def test_samples(on_numpy, side, method, rng):
    adapter, params = linear(rng)
    cases = [random_case(rng, n, M, D, weights=True) for n in (4, 1, 6)]
    batches = [case.batch(on_numpy) for case in cases]
    found = fisher(adapter, params, LOSS, batches, side=side, method=method, samples=5, seed=3)
    from coreframe.random import stream

    drawn = np.sort(stream(3, "fisher").choice(11, 5, replace=False))
    assert len(set(drawn.tolist())) == 5
    want = {name: np.zeros_like(p) for name, p in params.items()}
    for first, case in zip((0, 4, 5), cases, strict=True):
        only = [i - first for i in drawn if 0 <= i - first < len(case.anchors)]
        if only:
            part = oracle(adapter, params, case, side, method, only)
            want = {name: x + part[name] * len(only) / 5 for name, x in want.items()}
    assert found.examples == 5
    assert_fisher(on_numpy, found, want)
    every = fisher(adapter, params, LOSS, batches, side=side, method=method, samples=11)
    assert every.examples == 11


@pytest.mark.parametrize("side", ["query", "both"])
def test_an_iterator_of_batches_costs_the_memory_of_one(on_numpy, side, rng):
    """The batch before is gone when the next is asked for, whatever it was needed for."""
    adapter, params = linear(rng)
    cases = [random_case(rng, n, M, D, weights=True) for n in (4, 1, 6)]
    before, alive = [], []

    def made():
        for case in cases:
            alive.append(sum(ref() is not None for ref in before))
            batch = case.batch(on_numpy)
            before.extend((weakref.ref(batch), weakref.ref(batch.anchors)))
            yield batch
            del batch

    found = fisher(adapter, params, LOSS, made(), side=side)
    assert alive == [0, 0, 0]
    whole = fisher(adapter, params, LOSS, [case.batch(on_numpy) for case in cases], side=side)
    assert found.examples == whole.examples == 11
    for name, x in whole.diagonal.items():
        assert np.array_equal(found.diagonal[name], x)
    del before[:], alive[:]
    fisher(adapter, params, LOSS, made(), side=side, samples=2)
    assert alive == [0, 2, 4]  # what is drawn from has to be held


@pytest.mark.parametrize("n", [0, 1, 255, 256, 257, 700])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_squares_in_blocks_equal_the_reference(on_numpy, n, dtype, rng):
    x = rng.standard_normal((n, 5)).astype(dtype)
    y = rng.standard_normal((2 * n, 2 * 3)).astype(dtype)[::2, ::2]  # rows that are apart
    for array in (x, y):
        array.flags.writeable = False
    found, want = squared_product(x, y), squared_product.reference(x, y)
    assert found.dtype == want.dtype == dtype
    assert_near(found, want, 1e-2 if dtype == "float16" else 1e-6)


def test_squares_in_blocks_keep_what_is_not_a_number(on_numpy, rng):
    x, y = rng.standard_normal((300, 2)), rng.standard_normal((300, 3))
    x[290, 1] = np.nan
    found = squared_product(x, y)
    assert np.isnan(found).tolist() == [[False] * 3, [True] * 3]


@pytest.mark.parametrize("make", [linear, low_rank])
def test_squared_gradients_on_every_library(library, make, rng):
    """Beside the form that passes row by row."""
    adapter, params = make(rng)
    params = here(library, params)
    x, dy = (library.asarray(rng.standard_normal((5, D))) for _ in range(2))
    found = adapter.squared_gradients(params, x, dy)
    for name, want in Adapter.squared_gradients(adapter, params, x, dy).items():
        assert_near(library.to_numpy(found[name]), library.to_numpy(want))


def test_float32_stays_and_parameters_are_brought(library, rng):
    """Parameters of a run are NumPy; the batches decide where and in what dtype to compute."""
    adapter, params = linear(rng)
    case = random_case(rng, N, M, D)
    for side in ("query",) if library.name == "jax" else ("query", "both"):
        found = fisher(adapter, params, LOSS, case.batch(library, "float32"), side=side)
        want = oracle(adapter, params, case, side)
        for name, x in found.diagonal.items():
            assert x.dtype == library.xp.float32
            assert type(x) is type(library.asarray(params[name], "float32"))
        assert_fisher(library, found, want, rtol=1e-4)


def test_half_precision_is_widened(on_numpy, rng):
    adapter, params = linear(rng)
    case = random_case(rng, N, M, D)
    case = case.replace(
        **{name: getattr(case, name).astype(np.float16) for name in ("anchors", "references")}
    )
    found = fisher(adapter, params, LOSS, case.batch(on_numpy, "float16"), scale=1e-3)
    assert found.diagonal["W"].dtype == np.float32
    want = fisher(adapter, params, LOSS, case.batch(on_numpy, "float64"), scale=1e-3)
    assert_fisher(on_numpy, found, want.diagonal, 1e-4)


def test_labels_and_ids_may_be_lists(on_numpy, rng):
    """Of a batch that is taken apart row by row."""
    adapter, params = linear(rng)
    x, labels = rng.standard_normal((6, D)), [0, 0, 1, 1, 1, 2]
    one, other = (
        fisher(adapter, params, LOSS, Batch.labelled(x, rows, ids=ids), side="both")
        for rows, ids in ((labels, list("abcdef")), (np.array(labels), None))
    )
    assert_fisher(on_numpy, one, other.diagonal)


def test_a_loss_with_parameters(on_numpy, rng):
    adapter, params = linear(rng)
    case = random_case(rng, N, M, D)
    own = {"log_scale": np.array(0.7), "bias": np.array(0.0)}
    learned = fisher(
        adapter,
        params,
        replace(LOSS, learnable_scale=True),
        case.batch(on_numpy),
        loss_params=own,
    )
    sharper = replace(LOSS, temperature=T / np.exp(0.7))
    want = fisher(adapter, params, sharper, case.batch(on_numpy))
    assert_fisher(on_numpy, learned, want.diagonal)


def test_parameters_of_the_loss_are_brought(library, rng):
    """Those of a run are NumPy, as the adapter's are."""
    if library.name == "jax":
        pytest.skip("nothing more than with the adapter's, and compiled for long")
    adapter, params = linear(rng)
    case = random_case(rng, N, M, D)
    own = {"log_scale": np.zeros((), np.float32), "bias": np.zeros((), np.float32)}
    loss = replace(LOSS, learnable_scale=True)
    found = fisher(adapter, params, loss, case.batch(library), loss_params=own)
    assert_fisher(library, found, oracle(adapter, params, case, "query"))


@pytest.mark.parametrize("side", ["query", "both"])
def test_losses_made_of_losses(on_numpy, side, rng):
    """Each inner loss gives the value of each row; examples are told apart by weights."""
    adapter, params = linear(rng)
    batch = Batch.pairs(rng.standard_normal((N, D)), rng.standard_normal((N, D)))
    one = fisher(adapter, params, LOSS, batch, side=side)
    twice = WeightedSum(losses={"a": LOSS, "b": LOSS}, weights={"b": 2.0})
    found = fisher(adapter, params, twice, batch, side=side)
    assert_fisher(on_numpy, found, {name: 9 * x for name, x in one.diagonal.items()})
    mined = Mined(miner=Hardest(k=N), loss=LOSS)
    assert_fisher(on_numpy, fisher(adapter, params, mined, batch, side=side), one.diagonal)


def test_squared_errors_on_both_sides(on_numpy, rng):
    """A loss of aligned rows: example i holds row i of both sides and no other."""
    adapter, params = linear(rng)
    x, t = rng.standard_normal((2, N, D))
    found = fisher(adapter, params, MSE(), Batch.pairs(x, t), side="both")
    apart = (x - t) @ params["W"]
    want = np.mean([np.outer(x[i] - t[i], 2 * apart[i] / D) ** 2 for i in range(N)], axis=0)
    assert_near(found.diagonal["W"], want)
    assert not found.diagonal["b"].any()


def test_scale_multiplies_the_loss(on_numpy, rng):
    adapter, params = linear(rng)
    case = random_case(rng, N, M, D)
    plain = fisher(adapter, params, LOSS, case.batch(on_numpy))
    tripled = fisher(adapter, params, LOSS, case.batch(on_numpy), scale=3.0)
    assert_fisher(on_numpy, tripled, {name: 9 * x for name, x in plain.diagonal.items()})
    weighted = case.replace(weights=np.full(N, 3.0)).batch(on_numpy)
    assert_fisher(on_numpy, fisher(adapter, params, LOSS, weighted), tripled.diagonal)


def test_examples_that_are_left_out_have_no_gradient(on_numpy, rng):
    """Weight 0 and no positive: gradient 0, and they count in the mean."""
    adapter, params = linear(rng)
    case = random_case(rng, N, M, D)
    case.positive[:] = np.arange(M) == 0
    case.negative[:, 0] = False
    every = oracle(adapter, params, case, "query", only=[0, 1, 2])
    case.positive[3:] = False
    weights = np.array([1.0, 1, 1, 1, 1])
    for changed in (weights, weights * (np.arange(N) < 3)):
        found = fisher(adapter, params, LOSS, case.replace(weights=changed).batch(on_numpy))
        assert found.examples == N
        assert_fisher(on_numpy, found, {name: x * 3 / N for name, x in every.items()})


def test_normalized(library):
    x = {"A": np.array([[1.0, 3.0]]), "B": np.zeros((2, 2))}
    found = Fisher(here(library, x, "float32"), 2, "exact")
    for by, over, want in (
        ("max", "all", [[1 / 3, 1]]),
        ("max", "tensor", [[1 / 3, 1]]),
        ("mean", "all", [[1.5, 4.5]]),
        ("mean", "tensor", [[0.5, 1.5]]),
    ):
        done = found.normalized(by, over)
        assert_near(library.to_numpy(done.diagonal["A"]), want, 1e-6)
        assert not library.to_numpy(done.diagonal["B"]).any()
        assert done.diagonal["A"].dtype == library.xp.float32
        assert (done.examples, done.method) == (2, "exact")


# What is refused ----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Plain(Loss):
    """A loss with one value only."""

    def value_and_grad(self, batch, params=None, *, wrt=None):
        return LossResult(np.sum(batch.anchors), {"anchors": np.ones_like(batch.anchors)})


@dataclass(frozen=True, kw_only=True)
class Bound(Loss):
    """A loss whose rows cannot be told apart: it does not look at weights."""

    reduction: str = "none"

    def value_and_grad(self, batch, params=None, *, wrt=None):
        xp = namespace(anchors=batch.anchors)
        value = xp.sum(batch.anchors**2, axis=1)
        grads = {"anchors": 2 * batch.anchors, "references": 0 * batch.targets}
        return LossResult(value if self.reduction == "none" else xp.sum(value), grads)


@dataclass(frozen=True, kw_only=True)
class Deaf(Bound):
    """The same, and it takes no notice of its reduction."""

    def value_and_grad(self, batch, params=None, *, wrt=None):
        return Bound(reduction="sum").value_and_grad(batch, params, wrt=wrt)


@dataclass(frozen=True, kw_only=True)
class Centred(Bound):
    """It says that it goes by the relation, and measures from the mean of all anchors."""

    needs = ("anchors", "relation")

    def value_and_grad(self, batch, params=None, *, wrt=None):
        apart = batch.anchors - np.mean(batch.anchors, axis=0)
        grads = {"anchors": 2 * apart, "references": 0 * batch.references}
        return LossResult(np.sum(apart**2, axis=1), grads)


BATCH = Batch.pairs(np.eye(3), np.ones((3, 3)))
START = {"W": np.eye(3)}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"side": "document"}, "side must be one of query, both, got 'document'"),
        ({"method": "row"}, "method must be one of exact, row_wise, got 'row'"),
        ({"samples": 0}, "samples must be a whole number from 1 or None, got 0"),
        ({"samples": 2.5}, "samples must be a whole number"),
        ({"scale": 0.0}, "scale must be above 0 and finite"),
        ({"batches": []}, "batches holds no examples"),
        ({"params": {"adapter.W": np.eye(3)}}, r"lacks 'W' of Linear, it has adapter\.W; .*under"),
        ({"params": {"W": np.eye(4)}}, "width 3, but the parameters are of an adapter of width 4"),
        ({"params": {"W": np.full((3, 3), np.nan)}}, "NaN"),
        ({"loss": Plain()}, 'Plain has no field "reduction" that could be "none"'),
        ({"loss": Deaf()}, r'Deaf with reduction="none" must return values \(3,\), got \(\)'),
        ({"loss": Bound(), "side": "both"}, r"cannot be told apart.*method='row_wise'"),
        ({"loss": Centred(), "side": "both"}, r"changes when the others are left out"),
        ({"loss": Symmetric(loss=LOSS)}, "give fisher one direction"),
        ({"loss": InfoNCE(symmetric=True)}, "symmetric=False"),
        ({"loss": WeightedSum(losses={"a": Symmetric(loss=LOSS)})}, "symmetric loss has no loss"),
        ({"loss": MSE(), "batches": Batch.labelled(np.eye(3), [0, 0, 1])}, "MSE needs references"),
    ],
)
def test_what_cannot_work(arguments, text):
    given = {"params": START, "loss": LOSS, "batches": BATCH} | arguments
    with pytest.raises(ArgumentError, match=text):
        fisher(Linear(), **given)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"batches": [np.eye(3)]}, "got a ndarray in it"),
        ({"loss": "info_nce"}, r"loss must be a coreframe\.Loss, got 'info_nce'"),
    ],
)
def test_what_is_of_another_type(arguments, text):
    given = {"params": START, "loss": LOSS, "batches": BATCH} | arguments
    with pytest.raises(ArgumentTypeError, match=text):
        fisher(Linear(), **given)


def test_batches_of_two_libraries():
    torch = pytest.importorskip("torch")
    other = Batch.pairs(torch.eye(3), torch.ones((3, 3)))
    with pytest.raises(MixedArrays, match="batches_1: torch"):
        fisher(Linear(), START, LOSS, [BATCH, other])


def test_a_gradient_that_is_not_finite(on_numpy):
    huge = {"W": np.full((3, 3), 1e200)}
    text = r"Fisher information of 'W' is not finite"
    with pytest.raises(ArgumentError, match=text), np.errstate(all="ignore"):
        fisher(Linear(), huge, MSE(), Batch.pairs(np.eye(3), np.ones((3, 3))))


@pytest.mark.parametrize("name", ["by", "over"])
def test_normalized_by_what_there_is(name):
    found = Fisher({"W": np.ones(2)}, 1, "exact")
    with pytest.raises(ArgumentError, match=f"{name} must be one of"):
        found.normalized(**{name: "min"})
