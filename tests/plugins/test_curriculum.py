"""Curricula: stages by steps, samples and epochs, presets, and their way into components."""

from __future__ import annotations

import dataclasses
import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreframe import Pairs, fit
from coreframe.compose import Mined
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.scheduler import Progress, resolve
from coreframe_losses.info_nce import InfoNCE
from coreframe_losses.triplet import Triplet
from coreframe_miners.hardest import Hardest
from coreframe_schedulers.constant import Constant
from coreframe_schedulers.curriculum import Curriculum, Stage
from coreframe_schedulers.linear import Linear
from coreframe_schedulers.stage_value import StageValue


def stages(*durations: int) -> tuple[Stage, ...]:
    return tuple(Stage(name=f"{i}", duration=d) for i, d in enumerate(durations))


# Where the stages are -------------------------------------------------------------------------


def test_the_linear_preset() -> None:
    curriculum = Curriculum.linear(3, 1000, negatives=(5, 20), temperature=(1.0, 0.1))
    assert [s.negatives for s in curriculum.stages] == [5, 13, 20]
    assert [s.temperature for s in curriculum.stages] == [1.0, 0.55, 0.1]
    assert [s.difficulty for s in curriculum.stages] == [0.0, 0.5, 1.0]
    assert curriculum.unit == "samples"
    assert curriculum.starts == (0, 1000, 2000)
    borders = {0: 5, 999: 5, 1000: 13, 1999: 13, 2000: 20, 2999: 20, 3000: 20, 10**9: 20}
    for samples, negatives in borders.items():
        assert curriculum(Progress(step=7, samples=samples)).negatives == negatives
    one = Curriculum.linear(1, 10, negatives=(5, 20), temperature=(1.0, 0.1))
    assert (one.stages[0].negatives, one.stages[0].temperature) == (5, 1.0)
    with pytest.raises(ArgumentError, match=r"negatives must be two numbers, first and last"):
        Curriculum.linear(3, 10, negatives=(5,), temperature=(1.0, 0.1))


