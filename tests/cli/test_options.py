"""The options in Hugging Face's words: what each is in a run.toml, and what contradicts itself."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import click
import click.testing
import pytest

from coreframe import config
from coreframe.cli import common, followers, train
from coreframe.cli.options import SCHEDULES, assignments, learning_rate

STEPS = 40


def options(**given: Any) -> dict[str, Any]:
    return {"assignments": (), "config": None, **given}


def settings(text: str | None = None, **given: Any) -> Any:
    """Return the run that options make of a configuration."""
    tables = tomllib.loads(text) if text else config.tables()
    return config.parse(config.override(tables, assignments(options(**given), tables)))


@pytest.mark.parametrize(
    ("given", "path", "value"),
    [
        ({"num_train_epochs": 7}, "train.epochs", 7),
        ({"batch_size": 32}, "train.batch_size", 32),
        ({"gradient_accumulation_steps": 4}, "train.gradient_accumulation_steps", 4),
        ({"max_grad_norm": 1.5}, "train.max_grad_norm", 1.5),
        ({"weight_decay": 0.02}, "optimizer.weight_decay", 0.02),
        ({"seed": 3}, "train.seed", 3),
        ({"run_name": 'with "quotes" \\'}, "train.run_name", 'with "quotes" \\'),
        ({"metric_for_best_model": "recall@10"}, "gate.metric", "recall@10"),
        ({"metric_for_best_model": "eval_recall@10"}, "gate.metric", "recall@10"),
        ({"metric_for_best_model": "dev_cosine_ndcg@10"}, "gate.metric", "ndcg@10"),
        ({"learning_rate": 0.01}, "optimizer.learning_rate.peak", 0.01),
    ],
)
def test_each_option_is_a_value_of_the_configuration(
    given: dict[str, Any], path: str, value: Any
) -> None:
    found: Any = settings(**given)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_a_metric_that_is_none_is_named() -> None:
    with pytest.raises(config.reading.ConfigError, match=r"gate.metric.*'loss'"):
        settings(metric_for_best_model="loss")


def test_the_help_has_them_in_groups() -> None:
    for command in (train.train, train.demo):
        text = click.testing.CliRunner().invoke(command, ["--help"]).output
        assert text.index("Training:") < text.index("Logging:")
        words = " ".join(text.split())
        for name in (
            "--num-train-epochs", "--epochs", "--per-device-train-batch-size", "--batch-size",
            "--learning-rate", "--lr-scheduler-type", "--warmup-steps", "--weight-decay",
            "--max-grad-norm", "--gradient-accumulation-steps", "--metric-for-best-model",
            "--load-best-model-at-end", "--report-to", "--run-name", "--seed", "--output-dir",
        ):  # fmt: skip
            assert f"{name} " in words or f"{name}," in words, name
        assert "Always on here: the epoch that is best on dev is kept." in words


# Twice, or not at all -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "given"),
    [
        ("train.epochs=3", {"num_train_epochs": 4}),
        ("train.seed=3", {"seed": 4}),
        ("optimizer.learning_rate.peak=0.1", {"learning_rate": 0.2}),
        ("optimizer[learning_rate]=0.1", {"warmup_steps": 3}),
        ("callbacks.0.name=wandb", {"report_to": ("mlflow",)}),
    ],
)
def test_one_value_given_twice(assignment: str, given: dict[str, Any]) -> None:
    with pytest.raises(click.UsageError, match=r"both say what .* is; leave out one"):
        assignments(options(assignments=(assignment,), **given), config.tables())


def test_what_does_not_contradict_may_stand_together() -> None:
    both = options(assignments=("train.epochs=3", "losses.0.temperature=0.1"), batch_size=8)
    assert assignments(both, config.tables()) == [*both["assignments"], "train.batch_size=8"]


def test_the_last_epoch_is_not_to_be_had() -> None:
    with pytest.raises(click.UsageError, match="the epoch that is best on dev is always kept"):
        assignments(options(load_best_model_at_end=False), config.tables())


# Callbacks ------------------------------------------------------------------------------------


def test_report_to_adds_to_the_file() -> None:
    file = '[[callbacks]]\nname = "jsonl"\npath = "a"\n'
    found = settings(file, report_to=("wandb,mlflow", "tensorboard"))
    names = [type(one).__name__ for one in found.callbacks]
    assert names == ["Jsonl", "Wandb", "MLflow", "TensorBoard"]
    assert settings(file, report_to=("none",)).callbacks == ()
    assert settings().callbacks == ()
    with pytest.raises(click.UsageError, match="none stands alone"):
        settings(report_to=("none", "wandb"))
    with pytest.raises(config.reading.ConfigError, match="Did you mean 'wandb'"):
        settings(report_to=("wandbb",))


# The learning rate ----------------------------------------------------------------------------


def theirs(kind: str, peak: float, warmup: float, step: int) -> float:
    """Return transformers' schedules at a step of STEPS, from their published definitions."""
    import math

    w = math.ceil(warmup * STEPS) if 0 < warmup < 1 else int(warmup)
    rest = max(1, STEPS - w)
    if kind != "constant" and step < w:
        return peak * step / max(1, w)
    past = (step - w) / rest
    if kind in ("constant", "constant_with_warmup"):
        return peak
    if kind == "linear":
        return peak * max(0.0, 1 - past)
    if kind in ("cosine", "cosine_with_restarts"):
        return peak * 0.5 * (1 + math.cos(math.pi * past))
    if kind == "polynomial":
        return (peak - 1e-7) * (1 - past) + 1e-7
    if kind == "inverse_sqrt":
        timescale = w or 10_000
        return peak / math.sqrt((step + timescale - w) / timescale)
    raise AssertionError(kind)


