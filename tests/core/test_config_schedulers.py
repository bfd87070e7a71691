"""Schedulers and curricula in ``run.toml``: read, overridden, refused, and written again."""

from __future__ import annotations

import tomllib

import pytest

from coreframe import config
from coreframe.errors import ConfigError
from coreframe_losses.info_nce import InfoNCE
from coreframe_miners.hardest import Hardest
from coreframe_schedulers.cosine import Cosine
from coreframe_schedulers.curriculum import Curriculum, Stage
from coreframe_schedulers.joined import Joined
from coreframe_schedulers.linear import Linear
from coreframe_schedulers.piecewise import Piecewise
from coreframe_schedulers.stage_value import StageValue

RUN = """
[[losses]]
name = "info_nce"
temperature = { scheduler = "cosine", start = 0.1, end = 0.02 }

[miner]
name = "hardest"

[miner.k]
scheduler = "stage_value"
name = "negatives"

[miner.k.curriculum]
scheduler = "curriculum"
unit = "samples"

[[miner.k.curriculum.stages]]
name = "easy"
duration = 1000
negatives = 5

[[miner.k.curriculum.stages]]
name = "hard"
duration = 500
negatives = 20
values = { margin = 0.3 }

[optimizer]
name = "sgd"
momentum = { scheduler = "piecewise", values = [0.9, 0.95], boundaries = [0.5] }

[optimizer.learning_rate]
scheduler = "joined"
boundaries = [100]
schedulers = [
    { scheduler = "linear", start = 0.0, end = 0.01 },
    { scheduler = "cosine", start = 0.01, steps = 400 },
]
"""
CURRICULUM = Curriculum(
    stages=(
        Stage(name="easy", duration=1000, negatives=5),
        Stage(name="hard", duration=500, negatives=20, values={"margin": 0.3}),
    ),
    unit="samples",
)


def parse(text: str, *assignments: str) -> config.RunConfig:
    return config.parse(config.override(tomllib.loads(text), assignments))


def test_schedulers_are_read() -> None:
    run = parse(RUN)
    assert run.loss == InfoNCE(temperature=Cosine(start=0.1, end=0.02))
    assert run.miner == Hardest(k=StageValue(curriculum=CURRICULUM, name="negatives"))
    assert run.optimizer.learning_rate == Joined(
        schedulers=(Linear(start=0.0, end=0.01), Cosine(start=0.01, steps=400)), boundaries=(100,)
    )
    assert run.optimizer.momentum == Piecewise(values=(0.9, 0.95), boundaries=(0.5,))


def test_what_is_written_is_read_again() -> None:
    pytest.importorskip("tomli_w")
    run = parse(RUN)
    text = config.dump(run)
    assert parse(text) == run
    assert tomllib.loads(text)["miner"]["k"]["curriculum"]["stages"][0] == {
        "name": "easy", "duration": 1000, "difficulty": 0.5, "temperature": 1.0,
        "negatives": 5, "values": {},
    }  # fmt: skip


def test_overrides_inside_schedulers() -> None:
    run = parse(
        RUN,
        "miner.k.name=temperature",
        "miner.k.curriculum.stages.1.duration=700",
        "miner.k.curriculum.stages.1.name=harder",
        "optimizer.learning_rate.schedulers.1.end=0.001",
        "losses.0.temperature.scheduler=linear",
        "losses.0.temperature.start=1.0",
        "losses.0.temperature.end=0.1",
    )
    assert isinstance(run.miner, Hardest)
    assert isinstance(run.miner.k, StageValue)
    assert run.miner.k.name == "temperature"
    stages = [(stage.name, stage.duration) for stage in run.miner.k.curriculum.stages]
    assert stages == [("easy", 1000), ("harder", 700)]
    pieces = run.optimizer.learning_rate
    assert isinstance(pieces, Joined)
    assert pieces.schedulers[1] == Cosine(start=0.01, end=0.001, steps=400)
    assert run.loss == InfoNCE(temperature=Linear(start=1.0, end=0.1))


MISTAKES = {
    'k = { scheduler = "stage_value", name = "x", curriculum = { scheduler = "linear" } }': (
        "miner.k.curriculum.scheduler: 'linear' is no Curriculum"
    ),
    'k = { scheduler = "curriculum", stages = [{ name = "a" }] }': (
        "miner.k.stages[0].duration is missing: Stage needs it"
    ),
    'k = { scheduler = "curriculum", stages = [{ name = "a", duration = 1, negative = 3 }] }': (
        "miner.k.stages[0].negative is no field of Stage. Did you mean 'negatives'?"
    ),
    'k = { scheduler = "curriculum", stages = [{ name = "a", duration = 0 }] }': (
        "miner.k.stages[0].duration must be at least 1, got 0"
    ),
    'k = { scheduler = "curriculum", stages = [3] }': ("miner.k.stages[0] must be a table, got 3"),
    'k = { scheduler = "joined", schedulers = [0.1] }': (
        "miner.k.schedulers[0] must be a scheduler { scheduler = ... }, got 0.1"
    ),
    'k = { scheduler = "linear", start = 1, end = 5, steps = 2.5 }': (
        "miner.k.steps must be a whole number of steps, or a share of the run below 1, got 2.5"
    ),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_have_their_path(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(f'[miner]\nname = "hardest"\n{text}')
    assert MISTAKES[text] in error.value.problems
