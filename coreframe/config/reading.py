"""From TOML to a run: every value is checked, and all mistakes are reported at once."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from coreframe.component import find_preset
from coreframe.compose import WeightedSum
from coreframe.config.annotations import (
    KINDS,
    LISTS,
    NO_ARRAY,
    TABLES,
    array_hint,
    configurable,
    describe,
    fits,
    interface_of,
    is_record,
    is_required,
    item_types,
    located,
    name_key,
    options_of,
    show,
)
from coreframe.config.settings import DEFAULT, RunConfig
from coreframe.config.writing import plain_values
from coreframe.errors import AmbiguousName, ConfigError, UnknownName, nearest, with_notes
from coreframe.loss import Loss
from coreframe.optimizer import Optimizer, Rule
from coreframe.registry import BUILT_IN, registry
from coreframe.scheduler import Scheduler


def read(
    path: str | os.PathLike[str] | None = None,
    assignments: Sequence[str] = (),
    *,
    default: str = DEFAULT,
) -> RunConfig:
    """Return the run that a TOML file describes (None: ``default``), with overrides applied.

    Raises ConfigError, which lists every mistake.
    """
    source = "the configuration" if path is None else os.fspath(path)
    return parse(override(tables(path, default=default), assignments), source=source)


def tables(path: str | os.PathLike[str] | None = None, *, default: str = DEFAULT) -> dict[str, Any]:
    """Return the tables of a TOML file (None: ``default``) as they stand there, unchecked."""
    if path is None:
        found: dict[str, Any] = _ours(tomllib.loads(default))
        return found
    source = os.fspath(path)
    try:
        with open(path, encoding="utf-8-sig") as file:
            return tomllib.loads(file.read())
    except OSError as error:
        raise ConfigError([f"it cannot be read: {error.strerror}"], source) from error
    except UnicodeDecodeError as error:
        raise ConfigError(["it is not UTF-8 text"], source) from error
    except tomllib.TOMLDecodeError as error:
        what, _, where = str(error).rpartition(" (at ")
        raise ConfigError([f"{where.rstrip(')')}: {what}"], source) from error


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
        if key not in TABLES:
            reader.problem(f"{key} is no table of a run.{nearest(key, TABLES)}")
    for key, cls in TABLES.items():
        if key not in tables:
            continue
        if key == "losses":
            parts["loss"] = reader.losses(tables[key])
        elif key in LISTS:
            parts[key] = tuple(reader.components(cls, tables[key], key))
        elif interface_of(cls):
            parts[key] = reader.component(cls, tables[key], key)
        elif reader.is_table(tables[key], key):
            parts[key] = reader.build(cls, tables[key], key, f"[{key}]")
    if reader.problems:
        raise ConfigError(reader.problems, source)
    return RunConfig(**parts)


def override(mapping: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Return a copy of a file's mapping with ``losses.0.temperature=0.05`` and the like applied.

    The value is TOML; what is no TOML is a text, so that quotes may be left out. Naming another
    component (``adapter.name=low_rank``) drops the fields of the one before, and so does naming a
    preset (``losses.0.preset=paper``); what is set behind it changes its fields.
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
            _assign(result, keys, toml_value(text.strip()))
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


def toml_value(text: str) -> Any:
    """Return the value that a text is in TOML; what is no TOML is the text itself."""
    try:
        table = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return table["value"] if len(table) == 1 else text


def _assign(place: Any, keys: Sequence[str], value: Any) -> None:
    """Set one value, deep inside tables and lists; a new list item goes right behind the last."""
    *path, last = keys
    # Inside a scheduler's table all is named by "scheduler"; a field "name" is one like the others.
    named_by = "name"
    for key in path:
        index = _index(place, key)
        if isinstance(place, list) and index == len(place):
            place.append({})
        elif isinstance(place, dict):
            place.setdefault(key, [] if key in LISTS else {})
        place = place[index]
        if isinstance(place, dict) and "scheduler" in place:
            named_by = "scheduler"
    index = _index(place, last)
    if isinstance(place, list):
        place[index : index + 1] = [value]
        return
    if last == named_by and place.get(last, value) != value:
        for other in set(place) - {"weight"}:
            del place[other]
    elif last == "preset" and named_by in place:  # what the file says else would hide it
        for other in set(place) - {named_by, "weight"}:
            del place[other]
    place[last] = value


def _index(place: Any, key: str) -> Any:
    """Return a table's key, or a list's index: up to one past its end."""
    if isinstance(place, dict):
        return key
    if not isinstance(place, list):
        raise LookupError(f"{key!r} cannot be set inside {show(place)}")
    if not key.isdecimal() or int(key) > len(place):
        raise LookupError(f"{key!r} is no index of a list of {len(place)}, counted from 0")
    return int(key)


def made_of(cls: type, table: Mapping[str, Any]) -> Any:
    """Return a component of a class, registered or not, by the plain values of its fields.

    Raises ConfigError, which lists all mistakes.
    """
    reader = _Reader()
    built = reader.build(cls, table, cls.__name__, cls.__name__)
    if reader.problems:
        raise ConfigError(reader.problems)
    return built


_MISTAKE = object()
"""What a reader returns in place of a value that cannot be."""


class _Reader:
    """Builds components from tables and collects what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.preset_weights: dict[int, Any] = {}  # by the number of the loss

    def problem(self, text: str) -> Any:
        self.problems.append(text)
        return _MISTAKE

    def is_table(self, raw: Any, path: str) -> bool:
        if not isinstance(raw, Mapping):
            self.problem(f"{path} must be a table, got {show(raw)}")
        return isinstance(raw, Mapping)

    def components(self, base: type, raw: Any, path: str, besides: str = "") -> list[Any]:
        if not isinstance(raw, list):
            return [self.problem(f"{path} must be tables under [[{path}]], got {show(raw)}")]
        return [self.component(base, x, f"{path}[{i}]", besides) for i, x in enumerate(raw)]

    def losses(self, raw: Any) -> Any:
        """Return the one loss, or the sum of several; a weight also makes a sum."""
        if not isinstance(raw, list) or not raw:
            return self.problem(f"losses must be tables under [[losses]], got {show(raw)}")
        losses = self.components(Loss, raw, "losses", besides="weight")
        weights = {
            i: self.value(float | Scheduler, table["weight"], f"losses[{i}].weight")
            for i, table in enumerate(raw)
            if isinstance(table, Mapping) and "weight" in table
        }
        weights = self.preset_weights | weights
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
        kind, key = KINDS[cast(type, interface_of(base))], name_key(base)
        name = raw.get(key)
        if not isinstance(name, str):
            known = ", ".join(sorted(entry.name for entry in registry().entries(kind)))
            came = f"got {show(name)}" if key in raw else "it is missing"
            return self.problem(f"{path}.{key} must be one of {known}; {came}")
        try:
            entry = registry().find(kind, name)
            cls = entry.load()
        except (UnknownName, AmbiguousName) as error:
            return self.problem(f"{path}.{key}: {error}")
        except Exception as error:
            return self.problem(
                f"{path}.{key}: {name!r} cannot be loaded: "
                f"{type(error).__name__}: {with_notes(error)}"
            )
        if not (isinstance(cls, type) and issubclass(cls, base) and dataclasses.is_dataclass(cls)):
            is_interface = interface_of(base) is base
            wanted = f"dataclass of the kind {kind}" if is_interface else base.__name__
            return self.problem(f"{path}.{key}: {name!r}{entry.origin} is no {wanted}")
        if lacks := getattr(cls, "__abstractmethods__", None):
            lacks = ", ".join(sorted(lacks))
            return self.problem(f"{path}.{key}: {name!r}{entry.origin} lacks the method {lacks}")
        fields = {k: x for k, x in raw.items() if k not in (key, besides)}
        if "preset" in fields and "preset" not in configurable(cls):
            return self.with_preset(cls, fields, path, name)
        return self.build(cls, fields, path, name)

    def with_preset(self, cls: Any, fields: dict[str, Any], path: str, title: str) -> Any:
        """Return a component by a preset and the fields beside it, which are stronger."""
        wanted = fields.pop("preset")
        if not isinstance(wanted, str):
            return self.problem(f"{path}.preset must be a text, got {show(wanted)}")
        try:
            preset = find_preset(cls, wanted)
        except UnknownName as error:
            return self.problem(f"{path}.preset: {error}")
        if preset.weight != 1:
            index = re.fullmatch(r"losses\[(\d+)\]", path)
            if not index:
                return self.problem(
                    f"{path}.preset: {title} equals {preset}; the weight {preset.weight:g} can "
                    "stand under [[losses]] only, so write the fields of the preset here"
                )
            self.preset_weights[int(index[1])] = preset.weight
        return self.build(cls, plain_values(preset.fields, path) | fields, path, title)

    def build(self, cls: Any, table: Mapping[str, Any], path: str, title: str) -> Any:
        """Return an instance; its own checks are asked until they find no more mistakes."""
        before, known = len(self.problems), configurable(cls)
        arguments = self.fields(cls, table, path, title)
        required = {name for name, (f, _) in known.items() if is_required(f)}
        for name in known:
            if name in required and name not in table:
                self.problem(f"{path}.{name} is missing: {title} needs it")
        wrong = set(table) & set(known) - set(arguments)
        built = None
        while built is None and required <= set(arguments):
            try:
                built = cls(**arguments)
            except (TypeError, ValueError, ImportError) as error:
                text, name = located(cls, str(error), path)
                # A complaint that names a field with a mistake is only an echo of it.
                if not any(re.search(rf"\b{other}\b", str(error)) for other in wrong):
                    self.problem(text + array_hint(cls, text))
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
                self.problem(located(type(optimizer), str(error), f"{path}.rules[{i}]")[0])

    def fields(self, cls: Any, table: Mapping[str, Any], path: str, title: str) -> dict[str, Any]:
        """Return the fields of a table that are right by their type."""
        known, found = configurable(cls), {}
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
        options = options_of(annotation)
        if types.NoneType in options and raw == "none":
            return None
        fitting = [option for option in options if fits(option, raw)]
        if not fitting:
            if isinstance(raw, (list, Mapping)) and Any in options:
                return self.problem(f"{path} {NO_ARRAY}")
            expected = " or ".join(describe(o) for o in options if o is not types.NoneType)
            return self.problem(f"{path} must be {expected}, got {show(raw)}")
        option = fitting[0]
        origin, arguments = typing.get_origin(option), typing.get_args(option)
        if interface_of(option):
            return self.component(option, raw, path)
        if option is Rule:
            return self.rule(raw, path, owner)
        if is_record(option):
            return self.build(option, raw, path, option.__name__)
        if origin is Literal or not isinstance(raw, (list, Mapping)):
            return raw
        if isinstance(raw, Mapping):
            inner = arguments[1] if arguments else Any
            mapped = {k: self.value(inner, x, f"{path}.{k}", owner) for k, x in raw.items()}
            return _MISTAKE if any(x is _MISTAKE for x in mapped.values()) else mapped
        inner_types = item_types(option, len(raw))
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
            came = f"got {show(raw['match'])}" if "match" in raw else "it is missing"
            self.problem(f'{path}.match must be a text with wildcards such as "*.b"; {came}')
        rest = {key: x for key, x in raw.items() if key not in ("match", "rules")}
        if "rules" in raw:
            self.problem(f"{path}.rules cannot stand inside a rule")
        overrides = self.fields(owner, rest, path, owner.__name__)
        return Rule(raw["match"], overrides) if len(self.problems) == before else _MISTAKE


def _part_names(names: Sequence[str]) -> list[str]:
    """Return the names of the parts of a sum: info_nce, triplet, info_nce_2."""
    seen: dict[str, int] = {}
    parts = []
    for name in names:
        plain = name.rpartition(":")[2]
        seen[plain] = seen.get(plain, 0) + 1
        parts.append(plain if seen[plain] == 1 else f"{plain}_{seen[plain]}")
    return parts
