"""The kit for backends: NumPy's keeps all promises, and each fault is named by the right one."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import array_api_compat.numpy as numpy_xp
import numpy as np
import pytest

from coreframe import get_backend
from coreframe.errors import BackendUnavailable, UnknownName
from coreframe.testing import arrays, check_backend, report
from coreframe.testing.backends import computing
from coreframe.testing.backends.promises import PROMISES, Subject
from coreframe.testing.backends.standard import FUNCTIONS
from coreframe.testing.suites import Suite
from coreframe_numpy.backend import NumpyBackend

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def few_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy and the strict library, without waiting for others to load."""
    found = {k: v for k, v in arrays.libraries().items() if k.startswith(("numpy", "array-api"))}
    monkeypatch.setattr(arrays, "libraries", lambda: found)


@pytest.mark.parametrize("backend", ["numpy", "numpy:cpu", NumpyBackend, NumpyBackend()])
def test_a_right_backend_passes(backend: Any) -> None:
    checks = check_backend(backend)
    assert all(checks), report(checks)
    assert all(check.checked for check in checks), report(checks)


def test_it_keeps_them_in_pytorch_too() -> None:
    pytest.importorskip("torch")
    checks = check_backend("torch")
    assert all(checks), report(checks)


def test_an_unknown_name() -> None:
    with pytest.raises(UnknownName, match=r"no backend is named 'nunpy'\. Did you mean 'numpy'"):
        check_backend("nunpy")


class NotHere(NumpyBackend):
    def missing(self) -> str | None:
        return "the driver is too old"


def test_one_that_cannot_run_here_is_not_checked() -> None:
    checks = check_backend(NotHere)
    assert all(checks), report(checks)
    assert [c.name for c in checks if c.checked] == ["construction", "name", "missing"]
    assert "the driver is too old" in {c.name: c for c in checks}["round_trip"].detail


# Backends that are wrong ----------------------------------------------------------------------


class NeedsADevice(NumpyBackend):
    def __init__(self, device: str) -> None:
        super().__init__(device)


class HasNoMemory(NumpyBackend):
    memory = None  # type: ignore[assignment]


class Loud(NumpyBackend):
    name = "Num Py"


class SaysYes(NumpyBackend):
    def missing(self) -> Any:
        return True


class Raises(NumpyBackend):
    def missing(self) -> str | None:
        raise OSError("libcuda.so.1 cannot be opened")


class TakesEveryDevice(NumpyBackend):
    def __init__(self, device: str = "") -> None:
        super().__init__()


class NamesNoDevice(NumpyBackend):
    def __init__(self, device: str = "") -> None:
        if device not in ("", "cpu"):
            raise BackendUnavailable("no such thing")


class KnowsOnlyItsDefault(NumpyBackend):
    def __init__(self, device: str = "") -> None:
        if device:
            raise BackendUnavailable(f"no device {device}")


class Namespace:
    """NumPy's, with some functions changed or taken away."""

    __name__ = numpy_xp.__name__

    def __init__(self, **changed: Any) -> None:
        names = {name: getattr(numpy_xp, name) for name in dir(numpy_xp)} | changed
        vars(self).update({k: v for k, v in names.items() if v is not None and k[:2] != "__"})


class Old(NumpyBackend):
    xp = Namespace(take_along_axis=None)


class SortsUp(NumpyBackend):
    xp = Namespace(argsort=lambda x, **keywords: np.argsort(x, axis=keywords.get("axis", -1)))


class TransfersWrong(NumpyBackend):
    xp = Namespace(from_dlpack=lambda x: np.from_dlpack(x) + 1)


class TakesArraysAlone(NumpyBackend):
    def asarray(self, x: Any, /, dtype: Any = None) -> Any:
        return np.asarray(x[...], dtype=dtype)


class FlattensNumbers(NumpyBackend):
    def asarray(self, x: Any, /, dtype: Any = None) -> Any:
        return np.atleast_1d(super().asarray(x, dtype))


