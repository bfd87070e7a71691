"""Elastic weight consolidation: values, steps, tasks, files, and that it keeps what was learned."""

from __future__ import annotations

import copy
import json
import os
import pickle
import tomllib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from support import assert_is_gradient, assert_near

import coreframe
from coreframe import Batch, Pairs, Progress, Rule, config, fit, resolve
from coreframe.compose import under
from coreframe.data.batches import Batches
from coreframe.errors import ArgumentError, ArgumentTypeError, ArtefactError, ConfigError
from coreframe.fisher_information import Fisher, fisher
from coreframe_adapters.linear import Linear
from coreframe_losses.mse import MSE
from coreframe_optimizers.sgd import SGD
from coreframe_regularizers.ewc import EWC, FILE, Task
from coreframe_schedulers.constant import Constant
from coreframe_schedulers.linear import Linear as Ramp

SHAPES = {"A": (3, 2), "b": (4,), "scale": ()}


def draw(rng, shapes=SHAPES):
    return {name: np.asarray(rng.standard_normal(shape)) for name, shape in shapes.items()}


def importances(rng, shapes=SHAPES):
    return {name: np.asarray(rng.uniform(0, 2, shape)) for name, shape in shapes.items()}


def learned(rng, tasks=2, **fields):
    """An EWC in the mode "separate", and what it learned."""
    history = [(draw(rng), importances(rng)) for _ in range(tasks)]
    ewc = EWC(**{"strength": 0.7, **fields})
    for center, f in history:
        ewc = ewc.learned(center, Fisher(f, 10, "exact"))
    return ewc, history


def penalty(params, history, strength=0.7):
    return (
        strength
        / 2
        * sum(
            np.sum(f[name] * (params[name] - center[name]) ** 2)
            for center, f in history
            for name in center
        )
    )


def here(library, params, dtype="float64"):
    return {name: library.asarray(p, dtype) for name, p in params.items()}


# The penalty --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [1, 3])
def test_the_penalty_and_its_gradient(library, tasks, rng):
    ewc, history = learned(rng, tasks)
    params = draw(rng)
    own = here(library, params)
    for same in (ewc, ewc.begin(own)):
        found = same.value_and_grad(own)
        assert found.value.ndim == 0
        assert_near(library.to_numpy(found.value), penalty(params, history))
        for name, p in params.items():
            want = 0.7 * sum(f[name] * (p - center[name]) for center, f in history)
            assert_near(library.to_numpy(found.grads[name]), want)


def test_float32_stays(library, rng):
    ewc, history = learned(rng)
    params = draw(rng)
    own = here(library, params, "float32")
    for same in (ewc, ewc.begin(own)):
        found = same.value_and_grad(own)
        assert found.value.dtype == library.xp.float32
        assert all(x.dtype == library.xp.float32 for x in found.grads.values())
        assert_near(library.to_numpy(found.value), penalty(params, history), 1e-5)
    begun = ewc.begin(own)
    assert begun.begin(own).tasks[0] is begun.tasks[0]  # what is in place is not moved again
    after = replace(begun, proximal=True).after_step(own, dict.fromkeys(own, 0.1))
    assert all(x.dtype == library.xp.float32 for x in after.values())


def test_differences(on_numpy, rng):
    ewc, _ = learned(rng, 3)
    params = draw(rng)
    found = ewc.value_and_grad(params)
    for name in ("A", "b"):
        assert_is_gradient(
            lambda x, name=name: float(ewc.value_and_grad({**params, name: x}).value),
            params[name],
            found.grads[name],
            rng,
        )


def test_without_tasks_nothing_is_protected(library, rng):
    own = here(library, draw(rng), "float32")
    for ewc in (EWC(), EWC(proximal=True)):
        found = ewc.value_and_grad(own)
        assert not library.to_numpy(found.value)
        assert found.value.dtype == library.xp.float32
        assert not any(library.to_numpy(g).any() for g in found.grads.values())
        assert ewc.after_step(own, dict.fromkeys(own, 0.1)) is own
        assert ewc.largest_stable_learning_rate() == float("inf")


def test_parameters_that_no_task_knows_are_free(library, rng):
    ewc, history = learned(rng)
    params = draw(rng)
    own = here(library, params | {"new": rng.standard_normal(3)})
    found = ewc.value_and_grad(own)
    assert_near(library.to_numpy(found.value), penalty(params, history))
    assert not library.to_numpy(found.grads["new"]).any()
    after = replace(ewc, proximal=True).after_step(own, dict.fromkeys(own, 0.1))
    assert after["new"] is own["new"]


