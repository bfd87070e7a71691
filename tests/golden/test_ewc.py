"""Elastic weight consolidation beside the JavaScript seed's recorded numbers.

The seed's adapter is y = x + scaling (x A) B, and its Fisher is of the mean squared error.
"""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from goldens import case as golden_case
from goldens import fault, golden

import coreframe
from coreframe import Batch
from coreframe.errors import ArgumentError, ArtefactError
from coreframe.fisher_information import Fisher, fisher
from coreframe_adapters.chain import Chain
from coreframe_adapters.low_rank import LowRank
from coreframe_losses.mse import MSE
from coreframe_optimizers.sgd import SGD
from coreframe_regularizers.ewc import EWC, FILE, Task

EXACT = {"rtol": 1e-12, "atol": 1e-14}


def adapter_of(raw):
    """Return our adapter and parameters for a recorded one."""
    a, b = (np.array(raw[name]) for name in ("loraA", "loraB"))
    rank = a.shape[1]
    return LowRank(rank=rank, alpha=raw["scaling"] * rank), {"A": a, "B": b}


def batch_of(data):
    x, y = (np.array([row[name] for row in data]) for name in ("inputEmb", "outputEmb"))
    return Batch.pairs(x, y)


def fisher_of(raw, data):
    adapter, params = adapter_of(raw)
    return params, fisher(adapter, params, MSE(), batch_of(data))


def assert_fisher(found: Fisher, output):
    np.testing.assert_allclose(found.diagonal["A"], output["fisherA"], **EXACT)
    np.testing.assert_allclose(found.diagonal["B"], output["fisherB"], **EXACT)


def params_of(raw):
    return {"A": np.array(raw["loraA"]), "B": np.array(raw["loraB"])}


def first_task(mode="separate", strength=2000.0):
    case = golden_case("js:ewc/fisher_task1")
    params, found = fisher_of(case.inputs["adapter"], case.inputs["data"])
    return EWC(strength=strength, mode=mode).learned(params, found)


def second_task(mode):
    case = golden_case("js:ewc/second_task_online_true")
    params, found = fisher_of(case.inputs["adapter_task2"], case.inputs["data_task2"])
    return first_task(mode).learned(params, found)


def task_one():
    return params_of(golden_case("js:ewc/fisher_task1").inputs["adapter"])


def elsewhere():
    """Parameters away from the optimum of task one."""
    return params_of(golden_case("js:ewc/penalty").inputs["current"])


# The Fisher information ---------------------------------------------------------------------------


@golden("js", "ewc/single_example_gradients")
def test_the_gradient_of_one_example(case, on_numpy):
    adapter, params = adapter_of(case.inputs["adapter"])
    batch = batch_of([case.inputs["example"]])
    y, pullback = adapter.forward(params, batch.anchors)
    slope = MSE().value_and_grad(dataclasses.replace(batch, anchors=y)).grads["anchors"]
    found = pullback(slope)[0]
    np.testing.assert_allclose(found["A"], case.output["gradA"], **EXACT)
    np.testing.assert_allclose(found["B"], case.output["gradB"], **EXACT)
    squares = fisher(adapter, params, MSE(), batch).diagonal
    np.testing.assert_allclose(squares["A"], np.square(case.output["gradA"]), **EXACT)


@golden("js", "ewc/fisher_task1", "ewc/fresh_adapter_B_zero")
def test_the_fisher_information(case, on_numpy):
    task = golden_case("js:ewc/fisher_task1")
    _, found = fisher_of(case.inputs["adapter"], task.inputs["data"])
    assert_fisher(found, case.output)
    assert found.examples == len(task.inputs["data"])


@fault(12, "js:ewc/fisher_sampling")
def test_samples_are_drawn_without_replacement(on_numpy):
    """Recorded: a, f, a, d. Ours never repeats, and the seed decides."""
    assert golden_case("js:ewc/fisher_sampling").output == ["a", "f", "a", "d"]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 6, 4))
    adapter = LowRank(rank=4)
    params = {"A": np.eye(4), "B": np.eye(4)}
    each = [
        fisher(adapter, params, MSE(), Batch.pairs(x[i : i + 1], y[i : i + 1])).diagonal["A"]
        for i in range(6)
    ]
    draws = []
    for seed in range(8):
        found = [
            fisher(adapter, params, MSE(), Batch.pairs(x, y), samples=4, seed=seed)
            for _ in range(2)
        ]
        np.testing.assert_array_equal(found[0].diagonal["A"], found[1].diagonal["A"])
        assert found[0].examples == 4
        system = np.stack([part.ravel() for part in each], axis=1)
        shares = np.linalg.lstsq(system, 4 * found[0].diagonal["A"].ravel(), rcond=None)[0]
        np.testing.assert_allclose(np.sort(shares), [0, 0, 1, 1, 1, 1], atol=1e-9)
        draws.append(tuple(np.round(shares)))
    assert len(set(draws)) > 1


