"""What a run can be told beyond its components: weights, accumulation, averages, limits, starts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support import LIBRARIES, assert_is_gradient, assert_near

from coreframe import Batch, Pairs, Regularizer, WeightedSum, fit
from coreframe.config import parse
from coreframe.data.batches import Order
from coreframe.errors import ArgumentError, ConfigError
from coreframe.loss import LossResult
from coreframe_adapters.linear import Linear
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.mse import MSE
from coreframe_miners.hardest import Hardest
from coreframe_optimizers.sgd import SGD
from coreframe_schedulers.constant import Constant
from coreframe_schedulers.piecewise import Piecewise

LOSS = InfoNCE(temperature=0.5)


def data(n: int = 12, **columns: Any) -> Pairs:
    rng = np.random.default_rng(0)
    return Pairs(rng.standard_normal((n, 4)), rng.standard_normal((n, 4)), **columns)


def train(pairs: Pairs, **options: Any) -> Any:
    plain = {"adapter": Linear(), "loss": LOSS, "optimizer": SGD(learning_rate=0.5), "epochs": 1}
    return fit(pairs, **{**plain, "order": Order(shuffle=False), **options})


def gradient(pairs: Pairs, rows: slice, w: np.ndarray) -> np.ndarray:
    """The gradient of one batch by W, from the loss alone."""
    weights = None if pairs.weights is None else pairs.weights[rows]
    x = np.asarray(pairs.queries)[rows]
    batch = Batch.pairs(x @ w, np.asarray(pairs.documents)[rows], weights=weights)
    return x.T @ LOSS.value_and_grad(batch).grads["anchors"]


def test_weights_count_in_the_gradient() -> None:
    weights = np.array([0, 3, 1, 0.5, 0, 0, 2, 1, 1, 1, 1, 1])
    pairs = data(weights=weights)
    run = train(pairs, batch_size=12)
    assert_near(run.params["adapter.W"], np.eye(4) - 0.5 * gradient(pairs, slice(12), np.eye(4)))
    assert not np.allclose(
        run.params["adapter.W"], train(data(), batch_size=12).params["adapter.W"]
    )
    with pytest.raises(ArgumentError, match="weights of the training pairs are all 0"):
        train(data(weights=np.zeros(12)))


def test_accumulated_gradients_are_the_mean_over_examples() -> None:
    pairs = data(10, weights=np.arange(1, 11))
    run = train(pairs, batch_size=4, gradient_accumulation_steps=2, epochs=1)
    w = np.eye(4)
    for window in ((slice(0, 4), slice(4, 8)), (slice(8, 10),)):  # the last window is short
        sizes = [pairs.weights[rows].sum() for rows in window]
        parts = [gradient(pairs, rows, w) for rows in window]
        w = w - 0.5 * sum(s * g for s, g in zip(sizes, parts, strict=True)) / sum(sizes)
    assert_near(run.params["adapter.W"], w)
    assert run.history[-1]["step"] == 2


def test_a_schedule_moves_by_updates_and_not_by_batches() -> None:
    seen: list[tuple[int, int, int | None]] = []

    class Watched(Constant):
        def __call__(self, progress: Any, /) -> float:
            seen.append((progress.step, progress.samples, progress.steps))
            return self.value

    train(
        data(10),
        batch_size=2,
        gradient_accumulation_steps=2,
        epochs=2,
        optimizer=SGD(learning_rate=Watched(value=0.1)),
    )
    assert seen == [(0, 2, 6), (1, 6, 6), (2, 8, 6), (3, 12, 6), (4, 16, 6), (5, 18, 6)]


def test_a_pool_decides_how_many_updates_a_run_has() -> None:
    pairs = data(10, difficulty=np.arange(10))
    seen: list[tuple[int, int | None]] = []

    class Watched(Constant):
        def __call__(self, progress: Any, /) -> float:
            seen.append((progress.step, progress.steps))
            return self.value

    pace = Piecewise(values=(0.2, 0.5, 1.0), boundaries=(1, 2))  # 2, 5 and 10 examples
    run = train(
        pairs,
        batch_size=2,
        epochs=4,
        gradient_accumulation_steps=2,
        order=Order(curriculum="difficulty", curriculum_epochs=3, pool=pace),
        optimizer=SGD(learning_rate=Watched(value=0.1)),
    )
    updates = 1 + 2 + 3 + 3  # of 1, 3, 5 and 5 batches
    assert seen == [(step, updates) for step in range(updates)]
    assert run.history[-1]["step"] == updates


def broken(what: str) -> tuple[InfoNCE, list[Batch]]:
    """Return a loss whose value or grads are NaN at its second call, and the list of its calls."""
    calls: list[Batch] = []

    class Broken(InfoNCE):
        def value_and_grad(self, batch: Any, params: Any = None, *, wrt: Any = None) -> LossResult:
            calls.append(batch)
            found = super().value_and_grad(batch, params, wrt=wrt)
            if len(calls) != 2:
                return found
            if what == "value":
                return LossResult(float("nan") * found.value, found.grads)
            nan = {name: float("nan") * g for name, g in found.grads.items()}
            return LossResult(found.value, nan)

    return Broken(temperature=0.5), calls


def test_one_bad_batch_leaves_its_whole_window_out() -> None:
    loss, calls = broken("grads")
    pairs = data()
    run = train(
        pairs,
        loss=loss,
        batch_size=4,
        gradient_accumulation_steps=2,
        max_grad_norm=100.0,
        ema_decay=0.5,
    )
    again = 2  # a second pass over the window that was left out
    assert (len(calls), run.skipped_steps, run.history[-1]["step"]) == (3 + again, 1, 2)
    # The first window is left out, so the last one starts at the start, as does the average.
    want = np.eye(4) - 0.5 * 0.5 * gradient(pairs, slice(8, 12), np.eye(4))
    assert_near(run.params["adapter.W"], want)


def test_an_average_stays_where_it_is_while_a_step_is_skipped() -> None:
    loss, _ = broken("value")
    pairs = data()
    run = train(pairs, loss=loss, batch_size=4, ema_decay=0.5)
    start = np.eye(4)
    first = start - 0.5 * gradient(pairs, slice(0, 4), start)
    third = first - 0.5 * gradient(pairs, slice(8, 12), first)
    assert_near(run.params["adapter.W"], 0.25 * start + 0.25 * first + 0.5 * third)


@pytest.mark.parametrize("decay", [0.5, Constant(value=0.5)])
def test_an_average_of_the_parameters_is_kept(decay: Any) -> None:
    pairs = data()
    steps = [np.eye(4)]
    for rows in (slice(0, 4), slice(4, 8), slice(8, 12)):
        steps.append(steps[-1] - 0.5 * gradient(pairs, rows, steps[-1]))
    average = steps[0]
    for w in steps[1:]:
        average = 0.5 * average + 0.5 * w
    run = train(pairs, batch_size=4, ema_decay=decay)
    assert_near(run.params["adapter.W"], average)


def test_gradients_keep_within_their_limits() -> None:
    pairs = data()
    g = gradient(pairs, slice(12), np.eye(4))
    limit = float(np.median(np.abs(g)))
    run = train(pairs, batch_size=12, max_grad_value=limit)
    assert_near(run.params["adapter.W"], np.eye(4) - 0.5 * g.clip(-limit, limit))
    run = train(pairs, batch_size=12, max_grad_norm=0.01)
    assert_near(run.params["adapter.W"], np.eye(4) - 0.5 * g * 0.01 / np.linalg.norm(g))


def test_a_run_starts_where_it_is_told_to() -> None:
    pairs = data()
    first = train(pairs, batch_size=4, epochs=1)
    second = train(pairs, batch_size=4, epochs=1, initial=first.params)
    assert_near(
        second.params["adapter.W"], train(pairs, batch_size=4, epochs=2).params["adapter.W"]
    )
    for given, message in (
        ({}, "initial lacks the parameter 'adapter.W'; it has nothing"),
        (
            {"adapter.W": np.eye(3)},
            r"initial\['adapter.W'\] must have shape \(4, 4\), got \(3, 3\)",
        ),
        ({"adapter.W": np.eye(4), "adapter.w": 1}, "'adapter.w', which is no parameter here"),
    ):
        with pytest.raises(ArgumentError, match=message):
            train(pairs, initial=given)


def test_a_short_last_batch_can_be_left_out() -> None:
    pairs = data(10)
    run = train(pairs, batch_size=4, drop_last=True, epochs=2)
    assert run.history[-1]["step"] == 4
    with pytest.raises(ArgumentError, match="drop_last leaves no batch: 10 pairs are fewer"):
        train(pairs, batch_size=16, drop_last=True)


def test_a_regularizer_can_move_parameters_after_the_update() -> None:
    rate = 0.5

    class Halved(Regularizer):
        def value_and_grad(self, arrays: Any, *, ids: Any = None) -> LossResult:
            assert sorted(arrays) == ["W"]
            return LossResult(0.0, {})

        def after_step(self, params: Any, learning_rates: Any) -> Any:
            assert learning_rates == {"W": rate}
            return {"W": 0.5 * params["W"]}

    pairs = data()
    run = train(pairs, batch_size=12, regularizers=(Halved(),))
    want = 0.5 * (np.eye(4) - 0.5 * gradient(pairs, slice(12), np.eye(4)))
    assert_near(run.params["adapter.W"], want)


@pytest.mark.parametrize("side", ["query", "both"])
def test_own_negatives_move_where_the_documents_do(side: str) -> None:
    n = 12
    wrong = np.stack([np.arange(n), (np.arange(n) + 5) % n], axis=1)
    pairs = data(n, irrelevant=wrong)
    queries, documents = np.asarray(pairs.queries), np.asarray(pairs.documents)
    start = np.eye(4) + 0.3 * np.random.default_rng(1).standard_normal((4, 4))

    def whole(w: np.ndarray) -> float:
        d = documents @ w if side == "both" else documents
        d = d / np.linalg.norm(d, axis=1, keepdims=True)
        q = queries @ w
        q = q / np.linalg.norm(q, axis=1, keepdims=True)
        own = np.sum(q * d[wrong[:, 1]], axis=1, keepdims=True)
        s = np.hstack([q @ d.T, own]) / LOSS.temperature
        return float(np.mean(np.log(np.sum(np.exp(s), axis=1)) - np.diag(s)))

    run = train(pairs, batch_size=n, side=side, own_negatives=1, initial={"adapter.W": start})
    assert run.history[0]["loss"] == pytest.approx(whole(start), rel=1e-12)
    slope = (start - run.params["adapter.W"]) / 0.5
    assert_is_gradient(whole, start, slope, np.random.default_rng(2))


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_all_options_at_once_are_the_same_on_every_backend(name: str) -> None:
    pytest.importorskip(name)
    library, n = LIBRARIES[name](), 24
    rng = np.random.default_rng(1)
    arrays = rng.standard_normal((2, n, 4))
    columns = {"weights": rng.uniform(0, 2, n), "difficulty": rng.integers(0, 3, n)}
    wrong = np.stack([np.arange(n), (np.arange(n) + 5) % n], axis=1)
    options: dict[str, Any] = {
        "batch_size": 5,
        "drop_last": name == "jax",  # which compiles every shape
        "epochs": 3,
        "gradient_accumulation_steps": 2,
        "max_grad_norm": 0.3,
        "max_grad_value": 0.2,
        "ema_decay": 0.7,
        "order": Order(curriculum="difficulty", curriculum_epochs=2, pool=0.8),
        "own_negatives": 1,
        "miner": Hardest(k=2),
    }
    queries, documents = (library.asarray(x) for x in arrays)
    run = train(Pairs(queries, documents, irrelevant=wrong, **columns), **options)
    want = train(Pairs(*arrays, irrelevant=wrong, **columns), **options)
    assert_near(run.params["adapter.W"], want.params["adapter.W"], rtol=1e-9)


def test_a_configuration_has_the_same_options() -> None:
    import tomllib

    text = """
    [train]
    drop_last = true
    curriculum = "difficulty"
    curriculum_epochs = 3
    pool = { scheduler = "constant", value = 0.5 }
    own_negatives = 2
    gradient_accumulation_steps = 4
    max_grad_value = 0.1
    ema_decay = { scheduler = "constant", value = 0.9 }
    """
    found = parse(tomllib.loads(text)).train
    assert (found.drop_last, found.curriculum, found.curriculum_epochs) == (True, "difficulty", 3)
    assert (found.own_negatives, found.gradient_accumulation_steps) == (2, 4)
    assert found.max_grad_value == 0.1
    assert (found.pool, found.ema_decay) == (Constant(value=0.5), Constant(value=0.9))
    for line, message in (
        ("ema_decay = 1.0", "train.ema_decay must be at least 0 and below 1, got 1.0"),
        ("pool = 0.5", "train.pool needs a curriculum: which rows come first"),
        ('curriculum = "length"', "must be one of 'quality', 'difficulty', got 'length'"),
        (
            "gradient_accumulation_steps = 0",
            "gradient_accumulation_steps must be at least 1, got 0",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            parse(tomllib.loads(f"[train]\n{line}"))


def test_losses_of_single_rows_go_with_mined_pairs_and_several_right_documents() -> None:
    """Which reference is an anchor's own is said by the batch, whatever is done to the relation."""
    rng = np.random.default_rng(0)
    queries, documents = rng.standard_normal((6, 4)), rng.standard_normal((9, 4))
    right = np.array([[i, i] for i in range(6)] + [[0, 6], [1, 7]])
    pairs = Pairs(queries, documents, right, irrelevant=[[2, 8]])
    run = train(pairs, loss=MSE(), miner=Hardest(k=2), batch_size=8)
    rows = pairs.examples
    x, apart = queries[rows[:, 0]], queries[rows[:, 0]] - documents[rows[:, 1]]
    assert_near(run.params["adapter.W"], np.eye(4) - 0.5 * x.T @ (2 * apart / 4) / len(rows))
    both = WeightedSum(losses={"mse": MSE(), "info_nce": LOSS}, weights={"mse": 0.1})
    symmetric = WeightedSum(losses={"mse": MSE(), "clip": InfoNCE(symmetric=True)})
    for loss in (both, symmetric):
        assert train(pairs, loss=loss, side="both").skipped_steps == 0