@pytest.mark.parametrize("warmup", [0, 5, 0.25])
@pytest.mark.parametrize("kind", [k for k in SCHEDULES if k != "warmup_stable_decay"])
def test_schedules_equal_those_of_transformers(kind: str, warmup: float) -> None:
    found = settings(lr_scheduler_type=kind, learning_rate=0.02, warmup_steps=warmup)
    rate = found.optimizer.learning_rate
    for step in range(STEPS):
        value = rate if isinstance(rate, float) else rate.at(step, STEPS)
        assert value == pytest.approx(theirs(kind, 0.02, warmup, step), abs=1e-12), step


@pytest.mark.integration
@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_schedules_equal_the_library(kind: str, warmup: int) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    special = {"num_decay_steps": 8} if kind == "warmup_stable_decay" else {}
    wanted = transformers.get_scheduler(
        kind, optimizer, num_warmup_steps=warmup, num_training_steps=STEPS,
        scheduler_specific_kwargs=special,
    )  # fmt: skip
    found = settings(lr_scheduler_type=kind, learning_rate=0.02, warmup_steps=warmup)
    rate = found.optimizer.learning_rate
    for step in range(STEPS):
        value = rate if isinstance(rate, float) else rate.at(step, STEPS)
        assert value == pytest.approx(wanted.get_last_lr()[0], abs=1e-9), step
        optimizer.step()
        wanted.step()


def test_the_rate_of_a_file_keeps_its_schedule() -> None:
    table = 'learning_rate = { scheduler = "cosine", start = 0.1, end = 0.01 }'
    file = f'[optimizer]\nname = "sgd"\n{table}\n'
    rate = settings(file, learning_rate=0.3).optimizer.learning_rate
    assert (rate.start, rate.end) == (0.3, 0.01)
    kind = settings(file, lr_scheduler_type="linear").optimizer.learning_rate
    assert (type(kind).__name__, kind.start, kind.end) == ("Linear", 0.1, 0.0)
    with pytest.raises(click.UsageError, match=r"the schedule cosine .* has no warm-up"):
        settings(file, warmup_steps=3)
    number = '[optimizer]\nname = "sgd"\nlearning_rate = 0.1\n'
    assert settings(number, learning_rate=0.2).optimizer.learning_rate == 0.2
    warmed = settings(number, warmup_steps=4).optimizer.learning_rate
    assert [warmed.at(t, 10) for t in (0, 2, 4, 9)] == [0.0, 0.05, 0.1, 0.1]
    assert settings(number, warmup_steps=0).optimizer.learning_rate == 0.1
    assert settings(warmup_steps=7).optimizer.learning_rate.warmup_steps == 7


def test_what_has_no_peak_is_named() -> None:
    pieces = '[{ scheduler = "constant", value = 0.1 }]'
    table = f"{{ scheduler = 'joined', schedulers = {pieces} }}"
    file = f"[optimizer]\nname = 'sgd'\nlearning_rate = {table}\n"
    with pytest.raises(click.UsageError, match=r"the schedule joined .* has no single peak"):
        settings(file, learning_rate=0.1)
    with pytest.raises(click.UsageError, match="constant_with_warmup needs --learning-rate"):
        settings('[optimizer]\nname = "sgd"\n', warmup_steps=3)
    with pytest.raises(click.UsageError, match=r"--warmup-steps must be a whole number .* 1.5"):
        learning_rate({"warmup_steps": 1.5}, {})
    assert learning_rate({}, {}) is None


def test_the_common_call_takes_the_default_of_a_command() -> None:
    default = config.DEFAULT.replace("warmup_cosine", "inverse_sqrt")
    found = common.assignments(options(learning_rate=0.5), default=default)
    (assignment,) = found
    assert "inverse_sqrt" in assignment
    assert '"peak"' not in json.dumps(assignment)


def test_no_folder_stands_in_the_command_that_is_stored(monkeypatch) -> None:
    words = ["train", "/data/mine/a.jsonl", "--out=/data/mine/run", "--keep", "b.jsonl"]
    words += ["--keep", "/x/c.jsonl,/x/q.npy,/x/d.npy", "--set", "embedder.base_url=http://x/v1"]
    monkeypatch.setattr("sys.argv", ["/usr/bin/coreframe", *words])
    assert followers.command() == (
        "coreframe train a.jsonl --out=run --keep b.jsonl --keep c.jsonl,q.npy,d.npy "
        "--set embedder.base_url=http://x/v1"
    )
