"""``run.toml`` to a checked configuration of built components, and back.

    [embedder] [adapter] [[losses]] [miner] [optimizer] [[regularizers]]    a name and fields
    [data] [train] [gate]                                                   fields

A component's fields are those of its dataclass. A scheduled number is an inline table
``{ scheduler = "warmup_cosine", peak = 3e-3 }``; a component inside another is a table with a
``name``; ``"none"`` is Python's None. A file names registered components and never import targets,
so reading one runs no code that is not installed as a plugin. All mistakes of a file are reported
at once.
"""

from __future__ import annotations

import copy
import dataclasses
import numbers
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from coreframe import checks
from coreframe.adapter import Adapter
from coreframe.compose import WeightedSum
from coreframe.embedder import Embedder
from coreframe.errors import (
    AmbiguousName,
    ArgumentError,
    ArgumentTypeError,
    ConfigError,
    MissingExtra,
    UnknownName,
    nearest,
)
from coreframe.loss import Loss
from coreframe.miner import Miner
from coreframe.optimizer import Optimizer, Rule
from coreframe.registry import BUILT_IN, registry
from coreframe.regularizer import Regularizer
from coreframe.scheduler import Scheduler

DEFAULT = """\
[data]
dev = 0.1
test = 0.2

[embedder]
name = "hashing"

[adapter]
name = "linear"

[[losses]]
name = "info_nce"
temperature = 0.05

[optimizer]
name = "adamw"
learning_rate = { scheduler = "warmup_cosine", peak = 3e-3 }

[train]
epochs = 30
batch_size = 256
side = "query"
start = "auto"
seed = 42

[gate]
metric = "ndcg@10"
"""
"""The run of a user who gives no file."""

METRICS = ("recall@1", "recall@10", "mrr@10", "ndcg@10")
SIDES = ("query", "both")
STARTS = ("auto", "identity", "whitening", "procrustes")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """How rows are read and split.

    Args:
        dev, test: shares of the rows, in (0, 1), together below 1; the rest is for training.
        anchor, positive, negative, group: names of columns; None finds them.
    """

    dev: float = 0.1
    test: float = 0.2
    anchor: str | None = None
    positive: str | None = None
    negative: str | None = None
    group: str | None = None

    def __post_init__(self) -> None:
        checks.number(self, "dev", above=0, below=1)
        checks.number(self, "test", above=0, below=1)
        if self.dev + self.test >= 1:
            raise ArgumentError(
                f"DataSettings.dev and test must leave rows for training: "
                f"together below 1, got {self.dev:g} + {self.test:g}"
            )
        for name in ("anchor", "positive", "negative", "group"):
            _optional_text(self, name)
        taken: dict[str, str] = {}
        for role, column in self.columns.items():
            if column in taken:
                raise ArgumentError(
                    f"DataSettings.{role} must be another column than {taken[column]}, "
                    f"got {column!r} for both"
                )
            taken[column] = role

    @property
    def columns(self) -> dict[str, str]:
        """The columns that are named, by role."""
        named = {r: getattr(self, r) for r in ("anchor", "positive", "negative", "group")}
        return {role: column for role, column in named.items() if column is not None}


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How an adapter is trained.

    Args:
        epochs: passes over the training rows, >= 1.
        batch_size: pairs a step, >= 1.
        side: query leaves the documents and their index as they are; both adapts both.
        start: identity, whitening or procrustes; auto takes the best of them on dev.
        seed: >= 0.
        backend: where arrays live; None follows COREFRAME_BACKEND, then the arrays.
        max_grad_norm: > 0, the norm that gradients are clipped to; None leaves them.
    """

    epochs: int = 30
    batch_size: int = 256
    side: str = "query"
    start: str = "auto"
    seed: int = 42
    backend: str | None = None
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        checks.number(self, "epochs", minimum=1, integer=True)
        checks.number(self, "batch_size", minimum=1, integer=True)
        checks.choice(self, "side", SIDES)
        checks.choice(self, "start", STARTS)
        checks.number(self, "seed", minimum=0, integer=True)
        _optional_text(self, "backend")
        if self.max_grad_norm is not None:
            checks.number(self, "max_grad_norm", above=0)


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """What an adapter must prove on unseen queries before it is promoted.

    Args:
        metric: recall@1, recall@10, mrr@10 or ndcg@10.
        minimum_gain: in [0, 1); the lower bound of the gain must be above it.
        resamples: draws of the paired bootstrap, >= 100.
    """

    metric: str = "ndcg@10"
    minimum_gain: float = 0.0
    resamples: int = 2000

    def __post_init__(self) -> None:
        checks.choice(self, "metric", METRICS)
        checks.number(self, "minimum_gain", minimum=0, below=1)
        checks.number(self, "resamples", minimum=100, integer=True)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A run: built components and checked settings. Several losses are one WeightedSum."""

    data: DataSettings = field(default_factory=DataSettings)
    embedder: Embedder
    adapter: Adapter
    loss: Loss
    miner: Miner | None = None
    optimizer: Optimizer
    regularizers: tuple[Regularizer, ...] = ()
    train: TrainSettings = field(default_factory=TrainSettings)
    gate: GateSettings = field(default_factory=GateSettings)


