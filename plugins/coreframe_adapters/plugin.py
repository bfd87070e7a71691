"""The adapters of this package, by name. One file each, of the same name."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_adapters() -> Table:
    return {
        "linear": "coreframe_adapters.linear:Linear",
        "low_rank": "coreframe_adapters.low_rank:LowRank",
        "procrustes": "coreframe_adapters.procrustes:Procrustes",
        "whitening": "coreframe_adapters.whitening:Whitening",
    }
