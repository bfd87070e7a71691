"""The optimizers of this package, by name. One file each, of the same name."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_optimizers() -> Table:
    return {
        "adam": "coreframe_optimizers.adam:Adam",
        "adamw": "coreframe_optimizers.adamw:AdamW",
        "sgd": "coreframe_optimizers.sgd:SGD",
    }
