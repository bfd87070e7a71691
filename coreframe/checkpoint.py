"""Checkpoints of a run: when they are saved, which are kept, and how a run goes on from one.

A run may hold several fits (an experiment trains from several starts); each has a scope of its own,
and one checkpoint holds them all: those that are finished, and the one that was under way. So a run
that goes on does not train again what it has trained.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from coreframe import checkpoint_files as files
from coreframe.config.settings import SAVINGS
from coreframe.errors import ArgumentError, ArgumentTypeError, CheckpointError
from coreframe.fields import differences
from coreframe.lock import FolderLock
from coreframe.storage import remove_folder, sweep
from coreframe.trainer_state import trainer_state

__all__ = ["Checkpoints"]

AUTO_SECONDS = 30.0
"""By default a run is saved once this time has passed ..."""
AUTO_SHARE = 0.01
"""... and saving has cost no more than this share of it."""
HARMLESS = (
    "callbacks", "continual", "curve", "gate", "train.backend", "train.max_skipped_steps",
    "train.run_name", "train.save_steps", "train.save_strategy", "train.save_total_limit",
)  # fmt: skip
"""What may differ from the run that was saved, by the beginning of its path: it changes no step."""
HARMFUL = ("gate.metric",)
"""... but for what chooses the best evaluation."""
_log = logging.getLogger(__name__)


class Checkpoints:
    """Where a run saves its state, and from where it goes on.

    Use it as a context, or give it to ``fit``, which does: a lock keeps a second writer out.

    Args:
        folder: where the folders ``checkpoint-<step>`` go; it is made.
        save_strategy: auto saves at most every half minute, and only as often as it costs less than
            a hundredth of the time; steps every ``save_steps`` updates, epoch after each epoch, no
            never. Default: auto, or steps where save_steps is given.
        save_steps: updates between two checkpoints, >= 1. Default: none.
        save_total_limit: how many are kept, >= 1, the newest; None keeps all. Default: 2, so that
            a damaged one has another beside it.
        resume: "latest", the newest complete one in ``folder``, if there is one; or the path of a
            checkpoint, or of a folder of them. Default: none, a run from the start.
        config: plain values by path, of which a difference to the checkpoint's is an error, but
            for ``HARMLESS``. Default: nothing but the settings of each fit are compared.
        inputs: hashes by name of what the run has read, likewise. Default: nothing.
        overwrite: whether checkpoints of an earlier run in the folder are removed where this one
            starts anew. Default: no, they are an error.

    Shapes: none.

    Edges: a checkpoint is whole or not there, whatever happens while it is written, and each byte
        is checked before it is used; every fault is a ``CheckpointError`` that names file and
        array. The newest is the one of the highest step, whatever the clock said. ``stop()``, which
        a signal handler or another thread may call, lets the run finish its step, save, and raise
        ``Interrupted``.

    Cost: parameters, optimizer state, average and best parameters, written and hashed once.

    References: the folder names and words of Hugging Face's Trainer.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> checkpoints = Checkpoints(folder.name, save_steps=10)
    >>> checkpoints.save_strategy, checkpoints.path
    ('steps', None)
    >>> folder.cleanup()
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        save_strategy: str | None = None,
        save_steps: int | None = None,
        save_total_limit: int | None = 2,
        resume: str | os.PathLike[str] | bool | None = None,
        config: Mapping[str, Any] | None = None,
        inputs: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> None:
        strategy = save_strategy or ("auto" if save_steps is None else "steps")
        if strategy not in SAVINGS:
            raise ArgumentError(
                f"save_strategy must be one of {', '.join(SAVINGS)}, got {save_strategy!r}"
            )
        for name, number in (("save_steps", save_steps), ("save_total_limit", save_total_limit)):
            whole = isinstance(number, int) and not isinstance(number, bool)
            if number is not None and not (whole and number >= 1):
                raise ArgumentError(f"{name} must be a whole number from 1 or None, got {number!r}")
        if (strategy == "steps") != (save_steps is not None):
            raise ArgumentError(
                f"save_strategy={strategy!r} and save_steps={save_steps} do not go together: "
                "save_steps is for 'steps', and that needs it"
            )
        self.folder = Path(folder)
        self.save_strategy, self.save_steps = strategy, save_steps
        self.save_total_limit = save_total_limit
        self.resume = "latest" if resume is True else resume or None
        self.config, self.inputs = dict(config or {}), dict(inputs or {})
        self.overwrite = overwrite
        self.path: Path | None = None
        """The last checkpoint that was saved, or gone on from."""
        self.stopping = False
        self.training = False
        """Whether a fit is under way, which could finish its step and be saved."""
        self._fits: dict[str, dict[str, Any]] = {}
        self._found: dict[str, dict[str, Any]] = {}
        self._open: ExitStack | None = None
        self._depth = 0
        self._since, self._took = time.monotonic(), 0.0

    # A run ------------------------------------------------------------------------------------

    def __enter__(self) -> Checkpoints:
        self._depth += 1
        if self._depth == 1:
            try:
                self._begin()
            except BaseException:
                self.__exit__(None, None, None)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._depth -= 1
        if not self._depth and self._open is not None:
            self._open.close()
            self._open = None

    def scope(self, name: str) -> Scope:
        """Return the part of one fit. Names of fits differ, and are the same when a run goes on."""
        if not isinstance(name, str) or not name or "::" in name:
            raise ArgumentError(f"the name of a fit is a text without '::', got {name!r}")
        return Scope(self, name)

    def stop(self) -> None:
        """Let the run finish its step, save, and raise ``Interrupted``."""
        self.stopping = True

    def remove(self) -> None:
        """Remove all checkpoints of the folder: the run is over, and its results are written."""
        for _, path in files.complete(self.folder):
            remove_folder(path)
        self.path = None

    def _begin(self) -> None:
        if self.save_strategy == "no" and self.resume is None:
            return
        self._open = ExitStack()
        if self.save_strategy != "no":
            self._open.enter_context(FolderLock(self.folder))
            sweep(self.folder, all_of_them=True)
        found = self._resumed()
        if found is not None:
            stored = files.read(found)
            self._compare(stored)
            self.path = stored.path
            self._found = {
                name: {**fit, "arrays": _under(f"{name}::", stored.arrays)}
                for name, fit in stored.progress["fits"].items()
            }
            _log.info("going on from %s", stored.path)
        elif self.path is None and (old := files.complete(self.folder)):
            if not self.overwrite:
                raise CheckpointError(
                    old[-1][1], None,
                    "it is of an earlier run; go on from it with resume='latest' "
                    "(--resume-from-checkpoint latest), or remove it with overwrite (--overwrite)",
                )  # fmt: skip
            self.remove()
        self._since = time.monotonic()

    def _resumed(self) -> Path | None:
        """Return the checkpoint to go on from."""
        if self.resume is None:
            return None
        where = self.folder if self.resume == "latest" else Path(self.resume)
        if (where / files.MANIFEST).exists() or where.name.startswith(files.PREFIX):
            return where
        if found := files.complete(where):
            return found[-1][1]
        if self.resume == "latest":
            _log.info("%s has no complete checkpoint: starting anew", where)
            return None
        raise CheckpointError(where, None, "there is no complete checkpoint here")

    def _compare(self, stored: files.Stored) -> None:
        progress = stored.progress
        for own, key, hint in (
            (self.config, "config", "a run goes on with the settings it began with"),
            (self.inputs, "inputs", "a run goes on with the data it began with"),
        ):
            if own and progress.get(key):
                _refuse(stored.path, progress[key], own, hint)

    # Saving -----------------------------------------------------------------------------------

    def _due(self, step: int, *, updated: bool, epoch_done: bool) -> bool:
        if self.save_strategy == "steps":
            return updated and step % (self.save_steps or 1) == 0
        if self.save_strategy == "epoch":
            return epoch_done
        if self.save_strategy == "no":
            return False
        return time.monotonic() - self._since >= max(AUTO_SECONDS, self._took / AUTO_SHARE)

    def _save(self, name: str, fit: dict[str, Any]) -> Path | None:
        if self.save_strategy == "no":
            return None
        started = time.monotonic()
        fits = {**self._found, **self._fits, name: fit}
        arrays = {
            f"{scope}::{key}": x for scope, one in fits.items() for key, x in one["arrays"].items()
        }
        progress = {
            "config": self.config,
            "inputs": self.inputs,
            "fits": {
                scope: {key: x for key, x in one.items() if key != "arrays"}
                for scope, one in fits.items()
            },
        }
        step = self._before(name) + fit["step"]
        self.path = files.write(self.folder, step, arrays, progress, trainer_state(fit["state"]))
        self._prune(self.path)
        self._since = time.monotonic()
        self._took = self._since - started
        _log.debug("saved %s in %.3f s", self.path, self._took)
        return self.path

    def _before(self, name: str) -> int:
        """Return the updates of the fits before this one."""
        return sum(one["step"] for scope, one in self._fits.items() if scope != name)

    def _prune(self, newest: Path) -> None:
        sweep(self.folder, all_of_them=True)
        if self.save_total_limit is None:
            return
        others = [path for _, path in files.complete(self.folder) if path != newest]
        for path in others[: max(0, len(others) + 1 - self.save_total_limit)]:
            remove_folder(path)


