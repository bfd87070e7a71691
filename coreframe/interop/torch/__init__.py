"""coreframe inside of PyTorch: losses, miners, adapters, schedules and cached steps.

Everything is a plain function or ``nn.Module``; nothing of torch is changed.
"""

from __future__ import annotations

from coreframe.errors import MissingExtra

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise MissingExtra("torch", "torch", "coreframe.interop.torch") from error

from coreframe.interop.torch.adapters import AdapterModule, save_adapters
from coreframe.interop.torch.arrays import as_array, as_tensor
from coreframe.interop.torch.cached import cached, cached_step
from coreframe.interop.torch.loss_module import LossModule
from coreframe.interop.torch.losses import torch_loss
from coreframe.interop.torch.metric_learning import MetricLearningLoss
from coreframe.interop.torch.schedules import lr_lambda

__all__ = [
    "AdapterModule",
    "LossModule",
    "MetricLearningLoss",
    "as_array",
    "as_tensor",
    "cached",
    "cached_step",
    "lr_lambda",
    "save_adapters",
    "torch_loss",
]
