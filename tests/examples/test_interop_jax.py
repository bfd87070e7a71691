"""examples/interop_jax.py: swapped loss and optimizer change nothing, and the rest learns."""

from __future__ import annotations

import pytest
from support import load_example


def test_it_does_what_it_says() -> None:
    pytest.importorskip("jax")
    pytest.importorskip("optax")
    found = load_example("interop_jax").main()
    assert found["coreframe's"] == pytest.approx(found["the usual"], rel=1e-3)
    for curve in found.values():
        assert curve[-1] < 0.8 * curve[0]