@fault(13, "js:ewc/no_data")
@pytest.mark.parametrize("none", [[], (), iter(())])
def test_no_data_is_an_error(none, on_numpy):
    """Recorded: a Fisher and a penalty of NaN."""
    params = {"A": np.eye(4)[:, :2], "B": np.eye(4)[:2]}
    with pytest.raises(ArgumentError, match="no examples"):
        fisher(LowRank(rank=2), params, MSE(), none)


@fault(14, "js:ewc/input_longer_than_adapter", "js:ewc/input_shorter_than_adapter")
@pytest.mark.parametrize("width", [4, 8])
def test_rows_of_another_width_are_an_error(width, on_numpy):
    """Recorded: longer rows are cut without a word, shorter ones are a TypeError from inside."""
    case = golden_case("js:ewc/input_longer_than_adapter")
    adapter, params = adapter_of(case.inputs["adapter"])
    batch = Batch.pairs(np.ones((1, width)), np.zeros((1, width)))
    with pytest.raises(ArgumentError, match=rf"have width {width}, but .* adapter of width 6"):
        fisher(adapter, params, MSE(), batch)


@fault(14)
def test_parameters_of_another_shape_are_an_error(on_numpy):
    """The penalty of the seed was NaN."""
    ewc = first_task()
    with pytest.raises(ArgumentError, match=r"'A' must have shape \(6, 2\), got \(4, 2\)"):
        ewc.value_and_grad({**elsewhere(), "A": np.ones((4, 2))})
    with pytest.raises(ArgumentError, match=r"fisher of 'A' must have shape \(2, 2\)"):
        ewc.learned({"A": np.ones((2, 2))}, {"A": np.ones((3, 2))})


@fault(16, "js:ewc/two_adapters")
def test_adapters_in_a_row_follow_the_chain_rule(on_numpy):
    """Recorded: each adapter is differentiated as if it alone sat on the input."""
    case = golden_case("js:ewc/two_adapters")
    layers, params = {}, {}
    for name, raw in case.inputs["adapters"].items():
        layers[name], own = adapter_of(raw)
        params |= {f"{name}.{key}": x for key, x in own.items()}
    chain, batch = Chain(adapters=layers), batch_of(case.inputs["data"])
    found = fisher(chain, params, MSE(), batch).diagonal
    n, step, away = batch.anchors.shape[0], 1e-6, 0.0
    for name, p in params.items():
        for at in np.ndindex(p.shape):
            ends = []
            for sign in (1, -1):
                moved = p.copy()
                moved[at] += sign * step
                y, _ = chain.forward({**params, name: moved}, batch.anchors)
                ends.append(np.mean((y - batch.references) ** 2, axis=1))
            want = np.sum(((ends[0] - ends[1]) / (2 * step)) ** 2) / n
            assert found[name][at] == pytest.approx(want, rel=1e-6, abs=1e-12)
        layer, _, key = name.partition(".")
        recorded = np.array(case.output[layer][f"fisher{key}"])
        away = max(away, float(np.max(np.abs(recorded - found[name]) / np.max(found[name]))))
    assert away > 0.1


@fault(18, "js:ewc/fresh_adapter_B_zero")
def test_the_scale_of_the_fisher(on_numpy):
    """A mean over d dimensions shrinks the Fisher by (2 / d)^2; ``scale`` makes the loss the
    likelihood of a unit normal, and ``normalized`` takes the scale out. With B = 0, A gets 0.
    """
    case = golden_case("js:ewc/fisher_task1")
    adapter, params = adapter_of(case.inputs["adapter"])
    batch = batch_of(case.inputs["data"])
    plain = fisher(adapter, params, MSE(), batch)
    likelihood = fisher(adapter, params, MSE(), batch, scale=6 / 2)
    y, _ = adapter.forward(params, batch.anchors)
    hidden = 2 * batch.anchors @ params["A"]
    want = np.mean(np.square(hidden[:, :, None] * (y - batch.references)[:, None, :]), axis=0)
    np.testing.assert_allclose(likelihood.diagonal["B"], want, rtol=1e-12)
    for by in ("max", "mean"):
        one, other = (f.normalized(by).diagonal["A"] for f in (plain, likelihood))
        np.testing.assert_allclose(one, other, rtol=1e-12)
    fresh = fisher(adapter, {**params, "B": 0 * params["B"]}, MSE(), batch)
    assert not fresh.diagonal["A"].any()
    assert np.isfinite(fresh.normalized("max", "tensor").diagonal["A"]).all()


