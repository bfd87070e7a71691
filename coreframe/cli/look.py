"""``list``, ``show``, ``backends``: looking around."""

from __future__ import annotations

import json
import sys
from dataclasses import fields, is_dataclass
from typing import Any

import click

from coreframe import console, isolation, registry
from coreframe.backend import library_name
from coreframe.component import NO_PRESETS, Preset, presets
from coreframe.plugin import KINDS


@click.command("list")
@click.argument("kind", required=False)
@click.option("--presets", "as_presets", is_flag=True, help="List their presets; imports them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(kind: str | None, as_presets: bool, as_json: bool) -> None:
    """List the components that are registered; without --presets it imports none of them."""
    if as_presets:
        _list_presets(kind, as_json)
        return
    kinds = [kind] if kind else list(KINDS)
    rows = [(k, e.name, e.plugin.distribution, e.target) for k in kinds
            for e in registry.registry().entries(k)]  # fmt: skip
    console.print_table(("kind", "name", "distribution", "target"), rows, as_json=as_json)


def _list_presets(kind: str | None, as_json: bool) -> None:
    rows = presets(kind)
    if as_json:
        tables = [
            {"kind": r.kind, "component": r.component, "preset": r.name} | vars(r.preset)
            for r in rows
        ]
        click.echo(json.dumps(tables, indent=2, default=str))
        return
    lines = [(r.kind, r.component, r.name, _fields(r.preset), str(r.preset)) for r in rows]
    console.print_table(("kind", "name", "preset", "fields", "equals"), lines, as_json=False)


def _fields(preset: Preset) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in preset.fields.items())


@click.command()
@click.argument("kind")
@click.argument("name")
def show(kind: str, name: str) -> None:
    """Show one component: what it is, its fields and its defaults."""
    found = registry.registry().find(kind, name)
    component = found.load()
    try:
        _show(kind, found, component)
    except Exception as error:  # by what it says of itself, in no code of its own
        error.add_note(f"while showing {name!r}{found.origin}")
        raise


def _show(kind: str, found: registry.Entry, component: Any) -> None:
    import inspect

    click.echo(f"{found.name}  ({kind}, {found.target}, of {found.plugin.distribution} "
               f"{found.plugin.version})\n")  # fmt: skip
    click.echo(inspect.getdoc(component) or "")
    if is_dataclass(component):
        click.echo("\nfields:")
        for f in fields(component):
            if f.init:
                default = registry.parameters(component)[f.name].default
                text = "required" if default is inspect.Parameter.empty else repr(default)
                type_ = f.type if isinstance(f.type, str) else inspect.formatannotation(f.type)
                click.echo(f"  {f.name}: {type_} = {text}")
    if known := getattr(component, "presets", NO_PRESETS):
        click.echo("\npresets:")
        for preset_name, preset in known.items():
            click.echo(f"  {preset_name}: {_fields(preset)}")
            click.echo(
                f"    equals {preset}" + (f", read in {preset.version}" * bool(preset.version))
            )
            if preset.note:
                click.echo(f"    {preset.note}")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def backends(as_json: bool) -> None:
    """List the backends: device, version, and why one cannot run here."""
    rows = []
    for entry in registry.registry().entries("backends"):
        try:
            backend = entry.load()()
            reason = backend.missing()
            library = None if reason else sys.modules.get(library_name(backend.xp))
            version = getattr(library, "__version__", "")
            device = "" if reason else str(backend.device)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # one that would end the program, too: others are listed
            reason = f"{isolation.explain(entry.plugin, error)}{entry.origin}"
            version, device = "", ""
        rows.append((entry.name, device, version, "no" if reason else "ready", reason or ""))
    console.print_table(("backend", "device", "version", "state", "why not"), rows, as_json=as_json)
