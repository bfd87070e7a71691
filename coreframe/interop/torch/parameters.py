"""A component's own parameters as those of a module, by the names that they have in coreframe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from coreframe.backend import Array, Params
from coreframe.errors import ArgumentError
from coreframe.interop.torch.arrays import as_tensor


def register(module: nn.Module, params: Params, *, trained: bool = True) -> None:
    """Register arrays as parameters: a name with dots goes into modules inside of the module.

    So ``state_dict`` has the very names, ``first.A`` too.
    """
    for name, x in params.items():
        *path, last = name.split(".")
        place = module
        try:
            for step in path:
                if step not in place._modules:
                    place.add_module(step, nn.Module())
                place = place.get_submodule(step)
            tensor = _copied(x)
            if trained:
                place.register_parameter(last, nn.Parameter(tensor))
            else:
                place.register_buffer(last, tensor)
        except KeyError as error:
            raise ArgumentError(
                f"the parameter {name!r} cannot be one of a torch module: {error.args[0]}; "
                "give that layer or part another name"
            ) from None


def registered(module: nn.Module, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Return the tensors of these names."""
    found: dict[str, torch.Tensor] = {}
    for name in names:
        path, _, last = name.rpartition(".")
        found[name] = getattr(module.get_submodule(path), last)
    return found


def put_back(tensors: Mapping[str, torch.Tensor], arrays: Params) -> None:
    """Write arrays into parameters, in place, so that an optimizer still knows them."""
    with torch.no_grad():
        for name, x in arrays.items():
            tensors[name].copy_(as_tensor(x))


def _copied(x: Array) -> Any:
    tensor = as_tensor(x).detach()
    return tensor.clone(memory_format=torch.contiguous_format)
