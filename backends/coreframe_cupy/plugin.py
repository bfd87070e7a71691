"""What this package offers: the backend of CuPy, and its kernels."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_backends() -> Table:
    return {"cupy": "coreframe_cupy.backend:CupyBackend"}


@hookimpl
def coreframe_kernels(backend: str) -> Table:
    return {}
