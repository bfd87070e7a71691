"""A plugin whose hook for losses raises, although its other hook is fine."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_miners() -> Table:
    return {"fine_alone": "broken_plugin.never:Never"}


@hookimpl
def coreframe_losses() -> Table:
    raise RuntimeError("the table could not be made")