_TABLES: dict[str, type] = {
    "data": DataSettings,
    "embedder": Embedder,
    "adapter": Adapter,
    "losses": Loss,
    "miner": Miner,
    "optimizer": Optimizer,
    "regularizers": Regularizer,
    "train": TrainSettings,
    "gate": GateSettings,
}
_LISTS = ("losses", "regularizers")
_KINDS: dict[type, str] = {
    Adapter: "adapters",
    Embedder: "embedders",
    Loss: "losses",
    Miner: "miners",
    Optimizer: "optimizers",
    Regularizer: "regularizers",
    Scheduler: "schedulers",
}

# Reading --------------------------------------------------------------------------------------


def read(
    path: str | os.PathLike[str] | None = None,
    assignments: Sequence[str] = (),
    *,
    default: str = DEFAULT,
) -> RunConfig:
    """Return the run that a TOML file describes (None: ``default``), with overrides applied.

    Raises ConfigError, which lists every mistake.
    """
    if path is None:
        return parse(override(_ours(tomllib.loads(default)), assignments), source="the configuration")
    source = os.fspath(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            mapping = tomllib.loads(file.read())
    except OSError as error:
        raise ConfigError([f"it cannot be read: {error.strerror}"], source) from error
    except UnicodeDecodeError as error:
        raise ConfigError(["it is not UTF-8 text"], source) from error
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).rpartition(" (at ")
        raise ConfigError([f"{where.rstrip(')')}: {what}"], source) from error
    return parse(override(mapping, assignments), source=source)


def default() -> RunConfig:
    """Return the run of DEFAULT."""
    return read()


def parse(mapping: Mapping[str, Any], *, source: str = "run.toml") -> RunConfig:
    """Return the run that a mapping of tables describes.

    A missing [embedder], [adapter], [[losses]] or [optimizer] is taken from DEFAULT; a miner and
    regularizers there are only where they are written. Raises ConfigError, listing all mistakes.
    """
    reader = _Reader()
    parts: dict[str, Any] = {}
    tables = _complete(mapping)
    for key in tables:
        if key not in _TABLES:
            reader.problem(f"{key} is no table of a run.{nearest(key, _TABLES)}")
    for key, cls in _TABLES.items():
        if key not in tables:
            continue
        if key == "losses":
            parts["loss"] = reader.losses(tables[key])
        elif key in _LISTS:
            parts[key] = tuple(reader.components(cls, tables[key], key))
        elif _base(cls):
            parts[key] = reader.component(cls, tables[key], key)
        elif reader.is_table(tables[key], key):
            parts[key] = reader.build(cls, tables[key], key, f"[{key}]")
    if reader.problems:
        raise ConfigError(reader.problems, source)
    return RunConfig(**parts)


