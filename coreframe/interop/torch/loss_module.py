"""Any loss of coreframe as a module of PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from coreframe import registry
from coreframe.batch import Batch
from coreframe.errors import ArgumentError, ArgumentTypeError
from coreframe.interop.torch.arrays import as_array, computing, uncompiled
from coreframe.interop.torch.losses import torch_loss
from coreframe.interop.torch.parameters import put_back, register, registered
from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.random import stream
from coreframe.scheduler import Progress, resolve

__all__ = ["LossModule"]


class LossModule(nn.Module):
    """A loss as a module; its own parameters, if it has some, are the module's.

        value = module(anchors, positives)

    Parameters have the names that they have in coreframe, start where ``fit`` starts them with the
    same seed, and are trained by any torch optimizer. A loss may bound them: call ``project``
    after each step of the optimizer, or let it call:

        optimizer.register_step_post_hook(lambda *_: module.project())

    Args:
        loss: any ``coreframe.Loss``, or the name of a registered one.
        dim: the width of the embeddings, for losses whose parameters depend on it. Default: None,
            no need of it.
        miner: picks the pairs of each batch, an object or a name. Default: none, all pairs count.
        seed: of the parameters' start and of the miner's draws. Default: 0.
        library: who computes; see ``torch_loss``. Default: NumPy on the processor, else torch.

    Shapes: as ``torch_loss``.

    Edges: where a number of the loss or the miner is a scheduler, the call says where the run is,
    with ``progress=``, or whoever drives the loop sets ``module.progress`` before each step; the
    module counts nothing, so that a restart needs nothing of it. ``at(progress)`` is the module
    with numbers in place of schedulers. The miner draws anew at each step of the progress; without
    one, it draws the same at each call.

    >>> module = LossModule("info_nce")
    >>> module(torch.eye(3), torch.eye(3)).shape
    torch.Size([])
    """

    progress: Progress | None
    """Where the run is, for calls that do not say it; set by whoever drives the loop."""

    def __init__(
        self,
        loss: Loss | str,
        *,
        dim: int | None = None,
        miner: Miner | str | None = None,
        seed: int = 0,
        library: str | None = None,
    ) -> None:
        super().__init__()
        self.loss = registry.component("losses", loss, Loss)
        self.miner = None if miner is None else registry.component("miners", miner, Miner)
        self.seed, self.library, self.progress = seed, library, None
        start = self.loss.init(stream(seed, "loss"), 1 if dim is None else dim)
        if dim is None:
            wider = self.loss.init(stream(seed, "loss"), 2)
            moved = [name for name, x in start.items() if x.shape != wider[name].shape]
            if moved:
                raise ArgumentError(
                    f"the parameter {moved[0]!r} of {type(self.loss).__name__} depends on the "
                    "width of the embeddings; give it as dim="
                )
        self.names = tuple(start)
        register(self, start)
        self.scheduled = _is_scheduled(self.loss) or _is_scheduled(self.miner)

    @uncompiled
    def forward(
        self,
        anchors: torch.Tensor,
        positives: torch.Tensor | None = None,
        negatives: torch.Tensor | None = None,
        *,
        labels: Any = None,
        ids: Any = None,
        weights: torch.Tensor | None = None,
        batch: Callable[..., Batch] | None = None,
        progress: Progress | None = None,
        rng: Any = None,
    ) -> torch.Tensor:
        """Return the value; arguments as those of ``torch_loss``, and where the run is."""
        at = self.at(progress or self.progress)
        return torch_loss(
            at.loss,
            anchors,
            positives,
            negatives,
            labels=labels,
            ids=ids,
            weights=weights,
            batch=batch,
            miner=at.miner,
            rng=self.draws(progress) if rng is None and at.miner is not None else rng,
            params=registered(self, self.names),
            library=self.library,
        )

    def at(self, progress: Progress | None) -> LossModule:
        """Return the module with the numbers that its schedulers have there; it shares parameters.

        Raises ArgumentTypeError without a progress, if there are schedulers.
        """
        if not self.scheduled:
            return self
        if not isinstance(progress, Progress):
            raise ArgumentTypeError(
                f"{type(self.loss).__name__} or its miner follows a schedule, so the call needs "
                "progress=coreframe.Progress(step=..., steps=...), or module.progress set to it, "
                f"got {progress!r}"
            )
        found = copy.copy(self)
        found.loss = resolve(self.loss, progress)
        found.miner = None if self.miner is None else resolve(self.miner, progress)
        found.scheduled = False
        return found

    def draws(self, progress: Progress | None = None) -> Any:
        """Return the generator that the miner draws from at a step, as in a run of ``fit``."""
        progress = progress or self.progress
        return stream(self.seed, "miner", 0 if progress is None else progress.step)

    def project(self) -> None:
        """Move the parameters back to where the loss allows them to be, in place."""
        if self.names:
            tensors = registered(self, self.names)
            arrays = {k: as_array(x, computing(x, self.library)) for k, x in tensors.items()}
            put_back(tensors, self.loss.project(arrays))

    def extra_repr(self) -> str:
        return f"{self.loss!r}" + ("" if self.miner is None else f", miner={self.miner!r}")


def _is_scheduled(part: Any) -> bool:
    return part is not None and resolve(part, Progress(step=0, steps=1)) is not part
