"""The selector of backends, the namespace of arrays, and who reads the environment."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import coreframe
from coreframe.backend import (
    Backend,
    choose_backend,
    device_of,
    get_backend,
    library_of,
    namespace,
    to_numpy,
)
from coreframe.errors import (
    ArgumentTypeError,
    BackendUnavailable,
    MixedArrays,
    UnknownName,
)
from coreframe_losses.info_nce import InfoNCE
from coreframe_miners.random import Random
from coreframe_optimizers.adamw import AdamW

LIBRARIES = {"cupy", "jax", "torch", "array_api_strict", "numpy", "array_api_compat"}


@pytest.fixture(autouse=True)
def no_choice(monkeypatch):
    monkeypatch.delenv("COREFRAME_BACKEND", raising=False)


def cupy_runs() -> bool:
    try:
        get_backend("cupy")
    except BackendUnavailable:
        return False
    return True


# Choosing -----------------------------------------------------------------------------------------


def test_the_default_is_numpy():
    choice = choose_backend()
    assert (choice.backend.name, choice.source) == ("numpy", "default")
    assert isinstance(get_backend(), Backend)


def test_the_argument_goes_before_the_environment(monkeypatch):
    monkeypatch.setenv("COREFRAME_BACKEND", "no such thing")
    choice = choose_backend("numpy")
    assert (choice.backend.name, choice.source) == ("numpy", "argument")


def test_the_environment_goes_before_the_arrays(monkeypatch):
    torch = pytest.importorskip("torch", reason="the package torch is not installed")
    monkeypatch.setenv("COREFRAME_BACKEND", "numpy")
    choice = choose_backend(like=torch.ones(2))
    assert (choice.backend.name, choice.source) == ("numpy", "COREFRAME_BACKEND")
    monkeypatch.delenv("COREFRAME_BACKEND")
    choice = choose_backend(like=torch.ones(2))
    assert (choice.backend.name, choice.source) == ("torch", "the arrays given")


def test_the_environment_is_read_at_call_time(monkeypatch):
    pytest.importorskip("torch", reason="the package torch is not installed")
    assert get_backend().name == "numpy"
    monkeypatch.setenv("COREFRAME_BACKEND", "torch")
    assert get_backend().name == "torch"
    monkeypatch.setenv("COREFRAME_BACKEND", "  ")
    assert get_backend().name == "numpy"


def test_auto_takes_a_gpu_if_there_is_one(monkeypatch):
    name = "cupy" if cupy_runs() else "numpy"
    assert get_backend("auto").name == name
    monkeypatch.setenv("COREFRAME_BACKEND", "auto")
    assert get_backend().name == name


# Errors, each its own -----------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["argument", "COREFRAME_BACKEND"])
def test_an_unknown_backend(source, monkeypatch):
    if source == "COREFRAME_BACKEND":
        monkeypatch.setenv(source, "pytorch")
    with pytest.raises(UnknownName) as caught:
        get_backend("pytorch" if source == "argument" else None)
    assert f"no backend is named 'pytorch' (from {source})." in str(caught.value)
    assert "Did you mean 'torch'?" in str(caught.value)


def test_an_unknown_backend_unlike_any_lists_them_all():
    with pytest.raises(UnknownName, match="Known: auto, cupy, jax, numpy, torch"):
        get_backend("xyzzy")


@pytest.mark.parametrize(
    ("name", "package", "install"),
    [
        ("cupy", "cupy", "pip install 'coreframe-ml[cupy-cuda12x]'"),
        ("torch", "torch", "install it as pytorch.org says"),
        ("jax", "jax", "pip install jax"),
    ],
)
@pytest.mark.parametrize("source", ["argument", "COREFRAME_BACKEND"])
def test_a_missing_package_says_what_to_install(name, package, install, source, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == package else real(n, *a)
    )
    if source == "COREFRAME_BACKEND":
        monkeypatch.setenv(source, name)
    with pytest.raises(BackendUnavailable) as caught:
        get_backend(name if source == "argument" else None)
    start = f"backend {name!r} (from {source}) cannot run here: the package {package} is not"
    assert str(caught.value).startswith(start)
    assert install in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("torch:cuda:99", "torch cannot use the device 'cuda:99'"),
        ("torch:nonsense", "torch cannot use the device 'nonsense'"),
        ("jax:cpu:99", "JAX has no device 'cpu:99'"),
        ("jax:nonsense", "JAX has no device 'nonsense'"),
    ],
)
def test_a_device_that_is_not_there(name, text):
    library = name.partition(":")[0]
    pytest.importorskip(library, reason=f"the package {library} is not installed")
    with pytest.raises(BackendUnavailable) as caught:
        get_backend(name)
    assert str(caught.value).startswith(f"backend {name!r} (from argument) cannot run here: {text}")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("numpy:cuda", "has only the device cpu, got 'cuda'"),
        ("cupy:first", "a CuPy device is a number, as in cupy:1, got 'first'"),
    ],
)
def test_a_device_that_makes_no_sense(name, text):
    with pytest.raises(BackendUnavailable, match=text):
        get_backend(name)


@pytest.mark.gpu
def test_cupy_without_that_device():
    pytest.importorskip("cupy", reason="the package cupy is not installed")
    with pytest.raises(BackendUnavailable, match="no CUDA device"):
        get_backend("cupy:99")


def test_a_backend_is_asked_for_by_name():
    with pytest.raises(ArgumentTypeError, match="backend must be a name such as 'numpy', got int"):
        get_backend(3)
    with pytest.raises(ArgumentTypeError, match="got module"):
        get_backend(np)


# What a backend does ------------------------------------------------------------------------------


def test_each_backend_brings_arrays_there_and_back(library, rng):
    x = rng.standard_normal((3, 2)).astype(np.float32)
    here = library.asarray(x)
    assert np.array_equal(to_numpy(here), x)
    for name in ("numpy", "torch", "jax", "cupy"):
        try:
            backend = get_backend(name)
        except BackendUnavailable:
            continue
        there = backend.asarray(here)
        assert library_of(there) == name
        assert device_of(there) == backend.device
        assert namespace(x=there).__name__ == backend.xp.__name__
        assert np.array_equal(backend.to_numpy(there), x)
        assert np.array_equal(to_numpy(there), x)
        assert backend.asarray(x, dtype=backend.xp.float32).dtype == backend.xp.float32
        assert np.array_equal(backend.to_numpy(backend.asarray(2.5)), 2.5)
        backend.synchronize()
        assert isinstance(backend.memory(), int)
        assert backend.memory() >= 0


def test_arrays_choose_their_own_backend(library):
    x = library.asarray(np.ones(2))
    choice = choose_backend(like=x)
    if library_of(x) in ("numpy", "torch", "jax", "cupy"):
        assert choice.backend.name == library_of(x)
        assert choice.backend.device == device_of(x)
    else:
        assert choice.backend.name == "numpy"


# Namespaces ---------------------------------------------------------------------------------------


def test_the_namespace_is_that_of_the_arrays(library):
    x = library.asarray(np.ones(2))
    xp = namespace(x=x, y=None, z=1.5, flag=True)
    assert xp.__name__ == library.xp.__name__
    assert library_of(xp.asarray([1.0])) == library_of(x)


def test_a_namespace_needs_arrays():
    with pytest.raises(ArgumentTypeError, match="x must be an array, got list"):
        namespace(x=[1.0])
    with pytest.raises(ArgumentTypeError, match="x must be an array, got str"):
        namespace(x="text")
    with pytest.raises(ArgumentTypeError, match="at least one array is needed among: x, y"):
        namespace(x=None, y=2)


def test_mixed_arrays_are_all_listed():
    strict = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    with pytest.raises(MixedArrays) as caught:
        namespace(a=np.ones(2), b=None, c=strict.asarray([1.0]), d=np.ones(3))
    text = str(caught.value)
    assert "a: numpy on cpu\n" in text
    assert "c: array_api_strict on" in text
    assert "d: numpy on cpu\n" in text
    assert "  b:" not in text


# What is not read and not imported ----------------------------------------------------------------


def test_components_never_read_the_choice_of_backend(library, monkeypatch, rng):
    monkeypatch.setenv("COREFRAME_BACKEND", "no such backend")
    a, p = map(library.asarray, rng.standard_normal((2, 5, 3)))
    result = InfoNCE()(a, p)
    assert library_of(result.value) == library_of(a)
    Random(k=2).select(a, p, p, 2, rng=np.random.default_rng(0))
    optimizer = AdamW()
    optimizer.update({"W": a}, {"W": p}, optimizer.init({"W": a}))


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_coreframe_imports_no_array_library():
    code = "import sys, coreframe; print(' '.join(sorted(sys.modules)))"
    assert not LIBRARIES & set(run(code).split())


def test_importing_every_core_interface_imports_no_array_library():
    names = [
        name
        for name in ("Batch", "Loss", "PairwiseLoss", "Miner", "Optimizer", "Scheduler", "Adapter")
        if hasattr(coreframe, name)
    ]
    code = f"import sys; from coreframe import {', '.join(names)}; print(*sorted(sys.modules))"
    assert not LIBRARIES & set(run(code).split())


def test_a_loss_on_numpy_imports_no_other_array_library_and_no_plugin():
    code = (
        "import sys, numpy as np; from coreframe_losses.info_nce import InfoNCE;"
        "InfoNCE()(np.ones((3, 2)), np.ones((3, 2))); print(*sorted(sys.modules))"
    )
    loaded = set(run(code).split())
    assert not (LIBRARIES - {"numpy", "array_api_compat"}) & loaded
    assert not {"coreframe_miners", "coreframe_torch", "coreframe_jax", "coreframe_text"} & loaded
