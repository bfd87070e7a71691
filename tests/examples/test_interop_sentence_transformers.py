"""examples/interop_sentence_transformers.py: the swapped line changes nothing, the rest learns."""

from __future__ import annotations

import pytest
from support import load_example

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_it_does_what_it_says() -> None:
    torch = pytest.importorskip("torch")
    for library in ("sentence_transformers", "datasets", "accelerate"):
        pytest.importorskip(library)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small tensors: threads would wait for one another
    found = load_example("interop_sentence_transformers").main()
    torch.set_num_threads(threads)
    assert found["ours"] == pytest.approx(found["theirs"], rel=0.01)
    assert found["ours"][-1] < 0.5 * found["ours"][0]
    assert found["more"][-1] < found["more"][0]
    assert found["temperature"] == pytest.approx([0.17, 0.11, 0.05], abs=0.03)
    assert len(found["rank"]) == 4
    assert min(found["rank"]) > 2
