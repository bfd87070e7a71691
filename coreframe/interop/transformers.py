"""Callbacks for the Trainer of Transformers, and so for that of sentence-transformers.

trainer.add_callback(LossSchedules(loss, log=trainer.log))
trainer.add_callback(HealthMetrics(embed, log=trainer.log))
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from coreframe.errors import ArgumentError, MissingExtra

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingExtra("transformers", "transformers", "coreframe.interop.transformers") from error

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from coreframe.evaluation.geometry import SAMPLE
from coreframe.interop.hooks import Embed, FollowedLosses, WatchedHealth, numbers_of
from coreframe.scheduler import Progress

__all__ = ["HealthMetrics", "LossSchedules"]

_log = logging.getLogger(__name__)

Log = Callable[[dict[str, float]], None]


class LossSchedules(TrainerCallback):
    """Schedules of any number of a loss or its miner, in a run of a Trainer.

        loss = LossModule(InfoNCE(temperature=Linear(start=0.2, end=0.05)))
        trainer.add_callback(LossSchedules(loss, log=trainer.log))

    Before each update every loss of coreframe is told the step, the planned steps, the examples
    and the epoch, so that the number of update t + 1 is that of ``Progress(step=t)``; a miner draws
    anew. After each update the losses' own parameters are brought back to where they are allowed
    to be. A run that goes on from a checkpoint goes on at its step, and with the losses' own
    parameters: those that are no part of the model stand in the checkpoint beside it, as
    ``coreframe_losses.safetensors``.

    Args:
        losses: the modules, or modules that hold them, as a ``SentenceTransformerLoss`` and a
            model with a loss inside do; or a mapping of such, as the trainer of
            sentence-transformers takes one.
        log: where the current numbers go, as ``loss.temperature``, whenever the Trainer logs its
            loss: ``trainer.log``. Default: None, nowhere.
        metric: the logged metric that schedules of ``Progress.history`` go by, as
            ``eval_loss``. Default: None, there is no history.

    Raises ArgumentError where there is no loss of coreframe.

    Edges: an evaluation sees the numbers of the next update; before any training there are none,
    and a scheduled loss says so. Parameters of a loss that is no part of the model are looked for
    in the checkpoint of ``output_dir`` with the step that the run goes on at; where they are not,
    they start anew, and a warning is logged.
    """

    def __init__(
        self,
        *losses: nn.Module | Mapping[str, nn.Module],
        log: Log | None = None,
        metric: str | None = None,
    ) -> None:
        self._losses = FollowedLosses(*losses)
        self._log, self._metric = log, metric

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        self._losses.at(self._progress(args, state))
        if state.global_step and (parameters := self._parameters_beside(model)):
            _put_back(parameters, _file(args, state))

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        file, parameters = _file(args, state), self._parameters_beside(model)
        if parameters and args.should_save and file.parent.is_dir():
            save_file({name: p.detach().cpu().contiguous() for name, p in parameters.items()}, file)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._losses.at(self._progress(args, state))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._losses.project()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self._log is not None and logs and "loss" in logs and (now := self._losses.values()):
            self._log(now)

    def _parameters_beside(self, model: Any) -> dict[str, nn.Parameter]:
        """Return the losses' parameters that no checkpoint of the model holds."""
        held = set() if model is None else {id(p) for p in model.parameters()}
        return {name: p for name, p in self._losses.parameters().items() if id(p) not in held}

    def _progress(self, args: Any, state: Any) -> Progress:
        a_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return Progress(
            step=state.global_step,
            steps=state.max_steps if state.max_steps > 0 else None,
            samples=state.global_step * a_step,
            epoch=int(state.epoch or 0),
            history=tuple(x[self._metric] for x in state.log_history if self._metric in x),
        )


def _file(args: Any, state: Any) -> Path:
    return (
        Path(args.output_dir) / f"checkpoint-{state.global_step}" / "coreframe_losses.safetensors"
    )


def _put_back(parameters: dict[str, nn.Parameter], file: Path) -> None:
    """Set parameters of losses to what a checkpoint has."""
    if not file.is_file():
        _log.warning("the parameters of the loss start anew: there is no %s", file)
        return
    stored = load_file(file)
    shapes = [{name: tuple(x.shape) for name, x in of.items()} for of in (parameters, stored)]
    if shapes[0] != shapes[1]:
        raise ArgumentError(
            f"{file} has the parameters {shapes[1]} of losses, and these losses have {shapes[0]}"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(stored[name])


class HealthMetrics(TrainerCallback):
    """Logs how a model uses its space, and says so when it has collapsed.

        def embed(model):
            return model.encode(questions), model.encode(answers)

        trainer.add_callback(HealthMetrics(embed, log=trainer.log))

    Logged are ``health/`` effective_rank, alignment, uniformity, hubness and collapsed (0 or 1),
    with document_effective_rank and document_uniformity: see ``docs/evaluation.md``. They are
    measured when training begins, and then at each evaluation. A collapse is also a warning of
    the logger ``coreframe.interop.hooks``, with what is wrong.

    Args:
        embed: ``embed(model)`` returns vectors of queries and of documents, (n, d) each, row i with
            row i, arrays of any library. It is called in evaluation mode, without gradients.
        log: where the numbers go: ``trainer.log``.
        every: measure after so many updates, too. Default: None, at evaluations alone.
        stop: end the training when the vectors collapse. Default: False.
        sample: rows that are looked at, at most. Default: those of ``coreframe evaluate``.
        seed: of the sample. Default: 42.

    Edges: a run that goes on from a checkpoint is held against its own start, which it logged.
    Every process of a distributed run measures, so that all of them stop.
    """

    def __init__(
        self,
        embed: Embed,
        *,
        log: Log,
        every: int | None = None,
        stop: bool = False,
        sample: int = SAMPLE,
        seed: int = 42,
    ) -> None:
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ArgumentError(f"every must be a number of updates from 1, or None, got {every!r}")
        self._watched = WatchedHealth(embed, sample=sample, seed=seed)
        self._log, self._every, self._stop = log, every, stop

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        self._watched.base = None
        earlier = list(state.log_history)
        self._measure(control, model)
        self._watched.go_on_from(earlier)

    def on_evaluate(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self._measure(control, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if self._every is not None and state.global_step % self._every == 0:
            self._measure(control, model)

    def _measure(self, control: Any, model: Any) -> None:
        found, due = self._watched.measure(model), control.should_log
        self._log(numbers_of(found))
        control.should_log = due  # or the Trainer takes its own log of this step as done
        if found.collapsed and self._stop:
            control.should_training_stop = True