class Scope:
    """One fit of a run: what the loop asks, and what it gives."""

    def __init__(self, owner: Checkpoints, name: str) -> None:
        self.owner, self.name = owner, name
        self._setup: Mapping[str, Any] = {}

    def __enter__(self) -> Scope:
        if self.name in self.owner._fits:
            raise ArgumentError(f"this run already has a fit {self.name!r}: names differ")
        self.owner.__enter__()
        self.owner.training = self.owner.save_strategy != "no"
        return self

    def __exit__(self, *error: Any) -> None:
        self.owner.training = False
        self.owner.__exit__(*error)

    @property
    def stopping(self) -> bool:
        return self.owner.stopping

    def found(self, setup: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what a checkpoint has of this fit: ``step``, ``state``, ``arrays``, ``finished``.

        ``setup`` are its settings and hashes of its data, by path; others than those that were
        saved are a CheckpointError.
        """
        self._setup = dict(setup)
        fit = self.owner._found.get(self.name)
        if fit is None:
            return None
        assert self.owner.path is not None
        hint = "a run goes on with the settings and the data it began with"
        _refuse(self.owner.path, fit["setup"], self._setup, hint)
        if fit["finished"]:
            self.owner._fits[self.name] = fit
        return fit

    def due(self, step: int, *, updated: bool, epoch_done: bool) -> bool:
        """Say whether to save after this batch; ``step`` counts the updates of this fit."""
        whole = self.owner._before(self.name) + step
        return self.owner._due(whole, updated=updated, epoch_done=epoch_done)

    def save(self, step: int, arrays: Mapping[str, Any], state: Mapping[str, Any]) -> Path | None:
        """Save all fits, this one as it stands, and return the checkpoint's path."""
        return self.owner._save(self.name, self._fit(step, arrays, state, finished=False))

    def finish(self, step: int, arrays: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        """Note the result of this fit for the checkpoints of later ones."""
        self.owner._fits[self.name] = self._fit(step, arrays, state, finished=True)

    def _fit(
        self, step: int, arrays: Mapping[str, Any], state: Mapping[str, Any], *, finished: bool
    ) -> dict[str, Any]:
        return {
            "step": step, "finished": finished, "setup": dict(self._setup),
            "state": dict(state), "arrays": dict(arrays),
        }  # fmt: skip


def scope_of(checkpoints: Checkpoints | Scope | None) -> Scope | None:
    """Return what ``fit`` was given as the scope of one fit."""
    if checkpoints is None or isinstance(checkpoints, Scope):
        return checkpoints
    if not isinstance(checkpoints, Checkpoints):
        raise ArgumentTypeError(f"checkpoints must be a Checkpoints, got {checkpoints!r}")
    return checkpoints.scope("fit")


def _refuse(path: Path, old: Mapping[str, Any], new: Mapping[str, Any], hint: str) -> None:
    changed = [
        f"{name}={before}, the run has {now}"
        for name, before, now in differences(old, new)
        if name in HARMFUL or not any(f"{name}.".startswith(f"{x}.") for x in HARMLESS)
    ]
    if changed:
        text = "; ".join(f"it has {one}" for one in changed[:5])
        more = f", and {len(changed) - 5} more" if len(changed) > 5 else ""
        raise CheckpointError(path, None, f"{text}{more}. {hint[0].upper()}{hint[1:]}")


def _under(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {k.removeprefix(prefix): x for k, x in arrays.items() if k.startswith(prefix)}
