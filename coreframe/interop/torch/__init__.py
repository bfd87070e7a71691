"""coreframe inside of PyTorch: losses, miners, adapters, schedules and cached steps.

Everything is a plain function or ``nn.Module``; nothing of torch is changed.
"""

from __future__ import annotations

from coreframe.errors import MissingExtra

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise MissingExtra("torch", "torch", "coreframe.interop.torch") from error

from coreframe.interop.torch.arrays import as_array, as_tensor
from coreframe.interop.torch.loss_module import LossModule
from coreframe.interop.torch.losses import torch_loss

__all__ = [
    "LossModule",
    "as_array",
    "as_tensor",
    "torch_loss",
]
