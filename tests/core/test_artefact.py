"""The stored adapter: the same bits back, four lines of NumPy, and files that are damaged."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support import assert_near

import coreframe
from coreframe.artefact import Side, TrainedAdapter, load
from coreframe.errors import ArgumentError, ArgumentTypeError, ArtefactError, OutputError
from coreframe.storage import make_folder, write_files

D = 6


def random_side(form, bias=False, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"identity": {}, "linear": {"W": (D, D)}, "low_rank": {"A": (D, 2), "B": (2, D)}}
    shapes = shapes[form] | ({"b": (D,)} if bias else {})
    arrays = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    return Side(form, arrays, 0.5 if form == "low_rank" else 1.0)


SIDES = [(form, bias) for form in ("identity", "linear", "low_rank") for bias in (False, True)]
LINEAR = TrainedAdapter(D, {"query": random_side("linear", True)})


@pytest.fixture
def x(rng):
    return rng.standard_normal((5, D))


def by_formula(side, x):
    """The map of a side as the format describes it."""
    a = {name: value.astype(np.float64) for name, value in side.arrays.items()}
    y = {
        "identity": lambda: x,
        "linear": lambda: x @ a["W"],
        "low_rank": lambda: x + side.scaling * (x @ a["A"]) @ a["B"],
    }[side.form]()
    return y + a.get("b", 0)


def unit(y):
    return y / np.linalg.norm(y, axis=1, keepdims=True)


# Applying -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "bias"), SIDES)
@pytest.mark.parametrize("normalize", [True, False])
def test_the_map_is_its_formula(form, bias, normalize, x):
    side = random_side(form, bias)
    adapter = TrainedAdapter(D, {"query": side}, normalize=normalize)
    want = by_formula(side, x)
    assert_near(adapter(x), unit(want) if normalize else want)
    assert_near(adapter(x, side="document"), unit(x) if normalize else x)
    w, b = side.matrix(D)
    assert_near(x @ w + (0 if b is None else b), want)


def test_arrays_come_back_as_they_came(library, x):
    adapter = TrainedAdapter(D, {"query": random_side("low_rank", True)})
    want = unit(by_formula(adapter.side("query"), x))
    rounding = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-9}
    if "strict" in library.name:
        del rounding["float16"]  # the standard has none
    for dtype, rtol in rounding.items():
        given = library.asarray(x, dtype)
        got = adapter(given)
        assert type(got) is type(given)
        assert got.dtype == given.dtype
        assert str(getattr(got, "device", "")) == str(getattr(given, "device", ""))
        assert_near(library.to_numpy(got), want, rtol)
        np.testing.assert_array_equal(library.to_numpy(given), x.astype(dtype))  # not written to


def test_one_vector(library, x):
    adapter = TrainedAdapter(D, {"query": random_side("linear")})
    one = library.to_numpy(adapter(library.asarray(x[2])))
    assert one.shape == (D,)
    assert_near(one, library.to_numpy(adapter(library.asarray(x)))[2], 1e-12)


def test_zero_rows_stay_zero():
    assert TrainedAdapter(D)(np.zeros((2, D))).tolist() == np.zeros((2, D)).tolist()


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: LINEAR(np.ones((2, 4))),
            ArgumentError,
            "x must have width 6, as the vectors this adapter was trained on, got 4",
        ),
        (lambda: LINEAR(np.ones(4)), ArgumentError, "x must have width 6"),
        (lambda: LINEAR(np.ones((1, 2, 6))), ArgumentError, "x must have 2 dimensions"),
        (lambda: LINEAR(np.ones((2, 6), int)), ArgumentTypeError, "x must be floating point"),
        (lambda: LINEAR([[1.0] * 6]), ArgumentTypeError, "x must be an array, got list"),
        (lambda: LINEAR(np.full((2, 6), np.nan)), ArgumentError, "x has 12 values that are NaN"),
        (
            lambda: LINEAR(np.ones((2, 6)), side="documents"),
            ArgumentError,
            "side must be 'query' or 'document', got 'documents'",
        ),
    ],
)
def test_bad_input(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call()


@pytest.mark.parametrize("first", SIDES)
@pytest.mark.parametrize("second", SIDES)
def test_then_is_one_after_the_other(first, second, x):
    a, b = random_side(*first), random_side(*second, seed=1)
    assert_near(by_formula(a.then(b, D), x), by_formula(b, by_formula(a, x)), 1e-6)


def test_what_counts_as_identity():
    identity, moved = random_side("identity"), random_side("identity", True)
    assert TrainedAdapter(D).is_identity
    assert not TrainedAdapter(D).rebuilds_index
    assert not TrainedAdapter(D, {"query": random_side("linear")}).is_identity
    assert not TrainedAdapter(D, {"query": random_side("linear")}).rebuilds_index
    assert TrainedAdapter(D, {"query": identity, "document": random_side("linear")}).rebuilds_index
    # A shift alone moves documents too.
    assert not TrainedAdapter(D, {"query": moved}).is_identity
    assert TrainedAdapter(D, {"document": moved}).rebuilds_index


# Storing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "bias"), SIDES)
def test_the_same_bits_come_back(form, bias, tmp_path, x):
    adapter = TrainedAdapter(
        D,
        {"query": random_side(form, bias), "document": random_side("linear", seed=3)},
        base_model="model ü",
        notes={"seed": 7},
    )
    adapter.save(tmp_path / "new" / "adapter")
    again = coreframe.load(tmp_path / "new" / "adapter")
    for side in ("query", "document"):
        mine, theirs = adapter.side(side), again.side(side)
        assert (mine.form, mine.scaling) == (theirs.form, theirs.scaling)
        assert sorted(mine.arrays) == sorted(theirs.arrays)
        for name, array in mine.arrays.items():
            assert theirs.arrays[name].dtype == np.float32
            np.testing.assert_array_equal(theirs.arrays[name], array)
        np.testing.assert_array_equal(again(x, side), adapter(x, side))
    for name in ("dimensions", "normalize", "similarity", "base_model", "notes"):
        assert getattr(again, name) == getattr(adapter, name)


def test_saving_twice_gives_the_same_files(tmp_path):
    for folder in ("a", "b"):
        LINEAR.save(tmp_path / folder)
    LINEAR.save(tmp_path / "b")  # over itself
    for name in ("model.safetensors", "config.json"):
        first, second = (tmp_path / folder / name for folder in "ab")
        assert first.read_bytes() == second.read_bytes()
        assert first.stat().st_mode & 0o777 == 0o644
    assert sorted(os.listdir(tmp_path / "b")) == ["config.json", "model.safetensors"]


def test_arrays_that_are_views_are_stored_as_they_look(tmp_path, x):
    w = np.random.default_rng(0).standard_normal((D, D)).astype(np.float32)
    adapter = TrainedAdapter(D, {"query": Side("linear", {"W": w.T})})
    adapter.save(tmp_path)
    np.testing.assert_array_equal(load(tmp_path)(x), adapter(x))


def test_four_lines_of_numpy(tmp_path, x):
    """As the README has them, for a low-rank adapter on the query side."""
    queries = x
    adapter = TrainedAdapter(D, {"query": random_side("low_rank")})
    adapter.save(tmp_path)

    t = load_file(tmp_path / "model.safetensors")
    s = json.loads((tmp_path / "config.json").read_text())["sides"]["query"]["scaling"]
    y = queries[:5] + s * (queries[:5] @ t["query.A"]) @ t["query.B"]
    y = y / np.linalg.norm(y, axis=1, keepdims=True)

    assert_near(adapter(queries[:5]), y, 1e-12)


def test_the_config_says_what_is_there(tmp_path):
    LINEAR.save(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert stored["format"] == "coreframe-adapter"
    assert (stored["version"], stored["dimensions"]) == (1, D)
    assert stored["sides"]["query"]["form"] == "linear"
    assert stored["sides"]["query"]["bias"] is True
    assert stored["sides"]["document"]["form"] == "identity"
    assert sorted(load_file(tmp_path / "model.safetensors")) == ["query.W", "query.b"]


def test_an_identity_has_no_tensors(tmp_path, x):
    TrainedAdapter(D).save(tmp_path)
    assert load_file(tmp_path / "model.safetensors") == {}
    assert_near(load(tmp_path)(x), unit(x))


# Damage -------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    """An adapter without hashes, as they once were: what hashes find is in test_damage.py."""
    LINEAR.save(tmp_path)
    return without_hashes(tmp_path)


def without_hashes(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["arrays"], config["checksum"]
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "model.safetensors", {"coreframe": json.dumps(config)})
    return folder


def test_files_without_hashes_load(stored, x):
    assert np.array_equal(load(stored)(x), LINEAR(x))


def refused(folder):
    with pytest.raises(ArtefactError) as caught:
        load(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.5, 0.9, "-1"])
def test_a_truncated_model(stored, share):
    path = stored / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] if share == "-1" else data[: int(share * len(data))])
    assert f"{path} is damaged: " in refused(stored)


def test_a_model_of_other_bytes(stored):
    path = stored / "model.safetensors"
    path.write_bytes(b"\x93NUMPY" + bytes(range(200)))
    assert f"{path} is damaged: " in refused(stored)


@pytest.mark.parametrize("text", ["", "{", '{"format": "coreframe-adapter"', "\x00", "{'a': 1}"])
def test_a_config_that_is_no_json(stored, text):
    (stored / "config.json").write_text(text)
    assert f"{stored / 'config.json'} is damaged: no JSON" in refused(stored)


def test_a_config_that_is_no_text(stored):
    (stored / "config.json").write_bytes(b'{"format": "\xff\xfe"}')
    assert f"{stored / 'config.json'} is damaged: no JSON" in refused(stored)


def test_a_matrix_file_that_is_cut_off(stored):
    path = stored / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path} is damaged: " in refused(stored)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file(stored, name):
    (stored / name).unlink()
    assert f"is no stored adapter: {name} is missing" in refused(stored)


def test_a_missing_folder(tmp_path):
    assert "config.json is missing" in refused(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format": "other"}, "is not of the format 'coreframe-adapter'"),
        ({"format": None}, "is not of the format"),
        ({"version": 2}, "has format version 2; this coreframe reads version 1"),
        ({"version": None}, "has format version None"),
        ({"dimensions": "many"}, "is damaged: ValueError"),
        ({"dimensions": 7}, "is damaged: query.W is float32 (6, 6), for dimensions 7"),
        ({"sides": {}}, "is damaged: KeyError 'query'"),
        ({"sides": []}, "is damaged: TypeError"),
    ],
)
def test_a_config_that_says_something_else(stored, change, text):
    path = stored / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert text in refused(stored)


@pytest.mark.parametrize("content", ["[]", "null", "3", '"x"'])
def test_a_config_that_is_no_object(stored, content):
    (stored / "config.json").write_text(content)
    assert "is not of the format 'coreframe-adapter'" in refused(stored)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"form": "quadratic"}, "is damaged: KeyError 'quadratic'"),
        ({"form": "low_rank"}, "is damaged: KeyError 'query.A'"),
        ({"scaling": "x"}, "is damaged: ValueError"),
        ({"scaling": float("nan")}, "scaling nan"),
    ],
)
def test_a_side_that_says_something_else(stored, change, text):
    path = stored / "config.json"
    config = json.loads(path.read_text())
    config["sides"]["query"] |= change
    path.write_text(json.dumps(config))
    assert text in refused(stored)


def with_entry(x, value):
    x = x.copy()
    x.flat[3] = value
    return x


W, B1 = LINEAR.side("query").arrays["W"], LINEAR.side("query").arrays["b"]


@pytest.mark.parametrize(
    ("tensors", "text"),
    [
        ({}, "is damaged: KeyError 'query.W'"),
        ({"query.W": W}, "is damaged: KeyError 'query.b'"),
        ({"query.W": W[:4], "query.b": B1}, "query.W is float32 (4, 6), for dimensions 6"),
        ({"query.W": W[0], "query.b": B1}, "query.W is float32 (6,)"),
        ({"query.W": W[None], "query.b": B1}, "query.W is float32 (1, 6, 6)"),
        ({"query.W": W, "query.b": B1[:1]}, "which do not fit together"),
        ({"query.W": W, "query.b": B1[None]}, "query.b is float32 (1, 6)"),
        ({"query.W": W[:, :3], "query.b": B1}, "which do not fit together"),
        ({"query.W": W[:, :3], "query.b": B1[:3]}, "its sides have widths {"),
        ({"query.W": W.astype(np.int32), "query.b": B1}, "query.W is int32 (6, 6)"),
        ({"query.W": with_entry(W, np.nan), "query.b": B1}, "is damaged: query.W is"),
        ({"query.W": W, "query.b": with_entry(B1, np.inf)}, "is damaged: query.b is"),
    ],
)
def test_tensors_that_do_not_fit(stored, tensors, text):
    tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    save_file(tensors, stored / "model.safetensors")
    assert text in refused(stored)


def test_thin_tensors_that_do_not_fit(tmp_path):
    TrainedAdapter(D, {"query": random_side("low_rank")}).save(tmp_path)
    without_hashes(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(tensors | {"query.B": np.ones((3, D), np.float32)}, tmp_path / "model.safetensors")
    assert "which do not fit together" in refused(tmp_path)


# Disks that fail ----------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["replace", "fsync", "chmod"])
def test_a_disk_that_fails_leaves_nothing_half_written(tmp_path, monkeypatch, call):
    def fails(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OutputError, match=r"cannot write .*model\.safetensors: No space left"):
        LINEAR.save(tmp_path / "adapter")
    assert os.listdir(tmp_path / "adapter") == []


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_disk_that_fails_leaves_the_file_that_was_there(tmp_path, monkeypatch, call):
    path = tmp_path / "notes.txt"
    write_files(tmp_path, {path.name: b"first"})

    def fails(*args, **kwargs):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with pytest.raises(OutputError, match=r"cannot write .*notes\.txt: Input/output error"):
            write_files(tmp_path, {path.name: b"second"})
    assert path.read_text() == "first"
    assert os.listdir(tmp_path) == ["notes.txt"]
    write_files(tmp_path, {path.name: b"third"})
    assert path.read_text() == "third"


def test_a_second_file_that_fails_leaves_the_adapter_that_was_there(tmp_path, monkeypatch, x):
    LINEAR.save(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    calls = []

    def fails_at_the_second(file):
        calls.append(file)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fails_at_the_second)
    with pytest.raises(OutputError, match=r"cannot write .*config\.json: No space left"):
        TrainedAdapter(D, {"query": random_side("low_rank")}).save(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot make the folder .*file.adapter: "):
        LINEAR.save(tmp_path / "file" / "adapter")
    with pytest.raises(OutputError, match="cannot make the folder"):
        make_folder(tmp_path / "file")
    assert make_folder(str(tmp_path / "x" / "y")) == Path(tmp_path / "x" / "y")


def test_notes_that_cannot_be_stored_touch_no_file(tmp_path):
    with pytest.raises(TypeError):
        TrainedAdapter(D, notes={"array": np.ones(2)}).save(tmp_path)
    assert os.listdir(tmp_path) == []
