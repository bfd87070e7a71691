"""PyTorch tensors, on the processor or a GPU; no autograd is used."""

from __future__ import annotations

import importlib.util
from typing import Any

from coreframe.backend import Array, to_numpy


class TorchBackend:
    """One torch device; ``torch:cuda`` or ``torch:cuda:1`` name a GPU."""

    name = "torch"

    def __init__(self, device: str = "") -> None:
        self._device = device or "cpu"

    @property
    def xp(self) -> Any:
        import array_api_compat.torch as xp

        return xp

    @property
    def device(self) -> Any:
        import torch

        return torch.device(self._device)

    def missing(self) -> str | None:
        if importlib.util.find_spec("torch") is None:
            return "the package torch is not installed; install it as pytorch.org says"
        import torch

        try:
            torch.empty(0, device=self._device)
        except (RuntimeError, AssertionError) as error:
            return f"torch cannot use the device {self._device!r}: {str(error).splitlines()[0]}"
        return None

    def asarray(self, x: Any, /, dtype: Any = None) -> Array:
        import torch

        if not isinstance(x, torch.Tensor):
            x = to_numpy(x)
            # torch warns of read-only arrays, which it could write to, and takes none backwards.
            shared = x.flags.writeable and min(x.strides, default=0) >= 0
            x = torch.from_numpy(x if shared else x.copy()) if x.shape else torch.tensor(x)
        return x.detach().to(device=self._device, dtype=dtype)

    def to_numpy(self, x: Array, /) -> Any:
        import torch

        x = x.detach().cpu()
        return x.float().numpy() if x.dtype == torch.bfloat16 else x.numpy()

    def synchronize(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def memory(self) -> int:
        import torch

        return int(torch.cuda.memory_allocated(self.device)) if self.device.type == "cuda" else 0
