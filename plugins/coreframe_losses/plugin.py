"""The losses of this package, by name. One file each, of the same name."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_losses() -> Table:
    return {
        "info_nce": "coreframe_losses.info_nce:InfoNCE",
        "sup_con": "coreframe_losses.sup_con:SupCon",
        "triplet": "coreframe_losses.triplet:Triplet",
    }
