"""The Rust seed's curricula, and what its own tests expect of them."""

from __future__ import annotations

import pytest
from goldens import Case, case, fault, golden

from coreframe.errors import ArgumentError
from coreframe.scheduler import Progress
from coreframe_schedulers.curriculum import Curriculum, Stage
from coreframe_schedulers.linear import Linear


def check_stage(stage: Stage, want: dict[str, object]) -> None:
    assert stage.name == want["stage"]
    assert stage.difficulty == pytest.approx(want["difficulty"], abs=1e-6)
    assert stage.temperature == pytest.approx(want["temperature"], abs=1e-6)
    assert stage.negatives == want["negative_count"]


@golden("rust", "curriculum/default_400")
def test_default_of_400(case: Case) -> None:
    curriculum = Curriculum.default(case.params["total_steps"])
    recorded = case.output["stages"]
    assert curriculum.starts == tuple(stage["after_steps"] for stage in recorded)
    for i, want in enumerate(recorded):
        after = Progress(step=want["after_steps"])
        check_stage(curriculum(after), want)
        assert (curriculum.stage_index(after), curriculum.elapsed(after)) == (i, 0)
        if i:
            before = Progress(step=want["after_steps"] - 1)
            check_stage(curriculum(before), recorded[i - 1])
    complete = [t for t in range(450) if curriculum.is_complete(Progress(step=t))]
    assert complete[0] == case.output["complete_after_steps"]
    assert len(complete) == 450 - complete[0]
    for at in case.output["progress"]:
        found = curriculum.completion(Progress(step=at["after_steps"]))
        assert found == min(1.0, at["progress"])
    # Reset: a new Progress.
    check_stage(curriculum(Progress()), recorded[0])


@golden("rust", "curriculum/empty")
def test_an_empty_curriculum(case: Case) -> None:
    """The seed has no stage to return; ours returns one with the same values."""
    empty, want = Curriculum(stages=()), case.output
    for progress in (Progress(), Progress(step=99, steps=10)):
        stage = empty(progress)
        assert stage.difficulty == want["difficulty"]
        assert stage.temperature == want["temperature"]
        assert stage.negatives == want["negative_count"]
        assert empty.is_complete(progress) is want["is_complete"]
        assert empty.completion(progress) == want["progress"]
        assert empty.stage_index(progress) == -1
        assert empty.elapsed(progress) == 0
        assert empty.value("negatives")(progress) == 10


@golden("rust", "curriculum/stage_defaults_and_clamps")
def test_defaults_of_a_stage(case: Case) -> None:
    want = case.output["default"]
    stage = Stage(name="any", duration=want["duration"])
    assert stage.difficulty == want["difficulty"]
    assert stage.temperature == want["temperature"]
    assert stage.negatives == want["negative_count"]


@pytest.mark.parametrize("field", ["difficulty", "temperature", "negatives"])
@golden("rust", "curriculum/stage_defaults_and_clamps")
def test_what_the_seed_clamps_is_an_error(case: Case, field: str) -> None:
    """Difficulty 2, temperature 0 and no negatives are mistakes; the clamped values are right."""
    wrong = {"difficulty": 2.0, "temperature": 0.0, "negatives": 0}
    clamped = case.output["set_difficulty2_temperature0_negatives0"]
    with pytest.raises(ArgumentError, match=f"Stage.{field} must be"):
        Stage(name="any", duration=1, **{field: wrong[field]})
    right = clamped["negative_count" if field == "negatives" else field]
    assert getattr(Stage(name="any", duration=1, **{field: right}), field) == right


@fault(44, "rust:curriculum/default_10", "rust:curriculum/default_3")
def test_no_step_is_lost_and_nothing_goes_past_one() -> None:
    ten = case("rust:curriculum/default_10")
    assert ten.output["complete_after_steps"] == 8  # the fault: 10 steps were asked for
    curriculum = Curriculum.default(10)
    assert [stage.duration for stage in curriculum.stages] == [2, 3, 2, 3]
    for stage, want in zip(curriculum.stages, ten.output["stages"], strict=True):
        check_stage(stage, want)
    for total in range(4, 60):
        stages = Curriculum.default(total)
        assert stages.duration == total
        durations = [stage.duration for stage in stages.stages]
        assert max(durations) - min(durations) <= 1 <= min(durations)
        assert stages.is_complete(Progress(step=total))
        assert not stages.is_complete(Progress(step=total - 1))
    assert [curriculum.completion(Progress(step=t)) for t in (0, 5, 10, 30)] == [0, 0.5, 1, 1]
    three = case("rust:curriculum/default_3").params["total_steps"]
    with pytest.raises(ArgumentError, match="total must be at least 4, got 3; each of the four"):
        Curriculum.default(three)
    with pytest.raises(ArgumentError, match=r"Stage.duration must be at least 1, got 0"):
        Stage(name="empty", duration=0)


@fault(44)
def test_stages_and_annealing_count_alike() -> None:
    """The seed's stage is that after the step, its temperature that before: one step apart."""
    stages = (Stage(name="a", duration=3), Stage(name="b", duration=3, temperature=0.5))
    curriculum = Curriculum(stages=stages)
    line = Linear(start=1.0, end=0.0, steps=6)
    used = []
    progress = Progress(steps=6)
    for _ in range(6):
        used.append((curriculum(progress).name, line(progress)))
        progress = progress.after()
    assert [name for name, _ in used] == ["a", "a", "a", "b", "b", "b"]
    assert [value for _, value in used] == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_rust_expectations_on_curricula() -> None:
    curriculum = Curriculum(
        stages=(
            Stage(name="easy", duration=10, difficulty=0.2),
            Stage(name="hard", duration=10, difficulty=0.8),
        )
    )
    first, second = curriculum(Progress()), curriculum(Progress(step=10))
    assert (first.name, first.difficulty) == ("easy", 0.2)
    assert (second.name, second.difficulty) == ("hard", 0.8)
    default = Curriculum.default(400)
    assert len(default.stages) == 4
    assert default.stages[0].name == "warm_up"
    assert default.is_complete(Progress(step=400))
    assert Curriculum.default(100).completion(Progress(step=50)) == pytest.approx(0.5, abs=0.05)


def test_the_plans_stages_by_epochs() -> None:
    """Three stages of 10, 20 and 30 epochs: temperature 0.5, and 0.3 after ten epochs."""
    curriculum = Curriculum(
        stages=tuple(
            Stage(name=f"stage_{i}", duration=epochs, temperature=t, negatives=k)
            for i, (epochs, t, k) in enumerate([(10, 0.5, 5), (20, 0.3, 5), (30, 0.1, 10)])
        ),
        unit="epochs",
    )
    temperature = curriculum.value("temperature")
    assert [temperature(Progress(epoch=e)) for e in (0, 9, 10, 29, 30, 99)] == [
        0.5, 0.5, 0.3, 0.3, 0.1, 0.1,
    ]  # fmt: skip
