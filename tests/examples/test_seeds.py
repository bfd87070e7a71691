"""The usage examples of the two older libraries run as they are written, and learn."""

from __future__ import annotations

import numpy as np
import pytest
from goldens import fault
from support import load_example


def test_the_rust_example() -> None:
    found = load_example("seed_rust").main()
    assert found["negatives"] == [5] * 20 + [13] * 20 + [20] * 20  # 1000 samples a stage
    assert found["temperature"] == pytest.approx([1.0] * 20 + [0.55] * 20 + [0.1] * 20)
    assert np.isfinite(found["loss"]).all()
    for stage in (slice(0, 20), slice(20, 40)):
        losses = found["loss"][stage]
        assert np.mean(losses[-5:]) < np.mean(losses[:5])
    again = load_example("seed_rust").main()
    assert again["loss"] == found["loss"]
    assert np.array_equal(again["W"], found["W"])


@fault(28)
def test_the_javascript_example_stays_finite_and_learns() -> None:
    """Two rows, and a warm-up as long as the run: there every weight became NaN."""
    found = load_example("seed_javascript").main()
    assert found["events"] == ["process:complete 2"]
    assert all(np.isfinite(x).all() for x in found["params"].values())
    assert found["losses"][-1] < 0.7 * found["losses"][0]
    assert found["penalty"] == 0
    assert found["penalty of other weights"] > 0
