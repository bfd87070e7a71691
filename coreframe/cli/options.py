"""The options of training in the words of Hugging Face, each a value of the run's configuration.

An option and ``--set`` of the same path are one value given twice, which is an error. A learning
rate is a number or a schedule, so its four options are read together: ``learning_rate``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import click

SCHEDULES = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
    "inverse_sqrt", "warmup_stable_decay",
)  # fmt: skip
"""The schedules of transformers that need nothing but a peak and a warm-up."""

_PATHS = {
    "seed": "train.seed",
    "side": "train.side",
    "backend": "train.backend",
    "num_train_epochs": "train.epochs",
    "batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation_steps",
    "max_grad_norm": "train.max_grad_norm",
    "weight_decay": "optimizer.weight_decay",
    "metric_for_best_model": "gate.metric",
    "run_name": "train.run_name",
    "eval_strategy": "train.eval_strategy",
    "eval_steps": "train.eval_steps",
    "save_strategy": "train.save_strategy",
    "save_steps": "train.save_steps",
    "save_total_limit": "train.save_total_limit",
}
_RATE = ("learning_rate", "lr_scheduler_type", "warmup_steps")
_PEAKS = ("peak", "start", "value")
"""The fields that hold a schedule's height, whichever it has."""
_METRIC = re.compile(r"(?:^|_)((?:recall|precision|accuracy|mrr|map|ndcg)@\d+|r_precision)$")


class Grouped(click.Command):
    """A command whose help shows its options in named groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "group", "Options"), []).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)


class GroupedOption(click.Option):
    """An option with the name of its group."""

    def __init__(self, *arguments: Any, group: str = "Options", **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.group = group


def grouped(group: str) -> Callable[..., Any]:
    """Return ``click.option`` for a group."""
    return lambda *names, **settings: click.option(
        *names, cls=GroupedOption, group=group, **settings
    )


_train = grouped("Training")
_saved = grouped("Checkpoints")
_log = grouped("Logging")

TRAINING = (
    _train("--num-train-epochs", "--epochs", type=click.IntRange(1), help="train.epochs"),
    _train("--per-device-train-batch-size", "--batch-size", "batch_size", type=click.IntRange(1),
           help="train.batch_size: pairs a step."),
    _train("--learning-rate", type=float, help="optimizer.learning_rate, or the peak of its "
           "schedule."),
    _train("--lr-scheduler-type", type=click.Choice(SCHEDULES), metavar="NAME",
           help="Its schedule, as in transformers and with their warm-up of 0 steps: "
           f"{', '.join(SCHEDULES)}."),
    _train("--warmup-steps", type=float, help="Steps of warm-up; below 1 a share of the run."),
    _train("--weight-decay", type=float, help="optimizer.weight_decay"),
    _train("--max-grad-norm", type=float, help="train.max_grad_norm; not clipped without."),
    _train("--gradient-accumulation-steps", type=click.IntRange(1),
           help="train.gradient_accumulation_steps: batches an update."),
    _train("--metric-for-best-model", metavar="METRIC", help="gate.metric, such as recall@10; a "
           "prefix like eval_ or dev_cosine_ is left out."),
    _train("--metrics", multiple=True, metavar="NAMES", help="gate.metrics: more metrics of the "
           "test queries, such as recall@100,map@100."),
    _train("--load-best-model-at-end/--no-load-best-model-at-end", default=True,
           help="Always on here: the epoch that is best on dev is kept."),
    _train("--eval-strategy", type=click.Choice(["epoch", "steps", "no"]),
           help="train.eval_strategy: when dev is evaluated."),
    _train("--eval-steps", type=click.IntRange(1), help="train.eval_steps: every so many updates."),
    _saved("--resume-from-checkpoint", metavar="latest|PATH", help="Go on with a run that was "
           "stopped: from the newest whole checkpoint in the output folder, or from a given one."),
    _saved("--save-strategy", type=click.Choice(["auto", "steps", "epoch", "no"]),
           help="train.save_strategy: when the run is saved; auto goes by time."),
    _saved("--save-steps", type=click.IntRange(1), help="train.save_steps: every so many updates."),
    _saved("--save-total-limit", type=click.IntRange(1), help="train.save_total_limit: checkpoints "
           "that are kept."),
    _log("--report-to", multiple=True, metavar="NAME", help="Log to tensorboard, mlflow, wandb, "
         "trackio or another callback as well; several by commas. Default: none."),
    _log("--run-name", help="train.run_name: what those call the run."),
)  # fmt: skip


def training_options(command: Any) -> Any:
    """Add the options of training to a command."""
    for option in reversed(TRAINING):
        command = option(command)
    return command


def assignments(options: Mapping[str, Any], tables: Mapping[str, Any]) -> list[str]:
    """Return --set and all options that stand for one, as PATH=VALUE.

    ``tables`` is the configuration that they change: the schedule of the learning rate decides what
    ``--learning-rate`` is. Raises UsageError for one value that is given twice.
    """
    if not options.get("load_best_model_at_end", True):
        raise click.UsageError(
            "--no-load-best-model-at-end: the epoch that is best on dev is always kept here, and "
            "nothing is promoted without proof; for the last epoch use coreframe.fit without dev"
        )
    given = {name: options[name] for name in _PATHS if options.get(name) is not None}
    if "metric_for_best_model" in given:
        metric = given["metric_for_best_model"]
        found = _METRIC.search(metric)
        given["metric_for_best_model"] = found[1] if found else metric
    values = {_PATHS[name]: value for name, value in given.items()}
    values |= {"optimizer.learning_rate": rate} if (rate := learning_rate(options, tables)) else {}
    if more := [x for text in options.get("metrics", ()) for x in text.split(",") if x]:
        values["gate.metrics"] = more
    values |= reports(options.get("report_to", ()), tables)
    by_hand = list(options["assignments"])
    for path in values:
        for assignment in by_hand:
            other = assignment.partition("=")[0].strip().replace("[", ".").replace("]", "")
            if other == path or other.startswith(path + "."):
                raise click.UsageError(
                    f"--set {assignment} and an option of its own both say what {path} is; "
                    "leave out one"
                )
    return by_hand + [f"{path}={_toml(value)}" for path, value in values.items()]


def reports(names: tuple[str, ...], tables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the callbacks that --report-to adds to those of the file; "none" takes all away."""
    wanted = [name for text in names for name in text.split(",") if name]
    if "none" in wanted:
        if len(wanted) > 1:
            raise click.UsageError("--report-to none stands alone, or not at all")
        return {"callbacks": []}
    known = list(tables.get("callbacks", []))
    return {f"callbacks.{len(known) + i}.name": name for i, name in enumerate(wanted)}


