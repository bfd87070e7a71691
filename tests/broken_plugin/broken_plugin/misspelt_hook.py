"""A plugin whose hook has a letter too few."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_loses() -> Table:
    return {"never": "broken_plugin.never:Never"}