def test_the_remainder_of_a_batch_counts_in_the_next_stage() -> None:
    curriculum = Curriculum.linear(3, 1000, negatives=(5, 20), temperature=(1.0, 0.1))
    progress = Progress()
    seen = []
    for _ in range(10):
        seen.append(curriculum.stage_index(progress))
        progress = progress.after(samples=150)
    assert seen == [0, 0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert curriculum(progress).name == "stage_2"
    assert curriculum.elapsed(progress) == 500
    assert curriculum.completion(progress) == 0.5
    # A batch larger than a stage passes over it.
    assert curriculum.stage_index(Progress().after(samples=2500)) == 2


@given(
    durations=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    batches=st.lists(st.integers(0, 7), max_size=20),
)
def test_a_curriculum_is_a_function_of_the_total(durations: list[int], batches: list[int]) -> None:
    by_samples = Curriculum(stages=stages(*durations), unit="samples")
    by_steps = Curriculum(stages=stages(*durations))
    progress = Progress()
    for size in batches:
        progress = progress.after(samples=size)
    total = sum(batches)
    walked = [i for i, d in enumerate(durations) for _ in range(d)]  # the stage of each sample
    index = walked[total] if total < len(walked) else len(durations) - 1
    assert by_samples.stage_index(progress) == index
    assert by_samples(progress) is by_samples.stages[index]
    assert by_samples.starts[index] + by_samples.elapsed(progress) == total
    assert by_samples.is_complete(progress) == (total >= sum(durations))
    assert by_samples.completion(progress) == min(1.0, total / sum(durations))
    assert by_steps.stage_index(Progress(step=total)) == index
    assert by_steps.stage_index(Progress(samples=10**6)) == 0


def test_completion_never_falls_and_ends_at_one() -> None:
    curriculum = Curriculum.default(10)
    found = [curriculum.completion(Progress(step=t)) for t in range(30)]
    assert all(a <= b for a, b in itertools.pairwise(found))
    assert (found[0], found[9], found[10], found[29]) == (0.0, 0.9, 1.0, 1.0)


def test_by_epochs() -> None:
    curriculum = Curriculum.default(8, unit="epochs")
    names = [curriculum(Progress(step=100 * e, epoch=e)).name for e in range(9)]
    assert names == ["warm_up"] * 2 + ["easy"] * 2 + ["medium"] * 2 + ["hard"] * 3


# Into components ------------------------------------------------------------------------------


def test_one_curriculum_in_several_components() -> None:
    curriculum = Curriculum.linear(3, 1000, negatives=(5, 20), temperature=(1.0, 0.1))
    loss = Mined(
        miner=Hardest(k=curriculum.value("negatives")),
        loss=InfoNCE(temperature=curriculum.value("temperature")),
    )
    for samples, k, temperature in ((0, 5, 1.0), (1000, 13, 0.55), (5000, 20, 0.1)):
        done = resolve(loss, Progress(samples=samples))
        assert done == Mined(miner=Hardest(k=k), loss=InfoNCE(temperature=temperature))
        assert isinstance(done.miner, Hardest)
        assert type(done.miner.k) is int
    rng = np.random.default_rng(0)
    a, p = rng.standard_normal((8, 4)), rng.standard_normal((8, 4))
    now = resolve(loss, Progress(samples=1000))
    assert now(a, p).value == Mined(miner=Hardest(k=13), loss=InfoNCE(temperature=0.55))(a, p).value


def test_other_values_of_a_stage() -> None:
    curriculum = Curriculum(
        stages=(
            Stage(name="soft", duration=2, values={"margin": 0.1}),
            Stage(name="hard", duration=2, values={"margin": 0.5}),
        )
    )
    loss = Triplet(margin=curriculum.value("margin"))
    assert resolve(loss, Progress(step=1)) == Triplet(margin=0.1)
    assert resolve(loss, Progress(step=2)) == Triplet(margin=0.5)
    assert curriculum.stages[1].value("difficulty") == 0.5
    assert StageValue(curriculum=curriculum, name="margin") == curriculum.value("margin")


def test_a_run_goes_through_the_stages_by_samples() -> None:
    """80 pairs in batches of 32, 32, 16: a stage of 48 samples ends within the second batch."""
    seen = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Noted(InfoNCE):
        def value_and_grad(self, batch: Any, params: Any = None, *, wrt: Any = None) -> Any:
            seen.append(self.temperature)
            return super().value_and_grad(batch, params, wrt=wrt)

    curriculum = Curriculum.linear(3, 48, negatives=(1, 3), temperature=(1.0, 0.5))
    rng = np.random.default_rng(0)
    pairs = Pairs(rng.standard_normal((80, 4)), rng.standard_normal((80, 4)))
    fit(pairs, loss=Noted(temperature=curriculum.value("temperature")), epochs=2, batch_size=32)
    # 0, 32, 64, 80, 112, 144 samples before each step
    assert seen == [1.0, 1.0, 0.75, 0.75, 0.5, 0.5]


def test_curricula_are_values() -> None:
    curriculum = Curriculum.default(40)
    value = curriculum.value("temperature")
    assert pickle.loads(pickle.dumps(value)) == value
    assert dataclasses.replace(curriculum, unit="samples") != curriculum
    assert resolve(curriculum, Progress(step=3)) is curriculum


def test_a_whole_stage_is_no_number() -> None:
    curriculum = Curriculum.default(40)
    for component in (Hardest(k=curriculum), InfoNCE(temperature=curriculum)):
        name = "Hardest.k" if isinstance(component, Hardest) else "InfoNCE.temperature"
        with pytest.raises(ArgumentTypeError, match=rf"{name} must be .*, got Stage\("):
            resolve(component, Progress())


# What is refused ------------------------------------------------------------------------------

WRONG_STAGES: list[tuple[dict[str, Any], str]] = [
    ({"name": 3}, r"Stage.name must be a text, got 3"),
    ({"duration": 0}, r"Stage.duration must be at least 1, got 0"),
    ({"duration": 2.5}, r"Stage.duration must be an integer, got 2.5"),
    ({"difficulty": 1.5}, r"Stage.difficulty must be at least 0 and at most 1, got 1.5"),
    ({"temperature": 0.0}, r"Stage.temperature must be above 0, got 0.0"),
    ({"temperature": Linear(start=1.0, end=0.1)}, r"Stage.temperature must be a number"),
    ({"negatives": 0}, r"Stage.negatives must be at least 1, got 0"),
    ({"values": [1]}, r"Stage.values must be a mapping, got \[1\]"),
    ({"values": {"margin": "x"}}, r"Stage.values\['margin'\] must be a number, got 'x'"),
    ({"values": {"margin": math.nan}}, r"Stage.values\['margin'\] must be finite, got nan"),
    ({"values": {"duration": 1}}, r"Stage.values must not hold 'duration': it is a field of Stage"),
]


@pytest.mark.parametrize(("fields", "text"), WRONG_STAGES)
def test_mistakes_in_a_stage(fields: dict[str, Any], text: str) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError), match=text):
        Stage(**{"name": "any", "duration": 5, **fields})


def test_mistakes_in_a_curriculum() -> None:
    with pytest.raises(ArgumentTypeError, match=r"Curriculum.stages must be a tuple of Stage"):
        Curriculum(stages=list(stages(3)))  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match=r"Curriculum.stages must hold Stage, got 'easy'"):
        Curriculum(stages=("easy",))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"Curriculum.unit must be one of 'steps', 'samples'"):
        Curriculum(stages=stages(3), unit="sample")
    with pytest.raises(ArgumentTypeError, match=r"stages must be an integer, got 2.5"):
        Curriculum.linear(2.5, 10, negatives=(1, 2), temperature=(1.0, 0.1))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="samples must be at least 1, got 0"):
        Curriculum.linear(2, 0, negatives=(1, 2), temperature=(1.0, 0.1))
    with pytest.raises(ArgumentError, match=r"Stage.temperature must be above 0, got 0.0"):
        Curriculum.linear(2, 10, negatives=(1, 2), temperature=(1.0, 0.0))


def test_a_name_that_a_stage_lacks() -> None:
    curriculum = Curriculum(stages=(*stages(3), Stage(name="b", duration=1, values={"margin": 1})))
    with pytest.raises(
        ArgumentError,
        match=r"StageValue.name: stage '0' has no value 'temperatur'. Did you mean 'temperature'\?",
    ):
        curriculum.value("temperatur")
    with pytest.raises(ArgumentError, match=r"stage '0' has no value 'margin'"):
        curriculum.value("margin")
    with pytest.raises(ArgumentTypeError, match=r"StageValue.curriculum must be a Curriculum"):
        StageValue(curriculum=Constant(value=1.0), name="margin")  # type: ignore[arg-type]
