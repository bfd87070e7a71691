"""Fewer libraries and smaller sizes for tests of the kit itself, so that they are fast."""

from __future__ import annotations

import importlib.util

import pytest

from coreframe.testing import arrays, growth
from coreframe.testing.losses import values


@pytest.fixture
def few_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy and the strict library, without waiting for others to be imported or to compile."""
    found = {"numpy": arrays.on_numpy}
    if importlib.util.find_spec("array_api_strict"):
        import array_api_strict

        found["array-api-strict"] = array_api_strict.asarray
    monkeypatch.setattr(arrays, "libraries", lambda: found)


@pytest.fixture
def fast(few_libraries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kit that looks less closely at gradients and memory, for faults of another kind."""
    monkeypatch.setattr(values, "DIRECTIONS", 3)
    monkeypatch.setattr(growth, "ROWS", (8, 32))
    monkeypatch.setattr(growth, "WIDTHS", (4, 8))