def override(mapping: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return a copy of a file's mapping with ``losses.0.temperature=0.05`` and the like applied.

    The value is TOML; what is no TOML is a text, so that quotes may be left out. Naming another
    component (``adapter.name=low_rank``) drops the fields of the one before.
    """
    result = copy.deepcopy(_complete(mapping))
    problems = []
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().replace("[", ".").replace("]", "").split(".")
        if not equals or not all(keys):
            problems.append(
                f"{assignment!r} must be PATH=VALUE, for example losses.0.temperature=0.05"
            )
            continue
        try:
            _assign(result, keys, _toml_value(text.strip()))
        except LookupError as error:
            problems.append(f"{path.strip()}: {error.args[0]}")
    if problems:
        raise ConfigError(problems, "--set")
    return result


def _complete(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mapping with the tables that every run needs."""
    needed = {
        key: table
        for key, table in _ours(tomllib.loads(DEFAULT)).items()
        if key in ("embedder", "adapter", "losses", "optimizer")
    }
    return needed | dict(mapping)


def _ours(value: Any) -> Any:
    """Return a default with its components named as ours, whatever else offers their names."""
    if isinstance(value, list):
        return [_ours(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: f"{BUILT_IN}:{item}" if key in ("name", "scheduler") else _ours(item)
        for key, item in value.items()
    }


def _toml_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _assign(place: Any, keys: Sequence[str], value: Any) -> None:
    """Set one value, deep inside tables and lists; a new list item goes right behind the last."""
    *path, last = keys
    for key in path:
        index = _index(place, key)
        if isinstance(place, list) and index == len(place):
            place.append({})
        elif isinstance(place, dict):
            place.setdefault(key, [] if key in _LISTS else {})
        place = place[index]
    index = _index(place, last)
    if isinstance(place, list):
        place[index : index + 1] = [value]
        return
    if last in ("name", "scheduler") and place.get(last, value) != value:
        for other in set(place) - {"weight"}:
            del place[other]
    place[last] = value


def _index(place: Any, key: str) -> Any:
    """Return a table's key, or a list's index: up to one past its end."""
    if isinstance(place, dict):
        return key
    if not isinstance(place, list):
        raise LookupError(f"{key!r} cannot be set inside {_show(place)}")
    if not key.isdecimal() or int(key) > len(place):
        raise LookupError(f"{key!r} is no index of a list of {len(place)}, counted from 0")
    return int(key)


_MISTAKE = object()
"""What a reader returns in place of a value that cannot be."""


class _Reader:
    """Builds components from tables and collects what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def problem(self, text: str) -> Any:
        self.problems.append(text)
        return _MISTAKE

    def is_table(self, raw: Any, path: str) -> bool:
        if not isinstance(raw, Mapping):
            self.problem(f"{path} must be a table, got {_show(raw)}")
        return isinstance(raw, Mapping)

    def components(self, base: type, raw: Any, path: str, besides: str = "") -> list[Any]:
        if not isinstance(raw, list):
            return [self.problem(f"{path} must be tables under [[{path}]], got {_show(raw)}")]
        return [self.component(base, x, f"{path}[{i}]", besides) for i, x in enumerate(raw)]

    def losses(self, raw: Any) -> Any:
        """Return the one loss, or the sum of several; a weight also makes a sum."""
        if not isinstance(raw, list) or not raw:
            return self.problem(f"losses must be tables under [[losses]], got {_show(raw)}")
        losses = self.components(Loss, raw, "losses", besides="weight")
        weights = {
            i: self.value(float | Scheduler, table["weight"], f"losses[{i}].weight")
            for i, table in enumerate(raw)
            if isinstance(table, Mapping) and "weight" in table
        }
        if self.problems or (len(losses) == 1 and not weights):
            return losses[0]
        names = _part_names([table["name"] for table in raw])
        return WeightedSum(
            losses=dict(zip(names, losses, strict=True)),
            weights={names[i]: weight for i, weight in weights.items()},
        )

    def component(self, base: type, raw: Any, path: str, besides: str = "") -> Any:
        """Return the component that a table names, or _MISTAKE."""
        if not self.is_table(raw, path):
            return _MISTAKE
        kind, key = _KINDS[cast(type, _base(base))], _name_key(base)
        name = raw.get(key)
        if not isinstance(name, str):
            known = ", ".join(sorted(entry.name for entry in registry().entries(kind)))
            came = f"got {_show(name)}" if key in raw else "it is missing"
            return self.problem(f"{path}.{key} must be one of {known}; {came}")
        try:
            cls = registry().find(kind, name).load()
        except (UnknownName, AmbiguousName) as error:
            return self.problem(f"{path}.{key}: {error}")
        except Exception as error:
            return self.problem(
                f"{path}.{key}: {name!r} cannot be loaded: {type(error).__name__}: {error}"
            )
        if not (isinstance(cls, type) and issubclass(cls, base) and dataclasses.is_dataclass(cls)):
            return self.problem(f"{path}.{key}: {name!r} is no dataclass of the kind {kind}")
        fields = {k: x for k, x in raw.items() if k not in (key, besides)}
        return self.build(cls, fields, path, name)

    def build(self, cls: Any, table: Mapping[str, Any], path: str, title: str) -> Any:
        """Return an instance; its own checks are asked until they find no more mistakes."""
        before, known = len(self.problems), _fields(cls)
        arguments = self.fields(cls, table, path, title)
        required = {name for name, (f, _) in known.items() if _required(f)}
        for name in known:
            if name in required and name not in table:
                self.problem(f"{path}.{name} is missing: {title} needs it")
        wrong = set(table) & set(known) - set(arguments)
        built = None
        while built is None and required <= set(arguments):
            try:
                built = cls(**arguments)
            except (TypeError, ValueError, ImportError) as error:
                text, name = _located(cls, str(error), path)
                # A complaint that names a field with a mistake is only an echo of it.
                if not any(re.search(rf"\b{other}\b", str(error)) for other in wrong):
                    self.problem(text + _array_hint(cls, text))
                if name not in arguments:
                    break
                del arguments[name]
                wrong.add(name)
        if isinstance(built, Optimizer):
            self.check_rules(built, path)
        return built if len(self.problems) == before else _MISTAKE

    def check_rules(self, optimizer: Optimizer, path: str) -> None:
        """Let the optimizer check the values of its rules, which else show at the first step."""
        for i, rule in enumerate(optimizer.rules):
            try:
                dataclasses.replace(optimizer, **rule.overrides, rules=())
            except (TypeError, ValueError) as error:
                self.problem(_located(type(optimizer), str(error), f"{path}.rules[{i}]")[0])

    def fields(self, cls: Any, table: Mapping[str, Any], path: str, title: str) -> dict[str, Any]:
        """Return the fields of a table that are right by their type."""
        known, found = _fields(cls), {}
        for key, raw in table.items():
            if key not in known:
                self.problem(f"{path}.{key} is no field of {title}.{nearest(key, known)}")
                continue
            value = self.value(known[key][1], raw, f"{path}.{key}", owner=cls)
            if value is not _MISTAKE:
                found[key] = value
        return found

    def value(self, annotation: Any, raw: Any, path: str, owner: Any = None) -> Any:
        """Return what a raw value means for an annotation, or _MISTAKE."""
        options = _options(annotation)
        if types.NoneType in options and raw == "none":
            return None
        fitting = [option for option in options if _fits(option, raw)]
        if not fitting:
            if isinstance(raw, (list, Mapping)) and Any in options:
                return self.problem(f"{path} {_NO_ARRAY}")
            expected = " or ".join(_describe(o) for o in options if o is not types.NoneType)
            return self.problem(f"{path} must be {expected}, got {_show(raw)}")
        option = fitting[0]
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if _base(option):
            return self.component(option, raw, path)
        if option is Rule:
            return self.rule(raw, path, owner)
        if origin is Literal or not isinstance(raw, (list, Mapping)):
            return raw
        if isinstance(raw, Mapping):
            inner = arguments[1] if arguments else Any
            mapped = {k: self.value(inner, x, f"{path}.{k}", owner) for k, x in raw.items()}
            return _MISTAKE if any(x is _MISTAKE for x in mapped.values()) else mapped
        inner_types = _item_types(option, len(raw))
        items = [
            self.value(inner, x, f"{path}[{i}]", owner)
            for i, (inner, x) in enumerate(zip(inner_types, raw, strict=True))
        ]
        if any(item is _MISTAKE for item in items):
            return _MISTAKE
        return items if (origin or option) is list else tuple(items)

    def rule(self, raw: Mapping[str, Any], path: str, owner: Any) -> Any:
        """Return an optimizer's rule: ``{ match = "*.b", weight_decay = 0.0 }``."""
        before = len(self.problems)
        if not isinstance(raw.get("match"), str):
            came = f"got {_show(raw['match'])}" if "match" in raw else "it is missing"
            self.problem(f'{path}.match must be a text with wildcards such as "*.b"; {came}')
        rest = {key: x for key, x in raw.items() if key not in ("match", "rules")}
        if "rules" in raw:
            self.problem(f"{path}.rules cannot stand inside a rule")
        overrides = self.fields(owner, rest, path, owner.__name__)
        return Rule(raw["match"], overrides) if len(self.problems) == before else _MISTAKE


# What annotations say ---------------------------------------------------------------------------

_NO_ARRAY = "is an array, which a file cannot hold; build such a component in Python"
_WORDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}


def _fields(cls: type) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
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


def _required(f: dataclasses.Field[Any]) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _options(annotation: Any) -> tuple[Any, ...]:
    """Return the members of a union, else the annotation itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _options(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(o for member in typing.get_args(annotation) for o in _options(member))
    simple = annotation in _WORDS or annotation in (types.NoneType, Rule) or _base(annotation)
    shaped = typing.get_origin(annotation) or annotation
    if simple or shaped is Literal or _is_list(shaped) or _is_mapping(shaped):
        return (annotation,)
    return (Any,)


def _base(annotation: Any) -> type | None:
    """Return the interface of the component that an annotation asks for, if it does."""
    if not isinstance(annotation, type):
        return None
    return next((base for base in _KINDS if issubclass(annotation, base)), None)


def _name_key(base: type) -> str:
    return "scheduler" if issubclass(base, Scheduler) else "name"


def _is_list(shaped: Any) -> bool:
    return shaped in (tuple, list, Sequence)


def _is_mapping(shaped: Any) -> bool:
    return shaped in (dict, Mapping)


def _fits(option: Any, raw: Any) -> bool:
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
        return isinstance(raw, list) and _item_types(option, len(raw)) is not None
    return option is not types.NoneType and isinstance(raw, Mapping)


def _item_types(option: Any, count: int) -> Any:
    """Return the type of each item of a list of that length, or None if the length is wrong."""
    arguments = typing.get_args(option)
    if not arguments:
        return [Any] * count
    if (typing.get_origin(option) or option) is not tuple:
        return [arguments[0]] * count
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return [arguments[0]] * count
    return arguments if len(arguments) == count else None


def _describe(option: Any) -> str:
    """Say what an annotation asks for."""
    origin, arguments = typing.get_origin(option), typing.get_args(option)
    if option in _WORDS:
        return _WORDS[option]
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if base := _base(option):
        return f"a {base.__name__.lower()} {{ {_name_key(base)} = ... }}"
    if _is_list(origin or option):
        fixed = origin is tuple and Ellipsis not in arguments
        return f"a list of {len(arguments)}" if fixed else "a list"
    return "a value" if option is Any else "a table"


def _show(raw: Any) -> str:
    """Show a value as it came."""
    if isinstance(raw, Mapping):
        return "a table"
    if isinstance(raw, list):
        return "a list" if any(isinstance(x, (list, Mapping)) for x in raw) else repr(raw)
    if isinstance(raw, bool):
        return str(raw).lower()
    return repr(raw) if isinstance(raw, (str, int, float)) else str(raw)


def _located(cls: type, text: str, path: str) -> tuple[str, str]:
    """Return a component's complaint with the path of the field in it, and the field or ''.

    "InfoNCE.temperature must be above 0" becomes "losses[0].temperature must be above 0".
    """
    head = re.match(rf"(?:{cls.__name__}\.)?(\w+)", text)
    if head and head[1] in _fields(cls):
        return f"{path}.{text[head.start(1) :]}", head[1]
    return f"{path}: {text}", ""


def _array_hint(cls: type, text: str) -> str:
    """Say that an array cannot come from a file, where a component complains about one."""
    arrays = [name for name, (_, annotation) in _fields(cls).items() if annotation is Any]
    if "array" in text and any(re.search(rf"\b{name}\b", text) for name in arrays):
        return "; a file cannot hold an array: build such a component in Python"
    return ""


def _part_names(names: Sequence[str]) -> list[str]:
    """Return the names of the parts of a sum: info_nce, triplet, info_nce_2."""
    seen: dict[str, int] = {}
    parts = []
    for name in names:
        plain = name.rpartition(":")[2]
        seen[plain] = seen.get(plain, 0) + 1
        parts.append(plain if seen[plain] == 1 else f"{plain}_{seen[plain]}")
    return parts


def _optional_text(owner: object, name: str) -> None:
    value = getattr(owner, name)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        error = ArgumentError if isinstance(value, str) else ArgumentTypeError
        raise error(f"{type(owner).__name__}.{name} must be a text or None, got {value!r}")


# Writing --------------------------------------------------------------------------------------


def dump(config: RunConfig) -> str:
    """Return a run as TOML, defaults included, such that ``parse`` of it gives the same run.

    Components are written by their registered names, those of other distributions as
    ``distribution:name``. Parts of a WeightedSum get the names that ``parse`` gives them. Raises
    ConfigError for what a file cannot hold: arrays, functions, components that are not registered.
    """
    try:
        import tomli_w
    except ImportError:
        raise MissingExtra("tomli_w", "cli", "writing TOML") from None
    writer = _Writer()
    tables: dict[str, Any] = {}
    for key, cls in _TABLES.items():
        if key == "losses":
            tables[key] = writer.losses(config.loss)
            continue
        part = getattr(config, key)
        if key in _LISTS:
            tables[key] = [writer.component(x, f"{key}[{i}]") for i, x in enumerate(part)]
        elif part is not None:
            tables[key] = writer.component(part, key) if _base(cls) else writer.fields(part, key)
    if writer.problems:
        raise ConfigError(writer.problems)
    return tomli_w.dumps({key: table for key, table in tables.items() if table})


class _Writer:
    """Turns components into tables and collects what a file cannot hold."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def losses(self, loss: Loss) -> list[Any]:
        if not isinstance(loss, WeightedSum):
            return [self.component(loss, "losses[0]")]
        tables = []
        for i, (name, part) in enumerate(loss.losses.items()):
            table = self.component(part, f"losses[{i}]")
            if name in loss.weights:
                table["weight"] = self.value(loss.weights[name], f"losses[{i}].weight")
            tables.append(table)
        return tables

    def component(self, component: Any, path: str) -> dict[str, Any]:
        cls = type(component)
        try:
            name = registered_name(cls)
        except UnknownName as error:
            self.problems.append(f"{path}: {error}")
            return {}
        return {_name_key(cls): name} | self.fields(component, path)

    def fields(self, owner: Any, path: str) -> dict[str, Any]:
        table = {}
        for name, (f, _) in _fields(type(owner)).items():
            value = getattr(owner, name)
            if value is not None:
                table[name] = self.value(value, f"{path}.{name}")
            elif f.default is not None:
                table[name] = "none"
        return table

    def value(self, value: Any, path: str) -> Any:
        if isinstance(value, (bool, str)):
            return value
        if isinstance(value, numbers.Integral):
            return int(value)
        if isinstance(value, numbers.Real):
            return float(value)
        if _base(type(value)):
            return self.component(value, path)
        if isinstance(value, Rule) and isinstance(value.match, str):
            return {"match": value.match} | self.value(value.overrides, path)
        if isinstance(value, Mapping):
            return {key: self.value(x, f"{path}.{key}") for key, x in value.items()}
        if isinstance(value, (tuple, list)):
            return [self.value(x, f"{path}[{i}]") for i, x in enumerate(value)]
        is_array = hasattr(value, "dtype") and hasattr(value, "shape")
        self.problems.append(
            f"{path} {_NO_ARRAY}"
            if is_array
            else f"{path} is of type {type(value).__name__}, which a file cannot hold"
        )
        return None


def registered_name(component: type) -> str:
    """Return the shortest name by which the registry finds a component class.

    Raises UnknownName if no plugin registers it.
    """
    base = _base(component)
    entries = registry().entries(_KINDS[base]) if base else []
    target = f"{component.__module__}:{component.__qualname__}"
    found = [entry for entry in entries if entry.target == target]
    if not found:  # registered under another module, which imports it
        alike = [e for e in entries if e.target.rpartition(":")[2] == component.__name__]
        found = [entry for entry in alike if entry.load() is component]
    if not found:
        raise UnknownName(f"{component.__name__} is not registered, so a file cannot name it")
    entry = found[0]
    owners = [e.plugin.distribution for e in entries if e.name == entry.name]
    if owners == [entry.plugin.distribution] and entry.plugin.built_in:
        return entry.name
    if owners.count(entry.plugin.distribution) == 1:
        return f"{entry.plugin.distribution}:{entry.name}"
    return entry.qualified
