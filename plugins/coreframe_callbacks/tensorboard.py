"""Event files that TensorBoard shows, written by tensorboardX: no PyTorch, no TensorFlow."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from coreframe.callbacks import About, Record, Session, Tracker
from coreframe.errors import ArgumentTypeError, MissingExtra


@dataclass(frozen=True, kw_only=True)
class TensorBoard(Tracker):
    """Write event files, which ``tensorboard --logdir`` shows.

    Scalars are ``train/loss``, ``eval/ndcg_at_10``, ``test/ndcg_at_10``, since TensorBoard's names
    have no ``@``; the configuration is the text ``config``. Where a run has several fits, the
    values of the later ones begin with where they start: ``whitening/train/loss``.

    Args:
        folder: where event files go. Default: None, TENSORBOARD_LOGGING_DIR (transformers' name),
            else ``runs`` in the folder of the run, or here.

    Shapes: one scalar a value, at its step.

    Edges: without tensorboardX a run does not begin, and the error says what to install. How a run
    ended is the text ``state``, as TensorBoard has no place for it.

    Cost: one flush a record, so that a run that is killed has its curves.

    References: https://github.com/lanpa/tensorboardX

    >>> TensorBoard(folder="runs/first").folder
    'runs/first'
    """

    folder: str | None = None

    def __post_init__(self) -> None:
        if self.folder is not None and not isinstance(self.folder, str):
            raise ArgumentTypeError(
                f"TensorBoard.folder must be a text or None, got {self.folder!r}"
            )

    def check(self) -> None:
        if find_spec("tensorboardX") is None:
            raise MissingExtra("tensorboardX", "tensorboard", "the callback tensorboard")

    def open(self, about: About) -> Session:
        from tensorboardX import SummaryWriter

        given = self.folder or os.environ.get("TENSORBOARD_LOGGING_DIR")
        folder = Path(given) if given else (about.folder or Path()) / "runs"
        writer = SummaryWriter(logdir=str(folder / about.name if about.name else folder))
        config = json.dumps(about.config, indent=2, ensure_ascii=False)
        writer.add_text("config", "".join(f"    {line}\n" for line in config.splitlines()), 0)
        return _Events(writer)


class _Events(Session):
    def __init__(self, writer: Any) -> None:
        self.writer = writer
        self.step = 0

    def log(self, record: Record) -> None:
        self.step = max(self.step, record.step)
        for name, value in record.named.items():
            self.writer.add_scalar(name.replace("@", "_at_"), float(value), record.step)
        self.writer.flush()

    def close(self, state: str) -> None:
        self.writer.add_text("state", state, self.step)
        self.writer.close()
