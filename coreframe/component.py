"""What components of every kind have: presets, the defaults of papers and of other libraries.

A preset is a name for values of fields, and says what the component then equals:

    InfoNCE.preset("sentence-transformers")    InfoNCE(temperature=0.05, ...)

``presets()`` lists those of all registered components, ``coreframe list --presets --json`` prints
them, and a table of a ``run.toml`` names one: ``preset = "sentence-transformers"``.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

from coreframe.errors import PluginWarning, UnknownName, nearest
from coreframe.plugin import KINDS
from coreframe.registry import registry

__all__ = ["Preset"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Values of a component's fields, and what it equals with them.

    Args:
        equals: what it equals: the import path of a class or function of another library, as
            "torch.nn.TripletMarginLoss", or a paper and its equation.
        fields: values by the names of the component's fields. Those that are not named keep their
            defaults, or are for the caller to give.
        arguments: arguments of the other class with what they are there by default, numbers and
            words (of a function its name), so that a change there can be noticed. Default: none.
        version: the library and its version that this was read in. Default: "", a paper.
        weight: what value and gradient are to be multiplied by to be the other's. Named in a
            file, a preset brings it; in Python it is yours to give. Default: 1.
        note: where a difference remains, and what inputs the equality is for. Default: none.
    """

    equals: str
    fields: Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    weight: float = 1.0
    note: str = ""

    def __str__(self) -> str:
        """Return what it equals, with the arguments that it has there by default."""
        given = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        call = f"{self.equals}({given})" if given else self.equals
        return call if self.weight == 1 else f"{call}, times {1 / self.weight:g}"


NO_PRESETS: Mapping[str, Preset] = MappingProxyType({})


class Component:
    """The base of all interfaces. A subclass may offer presets as a class attribute.

    They are a class's own: a subclass of it computes something else, and inherits none.
    """

    presets: ClassVar[Mapping[str, Preset]] = NO_PRESETS

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "presets" not in vars(cls):
            cls.presets = NO_PRESETS

    @classmethod
    def preset(cls, name: str, /, **changes: Any) -> Self:
        """Return the component with the fields of a preset, and ``changes`` on top of them.

        Raises UnknownName, with the names that this component knows.
        """
        return cls(**{**find_preset(cls, name).fields, **changes})


def find_preset(cls: type[Component], name: str) -> Preset:
    """Return a preset of a component by name, or raise UnknownName."""
    try:
        return cls.presets[name]
    except KeyError:
        raise UnknownName(
            f"{cls.__name__} has no preset {name!r}.{nearest(name, cls.presets)}"
        ) from None


class Known(NamedTuple):
    """One preset of a registered component."""

    kind: str
    component: str
    name: str
    preset: Preset


def presets(kind: str | None = None) -> list[Known]:
    """Return the presets of all registered components, or of one kind; it imports them.

    A component that cannot be imported is left out, with a PluginWarning that names it.
    """
    found = []
    for wanted in KINDS if kind is None else (kind,):
        for entry in registry().entries(wanted) if wanted != "backends" else ():
            try:
                known = getattr(entry.load(), "presets", NO_PRESETS)
            except Exception as error:
                warnings.warn(
                    f"{wanted} {entry.qualified} cannot be loaded, its presets are left out: "
                    f"{type(error).__name__}: {error}",
                    PluginWarning,
                    stacklevel=2,
                )
                continue
            found += [Known(wanted, entry.name, name, preset) for name, preset in known.items()]
    return found
