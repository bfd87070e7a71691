"""The losses of this package, by name. One file each, of the same name; those made of other
losses stand in the core.
"""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_losses() -> Table:
    return {
        "info_nce": "coreframe_losses.info_nce:InfoNCE",
        "mined": "coreframe.compose:Mined",
        "sup_con": "coreframe_losses.sup_con:SupCon",
        "symmetric": "coreframe.compose:Symmetric",
        "triplet": "coreframe_losses.triplet:Triplet",
    }