def test_the_strength_may_be_scheduled(on_numpy, rng):
    ewc, history = learned(rng, strength=Constant(value=0.7))
    params = draw(rng)
    with pytest.raises(ArgumentTypeError, match="strength is scheduled"):
        ewc.value_and_grad(params)
    now = resolve(ewc, Progress())
    assert float(now.value_and_grad(params).value) == pytest.approx(penalty(params, history))
    assert now.tasks is ewc.tasks


# The proximal step --------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.01, 1.0, 1e6])
def test_the_proximal_step_is_the_minimiser(library, rate, rng):
    """Of strength/2 sum F (theta - theta*)^2 + |theta - theta_0|^2 / (2 rate)."""
    ewc, history = learned(rng, 2, proximal=True)
    params = draw(rng)
    own = here(library, params)
    after = ewc.after_step(own, dict.fromkeys(own, rate))
    for name, p in params.items():
        weights = [0.7 * rate * f[name] for _, f in history]
        pulled = sum(w * center[name] for w, (center, _) in zip(weights, history, strict=True))
        assert_near(library.to_numpy(after[name]), (p + pulled) / (1 + sum(weights)))
    found = ewc.value_and_grad(own)
    assert_near(library.to_numpy(found.value), penalty(params, history))
    assert not any(library.to_numpy(g).any() for g in found.grads.values())


def test_one_task_is_the_damped_distance(on_numpy, rng):
    ewc, [(center, f)] = learned(rng, 1, proximal=True)
    params = draw(rng)
    after = ewc.after_step(params, dict.fromkeys(params, 0.3))
    for name, p in params.items():
        want = center[name] + (p - center[name]) / (1 + 0.3 * 0.7 * f[name])
        assert_near(after[name], want)
    assert replace(ewc, proximal=False).after_step(params, dict.fromkeys(params, 0.3)) is params


def test_what_no_task_needs_stays_to_the_bit(on_numpy, rng):
    params = {"W": rng.standard_normal(5)}
    f = {"W": np.array([0.0, 0, 1, 0, 2])}
    ewc = EWC(strength=3.0, proximal=True).learned({"W": rng.standard_normal(5)}, f)
    after = ewc.after_step(params, dict.fromkeys(params, 0.1))["W"]
    np.testing.assert_array_equal((after == params["W"]), (f["W"] == 0))


def test_the_largest_stable_rate_counts_all_tasks(on_numpy):
    ewc = EWC(strength=5.0)
    for k in range(2):
        ewc = ewc.learned({"W": np.zeros(2)}, {"W": np.array([1.0, 3.0 + k])})
    assert ewc.largest_stable_learning_rate() == pytest.approx(2 / (5 * 7))


# Learning tasks -----------------------------------------------------------------------------------


@given(seed=st.integers(0, 99), tasks=st.integers(1, 4), decay=st.floats(0, 1))
def test_modes(seed, tasks, decay):
    """The merged Fisher of each mode, written as a loop, and the newest center."""
    rng = np.random.default_rng(seed)
    for mode in ("separate", "sum", "online", "average"):
        ewc, history = learned(rng, tasks, mode=mode, decay=decay)
        assert ewc.tasks_learned == tasks
        if mode == "separate":
            assert len(ewc.tasks) == tasks
            continue
        keep, take = {"sum": (1, 1), "online": (decay, 1), "average": (0.5, 0.5)}[mode]
        want = history[0][1]
        for _, f in history[1:]:
            want = {name: keep * want[name] + take * f[name] for name in want}
        (task,) = ewc.tasks
        for name in want:
            assert_near(task.fisher[name], want[name])
            np.testing.assert_array_equal(task.center[name], history[-1][0][name])


def test_separate_and_sum_differ_by_a_constant_at_one_center(on_numpy, rng):
    """With one center for all tasks the two modes are one penalty."""
    center, params = draw(rng), draw(rng)
    pair = []
    for mode in ("separate", "sum"):
        ewc = EWC(strength=0.3, mode=mode)
        for f in (importances(np.random.default_rng(1)), importances(np.random.default_rng(2))):
            ewc = ewc.learned(center, f)
        pair.append(float(ewc.value_and_grad(params).value))
    assert pair[0] == pytest.approx(pair[1], rel=1e-12)


