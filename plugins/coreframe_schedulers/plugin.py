"""The schedulers of this package, by name. One file each, of the same name."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_schedulers() -> Table:
    return {
        "constant": "coreframe_schedulers.constant:Constant",
        "warmup_cosine": "coreframe_schedulers.warmup_cosine:WarmupCosine",
    }
