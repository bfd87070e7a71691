"""The miners of this package, by name. One file each, of the same name."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_miners() -> Table:
    return {
        "hardest": "coreframe_miners.hardest:Hardest",
        "random": "coreframe_miners.random:Random",
    }
