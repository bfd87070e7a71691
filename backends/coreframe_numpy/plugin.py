"""What this package offers: the backend of NumPy, and its kernels."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_backends() -> Table:
    return {"numpy": "coreframe_numpy.backend:NumpyBackend"}


@hookimpl
def coreframe_kernels(backend: str) -> Table:
    if backend != "numpy":
        return {}
    return {
        "across": "coreframe_numpy.kernels.rows:across",
        "all_finite": "coreframe_numpy.kernels.rows:all_finite",
        "block_loop": "coreframe_numpy.kernels.blocks:block_loop",
        "by_squared_distances": "coreframe_numpy.kernels.rows:by_squared_distances",
        "keep_rows": "coreframe_numpy.kernels.rows:keep_rows",
        "minus_distances": "coreframe_numpy.kernels.rows:minus_distances",
        "nearest_documents": "coreframe_numpy.kernels.search:nearest_documents",
        "segment_sum": "coreframe_numpy.kernels.selection:segment_sum",
        "squared_product": "coreframe_numpy.kernels.squares:squared_product",
        "top_k": "coreframe_numpy.kernels.selection:top_k",
        "softplus": "coreframe_numpy.kernels.rows:softplus",
        "unit_rows": "coreframe_numpy.kernels.rows:unit_rows",
        "coreframe_losses.info_nce:InfoNCE": "coreframe_numpy.kernels.info_nce_many:row_terms",
        "coreframe_losses.info_nce:InfoNCE.diagonal": ("coreframe_numpy.kernels.info_nce:diagonal"),
        "coreframe_losses.info_nce:InfoNCE.value_and_grad": (
            "coreframe_numpy.kernels.info_nce_small:value_and_grad"
        ),
        "coreframe_losses.local_contrastive:LocalContrastive": (
            "coreframe_numpy.kernels.triplet:local_row_terms"
        ),
        "coreframe_losses.sup_con:SupCon": "coreframe_numpy.kernels.sup_con:row_terms",
        "coreframe_losses.triplet:Triplet": "coreframe_numpy.kernels.triplet:row_terms",
        "coreframe_optimizers.adam:Adam": "coreframe_numpy.kernels.optimizers:adam",
        "coreframe_optimizers.adamw:AdamW": "coreframe_numpy.kernels.optimizers:adam",
        "coreframe_optimizers.sgd:SGD": "coreframe_numpy.kernels.optimizers:sgd",
    }
