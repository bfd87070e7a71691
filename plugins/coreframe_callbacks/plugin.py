"""The callbacks of this package, by name. One file each, of the same name."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_callbacks() -> Table:
    return {}
