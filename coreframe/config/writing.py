"""From a run to TOML, with every default filled in: what ran is what is stored."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

from coreframe.compose import WeightedSum
from coreframe.config.annotations import (
    KINDS,
    LISTS,
    NO_ARRAY,
    TABLES,
    configurable,
    interface_of,
    is_record,
    name_key,
)
from coreframe.config.settings import RunConfig
from coreframe.errors import ConfigError, MissingExtra, UnknownName
from coreframe.loss import Loss
from coreframe.optimizer import Rule
from coreframe.registry import registry


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
    for key, cls in TABLES.items():
        if key == "losses":
            tables[key] = writer.losses(config.loss)
            continue
        part = getattr(config, key)
        if key in LISTS:
            tables[key] = [writer.component(x, f"{key}[{i}]") for i, x in enumerate(part)]
        elif part is not None:
            tables[key] = (
                writer.component(part, key) if interface_of(cls) else writer.fields(part, key)
            )
    if writer.problems:
        raise ConfigError(writer.problems)
    return tomli_w.dumps({key: table for key, table in tables.items() if table})


def table_of(component: Any) -> dict[str, Any]:
    """Return the fields of a component as plain values, defaults included; see ``made_of``.

    Raises ConfigError for what a file cannot hold.
    """
    writer = _Writer()
    table = writer.fields(component, type(component).__name__)
    if writer.problems:
        raise ConfigError(writer.problems)
    return table


def plain_values(values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return values of fields as a file has them; None is "none"."""
    writer = _Writer()
    table = {k: "none" if x is None else writer.value(x, f"{path}.{k}") for k, x in values.items()}
    if writer.problems:
        raise ConfigError(writer.problems)
    return table


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
        return {name_key(cls): name} | self.fields(component, path)

    def fields(self, owner: Any, path: str) -> dict[str, Any]:
        table = {}
        for name, (f, _) in configurable(type(owner)).items():
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
        if interface_of(type(value)):
            return self.component(value, path)
        if isinstance(value, Rule) and isinstance(value.match, str):
            return {"match": value.match} | self.value(value.overrides, path)
        if is_record(type(value)):
            return self.fields(value, path)
        if isinstance(value, Mapping):
            return {key: self.value(x, f"{path}.{key}") for key, x in value.items()}
        if isinstance(value, (tuple, list)):
            return [self.value(x, f"{path}[{i}]") for i, x in enumerate(value)]
        is_array = hasattr(value, "dtype") and hasattr(value, "shape")
        self.problems.append(
            f"{path} {NO_ARRAY}"
            if is_array
            else f"{path} is of type {type(value).__name__}, which a file cannot hold"
        )
        return None


def registered_name(component: type) -> str:
    """Return the shortest name by which the registry finds a component class.

    Raises UnknownName if no plugin registers it.
    """
    base = interface_of(component)
    entries = registry().entries(KINDS[base]) if base else []
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