def test_merged_modes_keep_what_a_later_task_lacks(on_numpy):
    ewc = EWC(strength=1.0, mode="online", decay=0.5)
    ewc = ewc.learned({"A": np.zeros(1), "B": np.ones(1)}, {"A": np.ones(1), "B": np.ones(1)})
    ewc = ewc.learned({"B": np.full(1, 3.0), "C": np.ones(1)}, {"B": np.ones(1), "C": np.ones(1)})
    (task,) = ewc.tasks
    assert {name: float(x[0]) for name, x in task.fisher.items()} == {"A": 0.5, "B": 1.5, "C": 1}
    assert {name: float(x[0]) for name, x in task.center.items()} == {"A": 0, "B": 3, "C": 1}


def test_learning_copies_and_changes_nothing(library, rng):
    center, f = draw(rng), importances(rng)
    ewc = EWC(strength=0.7)
    after = ewc.learned(here(library, center), Fisher(here(library, f), 3, "exact"))
    assert ewc.tasks == ()
    for name, x in after.tasks[0].center.items():
        assert isinstance(x, np.ndarray)
        assert x.flags.writeable
        assert_near(x, center[name])
    assert after.tasks[0].center["A"] is not center["A"]


def test_it_pickles_and_copies(on_numpy, rng):
    ewc, history = learned(rng)
    params = draw(rng)
    for other in (pickle.loads(pickle.dumps(ewc)), copy.deepcopy(ewc)):
        assert other == ewc
        assert float(other.value_and_grad(params).value) == pytest.approx(penalty(params, history))


W = {"W": np.ones((2, 2))}


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda: EWC(strength=-1.0), r"EWC\.strength must be at least 0"),
        (lambda: EWC(mode="sums"), "Did you mean 'sum'"),
        (lambda: EWC(decay=1.5), r"EWC\.decay must be .*at most 1"),
        (lambda: EWC().learned(W, {}), "fisher is empty"),
        (lambda: EWC().learned({"adapter.W": W["W"]}, W), "fisher has 'W', which is no parameter"),
        (lambda: EWC().learned(W, {"W": np.ones(2)}), r"must have shape \(2, 2\), got \(2,\)"),
        (lambda: EWC().learned(W, {"W": -W["W"]}), "Fisher of 'W' must be >= 0"),
        (lambda: EWC().learned(W, {"W": W["W"] * np.inf}), "NaN or infinite"),
        (lambda: EWC().learned({"W": W["W"] * np.nan}, W), "NaN or infinite"),
        (
            lambda: EWC().learned(W, W).value_and_grad({"A": np.ones(3)}),
            "EWC protects the parameter 'W', which these lack: A; it belongs to another adapter",
        ),
        (
            lambda: EWC().learned(W, W).begin({"W": np.ones(2)}),
            r"the parameter 'W' must have shape \(2, 2\), got \(2,\)",
        ),
        (
            lambda: replace(EWC().learned(W, W).learned(W, W), mode="sum").learned(W, W),
            "holds one merged task, but this has 2",
        ),
        (
            lambda: EWC(mode="sum").learned(W, W).learned({"W": np.ones(2)}, {"W": np.ones(2)}),
            r"the parameter 'W' must have shape \(2, 2\), got \(2,\)",
        ),
        (lambda: Task(W, {"V": W["W"]}), r"center has \['W'\], its fisher \['V'\]"),
        (lambda: Task(W, {"W": np.ones(2)}), "must have shape"),
    ],
)
def test_what_cannot_work(act, text):
    with pytest.raises(ArgumentError, match=text):
        act()


def test_tasks_come_from_learned():
    with pytest.raises(ArgumentTypeError, match=r"EWC\.tasks takes what EWC\.learned made, got"):
        EWC(tasks=(W,))


def test_one_that_a_run_began_learns_on(library, rng):
    """Its arrays are on the run's device; what it learns next is NumPy again."""
    params = draw(rng)
    for mode in ("separate", "sum"):
        ewc, _ = learned(rng, 1, mode=mode)
        began = ewc.begin(here(library, params))
        more, f = draw(rng), importances(rng)
        found, want = (
            one.learned(here(library, more), here(library, f)).value_and_grad(params).value
            for one in (began, ewc)
        )
        assert float(found) == pytest.approx(float(want), rel=1e-12)


def test_importances_that_add_up_to_infinity(on_numpy):
    most = {"W": np.full(2, 3e38, np.float32)}
    ewc = EWC(mode="sum").learned(most, most)
    with pytest.raises(ArgumentError, match="NaN or infinite"), np.errstate(over="ignore"):
        ewc.learned(most, most)


