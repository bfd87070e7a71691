"""What the type annotations of components say about the values in a file."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from coreframe.adapter import Adapter
from coreframe.callbacks import Callback
from coreframe.config.settings import (
    ContinualSettings,
    CurveSettings,
    DataSettings,
    GateSettings,
    TrainSettings,
)
from coreframe.embedder import Embedder
from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.optimizer import Optimizer, Rule
from coreframe.regularizer import Regularizer
from coreframe.sampler import Sampler
from coreframe.scheduler import Scheduler

TABLES: dict[str, type] = {
    "data": DataSettings,
    "embedder": Embedder,
    "adapter": Adapter,
    "losses": Loss,
    "sampler": Sampler,
    "miner": Miner,
    "optimizer": Optimizer,
    "regularizers": Regularizer,
    "callbacks": Callback,
    "train": TrainSettings,
    "gate": GateSettings,
    "curve": CurveSettings,
    "continual": ContinualSettings,
}
LISTS = ("losses", "regularizers", "callbacks")
KINDS: dict[type, str] = {
    Adapter: "adapters",
    Callback: "callbacks",
    Embedder: "embedders",
    Loss: "losses",
    Miner: "miners",
    Optimizer: "optimizers",
    Regularizer: "regularizers",
    Sampler: "samplers",
    Scheduler: "schedulers",
}

NO_ARRAY = "is an array, which a file cannot hold; build such a component in Python"
_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}


def configurable(cls: type) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Return the fields that can be configured, with their types.

    A field without part in equality is filled during a run, and is no configuration.
    """
    try:
        hints = typing.get_type_hints(cls)
    except Exception:  # a plugin's annotations may name what is imported for type checkers only
        hints = {}
    return {
        f.name: (f, hints.get(f.name, Any)) for f in dataclasses.fields(cls) if f.init and f.compare
    }


def is_required(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def options_of(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, else the annotation itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        return options_of(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(o for member in typing.get_args(annotation) for o in options_of(member))
    simple = (
        annotation in _WORDS or annotation in (types.NoneType, Rule) or interface_of(annotation)
    )
    shaped = typing.get_origin(annotation) or annotation
    table = _is_mapping(shaped) or is_record(annotation)
    if simple or shaped is Literal or _is_list(shaped) or table:
        return (annotation,)
    return (Any,)


def interface_of(annotation: Any) -> type | None:
    """Return the interface of the component that an annotation asks for, if it does."""
    if not isinstance(annotation, type):
        return None
    return next((base for base in KINDS if issubclass(annotation, base)), None)


def is_record(annotation: Any) -> bool:
    """Say whether an annotation asks for a dataclass that is no component, as a curriculum's stage.

    Such a value is a table of its fields, without a name in the registry.
    """
    return (
        isinstance(annotation, type)
        and dataclasses.is_dataclass(annotation)
        and annotation is not Rule
        and not interface_of(annotation)
    )


def name_key(base: type) -> str:
    return "scheduler" if issubclass(base, Scheduler) else "name"


def _is_list(shaped: Any) -> bool:
    return shaped in (tuple, list, Sequence)


def _is_mapping(shaped: Any) -> bool:
    return shaped in (dict, Mapping)


def fits(option: Any, raw: Any) -> bool:
    """Say whether a raw value has the outer form that one member of an annotation asks for."""
    shaped = typing.get_origin(option) or option
    if option is Any:
        return not isinstance(raw, (list, Mapping))
    if shaped is Literal:
        return any(type(raw) is type(x) and raw == x for x in typing.get_args(option))
    if option is float:
        return type(raw) in (int, float)
    if option in _WORDS:
        return type(raw) is option
    if _is_list(shaped):
        return isinstance(raw, list) and item_types(option, len(raw)) is not None
    return option is not types.NoneType and isinstance(raw, Mapping)


def item_types(option: Any, count: int) -> Any:
    """Return the type of each item of a list of that length, or None if the length is wrong."""
    arguments = typing.get_args(option)
    if not arguments:
        return [Any] * count
    if (typing.get_origin(option) or option) is not tuple:
        return [arguments[0]] * count
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return [arguments[0]] * count
    return arguments if len(arguments) == count else None


def describe(option: Any) -> str:
    """Say what an annotation asks for."""
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    if option in _WORDS:
        return _WORDS[option]
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if base := interface_of(option):
        return f"a {base.__name__.lower()} {{ {name_key(base)} = ... }}"
    if _is_list(origin or option):
        fixed = origin is tuple and Ellipsis not in arguments
        return f"a list of {len(arguments)}" if fixed else "a list"
    return "a value" if option is Any else "a table"


def show(raw: Any) -> str:
    """Show a value as it came."""
    if isinstance(raw, Mapping):
        return "a table"
    if isinstance(raw, list):
        return "a list" if any(isinstance(x, (list, Mapping)) for x in raw) else repr(raw)
    if isinstance(raw, bool):
        return str(raw).lower()
    return repr(raw) if isinstance(raw, (str, int, float)) else str(raw)


def located(cls: type, text: str, path: str) -> tuple[str, str]:
    """Return a component's complaint with the path of the field in it, and the field or ''.

    "InfoNCE.temperature must be above 0" becomes "losses[0].temperature must be above 0".
    """
    head = re.match(rf"(?:{cls.__name__}\.)?(\w+)", text)
    if head and head[1] in configurable(cls):
        return f"{path}.{text[head.start(1) :]}", head[1]
    return f"{path}: {text}", ""


def array_hint(cls: type, text: str) -> str:
    """Say that an array cannot come from a file, where a component complains about one."""
    arrays = [name for name, (_, annotation) in configurable(cls).items() if annotation is Any]
    if "array" in text and any(re.search(rf"\b{name}\b", text) for name in arrays):
        return "; a file cannot hold an array: build such a component in Python"
    return ""