class ReadsMemoryInOrder(NumpyBackend):
    def asarray(self, x: Any, /, dtype: Any = None) -> Any:
        found = super().asarray(x, dtype)
        return found.ravel(order="K").reshape(found.shape)


class KeepsHalves(NumpyBackend):
    def asarray(self, x: Any, /, dtype: Any = None) -> Any:
        found = super().asarray(x, dtype)
        return found.astype(np.float16).astype(found.dtype) if found.dtype.kind == "f" else found


class ReturnsLists(NumpyBackend):
    def to_numpy(self, x: Any, /) -> Any:
        return np.asarray(x).tolist()


class Widens(NumpyBackend):
    def to_numpy(self, x: Any, /) -> Any:
        return np.asarray(x, np.float64) if np.asarray(x).dtype == np.float32 else np.asarray(x)


class ReadsBuffers(NumpyBackend):
    def to_numpy(self, x: Any, /) -> Any:
        x = np.asarray(x)
        whole = x if x.flags.c_contiguous or x.base is None else x.base
        return whole.ravel()[: x.size].reshape(x.shape).copy()


class IgnoresDtype(NumpyBackend):
    def asarray(self, x: Any, /, dtype: Any = None) -> Any:
        return super().asarray(x)


class KnowsOnlyNumPy(NumpyBackend):
    def asarray(self, x: Any, /, dtype: Any = None) -> Any:
        if "strict" in type(x).__module__:
            raise TypeError("an array of NumPy, please")
        return super().asarray(x, dtype)


class Centres(NumpyBackend):
    def asarray(self, x: Any, /, dtype: Any = None) -> Any:
        if isinstance(x, np.ndarray) and x.dtype == np.float32 and x.flags.writeable:
            x -= x.mean() if x.size else 0
        return super().asarray(x, dtype)


class Unlocks(NumpyBackend):
    def asarray(self, x: Any, /, dtype: Any = None) -> Any:
        if isinstance(x, np.ndarray) and x.base is None:
            x.flags.writeable = True
        return super().asarray(x, dtype)


class SaysGpu(NumpyBackend):
    device = "gpu"


class Counts(NumpyBackend):
    def synchronize(self) -> Any:
        return 1


class Unknown(NumpyBackend):
    def memory(self) -> Any:
        return None


class Drifts(NumpyBackend):
    calls = 0

    def to_numpy(self, x: Any, /) -> Any:
        type(self).calls += 1
        return x + 1e-6 * self.calls if x.dtype.kind == "f" else x


class SetsErrors(NumpyBackend):
    def synchronize(self) -> None:
        np.seterr(all="ignore")


class SetsVariables(NumpyBackend):
    def synchronize(self) -> None:
        os.environ["COREFRAME_TEST_VARIABLE"] = "1"


class Speaks(NumpyBackend):
    def synchronize(self) -> None:
        print("done")


class Shares(NumpyBackend):
    last: Any = None

    def asarray(self, x: Any, /, dtype: Any = None) -> Any:
        type(self).last = super().asarray(x, dtype)
        time.sleep(0.001)  # so that another thread comes in between
        return type(self).last


