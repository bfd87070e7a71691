"""State on disk: what goes in comes back by name, and a resumed run is the run."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from support import assert_near

from coreframe.compose import under
from coreframe.errors import ArgumentTypeError, ArtefactError, OutputError
from coreframe.gradients import Accumulation, MovingAverage
from coreframe.optimizer import Optimizer
from coreframe.state import load_state, save_state
from coreframe_optimizers.adam import Adam
from coreframe_optimizers.adamw import AdamW
from coreframe_optimizers.sgd import SGD

KEPT = ["float64", "float32", "float16", "int64", "int32", "uint8", "bool"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.safetensors"


def draw(rng):
    return {
        "adapter.A": rng.standard_normal((4, 3)),
        "adapter.b": rng.standard_normal(3),
        "loss.log_scale": np.asarray(rng.standard_normal()),
    }


# There and back ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [*KEPT[:2], *KEPT[3:]])
def test_arrays_come_back_in_their_library_with_every_bit(library, dtype, path, rng):
    values = {
        "matrix": library.asarray(100 * rng.standard_normal((3, 4)), dtype),
        "number": library.asarray(np.asarray(3.0), dtype),
        "empty": library.asarray(np.zeros((0, 2)), dtype),
    }
    save_state(path, values, kind="run")
    back, meta = load_state(path, kind="run", like=values)
    assert meta == {}
    assert list(back) == list(values)
    for name, x in values.items():
        assert type(back[name]) is type(x)
        assert back[name].dtype == x.dtype
        assert back[name].device == x.device
        assert back[name].shape == x.shape
        assert np.array_equal(library.to_numpy(back[name]), library.to_numpy(x))
    plain, _ = load_state(path, kind="run")
    for name, x in values.items():
        assert type(plain[name]) is np.ndarray
        assert str(plain[name].dtype) == dtype
        assert np.array_equal(plain[name], library.to_numpy(x))


def test_numbers_and_the_meta_come_back_with_their_types(path):
    values = {"step": 7, "weight": 0.1 + 0.2, "done": True, "largest": 2**60, "worst": 1e308}
    meta = {"epoch": 3, "scores": [0.1, 0.2], "name": "Größe", "none": None}
    save_state(str(path), values, kind="run", meta=meta)
    for like in (None, dict.fromkeys(values, 0) | {"weight": 0.0, "done": False, "worst": 0.0}):
        back, found = load_state(path, kind="run", like=like)
        assert (back, found) == (values, meta)
        assert [type(x) for x in back.values()] == [type(x) for x in values.values()]


@pytest.mark.parametrize("kind", ["torch", "jax"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_kept_bit_by_bit(kind, dtype, path):
    numbers = np.array([[1.0, -0.1], [3e38, 1e-40]], np.float32)
    if dtype == "float16":
        numbers = np.array([[1.0, -0.1], [6e4, 6e-8]], np.float32)
    if kind == "torch":
        torch = pytest.importorskip("torch", reason="the package torch is not installed")
        x = torch.tensor(numbers).to(getattr(torch, dtype))
        scalar = x[0, 1]
    else:
        jnp = pytest.importorskip("jax", reason="the package jax is not installed").numpy
        x = jnp.asarray(numbers).astype(dtype)
        scalar = x[0, 1]
    save_state(path, {"W": x, "s": scalar}, kind="run")
    back, _ = load_state(path, kind="run", like={"W": x, "s": scalar})
    assert back["W"].dtype == x.dtype
    assert back["s"].shape == ()
    assert bool((back["W"] == x).all())
    assert bool(back["s"] == scalar)
    if dtype == "float16":
        assert load_state(path, kind="run")[0]["W"].dtype == np.float16
        return
    with pytest.raises(ArtefactError, match=r"holds (W|s) in bfloat16, which"):
        load_state(path, kind="run")
    with pytest.raises(ArtefactError, match=r"W is bfloat16 \(2, 2\) in the file, must be uint16"):
        load_state(path, kind="run", like={"W": np.zeros((2, 2), np.uint16), "s": scalar})


def test_arrays_with_strides_are_stored_as_they_read(path, rng):
    x = rng.standard_normal((3, 5))
    save_state(path, {"T": x.T, "every": x[:, ::2]}, kind="run")
    back, _ = load_state(path, kind="run")
    for name, want in (("T", x.T), ("every", x[:, ::2])):
        assert np.array_equal(back[name], want)
        assert back[name].flags.writeable


def test_the_file_is_plain_safetensors(path, rng):
    safetensors = pytest.importorskip("safetensors.numpy")
    params = draw(rng)
    save_state(path, {**params, "step": 3}, kind="run", meta={"epoch": 1})
    tensors = safetensors.load_file(path)
    assert tensors.keys() == params.keys()
    assert np.array_equal(tensors["adapter.A"], params["adapter.A"])


# Strict -----------------------------------------------------------------------------------------


def test_every_difference_is_listed(path):
    stored = {
        "query.W": np.ones((2, 3)), "query.b": np.ones(3), "scale": np.ones(()), "step": 3,
        "W": np.ones(2, np.float32), "more": 1.0,
    }  # fmt: skip
    like = {
        "query.V": np.ones((2, 3)), "query.b": np.ones(4), "scale": 1.0, "step": np.ones(()),
        "W": np.ones(2), "more": 1,
    }  # fmt: skip
    save_state(path, stored, kind="run")
    with pytest.raises(ArtefactError) as caught:
        load_state(path, kind="run", like=like)
    assert str(caught.value).splitlines() == [
        f"{path} does not fit what is to be restored:",
        "  - query.V is missing; there is query.W",
        "  - query.b is float64 (3,) in the file, must be float64 (4,)",
        "  - scale is float64 () in the file, must be a number (float)",
        "  - step is a number (int) in the file, must be float64 ()",
        "  - W is float32 (2,) in the file, must be float64 (2,)",
        "  - more is a number (float) in the file, must be a number (int)",
        "  - query.W is unknown",
    ]


def test_another_kind_another_format_and_damage(path, tmp_path):
    from safetensors.numpy import save_file

    save_state(path, {"W": np.ones(2)}, kind="optimizer")
    with pytest.raises(ArtefactError, match="holds the state of kind 'optimizer', not 'run'"):
        load_state(path, kind="run")
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(ArtefactError, match=r"run\.safetensors cannot be read"):
        load_state(path, kind="optimizer")
    for junk in (b"", b"\x10\0\0\0\0\0\0\0{", b"x" * 100):
        path.write_bytes(junk)
        with pytest.raises(ArtefactError, match=r"run\.safetensors cannot be read"):
            load_state(path, kind="optimizer")
    head = {"format": "coreframe-state", "version": 1, "kind": "run", "numbers": {}, "meta": {}}
    for changed, text in (
        ({"format": "other"}, "is not of the format 'coreframe-state'"),
        ({"version": 2}, "has format version 2; this coreframe reads version 1"),
        ({"kind": None}, "is damaged: its header has no kind"),
        ({}, "is damaged: its header has no bfloat16"),
    ):
        save_file({"W": np.ones(2)}, path, {"coreframe": json.dumps({**head, **changed})})
        with pytest.raises(ArtefactError, match=text):
            load_state(path, kind="run")
    save_file({"W": np.ones(2)}, path)
    with pytest.raises(ArtefactError, match="is not of the format 'coreframe-state'"):
        load_state(path, kind="run")
    with pytest.raises(ArtefactError, match="cannot be read: No such file or directory"):
        load_state(tmp_path / "nothing", kind="run")


def test_what_a_state_cannot_hold(path):
    for name, x, text in (
        ("z", np.ones(2, complex), "z is of dtype complex128, which a state cannot hold"),
        ("o", np.array([None]), "o is of dtype object, which a state cannot hold"),
        ("big", np.ones(2, ">f4"), "big is of dtype >f4, which a state cannot hold"),
        ("text", "abc", "text must be an array or a number, got str"),
        ("list", [1.0], "list must be an array or a number, got list"),
    ):
        with pytest.raises(ArgumentTypeError, match=text):
            save_state(path, {name: x}, kind="run")
    with pytest.raises(ArgumentTypeError, match="meta must be what JSON can hold"):
        save_state(path, {}, kind="run", meta={"x": {1, 2}})
    assert not path.exists()


# Whole, or not at all ---------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(path, monkeypatch, broken):
    save_state(path, {"step": 1}, kind="run")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, full)
        with pytest.raises(OutputError, match="No space left on device"):
            save_state(path, {"step": 2}, kind="run")
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert load_state(path, kind="run")[0] == {"step": 1}
    save_state(path, {"step": 3}, kind="run")
    assert load_state(path, kind="run")[0] == {"step": 3}


def test_folders_are_made_and_a_file_in_the_way_is_named(tmp_path):
    deep = tmp_path / "a" / "b" / "run.safetensors"
    save_state(deep, {"step": 1}, kind="run")
    assert load_state(deep, kind="run")[0] == {"step": 1}
    with pytest.raises(OutputError, match="cannot make the folder"):
        save_state(deep / "below", {"step": 1}, kind="run")


# A run that goes on -----------------------------------------------------------------------------

OPTIMIZERS = [
    SGD(learning_rate=0.02, momentum=0.9, nesterov=True, weight_decay=0.1),
    Adam(learning_rate=0.03, weight_decay=0.1),
    AdamW(learning_rate=0.03),
]
AVERAGE, WINDOW = MovingAverage(decay=0.9, warmup=True), Accumulation(steps=2)


def begin(optimizer: Optimizer, params):
    return params, optimizer.init(params), AVERAGE.init(params), WINDOW.init(params)


def go(library, optimizer, run, first, last):
    """Take micro-batches first..last-1; their gradients follow from their number."""
    params, state, average, window = run
    for step in range(first, last):
        noise = np.random.default_rng(step)
        grads = {
            name: 0.3 * p + library.asarray(noise.standard_normal(p.shape), "float64")
            for name, p in params.items()
        }
        window = WINDOW.add(window, grads, weight=1 + step % 3)
        if WINDOW.full(window):
            params, state = optimizer.update(params, WINDOW.mean(window), state)
            average, window = AVERAGE.update(average, params), WINDOW.init(params)
    return params, state, average, window


NAMES = ("params", "optimizer", "average", "window")


def joined(run):
    return {f"{part}.{k}": x for part, values in zip(NAMES, run, strict=True)
            for k, x in values.items()}  # fmt: skip


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "adam", "adamw"])
def test_a_run_that_is_stored_and_resumed_is_the_same_run(library, optimizer, path, rng):
    """Also in the middle of a window of micro-batches: 7 of 14."""
    params = {name: library.asarray(x) for name, x in draw(rng).items()}
    straight = go(library, optimizer, begin(optimizer, params), 0, 14)
    save_state(path, joined(go(library, optimizer, begin(optimizer, params), 0, 7)), kind="run")
    fresh = begin(optimizer, {name: x * 0 for name, x in params.items()})
    back, _ = load_state(path, kind="run", like=joined(fresh))
    resumed = go(library, optimizer, tuple(under(part, back) for part in NAMES), 7, 14)
    assert resumed[1]["step"] == 7
    for name, want in joined(straight).items():
        got = joined(resumed)[name]
        if isinstance(want, int):
            assert got == want
        else:
            assert np.array_equal(library.to_numpy(got), library.to_numpy(want)), name


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=["sgd", "adam", "adamw"])
def test_a_run_goes_on_in_another_library(library, on_numpy, optimizer, path, rng):
    params = draw(rng)
    straight = go(on_numpy, optimizer, begin(optimizer, params), 0, 8)
    save_state(path, joined(go(on_numpy, optimizer, begin(optimizer, params), 0, 4)), kind="run")
    there = begin(optimizer, {name: library.asarray(x) for name, x in params.items()})
    back, _ = load_state(path, kind="run", like=joined(there))
    resumed = go(library, optimizer, tuple(under(part, back) for part in NAMES), 4, 8)
    for name, want in straight[0].items():
        assert_near(library.to_numpy(resumed[0][name]), want, 1e-12)


def test_parameters_of_one_shape_do_not_trade_their_moments(path, rng):
    """PyTorch's load_state_dict goes by position, and says nothing."""
    optimizer = AdamW(learning_rate=0.1)
    params = {"query.W": rng.standard_normal((3, 3)), "document.W": rng.standard_normal((3, 3))}
    grads = {name: rng.standard_normal((3, 3)) for name in params}
    params, state = optimizer.update(params, grads, optimizer.init(params))
    save_state(path, state, kind="optimizer")
    turned = {name: params[name] for name in ("document.W", "query.W")}
    back, _ = load_state(path, kind="optimizer", like=optimizer.init(turned))
    for name in params:
        assert np.array_equal(back[f"first_moment/{name}"], state[f"first_moment/{name}"])
    renamed = {"query.W": params["query.W"], "doc.W": params["document.W"]}
    with pytest.raises(ArtefactError) as caught:
        load_state(path, kind="optimizer", like=optimizer.init(renamed))
    assert "first_moment/doc.W is missing; there is first_moment/document.W" in str(caught.value)
    assert "second_moment/document.W is unknown" in str(caught.value)
    with pytest.raises(ArtefactError, match=r"velocity/query.W is missing"):
        load_state(path, kind="optimizer", like=SGD().init(params))
