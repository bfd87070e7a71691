"""The JavaScript seed's gradient checkpointer: what is stored, run again, counted and saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from goldens import Case, case, fault, golden

from coreframe.errors import ArgumentError
from coreframe.random import stream
from coreframe.recompute import checkpointed, savings
from coreframe_adapters.micro_lora import MicroLoRA
from coreframe_adapters.recomputed import Recomputed

RECOMPUTE = case("js:checkpoint/recompute")


class Doubling:
    """The recorded layer x -> 2x, which counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: np.ndarray, rng: Any) -> tuple[np.ndarray, Any]:
        self.calls += 1
        kept = 1 * x  # what its pullback needs

        def pullback(dy: np.ndarray, need_dx: bool = True) -> tuple[dict, np.ndarray]:
            return {}, 2 * dy + 0 * kept

        return 2 * x, pullback


@golden("js", "checkpoint/recompute")
def test_a_segment_gives_what_it_gave(case: Case) -> None:
    """Three inputs through one layer each, and again: equal outputs, and calls are counted."""
    layer = Doubling()
    inputs = [np.array([x], dtype=float) for x in case.inputs["inputs"]]
    passes = [checkpointed([layer], x) for x in inputs]
    assert [y.tolist()[0] for y, _, _ in passes] == case.output["outputs"]
    assert layer.calls == case.output["calls_after_forward"]
    again = [layer(x, None)[0].tolist()[0] for x in inputs]
    assert again == [pair["output"] for pair in case.output["recomputed"]]
    counts = [count for _, _, count in passes]
    assert sum(count.segments for count in counts) == case.output["stats"]["checkpoints"]
    assert sum(count.forward_calls for count in counts) == len(inputs)


@fault(20, "js:checkpoint/recompute")
def test_only_the_inputs_of_segments_are_stored() -> None:
    """The recorded one stores the first outputs besides all inputs and functions: nothing saved."""
    x = np.ones((8, 4))
    _, _, plain = checkpointed([Doubling()] * 16, x, enabled=False)
    _, pullback, count = checkpointed([Doubling()] * 16, x, segments=4)
    # The plain pass keeps what each of the 16 layers made, and x; ours four inputs and four more.
    assert plain.peak_bytes == 17 * x.nbytes
    assert count.stored_bytes == (4 + 4) * x.nbytes
    pullback(x)
    assert count.peak_bytes == (4 + 4) * x.nbytes
    for _ in range(3):  # nothing grows, and nothing has to be cleared
        pullback(x)
    assert count.peak_bytes == (4 + 4) * x.nbytes


@fault(21, "js:checkpoint/recompute")
def test_backward_exists_and_segments_matter(rng: np.random.Generator) -> None:
    assert RECOMPUTE.output["has_backward"] == "undefined"
    layer, x = Doubling(), rng.standard_normal((3, 2))
    for segments, again in ((1, 0), (2, 3), (3, 4), (6, 5)):
        layer.calls = 0
        y, pullback, count = checkpointed([layer] * 6, x, segments=segments)
        assert layer.calls == count.forward_calls == 6
        _, dx = pullback(np.ones_like(x))
        assert np.array_equal(y, 64 * x)
        assert np.array_equal(dx, np.full_like(x, 64))
        assert (count.segments, count.recomputed_calls) == (segments, again)
        assert layer.calls == 6 + again
    # Gradients of a real adapter equal those of the plain pass in every bit.
    inner = MicroLoRA(rank=2)
    params = {k: rng.standard_normal(p.shape) for k, p in inner.init(stream(0, "x"), 2).items()}
    want, want_dx = inner.forward(params, x)[1](x)
    got, dx = Recomputed(adapter=inner).forward(params, x)[1](x)
    assert np.array_equal(dx, want_dx)
    assert all(np.array_equal(got[name], want[name]) for name in want)


@golden("js", "checkpoint/disabled")
def test_disabled_is_the_plain_pass(case: Case) -> None:
    layer, x = Doubling(), np.ones((1, 2))
    _, pullback, count = checkpointed([layer] * 5, x, enabled=case.params["enabled"])
    pullback(x)
    assert count.recomputed_calls == case.output["stats"]["recomputations"] == 0
    assert (layer.calls, count.segments) == (5, 1)


@fault(22, "js:checkpoint/shallow_copy_alias")
def test_an_input_that_is_written_to_is_an_error() -> None:
    """The recorded one recomputes from the altered input without a word."""
    recorded = case("js:checkpoint/shallow_copy_alias")
    x = np.array(recorded.inputs["input"], dtype=float)
    _, pullback, _ = checkpointed([Doubling()] * 4, x, segments=2)
    x[0, 0] = recorded.inputs["mutated_to"]
    with pytest.raises(ArgumentError, match="gave another output when they were run again"):
        pullback(np.ones_like(x))

    def in_place(x: np.ndarray, rng: Any) -> tuple[np.ndarray, Any]:
        x *= 2
        return x, lambda dy, need_dx=True: ({}, 2 * dy)

    with pytest.raises(ArgumentError, match="layer '0' writes to its input"):
        checkpointed([in_place], x)
    # Arrays stay arrays of their dtype: nothing is turned into a plain object.
    y, _, _ = checkpointed([Doubling()] * 4, np.array([[1, 2]], dtype=np.int8), segments=2)
    assert y.dtype == np.int8


@golden("js", "checkpoint/estimateMemorySavings")
def test_the_estimate(case: Case) -> None:
    for want in case.output:
        layers, segments = want["totalLayers"], want["checkpointSegments"]
        if segments > layers:
            continue  # below
        found = savings(layers, want["activationSize"], segments, rule="textbook")
        assert found.without == want["without"]
        assert found.stored == pytest.approx(want["with"], rel=1e-12)
        assert 100 * found.fraction == pytest.approx(want["savings"], abs=1e-9)
        assert f"{100 * found.fraction:.1f}%" == want["savingsPercentage"]


@fault(23, "js:checkpoint/estimateMemorySavings")
def test_the_estimate_is_checked_and_counts_what_is_held() -> None:
    """Recorded are savings of -910% and of minus infinity."""
    refused = 0
    for want in case("js:checkpoint/estimateMemorySavings").output:
        layers, segments = want["totalLayers"], want["checkpointSegments"]
        if segments > layers:
            assert want["savings"] < 0
            with pytest.raises(ArgumentError, match=r"must be (a whole number from 1|at most the)"):
                savings(layers, want["activationSize"], segments, rule="textbook")
            refused += 1
        else:
            held = savings(layers, want["activationSize"], segments)
            assert 0 <= held.fraction < 1
            assert held.stored <= want["with"] + want["activationSize"]
    assert refused > 10
    assert savings(4, 1, 4).fraction == 0  # recorded: -25%
    assert savings(10, 1, 3).stored == 3 + 4 - 1  # the longest segment, rounded up
