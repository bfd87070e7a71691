"""What a run leaves for the next one: where it ended, and what its pairs need to stay in place.

``learned.safetensors`` in the folder of a run holds the fixed maps that came first (a closed-form
start), the parameters of the trained map on top, and the diagonal of the Fisher information of all
tasks so far, one number a parameter. Tasks add up as in online EWC (Schwarz et al. 2018, arXiv
1805.06370; Huszar 2018, arXiv 1712.03847): the parameters are those of the newest task, and each
task's Fisher counts by the same mean, 1, whatever the scale of its loss. So the file is twice the
size of the adapter, however many tasks there were.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from coreframe.adapter import Adapter
from coreframe.artefact import Side
from coreframe.backend import Params, to_numpy
from coreframe.batch import Batch
from coreframe.compose import Symmetric, under
from coreframe.data.batches import Batches
from coreframe.data.pairs import Pairs
from coreframe.errors import ArgumentError, ArtefactError
from coreframe.fisher_information import fisher
from coreframe.loss import Loss
from coreframe.run import moved
from coreframe.scheduler import Progress, resolve
from coreframe.state import encode, load_state

FILE = "learned.safetensors"
KIND = "learned"
MOST_EXAMPLES = 20_000
"""So many examples tell what the parameters need; more would cost time and change little."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, kw_only=True)
class Learned:
    """Where an adapter stands, and what holds it there.

    Args:
        start: the maps of sides that are applied first, and are never trained again.
        params: parameters of adapter and loss as ``Run.params`` has them, NumPy arrays.
        fisher: a diagonal >= 0 by the adapter's parameter names, summed over tasks of mean 1
            each; empty where there is none.
        tasks: how many tasks the Fisher stands for.
        without: why there is no Fisher, in words.
    """

    start: Mapping[str, Side] = field(default_factory=dict)
    params: Mapping[str, Any]
    fisher: Mapping[str, Any] = field(default_factory=dict)
    tasks: int = 0
    without: str = ""

    @property
    def own(self) -> Params:
        """The adapter's parameters, by its own names."""
        return under("adapter", self.params)

    def encode(self) -> bytes:
        """Return the content of the file."""
        arrays: dict[str, Any] = {f"params.{name}": x for name, x in self.params.items()}
        arrays |= {f"fisher.{name}": x for name, x in self.fisher.items()}
        for name, side in self.start.items():
            arrays |= {f"start.{name}.{key}": x for key, x in side.arrays.items()}
        meta = {
            "start": {n: {"form": s.form, "scaling": s.scaling} for n, s in self.start.items()},
            "tasks": self.tasks,
            "without": self.without,
        }
        return encode(arrays, kind=KIND, meta=meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Learned:
        """Read the file. Raises ArtefactError that names it and says what is wrong."""
        arrays, meta = load_state(path, kind=KIND)
        try:
            start = {
                str(name): Side(str(told["form"]), _under(f"start.{name}", arrays), told["scaling"])
                for name, told in meta["start"].items()
            }
            found = cls(
                start=start,
                params=_under("params", arrays),
                fisher=_under("fisher", arrays),
                tasks=int(meta["tasks"]),
                without=str(meta["without"]),
            )
            own = found.own
            for name, f in found.fisher.items():
                if f.shape != own[name].shape or not np.isfinite(f).all() or (f < 0).any():
                    raise ValueError(f"the Fisher of {name} is no diagonal for it")
            if bad := [n for n, x in found.params.items() if not np.isfinite(x).all()]:
                raise ValueError(f"{bad[0]} is not finite")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtefactError(f"{path} is damaged: {type(error).__name__} {error}") from None
        return found


def learn(
    adapter: Adapter,
    params: Params,
    train: Pairs,
    *,
    loss: Loss,
    side: str,
    batch_size: int,
    seed: int,
    start: Mapping[str, Side] | None = None,
    earlier: Learned | None = None,
) -> Learned:
    """Take a task in: what its pairs need of the parameters is added to what was learned before.

    A loss without values for single examples has no Fisher information; that is said in
    ``Learned.without``, and the next run is held by a plain pull instead. With side="both" every
    vector counts as an example, the approximation ``method="row_wise"`` of ``coreframe.fisher``.
    """
    start = dict(start or {})
    kept = {name: np.array(to_numpy(x)) for name, x in params.items()}
    before = dict(earlier.fisher) if earlier else {}
    tasks = earlier.tasks if earlier else 0
    here = Learned(start=start, params=kept, fisher=before, tasks=tasks)
    if earlier and earlier.without:
        return replace(here, fisher={}, without=earlier.without)
    try:
        found = fisher(
            adapter,
            here.own,
            resolve(one_direction(loss), Progress(step=1, steps=1)),
            _batches(moved(train, start), batch_size, seed),
            loss_params=under("loss", kept) or None,
            side=side,
            method="row_wise" if side == "both" else "exact",
        ).normalized("mean")
    except ArgumentError as error:
        _log.info("no Fisher information of this run: %s", error)
        return replace(here, fisher={}, without=str(error))
    diagonal = {name: _as_float32(x) for name, x in found.diagonal.items()}
    if not any(x.any() for x in diagonal.values()):
        return here  # nothing to protect: every gradient is zero
    both = {name: before[name] + x if name in before else x for name, x in diagonal.items()}
    return replace(here, fisher=both, tasks=tasks + 1)


def one_direction(loss: Loss) -> Loss:
    """Return a loss without its second direction, which is of the references: inside sums too."""
    if isinstance(loss, Symmetric):
        return one_direction(loss.loss)
    changes: dict[str, Any] = {}
    if getattr(loss, "symmetric", False) is True:
        changes["symmetric"] = False
    for name in getattr(loss, "__dataclass_fields__", ()):
        value = getattr(loss, name)
        if isinstance(value, Loss):
            changes[name] = one_direction(value)
        elif isinstance(value, Mapping) and any(isinstance(x, Loss) for x in value.values()):
            changes[name] = {key: one_direction(x) for key, x in value.items()}
    return replace(loss, **changes) if changes else loss  # type: ignore[type-var]


def _batches(train: Pairs, batch_size: int, seed: int) -> Iterator[Batch]:
    found = Batches(pairs=train, batch_size=batch_size, seed=seed)
    return islice(iter(found), max(1, MOST_EXAMPLES // batch_size))


def _as_float32(x: Any) -> Any:
    return np.asarray(to_numpy(x), np.float32)


def _under(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    start = f"{prefix}."
    return {name.removeprefix(start): x for name, x in arrays.items() if name.startswith(start)}
