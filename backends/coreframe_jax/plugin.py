"""What this package offers: the backend of JAX, and its kernels."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_backends() -> Table:
    return {"jax": "coreframe_jax.backend:JaxBackend"}


@hookimpl
def coreframe_kernels(backend: str) -> Table:
    return {}
