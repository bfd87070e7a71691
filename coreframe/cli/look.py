"""``list``, ``show``, ``plugins``, ``backends``: looking around."""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass

import click

from coreframe import console, registry
from coreframe.backend import library_name
from coreframe.plugin import KINDS


@click.command("list")
@click.argument("kind", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_(kind: str | None, as_json: bool) -> None:
    """List the components that are registered; imports none of them."""
    kinds = [kind] if kind else list(KINDS)
    rows = [(k, e.name, e.plugin.distribution, e.target) for k in kinds
            for e in registry.registry().entries(k)]  # fmt: skip
    console.print_table(("kind", "name", "distribution", "target"), rows, as_json=as_json)


@click.command()
@click.argument("kind")
@click.argument("name")
def show(kind: str, name: str) -> None:
    """Show one component: what it is, its fields and its defaults."""
    import inspect

    found = registry.registry().find(kind, name)
    component = found.load()
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


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(as_json: bool) -> None:
    """List the plugins, whether they work, and how long they took to import."""
    found = registry.registry()
    for kind in KINDS:
        found.entries(kind)  # a hook that raises shows when it is asked
    rows = [
        (p.key, p.version, p.state, f"{1000 * p.seconds:.0f} ms", " ".join(p.kinds), p.error)
        for p in found.plugins
    ]
    console.print_table(
        ("plugin", "version", "state", "import", "offers", "error"), rows, as_json=as_json
    )


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
        except Exception as error:
            reason, version, device = f"{type(error).__name__}: {error}", "", ""
        rows.append((entry.name, device, version, "no" if reason else "ready", reason or ""))
    console.print_table(("backend", "device", "version", "state", "why not"), rows, as_json=as_json)