@pytest.mark.parametrize(
    ("backend", "name", "words"),
    [
        (NeedsADevice, "construction", "missing 1 required positional argument: 'device'"),
        (HasNoMemory, "clock", "'NoneType' object is not callable"),
        (Loud, "name", "name is 'Num Py'"),
        (SaysYes, "missing", "missing() returns True"),
        (Raises, "missing", "libcuda.so.1 cannot be opened"),
        (TakesEveryDevice, "unknown_device", "the device 'no-such-device' is accepted"),
        (NamesNoDevice, "unknown_device", "does not name the device"),
        (KnowsOnlyItsDefault, "reopened", "no device cpu"),
        (Old, "namespace", "xp has no take_along_axis"),
        (SortsUp, "functions", "argsort, float64 has other values than NumPy"),
        (TransfersWrong, "dlpack", "xp.from_dlpack reads other values"),
        (TakesArraysAlone, "numbers", "TypeError"),
        (FlattensNumbers, "numbers", "asarray(2.5) is float64 (1,)"),
        (FlattensNumbers, "round_trip", "0-d float64 () comes back as float64 (1,)"),
        (ReadsMemoryInOrder, "round_trip", "transposed float64 comes back with other values"),
        (KeepsHalves, "round_trip", "ordinary float64 comes back with other values"),
        (KeepsHalves, "operators", "x + y, float64 has other values than NumPy"),
        (KeepsHalves, "operations", "differs from NumPy's"),
        (KeepsHalves, "training", "float64: the parameters after step"),
        (ReturnsLists, "round_trip", "ordinary float64: to_numpy returns list"),
        (Widens, "round_trip", "ordinary float32 (4, 6) comes back as float64 (4, 6)"),
        (ReadsBuffers, "views", "a slice comes out wrong"),
        (IgnoresDtype, "dtype", "asarray(a list, dtype=float64) is int64"),
        (KnowsOnlyNumPy, "other_libraries", "an array of NumPy, please"),
        (Centres, "inputs_are_kept", "ordinary: the array that went in was changed"),
        (Unlocks, "inputs_are_kept", "read-only: the array that went in was changed"),
        (SaysGpu, "device", "asarray(x) is on the device cpu, the backend on gpu"),
        (Counts, "clock", "synchronize() returns 1"),
        (Unknown, "clock", "memory() returns None"),
        (Drifts, "no_hidden_state", "is another after another call"),
        (SetsErrors, "floating_point_errors", "np.geterr()"),
        (SetsVariables, "surroundings", "environment variables changed"),
        (Speaks, "prints_nothing", "it printed 'done"),
        (Shares, "thread_safe", "in several threads"),
    ],
    ids=lambda x: x.__name__ if isinstance(x, type) else "",
)
def test_a_wrong_backend_is_named(backend: type, name: str, words: str) -> None:
    outcome = Suite("", "", PROMISES, lambda: Subject(backend)).check(name)
    assert not outcome.ok
    assert words in outcome.detail, outcome.detail
    assert "To fix: " in outcome.detail
    assert "COREFRAME_TEST_VARIABLE" not in os.environ


def test_a_fault_of_its_own_breaks_no_other_promise() -> None:
    assert [c.name for c in check_backend(Counts) if not c] == ["clock"]
    assert [c.name for c in check_backend(SortsUp) if not c] == ["namespace", "functions"]


# The part of the standard that is tried -----------------------------------------------------------

NO_FUNCTIONS = {"inf", "nan", "newaxis", "bool", "int8", "int32", "int64", "float32", "float64"}
NO_FUNCTIONS |= {"from_dlpack"}  # which has a promise of its own


def test_all_functions_that_components_use_are_tried() -> None:
    files = [p for top in ("coreframe", "plugins") for p in (ROOT / top).rglob("*.py")]
    used = {
        name
        for path in files
        if "testing" not in path.parts
        for name in re.findall(r"\bxp\.([a-z]\w*)", path.read_text(encoding="utf-8"))
    }
    assert len(used) > 30
    assert used - NO_FUNCTIONS - set(FUNCTIONS) == set()


def test_every_call_that_is_compared_shows_something() -> None:
    """NumPy against a NumPy whose results are all off by one: each call notices."""

    class Off(NumpyBackend):
        def to_numpy(self, x: Any, /) -> Any:
            return ~x if x.dtype == bool else x + 1

    quiet = {"zeros"}  # which is tried without rows
    for name, call in FUNCTIONS.items():
        found = list(computing.agree(Subject(Off), {name: call}))
        assert bool(found) == (name not in quiet), name


def test_the_default_backend_is_the_one_that_was_checked() -> None:
    assert isinstance(get_backend("numpy"), NumpyBackend)
