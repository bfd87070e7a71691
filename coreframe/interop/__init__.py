"""coreframe inside of larger frameworks: one module for each, which needs that framework.

- ``coreframe.interop.torch``: losses, miners, adapters and schedules as modules of PyTorch.
"""
