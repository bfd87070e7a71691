"""What this package offers: the backend of PyTorch, and its kernels."""

from coreframe.plugin import Table, hookimpl


@hookimpl
def coreframe_backends() -> Table:
    return {"torch": "coreframe_torch.backend:TorchBackend"}


@hookimpl
def coreframe_kernels(backend: str) -> Table:
    return {}
