"""Callbacks for the Trainer of Lightning.

Trainer(callbacks=[LossSchedules(), HealthMetrics(embed)])
"""

from __future__ import annotations

import math
from typing import Any

from coreframe.errors import MissingExtra

try:
    from lightning.pytorch.callbacks import Callback
except ImportError:
    try:
        from pytorch_lightning.callbacks import Callback
    except ImportError as error:
        raise MissingExtra("lightning", "lightning", "coreframe.interop.lightning") from error

from coreframe.evaluation.geometry import SAMPLE
from coreframe.interop.hooks import Embed, FollowedLosses, WatchedHealth, numbers_of
from coreframe.scheduler import Progress

__all__ = ["HealthMetrics", "LossSchedules"]


class LossSchedules(Callback):
    """Schedules of any number of a loss or its miner, in a run of a Lightning Trainer.

        class Model(LightningModule):
            def __init__(self):
                self.loss = LossModule(InfoNCE(temperature=Linear(start=0.2, end=0.05)))

        Trainer(callbacks=[LossSchedules()])

    The losses of coreframe inside of the LightningModule are told the step, the planned steps and
    the epoch before each batch, so that the number of update t + 1 is that of ``Progress(step=t)``;
    a miner draws anew. After each batch the losses' own parameters are brought back to where they
    are allowed to be. A run that goes on from a checkpoint goes on at its step.

    Args:
        batch_size: examples an update, for schedules that count them. Default: 0, none does.
        metric: the logged metric that schedules of ``Progress.history`` go by, as ``val_loss``,
            read after each validation. Default: None, there is no history.
        log: whether the module logs the current numbers, as ``loss.temperature``. Default: True.

    Raises ArgumentError, when training begins, where there is no loss of coreframe.

    Edges: a validation inside of training sees the numbers of the next update; without training
    there are none, and a scheduled loss says so. With several optimizers the step is the mean of
    theirs. A loader without a length has no planned steps unless the Trainer has ``max_steps``;
    schedules that need them say so.
    """

    def __init__(self, *, batch_size: int = 0, metric: str | None = None, log: bool = True) -> None:
        self.batch_size, self.metric, self.log_values = batch_size, metric, log
        self._history: tuple[float, ...] = ()
        self._losses: FollowedLosses | None = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._losses = FollowedLosses(pl_module)

    def on_sanity_check_start(self, trainer: Any, pl_module: Any) -> None:
        self._tell(trainer, pl_module)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if _is_fit(trainer):
            self._tell(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self._tell(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        losses = self._followed(pl_module)
        losses.project()
        if self.log_values and (now := losses.values()):
            pl_module.log_dict(now)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking and self.metric in trainer.callback_metrics:
            self._history += (float(trainer.callback_metrics[self.metric]),)

    def state_dict(self) -> dict[str, Any]:
        return {"history": list(self._history)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._history = tuple(state_dict["history"])

    def _tell(self, trainer: Any, pl_module: Any) -> None:
        step, steps = _step(trainer), trainer.estimated_stepping_batches
        progress = Progress(
            step=step,
            steps=int(steps) if 0 < steps < math.inf else None,  # -1: the loader has no length
            samples=step * self.batch_size,
            epoch=trainer.current_epoch,
            history=self._history,
        )
        self._followed(pl_module).at(progress)

    def _followed(self, pl_module: Any) -> FollowedLosses:
        if self._losses is None:
            self._losses = FollowedLosses(pl_module)
        return self._losses


class HealthMetrics(Callback):
    """Logs how a model uses its space, and says so when it has collapsed.

        def embed(module):
            return module(questions), module(answers)

        Trainer(callbacks=[HealthMetrics(embed)])

    Logged through the module are ``health/`` effective_rank, alignment, uniformity, hubness and
    collapsed (0 or 1), with document_effective_rank and document_uniformity: see
    ``docs/evaluation.md``. They are measured when training begins, to compare with, and at the
    end of each validation; without validation, of each epoch. A collapse is also a warning of the
    logger ``coreframe.interop.hooks``, with what is wrong.

    Args:
        embed: ``embed(module)`` returns vectors of queries and of documents, (n, d) each, row i
            with row i, arrays of any library. It is called in evaluation mode, without gradients.
        stop: end the training when the vectors collapse. Default: False.
        sample: rows that are looked at, at most. Default: those of ``coreframe evaluate``.
        seed: of the sample. Default: 42.
    """

    def __init__(
        self, embed: Embed, *, stop: bool = False, sample: int = SAMPLE, seed: int = 42
    ) -> None:
        self._watched = WatchedHealth(embed, sample=sample, seed=seed)
        self._stop = stop
        self._earlier: dict[str, float] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._watched.base = None
        found = numbers_of(self._watched.measure(pl_module))
        self._watched.go_on_from([self._earlier])
        self._earlier = self._earlier or found
        for logger in trainer.loggers:  # a module has no log yet
            logger.log_metrics(found, step=_step(trainer))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if _is_fit(trainer) and not trainer.sanity_checking:
            self._measure(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.enable_validation:
            self._measure(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"start": self._earlier}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._earlier = dict(state_dict["start"])

    def _measure(self, trainer: Any, pl_module: Any) -> None:
        found = self._watched.measure(pl_module)
        pl_module.log_dict(numbers_of(found))
        if found.collapsed and self._stop:
            trainer.should_stop = True


def _step(trainer: Any) -> int:
    """Return the updates that are done; ``global_step`` counts those of all optimizers together."""
    return int(trainer.global_step) // max(1, len(trainer.optimizers))


def _is_fit(trainer: Any) -> bool:
    return str(getattr(trainer.state.fn, "value", trainer.state.fn)) == "fit"
