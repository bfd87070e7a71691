"""``coreframe plugins``: what is installed, whether it works, and what it did to the process."""

from __future__ import annotations

import json

import click

from coreframe import console, discovery, registry
from coreframe.plugin import KINDS


@click.command()
@click.option("--no-import", is_flag=True, help="Read metadata alone; import no plugin.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plugins(no_import: bool, as_json: bool) -> None:
    """List the plugins, whether they work, and how long they took to import.

    Metadata is read first: an interrupt, while a plugin hangs, still lists them.
    """
    found = discovery.discover()
    if no_import:
        discovery.switch_off(found)
        _print(found, as_json)
        return
    try:
        ready = registry.registry(found)
        for kind in KINDS:
            ready.entries(kind)  # a hook that raises shows when it is asked
        found = ready.plugins
    finally:
        _print(found, as_json)


def _print(found: list[discovery.Plugin], as_json: bool) -> None:
    if as_json:
        tables = [
            {
                "plugin": plugin.key,
                "version": plugin.version,
                "state": plugin.state,
                "seconds": round(plugin.seconds, 3),
                "offers": plugin.kinds,
                "error": plugin.error,
                "deeds": plugin.deeds,
            }
            for plugin in found
        ]
        click.echo(json.dumps(tables, indent=2))
        return
    rows = [
        (p.key, p.version, p.state, f"{1000 * p.seconds:.0f} ms", " ".join(p.kinds), _remark(p))
        for p in found
    ]
    columns = ("plugin", "version", "state", "import", "offers", "remarks")
    console.print_table(columns, rows, as_json=False)


def _remark(plugin: discovery.Plugin) -> str:
    return "; ".join(filter(None, (plugin.error, plugin.deeds)))
