"""The regularizers of this package, by name. One file each, of the same name."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_regularizers() -> Table:
    return {
        "ewc": "coreframe_regularizers.ewc:EWC",
        "graph_laplacian": "coreframe_regularizers.graph_laplacian:GraphLaplacian",
        "l2": "coreframe_regularizers.l2:L2",
        "variance_of_variances": "coreframe_regularizers.variance_of_variances:VarianceOfVariances",
    }
