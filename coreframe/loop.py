"""The training loop, readable top to bottom.

rows -> batch -> adapter.forward -> Batch -> miner narrows the relation -> loss gives value and dE
-> pullback -> + regularizers -> accumulate -> clip -> optimizer -> average -> callbacks. Nothing
later calls something earlier. The best evaluation on dev is kept, with the start as a candidate.

After each batch, once it is evaluated if it is to be, the run can be saved, and a run that goes on
stands exactly there: all that it knows is in ``Updates`` and ``Course``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from coreframe.adapter import ClosedForm
from coreframe.artefact import Side, TrainedAdapter
from coreframe.backend import Array, Backend, Params, namespace, to_numpy
from coreframe.batch import Batch
from coreframe.callbacks import Callback, Status
from coreframe.checkpoint import Scope
from coreframe.compose import under
from coreframe.course import Course
from coreframe.data.batches import Batches
from coreframe.data.pairs import Pairs
from coreframe.errors import (
    ArgumentError,
    CheckpointError,
    Interrupted,
)
from coreframe.evaluation import METRICS
from coreframe.evaluation.metrics import several
from coreframe.evaluation.retrieval import evaluate
from coreframe.fields import scheduled
from coreframe.gradients import Accumulation
from coreframe.guard import Finding, diagnose, diverged
from coreframe.optimizer import Optimizer
from coreframe.random import stream
from coreframe.run import Run, Setup, identity, moved, replaced, solve
from coreframe.scheduler import Progress, Scheduler, resolve
from coreframe.step import Step, named
from coreframe.trainer_state import trainer_state
from coreframe.updates import Updates

LOG_LINES = 100
"""About how many lines of a run carry the loss: each is a wait for the device."""
FINDINGS = 3
"""How many updates that were left out are explained: each takes a second pass over its batch."""
_log = logging.getLogger(__name__)


__all__ = ["Run", "Setup", "Trainer", "solve"]


class Trainer:
    """One run: data on its backend, parameters, and the loop."""

    def __init__(
        self,
        setup: Setup,
        train: Pairs,
        dev: Pairs | None,
        backend: Backend,
        callbacks: Sequence[Callback],
        checkpoints: Scope | None = None,
    ) -> None:
        self.setup = setup
        self.backend = backend
        self.callbacks = callbacks
        self.checkpoints = checkpoints
        self.dimensions = int(train.queries.shape[1])
        self.given = train, dev
        self.course = Course()
        train = train.to(backend)
        self.start: Mapping[str, Side] = setup.start if isinstance(setup.start, Mapping) else {}
        if isinstance(setup.start, ClosedForm):
            self.start = solve(setup.start, train)
        self.train = moved(train, self.start)  # once, so that no step pays for it
        # The dev part is searched through the whole adapter, so it keeps its own vectors.
        self.dev = None if dev is None else dev.to(backend)
        self.xp = namespace(queries=self.train.queries)
        self.batches = Batches(
            pairs=self.train,
            batch_size=setup.batch_size,
            drop_last=setup.drop_last,
            order=setup.order,
            sampler=setup.sampler,
            own_negatives=setup.own_negatives,
            seed=setup.seed,
        )
        if len(self.train.examples) < 2:
            raise ArgumentError(f"training needs at least 2 pairs, got {len(self.train.examples)}")
        if self.train.weights is not None and not self.train.weights.any():
            raise ArgumentError("the weights of the training pairs are all 0: nothing to learn")
        every = setup.gradient_accumulation_steps
        self.steps = sum(-(-self.batches.size(e) // every) for e in range(1, setup.epochs + 1))
        if not self.steps:
            raise ArgumentError(
                f"drop_last leaves no batch: {len(self.train.examples)} pairs are fewer than "
                f"batch_size={setup.batch_size}"
            )
        self.log_every = max(1, self.steps // LOG_LINES)

    def run(self) -> Run:
        """Train, and return the best epoch. Callbacks hear of the end whatever happens.

        Raises Interrupted, once all is saved, where that is asked for.
        """
        for callback in self.callbacks:
            callback.on_start(self.setup)
        try:
            found = self._saved()
            if not (found and found["finished"]):
                self._train(found)
        finally:
            for callback in self.callbacks:
                callback.on_end(self.setup)
        course, done, skipped = self.course, self.done, self.skipped
        return Run(
            adapter=self.stored(course.best),
            history=course.history,
            best_epoch=course.best_epoch,
            dev=course.best_metrics,
            backend=self.backend.name,
            backend_source="",
            skipped_steps=skipped,
            params={name: to_numpy(x) for name, x in course.best.items()},
            best_step=course.best_step,
            findings=tuple(course.findings),
            trainer_state=trainer_state(self._plain(done, skipped, 0)),
        )

    # The loop ---------------------------------------------------------------------------------

    def _train(self, found: Mapping[str, Any] | None) -> None:
        """Go over the epochs, from the start or from where a checkpoint stands."""
        setup, course = self.setup, self.course
        self.updates = updates = Updates(
            self._initial(),
            optimizer=setup.optimizer,
            loss=setup.loss,
            regularizers=setup.regularizers,
            max_grad_norm=setup.max_grad_norm,
            max_grad_value=setup.max_grad_value,
            ema_decay=setup.ema_decay,
            max_skipped_steps=setup.max_skipped_steps,
        )
        self.window = Accumulation(steps=setup.gradient_accumulation_steps)
        self.step = Step(
            adapter=setup.adapter,
            loss=setup.loss,
            miner=setup.miner,
            side=setup.side,
            seed=setup.seed,
            mini_batch_size=setup.mini_batch_size,
        )
        if found is not None:
            self._restore(found)
        else:
            self._evaluate(0, updates.params)
        while course.epoch <= setup.epochs and not course.stopped:
            batches = self.batches.epoch(course.epoch, course.batches)
            for batch in batches:
                course.batches = batches.done
                updated = self._batch(batch, last=not batches.remaining)
                if updated and self._evaluates_now():
                    self._evaluate(course.epoch)
                if course.stopped or not batches.remaining:
                    break
                self._save(updated=updated)
            if self._evaluates_now(at_end=True):
                self._evaluate(course.epoch)
            self._look()
            course.epoch, course.batches, course.window = course.epoch + 1, 0, None
            self._save(updated=True, epoch_done=True)
        self.done, self.skipped = updates.done, updates.skipped
        if self.checkpoints is not None:
            best = {f"best.{name}": x for name, x in course.best.items()}
            self.checkpoints.finish(self.done, best, self._plain(self.done, self.skipped, 0))

    def _batch(self, batch: Batch, *, last: bool) -> bool:
        """Learn from a batch, and say whether the parameters were updated: where gradients are
        accumulated, only some batches end with an update.
        """
        course, updates, window = self.course, self.updates, self.window
        progress = self._progress(updates.done, course.samples)
        found = self._gradients(batch, progress)
        course.turn, course.samples = course.turn + 1, course.samples + batch.anchors.shape[0]
        if window.steps > 1:
            held = window.add(course.window or window.init(found), found, weight=_weight(batch))
            course.window = held
            if not last and not window.full(held):
                return False
            found, course.window = window.mean(held), None
        value = found.pop("value")
        norm, now = updates.take(value, found, progress)
        broken = updates.lost
        if updates.done % self.log_every == 0 or updates.done == self.steps:
            values = {"loss": float(value), "grad_norm": float(norm)}
            self._tell("on_step", course.epoch, {**values, **self._scheduled(progress, now)})
            broken = broken or not math.isfinite(values["loss"] + values["grad_norm"])
        if broken:
            self._look()
        return True

    def _gradients(self, batch: Batch, progress: Progress) -> dict[str, Array]:
        """Return the value of a batch and its gradients; NaN where the adapter overflows, or an
        update made a parameter that does, which on the host is found before the loss is asked.
        """
        updates = self.updates
        regularizers, turn = updates.regularizers, self.course.turn
        try:
            return self.step.gradients(batch, updates.params, regularizers, progress, turn)
        except ArgumentError:
            cause = diagnose(self.step, batch, updates.params, regularizers, progress, turn)
            if cause is None or not cause.array.startswith(("adapted", *updates.params)):
                raise
            nan = {name: x * self.xp.nan for name, x in updates.params.items()}
            return {"value": self.xp.sum(next(iter(nan.values()))), **nan}

    def _progress(self, step: int, samples: int) -> Progress:
        course = self.course
        return Progress(
            step=step, steps=self.steps, samples=samples, epoch=course.epoch - 1,
            history=tuple(course.scores),
        )  # fmt: skip

    def _scheduled(self, progress: Progress, now: Optimizer) -> dict[str, float]:
        """Return every number that a schedule gives to this update, by its path in a run.toml."""
        setup = self.setup
        others = {
            "losses": setup.loss, "miner": setup.miner, "regularizers": setup.regularizers,
            "train": {"ema_decay": setup.ema_decay},
        }  # fmt: skip
        found = scheduled(
            {"optimizer": setup.optimizer, **others},
            {"optimizer": now, **{name: resolve(x, progress) for name, x in others.items()}},
        )
        if isinstance(now.learning_rate, int | float):
            found["learning_rate"] = float(now.learning_rate)
        order, epoch = setup.order, self.course.epoch
        if isinstance(order.pool, Scheduler) and epoch <= order.curriculum_epochs:
            at = Progress(step=epoch - 1, steps=order.curriculum_epochs, epoch=epoch - 1)
            found["train.pool"] = float(order.pool(at))
        return found

    # Evaluation -------------------------------------------------------------------------------

    def _evaluates_now(self, *, at_end: bool = False) -> bool:
        """Say whether the run is evaluated after this update, or after this epoch."""
        setup, done = self.setup, self.updates.done
        if at_end and setup.eval_strategy != "epoch":
            last = self.course.epoch == setup.epochs or self.course.stopped
            return last and self.course.evaluated != done
        if at_end:
            return True
        return setup.eval_strategy == "steps" and done % (setup.eval_steps or 1) == 0

    def _evaluate(self, epoch: int, params: Params | None = None) -> None:
        """Evaluate the averaged parameters (or those given) on dev, and keep the best so far."""
        setup, course, updates = self.setup, self.course, self.updates
        averaged = updates.averaged() if params is None else params
        metrics: dict[str, float] = {}
        course.evaluated = updates.done
        if self.dev is not None:
            names = several(METRICS, setup.metric)
            metrics = evaluate(self.stored(averaged), self.dev, metrics=names).mean()
            course.scores.append(metrics[setup.metric])
            self._tell("on_evaluate", epoch, metrics)
        best = course.best_metrics.get(setup.metric, -1.0)
        if not metrics or setup.eval_strategy == "no" or metrics[setup.metric] > best:
            plain = params is not None or updates.average is None
            course.best = updates.copy() if plain else averaged
            course.best_metrics, course.best_epoch = metrics, epoch
            course.best_step = updates.done

    # What is not finite -----------------------------------------------------------------------

    def _look(self) -> None:
        """See how many updates were left out, explain the first of them, and stop after too many
        in a row. On a device this waits, so it is done where values are looked at anyway.
        """
        course, limit = self.course, self.setup.max_skipped_steps
        total, streak, first = self.updates.skips.read()
        too_many = limit is not None and streak >= limit
        if total == course.named:
            return
        course.named = total
        finding = None
        if too_many or len(course.findings) < FINDINGS:
            finding, epoch = self._explained(first)
            cause = finding or "no longer: with the parameters of now all is finite"
            text = f"update {first + 1} (epoch {epoch}) was left out, since it was not finite. "
            course.findings.append(f"{text}{cause}")
            _log.warning("%s%s", text, cause)
        if too_many:
            progress = self._progress(self.updates.done, course.samples)
            rates = self._scheduled(progress, resolve(self.setup.optimizer, progress))
            raise diverged(streak, finding, self.step, self.updates.params, rates)

    def _explained(self, update: int) -> tuple[Finding | None, int]:
        """Return what was not finite in an update that was left out, and its epoch."""
        every, turn, first = self.window.steps, 0, 0
        for epoch in range(1, self.setup.epochs + 1):
            count = self.batches.size(epoch)
            if update < first + -(-count // every):
                break
            first, turn = first + -(-count // every), turn + count
        at = (update - first) * every
        for number, batch in enumerate(self.batches.epoch(epoch, at), at):
            if number == min(at + every, count):
                break
            progress = replace(
                self._progress(update, (turn + number) * self.setup.batch_size), epoch=epoch - 1
            )
            found = diagnose(
                self.step, batch, self.updates.params, self.updates.regularizers, progress,
                turn + number,
            )  # fmt: skip
            if found is not None:
                return found, epoch
        return None, epoch

    # Saving and going on ----------------------------------------------------------------------

    def _save(self, *, updated: bool, epoch_done: bool = False) -> None:
        """Save if it is time to, or if the run is asked to stop, which it then does."""
        scope = self.checkpoints
        if scope is None:
            return
        done = self.updates.done
        if scope.stopping or scope.due(done, updated=updated, epoch_done=epoch_done):
            course = self.course
            total, streak = self.updates.skipped, int(self.updates.skips.streak)
            arrays = {
                **self.updates.arrays(),
                **{f"best.{name}": x for name, x in course.best.items()},
                **{f"window.{name}": x for name, x in (course.window or {}).items()},
            }
            path = scope.save(done, arrays, self._plain(done, total, streak))
            if scope.stopping:
                raise Interrupted(path, done)

    def _plain(self, done: int, skipped: int, streak: int) -> dict[str, Any]:
        setup = self.setup
        return {
            **self.course.plain(),
            "step": done, "skipped": skipped, "streak": streak,
            "steps": self.steps, "epochs": setup.epochs, "batch_size": setup.batch_size,
            "metric": setup.metric,
        }  # fmt: skip

    def _saved(self) -> dict[str, Any] | None:
        """Return what a checkpoint has of this fit, with the course of it put back."""
        if self.checkpoints is None:
            return None
        found = self.checkpoints.found(identity(self.setup, *self.given))
        if found is None:
            return None
        state = found["state"]
        arrays = {
            name: x if isinstance(x, int | float) else self._placed(x)
            for name, x in found["arrays"].items()
        }
        window = under("window", arrays) or None
        self.course = Course.of(state, under("best", arrays), window)
        self.done, self.skipped = state["step"], state["skipped"]
        return {**found, "arrays": arrays}

    def _placed(self, x: Any) -> Array:
        return self.backend.asarray(x, dtype=getattr(self.backend.xp, str(x.dtype)))

    def _restore(self, found: Mapping[str, Any]) -> None:
        state = found["state"]
        parts = ("params.", "optimizer.", "average.")
        moved = {name: x for name, x in found["arrays"].items() if name.startswith(parts)}
        try:
            self.updates.restore(moved, state["step"], state["skipped"], state["streak"])
        except ArgumentError as error:
            assert self.checkpoints is not None
            raise CheckpointError(self.checkpoints.owner.path, None, str(error)) from None

    # Parameters and adapters ------------------------------------------------------------------

    def _initial(self) -> dict[str, Array]:
        """Return the parameters of adapter and loss before the first step."""
        setup, data = self.setup, self.train.queries
        width = int(data.shape[1])
        params = {
            **named("adapter", setup.adapter.init(stream(setup.seed, "adapter"), width)),
            **named("loss", setup.loss.init(stream(setup.seed, "loss"), width)),
        }
        if setup.initial is not None:
            params = replaced(params, setup.initial)
        return {name: self.backend.asarray(x, dtype=data.dtype) for name, x in params.items()}

    def _tell(self, event: str, epoch: int, values: Mapping[str, float]) -> None:
        course, step = self.course, self.updates.done
        course.history.append({"step": step, "epoch": epoch, **values})
        status = Status(step, self.steps, epoch, self.setup.epochs, course.samples, values)
        asked = [getattr(callback, event)(status) for callback in self.callbacks]
        course.stopped = course.stopped or any(asked)

    def stored(self, params: Params) -> TrainedAdapter:
        """Return the start followed by the trained map, as an adapter that can be saved."""
        setup = self.setup
        trained = Side.of(setup.adapter, under("adapter", params))
        sides = {}
        for name in ("query", "document"):
            before = self.start.get(name, Side())
            adapted = name == "query" or setup.side == "both"
            sides[name] = before.then(trained, self.dimensions) if adapted else before
        return TrainedAdapter(self.dimensions, sides, base_model=setup.base_model)


def _weight(batch: Batch) -> Array | float:
    """Return how much a batch counts among others: its examples, by their weights."""
    if batch.weights is None:
        return float(batch.anchors.shape[0])
    return namespace(weights=batch.weights).sum(batch.weights)
