"""JAX arrays, on the processor or an accelerator."""

from __future__ import annotations

import importlib.util
from typing import Any

from coreframe.backend import Array, to_numpy


class JaxBackend:
    """One JAX device; ``jax:cpu`` or ``jax:gpu:1`` name a platform and a number."""

    name = "jax"

    def __init__(self, device: str = "") -> None:
        self._device = device

    @property
    def xp(self) -> Any:
        import jax.numpy as xp

        return xp

    @property
    def device(self) -> Any:
        import jax

        if not self._device:
            return jax.devices()[0]
        for device in jax.devices():  # as an array's own device prints: TFRT_CPU_0
            if str(device) == self._device:
                return device
        platform, _, number = self._device.partition(":")
        return jax.devices(platform)[int(number or 0)]

    def missing(self) -> str | None:
        if importlib.util.find_spec("jax") is None:
            return "the package jax is not installed; install it with: pip install jax"
        try:
            _ = self.device
        except (RuntimeError, IndexError, ValueError) as error:
            return f"JAX has no device {self._device!r}: {str(error).splitlines()[0]}"
        return None

    def asarray(self, x: Any, /, dtype: Any = None) -> Array:
        import jax

        if not isinstance(x, jax.Array):
            x = to_numpy(x)
        return jax.device_put(jax.numpy.asarray(x, dtype=dtype), self.device)

    def to_numpy(self, x: Array, /) -> Any:
        import numpy as np

        return np.asarray(x)

    def synchronize(self) -> None:
        import jax

        jax.device_put(0.0, self.device).block_until_ready()

    def memory(self) -> int:
        statistics = self.device.memory_stats() or {}
        return int(statistics.get("bytes_in_use", 0))