@fault(54)
def test_batches_and_iterables_are_taken(on_numpy):
    """The seed's documents promised a data loader, its code wanted rows."""
    case = golden_case("js:ewc/fisher_task1")
    adapter, params = adapter_of(case.inputs["adapter"])
    rows = case.inputs["data"]
    for batches in (
        batch_of(rows),
        [batch_of(rows[:2]), batch_of(rows[2:])],
        (batch_of([row]) for row in rows),
    ):
        assert_fisher(fisher(adapter, params, MSE(), batches), case.output)
    with pytest.raises(coreframe.errors.ArgumentTypeError, match=r"coreframe\.Batch"):
        fisher(adapter, params, MSE(), [np.ones((2, 6))])


# The penalty and its step -------------------------------------------------------------------------


@golden("js", "ewc/penalty")
def test_the_penalty(case, on_numpy):
    ewc = first_task(strength=case.params["lambda"])
    penalty = float(ewc.value_and_grad(elsewhere()).value)
    assert penalty == pytest.approx(case.output["penalty"], rel=1e-12)
    assert float(ewc.value_and_grad(task_one()).value) == case.output["penalty_at_optimum"]
    more = ewc.value_and_grad({**elsewhere(), "other": np.ones(3)})
    assert float(more.value) - penalty == case.output["unknown_name"]
    assert not more.grads["other"].any()
    before = golden_case("js:ewc/fisher_task1").output["penalty_before_fisher"]
    assert float(EWC().value_and_grad(elsewhere()).value) == before


@golden("js", "ewc/applyGradient_lr0.001", "ewc/applyGradient_lr0.01", "ewc/applyGradient_lr1")
def test_the_explicit_step_is_sgd_on_the_gradient(case, on_numpy):
    ewc, here = first_task(strength=case.params["lambda"]), elsewhere()
    sgd = SGD(learning_rate=case.params["lr"])
    after, _ = sgd.update(here, ewc.value_and_grad(here).grads, sgd.init(here))
    np.testing.assert_allclose(after["A"], case.output["loraA"], rtol=1e-12)
    np.testing.assert_allclose(after["B"], case.output["loraB"], rtol=1e-12)
    penalty = float(ewc.value_and_grad(after).value)
    assert penalty == pytest.approx(case.output["penalty_after"], rel=1e-12)


@fault(15, "js:ewc/applyGradient_lr1")
def test_the_proximal_step_is_stable(on_numpy):
    """Recorded: at a learning rate of 1 the penalty grows from 9.2 to 74,095."""
    ewc, here = first_task(), elsewhere()
    limit = ewc.largest_stable_learning_rate()
    most = max(float(f.max()) for f in ewc.tasks[0].fisher.values())
    assert limit == pytest.approx(2 / (2000 * most))
    for rate, grows in ((0.9 * limit, False), (1.1 * limit, True)):
        params, sgd = here, SGD(learning_rate=rate)
        for _ in range(200):
            params, _ = sgd.update(params, ewc.value_and_grad(params).grads, sgd.init(params))
        assert (float(ewc.value_and_grad(params).value) > 1e3) == grows
    proximal = dataclasses.replace(ewc, proximal=True)
    before = float(ewc.value_and_grad(here).value)
    for rate in (0.001, 0.01, 1.0, 1e9):
        after = proximal.after_step(here, dict.fromkeys(here, rate))
        assert float(ewc.value_and_grad(after).value) < before
        for name, p in after.items():  # the minimiser: penalty and distance pull alike
            pull = rate * ewc.value_and_grad(after).grads[name]
            np.testing.assert_allclose(pull, here[name] - p, rtol=1e-5, atol=1e-12)
    far = proximal.after_step(here, dict.fromkeys(here, 1e9))
    assert float(ewc.value_and_grad(far).value) < 1e-12


# Several tasks ------------------------------------------------------------------------------------


@golden("js", "ewc/second_task_online_true")
def test_the_average_of_two_tasks(case, on_numpy):
    ewc = second_task("average")
    assert_fisher(Fisher(ewc.tasks[0].fisher, 0, ""), case.output)
    np.testing.assert_array_equal(ewc.tasks[0].center["A"], case.inputs["adapter_task2"]["loraA"])
    penalty = float(ewc.value_and_grad(task_one()).value)
    assert penalty == pytest.approx(case.output["penalty_of_task1_weights"], rel=1e-12)
    assert ewc.tasks_learned == case.output["tasksLearned"]