# Files --------------------------------------------------------------------------------------------


def test_a_file_is_named_by_its_path(tmp_path, rng):
    """Only the tasks come from the file, once, and what is learned later is not in it."""
    ewc, _ = learned(rng, strength=9.0, mode="online")
    ewc.save(tmp_path)
    params = draw(rng)
    found = EWC(path=tmp_path, strength=0.7)
    assert (found.mode, found.path) == ("separate", str(tmp_path))
    want = ewc.value_and_grad(params).value * 0.7 / 9
    assert float(found.value_and_grad(params).value) == pytest.approx(want, rel=1e-12)
    (tmp_path / FILE).unlink()
    for other in (found.begin(params), replace(found, strength=1.4), copy.deepcopy(found)):
        assert other.tasks_learned == found.tasks_learned == 2
    assert found.learned(params, importances(rng)).path is None
    with pytest.raises(ArtefactError, match=r"EWC\.path: there is no file"):
        EWC(path=tmp_path)
    EWC().save(tmp_path)
    with pytest.raises(ArgumentError, match="holds no task, so nothing is protected"):
        EWC(path=tmp_path)


def test_a_configuration_names_a_file(tmp_path, rng):
    ewc, history = learned(rng)
    ewc.save(tmp_path / "one.safetensors")
    table = {"name": "ewc", "strength": 0.7, "path": str(tmp_path / "one.safetensors")}
    again = config.parse(tomllib.loads(config.dump(config.parse({"regularizers": [table]}))))
    (term,) = again.regularizers
    params = draw(rng)
    assert float(term.value_and_grad(params).value) == pytest.approx(penalty(params, history))
    with pytest.raises(ConfigError, match=r"regularizers\[0\]\.path: there is no file"):
        config.parse({"regularizers": [{**table, "path": "none.safetensors"}]})


@given(
    seed=st.integers(0, 99),
    strength=st.floats(0, 1e300),
    mode=st.sampled_from(["separate", "online"]),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_a_round_trip_gives_every_bit_back(tmp_path_factory, seed, strength, mode, dtype):
    rng = np.random.default_rng(seed)
    ewc = EWC(strength=strength, mode=mode, decay=float(rng.random()), proximal=seed % 2 == 0)
    for _ in range(seed % 3):
        center, f = ({k: x.astype(dtype) for k, x in p.items()} for p in (draw(rng), draw(rng)))
        ewc = ewc.learned(center, {k: np.abs(x) for k, x in f.items()})
    file = tmp_path_factory.mktemp("ewc") / "task.safetensors"
    ewc.save(file)
    found = EWC.load(file)
    assert found == ewc
    assert found.tasks_learned == ewc.tasks_learned
    assert len(found.tasks) == len(ewc.tasks)
    for one, other in zip(found.tasks, ewc.tasks, strict=True):
        for mine, theirs in ((one.center, other.center), (one.fisher, other.fisher)):
            assert list(mine) == list(theirs)
            for name in mine:
                assert mine[name].dtype == theirs[name].dtype
                assert mine[name].tobytes() == theirs[name].tobytes()


def test_one_that_a_run_began_is_stored_as_well(library, tmp_path, rng):
    ewc, history = learned(rng)
    params = draw(rng)
    ewc.begin(here(library, params)).save(tmp_path / "new" / "folder")
    found = EWC.load(tmp_path / "new" / "folder")
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == [FILE]  # nothing temporary
    assert float(found.value_and_grad(params).value) == pytest.approx(penalty(params, history))


def test_a_failed_save_leaves_the_old_file(tmp_path, rng, monkeypatch):
    ewc, _ = learned(rng)
    ewc.save(tmp_path)
    before = (tmp_path / FILE).read_bytes()

    def fail(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(coreframe.errors.OutputError, match="the disk is full"):
        ewc.learned(draw(rng), importances(rng)).save(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before
    assert os.listdir(tmp_path) == [FILE]


def test_a_scheduled_strength_is_not_stored(tmp_path, rng):
    ewc, _ = learned(rng, strength=Constant(value=1.0))
    with pytest.raises(ArgumentTypeError, match="strength is scheduled"):
        ewc.save(tmp_path)
    assert not list(tmp_path.iterdir())


def changed(header=None, tensors=None):
    """Return a change of a stored file's header and arrays."""

    def change(path):
        from safetensors import safe_open

        with safe_open(path, framework="numpy") as stored:
            told = json.loads(stored.metadata()["coreframe"])
        arrays = load_file(path)
        told |= header or {}
        for name, x in (tensors or {}).items():
            if x is None:
                del arrays[name]
            else:
                arrays[name] = x
        save_file(arrays, path, {"coreframe": json.dumps(told)})

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda path: path.unlink(), "there is no file"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "cannot be read"),
        (lambda path: path.write_bytes(b"\x93NUMPY" + path.read_bytes()), "cannot be read"),
        (lambda path: save_file({"W": np.ones(2)}, path), "not of the format 'coreframe-ewc'"),
        (
            lambda path: save_file({"W": np.ones(2)}, path, {"coreframe": "{"}),
            "header is no JSON",
        ),
        (changed({"format": "coreframe-adapter"}), "not of the format"),
        (changed({"version": 2}), "format version 2; this coreframe reads version 1"),
        (changed({"mode": "both"}), "damaged: ArgumentError EWC.mode"),
        (changed({"strength": "1"}), "damaged: ArgumentTypeError EWC.strength"),
        (changed({"proximal": 1}), "damaged: ValueError proximal 1"),
        (changed({"tasks": [{"count": 0, "parameters": []}]}), "damaged: ValueError count 0"),
        (changed({"tasks": []}), "unknown arrays"),
        (changed({"tasks": 3}), "damaged: TypeError"),
        (changed(tensors={"0.fisher.A": None}), "damaged: KeyError '0.fisher.A'"),
        (changed(tensors={"0.fisher.B": np.ones(2)}), r"unknown arrays \['0.fisher.B'\]"),
        (changed(tensors={"0.fisher.A": np.ones(2)}), r"must have shape \(3, 2\)"),
        (changed(tensors={"0.fisher.A": -np.ones((3, 2))}), "must be >= 0"),
        (changed(tensors={"0.center.A": np.full((3, 2), np.nan)}), "NaN or infinite"),
        (changed(tensors={"0.center.A": np.ones((3, 2), np.int32)}), "NaN or infinite"),
    ],
)
def test_files_that_cannot_be_loaded(tmp_path, change, text, rng):
    ewc, _ = learned(rng)
    ewc.save(tmp_path)
    change(tmp_path / FILE)
    with pytest.raises(ArtefactError, match=text):
        EWC.load(tmp_path)


