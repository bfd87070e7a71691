"""The training loop: that it learns, repeats itself, and survives what goes wrong."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
from support import LIBRARIES, assert_is_gradient

import coreframe
from coreframe import loop
from coreframe.adapter import Adapter
from coreframe.artefact import load
from coreframe.backend import namespace, to_numpy
from coreframe.callbacks import Callback
from coreframe.data.pairs import Pairs
from coreframe.errors import (
    ArgumentError,
    ArgumentTypeError,
    BackendUnavailable,
    UnknownName,
)
from coreframe.evaluation.retrieval import evaluate
from coreframe.loss import Loss, LossResult
from coreframe.miner import Miner
from coreframe.scheduler import Scheduler
from coreframe.trainer import fit
from coreframe_adapters.linear import Linear
from coreframe_adapters.low_rank import LowRank
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.sup_con import SupCon
from coreframe_miners.hardest import Hardest
from coreframe_optimizers.adamw import AdamW
from coreframe_optimizers.sgd import SGD
from coreframe_regularizers.graph_laplacian import GraphLaplacian
from coreframe_regularizers.l2 import L2
from coreframe_schedulers.warmup_cosine import WarmupCosine

D = 8


def rotation(n=240, d=D, seed=0, noise=0.05):
    """Queries are the documents, turned: a linear map finds its way back, the base does not."""
    rng = np.random.default_rng(seed)
    documents = rng.standard_normal((n, d))
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    queries = documents @ turn + noise * rng.standard_normal((n, d))
    return Pairs(queries, documents)


@pytest.fixture(scope="module")
def parts():
    return rotation().split(0.2, 0.3, seed=1)


QUICK = {"epochs": 3, "batch_size": 32, "optimizer": AdamW(learning_rate=0.02)}
LIBRARIES_OF_USERS = ("numpy", "torch", "jax")


def params_of(data, dev=None, **options):
    return fit(data, dev, **{**QUICK, **options}).params


def on(name, pairs):
    if name == "numpy":
        return pairs
    pytest.importorskip(name)
    LIBRARIES[name]()  # JAX has float64 only where it was asked to
    backend = coreframe.get_backend(name)
    return pairs.mapped(backend.asarray(pairs.queries), backend.asarray(pairs.documents))


# Learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize("adapter", ["linear", LowRank(rank=D), Linear(bias=True)])
def test_it_learns_a_rotation(parts, adapter):
    train, dev, test = parts
    run = fit(
        train, dev, adapter=adapter, epochs=40, batch_size=64, optimizer=AdamW(learning_rate=0.05)
    )
    base, adapted = (evaluate(a, test).mean()["ndcg@10"] for a in (None, run.adapter))
    assert base < 0.4
    assert adapted > 0.9
    assert run.best_epoch > 0
    assert run.dev == pytest.approx(evaluate(run.adapter, dev).mean())
    assert run.skipped_steps == 0
    assert not run.adapter.rebuilds_index


def test_nothing_is_better_than_it_was_before_a_step(parts):
    train, dev, _ = parts
    run = fit(train, dev, **QUICK)
    steps = -(-len(train) // 32)
    evaluated = [h for h in run.history if "ndcg@10" in h]
    assert [h["epoch"] for h in evaluated] == [0, 1, 2, 3]
    assert [h["step"] for h in evaluated] == [0, steps, 2 * steps, 3 * steps]
    start = {k: v for k, v in evaluated[0].items() if k not in ("epoch", "step")}
    assert start == pytest.approx(evaluate(None, dev).mean())
    trained = [h for h in run.history if "loss" in h]
    assert [h["step"] for h in trained] == list(range(1, 3 * steps + 1))
    assert all(h["grad_norm"] > 0 and h["learning_rate"] == 0.02 for h in trained)
    assert trained[-1]["loss"] < trained[0]["loss"]


def test_without_dev_the_last_epoch_is_kept(parts):
    run = fit(parts[0], **QUICK)
    assert run.best_epoch == 3
    assert run.dev == {}
    assert all("ndcg@10" not in h for h in run.history)


def test_two_examples_train_and_one_does_not():
    x = np.random.default_rng(0).standard_normal((2, D))
    run = fit(Pairs(x, x[::-1].copy()), epochs=5)
    assert np.isfinite(run.params["adapter.W"]).all()
    assert (run.params["adapter.W"] != np.eye(D)).any()
    with pytest.raises(ArgumentError, match="training needs at least 2 pairs, got 1"):
        fit(Pairs(x[:1], x[:1]))


def test_a_last_batch_of_one_row_does_no_harm():
    run = fit(rotation(n=33), **QUICK)
    assert np.isfinite(run.params["adapter.W"]).all()
    assert run.skipped_steps == 0


# The same again -----------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits(parts):
    options = {"adapter": LowRank(rank=3), "miner": "random"}
    first, again, other = (params_of(*parts[:2], seed=s, **options) for s in (1, 1, 2))
    for name, x in first.items():
        np.testing.assert_array_equal(x, again[name])
    assert any((x != other[name]).any() for name, x in first.items())


@pytest.mark.parametrize("library", LIBRARIES_OF_USERS[1:])
@pytest.mark.parametrize("miner", ["random", Hardest(k=4)])
def test_every_library_takes_the_same_steps(library, miner, parts):
    """The same start, batches, negatives and steps: in float64 nothing but rounding is left."""
    options = {"adapter": LowRank(rank=3), "miner": miner, "epochs": 2, "max_grad_norm": 0.5}
    options["batch_size"] = len(parts[0]) // 3  # one shape is all that JAX has to compile
    want = fit(parts[0], **{**QUICK, **options})
    got = fit(on(library, parts[0]), **{**QUICK, **options})
    assert got.backend == library
    assert sorted(got.params) == sorted(want.params)
    for name, x in want.params.items():
        assert x.dtype == got.params[name].dtype == np.float64
        np.testing.assert_allclose(got.params[name], x, rtol=0, atol=1e-9)
    for mine, theirs in zip(got.history, want.history, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9)


def test_results_come_back_in_the_library_of_the_user(library, parts, tmp_path):
    train, dev = (
        p.mapped(library.asarray(p.queries.copy()), library.asarray(p.documents.copy()))
        for p in parts[:2]
    )
    run = fit(train, dev, **{**QUICK, "epochs": 1, "batch_size": len(train)})
    if library.name in ("torch", "jax", "cupy"):
        assert (run.backend, run.backend_source) == (library.name, "the arrays given")
    else:  # a library without a backend of its own is trained in NumPy
        assert run.backend == "numpy"
    adapted = run.adapter(train.queries)
    assert type(adapted) is type(train.queries)
    assert adapted.dtype == train.queries.dtype
    assert str(getattr(adapted, "device", "")) == str(getattr(train.queries, "device", ""))
    assert all(isinstance(x, np.ndarray) for x in run.params.values())
    run.adapter.save(tmp_path)
    again = load(tmp_path)(train.queries)
    np.testing.assert_array_equal(to_numpy(again), to_numpy(adapted))


# Where it runs ------------------------------------------------------------------------------


def test_the_backend_is_recorded_with_who_chose_it(parts, monkeypatch):
    monkeypatch.delenv("COREFRAME_BACKEND", raising=False)
    train, options = parts[0], {**QUICK, "epochs": 1}
    run = fit(train, backend="numpy", **options)
    assert (run.backend, run.backend_source) == ("numpy", "argument")
    monkeypatch.setenv("COREFRAME_BACKEND", "numpy")
    run = fit(train, **options)
    assert (run.backend, run.backend_source) == ("numpy", "COREFRAME_BACKEND")
    monkeypatch.setenv("COREFRAME_BACKEND", "abacus")
    with pytest.raises(UnknownName, match="no backend is named 'abacus'"):
        fit(train, **options)
    with pytest.raises(UnknownName, match="'sun' "):
        fit(train, backend="sun", **options)
    with pytest.raises(BackendUnavailable, match="has only the device cpu"):
        fit(train, backend="numpy:1", **options)


def test_the_argument_beats_the_environment_beats_the_arrays(parts, monkeypatch):
    train = on("torch", parts[0])
    options = {**QUICK, "epochs": 1}
    monkeypatch.setenv("COREFRAME_BACKEND", "numpy")
    assert fit(train, **options).backend == "numpy"
    assert fit(train, backend="torch", **options).backend == "torch"
    monkeypatch.delenv("COREFRAME_BACKEND")
    assert fit(train, **options).backend == "torch"
    assert fit(train, backend="numpy", **options).backend == "numpy"


# A step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["query", "both", "labels"])
def test_one_step_goes_down_the_slope_of_the_whole(side, rng):
    """Through adapter, loss and regularizers: against differences of a loss written out here."""
    n, edges = 14, np.array([[0, 3], [2, 7], [9, 1]])
    q, d = rng.standard_normal((n, D)), rng.standard_normal((n, D))
    labels = np.arange(n) % 3

    def whole(w):
        def unit(x):
            return x / np.linalg.norm(x, axis=1, keepdims=True)

        z = q @ w
        other = z if side == "labels" else d @ w if side == "both" else d
        s = unit(z) @ unit(other).T / 0.3
        right = np.eye(n, dtype=bool)
        if side == "labels":
            s[right] = -np.inf
            right = (labels[:, None] == labels[None, :]) & ~right
        log_p = s - np.log(np.sum(np.exp(s), axis=1, keepdims=True))
        value = -np.mean(np.sum(np.where(right, log_p, 0), axis=1) / right.sum(axis=1))
        value += 0.05 * np.sum((z[edges[:, 0]] - z[edges[:, 1]]) ** 2)
        return value + 0.5 * 0.7 * np.sum(w * w)

    run = fit(
        Pairs.labelled(q, labels) if side == "labels" else Pairs(q, d),
        loss=SupCon(temperature=0.3) if side == "labels" else InfoNCE(temperature=0.3),
        side="query" if side == "query" else "both",
        regularizers=[
            GraphLaplacian(strength=0.05, edges=edges),
            L2(strength=0.7, toward="zero"),
        ],
        optimizer=SGD(learning_rate=1.0),
        epochs=1,
        batch_size=n,
    )
    assert run.history[0]["loss"] == pytest.approx(whole(np.eye(D)))
    slope = np.eye(D) - run.params["adapter.W"]
    assert run.history[0]["grad_norm"] == pytest.approx(np.linalg.norm(slope))
    assert_is_gradient(whole, np.eye(D), slope, rng)


# Sides and starts ---------------------------------------------------------------------------


def test_the_side_decides_what_moves(parts):
    train = parts[0]
    query, both = (fit(train, side=side, **QUICK) for side in ("query", "both"))
    x = train.documents
    plain = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(query.adapter(x, side="document"), plain)
    assert (query.adapter.rebuilds_index, both.adapter.rebuilds_index) == (False, True)
    np.testing.assert_array_equal(both.adapter(x, side="document"), both.adapter(x))
    assert (both.params["adapter.W"] != query.params["adapter.W"]).any()


STILL = SGD(learning_rate=0.0)


@pytest.mark.parametrize(("start", "side"), [("procrustes", "query"), ("whitening", "both")])
def test_a_start_is_applied_first(parts, start, side):
    train, dev, _ = parts
    run = fit(train, dev, start=start, side=side, optimizer=STILL, epochs=1)
    assert run.best_epoch == 0
    alone = coreframe.build("adapters", start)
    solved = alone.solve(*train.aligned())
    for name, x in (("query", dev.queries), ("document", dev.documents)):
        moved = name == "query" or side == "both"
        want = alone.forward(solved, x)[0] if moved else x
        want = want / np.linalg.norm(want, axis=1, keepdims=True)
        np.testing.assert_allclose(run.adapter(x, side=name), want, atol=2e-6)
    trained = fit(train, dev, start=start, side=side, **{**QUICK, "epochs": 10})
    assert trained.history[0]["ndcg@10"] == pytest.approx(run.dev["ndcg@10"], abs=1e-6)
    assert trained.dev["ndcg@10"] >= run.dev["ndcg@10"]
    assert trained.adapter.rebuilds_index == (side == "both")


def test_procrustes_solves_the_rotation(parts):
    train, dev, _ = parts
    run = fit(train, dev, start="procrustes", optimizer=STILL, epochs=1)
    assert run.dev["ndcg@10"] > 0.95


def test_labelled_vectors(rng):
    # Three directions of noise hide one that tells the classes apart.
    labels = rng.integers(4, size=160)
    x = rng.standard_normal((160, 6)) * [3, 3, 3, 0.5, 0.5, 0.5]
    x[:, 3:] += np.eye(4, 3)[labels] * 2
    train, dev, test = Pairs.labelled(x, labels).split(0.2, 0.3)
    for loss in (SupCon(temperature=0.2), InfoNCE(temperature=0.2)):
        run = fit(
            train, dev, loss=loss, side="both", epochs=20, optimizer=AdamW(learning_rate=0.03)
        )
        base, adapted = (evaluate(a, test).mean()["mrr@10"] for a in (None, run.adapter))
        assert adapted > base + 0.1
        assert run.adapter.rebuilds_index


# Regularizers -------------------------------------------------------------------------------


def test_l2_holds_the_adapter_at_its_start(parts):
    def distance(*regularizers):
        run = fit(parts[0], **{**QUICK, "epochs": 8}, regularizers=regularizers)
        return np.linalg.norm(run.params["adapter.W"] - np.eye(D))

    free, held, named = distance(), distance(L2(strength=10.0)), distance("l2")
    assert held < 0.2 * free
    assert named < free
    to_zero = fit(
        parts[0], **{**QUICK, "epochs": 30}, regularizers=[L2(strength=10.0, toward="zero")]
    )
    assert np.linalg.norm(to_zero.params["adapter.W"]) < 0.5 * np.sqrt(D)


def test_a_graph_pulls_its_neighbours_together(parts):
    train = parts[0]
    pairs = np.random.default_rng(0).integers(len(train), size=(200, 2))
    edges = pairs[pairs[:, 0] != pairs[:, 1]]

    def length(*regularizers):
        options = {**QUICK, "epochs": 10, "batch_size": 200}
        run = fit(train, adapter="linear", regularizers=regularizers, **options)
        z = train.queries @ run.params["adapter.W"]
        return np.sum((z[edges[:, 0]] - z[edges[:, 1]]) ** 2)

    assert length(GraphLaplacian(strength=0.1, edges=edges)) < 0.7 * length()


def test_a_graph_of_documents_is_joined_by_their_rows(rng):
    """Far apart in every batch, but the only two that an edge joins."""
    seen = []

    class Noted(GraphLaplacian):
        def value_and_grad(self, arrays, *, ids=None):
            rows = row_of(arrays["references"], documents)
            np.testing.assert_array_equal(ids["references"], rows)
            found = super().value_and_grad(arrays, ids=ids)
            seen.append(float(found.value) > 0)
            assert seen[-1] == ({3, 17} <= set(rows.tolist()))
            return found

    documents = rng.standard_normal((20, D))
    data = Pairs(rng.standard_normal((20, D)), documents, np.arange(20)[::-1])
    graph = Noted(edges=np.array([[3, 17]]), on="references")
    fit(data, regularizers=[graph], epochs=8, batch_size=10, optimizer=STILL)
    assert {True, False} == set(seen)


# What is kept -------------------------------------------------------------------------------


def test_the_best_epoch_is_kept(parts, monkeypatch):
    """Dev figures as given: the second epoch is best, and the fourth only as good."""
    train, dev, _ = parts
    figures = iter([0.1, 0.2, 0.7, 0.3, 0.7])
    seen = []

    class Found:
        def __init__(self, adapter):
            seen.append(adapter.side("query").arrays["W"].copy())
            self.figure = next(figures)

        def mean(self):
            return dict.fromkeys(("recall@1", "recall@10", "mrr@10", "ndcg@10"), self.figure)

    monkeypatch.setattr(loop, "evaluate", lambda adapter, pairs, **_: Found(adapter))
    run = fit(train, dev, **{**QUICK, "epochs": 4})
    assert run.best_epoch == 2
    assert run.dev["ndcg@10"] == 0.7
    np.testing.assert_array_equal(run.adapter.side("query").arrays["W"], seen[2])
    np.testing.assert_array_equal(run.params["adapter.W"].astype(np.float32), seen[2])
    assert (seen[2] != seen[4]).any()


def test_the_start_is_kept_where_it_is_the_first_to_be_overwritten(parts, monkeypatch):
    """The first update that is done writes to nothing; here it is left out, and comes second."""
    figures = iter([0.9, 0.1, 0.1])

    class Found:
        def mean(self):
            return dict.fromkeys(("recall@1", "recall@10", "mrr@10", "ndcg@10"), next(figures))

    gradients = loop.Trainer._gradients

    def broken(self, batch, progress):
        found = gradients(self, batch, progress)
        return found if progress.step else {**found, "value": found["value"] * np.nan}

    monkeypatch.setattr(loop, "evaluate", lambda adapter, pairs, **_: Found())
    monkeypatch.setattr(loop.Trainer, "_gradients", broken)
    run = fit(*parts[:2], **{**QUICK, "epochs": 2})
    assert (run.best_epoch, run.skipped_steps) == (0, 1)
    np.testing.assert_array_equal(run.params["adapter.W"], np.eye(D))


def test_the_metric_decides_which_epoch_is_best(parts, monkeypatch):
    rows = [(0.1, 0.9), (0.5, 0.2), (0.3, 0.4)]
    tables = iter(rows * 2)

    class Found:
        def mean(self):
            recall, mrr = next(tables)
            return {"recall@1": 0.0, "recall@10": recall, "mrr@10": mrr, "ndcg@10": 0.0}

    monkeypatch.setattr(loop, "evaluate", lambda adapter, pairs, **_: Found())
    options = {**QUICK, "epochs": 2}
    assert fit(*parts[:2], metric="recall@10", **options).best_epoch == 1
    assert fit(*parts[:2], metric="mrr@10", **options).best_epoch == 0


def test_a_run_that_diverges_keeps_the_start(parts):
    train = parts[0]
    same = Pairs(train.documents, train.documents)  # the base is perfect already
    run = fit(
        train, same, optimizer=SGD(learning_rate=1e6), **{k: QUICK[k] for k in ("batch_size",)}
    )
    assert run.best_epoch == 0
    np.testing.assert_array_equal(run.params["adapter.W"], np.eye(D))
    assert run.dev["recall@1"] == 1.0


# What goes wrong on the way -----------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AtStep(Scheduler):
    """One value at one step, another at all others."""

    step: int
    then: float
    otherwise: float = 1.0

    def __call__(self, progress):
        return self.then if progress.step == self.step else self.otherwise


@dataclass(frozen=True, kw_only=True)
class Poisoned(InfoNCE):
    """InfoNCE whose value or gradient is multiplied by a scheduled number."""

    value_by: float | Scheduler = 1.0
    grads_by: float | Scheduler = 1.0

    def value_and_grad(self, batch, params=None, *, wrt=None):
        found = super().value_and_grad(batch, params, wrt=wrt)
        grads = {name: self.grads_by * g for name, g in found.grads.items()}
        return LossResult(self.value_by * found.value, grads, found.param_grads)


@pytest.mark.parametrize("library", LIBRARIES_OF_USERS)
@pytest.mark.parametrize("where", ["value_by", "grads_by"])
@pytest.mark.parametrize("what", [float("nan"), float("inf")])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # infinity times 0, above
def test_a_step_that_is_not_finite_is_skipped(library, where, what, parts):
    loss = Poisoned(**{where: AtStep(step=2, then=what)})
    options = {"optimizer": AdamW(learning_rate=0.02), "epochs": 1, "batch_size": 40}
    seen = []

    class Watch(Callback):
        def on_step(self, status):
            seen.append(status.values["loss"])

    run = fit(on(library, parts[0]), loss=loss, callbacks=[Watch()], **options)
    assert run.skipped_steps == 1
    assert np.isfinite(run.params["adapter.W"]).all()
    assert np.isfinite(seen[2]) == (where == "grads_by")
    clean = fit(parts[0], loss="info_nce", **options)
    assert clean.skipped_steps == 0
    assert (clean.params["adapter.W"] != run.params["adapter.W"]).any()


def test_every_step_not_finite_leaves_the_start(parts):
    run = fit(parts[0], loss=Poisoned(value_by=float("nan")), max_skipped_steps=None, **QUICK)
    np.testing.assert_array_equal(run.params["adapter.W"], np.eye(D))
    assert run.skipped_steps == 3 * -(-len(parts[0]) // 32)


def test_a_skipped_step_leaves_the_moments_of_the_optimizer_alone(parts):
    """What follows a skipped first step is what follows from a start with the second batch."""
    loss = Poisoned(grads_by=AtStep(step=0, then=float("nan"), otherwise=0.0))
    run = fit(parts[0], loss=loss, **{**QUICK, "optimizer": SGD(learning_rate=0.1, momentum=0.9)})
    np.testing.assert_array_equal(run.params["adapter.W"], np.eye(D))


@pytest.mark.parametrize("limit", [1e-3, 1.0])
def test_gradients_are_clipped_to_a_global_norm(parts, limit):
    options = {"epochs": 1, "batch_size": len(parts[0]), "optimizer": SGD(learning_rate=1.0)}
    adapter = Linear(bias=True)
    free = fit(parts[0], adapter=adapter, **options)
    held = fit(parts[0], adapter=adapter, max_grad_norm=limit, **options)

    def move(run):
        return np.concatenate(
            [(run.params["adapter.W"] - np.eye(D)).ravel(), run.params["adapter.b"]]
        )

    norm = free.history[0]["grad_norm"]
    assert np.linalg.norm(move(free)) == pytest.approx(norm)
    assert held.history[0]["grad_norm"] == pytest.approx(norm)  # before it was clipped
    np.testing.assert_allclose(move(held), move(free) * min(1, limit / norm), atol=1e-12)


# Schedules and parameters -------------------------------------------------------------------


def test_scheduled_numbers_change_from_step_to_step(parts):
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Noted(InfoNCE):
        def value_and_grad(self, batch, params=None, *, wrt=None):
            seen.append(self.temperature)
            return super().value_and_grad(batch, params, wrt=wrt)

    temperature = WarmupCosine(peak=0.5, minimum=0.1, warmup_steps=1)
    rate = WarmupCosine(peak=0.02, warmup_steps=3)
    run = fit(
        parts[0],
        loss=Noted(temperature=temperature),
        optimizer=AdamW(learning_rate=rate),
        epochs=2,
        batch_size=32,
    )
    steps = 2 * -(-len(parts[0]) // 32)
    assert seen == [temperature.at(i, steps) for i in range(steps)]
    assert len(set(seen)) > 3
    rates = [h["learning_rate"] for h in run.history if "loss" in h]
    assert rates == pytest.approx([rate.at(i, steps) for i in range(steps)])


@pytest.mark.parametrize("library", LIBRARIES_OF_USERS)
def test_parameters_of_the_loss_are_trained_and_not_stored(library, parts):
    documents = parts[0].documents[:64]
    data = on(library, Pairs(documents, documents))
    options = {**QUICK, "batch_size": 64, "epochs": 6}
    run = fit(data, loss=InfoNCE(learnable_scale=True, temperature=1.0), **options)
    assert run.params["loss.log_scale"] > 0.05  # a sharper softmax fits what is aligned already
    assert sorted(run.params) == ["adapter.W", "loss.bias", "loss.log_scale"]
    assert sorted(run.adapter.side("query").arrays) == ["W"]


@dataclass(frozen=True, kw_only=True)
class Bounded(Loss):
    """A loss with one parameter that may not leave [0, 0.01], and pulls it up."""

    def init(self, rng, dim):
        return {"x": np.zeros((), np.float32)}

    def project(self, params):
        xp = namespace(x=params["x"])
        return {"x": xp.clip(params["x"], 0.0, 0.01)}

    def value_and_grad(self, batch, params=None, *, wrt=None):
        found = InfoNCE().value_and_grad(batch, wrt=wrt)
        return LossResult(found.value - params["x"], found.grads, {"x": params["x"] * 0 - 1})


def test_a_loss_may_move_its_parameters_back(parts):
    run = fit(parts[0], loss=Bounded(), **QUICK)
    assert run.params["loss.x"] == pytest.approx(0.01)


def test_no_weight_decay_for_vectors_unless_a_rule_says_so(parts):
    """With no gradient, decay is all that moves: W shrinks, b does not."""

    @dataclass(frozen=True, kw_only=True)
    class Shifted(Linear):
        def init(self, rng, dim_in):
            return {**super().init(rng, dim_in), "b": np.ones(dim_in, np.float32)}

    def end(**options):
        optimizer = SGD(learning_rate=0.1, weight_decay=0.5, **options)
        still = Poisoned(grads_by=0.0)
        run = fit(parts[0], adapter=Shifted(bias=True), loss=still, optimizer=optimizer, epochs=2)
        return run.params["adapter.W"][0, 0], run.params["adapter.b"][0]

    w, b = end()
    assert w == pytest.approx(0.95**2, rel=1e-6)
    assert b == 1
    w, b = end(rules=(coreframe.Rule("*.W", {"weight_decay": 0.0}),))
    assert w == 1
    assert b == pytest.approx(0.95**2, rel=1e-6)


# Batches ------------------------------------------------------------------------------------


class Spy(Miner):
    """Notes every batch and passes its relation on."""

    def __init__(self):
        self.batches = []

    def mine(self, batch, *, rng):
        self.batches.append(batch)
        return batch.relation

    def tiles(self):
        for batch in self.batches:
            relation = batch.relation
            rows, columns = slice(0, relation.rows), slice(0, relation.columns)
            xp = namespace(a=batch.anchors)
            yield batch, *(np.asarray(x) for x in relation.tile(rows, columns, xp, "cpu"))


def row_of(x, table):
    """Return which row of a table each row of x is."""
    return np.argmin(((np.asarray(x)[:, None] - np.asarray(table)[None]) ** 2).sum(-1), axis=1)


def test_other_right_documents_are_never_negatives(rng):
    queries, documents = rng.standard_normal((12, D)), rng.standard_normal((20, D))
    relevant = np.stack([rng.integers(12, size=40), rng.integers(20, size=40)], axis=1)
    data = Pairs(queries, documents, relevant)
    known = {tuple(p) for p in data.relevance.pairs.tolist()}
    spy = Spy()
    fit(data, miner=spy, epochs=2, batch_size=16, optimizer=STILL)
    seen = []
    for batch, positive, negative in spy.tiles():
        q, d = row_of(batch.anchors, queries), row_of(batch.references, documents)
        right = np.array([[(i, j) in known for j in d.tolist()] for i in q.tolist()])
        assert not (negative & right).any()
        assert (negative == ~right).all()  # and every wrong one is
        np.testing.assert_array_equal(positive, np.eye(*positive.shape, dtype=bool))
        seen += list(zip(q.tolist(), d.tolist(), strict=True))
    assert sorted(seen) == sorted([*known, *known])  # each pair once an epoch


def test_the_same_document_again_is_no_negative(rng):
    queries, documents = rng.standard_normal((30, D)), rng.standard_normal((4, D))
    data = Pairs(queries, documents, rng.integers(4, size=30))
    spy = Spy()
    fit(data, miner=spy, epochs=1, batch_size=10, optimizer=STILL)
    for batch, positive, negative in spy.tiles():
        d = row_of(batch.references, documents)
        assert not (negative & (d[:, None] == d[None, :])).any()
        assert (negative | (d[:, None] == d[None, :])).all()
        np.testing.assert_array_equal(positive, np.eye(10, dtype=bool))


@pytest.mark.parametrize("several", [False, True])
def test_known_wrong_documents_are_negatives(rng, several):
    queries, documents = rng.standard_normal((12, D)), rng.standard_normal((30, D))
    relevant = np.stack([np.arange(12), np.arange(12)], axis=1)
    if several:
        relevant = np.concatenate([relevant, [[0, 20], [3, 21]]])
    wrong = np.stack([np.arange(12), 12 + np.arange(12) % 5], axis=1)
    data = Pairs(queries, documents, relevant, irrelevant=wrong)
    spy = Spy()
    fit(data, miner=spy, epochs=1, batch_size=4, optimizer=STILL)
    for batch, _, negative in spy.tiles():
        n = len(batch.anchors)
        q, d = row_of(batch.anchors, queries), row_of(batch.references, documents)
        assert set(d[n:]) == {12 + i % 5 for i in q}
        for i in range(n):
            assert negative[i, np.nonzero(d == 12 + q[i] % 5)[0]].all()


def test_known_wrong_documents_change_what_is_learned(parts):
    train = parts[0]
    wrong = np.stack([np.arange(len(train)), np.roll(train.relevance.pairs[:, 1], 1)], axis=1)
    more = Pairs(train.queries, train.documents, train.relevance.pairs, irrelevant=wrong)
    assert (params_of(train)["adapter.W"] != params_of(more)["adapter.W"]).any()


def test_a_miner_narrows_what_is_learned_from(parts):
    free, mined = params_of(parts[0]), params_of(parts[0], miner=Hardest(k=1))
    assert (free["adapter.W"] != mined["adapter.W"]).any()
    every = params_of(parts[0], miner=Hardest(k=32))  # all there are
    np.testing.assert_allclose(every["adapter.W"], free["adapter.W"], atol=1e-9)


def test_an_epoch_is_a_new_order_of_all_pairs(parts):
    spy = Spy()
    fit(parts[0], miner=spy, epochs=2, batch_size=32, optimizer=STILL)
    rows = [row_of(b.anchors, parts[0].queries) for b in spy.batches]
    half = len(rows) // 2
    first, second = np.concatenate(rows[:half]), np.concatenate(rows[half:])
    assert sorted(first) == sorted(second) == list(range(len(parts[0])))
    assert (first != second).any()


# Callbacks ----------------------------------------------------------------------------------


def test_callbacks_follow_the_run_and_may_stop_it(parts):
    train, dev, _ = parts
    heard = []

    class Listener(Callback):
        def on_start(self, run):
            heard.append(("start", run.seed))

        def on_step(self, status):
            heard.append(("step", status.step, status.epoch, status.samples))
            return status.step == 5

        def on_evaluate(self, status):
            heard.append(("evaluate", status.step, status.epoch, status.samples))

        def on_end(self, run):
            heard.append(("end",))

    quiet = Callback()  # one that has no opinion does not overrule one that stops
    run = fit(train, dev, callbacks=[Listener(), quiet], **{**QUICK, "epochs": 9})
    n, steps = len(train), -(-len(train) // 32)
    assert steps == 4
    assert heard == [
        ("start", 42),
        ("evaluate", 0, 0, 0),
        *(("step", i, 1, min(32 * i, n)) for i in range(1, 5)),
        ("evaluate", 4, 1, n),
        ("step", 5, 2, n + 32),
        ("evaluate", 5, 2, n + 32),  # what was learned so far counts
        ("end",),
    ]
    assert run.history[-1]["step"] == 5


def test_an_evaluation_may_stop_the_run(parts):
    class Patient(Callback):
        def on_evaluate(self, status):
            return status.epoch == 2

    run = fit(*parts[:2], callbacks=[Patient()], **{**QUICK, "epochs": 9})
    assert run.history[-1]["epoch"] == 2
    assert run.history[-1]["step"] == 2 * -(-len(parts[0]) // 32)


# Third parties ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Product(Adapter):
    """y = x A B: the names of a low-rank adapter, for another map."""

    def init(self, rng, dim_in):
        return {"A": np.eye(dim_in, dtype=np.float32), "B": np.eye(dim_in, dtype=np.float32)}

    def forward(self, params, x, *, rng=None):
        a, b = params["A"], params["B"]

        def pullback(dy, need_dx=True):
            return {"A": x.T @ dy @ b.T, "B": (x @ a).T @ dy}, None

        return x @ a @ b, pullback

    def matrix(self, params):
        return params["A"] @ params["B"], None


def test_an_adapter_is_stored_by_its_map_and_not_by_the_names_of_its_parameters(parts):
    run = fit(parts[0], adapter=Product(), **QUICK)
    want = parts[0].queries @ run.params["adapter.A"] @ run.params["adapter.B"]
    want = want / np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(run.adapter(parts[0].queries), want, atol=1e-5)


def test_stored_arrays_are_float32(parts):
    for adapter in ("linear", LowRank(rank=2)):
        run = fit(parts[0], adapter=adapter, **{**QUICK, "epochs": 1})
        assert {x.dtype for x in run.adapter.side("query").arrays.values()} == {
            np.dtype(np.float32)
        }


# Refused ------------------------------------------------------------------------------------

X = np.random.default_rng(0).standard_normal((6, 4))


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"adapter": "liner"}, UnknownName, "liner.*linear"),
        ({"loss": "info_nse"}, UnknownName, "info_nse.*info_nce"),
        ({"miner": "hardst"}, UnknownName, "hardst.*hardest"),
        ({"optimizer": "adamm"}, UnknownName, "'adamm'"),
        ({"regularizers": ["l3"]}, UnknownName, "'l3'"),
        ({"start": "whiten"}, UnknownName, "whiten.*whitening"),
        ({"loss": Hardest()}, ArgumentTypeError, "losses takes a name or a coreframe.Loss, got H"),
        ({"start": "linear"}, ArgumentTypeError, "a coreframe.ClosedForm, got 'linear'"),
        ({"side": "document"}, ArgumentError, "side must be 'query' or 'both', got 'document'"),
        ({"epochs": 0}, ArgumentError, "epochs must be a whole number from 1, got 0"),
        ({"epochs": 2.0}, ArgumentError, "epochs must be a whole number from 1, got 2.0"),
        ({"batch_size": True}, ArgumentError, "batch_size must be a whole number from 1, got True"),
        ({"metric": "ndcg"}, ArgumentError, "metric 'ndcg' needs a depth, such as 'ndcg@10'"),
        ({"regularizers": "l2"}, ArgumentTypeError, r"got 'l2'; write \['l2'\]"),
        ({"callbacks": 3}, ArgumentTypeError, "callbacks takes a sequence of names and objects"),
        ({"max_grad_norm": 0}, ArgumentError, "max_grad_norm must be above 0 or None, got 0"),
        (
            {"max_grad_norm": float("nan")},
            ArgumentError,
            "max_grad_norm must be above 0 or None, got nan",
        ),
        (
            {"max_grad_value": float("inf")},
            ArgumentError,
            "max_grad_value must be above 0 or None, got inf",
        ),
        ({"max_grad_norm": "1"}, ArgumentTypeError, "max_grad_norm must be a number or None, got"),
        ({"order": "difficulty"}, ArgumentTypeError, "Batches.order must be an Order, got 'diff"),
        (
            {"initial": {"adapter.W": [[1.0]]}},
            ArgumentTypeError,
            r"initial\['adapter.W'\] must be an array, got list",
        ),
        (
            {"start": "whitening"},
            ArgumentError,
            "start='whitening' moves the documents, which side='query' leaves as they are",
        ),
        (
            {"loss": InfoNCE(reduction="none")},
            ArgumentError,
            "training needs a loss with one value: a reduction but 'none'",
        ),
    ],
)
def test_bad_arguments(options, error, text):
    with pytest.raises(error, match=text):
        fit(Pairs(X, X), **options)


def test_arrays_in_place_of_pairs_are_named():
    pairs, text = Pairs(X, X), r" must be coreframe.Pairs, such as .*, got ndarray"
    with pytest.raises(ArgumentTypeError, match="train" + text):
        fit(X)
    with pytest.raises(ArgumentTypeError, match="dev" + text):
        fit(pairs, X)
    with pytest.raises(ArgumentTypeError, match="pairs" + text):
        evaluate(None, X)


def test_labelled_vectors_are_one_set():
    with pytest.raises(ArgumentError, match=r"labelled rows are one set: .* side='both'"):
        fit(Pairs.labelled(X, [0, 0, 1, 1, 2, 2]))


def test_a_dev_part_of_another_width():
    with pytest.raises(ArgumentError, match="x must have width 4"):
        fit(Pairs(X, X), Pairs(X[:, :3], X[:, :3]))


def test_the_run_is_a_record(parts):
    run = fit(parts[0], base_model="some model", **{**QUICK, "epochs": 1})
    assert run.adapter.base_model == "some model"
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.best_epoch = 3