# The learning rate ----------------------------------------------------------------------------


def learning_rate(options: Mapping[str, Any], tables: Mapping[str, Any]) -> Any:
    """Return what --learning-rate, --lr-scheduler-type and --warmup-steps make of the rate.

    None where none is given. Raises UsageError where the schedule of the file has no peak, or no
    warm-up, that they could set.
    """
    peak, kind, warmup = (options.get(name) for name in _RATE)
    if peak is None and kind is None and warmup is None:
        return None
    if warmup is not None and (warmup < 0 or (warmup >= 1 and warmup != int(warmup))):
        raise click.UsageError(
            f"--warmup-steps must be a whole number from 0, or a share below 1, got {warmup:g}"
        )
    here = tables.get("optimizer", {}).get("learning_rate")
    if kind is not None:
        return schedule(kind, _peak(here) if peak is None else peak, warmup or 0)
    if not isinstance(here, Mapping):
        if warmup is None:
            return peak
        return schedule("constant_with_warmup", here if peak is None else peak, warmup)
    changed = dict(here)
    if peak is not None:
        changed[_height(here)] = peak
    if warmup is not None:
        if "peak" not in here:
            raise click.UsageError(
                f"--warmup-steps: the schedule {here.get('scheduler')} of optimizer.learning_rate "
                "has no warm-up; add --lr-scheduler-type"
            )
        changed["warmup_steps"] = _steps(warmup)
    return changed


def schedule(kind: str, peak: float | None, warmup: float) -> Any:
    """Return the table of a schedule that equals the one of transformers with that name."""
    if peak is None:
        raise click.UsageError(
            f"--lr-scheduler-type {kind} needs --learning-rate: the optimizer has none that it "
            "could start from"
        )
    rise = {"scheduler": "linear", "start": 0.0, "end": peak}
    warmed = {"peak": peak, "warmup_steps": _steps(warmup), "warmup_start": "zero"}
    if kind == "constant" or (kind == "constant_with_warmup" and not warmup):
        return peak
    if kind == "constant_with_warmup":
        return rise | {"steps": _steps(warmup)}
    if kind in ("cosine", "cosine_with_restarts"):  # whose default is one cycle
        return {"scheduler": "warmup_cosine", **warmed}
    if kind == "inverse_sqrt":
        return {"scheduler": "inverse_sqrt", **warmed}
    if kind == "warmup_stable_decay":
        return {"scheduler": "warmup_stable_decay", "decay": "cosine", **warmed}
    fall = {"scheduler": "linear", "start": peak, "end": 0.0}
    if kind == "polynomial":
        fall = {"scheduler": "polynomial", "start": peak, "end": 1e-7}
    if not warmup:
        return fall
    return {"scheduler": "joined", "schedulers": [rise, fall], "boundaries": [_steps(warmup)]}


def _height(table: Mapping[str, Any]) -> str:
    """Return the field of a schedule that is its height."""
    for name in _PEAKS:
        if name in table:
            return name
    raise click.UsageError(
        f"--learning-rate: the schedule {table.get('scheduler')} of optimizer.learning_rate has no "
        "single peak; add --lr-scheduler-type, or set its fields with --set"
    )


def _peak(here: Any) -> Any:
    return here[_height(here)] if isinstance(here, Mapping) else here


def _steps(warmup: float) -> float:
    return warmup if 0 < warmup < 1 else int(warmup)


def _toml(value: Any) -> str:
    """Return a value as TOML on one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(inner) for inner in value) + "]"
    return json.dumps(value)
