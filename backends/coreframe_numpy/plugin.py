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
        "block_loop": "coreframe_numpy.kernels.blocks:block_loop",
        "segment_sum": "coreframe_numpy.kernels.selection:segment_sum",
        "top_k": "coreframe_numpy.kernels.selection:top_k",
        "coreframe_losses.info_nce:InfoNCE": "coreframe_numpy.kernels.info_nce:row_terms",
    }