# It keeps what was learned ------------------------------------------------------------------------


def fitted(x, t, w, terms, steps=300):
    """Gradient descent on the squared error, by public calls only."""
    adapter, sgd, params = Linear(), SGD(learning_rate=0.5), {"W": w}
    terms = [term.begin(params) for term in terms]
    state = sgd.init(params)
    for _ in range(steps):
        y, pullback = adapter.forward(params, x)
        slope = MSE().value_and_grad(Batch.pairs(y, t), wrt=("anchors",)).grads["anchors"]
        grads = pullback(slope, need_dx=False)[0]
        for term in terms:
            grads = {k: g + term.value_and_grad(params).grads[k] for k, g in grads.items()}
        params, state = sgd.update(params, grads, state)
        for term in terms:
            params = term.after_step(params, dict.fromkeys(params, 0.5))
    return params


@pytest.mark.parametrize("proximal", [False, True])
def test_forgetting_falls_where_tasks_use_other_directions(library, proximal, rng):
    """Task one lives in the first half of the dimensions, task two nearly in the second."""
    if library.name == "jax":
        pytest.skip("a loop of hundreds of small steps")
    d, n = 6, 40
    one, two = rng.standard_normal((2, n, d))
    one[:, d // 2 :] = 0
    two[:, : d // 2] *= 0.3
    maps = rng.standard_normal((2, d, d))
    x1, x2 = (library.asarray(x) for x in (one, two))
    t1, t2 = (library.asarray(x @ w) for x, w in zip((one, two), maps, strict=True))

    def error(params, x, t):
        y = Linear().forward(params, x)[0]
        return float(MSE().value_and_grad(Batch.pairs(y, t), wrt=()).value)

    start = library.asarray(np.eye(d))
    first = fitted(x1, t1, start, ())
    # At an optimum without noise the Fisher of the targets would be 0: those of a start are not.
    matters = fisher(Linear(), {"W": start}, MSE(), Batch.pairs(x1, t1)).normalized()
    ewc = EWC(strength=2.0, proximal=proximal).learned(first, matters)
    after = {k: fitted(x2, t2, first["W"], terms) for k, terms in ((0, ()), (1, (ewc,)))}
    lost = [error(params, x1, t1) - error(first, x1, t1) for params in after.values()]
    assert lost[0] > 0.05
    assert lost[1] < lost[0] / 2
    assert error(after[1], x2, t2) < 0.2 * error(first, x2, t2)


def test_in_a_run_of_fit(library, rng):
    """The trainer gives it the adapter's parameters, and takes the proximal step."""
    if not library.on_host or library.name in ("jax", "array-api-strict"):
        pytest.skip("a run needs a backend, and is compiled for long on jax")
    queries, documents = rng.standard_normal((2, 24, 4)).astype(np.float32)
    pairs = Pairs(library.asarray(queries), library.asarray(documents))
    loss = coreframe.build("losses", "info_nce")
    fixed = {"loss": loss, "epochs": 4, "batch_size": 8}
    first = coreframe.fit(pairs, **fixed)
    own = under("adapter", first.params)
    matters = fisher(Linear(), own, loss, Batches(pairs=pairs, batch_size=8)).normalized("mean")
    moved = []
    for terms in (
        (),
        (EWC(strength=1e4).learned(own, matters),),
        (EWC(strength=1e6, proximal=True).learned(own, matters),),
    ):
        run = coreframe.fit(pairs, initial=first.params, regularizers=terms, seed=1, **fixed)
        moved.append(np.abs(run.params["adapter.W"] - own["W"]).mean())
    assert moved[1] < 0.7 * moved[0]
    assert moved[2] < 0.1 * moved[0]


def test_scheduled_proximal_steps_in_a_run(on_numpy, rng):
    """Strength and learning rate of a step are those of its progress: the run, written out."""
    queries, documents = rng.standard_normal((2, 24, 4)).astype(np.float32)
    pairs = Pairs(queries, documents)
    center, f = np.eye(4, dtype=np.float32), rng.uniform(0, 1, (4, 4)).astype(np.float32)
    rate, strength = Ramp(start=0.1, end=0.01), Ramp(start=0.0, end=500.0)
    ewc = EWC(strength=strength, proximal=True).learned({"W": center}, {"W": f})
    loss, sgd = coreframe.build("losses", "info_nce"), SGD(learning_rate=rate)
    run = coreframe.fit(
        pairs, loss=loss, optimizer=sgd, regularizers=(ewc,), epochs=2, batch_size=8
    )
    w, step = {"W": center}, 0
    batches = Batches(pairs=pairs, batch_size=8, seed=42)
    for epoch in (1, 2):
        for batch in batches.epoch(epoch):
            y, pullback = Linear().forward(w, batch.anchors)
            slope = loss.value_and_grad(replace(batch, anchors=y), wrt=("anchors",)).grads
            grads = pullback(slope["anchors"], need_dx=False)[0]
            lr, pull = rate.at(step, 6), rate.at(step, 6) * strength.at(step, 6) * f
            w = {"W": (w["W"] - lr * grads["W"] + pull * center) / (1 + pull)}
            step += 1
    assert np.abs(w["W"] - center).max() > 1e-3
    assert_near(run.params["adapter.W"], w["W"], 1e-5)


def test_a_fisher_of_nothing_and_a_run_without_tasks():
    with pytest.raises(ArgumentError, match="fisher is 0 everywhere"):
        EWC().learned({"W": np.ones(2)}, {"W": np.zeros(2)})
    with pytest.warns(UserWarning, match="EWC has no tasks, so this run is not protected"):
        EWC().begin({"W": np.ones(2)})


def test_a_proximal_step_goes_by_the_rate_of_each_parameter(rng):
    """A parameter that a rule holds still is not moved by the penalty either."""
    pairs = Pairs(*rng.standard_normal((2, 8, 3)))
    own = {"W": rng.standard_normal((3, 3)), "b": rng.standard_normal(3)}
    importances = {name: np.ones_like(x) for name, x in own.items()}
    ewc = EWC(proximal=True, strength=1e6).learned(own, importances)
    held = SGD(learning_rate=0.1, rules=(Rule("adapter.W", {"learning_rate": 0.0}),))
    run = fit(pairs, adapter=Linear(bias=True), optimizer=held, regularizers=(ewc,), epochs=1)
    assert np.array_equal(run.params["adapter.W"], np.eye(3))
    assert np.allclose(run.params["adapter.b"], own["b"], atol=1e-4)