@fault(10, "js:ewc/second_task_online_false")
def test_the_first_task_stays_protected(on_numpy):
    """Recorded: the second task replaces the first, whose optimum is then punished alone."""
    case = golden_case("js:ewc/second_task_online_false")
    ewc = second_task("separate")
    assert_fisher(Fisher(ewc.tasks[1].fisher, 0, ""), case.output)  # the new one is right
    alone = dataclasses.replace(ewc, tasks=ewc.tasks[1:])
    away = {name: p + 0.1 for name, p in task_one().items()}
    recorded = case.output["penalty_of_task1_weights"]
    assert float(alone.value_and_grad(task_one()).value) == pytest.approx(recorded, rel=1e-12)
    of_first = float(ewc.value_and_grad(away).value) - float(alone.value_and_grad(away).value)
    want = float(first_task().value_and_grad(away).value)
    assert of_first == pytest.approx(want, rel=1e-12)
    assert of_first > 0
    assert ewc.tasks_learned == case.output["tasksLearned"]


@fault(11)
def test_online_does_not_halve_older_tasks(on_numpy):
    """Recorded: task k keeps 2^-(later tasks). With decay 1 all of it stays, the sum."""
    params = {"W": np.zeros(3)}
    kept = {}
    for mode, decay in (("sum", 1.0), ("online", 1.0), ("online", 0.9), ("average", 1.0)):
        ewc = EWC(mode=mode, decay=decay)
        for k in range(3):
            ewc = ewc.learned(params, {"W": np.eye(3)[k]})
        kept[mode, decay] = ewc.tasks[0].fisher["W"]
        assert len(ewc.tasks) == 1
        assert ewc.tasks_learned == 3
    np.testing.assert_array_equal(kept["sum", 1.0], [1, 1, 1])
    np.testing.assert_array_equal(kept["online", 1.0], [1, 1, 1])
    np.testing.assert_allclose(kept["online", 0.9], [0.81, 0.9, 1])
    np.testing.assert_array_equal(kept["average", 1.0], [0.25, 0.25, 0.5])


@fault(17, "js:ewc/normalize_option_is_dead")
def test_normalising_does_something(on_numpy):
    """Recorded: the option is never read. Ours is a method, per tensor or over all."""
    found = Fisher({"A": np.array([1.0, 4.0]), "B": np.array([2.0, 0.0, 0.0])}, 1, "exact")
    for by, over, a, b in (
        ("max", "all", [0.25, 1], [0.5, 0, 0]),
        ("max", "tensor", [0.25, 1], [1, 0, 0]),
        ("mean", "all", np.array([1, 4]) / 1.4, np.array([2, 0, 0]) / 1.4),
        ("mean", "tensor", [0.4, 1.6], [3, 0, 0]),
    ):
        done = found.normalized(by, over)
        np.testing.assert_allclose(done.diagonal["A"], a)
        np.testing.assert_allclose(done.diagonal["B"], b)


# State --------------------------------------------------------------------------------------------


@golden("js", "ewc/export_import")
def test_a_stored_penalty_is_the_same_to_the_bit(case, tmp_path, on_numpy):
    ewc = first_task()
    ewc.save(tmp_path)
    loaded = EWC.load(tmp_path)
    assert loaded == ewc
    assert loaded.strength == case.output["config"]["lambda"]
    assert loaded.tasks_learned == case.output["stats"]["tasksLearned"]
    one, other = (float(x.value_and_grad(elsewhere()).value) for x in (ewc, loaded))
    assert one == other
    assert other == pytest.approx(case.output["penalty_after_import"], rel=1e-12)


@fault(19, "js:ewc/export_import", "js:ewc/reset")
def test_state_is_copied_and_reset_is_clean(tmp_path, on_numpy):
    """Recorded: exports alias live arrays, counts survive a reset, NaN becomes null in JSON."""
    params, found = task_one(), {"A": np.ones((6, 2)), "B": np.ones((2, 6))}
    ewc = EWC().learned(params, found)
    before = float(ewc.value_and_grad(elsewhere()).value)
    ewc.save(tmp_path)
    params["A"] += 1
    found["B"] *= 0
    assert float(ewc.value_and_grad(elsewhere()).value) == before
    loaded = EWC.load(tmp_path)
    loaded.tasks[0].center["A"][:] = 5
    assert float(ewc.value_and_grad(elsewhere()).value) == before
    empty = dataclasses.replace(ewc, tasks=())
    reset = golden_case("js:ewc/reset").output
    assert empty.tasks_learned == reset["stats"]["tasksLearned"]
    assert float(empty.value_and_grad(elsewhere()).value) == reset["penalty"]
    assert empty == EWC()
    broken = Task({"A": np.array([np.nan])}, {"A": np.ones(1)})
    dataclasses.replace(ewc, tasks=(broken,)).save(tmp_path)
    with pytest.raises(ArtefactError, match="NaN"):
        EWC.load(tmp_path / FILE)
    assert json.loads(json.dumps(EWC().strength)) == 2000
