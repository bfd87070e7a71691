"""The losses of this package, by name. One file each, of the same name; those made of other
losses stand in the core.
"""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_losses() -> Table:
    return {
        "contrastive": "coreframe_losses.contrastive:Contrastive",
        "cosine_embedding": "coreframe_losses.cosine_embedding:CosineEmbedding",
        "cross_entropy": "coreframe_losses.cross_entropy:CrossEntropy",
        "info_nce": "coreframe_losses.info_nce:InfoNCE",
        "local_contrastive": "coreframe_losses.local_contrastive:LocalContrastive",
        "mined": "coreframe.compose:Mined",
        "mse": "coreframe_losses.mse:MSE",
        "nca": "coreframe_losses.nca:NCA",
        "sup_con": "coreframe_losses.sup_con:SupCon",
        "symmetric": "coreframe.compose:Symmetric",
        "triplet": "coreframe_losses.triplet:Triplet",
        "weighted_sum": "coreframe.compose:WeightedSum",
    }
