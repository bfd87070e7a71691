"""Losses under JAX's transformations beside jax.grad of plain formulas; optimizers beside optax."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from coreframe import (
    Batch,
    Loss,
    LossResult,
    Miner,
    Optimizer,
    Progress,
    Rule,
    Scheduler,
    build,
    resolve,
)
from coreframe.compose import Mined, WeightedSum
from coreframe.errors import ArgumentError, ArgumentTypeError

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

from coreframe.interop.jax import (  # noqa: E402
    gradient_transformation,
    init_params,
    jax_loss,
    schedule,
)

N, D = 6, 4
LABELS = np.array([0, 1, 0, 2, 1, 0])


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def rows(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def loss(name: str = "info_nce", **fields: Any) -> Loss:
    return build("losses", name, **fields)


def same(found: Any, wanted: Any, *, rtol: float = 1e-9) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol=1e-12), found, wanted)


# Plain formulas -------------------------------------------------------------------------------


def cosines(a: Any, b: Any) -> Any:
    return unit(a) @ jnp.swapaxes(unit(b), -1, -2)


def unit(x: Any) -> Any:
    return x / jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True))


def info_nce(a: Any, p: Any, negatives: Any = None, *, temperature: Any = 0.5) -> Any:
    """One value a row; negatives (s, d) or (n, k, d)."""
    s = cosines(a, p)
    if negatives is not None and negatives.ndim == 2:
        s = jnp.concatenate([s, cosines(a, negatives)], axis=1)
    elif negatives is not None:
        own = jnp.einsum("nd,nkd->nk", unit(a), unit(negatives))
        s = jnp.concatenate([s, own], axis=1)
    return jax.nn.logsumexp(s / temperature, axis=1) - jnp.diag(s) / temperature


def sup_con(x: Any, labels: Any, temperature: float = 0.5) -> Any:
    s = cosines(x, x) / temperature
    other = ~jnp.eye(len(x), dtype=bool)
    alike = (labels[:, None] == labels[None, :]) & other
    logs = s - jax.nn.logsumexp(jnp.where(other, s, -jnp.inf), axis=1, keepdims=True)
    count = alike.sum(axis=1)
    each = -jnp.sum(jnp.where(alike, logs, 0.0), axis=1) / jnp.maximum(count, 1)
    return jnp.sum(each) / jnp.sum(count > 0)


A, P, S, OWN = (
    np.random.default_rng(seed).standard_normal(shape)
    for seed, shape in enumerate([(N, D), (N, D), (3, D), (N, 2, D)])
)
WEIGHTS = np.array([1.0, 0.5, 0.0, 2.0, 1.0, 3.0])


def test_all_transformations_give_the_gradient_of_the_formula() -> None:
    a, p = jnp.asarray(A), jnp.asarray(P)

    def ours(a: Any, p: Any) -> Any:
        return jax_loss(loss(temperature=0.5), a, p, weights=WEIGHTS)

    def plain(a: Any, p: Any) -> Any:
        return jnp.sum(WEIGHTS * info_nce(a, p)) / WEIGHTS.sum()

    wanted = jax.jit(jax.value_and_grad(plain, (0, 1)))(a, p)
    same(jax.jit(jax.value_and_grad(ours, (0, 1)))(a, p), wanted)
    same(jax.value_and_grad(jax.jit(ours), (0, 1))(a, p), wanted)


@pytest.mark.parametrize("negatives", [S, OWN], ids=["shared", "own"])
def test_negatives_get_their_gradient(negatives: Any) -> None:
    given = tuple(map(jnp.asarray, (A, P, negatives)))
    ours = jax.jit(jax.grad(lambda *x: jax_loss(loss(temperature=0.5), *x), (0, 1, 2)))
    same(ours(*given), jax.jit(jax.grad(lambda *x: info_nce(*x).mean(), (0, 1, 2)))(*given))


def test_labels_may_be_traced_or_not() -> None:
    def ours(x: Any, labels: Any) -> Any:
        return jax_loss(loss("sup_con", temperature=0.5), x, labels=labels)

    wanted = jax.jit(jax.grad(sup_con))(A, LABELS)
    same(jax.jit(jax.grad(ours))(A, LABELS), wanted)
    same(jax.jit(jax.grad(lambda x: ours(x, list("abacba"))))(A), wanted)


def test_ids_leave_out_what_is_the_same_item() -> None:
    ids = jnp.asarray(LABELS)

    def plain(a: Any, p: Any) -> Any:
        s = cosines(a, p) / 0.5
        counts = (ids[:, None] != ids[None, :]) | jnp.eye(N, dtype=bool)
        logs = jax.nn.logsumexp(jnp.where(counts, s, -jnp.inf), axis=1)
        return jnp.mean(logs - jnp.diag(s))

    ours = jax.jit(jax.grad(lambda a, p, i: jax_loss(loss(temperature=0.5), a, p, ids=i), (0, 1)))
    same(ours(A, P, ids), jax.jit(jax.grad(plain, (0, 1)))(A, P))


def test_constants_of_a_traced_function_are_not_looked_at() -> None:
    positives = jnp.asarray(P)
    found = jax.jit(jax.grad(lambda a: jax_loss(loss(), a, positives)))(A)
    same(found, loss()(A, P).grads["anchors"])


def test_vmap_and_scan() -> None:
    many, positives = rows(2, N, D), jnp.asarray(P)

    def ours(a: Any, p: Any) -> Any:
        return jax_loss(loss(temperature=0.5), a, p)

    def plain(a: Any, p: Any) -> Any:
        return info_nce(a, p).mean()

    def run(function: Any) -> Any:
        def step(x: Any, p: Any) -> Any:
            value, slope = jax.value_and_grad(function)(x, p)
            return x - 0.1 * slope, value

        mapped = jax.vmap(jax.value_and_grad(function), (0, None))(many, positives)
        return mapped, jax.lax.scan(step, positives, many)

    same(jax.jit(run, static_argnums=0)(ours), jax.jit(run, static_argnums=0)(plain))


def test_rows_of_a_value_are_differentiated_one_by_one() -> None:
    slopes = jnp.asarray([1.0, -2.0, 0.0, 3.0, -1.0, 0.5])
    by_rows = loss(temperature=0.5, reduction="none")

    def ours(a: Any, p: Any) -> Any:
        return jax_loss(by_rows, a, p, weights=WEIGHTS) @ slopes

    def plain(a: Any, p: Any) -> Any:
        return (WEIGHTS * info_nce(a, p)) @ slopes

    a, p = jnp.asarray(A), jnp.asarray(P)
    same(jax.jit(jax.grad(ours, (0, 1)))(a, p), jax.jit(jax.grad(plain, (0, 1)))(a, p))


def test_second_derivatives_reverse_over_reverse() -> None:
    a, p, along = jnp.asarray(A), jnp.asarray(P), rows(N, D, seed=9)

    def product(function: Any) -> Any:
        return jax.jit(jax.grad(lambda a: jnp.vdot(jax.grad(function)(a, p), along)))(a)

    same(
        product(lambda a, p: jax_loss(loss(temperature=0.5), a, p)),
        product(lambda a, p: info_nce(a, p).mean()),
        rtol=1e-7,
    )


def test_own_parameters_are_a_tree_of_their_own() -> None:
    learned = loss(temperature=0.5, learnable_scale=True)
    params = {"log_scale": jnp.asarray(0.3), "bias": jnp.asarray(0.1)}
    assert init_params(learned, D).keys() == params.keys()
    assert init_params("sup_con", D) == {}

    def plain(params: Any, a: Any, p: Any) -> Any:
        s = (jnp.exp(params["log_scale"]) * cosines(a, p) + params["bias"]) / 0.5
        return jnp.mean(jax.nn.logsumexp(s, axis=1) - jnp.diag(s))

    ours = jax.jit(jax.grad(lambda own, a, p: jax_loss(learned, a, p, params=own), (0, 1)))
    same(ours(params, A, P), jax.jit(jax.grad(plain, (0, 1)))(params, A, P))


@pytest.mark.parametrize(
    ("dtype", "close"), [("float32", 1e-5), ("float16", 2e-3), ("bfloat16", 2e-2)]
)
def test_dtypes_go_back_to_where_they_came_from(dtype: str, close: float) -> None:
    a, p = jnp.asarray(A, dtype), jnp.asarray(P, dtype)
    value, (da, dp) = jax.jit(
        jax.value_and_grad(lambda a, p: jax_loss(loss(temperature=0.5), a, p), (0, 1))
    )(a, p)
    assert (value.dtype, da.dtype, dp.dtype) == (jnp.float32, dtype, dtype)
    wide = (np.asarray(x).astype(np.float64) for x in (a, p))
    wanted = loss(temperature=0.5)(*wide).grads["anchors"]
    np.testing.assert_allclose(da.astype(jnp.float64), wanted, rtol=close, atol=close / 10)


def test_a_scaled_loss_keeps_gradients_that_float16_would_lose() -> None:
    a, p = jnp.asarray(A, jnp.float16), jnp.asarray(P, jnp.float16)
    tiny = WeightedSum(losses={"x": loss(temperature=0.5)}, weights={"x": 1e-9})
    found = jax.jit(jax.grad(lambda a: 1e9 * jax_loss(tiny, a, p)))(a)
    wanted = loss(temperature=0.5)(np.asarray(a, float), np.asarray(p, float)).grads["anchors"]
    np.testing.assert_allclose(found, wanted, rtol=2e-3, atol=1e-6)


# Only what is asked for ------------------------------------------------------------------------


@dataclass(frozen=True)
class Told(Loss):
    """The sum of all embeddings; it keeps a list of what it was asked for."""

    asked: Any = ()

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        self.asked.append(wrt)
        value = jnp.sum(batch.anchors) + jnp.sum(batch.references)
        return LossResult(value, {name: jnp.ones_like(getattr(batch, name)) for name in wrt})


def test_outside_of_jit_too() -> None:
    a, p = jnp.asarray(A), jnp.asarray(P)
    found = jax.value_and_grad(lambda a: jax_loss("mse", a, p, weights=WEIGHTS))(a)
    wanted = loss("mse")(A, P, weights=WEIGHTS)
    same(found, (wanted.value, wanted.grads["anchors"]))


def test_only_the_gradients_asked_for_are_computed() -> None:
    a, p, asked = jnp.asarray(A), jnp.asarray(P), []
    part = Told(asked)
    jax_loss(part, a, p)
    jax.grad(lambda p: jax_loss(part, a, p))(p)
    jax.jit(jax.grad(lambda a, p: jax_loss(part, a, p)))(a, p)
    assert asked == [(), ("references",), ("anchors",)]
    asked.clear()
    jax.grad(jax.jit(lambda a, p: jax_loss(part, a, p)))(a, p)
    assert asked[-1] == ("anchors",)


# Other batches, miners, schedules --------------------------------------------------------------


def test_any_batch_is_made_of_traced_arrays() -> None:
    def triplets(anchors: Any, positives: Any, negatives: Any, **others: Any) -> Batch:
        return Batch.triplets(anchors, positives, negatives, **others)

    def plain(a: Any, p: Any, n: Any) -> Any:
        s, own = jnp.sum(unit(a) * unit(p), axis=1), jnp.sum(unit(a) * unit(n), axis=1)
        return jnp.mean(jax.nn.softplus((own - s) / 0.5))

    ours = jax.grad(
        lambda a, p, n: jax_loss(loss(temperature=0.5), a, p, n, batch=triplets), (0, 1, 2)
    )
    given = tuple(map(jnp.asarray, (A, P, S.repeat(2, axis=0))))
    same(jax.jit(ours)(*given), jax.jit(jax.grad(plain, (0, 1, 2)))(*given))


def test_a_tree_of_labels_goes_to_the_batch() -> None:
    def made(anchors: Any, labels: Any) -> Batch:
        return Batch.edges(anchors, labels["edges"], labels["similar"])

    edges = np.array([[0, 1], [2, 3], [4, 5], [0, 5]])

    def ours(x: Any, similar: Any) -> Any:
        labels = {"edges": edges, "similar": similar}
        return jax_loss(loss("contrastive"), x, batch=made, labels=labels)

    similar = np.array([True, False, True, False])
    wanted = loss("contrastive").value_and_grad(Batch.edges(A, edges, similar)).grads["anchors"]
    same(jax.jit(jax.grad(lambda x: ours(x, similar)))(A), wanted)


def test_a_miner_picks_what_it_picks_outside() -> None:
    hardest = build("miners", "hardest", k=2)
    wanted = Mined(miner=hardest, loss=loss(temperature=0.5))(A, P)

    def ours(a: Any, p: Any) -> Any:
        return jax_loss(loss(temperature=0.5), a, p, miner=hardest)

    same(jax.jit(jax.value_and_grad(ours))(A, P), (wanted.value, wanted.grads["anchors"]))


def test_a_key_draws_anew_at_each_call_of_a_traced_function() -> None:
    def ours(a: Any, key: Any) -> Any:
        return jax_loss(loss(), a, P, miner=build("miners", "random", k=1), rng=key)

    keys = jax.random.split(jax.random.key(3), 4)
    value = jax.jit(jax.value_and_grad(ours))
    drawn = [value(jnp.asarray(A), key) for key in keys]
    assert len({float(v) for v, _ in drawn}) == 4
    same(value(jnp.asarray(A), keys[0]), drawn[0])
    _, scanned = jax.lax.scan(lambda a, key: (a, jax.grad(ours)(a, key)), jnp.asarray(A), keys)
    same(scanned, jnp.stack([g for _, g in drawn]))


def test_a_generator_draws_as_it_does_outside() -> None:
    miner = build("miners", "random", k=1)
    batch = Batch.pairs(A, P)
    relation = miner.mine(batch, rng=np.random.default_rng(5))
    mined = Batch(anchors=A, references=P, relation=relation)
    wanted = loss().value_and_grad(mined, wrt=())
    draws = np.random.default_rng(5)
    found = jax.jit(lambda a: jax_loss(loss(), a, P, miner=miner, rng=draws))(A)
    same(found, wanted.value)


class Inventive(Miner):
    def mine(self, batch: Batch, *, rng: Any) -> Any:
        return batch.relation if rng.normal() else None


def test_a_miner_with_draws_of_its_own_needs_a_generator() -> None:
    with pytest.raises(ArgumentError, match=r"draws by rng\.normal.*numpy\.random\.Generator"):
        jax_loss(loss(), A, P, miner=Inventive(), rng=jax.random.key(0))
    told = Told([])
    a, p = jnp.asarray(A), jnp.asarray(P)
    same(jax_loss(told, a, p, miner=Inventive(), rng=np.random.default_rng(0)), a.sum() + p.sum())


LINEAR = build("schedulers", "linear", start=0.9, end=0.3)


def test_numbers_of_a_loss_follow_a_traced_step() -> None:
    scheduled = loss(temperature=LINEAR)
    a, p = jnp.asarray(A), jnp.asarray(P)
    traces = []

    def ours(a: Any, step: Any) -> Any:
        traces.append(step)
        return jax_loss(scheduled, a, p, step=step, steps=10)

    traced = jax.jit(jax.value_and_grad(ours))
    for step in (0, 4, 10):
        result = loss(temperature=LINEAR.at(step, 10))(A, P)
        wanted = (result.value, result.grads["anchors"])
        same(traced(a, step), wanted)
    assert len(traces) == 1
    same(jax.grad(jax.jit(ours))(a, 10), traced(a, 10)[1])
    with pytest.raises(ArgumentError, match="give step="):
        jax_loss(scheduled, a, p)
    with pytest.raises(ArgumentError, match="give steps="):
        jax.jit(lambda s: jax_loss(scheduled, a, p, step=s))(3)


def test_a_number_that_shapes_depend_on_is_named() -> None:
    miner = build("miners", "hardest", k=build("schedulers", "linear", start=1.0, end=3.0))
    found = jax.jit(lambda a: jax_loss(loss(), a, P, miner=miner, step=4, steps=4))(A)
    same(found, Mined(miner=build("miners", "hardest", k=3), loss=loss())(A, P).value)
    with pytest.raises(ArgumentError, match=r"Hardest looks at values.*such as a scheduled k"):
        jax.jit(lambda s: jax_loss(loss(), A, P, miner=miner, step=s, steps=4))(4)


# What is wrong ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Looking(Loss):
    """A loss that branches on a value."""

    def value_and_grad(self, batch: Batch, params: Any = None, *, wrt: Any = None) -> LossResult:
        value = jnp.sum(batch.anchors)
        sign = 1.0 if value > 0 else -1.0
        return LossResult(sign * value, {"anchors": jnp.full_like(batch.anchors, sign)})


def test_a_loss_that_looks_at_values_is_named_where_it_cannot() -> None:
    a, p = jnp.asarray(A), jnp.asarray(P)
    same(jax.grad(lambda a: jax_loss(Looking(), a, p))(a), jnp.sign(jnp.sum(a)) + 0 * a)
    with pytest.raises(ArgumentError, match=r"Looking looks at values.*jax\.grad works too"):
        jax.jit(lambda a: jax_loss(Looking(), a, p))(a)


def test_a_number_of_a_loss_has_no_gradient() -> None:
    def value(temperature: Any) -> Any:
        return jax_loss(loss(temperature=temperature), A, P)

    with pytest.raises(ArgumentError, match=r"InfoNCE.*learnable_scale"):
        jax.grad(value)(0.5)


def test_bad_input_is_named() -> None:
    a, p = jnp.asarray(A), jnp.asarray(P)
    with pytest.raises(ArgumentError, match=r"no gradient by them.*stop_gradient"):
        jax.grad(lambda w: jax_loss(loss(), a, p, weights=w))(jnp.ones(N))
    stopped = jax.jit(
        jax.grad(lambda a: jax_loss(loss(), a, p, weights=jax.lax.stop_gradient(a[:, 0] ** 2)))
    )
    same(stopped(a), loss()(A, P, weights=A[:, 0] ** 2).grads["anchors"])
    with pytest.raises(ArgumentTypeError, match="Batch is no argument"):
        jax_loss(loss(), Batch.pairs(a, p))
    with pytest.raises(ArgumentTypeError, match=r"losses takes a name or a coreframe\.Loss"):
        jax_loss(build("miners", "hardest"), a, p)
    with pytest.raises(ArgumentError, match="anchors has 1 values that are NaN"):
        jax_loss(loss(), a.at[0, 0].set(jnp.nan), p)
    with pytest.raises(ArgumentError, match="no references, so the positives have no place"):
        jax_loss(loss(), a, p, batch=lambda anchors, positives: Batch.labelled(anchors, LABELS))
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda a: jax_loss(loss(), a, p), (a,), (a,))


# Schedules -------------------------------------------------------------------------------------


def test_a_schedule_has_the_schedulers_values() -> None:
    warm = build("schedulers", "warmup_cosine", peak=0.1, warmup_steps=3)
    found = schedule(warm, steps=12)
    counts = jnp.arange(16)
    wanted = [warm.at(step, 12) for step in range(16)]
    same(jax.jit(found)(counts), np.array(wanted))
    same(jax.vmap(found)(counts), np.array(wanted))
    assert [found(step) for step in range(16)] == wanted
    assert found(jnp.asarray(4)) == wanted[4]
    assert float(jax.jit(found)(-1)) == wanted[0]


def test_a_schedule_counts_samples_and_epochs() -> None:
    class Seen(Scheduler):
        def __call__(self, progress: Progress) -> float:
            return progress.samples + progress.epoch / 10

    found = schedule(Seen(), steps=6, batch_size=8, steps_per_epoch=2)
    same(jax.jit(found)(jnp.arange(5)), np.array([0.0, 8.0, 16.1, 24.1, 32.2]))


def test_schedules_that_cannot_be_are_named() -> None:
    assert schedule(build("schedulers", "constant", value=0.5))(10**9) == 0.5
    with pytest.raises(ArgumentError, match="give steps="):
        jax.jit(schedule(build("schedulers", "constant", value=0.5)))(3)
    with pytest.raises(ArgumentError, match="steps must be a whole number of at least 1"):
        schedule(LINEAR, steps=0)
    with pytest.raises(ArgumentTypeError, match=r"must be a coreframe\.Scheduler, got 0\.1"):
        schedule(0.1)  # type: ignore[arg-type]

    class Bad(Scheduler):
        def __call__(self, progress: Progress) -> float:
            return float("nan") if progress.step == 2 else 1.0

    with pytest.raises(ArgumentError, match="Bad gives nan at step 2"):
        jax.jit(schedule(Bad(), steps=4))(0)


# Optimizers ------------------------------------------------------------------------------------

TREE = {"layer": {"W": np.asarray(A), "b": A[0]}, "scale": np.asarray(1.5)}
FLAT = {"layer.W": A, "layer.b": A[0], "scale": np.asarray(1.5)}
optax: Any = None


@pytest.fixture
def _optax() -> None:
    global optax
    optax = pytest.importorskip("optax")


def slopes(seed: int) -> dict[str, Any]:
    drawn = np.random.default_rng(seed)
    return {name: drawn.standard_normal(x.shape) for name, x in FLAT.items()}


def as_tree(flat: dict[str, Any]) -> dict[str, Any]:
    made = {"layer": {"W": flat["layer.W"], "b": flat["layer.b"]}, "scale": flat["scale"]}
    return jax.tree.map(jnp.asarray, made)


@pytest.mark.usefixtures("_optax")
@pytest.mark.parametrize(
    "optimizer",
    [
        build("optimizers", "sgd", learning_rate=LINEAR, momentum=0.9, nesterov=True),
        build("optimizers", "adam", learning_rate=0.1, weight_decay=0.1),
        build(
            "optimizers",
            "adamw",
            learning_rate=LINEAR,
            weight_decay=build("schedulers", "linear", start=0.0, end=0.5),
            rules=(
                Rule("*.b", {"weight_decay": 0.0, "learning_rate": 0.02}),
                Rule("scale", {"learning_rate": build("schedulers", "constant", value=0.5)}),
            ),
        ),
    ],
    ids=["sgd", "adam", "adamw"],
)
def test_a_transformation_moves_as_the_optimizer_does(optimizer: Optimizer) -> None:
    params, state, progress = FLAT, optimizer.init(FLAT), Progress(steps=4)
    transformation = gradient_transformation(optimizer, steps=4)
    tree = jax.tree.map(jnp.asarray, TREE)
    kept = transformation.init(tree)
    traced = []

    def once(*arguments: Any) -> Any:
        traced.append(arguments)
        return transformation.update(*arguments)

    update = jax.jit(once)
    for step in range(3):
        params, state = resolve(optimizer, progress).update(params, slopes(step), state)
        progress = progress.after()
        updates, kept = update(as_tree(slopes(step)), kept, tree)
        tree = optax.apply_updates(tree, updates)
        same(tree, as_tree(params))
    assert int(kept.count) == 3
    assert len(traced) == 1


@pytest.mark.usefixtures("_optax")
def test_adamw_is_optaxs() -> None:
    ours = gradient_transformation(
        build("optimizers", "adamw", learning_rate=0.05, beta2=0.99, weight_decay=0.1)
    )
    theirs = optax.adamw(0.05, b2=0.99, weight_decay=0.1)
    rate = schedule(LINEAR, steps=4)
    scheduled = gradient_transformation(build("optimizers", "sgd", learning_rate=LINEAR), steps=4)
    for one, other in ((ours, theirs), (scheduled, optax.sgd(rate))):
        found = []
        for transformation in (one, other):
            params = jax.tree.map(jnp.asarray, TREE)
            state = transformation.init(params)
            update = jax.jit(transformation.update)
            for step in range(3):
                updates, state = update(as_tree(slopes(step)), state, params)
                params = optax.apply_updates(params, updates)
            found.append(params)
        same(*found, rtol=1e-7)


@pytest.mark.usefixtures("_optax")
def test_narrow_parameters_move_in_float32() -> None:
    transformation = gradient_transformation(build("optimizers", "adam", learning_rate=1e-3))
    optimizer = build("optimizers", "adam", learning_rate=1e-3)
    params = {"W": jnp.asarray(A, jnp.bfloat16)}
    grads = {"W": jnp.asarray(P, jnp.bfloat16)}
    state = transformation.init(params)
    updates, state = transformation.update(grads, state, params)
    found = optax.apply_updates(params, updates)
    wanted, _ = optimizer.update(params, grads, optimizer.init(params))
    assert found["W"].dtype == jnp.bfloat16
    assert state.slots["first_moment"]["W"].dtype == jnp.float32
    same(found["W"].astype(jnp.float32), wanted["W"].astype(jnp.float32))


@pytest.mark.usefixtures("_optax")
def test_a_parameter_without_a_gradient_stays() -> None:
    transformation = gradient_transformation(build("optimizers", "adam", learning_rate=0.1))
    params = {"W": jnp.ones(2), "b": jnp.ones(2)}
    updates, state = transformation.update(
        {"W": jnp.ones(2), "b": None}, transformation.init(params), params
    )
    assert updates["b"] is None
    same(updates["W"], jnp.full(2, -0.1), rtol=1e-6)
    same(state.slots["first_moment"]["b"], jnp.zeros(2))
    single = transformation.init(jnp.ones(2))
    assert transformation.update(jnp.ones(2), single, jnp.ones(2))[0].shape == (2,)


class Looped(Optimizer):
    """An optimizer that looks at its gradient."""

    def step(self, parameter: Any, gradient: Any, slots: Any, count: int) -> Any:
        return (parameter if float(gradient.sum()) > 0 else parameter - gradient), slots


@pytest.mark.usefixtures("_optax")
def test_bad_input_of_a_transformation_is_named() -> None:
    sgd = gradient_transformation("sgd")
    params = {"W": jnp.ones(2)}
    with pytest.raises(ArgumentError, match=r"needs the parameters: update\(grads, state"):
        sgd.update(params, sgd.init(params))
    with pytest.raises(ArgumentError, match="does not belong to these parameters"):
        sgd.update(params, sgd.init({"V": jnp.ones(2)}), params)
    with pytest.raises(ArgumentTypeError, match="'W' must be floating point"):
        sgd.init({"W": jnp.ones(2, jnp.int32)})
    with pytest.raises(ArgumentError, match="one name, joined by dots"):
        sgd.init({"a.b": jnp.ones(2), "a": {"b": jnp.ones(2)}})
    scheduled = gradient_transformation(build("optimizers", "sgd", learning_rate=LINEAR))
    with pytest.raises(ArgumentError, match="give steps="):
        jax.jit(scheduled.update)(params, scheduled.init(params), params)
    looped = gradient_transformation(Looped())
    with pytest.raises(ArgumentError, match="Looped looks at values"):
        jax.jit(looped.update)(params, looped.init(params), params)


@pytest.mark.usefixtures("_optax")
def test_it_trains_under_scan_within_a_chain() -> None:
    """Pairs that one rotation apart find each other; all steps are one compiled loop."""
    queries = rows(32, 8)
    turn = np.linalg.qr(np.asarray(rows(8, 8, seed=1)))[0]
    documents = queries @ turn
    adam = build(
        "optimizers", "adamw", learning_rate=build("schedulers", "cosine", start=0.1, end=0.0)
    )
    transformation = optax.chain(
        optax.clip_by_global_norm(1.0), gradient_transformation(adam, steps=60)
    )

    def step(carry: Any, key: Any) -> Any:
        params, state = carry
        value, grads = jax.value_and_grad(
            lambda w: jax_loss(
                "info_nce", queries @ w, documents, miner=build("miners", "random", k=8), rng=key
            )
        )(params)
        updates, state = transformation.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    start = jnp.eye(8)
    keys = jax.random.split(jax.random.key(0), 60)
    carry = (start, transformation.init(start))
    (trained, _), values = jax.jit(lambda carry: jax.lax.scan(step, carry, keys))(carry)
    assert values[-5:].mean() < 0.1 * values[:5].mean()
    nearest = jnp.argmax(cosines(queries @ trained, documents), axis=1)
    assert (nearest == jnp.arange(32)).mean() > 0.95


# Every loss of ours ----------------------------------------------------------------------------

SIMILAR = np.array([1, -1, 1, -1, -1, 1])
CALLS: list[tuple[str, Loss, tuple[Any, ...], dict[str, Any]]] = [
    ("contrastive", loss("contrastive"), (A,), {"labels": LABELS}),
    ("cosine_embedding", loss("cosine_embedding"), (A, P), {"labels": SIMILAR}),
    ("cross_entropy", loss("cross_entropy", label_smoothing=0.1), (A,), {"labels": LABELS}),
    ("info_nce", loss(symmetric=True), (A, P, OWN), {}),
    ("local_contrastive", loss("local_contrastive"), (A, P, OWN), {}),
    ("mse", loss("mse"), (A, P), {"weights": WEIGHTS}),
    ("nca", loss("nca"), (A,), {"labels": LABELS}),
    ("sup_con", loss("sup_con"), (A,), {"labels": LABELS}),
    ("triplet", loss("triplet"), (A, P, S.repeat(2, axis=0)), {}),
]


@pytest.mark.parametrize(("name", "part", "given", "others"), CALLS, ids=[c[0] for c in CALLS])
def test_every_loss_is_traced_as_it_is_computed(
    name: str, part: Loss, given: Any, others: Any
) -> None:
    """The value and gradients that NumPy gives, with all that may be traced traced."""
    wanted = part(*given, **others)
    fields = [("anchors",), ("anchors", "references"), ("anchors", "references", "negatives")]
    grads = dict(wanted.grads)
    if "negatives" not in grads and len(given) == 3:
        grads["references"], grads["negatives"] = np.split(grads["references"], [N])

    @jax.jit
    def ours(given: Any, others: Any) -> Any:
        function = jax.value_and_grad(
            lambda *x: jax_loss(part, *x, **others), tuple(range(len(given)))
        )
        return function(*given)

    value, found = ours(given, others)
    same(value, wanted.value)
    wanted_by = (grads[field] for field in fields[len(given) - 1])
    same(found, tuple(g.reshape(x.shape) for g, x in zip(wanted_by, given, strict=True)))


def test_all_losses_of_ours_are_called() -> None:
    from coreframe.registry import registry

    names = {e.name for e in registry().entries("losses")}
    names -= {"mined", "symmetric", "weighted_sum"}
    assert {name for name, *_ in CALLS} == names
