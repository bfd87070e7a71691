"""What callbacks of training loops share: losses that follow the run, and the health of vectors."""

from __future__ import annotations

import dataclasses
import logging
import numbers
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from coreframe.errors import ArgumentError, ArgumentTypeError, MissingExtra

try:
    import torch
    from torch import nn
except ImportError as error:
    raise MissingExtra("torch", "torch", "coreframe.interop.hooks") from error

from coreframe.backend import Array, to_numpy
from coreframe.data.pairs import Pairs
from coreframe.evaluation.geometry import SAMPLE, Health, health
from coreframe.interop.torch import LossModule
from coreframe.scheduler import Progress, Scheduler, resolve

_log = logging.getLogger(__name__)

Embed = Callable[[Any], tuple[Array, Array]]
"""From a model to vectors of queries and of documents, (n, d) each, row i with row i."""


class FollowedLosses:
    """The losses of coreframe inside of modules, or of modules by name, told where the run is.

    Raises ArgumentError where there is none.
    """

    def __init__(self, *modules: nn.Module | Mapping[str, nn.Module]) -> None:
        placed: list[tuple[str, Any]] = []
        for i, given in enumerate(modules):
            place = f"{i}." if len(modules) > 1 else ""
            if isinstance(given, Mapping):
                placed += [(f"{place}{name}.", module) for name, module in given.items()]
            else:
                placed.append((place, given))
        for _, module in placed:
            if not isinstance(module, nn.Module):
                raise ArgumentTypeError(
                    f"a loss must be a torch module, got {module!r}; give the "
                    "coreframe.interop.torch.LossModule, or the module that holds it"
                )
        named = [(place + name, part) for place, m in placed for name, part in m.named_modules()]
        self._losses = {
            id(part): (name.strip("."), part)
            for name, part in named
            if isinstance(part, LossModule)
        }
        if not self._losses:
            names = ", ".join(type(module).__name__ for _, module in placed) or "nothing"
            raise ArgumentError(
                f"there is no loss of coreframe in {names}; give the module that holds a "
                "coreframe.interop.torch.LossModule"
            )

    def at(self, progress: Progress) -> None:
        """Say where the run is: what the next call of each loss goes by."""
        for _, module in self._losses.values():
            module.progress = progress

    def project(self) -> None:
        """Bring the losses' own parameters back to where they are allowed to be."""
        for _, module in self._losses.values():
            module.project()

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the losses' own parameters, by the place of each."""
        return {
            f"{place}.{name}".removeprefix("."): parameter
            for place, module in self._losses.values()
            for name, parameter in module.named_parameters()
        }

    def values(self) -> dict[str, float]:
        """Return the scheduled numbers as they are now, as ``loss.temperature`` and ``miner.k``.

        With several losses, the place of each stands before: its number, where several modules
        were given, the name that it was given by, and its name inside of the module.
        """
        found: dict[str, float] = {}
        for name, module in self._losses.values():
            if module.progress is None:
                continue
            place = f"{name}." if name and len(self._losses) > 1 else ""
            for kind in ("loss", "miner"):
                found |= _scheduled(getattr(module, kind), module.progress, f"{place}{kind}")
        return found


def _scheduled(part: Any, progress: Progress, path: str) -> dict[str, float]:
    """Return the numbers that schedulers inside of a component give."""
    return {
        name: float(value)
        for name, value in _pairs(part, resolve(part, progress), path)
        if isinstance(value, numbers.Real)
    }


def _pairs(before: Any, after: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield what stands in the place of each scheduler, by its path."""
    if isinstance(before, Scheduler):
        yield path, after
    elif isinstance(before, Mapping):
        for key in before:
            yield from _pairs(before[key], after[key], f"{path}.{key}")
    elif isinstance(before, tuple):
        for i, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _pairs(old, new, f"{path}.{i}")
    elif dataclasses.is_dataclass(before) and not isinstance(before, type):
        for f in dataclasses.fields(before):
            yield from _pairs(getattr(before, f.name), getattr(after, f.name), f"{path}.{f.name}")


class WatchedHealth:
    """The health of a model's vectors, beside that at the start of the run.

    Measured as ``coreframe evaluate`` does: see ``coreframe.evaluation``.
    """

    def __init__(self, embed: Embed, *, sample: int = SAMPLE, seed: int = 42) -> None:
        if not callable(embed):
            raise ArgumentTypeError(
                "embed must be a function of the model that returns vectors of queries and "
                f"documents, got {embed!r}"
            )
        self.embed, self.sample, self.seed = embed, sample, seed
        self.base: Health | None = None

    def measure(self, model: Any) -> Health:
        """Measure a model as it is; the first measurement is what later ones are held against.

        The model is in evaluation mode meanwhile, without gradients. A collapse is a warning of
        the logger ``coreframe.interop.hooks``.
        """
        training = [m for m in model.modules() if m.training]
        model.eval()
        try:
            with torch.no_grad():
                found = self.embed(model)
        finally:
            for module in training:
                module.training = True
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise ArgumentTypeError(
                "embed must return vectors of queries and vectors of documents, "
                f"got {type(found).__name__}"
            )
        queries, documents = (_vectors(x) for x in found)
        pairs = Pairs(queries, documents)
        now = health(None, pairs, base=self.base, sample=self.sample, seed=self.seed)
        if self.base is None:
            self.base = now
        if now.collapsed:
            _log.warning("the vectors have collapsed: %s", now.reason)
        return now

    def go_on_from(self, history: list[dict[str, Any]]) -> None:
        """Take the start of a run that is continued from what it has logged."""
        names = {f"health/{name}": name for name in ("effective_rank", "document_effective_rank")}
        first = next((entry for entry in history if names.keys() <= entry.keys()), None)
        if first is not None and self.base is not None:
            self.base = dataclasses.replace(
                self.base, **{name: first[key] for key, name in names.items()}
            )


def numbers_of(found: Health) -> dict[str, float]:
    """Return what a trainer logs: ``health/effective_rank`` and so on; ``collapsed`` is 0 or 1.

    What there was nothing to measure of is left out.
    """
    values = {name: x for name, x in found.as_dict().items() if name in _LOGGED and x is not None}
    return {f"health/{name}": float(x) for name, x in values.items()}


_LOGGED = (
    "effective_rank",
    "document_effective_rank",
    "alignment",
    "uniformity",
    "document_uniformity",
    "hubness",
    "collapsed",
)


def _vectors(x: Array) -> Any:
    if isinstance(x, torch.Tensor):
        x = x.detach().float().cpu()  # NumPy has no bfloat16
    return to_numpy(x)
