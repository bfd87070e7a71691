"""examples/interop_torch.py: the swapped line changes nothing, and the rest does what it says."""

from __future__ import annotations

import pytest
from support import load_example


def test_it_does_what_it_says() -> None:
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small tensors: threads would wait for one another
    found = load_example("interop_torch").main()
    torch.set_num_threads(threads)
    assert found["ours"] == pytest.approx(found["usual"], rel=1e-3)
    assert found["ours"][-1] < 0.7 * found["ours"][0]
    assert found["cached"][-1] < 0.9 * found["cached"][0]
    before, after = found["recall@1"]
    assert before < 0.1
    assert after > 0.9
